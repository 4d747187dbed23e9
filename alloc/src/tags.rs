//! Memory tags of runs and blocks: which one each gets, and when it changes. See the crate `mte`.
//!
//! ```text
//!   large run     a random tag, never 0, never a neighbour's ─┐ another one as soon as it is freed:
//!   small block   random, odd and even by turns in its span ──┘ an old pointer does not fit any more
//! ```
//!
//! Memory that is nobody's, and what lies behind the bytes that were asked for, carries 0 or the tag
//! of its next user; so no pointer fits it either. Where there are no tags, none of this is compiled
//! in, or one flag says so.

use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use core::sync::atomic::{AtomicU8, fence};

use mte::{Granules, Mode, Tag, TagSet, Unchecked};
use refpage::sys::report::warn;
use refpage::sys::vm::Tags;
use refpage::{Content, Fresh, Pages, Service, Touched};

use crate::cache::Memory;
use crate::classes;
use crate::misuse;
use crate::options::{MteChoice, Options, ServiceChoice};

/// How this process checks the tags of its pointers, by its place in [`MODES`]; the first: they have none.
static MODE: AtomicU8 = AtomicU8::new(0);

const MODES: [Option<Mode>; 4] =
    [None, Some(Mode::Sync), Some(Mode::Async), Some(Mode::Asymmetric)];

/// What is not chosen where the tag is to be odd, or even; 0 never is.
const NOT_ODD: TagSet = TagSet::from_mask(0x5555);
const NOT_EVEN: TagSet = TagSet::from_mask(0xAAAB);

/// Whether pointers carry tags in this process.
#[inline]
pub fn on() -> bool {
    mte::AVAILABLE && MODE.load(Relaxed) != 0
}

/// How they are checked: `sync`, `async` or `asymm`, or `off` if they carry none.
pub fn mode_name() -> &'static str {
    let mode = MODES.get(usize::from(MODE.load(Relaxed))).copied().flatten();
    mode.map_or("off", Mode::as_str)
}

/// Until it is dropped, this thread may use tagged memory by its plain address.
#[inline]
pub fn unchecked() -> Option<Unchecked> {
    on().then(mte::without_checks)
}

/// The address in a pointer: system calls, and everything here, work on that.
#[inline]
pub fn address(pointer: *const u8) -> usize {
    if mte::AVAILABLE { mte::untag(pointer as u64) as usize } else { pointer as usize }
}

/// Has accesses checked from now on in this thread, and in those that it starts, as the options say: before
/// the first memory is mapped. Says so if that was asked for and cannot be had.
pub fn start(options: &Options) -> Tags {
    let level = mte::level();
    let mode = match options.mte {
        MteChoice::Off => return Tags::Without,
        // What the program, or whoever started it, has chosen already; else what tells most.
        MteChoice::Auto if level.is_none() || options.service == ServiceChoice::Off => {
            return Tags::Without;
        }
        MteChoice::Auto => mte::mode().unwrap_or(Mode::Sync),
        MteChoice::Sync => Mode::Sync,
        MteChoice::Async => Mode::Async,
        MteChoice::Asymm => Mode::Asymmetric,
    };
    let refused = |why: &str| {
        warn(format_args!("mte={}: {why}; memory is not tagged", options.mte.as_str()));
        Tags::Without
    };
    if options.service == ServiceChoice::Off {
        return refused("service=off fills and tags nothing");
    }
    match level {
        None => return refused("this processor or kernel has no memory tags (HWCAP2_MTE)"),
        Some(level) if mode == Mode::Asymmetric && level != mte::Level::Asymmetric => {
            return refused(
                "this processor has no asymmetric checks (FEAT_MTE3); take sync or async",
            );
        }
        Some(_) => {}
    }
    match mte::enable(mode) {
        Ok(()) => {
            let place = MODES.iter().position(|&known| known == Some(mode)).unwrap_or(0);
            MODE.store(place as u8, Relaxed);
            Tags::With
        }
        Err(errno) => {
            warn(format_args!(
                "memory is not tagged: prctl(PR_SET_TAGGED_ADDR_CTRL) says {}; mte=off asks for that",
                refpage::sys::errno::name(rustix::io::Errno::from_raw_os_error(errno))
            ));
            Tags::Without
        }
    }
}

/// The pointer to the run at `head`.
pub fn pointer(memory: Memory<'_>, head: usize) -> *mut u8 {
    tagged(memory.start(head), memory.map.run(head).window.tag())
}

fn tagged(address: *mut u8, tag: Tag) -> *mut u8 {
    if on() { address.with_addr(mte::with_tag(address as u64, tag) as usize) } else { address }
}

/// Readies the tags of a run in hand for pointers to its first `size` bytes.
pub fn open_run(memory: Memory<'_>, head: usize, size: usize) {
    if !memory.engine.has_tags() {
        return;
    }
    let tag = memory.map.run(head).window.tag();
    if tag == Tag::ZERO || neighbours(memory, head).contains(tag) {
        set_another(memory, head, size);
        memory.engine.retag(memory.pages(head));
    } else {
        resize_run(memory, head, size);
    }
}

/// The run at `head` is used up to `size` bytes from now on, by the same pointers.
pub fn resize_run(memory: Memory<'_>, head: usize, size: usize) {
    if !memory.engine.has_tags() {
        return;
    }
    let window = &memory.map.run(head).window;
    // Of a longer run that this one was cut from, or of a former one here.
    let (start, pages) = (memory.map.address(head) as usize, memory.pages(head));
    let limit = memory.engine.region().address(pages.end()) as usize;
    let old = window.tagged_end().clamp(start, limit);
    set(memory, head, window.tag(), size);
    let new = window.tagged_end();
    let (from, to) = (old.min(new), old.max(new));
    memory.engine.retag(memory.engine.region().pages_of(from, to - from));
}

/// The run at `head` is freed: no pointer to it fits any more once its pages are refilled.
pub fn retire_run(memory: Memory<'_>, head: usize, size: usize) {
    if memory.engine.has_tags() {
        set_another(memory, head, size);
    }
}

/// Whether the run at `head`, which has grown, has the tag of its new neighbour.
pub fn grew_into_its_like(memory: Memory<'_>, head: usize) -> bool {
    memory.engine.has_tags() && neighbours(memory, head).contains(memory.map.run(head).window.tag())
}

/// Gives the run any tag but its own, its neighbours' and 0.
fn set_another(memory: Memory<'_>, head: usize, size: usize) {
    let own = memory.map.run(head).window.tag();
    loop {
        let excluded = neighbours(memory, head).insert(own).insert(Tag::ZERO);
        let tag = mte::random(excluded);
        set(memory, head, tag, size);
        // A neighbour may have chosen at the same time: one of the two sees it.
        fence(SeqCst);
        if !neighbours(memory, head).contains(tag) {
            return;
        }
    }
}

fn set(memory: Memory<'_>, head: usize, tag: Tag, size: usize) {
    let end = memory.map.address(head) as usize + size.next_multiple_of(mte::GRANULE);
    memory.map.run(head).window.set_tag(tag, end);
    // What it puts in place from now on has these.
    memory.engine.let_handler_finish(memory.pages(head));
}

fn neighbours(memory: Memory<'_>, head: usize) -> TagSet {
    let behind = head + memory.map.run(head).slots.load(Relaxed) as usize;
    let before = head.checked_sub(1).map_or(Tag::ZERO, |slot| tag_of_slot(memory, slot));
    TagSet::EMPTY.insert(before).insert(tag_of_slot(memory, behind))
}

/// The tag of the run that a slot belongs to, or belonged to last.
fn tag_of_slot(memory: Memory<'_>, slot: usize) -> Tag {
    let head = if slot < memory.map.slots() { memory.map.head(slot) } else { None };
    head.map_or(Tag::ZERO, |head| memory.map.run(head).window.tag())
}

/// With `cow` and tags: a run that shows a file with its tag shows one with another tag from now on; or
/// none, if most of it was used.
pub fn retire_backed(memory: Memory<'_>, head: usize, used: Pages, fresh: Fresh) -> Touched {
    let window = &memory.map.run(head).window;
    let touched = memory.engine.touched(used);
    if touched.pages * 2 >= used.count {
        memory.engine.unback_run(window, fresh);
        // What was added behind, when the run grew.
        memory.engine.refill(used, fresh);
    } else {
        memory.engine.back_run(window, used, fresh);
    }
    touched
}

/// With `cow` and tags: a run in hand, of which so many pages will be used, shows a file that has its
/// tag if they are few, and all of it is missing; else none, and it is filled. It may have held zeros,
/// and is to hold what is `fresh`.
pub fn back(memory: Memory<'_>, head: usize, (zeros, fresh): (bool, Fresh), expected: usize) {
    let (engine, run) = (memory.engine, memory.map.run(head));
    if !engine.has_tags() || engine.service() != Service::Cow {
        return;
    }
    let asked = engine.region().pages_of(memory.map.address(head) as usize, run.size.load(Relaxed));
    let sparse =
        expected * 2 < asked.count && engine.region().present().count(memory.pages(head)) == 0;
    if !sparse {
        engine.unback_run(&run.window, if zeros { Fresh::Zero } else { Fresh::Content });
    } else if run.window.backed() != asked.count || zeros != (fresh == Fresh::Zero) {
        engine.back_run(&run.window, asked, fresh);
    }
}

/// Ends the process if the pointer to the run at `head`, which somebody frees, is not the one that it has.
pub fn check_run(memory: Memory<'_>, head: usize, pointer: *const u8) {
    let run = memory.map.run(head);
    if on() && mte::tag_of(pointer as u64) != run.window.tag() {
        misuse::wrong_tag(pointer, run.window.tag(), run.size.load(Relaxed));
    }
}

/// Ends the process if the pointer to a block in use, which somebody frees, is not the one that it has.
#[inline]
pub fn check_block(pointer: *const u8, class: usize) {
    if on() {
        // SAFETY: a block in use is present.
        let tag = unsafe { mte::tag_at(pointer) };
        if mte::tag_of(pointer as u64) != tag {
            misuse::wrong_tag(pointer, tag, classes::size(class));
        }
    }
}

/// Whether anything is to be written to a block that is freed.
#[inline]
pub fn must_refill(content: Content) -> bool {
    content != Content::Anything || on()
}

/// Writes the content over a block that is freed: the pointer that its next user will get.
///
/// # Safety
/// The block is of that class, and nobody uses it any more.
#[inline]
pub unsafe fn refill_block(content: Content, block: *mut u8, class: usize) -> *mut u8 {
    if !on() {
        // SAFETY: the caller's promise.
        unsafe { content.fill_granules(block, classes::size(class)) };
        return block;
    }
    let old = mte::tag_of(block as u64);
    let parity = if old.get() % 2 == 1 { NOT_ODD } else { NOT_EVEN };
    let tag = mte::random(parity.insert(old));
    if let Content::Pattern(pattern) = content {
        // SAFETY: the caller's promise; blocks are whole granules.
        unsafe { Granules::new(block, classes::size(class)) }.fill_and_tag(pattern.as_word(), tag);
    }
    tagged(block, tag)
}

/// The pointer to a free block, the `index`th of its span, whose page is present: a block that was never
/// in use gets a tag now, any other has one.
///
/// # Safety
/// The block is of that class, and in this thread's hands.
pub unsafe fn open_block(block: *mut u8, class: usize, index: usize) -> *mut u8 {
    if !on() {
        return block;
    }
    // SAFETY: the caller's promise.
    let mut tag = unsafe { mte::tag_at(block) };
    if tag == Tag::ZERO {
        tag = mte::random(if index % 2 == 1 { NOT_ODD } else { NOT_EVEN });
        // SAFETY: as above; blocks are whole granules.
        unsafe { Granules::new(block, classes::size(class)) }.tag(tag);
    }
    tagged(block, tag)
}
