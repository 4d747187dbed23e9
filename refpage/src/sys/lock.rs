//! A futex mutex for the allocator's own metadata.
//!
//! `std`'s mutex would do the same, but this crate is `no_std` so that nothing in it can
//! allocate; and fork needs locks that can be taken in one process and released in two.

use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::futex;

const FREE: u32 = 0;
const HELD: u32 = 1;
const CONTENDED: u32 = 2;

/// How often a waiter looks again before it sleeps: critical sections here are a few dozen
/// instructions, so the holder is nearly always about to leave.
const SPINS: u32 = 100;

/// Mutual exclusion over `T`, usable in a `static` and across fork.
#[derive(Debug)]
pub struct Mutex<T> {
    word: AtomicU32,
    value: UnsafeCell<T>,
}

// SAFETY: the lock hands out one `&mut T` at a time, which is all that sharing asks of a `T: Send`.
unsafe impl<T: Send> Sync for Mutex<T> {}

impl<T> Mutex<T> {
    /// An unlocked mutex over `value`.
    pub const fn new(value: T) -> Self {
        Self { word: AtomicU32::new(FREE), value: UnsafeCell::new(value) }
    }

    /// Waits for the lock and holds it until the guard is dropped.
    #[inline]
    pub fn lock(&self) -> Guard<'_, T> {
        self.acquire();
        Guard { mutex: self }
    }

    /// Holds the lock if nobody else does.
    #[inline]
    pub fn try_lock(&self) -> Option<Guard<'_, T>> {
        self.word
            .compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
            // Not `then_some`: a guard that is made for nothing would release what another holds.
            .then(|| Guard { mutex: self })
    }

    /// Takes the lock with no guard, for fork's prepare step.
    #[inline]
    pub fn acquire(&self) {
        if self.word.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed).is_err() {
            self.acquire_slow();
        }
    }

    #[cold]
    fn acquire_slow(&self) {
        for _ in 0..SPINS {
            if self.word.load(Ordering::Relaxed) == FREE
                && self
                    .word
                    .compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed)
                    .is_ok()
            {
                return;
            }
            core::hint::spin_loop();
        }
        while self.word.swap(CONTENDED, Ordering::Acquire) != FREE {
            // An error (EINTR, EAGAIN) means only that the word is to be looked at again.
            let _ = futex::wait(&self.word, futex::Flags::PRIVATE, CONTENDED, None);
        }
    }

    /// Releases a lock taken by [`acquire`](Self::acquire).
    ///
    /// # Safety
    /// The caller holds the lock and no guard of it is alive. After fork, the child counts as
    /// holder of what its parent's forking thread held.
    #[inline]
    pub unsafe fn release(&self) {
        if self.word.swap(FREE, Ordering::Release) == CONTENDED {
            let _ = futex::wake(&self.word, futex::Flags::PRIVATE, 1);
        }
    }
}

/// The lock is held while this lives.
#[derive(Debug)]
pub struct Guard<'a, T> {
    mutex: &'a Mutex<T>,
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the guard's existence means that this thread holds the lock.
        unsafe { &*self.mutex.value.get() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above, and `&mut self` makes the borrow unique.
        unsafe { &mut *self.mutex.value.get() }
    }
}

impl<T> Drop for Guard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: this guard held the lock and is going.
        unsafe { self.mutex.release() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trying_in_vain_leaves_the_holder_its_lock() {
        let mutex = Mutex::new(1);
        let held = mutex.lock();
        assert!(mutex.try_lock().is_none());
        assert!(mutex.try_lock().is_none(), "the first try did not release it");
        drop(held);
        assert_eq!(mutex.try_lock().as_deref(), Some(&1));
    }
}
