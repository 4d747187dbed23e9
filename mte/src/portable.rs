//! What stands in for the instructions where there are none: data is written, and all tags are 0.

/// Nothing to restore.
pub type Tco = ();

/// The address as it is.
///
/// # Safety
/// None.
#[inline]
pub unsafe fn irg(address: *mut u8, _excluded: u16) -> *mut u8 {
    address
}

/// The address as it is.
///
/// # Safety
/// None.
#[inline]
pub unsafe fn ldg(address: *const u8) -> *const u8 {
    address
}

/// Nothing.
///
/// # Safety
/// None.
#[inline]
pub unsafe fn stg(_tagged: *mut u8) {}

/// Nothing.
///
/// # Safety
/// None.
#[inline]
pub unsafe fn st2g(_tagged: *mut u8) {}

/// Zeroes one granule.
///
/// # Safety
/// It is writable, aligned to 16, and nobody else's meanwhile.
#[inline]
pub unsafe fn stzg(tagged: *mut u8) {
    // SAFETY: the caller's promise.
    unsafe { tagged.cast::<u128>().write(0) }
}

/// Zeroes two granules.
///
/// # Safety
/// As for [`stzg`].
#[inline]
pub unsafe fn stz2g(tagged: *mut u8) {
    // SAFETY: the caller's promise.
    unsafe { tagged.cast::<[u128; 2]>().write([0; 2]) }
}

/// Writes two words to a granule.
///
/// # Safety
/// As for [`stzg`].
#[inline]
pub unsafe fn stgp(tagged: *mut u8, first: u64, second: u64) {
    // SAFETY: the caller's promise.
    unsafe { tagged.cast::<[u64; 2]>().write([first, second]) }
}

/// Never called: there is no [`block`].
///
/// # Safety
/// None.
#[inline]
pub unsafe fn dc_gva(_tagged: *mut u8) {}

/// Never called: there is no [`block`].
///
/// # Safety
/// None.
#[inline]
pub unsafe fn dc_gzva(_tagged: *mut u8) {}

/// No block is tagged at once.
#[inline]
pub fn block() -> Option<usize> {
    None
}

/// Nothing.
#[inline]
pub fn set_unchecked() -> Tco {}

/// Nothing.
#[inline]
pub fn restore_checks(_before: Tco) {}
