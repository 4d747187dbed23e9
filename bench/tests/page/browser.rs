//! Chromium, without a window, led by chromedriver: as much of WebDriver as the tests of pages need.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// What it is told so that it asks nobody for anything but the page.
const FLAGS: [&str; 8] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
];

/// An answer that takes longer never comes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A browser, which ends with this.
pub struct Browser {
    driver: Child,
    port: u16,
    /// The path of the session; that of chromedriver itself until there is one.
    session: String,
    /// Chromium's process, to be ended if it does not end with its session.
    process: Option<libc::pid_t>,
    /// Where it keeps its files.
    profile: PathBuf,
}

/// Where a program lies.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.is_file())
}

impl Browser {
    /// Starts one that keeps its files in an empty directory, as long as it lives.
    pub fn start(driver: &Path, chromium: &Path, profile: &Path) -> Result<Self> {
        let mut driver = Command::new(driver)
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}", driver.display()))?;
        let said = driver.stdout.take().expect("it is piped");
        let mut browser = Self {
            driver,
            port: 0,
            session: String::new(),
            process: None,
            profile: profile.into(),
        };
        browser.port = BufReader::new(said)
            .lines()
            .map_while(Result::ok)
            .find_map(|line| line.strip_suffix('.')?.rsplit_once("on port ")?.1.parse().ok())
            .context("chromedriver ended before it named its port")?;
        let profile = format!("--user-data-dir={}", profile.display());
        let flags: Vec<&str> = FLAGS.into_iter().chain([profile.as_str()]).collect();
        let session = browser.ask(
            "/session",
            json!({ "capabilities": { "alwaysMatch": {
                "browserName": "chrome",
                "goog:chromeOptions": { "binary": chromium, "args": flags },
                "goog:loggingPrefs": { "browser": "ALL" },
            } } }),
        )?;
        let process = session["capabilities"]["goog:processID"].as_i64();
        browser.process = process.and_then(|process| process.try_into().ok());
        let id = session["sessionId"].as_str().context("the session has no name")?;
        browser.session = format!("/session/{id}");
        Ok(browser)
    }

    /// A command of WebDriver.
    fn ask(&self, command: &str, with: Value) -> Result<Value> {
        let path = format!("{}{command}", self.session);
        send(self.port, "POST", &path, &with.to_string()).with_context(|| path)
    }

    /// A command of Chromium's own protocol.
    pub fn tell(&self, command: &str, with: Value) -> Result<Value> {
        self.ask("/goog/cdp/execute", json!({ "cmd": command, "params": with }))
    }

    /// Opens a page.
    pub fn open(&self, path: &Path) -> Result<()> {
        self.ask("/url", json!({ "url": format!("file://{}", path.display()) })).map(|_| ())
    }

    /// What a script returns.
    pub fn run(&self, script: &str) -> Result<Value> {
        self.ask("/execute/sync", json!({ "script": script, "args": [] }))
    }

    /// What was written to the console since the last time, exceptions and failed requests too.
    pub fn console(&self) -> Result<Vec<String>> {
        let entries = self.ask("/se/log", json!({ "type": "browser" }))?;
        let entries = entries.as_array().into_iter().flatten();
        Ok(entries.map(|entry| entry["message"].to_string()).collect())
    }

    /// The whole page as a PNG.
    pub fn picture(&self) -> Result<Vec<u8>> {
        let how = json!({ "format": "png", "captureBeyondViewport": true });
        let picture = self.tell("Page.captureScreenshot", how)?;
        Ok(of_base64(picture["data"].as_str().context("there is no picture")?))
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Ending the session ends Chromium; neither outlives a session that cannot be ended.
        let ended = send(self.port, "DELETE", &self.session, "");
        if let (Err(_), Some(process)) = (ended, self.process) {
            // SAFETY: kill reads no memory of ours.
            unsafe { libc::kill(process, libc::SIGKILL) };
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
        let _ = std::fs::remove_dir_all(&self.profile);
    }
}

/// A request to chromedriver, and the value that it answers: one connection each.
fn send(port: u16, method: &str, path: &str, body: &str) -> Result<Value> {
    let mut connection = TcpStream::connect(("127.0.0.1", port))?;
    connection.set_read_timeout(Some(PATIENCE))?;
    let length = body.len();
    write!(
        connection,
        "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {length}\r\n\r\n{body}"
    )?;
    let mut answer = BufReader::new(connection);
    let mut length = 0;
    for line in answer.by_ref().lines() {
        let line = line?.to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse()?;
        }
    }
    let mut answer: Value = serde_json::from_reader(answer.take(length))?;
    let value = answer["value"].take();
    match value.get("error") {
        Some(error) => bail!("{error}: {}", value["message"]),
        None => Ok(value),
    }
}

/// The bytes of a text in base64.
fn of_base64(text: &str) -> Vec<u8> {
    let (mut bits, mut held, mut bytes) = (0u32, 0, Vec::new());
    for byte in text.bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => break,
        };
        bits = bits << 6 | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
        }
    }
    bytes
}
