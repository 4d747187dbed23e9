//! How long the fault handler waits awake for the next fault before it sleeps.
//!
//! To sleep and be woken costs CPU time on both sides, above all where a halted CPU has to be woken
//! by an interrupt. Waiting awake saves that if a fault comes soon, and else costs what it lasted.
//! So it is paid for from savings: a fault that came while the handler was awake earns what a
//! sleep would have cost, waiting spends, and without savings there is no waiting. What is lost is
//! bounded by the allowance that a sleep is followed by, a fraction of the sleep's own cost.

use crate::sys::vm;

/// Nanoseconds of CPU time that a sleep and a wake-up cost, both sides together. Measured on a
/// virtual machine, where it is the largest part of a fault; half of it on bare metal.
const SLEEP: u64 = 6_000;

/// Nanoseconds that may be waited after a sleep, before anything is earned.
const ALLOWANCE: u64 = SLEEP / 4;

/// Nanoseconds that can be saved up.
const MOST: u64 = 8 * SLEEP;

/// Pauses of the CPU in a moment of waiting: not to take the channel's lock from those who fault.
const PAUSES: u32 = 8;

/// The handler's savings, in nanoseconds of waiting.
#[derive(Debug)]
pub struct Patience {
    savings: u64,
    /// When the wait began that is going on.
    since: Option<u64>,
    /// With one CPU, whoever waits awake keeps the program from running.
    alone: bool,
}

impl Patience {
    /// Nothing earned yet.
    pub fn new() -> Self {
        Self { savings: 0, since: None, alone: vm::cpus() == 1 }
    }

    /// A fault came. If it came during a wait, that has saved a sleep.
    pub fn fault_came(&mut self) {
        if let Some(since) = self.since.take() {
            let waited = vm::now_ns().saturating_sub(since);
            self.savings = (self.savings + SLEEP).saturating_sub(waited).min(MOST);
        }
    }

    /// A moment of waiting: false if it is time to sleep.
    pub fn wait(&mut self) -> bool {
        if self.alone || self.savings == 0 {
            return false;
        }
        let now = vm::now_ns();
        let waited = now - *self.since.get_or_insert(now);
        if waited < self.savings {
            (0..PAUSES).for_each(|_| core::hint::spin_loop());
            return true;
        }
        self.savings = 0;
        self.since = None;
        false
    }

    /// The handler has slept, and was woken.
    pub fn slept(&mut self) {
        self.since = None;
        self.savings = self.savings.max(ALLOWANCE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_is_paid_for_by_what_it_saved() {
        let mut patience = Patience { savings: 0, since: None, alone: false };
        assert!(!patience.wait(), "nothing saved");
        patience.slept();
        assert_eq!(patience.savings, ALLOWANCE);
        assert!(patience.wait());
        patience.fault_came();
        assert!(patience.savings > ALLOWANCE, "a fault during the wait earns");
        let begin = vm::now_ns();
        while patience.wait() {}
        assert!(vm::now_ns() - begin >= SLEEP, "what was earned is waited");
        assert_eq!(patience.savings, 0);
        assert!(!patience.wait(), "and spent");
    }

    #[test]
    fn one_cpu_is_never_kept_busy() {
        let mut patience = Patience { savings: MOST, since: None, alone: true };
        assert!(!patience.wait());
    }
}
