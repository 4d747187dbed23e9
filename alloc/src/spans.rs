//! Spans of small blocks, by size class: where magazines are filled from and emptied to.
//!
//! A span hands out blocks that came back first, then opens new ones from its start, readying
//! pages ahead of them by as many as the class is likely to need: so the pages that were never
//! needed stay missing.

use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use mte::Tag;
use refpage::Pages;
use refpage::sys::lock::{Guard, Mutex};

use crate::cache::{Memory, Waiting};
use crate::classes;
use crate::depot::{BATCHES, no_blocks};
use crate::extents::List;
use crate::page_map::{Kind, Run};
use crate::report::die_of;
use crate::tags;

/// The share of what a class has readied so far that it readies ahead: a class that is hardly used
/// costs little, one that is used much has its memory put in place in long stretches.
const AHEAD: usize = 8;

/// Pages that are readied at once at least, and bytes at most.
const FEWEST_READY: usize = 2;
const MOST_READY: usize = 64 << 10;

/// The spans of one class that have blocks to give.
#[derive(Debug)]
struct Class {
    spans: List,
    count: usize,
    /// Pages that were readied, ever.
    readied: usize,
}

/// All spans of a heap.
#[derive(Debug)]
pub struct Spans {
    classes: [Mutex<Class>; classes::COUNT],
    /// Bytes in blocks that are handed out, magazines included.
    out: AtomicUsize,
}

impl Spans {
    /// No spans yet.
    pub const fn new() -> Self {
        Self {
            classes: [const { Mutex::new(Class { spans: List::EMPTY, count: 0, readied: 0 }) };
                classes::COUNT],
            out: AtomicUsize::new(0),
        }
    }

    /// Bytes in blocks that are handed out, those in magazines and in the depot included.
    pub fn bytes_out(&self) -> usize {
        self.out.load(Relaxed)
    }

    /// Where the word of [`bytes_out`](Self::bytes_out) is.
    pub fn bytes_out_word(&self) -> usize {
        core::ptr::from_ref(&self.out).expose_provenance()
    }

    /// Blocks of `class` that came back and wait in its spans.
    pub fn free_blocks(&self, memory: Memory<'_>, class: usize) -> usize {
        let list = self.classes[class].lock();
        let spans = list.spans.newest_first(memory.map);
        spans.map(|head| memory.map.run(head).returned.load(Relaxed) as usize).sum()
    }

    /// Fills `out` with blocks of `class`, which hold the content: how many, 0 when memory runs
    /// out.
    pub fn take(&self, memory: Memory<'_>, class: usize, out: &mut [*mut u8]) -> usize {
        let (mut list, head) = loop {
            let mut list = self.classes[class].lock();
            if let Some(head) = list.spans.newest() {
                break (list, head);
            }
            // Opening one takes system calls: not under the lock. Then somebody else may be there
            // first, or open one, too.
            drop(list);
            let Some(head) = open_span(memory, class) else { return 0 };
            list = self.classes[class].lock();
            list.spans.push(memory.map, head);
            list.count += 1;
        };
        let run = memory.map.run(head);
        let mut taken = reuse(memory, head, class, out);
        let opened = open_blocks(memory, head, class, out.get_mut(taken..).unwrap_or_default());
        taken += opened;
        let ready = pages_to_ready(memory, run, class, list.readied);
        list.readied += ready.count;
        if run.returned.load(Relaxed) == 0
            && run.opened.load(Relaxed) as usize == classes::span_blocks(class)
        {
            list.spans.remove(memory.map, head);
            list.count -= 1;
            run.listed.store(false, Relaxed);
        }
        // Missing pages may be put in place by anyone at any time; only filling must not come late.
        let list = memory.engine.service().fills_at_allocation().then_some(list);
        memory.cache.arenas.ready(memory, ready);
        drop(list);
        open_tags(memory, head, class, out.get_mut(..taken).unwrap_or_default());
        self.out.fetch_add(taken * classes::size(class), Relaxed);
        taken
    }

    /// Takes blocks of `class` back; they hold the content.
    pub fn give(&self, memory: Memory<'_>, class: usize, blocks: &[*mut u8]) {
        let list = self.classes[class].lock();
        self.give_under(list, memory, class, blocks, Waiting::Allowed);
    }

    /// The same with those that `next` puts into a batch, and says how many, until there are none, or as many
    /// as there may be; or until it would have to wait.
    pub fn drain(
        &self,
        memory: Memory<'_>,
        class: usize,
        waiting: Waiting,
        next: impl Fn(&mut [*mut u8]) -> usize,
    ) {
        for _ in 0..BATCHES {
            let Some(list) = waiting.lock(&self.classes[class]) else { break };
            let mut blocks = no_blocks();
            let count = next(&mut blocks);
            if count == 0 {
                break;
            }
            let blocks = blocks.get(..count).unwrap_or_default();
            self.give_under(list, memory, class, blocks, waiting);
        }
    }

    fn give_under(
        &self,
        mut list: Guard<'_, Class>,
        memory: Memory<'_>,
        class: usize,
        blocks: &[*mut u8],
        waiting: Waiting,
    ) {
        let mut closed = List::EMPTY;
        for &block in blocks {
            let address = tags::address(block);
            let slot = memory.map.slot_at(address);
            // A block's slot always has a head; if not, the map is damaged and so is the program.
            let Some(head) = memory.map.head(slot) else { continue };
            let run = memory.map.run(head);
            let index = classes::index_of(address - memory.map.address(head) as usize, class);
            set_free(memory, head, class, index, block);
            let returned = run.returned.fetch_add(1, Relaxed) + 1;
            if !run.listed.load(Relaxed) {
                run.listed.store(true, Relaxed);
                list.spans.push(memory.map, head);
                list.count += 1;
            }
            if returned == run.opened.load(Relaxed) && list.count > 1 {
                list.spans.remove(memory.map, head);
                list.count -= 1;
                closed.push(memory.map, head);
            }
        }
        // Who may wait does what takes longer without the lock.
        let mut list = if waiting == Waiting::Allowed {
            drop(list);
            None
        } else {
            Some(list)
        };
        while let Some(head) = closed.newest() {
            closed.remove(memory.map, head);
            if waiting == Waiting::Allowed {
                // It may be at a window for who had the last of the blocks.
                memory.engine.let_handler_finish(memory.pages(head));
            }
            if !memory.cache.keep_span(memory, head, waiting)
                && let Some(list) = &mut list
            {
                list.spans.push(memory.map, head);
                list.count += 1;
            }
        }
        self.out.fetch_sub(blocks.len() * classes::size(class), Relaxed);
    }

    /// Locks everything for the time of a fork.
    pub fn acquire(&self) {
        for class in &self.classes {
            class.acquire();
        }
    }

    /// Unlocks what [`acquire`](Self::acquire) locked.
    ///
    /// # Safety
    /// As for [`Mutex::release`].
    pub unsafe fn release(&self) {
        // SAFETY: the caller's promise.
        unsafe {
            for class in &self.classes {
                class.release();
            }
        }
    }
}

/// A span for `class`, with no block out: an empty one that kept its pages, or a new one.
fn open_span(memory: Memory<'_>, class: usize) -> Option<usize> {
    let slots = classes::span_slots(class);
    let (head, again) = match memory.cache.take_span(memory, slots) {
        Some(head) => {
            // All that was opened in its former use is noted as free.
            let former = usize::from(memory.map.run(head).class.load(Relaxed));
            for word in memory.map.free_bits(head, words(former)) {
                word.store(0, Relaxed);
            }
            (head, former == class)
        }
        None => (memory.cache.arenas.allocate(memory, slots)?, false),
    };
    let (run, pages) = (memory.map.run(head), memory.map.pages(head, slots));
    run.window.open(pages, 0, 1);
    run.window.set_tag(Tag::ZERO, 0);
    if !again {
        // What its former blocks carried is not what new ones begin with.
        memory.engine.retag(pages);
    }
    run.slots.store(slots as u32, Relaxed);
    run.class.store(class as u8, Relaxed);
    run.opened.store(0, Relaxed);
    run.returned.store(0, Relaxed);
    run.readied.store(0, Relaxed);
    run.listed.store(true, Relaxed);
    run.set_kind(Kind::Span);
    Some(head)
}

/// Gives blocks that are handed out the tags that pointers to them have.
fn open_tags(memory: Memory<'_>, head: usize, class: usize, blocks: &mut [*mut u8]) {
    if !tags::on() {
        return;
    }
    let start = memory.map.address(head) as usize;
    for block in blocks {
        let index = (*block as usize - start) / classes::size(class);
        // SAFETY: the block is in this thread's hands, and its pages are readied.
        *block = unsafe { tags::open_block(*block, class, index) };
    }
}

fn words(class: usize) -> usize {
    classes::span_blocks(class).div_ceil(64)
}

fn block_at(memory: Memory<'_>, head: usize, class: usize, index: usize) -> *mut u8 {
    // SAFETY: indices are below the span's number of blocks.
    unsafe { memory.map.address(head).add(index * classes::size(class)) }
}

/// Hands out blocks that came back: how many.
fn reuse(memory: Memory<'_>, head: usize, class: usize, out: &mut [*mut u8]) -> usize {
    let run = memory.map.run(head);
    if run.returned.load(Relaxed) == 0 {
        return 0;
    }
    let mut taken = 0;
    for (i, word) in memory.map.free_bits(head, words(class)).iter().enumerate() {
        let mut bits = word.load(Relaxed);
        while bits != 0 {
            let Some(place) = out.get_mut(taken) else { break };
            *place = block_at(memory, head, class, i * 64 + bits.trailing_zeros() as usize);
            bits &= bits - 1;
            taken += 1;
        }
        word.store(bits, Relaxed);
        if taken == out.len() {
            break;
        }
    }
    run.returned.fetch_sub(taken as u32, Relaxed);
    taken
}

fn set_free(memory: Memory<'_>, head: usize, class: usize, index: usize, block: *mut u8) {
    let bits = memory.map.free_bits(head, words(class));
    if let Some(word) = bits.get(index / 64) {
        let old = word.load(Relaxed);
        if old >> (index % 64) & 1 == 1 {
            let line = format_args!("double free of {block:p}, by two threads at once");
            die_of(line, tags::address(block));
        }
        word.store(old | 1 << (index % 64), Relaxed);
    }
}

/// Hands out blocks that were never out before: how many.
fn open_blocks(memory: Memory<'_>, head: usize, class: usize, out: &mut [*mut u8]) -> usize {
    let run = memory.map.run(head);
    let opened = run.opened.load(Relaxed) as usize;
    let count = out.len().min(classes::span_blocks(class) - opened);
    if count == 0 {
        return 0;
    }
    for (place, index) in out.iter_mut().zip(opened..opened + count) {
        *place = block_at(memory, head, class, index);
    }
    run.opened.store((opened + count) as u32, Relaxed);
    count
}

/// The pages that the span needs by now and has not readied, and some more: the class has readied
/// so many before.
fn pages_to_ready(memory: Memory<'_>, run: &Run, class: usize, before: usize) -> Pages {
    let pages = run.window.pages();
    let shift = memory.engine.region().page_shift();
    let readied = run.readied.load(Relaxed) as usize;
    let end = run.opened.load(Relaxed) as usize * classes::size(class);
    let needed = end.div_ceil(1 << shift);
    if needed <= readied {
        return pages.prefix(0);
    }
    let ahead = (before / AHEAD).min(MOST_READY >> shift).max(FEWEST_READY);
    let upto = needed.max(readied + ahead).min(pages.count);
    run.readied.store(upto as u32, Relaxed);
    Pages::span(pages.first + readied, pages.first + upto)
}
