//! How the calling thread hears of tag check faults, and how it does without for a while.

use core::marker::PhantomData;

use crate::instructions;

/// How checks are reported. New threads inherit it; those that there are keep what they have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// At the access, which does not happen: SIGSEGV with its address (`SEGV_MTESERR`).
    Sync,
    /// At the next entry into the kernel: SIGSEGV without an address (`SEGV_MTEAERR`).
    Async,
    /// Reads as with `Sync`, writes as with `Async`, on CPUs with FEAT_MTE3 whose
    /// `/sys/devices/system/cpu/cpu*/mte_tcf_preferred` says `asymm`; as that file says on all others.
    Asymmetric,
}

// The kernel's interface: uapi/linux/prctl.h.
#[cfg(target_arch = "aarch64")]
mod control {
    use super::Mode;

    pub const PR_SET_TAGGED_ADDR_CTRL: usize = 55;
    pub const PR_GET_TAGGED_ADDR_CTRL: usize = 56;
    /// System calls take tagged addresses.
    pub const PR_TAGGED_ADDR_ENABLE: usize = 1;
    pub const PR_MTE_TCF_SYNC: usize = 1 << 1;
    pub const PR_MTE_TCF_ASYNC: usize = 1 << 2;
    pub const PR_MTE_TCF_MASK: usize = PR_MTE_TCF_SYNC | PR_MTE_TCF_ASYNC;
    /// The tags that IRG gives, bit n for tag n.
    pub const PR_MTE_TAG_SHIFT: usize = 3;
    pub const PR_MTE_TAG_MASK: usize = 0xffff << PR_MTE_TAG_SHIFT;
    pub const ALL_TAGS_BUT_0: usize = 0xfffe << PR_MTE_TAG_SHIFT;

    /// With both bits the kernel picks, for each CPU, the mode that the CPU's `mte_tcf_preferred` has
    /// (`async` at boot); only so does it ever pick asymmetric checks.
    pub const fn bits(mode: Mode) -> usize {
        match mode {
            Mode::Sync => PR_MTE_TCF_SYNC,
            Mode::Async => PR_MTE_TCF_ASYNC,
            Mode::Asymmetric => PR_MTE_TCF_SYNC | PR_MTE_TCF_ASYNC,
        }
    }
}

impl Mode {
    /// The kernel's name for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Mode::Sync => "sync",
            Mode::Async => "async",
            Mode::Asymmetric => "asymm",
        }
    }
}

/// The mode of the calling thread; `None` if it checks nothing.
///
/// A thread that asked for both, so that the kernel picks, has [`Mode::Asymmetric`]: it is what was asked
/// for. What the kernel made of it is the CPU's business, and another CPU's may differ.
pub fn mode() -> Option<Mode> {
    #[cfg(target_arch = "aarch64")]
    {
        let control = usize::try_from(instructions::prctl(control::PR_GET_TAGGED_ADDR_CTRL, 0));
        let tcf = control.unwrap_or(0) & control::PR_MTE_TCF_MASK;
        [Mode::Sync, Mode::Async, Mode::Asymmetric]
            .into_iter()
            .find(|&mode| control::bits(mode) == tcf)
    }
    #[cfg(not(target_arch = "aarch64"))]
    None
}

/// Has the calling thread, and those that it makes from now on, check tags: the kernel takes tagged
/// addresses, and IRG gives all tags but 0. What else the program has set stays as it is.
///
/// Fails with an errno: EINVAL where there are no tags to be had, or no [`Mode::Asymmetric`] yet (before
/// Linux 5.15); or what a system call filter says.
pub fn enable(mode: Mode) -> Result<(), i32> {
    #[cfg(target_arch = "aarch64")]
    {
        use control::*;
        let answer = |value: isize| usize::try_from(value).map_err(|_| -value as i32);
        let before = answer(instructions::prctl(PR_GET_TAGGED_ADDR_CTRL, 0))?;
        let kept = before & !(PR_MTE_TCF_MASK | PR_MTE_TAG_MASK);
        let control = kept | PR_TAGGED_ADDR_ENABLE | bits(mode) | ALL_TAGS_BUT_0;
        answer(instructions::prctl(PR_SET_TAGGED_ADDR_CTRL, control)).map(drop)
    }
    #[cfg(not(target_arch = "aarch64"))]
    {
        let _ = mode;
        Err(libc::EINVAL)
    }
}

/// Has the calling thread check no tags until the guard is dropped: for accesses to memory whose tag
/// may change meanwhile, or is not known. System calls, and signal handlers, check as before.
///
/// Guards may be nested; each, when dropped, restores what it found.
#[inline]
pub fn without_checks() -> Unchecked {
    Unchecked { before: instructions::set_unchecked(), thread: PhantomData }
}

/// The calling thread checks no tags while this lives.
#[derive(Debug)]
#[must_use = "checks are on again as soon as this is dropped"]
pub struct Unchecked {
    before: instructions::Tco,
    /// What it restores is the thread's own: it stays there.
    thread: PhantomData<*mut ()>,
}

impl Drop for Unchecked {
    #[inline]
    fn drop(&mut self) {
        instructions::restore_checks(self.before);
    }
}
