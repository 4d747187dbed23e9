//! What the CPU and the kernel have.

/// How much of the extension there is. All of it has tags and synchronous and asynchronous checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// FEAT_MTE2.
    Sync,
    /// FEAT_MTE3: also asymmetric checks, reads synchronous and writes asynchronous.
    Asymmetric,
}

impl Level {
    /// The architecture's name for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Level::Sync => "FEAT_MTE2",
            Level::Asymmetric => "FEAT_MTE3",
        }
    }
}

/// What this machine has; `None` if there are no tags to be had: it is no aarch64, its CPU has no
/// FEAT_MTE2, or its kernel or hypervisor keeps that to itself.
///
/// Asks the kernel's auxiliary vector each time, and an ID register that the kernel emulates: for the
/// start of a program, not for its fast path.
pub fn level() -> Option<Level> {
    #[cfg(target_arch = "aarch64")]
    return on_aarch64();
    #[cfg(not(target_arch = "aarch64"))]
    None
}

#[cfg(target_arch = "aarch64")]
fn on_aarch64() -> Option<Level> {
    use aarch64_cpu::registers::{ID_AA64PFR1_EL1, Readable};

    // Bits of AT_HWCAP and AT_HWCAP2 in the kernel's uapi/asm/hwcap.h, which libc has not for every C library.
    const HWCAP_CPUID: u64 = 1 << 11;
    const HWCAP2_MTE: u64 = 1 << 18;
    const HWCAP2_MTE3: u64 = 1 << 22;

    // SAFETY: getauxval has no precondition.
    let (hwcap, hwcap2) =
        unsafe { (libc::getauxval(libc::AT_HWCAP), libc::getauxval(libc::AT_HWCAP2)) };
    if hwcap2 & HWCAP2_MTE == 0 {
        return None;
    }
    // The register traps, and only with HWCAP_CPUID does the kernel answer in its place. It says what
    // all CPUs have in common. 2 is FEAT_MTE2, 3 FEAT_MTE3, and more includes what is less.
    let asymmetric = if hwcap & HWCAP_CPUID != 0 {
        ID_AA64PFR1_EL1.read(ID_AA64PFR1_EL1::MTE) >= 3
    } else {
        hwcap2 & HWCAP2_MTE3 != 0
    };
    Some(if asymmetric { Level::Asymmetric } else { Level::Sync })
}
