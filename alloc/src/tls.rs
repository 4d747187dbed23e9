//! Three words of thread-local storage, the initial-exec way.
//!
//! `thread_local!` in a shared library goes through `__tls_get_addr`, which allocates, that is
//! calls malloc, whenever the dynamic linker has new modules to account for. The initial-exec
//! model is an offset from the thread pointer that the linker fills in; stable Rust cannot ask
//! for it, so the variables and the way to them are written out here. Initial-exec storage is
//! there from a thread's first instruction and reads zero until it is written.

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed, Ordering::SeqCst, compiler_fence};

// bionic keeps words of its own behind the thread pointer, and refuses a program whose storage is not aligned
// to 64, which leaves room for them.
global_asm!(
    ".pushsection .tbss.refpage_alloc_words,\"awT\",@nobits",
    ".globl refpage_alloc_words",
    ".hidden refpage_alloc_words",
    ".type refpage_alloc_words, %object",
    ".size refpage_alloc_words, {size}",
    ".balign {align}",
    "refpage_alloc_words:",
    ".zero {size}",
    ".popsection",
    size = const size_of::<Words>(),
    align = const if cfg!(target_os = "android") { 64 } else { 8 },
);

/// What a thread has to itself. Only signal handlers on the same thread see it besides.
#[repr(C)]
pub struct Words {
    /// Whether the thread's cache may be taken: 0 while somebody has it, and if there is none. A word of its
    /// own, so that the processor can go ahead with the cache while it is not yet known what was written here.
    pub ready: Word,
    /// The thread's cache, or what else is to be said of it; 0 at first.
    pub cache: Word,
    /// How deep in the heap's slow paths the thread is.
    pub depth: Word,
}

/// A word that a signal handler on the same thread may change between any two instructions.
pub struct Word(AtomicUsize);

impl Word {
    /// Its value.
    #[inline(always)]
    pub fn get(&self) -> usize {
        let value = self.0.load(Relaxed);
        compiler_fence(SeqCst);
        value
    }

    /// Sets it, in order with all that the program text does before and after.
    #[inline(always)]
    pub fn set(&self, value: usize) {
        compiler_fence(SeqCst);
        self.0.store(value, Relaxed);
        compiler_fence(SeqCst);
    }
}

/// This thread's words. What is returned is for this thread only.
#[inline(always)]
pub fn words<'a>() -> &'a Words {
    let words: *const Words;
    // SAFETY: computes an address from two words that never change in a thread's life: its own
    // pointer, which the ABI keeps at the beginning of its control block, and an offset.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        asm!(
            "mov {0}, qword ptr fs:[0]",
            "add {0}, qword ptr [rip + refpage_alloc_words@GOTTPOFF]",
            out(reg) words,
            options(pure, nomem, nostack),
        );
        #[cfg(target_arch = "aarch64")]
        asm!(
            "adrp {0}, :gottprel:refpage_alloc_words",
            "ldr {0}, [{0}, #:gottprel_lo12:refpage_alloc_words]",
            "mrs {1}, tpidr_el0",
            "add {0}, {0}, {1}",
            out(reg) words,
            out(reg) _,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    // SAFETY: each thread has its own copy of the words, for as long as it runs.
    unsafe { &*words }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thread_has_its_own_words() {
        words().ready.set(7);
        assert_eq!(words().depth.get(), 0);
        words().depth.set(9);
        let others = || {
            let before = (words().ready.get(), words().depth.get());
            words().ready.set(8);
            words().depth.set(8);
            before
        };
        let others = std::thread::spawn(others).join().expect("joins");
        assert_eq!(others, (0, 0));
        assert_eq!((words().ready.get(), words().depth.get()), (7, 9));
        words().ready.set(0);
        words().depth.set(0);
    }
}
