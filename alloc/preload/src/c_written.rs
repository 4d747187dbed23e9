//! Which pages were written to: of a large allocation, and as Windows' `GetWriteWatch` tells it, of any memory.

use core::ffi::{c_int, c_uint, c_void};
use core::ops::Range;

use libc::{EBUSY, EFAULT, EINVAL, ENOMEM, ENOTSUP};
use refpage_alloc::{NotTold, Reset};

use crate::c_malloc::{os_page_size, set_errno};

/// `REFPAGE_WRITE_WATCH_RESET`.
const RESET: c_uint = 1;

/// None: there are others among them.
fn reset(flags: c_uint) -> Option<Reset> {
    match flags {
        0 => Some(Reset::No),
        RESET => Some(Reset::Yes),
        _ => None,
    }
}

fn errno_of(why: NotTold) -> c_int {
    match why {
        NotTold::NoAllocation | NotTold::Small | NotTold::NotWatched => EINVAL,
        NotTold::Refused(refused) => match refused.errno.raw_os_error() {
            errno @ (EINVAL | EBUSY | ENOMEM | EFAULT) => errno,
            _ => ENOTSUP,
        },
    }
}

/// Room of C's for the addresses of pages.
struct Room {
    addresses: *mut *mut c_void,
    size: usize,
    used: usize,
    page: usize,
}

impl Room {
    /// # Safety
    /// `addresses` is valid for writing `size` pointers.
    unsafe fn new(addresses: *mut *mut c_void, size: usize) -> Self {
        Self { addresses, size, used: 0, page: os_page_size() }
    }

    fn take(&mut self, pages: Range<usize>) {
        for page in pages.step_by(self.page).take(self.size - self.used) {
            // SAFETY: within `size`, by the contract of who made this.
            unsafe { self.addresses.add(self.used).write(page as *mut c_void) };
            self.used += 1;
        }
    }
}

/// Stores the first `size` addresses of pages of a large allocation that were written to, and returns how many there
/// are; (size_t)-1 and errno if that cannot be told. With a reset, those that were stored are told again only if
/// somebody writes to them.
///
/// # Safety
/// `addresses` is valid for writing `size` pointers. The pointer may be any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn refpage_written(
    pointer: *const c_void,
    flags: c_uint,
    addresses: *mut *mut c_void,
    size: usize,
) -> usize {
    let failed = |errno| {
        set_errno(errno);
        usize::MAX
    };
    let Some(reset) = reset(flags).filter(|_| size == 0 || !addresses.is_null()) else {
        return failed(EINVAL);
    };
    // SAFETY: the caller's promise.
    let mut room = unsafe { Room::new(addresses, size) };
    match refpage_alloc::written_upto(pointer, reset, size, |pages| room.take(pages)) {
        Ok(count) => count,
        Err(NotTold::Refused(_)) => failed(ENOTSUP),
        Err(why) => failed(errno_of(why)),
    }
}

/// 0, or -1 and errno, as a function's result.
fn done(result: Result<(), NotTold>) -> c_int {
    result.map_or_else(
        |why| {
            set_errno(errno_of(why));
            -1
        },
        |()| 0,
    )
}

/// Starts to watch memory: none of it counts as written to. 0, or -1 and errno.
#[unsafe(no_mangle)]
pub extern "C" fn refpage_write_watch(base: *mut c_void, size: usize) -> c_int {
    if size == 0 {
        return done(Err(NotTold::NoAllocation));
    }
    done(refpage_alloc::watch(base.cast(), size))
}

/// Stores the addresses of watched pages that were written to, as many as there is room for, which `count` tells
/// before; how many it were, after. 0, or nonzero and errno; then nothing is stored but addresses.
///
/// # Safety
/// `count` is null or valid for reading and writing, `addresses` for writing so many pointers, and `granularity` is null or
/// valid for writing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn refpage_get_write_watch(
    flags: c_uint,
    base: *mut c_void,
    size: usize,
    addresses: *mut *mut c_void,
    count: *mut usize,
    granularity: *mut c_uint,
) -> c_uint {
    let reset = reset(flags).filter(|_| size > 0 && !count.is_null() && !addresses.is_null());
    let Some(reset) = reset else { return done(Err(NotTold::NoAllocation)) as c_uint };
    // SAFETY: the caller's promise.
    let mut room = unsafe { Room::new(addresses, count.read()) };
    let told = refpage_alloc::written_watched(base.cast(), size, reset, room.size, |pages| {
        room.take(pages);
    });
    if told.is_ok() {
        // SAFETY: the caller's promise.
        unsafe {
            count.write(room.used);
            if !granularity.is_null() {
                granularity.write(room.page as c_uint);
            }
        }
    }
    done(told) as c_uint
}

/// Has all of this watched memory count as not written to. 0, or nonzero and errno.
#[unsafe(no_mangle)]
pub extern "C" fn refpage_reset_write_watch(base: *mut c_void, size: usize) -> c_uint {
    if size == 0 {
        return done(Err(NotTold::NoAllocation)) as c_uint;
    }
    done(refpage_alloc::written_watched(base.cast(), size, Reset::Yes, usize::MAX, drop)) as c_uint
}
