//! Reports in a real browser: narrow and wide, light and dark.
//!
//! `REPORT_PAGE=report/index.html cargo test -p refpage-bench --test page` looks at that page, too.

mod browser;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use browser::{Browser, program};
use serde_json::json;

/// The widths of a small phone, a phone, a tablet and a desk.
const WIDTHS: [u32; 4] = [360, 400, 800, 1400];
const THEMES: [&str; 2] = ["light", "dark"];
const CHECKS: &str = include_str!("checks.js");

/// A browser with a directory of its own, or `None` and a line that says why not.
fn browser(test: &str) -> Result<Option<(Browser, PathBuf)>> {
    let (Some(driver), Some(chromium)) = (program("chromedriver"), program("chromium")) else {
        println!("skipped: no chromedriver or no chromium (Debian: chromium-driver, chromium)");
        return Ok(None);
    };
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test);
    let _ = fs::remove_dir_all(&directory);
    let profile = directory.join("profile");
    fs::create_dir_all(&profile)?;
    Ok(Some((Browser::start(&driver, &chromium, &profile)?, directory)))
}

/// Writes the report of invented numbers.
fn sample(directory: &Path) -> Result<PathBuf> {
    let command = Command::new(env!("CARGO_BIN_EXE_refpage-bench"))
        .arg("page-sample")
        .arg(directory)
        .status()?;
    ensure!(command.success(), "no sample: {command}");
    Ok(directory.join("index.html"))
}

/// Opens a page as it is on a screen of this width, to a reader who prefers this theme.
fn open(browser: &Browser, page: &Path, width: u32, theme: &str) -> Result<()> {
    let screen =
        json!({ "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600 });
    browser.tell("Emulation.setDeviceMetricsOverride", screen)?;
    let preferred = json!({ "features": [{ "name": "prefers-color-scheme", "value": theme }] });
    browser.tell("Emulation.setEmulatedMedia", preferred)?;
    browser.open(page)
}

/// All that is wrong with a page, in each width and theme; pictures of it are left in the directory.
fn problems(browser: &Browser, page: &Path, pictures: &Path) -> Result<Vec<String>> {
    let name = page.file_stem().context("a page has a name")?.display();
    let mut problems = Vec::new();
    for width in WIDTHS {
        for theme in THEMES {
            open(browser, page, width, theme)?;
            let dark = "return matchMedia('(prefers-color-scheme: dark)').matches";
            ensure!(browser.run(dark)? == (theme == "dark"), "{theme} cannot be preferred");
            let found = browser.run(CHECKS)?;
            let found = found.as_array().into_iter().flatten().map(ToString::to_string);
            // A page that is too wide makes a phone show more of it, and so smaller.
            let inner = browser.run("return innerWidth")?;
            let wide = (inner != width).then(|| format!("is shown {inner} px wide"));
            let found = found.chain(browser.console()?).chain(wide);
            problems.extend(found.map(|problem| format!("{name}, {width} px, {theme}: {problem}")));
            let picture = pictures.join(format!("{name}-{width}-{theme}.png"));
            fs::write(picture, browser.picture()?)?;
        }
    }
    Ok(problems)
}

#[test]
fn a_report_is_right_in_every_width_and_theme() -> Result<()> {
    let Some((browser, directory)) = browser("page")? else { return Ok(()) };
    let mut pages = vec![sample(&directory.join("sample"))?];
    if let Some(page) = std::env::var_os("REPORT_PAGE") {
        // Tests run in the folder of their package, their users mostly in that of the workspace.
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(&page);
        pages
            .push(here.canonicalize().with_context(|| format!("REPORT_PAGE: {}", here.display()))?);
    }
    for (number, page) in pages.iter().enumerate() {
        let pictures = directory.join(format!("pictures-{number}"));
        fs::create_dir(&pictures)?;
        let problems = problems(&browser, page, &pictures)?;
        assert!(problems.is_empty(), "{}:\n{}", page.display(), problems.join("\n"));
    }
    Ok(())
}

#[test]
fn everything_of_the_sample_is_shown() -> Result<()> {
    let Some((browser, directory)) = browser("shown")? else { return Ok(()) };
    open(&browser, &sample(&directory.join("sample"))?, 1400, "light")?;
    let count = "return ['svg.plot', '.table table', 'nav li', 'section', 'dl div'].map(what => document.querySelectorAll(what).length)";
    assert_eq!(browser.run(count)?, json!([5, 3, 5, 5, 5]));
    let columns =
        "return [...document.querySelectorAll('table')].map(table => table.rows[0].cells.length)";
    assert_eq!(browser.run(columns)?, json!([12, 2, 5]));
    Ok(())
}

#[test]
fn the_theme_can_be_chosen_and_is_remembered() -> Result<()> {
    let Some((browser, directory)) = browser("theme")? else { return Ok(()) };
    let page = sample(&directory.join("sample"))?;
    open(&browser, &page, 1400, "dark")?;
    let look = "return [document.querySelector('#theme').textContent, getComputedStyle(document.body).backgroundColor,
                        getComputedStyle(document.querySelector('svg.plot rect')).fill]";
    let [light, dark] = ["rgb(255, 255, 255)", "rgb(20, 23, 27)"];
    assert_eq!(browser.run(look)?, json!(["Theme: auto", dark, dark]));
    browser.run("document.querySelector('#theme').click()")?;
    assert_eq!(browser.run(look)?, json!(["Theme: light", light, light]));
    browser.open(&page)?;
    assert_eq!(browser.run(look)?, json!(["Theme: light", light, light]));
    Ok(())
}

#[test]
fn tables_are_sorted_by_size_and_what_is_no_number_comes_last() -> Result<()> {
    let Some((browser, directory)) = browser("sorted")? else { return Ok(()) };
    open(&browser, &sample(&directory.join("sample"))?, 1400, "light")?;
    let sorted = "const table = document.querySelector('table');
                  table.rows[0].cells[1].querySelector('button').click();
                  return [1, 2, 13].map(row => table.rows[row].cells[0].dataset.text)";
    let last = "Scudo <b>&amp; \"co\"</b>";
    assert_eq!(browser.run(sorted)?, json!(["off", "rpmalloc", last]));
    assert_eq!(browser.run(sorted)?[2], last);
    assert_eq!(browser.console()?, Vec::<String>::new());
    Ok(())
}

#[test]
fn a_plot_is_right_by_itself() -> Result<()> {
    let Some((browser, directory)) = browser("plots")? else { return Ok(()) };
    let page = sample(&directory.join("sample"))?;
    for plot in fs::read_dir(page.with_file_name("plots"))? {
        for (theme, ground) in THEMES.into_iter().zip(["rgb(255, 255, 255)", "rgb(20, 23, 27)"]) {
            let plot = plot.as_ref().map_err(|error| anyhow::anyhow!("{error}"))?.path();
            open(&browser, &plot, 800, theme)?;
            assert_eq!(browser.run(CHECKS)?, json!([]), "{}, {theme}", plot.display());
            let shown = "return getComputedStyle(document.querySelector('rect')).fill";
            assert_eq!(browser.run(shown)?, ground, "{}", plot.display());
        }
    }
    Ok(())
}
