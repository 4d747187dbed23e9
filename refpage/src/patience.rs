//! How long the fault handler waits awake for the next fault before it sleeps.
//!
//! To sleep and be woken costs CPU time on both sides, above all where a halted CPU has to be woken
//! by an interrupt. Waiting awake saves that if a fault comes soon, and else costs what it lasted.
//! So it is paid for from savings: a fault that came while the handler was awake earns what a
//! sleep has cost lately, by the thread's own CPU clock; waiting spends, and without savings there
//! is no waiting. To earn something at all, a sleep is followed by a wait on credit, for as long
//! as a sleep costs; where those fail, only one sleep in so many is, so that what can be lost is a
//! small part of what the sleeps cost anyway.

use crate::sys::vm;

/// A sleep costs the handler some CPU time, and who wakes it, and the CPU that is woken, as well: it
/// is counted so many times. Of two and three, three was cheaper for random first touches on a
/// virtual machine (15 against 25 us a fault, six noisy runs each).
const SIDES: u64 = 3;

/// What a sleep is taken to cost at most, in nanoseconds: a preempted handler must not believe that
/// it was expensive.
const DEAREST: u64 = 30_000;

/// Sleeps whose cost may be saved up.
const MOST: u64 = 4;

/// After a wait on credit that failed, so many sleeps are followed by none.
const PROBE: u32 = 64;

/// Pauses of the CPU in a moment of waiting: not to take the channel's lock from those who fault.
const PAUSES: u32 = 8;

/// The handler's savings, in nanoseconds of waiting.
#[derive(Debug)]
pub struct Patience {
    savings: u64,
    /// What a sleep has cost lately, in nanoseconds of CPU time of both sides.
    sleep: u64,
    /// When the wait began that is going on.
    since: Option<u64>,
    /// Sleeps until the next wait on credit.
    until_probe: u32,
    /// With one CPU, whoever waits awake keeps the program from running.
    alone: bool,
}

impl Patience {
    /// Nothing earned yet.
    pub fn new() -> Self {
        Self { savings: 0, sleep: 0, since: None, until_probe: 0, alone: vm::cpus() == 1 }
    }

    /// A fault came. If it came during a wait, that has saved a sleep.
    pub fn fault_came(&mut self) {
        if let Some(since) = self.since.take() {
            let waited = vm::now_ns().saturating_sub(since);
            let earned = (self.savings + self.sleep).saturating_sub(waited);
            self.savings = earned.min(MOST * self.sleep);
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
        self.until_probe = PROBE;
        false
    }

    /// The handler has slept until a fault came, which took it `cpu` nanoseconds of CPU time.
    pub fn woken(&mut self, cpu: u64) {
        self.sleep = (self.sleep * 7 + (cpu * SIDES).min(DEAREST)) / 8;
        self.since = None;
        if self.until_probe == 0 {
            self.savings = self.sleep;
        } else {
            self.until_probe -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new() -> Patience {
        Patience { savings: 0, sleep: 20_000, since: None, until_probe: 0, alone: false }
    }

    #[test]
    fn waiting_is_paid_for_by_what_it_saved() {
        let fault_at_once = || {
            let mut patience = new();
            assert!(!patience.wait(), "nothing saved");
            patience.woken(10_000);
            assert!(patience.wait(), "on credit");
            patience.fault_came();
            (patience.savings > 20_000).then_some(patience)
        };
        // On a slow machine, or a busy one, it need not come at once.
        let earned = (0..100).find_map(|_| fault_at_once());
        let mut patience = earned.expect("a fault during the wait earns");
        let begin = vm::now_ns();
        while patience.wait() {}
        assert!(vm::now_ns() - begin >= 20_000, "what was earned is waited");
        assert!(!patience.wait(), "and spent");
    }

    #[test]
    fn waits_that_fail_become_rare() {
        let mut patience = new();
        let mut waits = 0;
        for _ in 0..10 * (PROBE + 1) {
            patience.woken(10_000);
            waits += u32::from(patience.wait());
            while patience.wait() {}
        }
        assert_eq!(waits, 10);
    }

    #[test]
    fn cheap_sleeps_are_not_avoided_for_long() {
        let mut patience = new();
        (0..100).for_each(|_| patience.woken(200));
        assert!(patience.sleep < 1_000);
        patience.since = Some(vm::now_ns());
        patience.fault_came();
        assert!(patience.savings < 5_000);
    }

    #[test]
    fn one_cpu_is_never_kept_busy() {
        let mut patience = Patience { savings: 50_000, alone: true, ..new() };
        assert!(!patience.wait());
    }
}
