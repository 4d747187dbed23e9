//! The allocator as Rust's `#[global_allocator]`.

use core::alloc::{GlobalAlloc, Layout};
use core::sync::atomic::{AtomicBool, Ordering};

use crate::heap;
use crate::options::Options;
use crate::start::{self, Defaults};

/// refpage as a global allocator. There is one heap in a process, whatever the number of values.
///
/// `REFPAGE_OPTIONS` in the environment overrides what the program asked for.
#[derive(Debug)]
pub struct RefPage {
    defaults: Defaults,
    told: AtomicBool,
}

impl RefPage {
    /// With the default options: the best service of the machine, pattern 0xAA.
    pub const fn new() -> Self {
        Self::with_options(Options::new())
    }

    /// With options of the program's own.
    pub const fn with_options(options: Options) -> Self {
        Self { defaults: Defaults::new(options), told: AtomicBool::new(false) }
    }

    /// With an environment variable of the program's own in the place of `REFPAGE_OPTIONS`: for a
    /// program that is started with that one for the sake of another program.
    #[must_use]
    pub const fn environment(mut self, variable: &'static str) -> Self {
        self.defaults.variable = variable;
        self
    }

    /// The heap starts with the first allocation, and has to know the options before.
    #[cold]
    fn tell(&self) {
        start::set_defaults(self.defaults);
        self.told.store(true, Ordering::Release);
    }
}

impl Default for RefPage {
    fn default() -> Self {
        Self::new()
    }
}

// SAFETY: `heap` hands out blocks of at least the layout's size at a multiple of its alignment,
// keeps them apart until they are freed, and does not unwind.
unsafe impl GlobalAlloc for RefPage {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !self.told.load(Ordering::Relaxed) {
            self.tell();
        }
        heap::allocate(layout.size(), layout.align(), false)
    }

    #[inline]
    unsafe fn dealloc(&self, ptr: *mut u8, _: Layout) {
        // SAFETY: the caller's promise is the same.
        unsafe { heap::deallocate(ptr) }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if !self.told.load(Ordering::Relaxed) {
            self.tell();
        }
        heap::allocate(layout.size(), layout.align(), true)
    }

    #[inline]
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        if layout.align() <= crate::classes::GRANULE {
            // SAFETY: the caller's promise is the same, and every block has this alignment.
            return unsafe { heap::reallocate(ptr, new_size) };
        }
        let new = heap::allocate(new_size, layout.align(), false);
        if !new.is_null() {
            // SAFETY: both blocks hold that many bytes and are apart; the old one ends here.
            unsafe {
                new.copy_from_nonoverlapping(ptr, layout.size().min(new_size));
                heap::deallocate(ptr);
            }
        }
        new
    }
}
