//! What the user sees while runs are going on: a bar on a terminal, else a line a round.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Counts runs.
pub struct Progress(ProgressBar);

impl Progress {
    /// Expects `runs` runs.
    pub fn new(runs: u64) -> Self {
        let bar = ProgressBar::with_draw_target(Some(runs), ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{bar:30} run {pos}/{len}  {elapsed}  {msg}");
        bar.set_style(style.expect("the template is constant and valid"));
        // Slow: drawing takes CPU time from the runs beside it.
        bar.enable_steady_tick(Duration::from_millis(500));
        Self(bar)
    }

    /// A new stage begins.
    pub fn stage(&self, text: &str) {
        if self.0.is_hidden() {
            eprintln!("{text}");
        }
    }

    /// A run begins.
    pub fn begin(&self, text: String) {
        self.0.set_message(text);
    }

    /// That run is over.
    pub fn done(&self) {
        self.0.inc(1);
    }

    /// `runs` of the expected ones will not happen.
    pub fn skip(&self, runs: u64) {
        self.0.set_length(self.0.length().unwrap_or(0).saturating_sub(runs));
    }

    /// All runs are over.
    pub fn finish(self) {
        self.0.finish_and_clear();
    }
}
