//! What the user sees while guests run: a bar on a terminal and a line for each suite elsewhere, and a line for what
//! must not wait for the end.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Counts tests.
pub struct Progress(ProgressBar);

impl Progress {
    /// Expects `tests`.
    pub fn new(tests: usize) -> Self {
        let bar = ProgressBar::with_draw_target(Some(tests as u64), ProgressDrawTarget::stderr());
        let style =
            ProgressStyle::with_template("{bar:30} {pos}/{len}  {elapsed}, {eta} left  {msg}");
        bar.set_style(style.expect("the template is constant and valid"));
        bar.enable_steady_tick(Duration::from_secs(1));
        Self(bar)
    }

    /// A test begins.
    pub fn begun(&self, guest: &str, test: &str) {
        self.0.set_message(format!("{guest}: {test}"));
    }

    /// A line for those who see no bar.
    pub fn log(&self, line: &str) {
        if self.0.is_hidden() {
            eprintln!("{line}");
        }
    }

    /// So many tests are over, or will not happen.
    pub fn over(&self, tests: usize) {
        self.0.inc(tests as u64);
    }

    /// Something that must not wait for the end.
    pub fn say(&self, line: &str) {
        self.0.suspend(|| eprintln!("{line}"));
    }

    /// All are over.
    pub fn finish(self) {
        self.0.finish_and_clear();
    }
}
