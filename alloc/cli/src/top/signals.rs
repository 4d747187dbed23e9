//! Signals as something to read: they are blocked, so that each comes between two looks, and the terminal
//! can be given back before this process ends by one.

use std::io;
use std::mem::MaybeUninit;

use rustix::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

/// What ends a process, and the terminal's new size.
const WATCHED: [i32; 5] =
    [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT, libc::SIGWINCH];

/// A signal that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signal {
    pub number: i32,
    /// The terminal sent it, to all of its foreground processes.
    pub is_from_terminal: bool,
}

/// The signals of this process.
pub struct Signals {
    handle: OwnedFd,
    before: libc::sigset_t,
}

impl Signals {
    /// Blocks them from now on, also in children that do not undo it.
    pub fn block() -> io::Result<Self> {
        let set = watched();
        let mut before = watched();
        // SAFETY: both calls are given sets that were made above, and the number is a new one of ours.
        unsafe {
            let error = libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, &raw mut before);
            if error != 0 {
                return Err(io::Error::from_raw_os_error(error));
            }
            let number = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
            if number < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(Self { handle: OwnedFd::from_raw_fd(number), before })
        }
    }

    /// Readable when one has come.
    pub fn handle(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }

    /// What was blocked before.
    pub fn mask_before(&self) -> libc::sigset_t {
        self.before
    }

    /// The next that has come.
    pub fn next(&self) -> Option<Signal> {
        const SIZE: usize = size_of::<libc::signalfd_siginfo>();
        let mut bytes = [0; SIZE];
        if rustix::io::read(&self.handle, &mut bytes) != Ok(SIZE) {
            return None;
        }
        // SAFETY: the kernel has filled all of it; any bytes are a value of its fields.
        let info: libc::signalfd_siginfo = unsafe { std::mem::transmute(bytes) };
        Some(Signal {
            number: info.ssi_signo as i32,
            is_from_terminal: info.ssi_code == libc::SI_KERNEL,
        })
    }
}

/// Blocks these signals and no others.
pub fn set_mask(mask: &libc::sigset_t) -> io::Result<()> {
    // SAFETY: the set is one.
    match unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, mask, std::ptr::null_mut()) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

fn watched() -> libc::sigset_t {
    let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: sigemptyset makes a set of it, to which signals are added that exist.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in WATCHED {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        set.assume_init()
    }
}

/// Ends this process as the signal does, without a core file: there is one of who died by it first, if any.
pub fn die_by(signal: i32) -> ! {
    // SAFETY: calls with valid arguments, in a process that ends here.
    unsafe {
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
        libc::signal(signal, libc::SIG_DFL);
        let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
        libc::sigemptyset(set.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, set.as_ptr(), std::ptr::null_mut());
        libc::raise(signal);
    }
    // One whose default is not the end.
    std::process::exit(128 + signal)
}
