//! Threads that use the heap all the time, and notice when it is not what it should be.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::heap::{Heap, Places};
use crate::object::{Object, Shadow};
use crate::random::Random;

/// Objects that a mutator knows by itself.
const ROOTS: usize = 64;
/// Objects that it visits before it can be stopped.
const HOPS: usize = 8;
/// So many percent of the visits to an own object change a reference.
const REWRITE_PERCENT: usize = 10;

/// What a mutator may hold of the heap while it is stopped: the flip replaces all of it.
#[derive(Debug)]
pub struct Roots<'a> {
    addresses: Vec<usize>,
    places: &'a Places,
}

/// What several threads know of a mutator. It holds its roots' lock while it runs, so who has that has stopped it.
#[derive(Debug)]
pub struct Post<'a> {
    roots: Mutex<Roots<'a>>,
    /// How often it set out.
    walks: AtomicU64,
    /// It found something wrong.
    failed: AtomicBool,
}

/// What all mutators look at before they set out.
#[derive(Debug, Default)]
pub struct Signals {
    /// Somebody wants to stop them for the flip.
    pub flip: AtomicBool,
    /// They are to end.
    pub end: AtomicBool,
}

/// A thread's own side. It writes to the objects whose numbers leave its own as the remainder, and reads all.
#[derive(Debug)]
pub struct Mutator<'a> {
    index: usize,
    mutators: usize,
    heap: &'a Heap,
    random: Random,
    /// Of its own objects, in their order.
    shadows: Vec<Shadow>,
}

impl<'a> Post<'a> {
    /// With roots anywhere in the heap.
    pub fn new(heap: &'a Heap, seed: u64) -> Self {
        let (places, mut random) = (&heap.places, Random::new(seed));
        let root = |_| places.address(random.below(places.count()) as u32);
        let addresses = (0..ROOTS).map(root).collect();
        let roots = Mutex::new(Roots { addresses, places });
        Self { roots, walks: AtomicU64::new(0), failed: AtomicBool::new(false) }
    }

    /// Its roots, once it stands still.
    pub fn stop(&self) -> MutexGuard<'_, Roots<'a>> {
        self.roots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often it set out.
    pub fn walks(&self) -> u64 {
        self.walks.load(Relaxed)
    }

    /// Whether it has ended before its time.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Relaxed)
    }
}

impl<'a> Roots<'a> {
    /// From now on it goes by other addresses.
    pub fn flip(&mut self, forward: impl Fn(usize) -> usize, places: &'a Places) {
        self.addresses.iter_mut().for_each(|address| *address = forward(*address));
        self.places = places;
    }
}

impl<'a> Mutator<'a> {
    /// One of `mutators`.
    pub fn new(index: usize, mutators: usize, heap: &'a Heap, seed: u64) -> Self {
        let random = Random::new(seed ^ (index as u64 + 1) << 32);
        let shadows = heap.shadows.iter().skip(index).step_by(mutators).copied().collect();
        Self { index, mutators, heap, random, shadows }
    }

    /// Walks until it is told to end: what its objects hold then.
    ///
    /// # Errors
    /// What was wrong.
    ///
    /// # Safety
    /// Live objects are at their places, or their pages are missing and will come.
    pub unsafe fn run(mut self, post: &Post<'_>, signals: &Signals) -> Result<Vec<Shadow>, String> {
        while !signals.end.load(Relaxed) {
            while signals.flip.load(Relaxed) {
                std::thread::yield_now();
            }
            // SAFETY: the caller's promise.
            if let Err(wrong) = unsafe { self.walk(&mut post.stop()) } {
                post.failed.store(true, Relaxed);
                return Err(wrong);
            }
            post.walks.fetch_add(1, Relaxed);
        }
        Ok(self.shadows)
    }

    /// # Safety
    /// As for [`run`](Self::run).
    unsafe fn walk(&mut self, roots: &mut Roots<'_>) -> Result<(), String> {
        let places = roots.places;
        let start = self.random.below(ROOTS);
        for _ in 0..HOPS {
            let address = roots.addresses[start];
            if !places.may_hold(address) {
                return Err(format!("{address:#x} is not an address of the heap"));
            }
            // SAFETY: within the arena. Whether there is an object is looked at next.
            let object = unsafe { Object::at(address) };
            let Some(header) = object.header() else {
                return Err(format!("no object at {address:#x}"));
            };
            let id = header.id;
            let known = self.heap.headers.get(id as usize) == Some(&header);
            if !known || places.address(id) != address {
                return Err(format!("object {id} at {address:#x}, where it does not belong"));
            }
            object.check_filling(header)?;
            if id as usize % self.mutators == self.index {
                let shadow = &mut self.shadows[id as usize / self.mutators];
                object.check_owned(header, shadow, |id| places.address(id))?;
                shadow.version += 1;
                object.set_version(header, shadow.version);
                if header.references > 0 && self.random.chance(REWRITE_PERCENT) {
                    let slot = self.random.below(header.references);
                    let target = self.random.below(places.count()) as u32;
                    shadow.references[slot] = target;
                    object.set_reference(slot, places.address(target));
                }
            }
            roots.addresses[start] = match header.references {
                // Nothing leads on from here.
                0 => places.address(self.random.below(places.count()) as u32),
                count => object.reference(self.random.below(count)),
            };
        }
        Ok(())
    }
}

/// What all objects hold at the end, put together from what the mutators know.
pub fn merge(heap: &Heap, ends: Vec<Vec<Shadow>>) -> Vec<Shadow> {
    let mut shadows = heap.shadows.clone();
    let mutators = ends.len();
    for (index, own) in ends.into_iter().enumerate() {
        shadows.iter_mut().skip(index).step_by(mutators).zip(own).for_each(|(to, own)| *to = own);
    }
    shadows
}
