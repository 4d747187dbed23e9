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

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use refpage::moves::{Missing, Mover};

    use super::*;
    use crate::heap::Shape;
    use crate::mutator::{Mutator, Post, Signals};

    const SHAPE: Shape =
        Shape { pages: 8, populated_run: 2, fragmented_run: 1, references: 3, seed: 5 };

    /// Inverts some words of an object, and says what verification and a mutator say of it.
    fn noticed(changes: impl Fn(&Heap) -> Vec<(u32, usize)>) -> Option<[bool; 2]> {
        let mover = Mover::new().map_err(|why| eprintln!("skipped: {why}")).ok()?;
        let arena = mover.arena(SHAPE.pages, Missing::Zeros).expect("address space");
        let heap = Heap::create(&arena, &SHAPE);
        for (id, word) in changes(&heap) {
            let address = heap.places.address(id) as *mut u64;
            // SAFETY: a word of a live object, which nobody uses yet.
            unsafe { *address.add(word) ^= 1 << 20 };
        }
        // SAFETY: the heap is there, and nobody uses it.
        let verified = unsafe { verify(&heap, &heap.places, &heap.shadows) };
        let (post, signals) = (Post::new(&heap, 1), Signals::default());
        let mutator = Mutator::new(0, 1, &heap, 1);
        let met = std::thread::scope(|scope| {
            // SAFETY: as above.
            let mutator = scope.spawn(|| unsafe { mutator.run(&post, &signals) });
            while post.walks() < 20_000 && !post.has_failed() {
                std::thread::yield_now();
            }
            signals.end.store(true, Relaxed);
            mutator.join().expect("a mutator")
        });
        Some([verified.is_err(), met.is_err()])
    }

    #[test]
    fn a_heap_that_is_as_it_should_be_passes() {
        assert!(matches!(noticed(|_| vec![]), None | Some([false, false])));
    }

    #[test]
    fn one_wrong_word_is_noticed_whichever_it_is() {
        let changes: [fn(&Heap) -> usize; 5] =
            [|_| 0, |_| 1, |_| 2, |_| 3, |heap| heap.headers[40].words - 1];
        for change in changes {
            let noticed = noticed(|heap| vec![(40, change(heap))]);
            assert!(matches!(noticed, None | Some([true, true])), "{noticed:?}");
        }
    }
}
