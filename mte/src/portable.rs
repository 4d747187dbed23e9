//! What stands in for the instructions where there are none: data is written, and all tags are 0.

/// Nothing to restore.
#[derive(Clone, Copy, Debug)]
pub struct Tco;

/// The address as it is.
///
/// # Safety
/// None.
#[inline]
pub unsafe fn irg(address: u64, _excluded: u16) -> u64 {
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

/// Defines what writes its bytes, each word the same.
macro_rules! stores {
    ($($(#[$doc:meta])* $name:ident ($($word:ident)?): $words:literal, $value:expr;)*) => { $(
        $(#[$doc])*
        ///
        /// # Safety
        /// What is written is writable, aligned to 16, and nobody else's meanwhile.
        #[inline]
        pub unsafe fn $name(tagged: *mut u8 $(, $word: u64)?) {
            // SAFETY: the caller's promise.
            unsafe { tagged.cast::<[u64; $words]>().write([$value; $words]) }
        }
    )* };
}

stores! {
    /// Writes nothing.
    stg(): 0, 0;
    /// Writes nothing.
    st2g(): 0, 0;
    /// Writes nothing.
    st2g_by_8(): 0, 0;
    /// Never called: there is no [`block`].
    dc_gva(): 0, 0;
    /// Never called: there is no [`block`].
    dc_gzva(): 0, 0;
    /// Zeroes one granule.
    stzg(): 2, 0;
    /// Zeroes two granules.
    stz2g(): 4, 0;
    /// Zeroes 256 bytes.
    stz2g_by_8(): 32, 0;
    /// Writes `word` to one granule, twice.
    stgp(word): 2, word;
    /// Writes `word` to 32 bytes.
    stgp_by_2(word): 4, word;
    /// Writes `word` to 256 bytes.
    stgp_by_16(word): 32, word;
}

/// No block is tagged at once.
#[inline]
pub fn block() -> Option<usize> {
    None
}

/// Nothing.
#[inline]
pub fn set_unchecked() -> Tco {
    Tco
}

/// Nothing.
#[inline]
pub fn restore_checks(_before: Tco) {}
