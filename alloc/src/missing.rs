//! What is missing from live memory: for a child of fork, which has nobody to serve it yet.

use core::ops::ControlFlow::{self, Break, Continue};
use core::sync::atomic::Ordering::Relaxed;

use refpage::{Cause, Fresh, Pages, Service};

use crate::heap::Heap;
use crate::page_map::Kind;

/// Puts everything in place, for a child that has no fault channel and may not read zeros instead.
pub fn fill(heap: &Heap) {
    let _ = each(heap, |pages, fresh| {
        // What was about to be put in place, in the parent, never will be.
        heap.engine.learn_missing(pages);
        heap.engine.fill_missing(pages, fresh);
        Continue(())
    });
}

/// The same, if it is at most `most` pages; else false, and some of them may be in place.
pub fn fill_upto(heap: &Heap, most: usize) -> bool {
    if heap.engine.service() != Service::Lazy {
        return true;
    }
    let present = heap.engine.region().present();
    let mut left = most;
    let filled = each(heap, |pages, fresh| {
        // Behind the first one there may be as many again.
        let Some(stretch) = present.next_stretch(pages, false) else { return Continue(()) };
        let rest = Pages::span(stretch.first, pages.end());
        // Before anything is overwritten: a thread of the parent's may have been about to note it.
        if !heap.engine.note_in_memory(rest) {
            return Break(());
        }
        match left.checked_sub(rest.count - present.count(rest)) {
            Some(fewer) => left = fewer,
            None => return Break(()),
        }
        heap.engine.fill_missing(rest, fresh);
        Continue(())
    });
    filled.is_continue()
}

/// Finds out which pages a child touched while nobody served it, and counts them: the kernel put
/// zeros there.
pub fn count_zeros_read(heap: &Heap) {
    if heap.engine.service() != Service::Lazy {
        return;
    }
    heap.engine.forget_pagemap();
    let present = heap.engine.region().present();
    let _ = each(heap, |pages, fresh| {
        heap.engine.learn_missing(pages);
        let before = present.count(pages);
        heap.engine.learn_present(pages);
        if fresh == Fresh::Content {
            let read = present.count(pages).saturating_sub(before);
            heap.engine.note_many(Cause::CloneReadZeros, read);
        }
        Continue(())
    });
}

/// Visits the pages of live memory that are not the kernel's to serve, with what the missing ones of them
/// are to hold.
fn each(heap: &Heap, mut visit: impl FnMut(Pages, Fresh) -> ControlFlow<()>) -> ControlFlow<()> {
    let region = heap.engine.region();
    heap.map.each_run(region, |head| {
        let run = heap.map.run(head);
        match run.kind() {
            Kind::Large => {
                let asked = heap.memory().used(head);
                let zeros = asked.prefix(run.window.zero_pages());
                if !region.in_zero_part(zeros.first) {
                    visit(zeros, Fresh::Zero)?;
                }
                visit(asked.skip(zeros.count), Fresh::Content)
            }
            Kind::Span => {
                let readied = run.readied.load(Relaxed) as usize;
                visit(heap.memory().pages(head).prefix(readied), Fresh::Content)
            }
            _ => Continue(()),
        }
    })
}
