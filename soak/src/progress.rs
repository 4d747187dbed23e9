//! What the user sees while a tree runs.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::board::{Board, Count};

/// A bar on a terminal, nothing elsewhere.
pub struct Progress {
    bar: ProgressBar,
    before: u64,
}

impl Progress {
    /// Of one tree after others, which together take this long.
    pub fn new(seconds: u64) -> Self {
        let bar = ProgressBar::with_draw_target(Some(seconds), ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{bar:30} {elapsed}, {eta} left  {msg}");
        bar.set_style(style.expect("the template is constant and valid"));
        Self { bar, before: 0 }
    }

    pub fn show(&self, service: &str, board: &Board, time: Duration, lanes: usize) {
        let [steps, forks] = [Count::Steps, Count::Forks].map(|count| board.count(count));
        self.bar.set_position(self.before + time.as_secs());
        self.bar.set_message(format!("{service}: {steps} steps, {forks} forks, {lanes} lanes"));
    }

    /// A tree of this many seconds is over.
    pub fn over(&mut self, seconds: u64) {
        self.before += seconds;
        self.bar.set_position(self.before);
    }

    /// A line that must not wait for the end.
    pub fn say(&self, line: &str) {
        self.bar.suspend(|| eprintln!("{line}"));
    }

    pub fn finish(self) {
        self.bar.finish_and_clear();
    }
}
