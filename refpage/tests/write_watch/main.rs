//! Write watches: which pages are told, and that none is lost.

use std::io::Read;
use std::ops::Range;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use refpage::moves::{Missing, Moved, Mover};
use refpage::sys::vm::{self, page_size};
use refpage::{Reset, WriteWatch};
use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags};

/// A watch, or the printed reason why there is none.
fn watch() -> Option<WriteWatch<'static>> {
    WriteWatch::new().map_err(|why| eprintln!("skipped: {why}")).ok()
}

/// Private anonymous memory.
struct Memory {
    start: *mut u8,
    pages: usize,
}

// SAFETY: it only hands out addresses.
unsafe impl Sync for Memory {}

impl Memory {
    fn new(pages: usize) -> Self {
        let start = vm::reserve(pages * page_size(), 2 << 20).expect("address space");
        let memory = Self { start, pages };
        memory.advise(Advice::LinuxNoHugepage);
        memory
    }

    fn advise(&self, advice: Advice) {
        // SAFETY: the mapping is this one's.
        unsafe { vm::advise(self.start, self.len(), advice) }.expect("advice");
    }

    fn len(&self) -> usize {
        self.pages * page_size()
    }

    fn word(&self, page: usize) -> &AtomicU64 {
        assert!(page < self.pages);
        // SAFETY: the page's first bytes.
        unsafe { AtomicU64::from_ptr(self.start.add(page * page_size()).cast()) }
    }

    fn write(&self, page: usize) {
        self.word(page).fetch_add(1, Ordering::Relaxed);
    }

    fn watch(&self, watch: &WriteWatch<'_>) {
        watch.watch(self.start, self.len()).expect("watched");
    }

    fn page_of(&self, address: usize) -> usize {
        (address - self.start as usize) / page_size()
    }

    /// The written pages, as numbers.
    fn written(&self, watch: &WriteWatch<'_>, reset: Reset) -> Vec<usize> {
        let found = watch.written(self.start, self.len(), reset).expect("watched");
        let pages = |found: Range<usize>| self.page_of(found.start)..self.page_of(found.end);
        found.flat_map(|found| pages(found.expect("watched"))).collect()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping is this one's.
        unsafe { vm::unmap(self.start, self.len()) };
    }
}

#[test]
fn written_pages_are_told_until_they_are_reset() {
    let Some(watch) = watch() else { return };
    let memory = Memory::new(1000);
    (0..500).for_each(|page| memory.write(page));
    memory.watch(&watch);
    assert_eq!(memory.written(&watch, Reset::No), []);
    [3, 4, 499, 777].iter().for_each(|&page| memory.write(page));
    for reset in [Reset::No, Reset::Yes] {
        assert_eq!(memory.written(&watch, reset), [3, 4, 499, 777]);
    }
    assert_eq!(memory.written(&watch, Reset::Yes), []);
    memory.write(4);
    assert_eq!(memory.written(&watch, Reset::Yes), [4]);
}

#[test]
fn every_second_page_takes_more_than_one_look() {
    let Some(watch) = watch() else { return };
    let memory = Memory::new(1000);
    memory.watch(&watch);
    let odd = || (0..1000).filter(|page| page % 2 == 1);
    odd().for_each(|page| memory.write(page));
    assert_eq!(memory.written(&watch, Reset::Yes), odd().collect::<Vec<_>>());
    assert_eq!(memory.written(&watch, Reset::Yes), []);
}

#[test]
fn as_many_are_told_and_reset_as_were_asked_for() {
    let Some(watch) = watch() else { return };
    let memory = Memory::new(1000);
    memory.watch(&watch);
    let written: Vec<usize> = (10..200).chain((300..600).step_by(2)).collect();
    written.iter().for_each(|&page| memory.write(page));
    let mut rest = written.as_slice();
    // Within a stretch, more than one look takes, exactly one, none.
    for most in [1, 0, 7, 182, 100, 1] {
        let found = watch.written_upto(memory.start, memory.len(), Reset::Yes, most);
        let found = found.expect("watched").map(|found| found.expect("watched"));
        let told: Vec<usize> = found
            .flat_map(|found| memory.page_of(found.start)..memory.page_of(found.end))
            .collect();
        let (expected, left) = rest.split_at(most);
        assert_eq!(told, expected, "{most} of them");
        rest = left;
        assert_eq!(memory.written(&watch, Reset::No), rest, "after {most} of them");
    }
}

#[test]
fn who_only_reads_has_not_written() {
    let Some(watch) = watch() else { return };
    let memory = Memory::new(16);
    memory.write(0);
    memory.watch(&watch);
    (0..16).for_each(|page| assert!(memory.word(page).load(Ordering::Relaxed) <= 1));
    assert_eq!(memory.written(&watch, Reset::Yes), []);
}

#[test]
fn what_is_written_to_a_files_mapping_is_told_as_long_as_it_is_there() {
    let Some(watch) = watch() else { return };
    let len = 8 * page_size();
    let file = rustix::fs::memfd_create(c"test", MemfdFlags::empty()).expect("a file");
    rustix::fs::ftruncate(&file, len as u64).expect("room");
    for flags in [MapFlags::PRIVATE, MapFlags::SHARED] {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, which goes with `memory`.
        let start = unsafe { rustix::mm::mmap(null_mut(), len, access, flags, &file, 0) };
        let memory = Memory { start: start.expect("a mapping").cast(), pages: 8 };
        memory.write(1);
        memory.watch(&watch);
        assert_eq!(memory.written(&watch, Reset::Yes), [], "{flags:?}");
        [1, 5].iter().for_each(|&page| memory.write(page));
        let written = memory.written(&watch, Reset::Yes);
        // The kernel may map pages around those that are touched.
        assert!([1, 5].iter().all(|page| written.contains(page)), "{flags:?}: {written:?}");
        memory.write(5);
        assert!(memory.written(&watch, Reset::No).contains(&5), "{flags:?}");
    }
}

#[test]
fn a_part_of_a_page_is_the_page() {
    let Some(watch) = watch() else { return };
    let memory = Memory::new(4);
    memory.watch(&watch);
    memory.write(1);
    // SAFETY: within the mapping.
    let inside = unsafe { memory.start.add(page_size() + 100) };
    let found = watch.written(inside, 1, Reset::No).expect("watched").next();
    let start = memory.start as usize + page_size();
    assert_eq!(found, Some(Ok(start..start + page_size())));
}

#[test]
fn system_calls_write_too() {
    let Some(watch) = watch() else { return };
    let memory = Memory::new(8);
    (0..8).for_each(|page| memory.write(page));
    memory.watch(&watch);
    // SAFETY: pages of the mapping.
    let bytes =
        unsafe { std::slice::from_raw_parts_mut(memory.start.add(2 * page_size()), page_size()) };
    std::fs::File::open("/dev/zero").expect("/dev/zero").read_exact(bytes).expect("zeros");
    assert_eq!(memory.written(&watch, Reset::Yes), [2]);
}

/// Whoever copies what is told as written, and only that, has all of it in the end.
#[test]
fn threads_that_write_meanwhile_lose_nothing() {
    const PAGES: usize = 256;
    let Some(watch) = watch() else { return };
    let memory = Memory::new(PAGES);
    memory.watch(&watch);
    let mut copy = [0; PAGES];
    let mut take = || {
        let written = memory.written(&watch, Reset::Yes);
        for &page in &written {
            copy[page] = memory.word(page).load(Ordering::Relaxed);
        }
        written.len()
    };
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for seed in [1usize, 2] {
            let (memory, stop) = (&memory, &stop);
            scope.spawn(move || {
                let mut page = seed;
                while !stop.load(Ordering::Relaxed) {
                    page = (page * 5 + 3) % PAGES;
                    memory.write(page);
                }
            });
        }
        let mut seen = 0;
        while seen < 100 * PAGES {
            seen += take();
        }
        stop.store(true, Ordering::Relaxed);
    });
    take();
    assert_eq!(copy, std::array::from_fn(|page| memory.word(page).load(Ordering::Relaxed)));
}

#[test]
fn huge_pages_are_watched_page_by_page() {
    let Some(watch) = watch() else { return };
    let memory = Memory::new((4 << 20) / page_size());
    memory.advise(Advice::LinuxHugepage);
    (0..memory.pages).for_each(|page| memory.write(page));
    memory.watch(&watch);
    memory.write(5);
    memory.write(memory.pages - 1);
    assert_eq!(memory.written(&watch, Reset::Yes), [5, memory.pages - 1]);
    assert_eq!(memory.written(&watch, Reset::Yes), []);
}

#[test]
fn pages_can_be_moved_to_what_is_watched_and_count_as_written() {
    let Ok(mover) = Mover::new() else { return eprintln!("skipped: no pages are moved here") };
    let watch = match WriteWatch::of(&mover) {
        Ok(watch) => watch,
        Err(why) => return eprintln!("skipped: {why}"),
    };
    for missing in [Missing::Zeros, Missing::Faults] {
        let (live, from) = (mover.arena(8, missing), mover.arena(8, Missing::Zeros));
        let (live, from) = (live.expect("address space"), from.expect("address space"));
        [&live, &from].iter().for_each(|arena| arena.keep_from_children().expect("advice"));
        let (start, len) = (live.addresses().start as *const u8, 8 * page_size());
        let done = Moved { pages: 1, stop: None };
        // SAFETY: pages of an arena of this test's.
        (0..8).for_each(|page| unsafe { from.address(page).write(1) });
        assert_eq!(live.at(0).move_from(from.at(0), 1), done);
        watch.watch(start, len).expect("an arena of the mover");
        let written =
            || watch.written(start, len, Reset::Yes).expect("watched").collect::<Vec<_>>();
        assert_eq!(written(), []);
        assert_eq!(live.at(5).move_from(from.at(5), 1), done, "no marker is in the way");
        let moved = live.address(5) as usize;
        assert_eq!(written(), [Ok(moved..moved + page_size())]);
        // And out again, and in, protected as it is.
        assert_eq!(from.at(0).move_from(live.at(0), 1), done);
        assert_eq!(live.at(7).move_from(from.at(0), 1), done);
    }
}

#[test]
fn what_cannot_be_watched_is_refused() {
    let Some(watch) = watch() else { return };
    let memory = Memory::new(4);
    memory.write(1);
    let errno = |outcome: Result<(), refpage::Refused>| outcome.expect_err("refused").errno;
    let asked =
        |watch: &WriteWatch<'_>| watch.written(memory.start, memory.len(), Reset::Yes).map(|_| ());
    assert_eq!(errno(asked(&watch)), Errno::PERM, "it is not watched yet");
    memory.watch(&watch);
    let other = WriteWatch::new().expect("there is one already");
    assert_eq!(errno(other.watch(memory.start, memory.len())), Errno::BUSY);
    watch.unwatch(memory.start, memory.len()).expect("it was watched");
    memory.write(1);
    assert_eq!(errno(asked(&watch)), Errno::PERM);
    other.watch(memory.start, memory.len()).expect("it is free again");
    assert_eq!(memory.written(&other, Reset::No), []);
}

#[test]
fn a_child_of_fork_is_told_that_nobody_watches_it() {
    let Some(watch) = watch() else { return };
    let memory = Memory::new(4);
    memory.write(1);
    memory.watch(&watch);
    // SAFETY: the child makes system calls only.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let asked = watch.written(memory.start, memory.len(), Reset::No);
        let refused = asked.is_err_and(|refused| refused.errno == Errno::SRCH);
        memory.write(2);
        // SAFETY: as above.
        unsafe { libc::_exit(if refused { 7 } else { 1 }) };
    }
    let mut status = 0;
    // SAFETY: the child is this test's.
    unsafe { libc::waitpid(child, &mut status, 0) };
    assert_eq!(libc::WEXITSTATUS(status), 7);
    assert_eq!(memory.written(&watch, Reset::No), [], "what a child writes is its own");
    memory.write(3);
    assert_eq!(memory.written(&watch, Reset::No), [3]);
}
