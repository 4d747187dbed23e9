//! One word of thread-local storage, the initial-exec way.
//!
//! `thread_local!` in a shared library goes through `__tls_get_addr`, which allocates, that is
//! calls malloc, whenever the dynamic linker has new modules to account for. The initial-exec
//! model is an offset from the thread pointer that the linker fills in; stable Rust cannot ask
//! for it, so the variable and its two accesses are written out here. Initial-exec storage is
//! there from a thread's first instruction and reads zero until it is written.

use core::arch::{asm, global_asm};

global_asm!(
    ".pushsection .tbss.refpage_alloc_cache,\"awT\",@nobits",
    ".globl refpage_alloc_cache",
    ".hidden refpage_alloc_cache",
    ".type refpage_alloc_cache, %object",
    ".size refpage_alloc_cache, 8",
    ".balign 8",
    "refpage_alloc_cache:",
    ".zero 8",
    ".popsection",
);

/// This thread's word; 0 until it is set.
#[inline]
pub fn get() -> usize {
    let value: usize;
    // SAFETY: reads this thread's own copy of a word that always exists.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        asm!(
            "mov {0}, qword ptr [rip + refpage_alloc_cache@GOTTPOFF]",
            "mov {0}, qword ptr fs:[{0}]",
            out(reg) value,
            options(nostack, readonly, preserves_flags),
        );
        #[cfg(target_arch = "aarch64")]
        asm!(
            "adrp {0}, :gottprel:refpage_alloc_cache",
            "ldr {0}, [{0}, #:gottprel_lo12:refpage_alloc_cache]",
            "mrs {1}, tpidr_el0",
            "ldr {0}, [{0}, {1}]",
            out(reg) value,
            out(reg) _,
            options(nostack, readonly, preserves_flags),
        );
    }
    value
}

/// Sets this thread's word.
#[inline]
pub fn set(value: usize) {
    // SAFETY: writes this thread's own copy, which nothing else refers to.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        asm!(
            "mov {0}, qword ptr [rip + refpage_alloc_cache@GOTTPOFF]",
            "mov qword ptr fs:[{0}], {1}",
            out(reg) _,
            in(reg) value,
            options(nostack, preserves_flags),
        );
        #[cfg(target_arch = "aarch64")]
        asm!(
            "adrp {0}, :gottprel:refpage_alloc_cache",
            "ldr {0}, [{0}, #:gottprel_lo12:refpage_alloc_cache]",
            "mrs {1}, tpidr_el0",
            "str {2}, [{0}, {1}]",
            out(reg) _,
            out(reg) _,
            in(reg) value,
            options(nostack, preserves_flags),
        );
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn each_thread_has_its_own_word() {
        super::set(7);
        let other = std::thread::spawn(|| (super::get(), super::set(8))).join().expect("joins").0;
        assert_eq!((super::get(), other), (7, 0));
        super::set(0);
    }
}
