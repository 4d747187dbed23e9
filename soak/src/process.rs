//! Processes and threads that a lane makes, and how they end.

use std::ffi::{CString, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::{null, null_mut};
use std::sync::atomic::Ordering::*;

use crate::board::Count;
use crate::lane::{END, Lane, WAIT, Who};
use crate::signals::{self, Handlers};
use crate::tree;
use crate::world::{self, Descriptors, LANES, board, errno, nap, world};

/// Forks and threads between the first process and a lane that makes no more.
const DEEPEST: u32 = 3;
/// A program that does nothing, on the heap under test like every executed one.
const TRUE: &std::ffi::CStr = c"/bin/true";

/// A process that its lane has to wait for.
#[derive(Clone, Copy, Debug)]
pub struct Child {
    pub pid: libc::pid_t,
    /// Its slot, if it has one.
    slot: Option<usize>,
    step: u64,
    fate: Fate,
}

/// What a forked child does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Ends at once.
    Exit,
    /// Checks what it has inherited.
    Check,
    /// Goes on with the inherited blocks, forks, and so on.
    Churn,
    /// Executes this program as a worker, which does so with a heap of its own.
    ExecWorker,
    ExecTrue,
    /// Ends, but for a child that goes on; as a daemon, in a session of its own and with no descriptor.
    Orphan {
        daemon: bool,
    },
}

impl Child {
    /// Whether it has returned from fork, and is the program that was forked.
    pub fn is_there(&self) -> bool {
        self.slot.is_some_and(|slot| board().slots[slot].pid.load(Relaxed) == self.pid)
    }
}

impl Lane {
    fn descendant(&mut self, kind: char, slot: usize, steps: u64) -> Who {
        Who {
            path: format!("{}{kind}{}", self.who.path, self.step),
            seed: self.derived_seed(kind as u64),
            steps,
            slot,
            depth: self.who.depth + 1,
            mailbox: None,
        }
    }
}

pub fn fork(lane: &mut Lane) {
    let steps = 10 + lane.random.below(150) as u64;
    let fate = match lane.random.below(14) {
        0..2 => Fate::Exit,
        2..5 => Fate::Check,
        5..9 => Fate::Churn,
        9 => Fate::ExecTrue,
        10..12 => Fate::ExecWorker,
        other => Fate::Orphan { daemon: other == 12 },
    };
    let signalled = lane.random.one_in(4);
    if lane.who.depth >= DEEPEST {
        return;
    }
    let Some(slot) = board().claim_process() else { return };
    lane.count(Count::Forks, 1);
    let mut who = lane.descendant('f', slot, steps);
    who.mailbox = lane.who.mailbox;
    // A child that inherits no free descriptor has, and tells of, a lesser service.
    let descriptors = Descriptors::shared();
    // SAFETY: the child goes on with what its one thread owns, and with the heap, which is what is tested.
    match unsafe { libc::fork() } {
        -1 => lane.fail(format_args!("fork: {}", errno())),
        0 => {
            // `reborn` releases it for this process.
            std::mem::forget(descriptors);
            world::reborn();
            lane.become_other(who);
            child(lane, fate)
        }
        pid => {
            lane.children.push(Child { pid, slot: Some(slot), step: lane.step, fate });
            if signalled {
                // Mostly before it returns from fork.
                // SAFETY: the child is ours and not yet waited for.
                unsafe { libc::kill(pid, libc::SIGUSR2) };
            }
        }
    }
}

fn child(lane: &mut Lane, fate: Fate) -> ! {
    match fate {
        Fate::Exit => {}
        Fate::Check => {
            lane.check_all();
            lane.perform(END);
        }
        Fate::Churn => {
            lane.run();
            end_of_threads(lane);
        }
        Fate::ExecTrue => {
            board().release_process(lane.who.slot);
            execute(lane, TRUE, &[]);
        }
        Fate::ExecWorker => {
            lane.count(Count::Execs, 1);
            let Who { path, seed, steps, slot, depth, .. } = lane.who.clone();
            let numbers =
                [seed, steps, slot as u64, u64::from(depth)].map(|number| number.to_string());
            let board = text(world().board_path.as_path());
            let mut arguments = vec![CString::from(c"worker"), board, string(path + "e")];
            arguments.extend(numbers.map(string));
            execute(lane, &text(&world().program), &arguments);
        }
        Fate::Orphan { daemon } => {
            lane.count(Count::Orphans, 1);
            orphan(lane, daemon);
        }
    }
    leave(lane)
}

fn orphan(lane: &mut Lane, daemon: bool) {
    // SAFETY: as in `fork`.
    match unsafe { libc::fork() } {
        -1 => lane.fail(format_args!("the second fork: {}", errno())),
        0 => {
            world::reborn();
            let who = Who { path: format!("{}o", lane.who.path), ..lane.who.clone() };
            lane.become_other(who);
        }
        // The slot is the grandchild's, which may have ended by now.
        // SAFETY: no precondition.
        _ => unsafe { libc::_exit(0) },
    }
    if daemon {
        // SAFETY: no lane but this one is in this process, and constant strings live.
        unsafe {
            libc::setsid();
            libc::chdir(c"/".as_ptr());
            libc::syscall(libc::SYS_close_range, 0, u32::MAX, 0);
        }
        lane.count(Count::DescriptorsClosed, 1);
    }
    lane.run();
    end_of_threads(lane);
}

/// Ends a forked process.
fn leave(lane: &mut Lane) -> ! {
    lane.perform(WAIT);
    wait_for_children(lane);
    board().release_process(lane.who.slot);
    // SAFETY: no precondition.
    unsafe { libc::_exit(0) }
}

fn string(text: String) -> CString {
    CString::new(text).expect("no NUL in a name or a number")
}

fn text(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("no NUL in a path")
}

fn execute(lane: &Lane, program: &std::ffi::CStr, arguments: &[CString]) {
    signals::block(true);
    let mut pointers = vec![program.as_ptr()];
    pointers.extend(arguments.iter().map(|argument| argument.as_ptr()));
    pointers.push(null());
    // SAFETY: strings that live until the process is another, with a null pointer at their end.
    unsafe { libc::execv(program.as_ptr(), pointers.as_ptr()) };
    lane.fail(format_args!("execv {program:?}: {}", errno()));
}

/// Has libc start a program by its own kind of vfork.
pub fn spawn(lane: &mut Lane) {
    unsafe extern "C" {
        static environ: *const *mut libc::c_char;
    }
    lane.count(Count::Execs, 1);
    let arguments = [TRUE.as_ptr().cast_mut(), null_mut()];
    let mut pid = 0;
    signals::block(true);
    let _descriptors = Descriptors::shared();
    // SAFETY: constant strings with a null pointer at their end, and libc's own environment, which nobody changes.
    let error = unsafe {
        libc::posix_spawn(&mut pid, TRUE.as_ptr(), null(), null(), arguments.as_ptr(), environ)
    };
    signals::block(false);
    if error != 0 {
        let error = std::io::Error::from_raw_os_error(error);
        lane.fail(format_args!("posix_spawn: {error}"));
    }
    lane.children.push(Child { pid, slot: None, step: lane.step, fate: Fate::ExecTrue });
}

/// Waits for those children that have ended.
pub fn reap(lane: &mut Lane) {
    let mut children = std::mem::take(&mut lane.children);
    children.retain(|child| {
        let mut status = 0;
        // SAFETY: the child is this process's own.
        match unsafe { libc::waitpid(child.pid, &mut status, libc::WNOHANG) } {
            0 => true,
            -1 if errno().kind() == std::io::ErrorKind::Interrupted => true,
            -1 => lane.fail(format_args!("waitpid of {child:?}: {}", errno())),
            // Who has failed has said so on the board.
            _ if status == 0 || board().has_failed() => false,
            _ => lane.fail(format_args!(
                "the child {} of step {}, which was to {:?}, {}",
                child.pid,
                child.step,
                child.fate,
                tree::ending(status)
            )),
        }
    });
    lane.children = children;
}

/// Waits for all children. Not seen as progress: one that hangs is its parent's hang, too.
pub fn wait_for_children(lane: &mut Lane) {
    reap(lane);
    while !lane.children.is_empty() {
        nap(2);
        reap(lane);
    }
}

/// Starts a thread with a lane of its own.
pub fn thread(lane: &mut Lane) {
    let steps = 5 + lane.random.below(60) as u64;
    let detached = lane.random.one_in(2);
    // Those made before come to their end, so that there are never many.
    join(lane);
    if lane.who.depth >= DEEPEST {
        return;
    }
    let Some(slot) = board().claim() else { return };
    lane.count(Count::Threads, 1);
    let who = lane.descendant('t', slot, steps);
    match start(who) {
        Err(error) => lane.fail(format_args!("pthread_create: {error}")),
        // SAFETY: the thread is new, and nobody joins it.
        Ok(thread) if detached => unsafe {
            libc::pthread_detach(thread);
        },
        Ok(thread) => lane.threads.push(thread),
    }
}

/// A thread with a lane. Not one of Rust's library, which does not promise that a forked child can make one.
pub fn start(who: Who) -> std::io::Result<libc::pthread_t> {
    LANES.fetch_add(1, AcqRel);
    let slot = who.slot;
    let who = Box::into_raw(Box::new(who));
    let mut thread = 0;
    // SAFETY: the thread takes the box; no attribute is asked for.
    let error = unsafe { libc::pthread_create(&mut thread, null(), begin, who.cast()) };
    if error != 0 {
        LANES.fetch_sub(1, AcqRel);
        board().release(slot);
        // SAFETY: no thread has it.
        drop(unsafe { Box::from_raw(who) });
        return Err(std::io::Error::from_raw_os_error(error));
    }
    Ok(thread)
}

extern "C" fn begin(who: *mut c_void) -> *mut c_void {
    {
        // SAFETY: `start` gave it to this thread.
        let who = unsafe { Box::from_raw(who.cast::<Who>()) };
        let mut lane = Lane::new(*who);
        lane.run();
        end_of_threads(&mut lane);
        wait_for_children(&mut lane);
        finish(&lane);
        lane.handlers = Handlers::default();
        board().release(lane.who.slot);
    }
    LANES.fetch_sub(1, AcqRel);
    null_mut()
}

/// What a lane of the first process leaves on the board.
pub fn finish(lane: &Lane) {
    if let Some(mailbox) = lane.who.mailbox.filter(|_| lane.who.depth == 0) {
        board().digests[mailbox].store(lane.random.digest(), Relaxed);
    }
}

fn join(lane: &mut Lane) {
    for thread in std::mem::take(&mut lane.threads) {
        // SAFETY: a thread that this lane made, and joins once.
        unsafe { libc::pthread_join(thread, null_mut()) };
    }
}

/// Waits for the threads of this lane, and in a child for all there are.
pub fn end_of_threads(lane: &mut Lane) {
    lane.perform(WAIT);
    join(lane);
    let is_child = !lane.in_first_process();
    // SAFETY: no precondition.
    let is_main = unsafe { libc::getpid() } == world::thread_id();
    while is_child && is_main && LANES.load(Acquire) > 1 {
        nap(1);
    }
    if lane.step > 0 {
        lane.perform(END);
    }
}
