//! The compaction itself: who prepares which page, and who waits for whom.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::*};
use std::time::Duration;

use refpage::moves::{Arena, MissingFault, Mover, Refused};

use crate::account::thread_cpu;
use crate::carry::Carrier;
use crate::plan::Plan;
use crate::worker::Worker;

/// How long who answers faults waits for one before it looks whether it is over.
const PATIENCE_MS: u64 = 2;

/// A compaction after the flip: all go by new addresses, and no page is there yet.
#[derive(Debug)]
pub struct Compaction<'a> {
    plan: &'a Plan,
    carrier: &'a Carrier<'a>,
    to: &'a Arena<'a>,
    /// By page of the to-arena: whether somebody prepares it, or has.
    claimed: Vec<AtomicBool>,
    /// Pages that are being prepared for faults.
    in_hand: AtomicUsize,
    /// Whether somebody waits for a page that waits for others to go with it.
    hurry: AtomicBool,
    over: AtomicBool,
}

/// What answering faults came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Answers {
    /// Faults that were told of.
    pub faults: usize,
    /// Pages that were prepared for them.
    pub pages: usize,
    /// CPU time of the thread.
    pub cpu: Duration,
}

impl<'a> Compaction<'a> {
    /// Nothing is done yet.
    pub fn new(plan: &'a Plan, carrier: &'a Carrier<'a>) -> Self {
        Self {
            plan,
            carrier,
            to: carrier.to,
            claimed: (0..plan.pages()).map(|_| AtomicBool::new(false)).collect(),
            in_hand: AtomicUsize::new(0),
            hurry: AtomicBool::new(false),
            over: AtomicBool::new(false),
        }
    }

    /// Goes through all pages that nobody has prepared yet, moving `most` at a time, and drops what is left behind. When it
    /// returns, all pages are there.
    ///
    /// # Errors
    /// What the kernel says to dropping pages.
    pub fn compact(&self, most: usize) -> Result<(), Refused> {
        let mut worker = Worker::new(self.plan, self.carrier, most);
        for page in 0..self.plan.pages() {
            if self.claim(page) {
                // SAFETY: claimed, and after the flip.
                unsafe { worker.page(page) };
            }
            if self.hurry.load(Relaxed) && self.hurry.swap(false, AcqRel) {
                worker.flush();
            }
        }
        worker.flush();
        // Who answers has a page in hand before it claims it: none is claimed any more after this.
        while self.in_hand.load(SeqCst) != 0 {
            std::thread::yield_now();
        }
        self.carrier.emptied.drop_all()
    }

    /// Answers faults until the compaction is over.
    ///
    /// # Errors
    /// What the kernel says to asking for faults. The compactor puts all pages in place even so.
    pub fn answer(&self, mover: &Mover) -> Result<Answers, Refused> {
        let mut worker = Worker::new(self.plan, self.carrier, 1);
        let mut answers = Answers::default();
        while !self.over.load(Acquire) {
            mover
                .faults(Some(PATIENCE_MS), |fault| self.fault(fault, &mut worker, &mut answers))?;
        }
        Ok(Answers { cpu: thread_cpu(), ..answers })
    }

    /// No fault comes any more.
    pub fn end(&self) {
        self.over.store(true, Release);
    }

    fn fault(&self, fault: MissingFault, worker: &mut Worker<'_>, answers: &mut Answers) {
        answers.faults += 1;
        let Some(page) = self.to.page_at(fault.address) else { return };
        if page >= self.plan.pages() {
            // No object is there: who reads zeros finds out.
            let _ = self.to.at(page).zero(1);
            return;
        }
        self.in_hand.fetch_add(1, SeqCst);
        if self.claim(page) {
            answers.pages += 1;
            // SAFETY: claimed, and there are no faults before the flip.
            unsafe { worker.page(page) };
            worker.flush();
        } else {
            // It is there, or will be with the next ones, and that wakes who waits.
            self.hurry.store(true, Release);
        }
        self.in_hand.fetch_sub(1, SeqCst);
    }

    fn claim(&self, page: usize) -> bool {
        !self.claimed[page].swap(true, SeqCst)
    }
}
