//! What the user sees while measurements are going on: a bar on a terminal, else a line a case.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Weighs measurements.
pub struct Progress(ProgressBar);

impl Progress {
    /// Expects measurements of so much weight in all.
    pub fn new(weight: u64) -> Self {
        let target = ProgressDrawTarget::stderr();
        let bar = ProgressBar::with_draw_target(Some(weight), target);
        let style =
            ProgressStyle::with_template("{bar:30} {percent}%  {elapsed}, {eta} left  {msg}");
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

    /// So much of it is done.
    pub fn done(&self, weight: u64) {
        self.0.inc(weight);
    }

    /// So much of it will not happen.
    pub fn skip(&self, weight: u64) {
        self.0.set_length(self.0.length().unwrap_or(0).saturating_sub(weight));
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
