//! The counter: of a machine whose clock goes forward by one tick with each instruction.
//!
//! That is qemu's with `-icount shift=0`: an instruction takes a nanosecond, and the virtual counter, CNTVCT_EL0,
//! counts nanoseconds. It counts everything that the processor executes, the kernel and all threads included, and the
//! time in which there is nothing to execute as well.

use std::hint::black_box;

use anyhow::{Result, bail};

/// Ticks a second, where a tick is a nanosecond.
const FREQUENCY: u64 = 1_000_000_000;
/// Instructions a turn of [`spin`].
const TURN: u64 = 2;
/// Turns of a short and a long loop, far from what the kernel does between two of its timer's ticks.
const TURNS: [u64; 2] = [1_000, 11_000];
/// What qemu may count too many or too few around a read of the counter.
const TOLERANCE: u64 = 2;
/// How often each loop is counted: an interrupt only ever adds.
const TRIES: usize = 9;

/// The counter, once it is certain what it counts.
#[derive(Clone, Copy, Debug)]
pub struct Counter {
    /// What reading it twice counts by itself.
    own: u64,
}

impl Counter {
    /// The machine's; else the reason why it counts no instructions.
    pub fn calibrated() -> Result<Self> {
        let Some(frequency) = frequency() else {
            bail!("instructions are counted on aarch64 alone, by qemu with -icount shift=0");
        };
        if frequency != FREQUENCY {
            bail!(
                "this machine's counter has {frequency} ticks a second, not one an instruction: qemu 9 or later with \
                 -cpu max and -icount shift=0 has"
            );
        }
        let raw = Self { own: 0 };
        let counter = Self { own: raw.least(|| {}) };
        let [short, long] = TURNS.map(|turns| counter.least(|| spin(black_box(turns))));
        check(short, long)?;
        Ok(counter)
    }

    /// The instructions that `work` takes.
    #[inline(always)]
    pub fn of(self, work: impl FnOnce()) -> u64 {
        let start = now();
        work();
        now() - start - self.own
    }

    fn least(self, work: impl Fn()) -> u64 {
        (0..TRIES).map(|_| self.of(&work)).min().unwrap_or(0)
    }
}

/// Whether the difference between the loops is that of their instructions.
fn check(short: u64, long: u64) -> Result<()> {
    let expected = (TURNS[1] - TURNS[0]) * TURN;
    let counted = long.saturating_sub(short);
    if counted.abs_diff(expected) > TOLERANCE {
        bail!(
            "a tick of this machine's counter is not an instruction ({expected} of them are {counted} ticks): qemu \
             with -icount shift=0 has such a counter"
        );
    }
    Ok(())
}

#[cfg(target_arch = "aarch64")]
fn frequency() -> Option<u64> {
    let frequency: u64;
    // SAFETY: the kernel lets every process read the register; it does not change.
    unsafe {
        std::arch::asm!("mrs {frequency}, cntfrq_el0", frequency = lateout(reg) frequency,
            options(pure, nomem, nostack, preserves_flags));
    }
    Some(frequency)
}

/// No ISB: an emulator executes in order. Not `nomem`, so that what is counted stays on its side of it.
#[cfg(target_arch = "aarch64")]
#[inline(always)]
fn now() -> u64 {
    let ticks: u64;
    // SAFETY: the kernel lets every process read the register.
    unsafe {
        std::arch::asm!("mrs {ticks}, cntvct_el0", ticks = lateout(reg) ticks,
            options(nostack, preserves_flags));
    }
    ticks
}

/// A loop of two instructions a turn, one turn or more.
#[cfg(target_arch = "aarch64")]
#[inline(always)]
fn spin(turns: u64) {
    // SAFETY: it computes.
    unsafe {
        std::arch::asm!("2:", "subs {turns}, {turns}, #1", "b.ne 2b", turns = inlateout(reg) turns => _,
            options(nomem, nostack));
    }
}

#[cfg(not(target_arch = "aarch64"))]
fn frequency() -> Option<u64> {
    None
}

#[cfg(not(target_arch = "aarch64"))]
fn now() -> u64 {
    unreachable!("there is no counter without a frequency")
}

#[cfg(not(target_arch = "aarch64"))]
fn spin(_turns: u64) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_taken_only_if_a_tick_is_an_instruction() {
        check(2_007, 22_007).unwrap();
        check(2_007, 22_006).unwrap();
        let refusal = check(2_007, 22_107).unwrap_err().to_string();
        assert!(refusal.contains("20000 of them are 20100 ticks"), "{refusal}");
        check(0, 0).unwrap_err();
    }

    #[test]
    #[cfg(not(target_arch = "aarch64"))]
    fn elsewhere_it_is_refused() {
        assert!(Counter::calibrated().unwrap_err().to_string().contains("aarch64 alone"));
    }
}
