//! A heap, its mutators, one compaction, and what became of all objects.

use std::sync::OnceLock;
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::thread;
use std::time::{Duration, Instant};

use refpage::moves::{Missing, Mover};
use refpage::sys::vm::page_size;

use crate::account::{allocated_pages, mappings, minor_faults, thread_cpu};
use crate::carry::{Carrier, Way};
use crate::compaction::{Answers, Compaction};
use crate::emptied::Emptied;
use crate::heap::{Heap, Shape};
use crate::mutator::{Mutator, Post, Signals, merge};
use crate::outcome::{Failure, Outcome};
use crate::plan::{Plan, Source};
use crate::verify::verify;

/// Frames that are there from the start.
const SPARES: usize = 8;
/// Copied pages are dropped when they are so many bytes, as ART did.
const DROP_BYTES: usize = 8 << 20;
/// How often each mutator sets out before the compaction, and after it.
const WALKS: u64 = 1000;

/// What is to be done.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// How the heap looks.
    pub shape: Shape,
    /// How pages are carried.
    pub way: Way,
    /// Threads that use the heap.
    pub mutators: usize,
    /// Pages that go together at most.
    pub batch: usize,
}

/// What the compaction itself cost.
struct Cost {
    wall: Duration,
    pause: Duration,
    cpu: Duration,
    answers: Answers,
    allocated: Option<u64>,
    minor_faults: u64,
}

/// Compacts a heap once, while mutators use it, and verifies every object.
///
/// # Errors
/// A wrong word, or a mapping too many; or what the kernel did not do.
///
/// # Panics
/// If there are more than 32 GiB of heap, or no thread can be started. If a page cannot be put in place at all, which
/// a thread may be waiting for, the process is aborted.
pub fn run(mover: &Mover, setup: &Setup) -> Result<Outcome, Failure> {
    run_with(mover, setup, || {})
}

/// The same, and something is done when the heap is there and nobody uses it yet.
///
/// # Errors
/// As [`run`].
///
/// # Panics
/// As [`run`].
pub fn run_with(mover: &Mover, setup: &Setup, before: impl FnOnce()) -> Result<Outcome, Failure> {
    let pages = setup.shape.pages;
    let from = mover.arena(pages + SPARES, Missing::Zeros)?;
    let to = mover.arena(pages, Missing::Faults)?;
    let heap = Heap::create(&from, &setup.shape);
    // SAFETY: a page of the arena, that holds nothing.
    (pages..pages + SPARES).for_each(|page| unsafe { from.address(page).write(1) });
    before();
    let count = || Ok(mappings(from.addresses())? + mappings(to.addresses())?);
    let wrong = |why: std::io::Error| Failure::Wrong(format!("/proc/self/maps: {why}"));
    let vmas_before = count().map_err(wrong)?;
    let emptied = Emptied::new(&from, drop_at(setup.way));
    let carrier = Carrier::new(setup.way, &to, &from, &emptied);
    let plan = OnceLock::new();
    let posts: Vec<Post> = (0..setup.mutators)
        .map(|index| Post::new(&heap, setup.shape.seed + index as u64))
        .collect();
    let signals = Signals::default();
    let (cost, ends) = thread::scope(|scope| {
        let mutators: Vec<_> = posts
            .iter()
            .enumerate()
            .map(|(index, post)| {
                let mutator = Mutator::new(index, setup.mutators, &heap, setup.shape.seed);
                let signals = &signals;
                // SAFETY: objects are at their places, and after the flip in pages that the compaction brings.
                scope.spawn(move || unsafe { mutator.run(post, signals) })
            })
            .collect();
        wait(&posts, WALKS);
        let plan = plan.get_or_init(|| Plan::new(&heap, &from, &to, pages));
        let cost = compact(mover, setup, plan, &carrier, &posts, &signals);
        wait(&posts, WALKS);
        signals.end.store(true, Relaxed);
        let ends = mutators.into_iter().map(|mutator| mutator.join().expect("a mutator"));
        (cost, ends.collect::<Result<Vec<_>, String>>())
    });
    let (cost, ends) = (cost?, ends.map_err(Failure::Wrong)?);
    let plan = plan.get().expect("it was made before the compaction");
    let shadows = merge(&heap, ends);
    // SAFETY: all mutators have ended, and the pages are there: `compact` has returned.
    let verified = unsafe { verify(&heap, &plan.places, &shadows) }.map_err(Failure::Wrong)?;
    let vmas_after = count().map_err(wrong)?;
    if setup.way != Way::Mremap && vmas_after > vmas_before {
        let grown = format!("{vmas_before} mappings became {vmas_after}");
        return Err(Failure::Wrong(grown));
    }
    let gathered = (0..plan.pages()).filter(|&page| plan.source(page) == Source::Gathered).count();
    let counts = &carrier.counts;
    let [copied, remapped, present] =
        [&counts.copied, &counts.remapped, &counts.present].map(|count| count.load(Relaxed));
    if present > 0 {
        return Err(Failure::Wrong(format!("{present} pages were there before they came")));
    }
    Ok(Outcome {
        way: setup.way,
        pages_before: pages,
        pages_after: plan.pages(),
        whole: plan.pages() - gathered,
        gathered,
        moved: plan.pages() - copied - remapped,
        copied,
        remapped,
        mappings_full: carrier.is_full(),
        not_movable: counts.not_movable.load(Relaxed),
        short: counts.short.load(Relaxed),
        other_stops: counts.other.load(Relaxed),
        faults: cost.answers.faults,
        answered: cost.answers.pages,
        wall: cost.wall,
        pause: cost.pause,
        compactor_cpu: cost.cpu,
        answerer_cpu: cost.answers.cpu,
        allocated: cost.allocated,
        minor_faults: cost.minor_faults,
        vmas_before,
        vmas_after,
        walks: posts.iter().map(Post::walks).sum(),
        writes: shadows.iter().map(|shadow| shadow.version).sum(),
        objects: verified.objects,
        bytes: verified.bytes,
    })
}

/// A moved page is nowhere else, and emptied ones are wanted as frames: nothing is dropped before the end.
fn drop_at(way: Way) -> usize {
    match way {
        Way::Move => usize::MAX,
        Way::Copy | Way::Mremap => DROP_BYTES / page_size(),
    }
}

/// The flip, and all pages.
fn compact<'a>(
    mover: &Mover,
    setup: &Setup,
    plan: &'a Plan,
    carrier: &Carrier<'a>,
    posts: &[Post<'a>],
    signals: &Signals,
) -> Result<Cost, Failure> {
    let spares = setup.shape.pages..carrier.from.pages();
    carrier.emptied.add(spares)?;
    for &page in &plan.empty {
        carrier.emptied.add(page..page + 1)?;
    }
    let compaction = Compaction::new(plan, carrier);
    thread::scope(|scope| {
        let answerer = scope.spawn(|| compaction.answer(mover));
        let (allocated, faults) = (allocated_pages(), minor_faults());
        let (start, cpu) = (Instant::now(), thread_cpu());
        let pause = flip(plan, posts, signals);
        let compacted = compaction.compact(setup.batch);
        let (wall, cpu) = (start.elapsed(), thread_cpu() - cpu);
        let now = (allocated_pages(), minor_faults());
        compaction.end();
        let answers = answerer.join().expect("who answers faults")?;
        compacted?;
        let allocated = now.0.zip(allocated).map(|(now, before)| now - before);
        Ok(Cost { wall, pause, cpu, answers, allocated, minor_faults: now.1 - faults })
    })
}

/// Stops all mutators, and has them go by new addresses: how long that took.
fn flip<'a>(plan: &'a Plan, posts: &[Post<'a>], signals: &Signals) -> Duration {
    let start = Instant::now();
    signals.flip.store(true, Relaxed);
    let mut stopped: Vec<_> = posts.iter().map(Post::stop).collect();
    stopped.iter_mut().for_each(|roots| roots.flip(|old| plan.forward(old), &plan.places));
    signals.flip.store(false, Release);
    drop(stopped);
    start.elapsed()
}

/// Waits until each mutator has set out so many times more, or failed.
fn wait(posts: &[Post<'_>], walks: u64) {
    for post in posts {
        let until = post.walks() + walks;
        while post.walks() < until && !post.has_failed() {
            thread::sleep(Duration::from_micros(100));
        }
    }
}
