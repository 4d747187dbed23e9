//! Every object after the compaction, word by word.

use crate::heap::{Heap, Places};
use crate::object::{Object, Shadow, WORD};

/// What was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Objects.
    pub objects: usize,
    /// Their bytes.
    pub bytes: usize,
}

/// Checks every object: header, filling, version, references.
///
/// # Errors
/// What is wrong with the first that is.
///
/// # Safety
/// The places are in memory that nobody writes to.
pub unsafe fn verify(heap: &Heap, places: &Places, shadows: &[Shadow]) -> Result<Verified, String> {
    let mut verified = Verified::default();
    for (header, shadow) in heap.headers.iter().zip(shadows) {
        let address = places.address(header.id);
        // SAFETY: the caller's promise.
        let object = unsafe { Object::at(address) };
        match object.header() {
            Some(found) if found == *header => {}
            found => {
                return Err(format!("{found:?} at {address:#x}, where {header:?} should be"));
            }
        }
        object.check_filling(*header)?;
        object.check_owned(*header, shadow, |id| places.address(id))?;
        verified.objects += 1;
        verified.bytes += header.words * WORD;
    }
    Ok(verified)
}
