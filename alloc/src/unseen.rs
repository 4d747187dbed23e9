//! Pages that the kernel itself puts in place when the program touches them, and tells nobody.
//!
//! They have to be known before the run is used again. To ask for them is a system call or two, and
//! costs more for each page that is present: about what it costs to restore one. So a run that is
//! used again and again comes to be present as a whole where little of it is missing.

use core::sync::atomic::Ordering::Relaxed;

use refpage::{Pages, Service};

use crate::books::{Part, part_of};
use crate::cache::Memory;

/// What it costs to ask the kernel about a run, and about each of its present pages; to restore a
/// page in vain; and to have a page put in place: nanoseconds, measured on one machine. It is their
/// proportions that count.
const QUESTION: usize = 1100;
const ASKING: usize = 30;
const RESTORING: usize = 25;
const POPULATING: usize = 700;

/// Whether a run of so many pages is restored as a whole for less than a question.
pub fn is_short(pages: Pages) -> bool {
    pages.count * RESTORING < QUESTION
}

/// The unseen pages of a live run.
fn of_run(memory: Memory<'_>, head: usize) -> Pages {
    let run = memory.map.run(head);
    let pages = run.window.pages();
    let zeroed = pages.prefix(run.window.zero_pages());
    match memory.engine.service() {
        Service::Off => pages.prefix(0),
        Service::Lazy if part_of(memory, head) == Part::Content => pages.prefix(0),
        Service::Cow if memory.engine.is_backed(pages.first) => {
            pages.prefix(memory.engine.region().pages_in(run.size.load(Relaxed)))
        }
        _ => zeroed,
    }
}

/// Finds out which of them are present. False if that cannot be found out.
pub fn learn(memory: Memory<'_>, head: usize) -> bool {
    let unseen = of_run(memory, head);
    unseen.count == 0 || memory.engine.learn_present(unseen)
}

/// As [`learn`], for a run that keeps its bytes: what cannot be found out counts as present.
pub fn assume(memory: Memory<'_>, head: usize) {
    if !learn(memory, head) {
        memory.engine.note_present(of_run(memory, head));
    }
}

/// How many of a live run's pages are present, for somebody whose run it need not be: what the kernel says is noted
/// nowhere, as it may be wrong by now.
pub fn count_present(memory: Memory<'_>, head: usize) -> usize {
    let used = memory.used(head);
    let unseen = match memory.engine.service() {
        Service::Off => used,
        _ => used.prefix(of_run(memory, head).count),
    };
    let present = memory.engine.region().present();
    let mut count = 0;
    let told = memory.engine.ask_kernel(unseen, |_, populated| count += usize::from(populated));
    if !told {
        count = present.count(unseen);
    }
    count + present.count(used.skip(unseen.count))
}

/// Has the rest of a run put in place, whose present pages were just restored, once the questions
/// that this saves have cost as much.
pub fn populate_if_it_pays(memory: Memory<'_>, head: usize) {
    let (run, unseen) = (memory.map.run(head), of_run(memory, head));
    // A run that was calloc's and grew is to hold the content, but reads as zero where it is
    // missing; and so on.
    if run.zeros.load(Relaxed) == memory.engine.is_backed(unseen.first) {
        return;
    }
    let present = memory.engine.region().present().count(unseen);
    let missing = unseen.count - present;
    let saving = (QUESTION + present * ASKING).saturating_sub(missing * RESTORING);
    if missing == 0 || saving == 0 {
        return;
    }
    let asked = run.asked.load(Relaxed).saturating_add(1);
    run.asked.store(asked, Relaxed);
    if asked as usize * saving >= missing * POPULATING {
        memory.engine.populate(unseen);
    }
}
