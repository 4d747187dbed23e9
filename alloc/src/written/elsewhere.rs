//! The process's write watch for memory that is not the heap's: made when it is first asked for, and anew in a child of
//! fork. No lock, so that a signal handler may interrupt it.

use core::ops::Range;
use core::sync::atomic::AtomicPtr;
use core::sync::atomic::Ordering::{AcqRel, Acquire};

use refpage::sys::vm;
use refpage::{Refused, Reset, WriteWatch};
use rustix::io::Errno;

use super::NotTold;
use crate::tags;

type Watch = WriteWatch<'static>;

/// Null, or a watch of this process or of one that it descends from, in a mapping that stays.
static WATCH: AtomicPtr<Watch> = AtomicPtr::new(core::ptr::null_mut());

/// As [`watch`](super::watch), elsewhere.
pub fn watch(start: *const u8, len: usize) -> Result<(), NotTold> {
    let kept = WATCH.load(Acquire);
    // Where the program has closed the number, another file may answer as it likes.
    let watch = match own(kept).filter(|watch| watch.is_intact()) {
        Some(watch) => watch,
        None => make(kept)?,
    };
    Ok(watch.watch(address(start), len)?)
}

/// As [`written_watched`](super::written_watched), elsewhere.
pub fn written(
    start: *const u8,
    len: usize,
    reset: Reset,
    room: usize,
    tell: &mut dyn FnMut(Range<usize>),
) -> Result<(), NotTold> {
    let watch = own(WATCH.load(Acquire)).ok_or(NotTold::NotWatched)?;
    let not_told = |refused: Refused| match refused.errno {
        Errno::PERM => NotTold::NotWatched,
        _ => refused.into(),
    };
    let found = watch.written_upto(address(start), len, reset, room).map_err(not_told)?;
    for pages in found {
        tell(pages.map_err(not_told)?);
    }
    Ok(())
}

/// The kernel's calls take no tagged ones.
fn address(start: *const u8) -> *const u8 {
    start.with_addr(tags::address(start))
}

/// The watch that is kept, if it is this process's.
fn own(kept: *mut Watch) -> Option<&'static Watch> {
    // SAFETY: null, or written by `make`, and never after that.
    unsafe { kept.as_ref() }.filter(|watch| watch.is_own())
}

/// Makes one in place of what is kept, which is of no use any more, unless another thread is quicker.
fn make(kept: *mut Watch) -> Result<&'static Watch, Refused> {
    let watch = Watch::new()?;
    let place = vm::reserve(size_of::<Watch>(), vm::page_size());
    let place = place.map_err(|errno| Refused { step: "memory for a write watch", errno })?;
    let place = place.cast::<Watch>();
    // SAFETY: nobody else knows the mapping, which begins with a page.
    unsafe { place.write(watch) };
    match WATCH.compare_exchange(kept, place, AcqRel, Acquire) {
        Ok(_) => {
            if !kept.is_null() {
                // Who still looks at it finds that it is the parent's, or its descriptors closed.
                // SAFETY: written by another call of this, and taken by this one alone. Dropped, a copy closes what is
                // still its own.
                drop(unsafe { kept.read() });
            }
            // SAFETY: written above, and kept from now on.
            Ok(unsafe { &*place })
        }
        Err(quicker) => {
            // SAFETY: nobody else has seen it.
            unsafe {
                place.drop_in_place();
                vm::unmap(place.cast(), size_of::<Watch>());
            }
            own(quicker)
                .ok_or(Refused { step: "a write watch in a child of fork", errno: Errno::AGAIN })
        }
    }
}
