//! Threads that begin their work at the same time, measured until all of it is done and freed.

use std::sync::Barrier;
use std::thread;

use super::block::{Tally, Worker};
use crate::cases::Outcome;
use crate::measure::Meter;
use crate::memory::{Memory, Wrong};

/// A workload: what each of its threads does. What they share is its own, behind locks.
pub trait Work: Sync {
    /// What a thread has ready when the measured part begins.
    type Ready;

    /// Before there are threads; not measured.
    fn begin<M: Memory>(&self, _: &mut Worker<M>) {}

    /// In each thread; not measured.
    fn prepare<M: Memory>(&self, worker: &mut Worker<M>) -> Self::Ready;

    /// The measured part of each thread. It frees, or retires, everything.
    fn work<M: Memory>(&self, worker: &mut Worker<M>, ready: Self::Ready);

    /// What remains to be freed when all threads are gone; measured.
    fn end<M: Memory>(&self, _: &mut Worker<M>) {}
}

/// Runs it in so many threads. `after` is called when all is freed but the few survivors.
pub fn run<M: Memory, W: Work>(
    work: &W,
    memory: &M,
    threads: usize,
    after: impl FnOnce(),
) -> Result<Outcome, Wrong> {
    let gate = Barrier::new(threads + 1);
    let mut first = Worker::new(memory, threads);
    work.begin(&mut first);
    let each = |number| {
        let mut worker = Worker::new(memory, number);
        let ready = work.prepare(&mut worker);
        worker.tally.operations = 0;
        gate.wait();
        gate.wait();
        work.work(&mut worker, ready);
        worker
    };
    let each = &each;
    let (meter, mut workers) = thread::scope(|scope| {
        let threads: Vec<_> =
            (0..threads).map(|number| scope.spawn(move || each(number))).collect();
        // All are ready: what they prepared is not the measured part's.
        gate.wait();
        let meter = Meter::start();
        gate.wait();
        let workers: Vec<Worker<M>> = threads.into_iter().map(joined).collect();
        (meter, workers)
    });
    work.end(&mut first);
    let cost = meter.stop();
    after();
    workers.push(first);
    let (mut operations, mut checked_bytes) = (0, 0);
    for Tally { operations: done, checked_bytes: checked, wrong } in
        workers.into_iter().map(Worker::finish)
    {
        operations += done;
        checked_bytes += checked;
        wrong.map_or(Ok(()), Err)?;
    }
    Ok(Outcome { cost, operations, checked_bytes })
}

/// What a thread returned; its panic is this one's.
pub fn joined<T>(thread: thread::ScopedJoinHandle<T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
