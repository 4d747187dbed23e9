//! Two words of thread-local storage, the initial-exec way.
//!
//! `thread_local!` in a shared library goes through `__tls_get_addr`, which allocates, that is
//! calls malloc, whenever the dynamic linker has new modules to account for. The initial-exec
//! model is an offset from the thread pointer that the linker fills in; stable Rust cannot ask
//! for it, so the variables and their accesses are written out here. Initial-exec storage is
//! there from a thread's first instruction and reads zero until it is written.

use core::arch::{asm, global_asm};

// bionic keeps words of its own behind the thread pointer, and refuses a program whose storage is not aligned
// to 64, which leaves room for them.
global_asm!(
    ".pushsection .tbss.refpage_alloc_cache,\"awT\",@nobits",
    ".globl refpage_alloc_cache",
    ".hidden refpage_alloc_cache",
    ".type refpage_alloc_cache, %object",
    ".size refpage_alloc_cache, 16",
    ".balign {align}",
    "refpage_alloc_cache:",
    ".zero 16",
    ".popsection",
    align = const if cfg!(target_os = "android") { 64 } else { 8 },
);

/// A word of each thread, by its offset in bytes.
pub struct Word<const OFFSET: usize>;

/// The thread's cache.
pub const CACHE: Word<0> = Word;
/// How deep in the heap's slow paths the thread is.
pub const DEPTH: Word<8> = Word;

impl<const OFFSET: usize> Word<OFFSET> {
    /// This thread's; 0 until it is set.
    #[inline]
    pub fn get(&self) -> usize {
        let value: usize;
        // SAFETY: reads this thread's own copy of a word that always exists.
        unsafe {
            #[cfg(target_arch = "x86_64")]
            asm!(
                "mov {0}, qword ptr [rip + refpage_alloc_cache@GOTTPOFF]",
                "mov {0}, qword ptr fs:[{0} + {offset}]",
                out(reg) value,
                offset = const OFFSET,
                options(nostack, readonly, preserves_flags),
            );
            #[cfg(target_arch = "aarch64")]
            asm!(
                "adrp {0}, :gottprel:refpage_alloc_cache",
                "ldr {0}, [{0}, #:gottprel_lo12:refpage_alloc_cache]",
                "mrs {1}, tpidr_el0",
                "add {0}, {0}, {1}",
                "ldr {0}, [{0}, #{offset}]",
                out(reg) value,
                out(reg) _,
                offset = const OFFSET,
                options(nostack, readonly, preserves_flags),
            );
        }
        value
    }

    /// Sets this thread's.
    #[inline]
    pub fn set(&self, value: usize) {
        // SAFETY: writes this thread's own copy, which nothing else refers to.
        unsafe {
            #[cfg(target_arch = "x86_64")]
            asm!(
                "mov {0}, qword ptr [rip + refpage_alloc_cache@GOTTPOFF]",
                "mov qword ptr fs:[{0} + {offset}], {1}",
                out(reg) _,
                in(reg) value,
                offset = const OFFSET,
                options(nostack, preserves_flags),
            );
            #[cfg(target_arch = "aarch64")]
            asm!(
                "adrp {0}, :gottprel:refpage_alloc_cache",
                "ldr {0}, [{0}, #:gottprel_lo12:refpage_alloc_cache]",
                "mrs {1}, tpidr_el0",
                "add {0}, {0}, {1}",
                "str {2}, [{0}, #{offset}]",
                out(reg) _,
                out(reg) _,
                in(reg) value,
                offset = const OFFSET,
                options(nostack, preserves_flags),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thread_has_its_own_words() {
        CACHE.set(7);
        assert_eq!(DEPTH.get(), 0);
        DEPTH.set(9);
        let others = || (CACHE.get(), DEPTH.get(), CACHE.set(8), DEPTH.set(8));
        let others = std::thread::spawn(others).join().expect("joins");
        assert_eq!((others.0, others.1), (0, 0));
        assert_eq!((CACHE.get(), DEPTH.get()), (7, 9));
        CACHE.set(0);
        DEPTH.set(0);
    }
}
