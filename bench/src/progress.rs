//! What the user sees while measurements are going on: a bar on a terminal, else a line a case.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Counts measurements.
pub struct Progress(ProgressBar);

impl Progress {
    /// Expects `measurements`.
    pub fn new(measurements: usize) -> Self {
        let target = ProgressDrawTarget::stderr();
        let bar = ProgressBar::with_draw_target(Some(measurements as u64), target);
        let style =
            ProgressStyle::with_template("{bar:30} {pos}/{len}  {elapsed}, {eta} left  {msg}");
        bar.set_style(style.expect("the template is constant and valid"));
        // Slow: drawing takes CPU time from the measurements.
        bar.enable_steady_tick(Duration::from_secs(1));
        Self(bar)
    }

    /// A case begins.
    pub fn case(&self, name: &str) {
        self.0.set_message(name.to_owned());
        if self.0.is_hidden() {
            eprintln!("{name}");
        }
    }

    /// A measurement is over, or will not happen.
    pub fn done(&self) {
        self.0.inc(1);
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
