//! The instructions of MTE and what goes with them: the only assembly.
//!
//! Those that take one address take its logical tag too: it is what they store. None of them checks a
//! tag. Assembly that writes memory or tags is not `nomem`: the compiler moves no other access across it.

use core::arch::asm;

/// `PSTATE.TCO` as it was.
#[derive(Clone, Copy, Debug)]
pub struct Tco(u64);

/// IRG: the address with a random tag, none of `excluded` and none that the thread's prctl excludes; with
/// tag 0 if there is no other or the thread has no tags enabled.
///
/// # Safety
/// There is a [`level`](crate::level).
#[inline]
pub unsafe fn irg(address: u64, excluded: u16) -> u64 {
    let tagged;
    // SAFETY: it computes. It is not `pure`: the next one gives another tag.
    unsafe {
        asm!(".arch_extension memtag", "irg {tagged}, {address}, {excluded}",
            tagged = lateout(reg) tagged, address = in(reg) address, excluded = in(reg) u64::from(excluded),
            options(nomem, nostack, preserves_flags));
    }
    tagged
}

/// LDG: the address with the allocation tag of its granule; with tag 0 if the memory has no tags.
///
/// # Safety
/// There is a [`level`](crate::level); the granule is readable.
#[inline]
pub unsafe fn ldg(address: *const u8) -> *const u8 {
    let tagged;
    // SAFETY: the caller's promise.
    unsafe {
        asm!(".arch_extension memtag", "ldg {tagged}, [{tagged}]",
            tagged = inlateout(reg) address => tagged, options(readonly, nostack, preserves_flags));
    }
    tagged
}

/// Defines what stores the logical tag of an address, and data with it.
macro_rules! tag_stores {
    ($($(#[$doc:meta])* $name:ident ($($word:ident)?): $($line:literal),*;)*) => { $(
        $(#[$doc])*
        ///
        /// # Safety
        /// There is a [`level`](crate::level); what is written is writable, aligned to 16, and nobody
        /// else's meanwhile.
        #[inline]
        pub unsafe fn $name(tagged: *mut u8 $(, $word: u64)?) {
            // SAFETY: the caller's promise.
            unsafe {
                asm!(".arch_extension memtag", $($line),*, tagged = in(reg) tagged $(, $word = in(reg) $word)?,
                    options(nostack, preserves_flags));
            }
        }
    )* };
}

tag_stores! {
    /// STG: tags one granule.
    stg(): "stg {tagged}, [{tagged}]";
    /// ST2G: tags two granules.
    st2g(): "st2g {tagged}, [{tagged}]";
    /// STZG: tags one granule and zeroes it.
    stzg(): "stzg {tagged}, [{tagged}]";
    /// STZ2G: tags two granules and zeroes them.
    stz2g(): "stz2g {tagged}, [{tagged}]";
    /// STGP: tags one granule and writes `word` to it, twice.
    stgp(word): "stgp {word}, {word}, [{tagged}]";
    /// DC GVA: tags the whole block that the address lies in. Only where there is a [`block`].
    dc_gva(): "dc gva, {tagged}";
    /// DC GZVA: tags the whole block that the address lies in and zeroes it. Only where there is a [`block`].
    dc_gzva(): "dc gzva, {tagged}";

    /// [`st2g`] for 256 bytes.
    st2g_by_8():
        "st2g {tagged}, [{tagged}]", "st2g {tagged}, [{tagged}, #32]", "st2g {tagged}, [{tagged}, #64]",
        "st2g {tagged}, [{tagged}, #96]", "st2g {tagged}, [{tagged}, #128]", "st2g {tagged}, [{tagged}, #160]",
        "st2g {tagged}, [{tagged}, #192]", "st2g {tagged}, [{tagged}, #224]";
    /// [`stz2g`] for 256 bytes.
    stz2g_by_8():
        "stz2g {tagged}, [{tagged}]", "stz2g {tagged}, [{tagged}, #32]", "stz2g {tagged}, [{tagged}, #64]",
        "stz2g {tagged}, [{tagged}, #96]", "stz2g {tagged}, [{tagged}, #128]",
        "stz2g {tagged}, [{tagged}, #160]", "stz2g {tagged}, [{tagged}, #192]",
        "stz2g {tagged}, [{tagged}, #224]";
    /// [`stgp`] for 32 bytes.
    stgp_by_2(word):
        "stgp {word}, {word}, [{tagged}]", "stgp {word}, {word}, [{tagged}, #16]";
    /// [`stgp`] for 256 bytes.
    stgp_by_16(word):
        "stgp {word}, {word}, [{tagged}]", "stgp {word}, {word}, [{tagged}, #16]",
        "stgp {word}, {word}, [{tagged}, #32]", "stgp {word}, {word}, [{tagged}, #48]",
        "stgp {word}, {word}, [{tagged}, #64]", "stgp {word}, {word}, [{tagged}, #80]",
        "stgp {word}, {word}, [{tagged}, #96]", "stgp {word}, {word}, [{tagged}, #112]",
        "stgp {word}, {word}, [{tagged}, #128]", "stgp {word}, {word}, [{tagged}, #144]",
        "stgp {word}, {word}, [{tagged}, #160]", "stgp {word}, {word}, [{tagged}, #176]",
        "stgp {word}, {word}, [{tagged}, #192]", "stgp {word}, {word}, [{tagged}, #208]",
        "stgp {word}, {word}, [{tagged}, #224]", "stgp {word}, {word}, [{tagged}, #240]";
}

/// The bytes that DC GVA and DC GZVA tag, a power of two and at least a granule; `None` if they are prohibited.
#[inline]
pub fn block() -> Option<usize> {
    let dczid: u64;
    // SAFETY: every aarch64 has the register, and EL0 may always read it. It does not change.
    unsafe {
        asm!("mrs {dczid}, dczid_el0", dczid = lateout(reg) dczid,
            options(pure, nomem, nostack, preserves_flags));
    }
    // DZP prohibits, BS is the size in words of 4 bytes, as a power of two.
    let (prohibited, size) = (dczid & 1 << 4 != 0, 4 << (dczid & 0xf));
    (!prohibited && size >= crate::GRANULE).then_some(size)
}

/// Sets `PSTATE.TCO`: the thread checks no tags. Gives what it was.
#[inline]
pub fn set_unchecked() -> Tco {
    let before;
    // SAFETY: it changes whether tags are checked, and nothing else. Accesses stay on their side of it.
    unsafe {
        asm!(".arch_extension memtag", "mrs {before}, tco", "msr tco, #1", before = lateout(reg) before,
            options(nostack, preserves_flags));
    }
    Tco(before)
}

/// Restores what [`set_unchecked`] gave.
#[inline]
pub fn restore_checks(before: Tco) {
    // SAFETY: as above.
    unsafe {
        asm!(".arch_extension memtag", "msr tco, {before}", before = in(reg) before.0,
            options(nostack, preserves_flags));
    }
}

/// The system call prctl with one argument. By itself, since libc's changes errno.
pub fn prctl(operation: usize, argument: usize) -> isize {
    /// Its number in uapi/asm-generic/unistd.h.
    const NR_PRCTL: usize = 167;
    let answer;
    // SAFETY: the kernel keeps all registers but x0. The operations that this crate asks for take no addresses.
    unsafe {
        asm!("svc #0", in("x8") NR_PRCTL, inlateout("x0") operation => answer, in("x1") argument,
            in("x2") 0, in("x3") 0, in("x4") 0, options(nostack));
    }
    answer
}
