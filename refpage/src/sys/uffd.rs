//! userfaultfd: the calls that this project needs, on rustix's raw ioctl.
//!
//! The kernel's numbers and structures come from `linux-raw-sys` (`linux/userfaultfd.h`); the
//! behaviour noted here was read in `mm/userfaultfd.c` and `fs/userfaultfd.c` of 6.12 to 6.18.

use core::ffi::c_void;

use linux_raw_sys::general as k;
use rustix::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use rustix::fs::OFlags;
use rustix::io::{Errno, Result};
use rustix::ioctl::{self, Ioctl, IoctlOutput, Opcode, Updater, opcode};
use rustix::mm::UserfaultfdFlags;

use crate::sys::descriptor::Descriptor;
#[cfg(feature = "inject")]
use crate::sys::inject;

const GROUP: u8 = 0xAA;

/// `UFFDIO_MOVE_MODE_DONTWAKE`, which the bindings leave out.
const MOVE_DONT_WAKE: u64 = 1 << 0;
const COPY_DONT_WAKE: u64 = k::UFFDIO_COPY_MODE_DONTWAKE as u64;
/// `UFFDIO_POISON_MODE_DONTWAKE`, which they leave out, too.
const POISON_DONT_WAKE: u64 = 1 << 0;

/// And `UFFDIO_WRITEPROTECT_MODE_DONTWAKE`.
const WRITEPROTECT_DONT_WAKE: u64 = 1 << 1;

/// A way to get a userfaultfd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// `/dev/userfaultfd`: who may open the file may use it (Linux 6.1+).
    Device,
    /// The system call: CAP_SYS_PTRACE, or `vm.unprivileged_userfaultfd=1`.
    Syscall,
    /// The system call with UFFD_USER_MODE_ONLY: needs no privilege, and is good for putting pages
    /// in place, but not for faults: those taken inside system calls would fail.
    UserMode,
}

impl Way {
    /// Those that see all faults, in the order in which they are tried.
    pub const ALL: [Way; 2] = [Way::Device, Way::Syscall];

    /// What it is called in messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Way::Device => "/dev/userfaultfd",
            Way::Syscall => "the userfaultfd system call",
            Way::UserMode => "the userfaultfd system call, for user mode only",
        }
    }
}

/// What the kernel can do on a descriptor (`UFFD_FEATURE_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features(pub u64);

impl Features {
    /// Pages can be moved in (Linux 6.8+).
    pub fn has_move(self) -> bool {
        self.0 & k::UFFD_FEATURE_MOVE as u64 != 0
    }
    /// Pages can be moved in, and out again to a pool.
    pub fn moves(self) -> bool {
        self.has_move() && self.has_write_protect()
    }
    /// Write protection can be registered, which lets a pool take pages back.
    pub fn has_write_protect(self) -> bool {
        self.0 & k::UFFD_FEATURE_PAGEFAULT_FLAG_WP as u64 != 0
    }
    /// A page can be poisoned (Linux 6.6+).
    pub fn has_poison(self) -> bool {
        self.0 & k::UFFD_FEATURE_POISON as u64 != 0
    }
    /// Write protection can be resolved in the kernel (Linux 6.7+).
    pub fn has_async_write_protect(self) -> bool {
        self.0 & k::UFFD_FEATURE_WP_ASYNC as u64 != 0
    }
    /// How memory is registered whose missing pages raise faults: so that writes can be watched, too,
    /// where that costs nothing.
    pub fn watch_missing(self) -> Watch {
        match self.has_async_write_protect() {
            true => Watch::MissingAndWrites,
            false => Watch::Missing,
        }
    }
}

/// Which events a range raises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    /// Missing pages raise a fault.
    Missing,
    /// The same, and writes can be watched: the Region's content part.
    MissingAndWrites,
    /// Nothing is raised, but pages may be moved in, and writes can be watched: the pool, and the
    /// Region's zero part.
    MoveTarget,
}

/// How far a MOVE, COPY or ZEROPAGE came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes done, a whole number of OS pages.
    pub done: usize,
    /// What stopped it before the end. `EXIST`: a destination page is there already. `NOENT`: a
    /// hole in the source. `BUSY`: a source page is shared or pinned. `AGAIN`: the address space
    /// is changing, or nothing in particular: try again.
    pub stop: Option<Errno>,
}

/// A missing fault, as read from the descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The address; before Linux 5.18 that of the OS page's first byte.
    pub address: usize,
    /// Whether it was written to.
    pub writes: bool,
    /// Who did: a thread's number.
    pub thread: u32,
}

/// An open userfaultfd after its API handshake.
#[derive(Debug)]
pub struct Uffd {
    fd: Descriptor,
    features: Features,
}

impl Uffd {
    /// Opens a descriptor by `way` and agrees on features: MOVE, and write protection that the kernel
    /// resolves by itself, where it has them.
    ///
    /// # Errors
    /// NOENT, ACCESS or PERM: this way is not open to the process. NOSYS: not in this kernel.
    pub fn open(way: Way) -> Result<Self> {
        // What a report wants to know of a fault.
        let exact = (k::UFFD_FEATURE_EXACT_ADDRESS | k::UFFD_FEATURE_THREAD_ID) as u64;
        let moves = (k::UFFD_FEATURE_MOVE | k::UFFD_FEATURE_PAGEFAULT_FLAG_WP) as u64;
        let watches = (k::UFFD_FEATURE_WP_ASYNC | k::UFFD_FEATURE_WP_UNPOPULATED) as u64;
        // An older kernel refuses the handshake as a whole, and a descriptor has only one.
        let mut opened = Self::open_with(way, moves | watches | exact);
        for fewer in [moves | exact, watches | exact, exact, 0] {
            if let Err(Errno::INVAL) = opened {
                opened = Self::open_with(way, fewer);
            }
        }
        opened
    }

    fn open_with(way: Way, features: u64) -> Result<Self> {
        let fd = match way {
            Way::Device => {
                let device = Descriptor::open(c"/dev/userfaultfd", OFlags::RDWR)?;
                // SAFETY: USERFAULTFD_IOC_NEW takes open flags by value and returns a descriptor.
                Descriptor::make(|| unsafe { ioctl::ioctl(&device, NewUffd) })?
            }
            Way::Syscall | Way::UserMode => {
                let mut flags = UserfaultfdFlags::CLOEXEC | UserfaultfdFlags::NONBLOCK;
                if way == Way::UserMode {
                    flags |= UserfaultfdFlags::from_bits_retain(k::UFFD_USER_MODE_ONLY);
                }
                // SAFETY: the descriptor shows nobody but this process its own faults.
                Descriptor::make(|| unsafe { rustix::mm::userfaultfd(flags) })?
            }
        };
        // Asked of the descriptor itself: what answers is no file that the program has put there.
        let mut api = k::uffdio_api { api: k::UFFD_API as u64, features, ioctls: 0 };
        const OP: Opcode = opcode::read_write::<k::uffdio_api>(GROUP, k::_UFFDIO_API as u8);
        // SAFETY: UFFDIO_API reads and writes a `uffdio_api`.
        unsafe { ioctl::ioctl(&fd, Updater::<OP, _>::new(&mut api))? };
        // The answer lists all that the kernel has, not only what was asked for.
        Ok(Self { fd, features: Features(api.features) })
    }

    /// What this kernel can do.
    pub fn features(&self) -> Features {
        self.features
    }

    /// The descriptor, out of the way of programs that count on low numbers.
    pub fn into_descriptor(self) -> Descriptor {
        self.fd.out_of_the_way()
    }

    /// The same under a number that is out of the way of programs that count on low ones.
    pub fn out_of_the_way(self) -> Self {
        Self { fd: self.fd.out_of_the_way(), ..self }
    }

    /// Whether the program has neither closed its number nor put something else there.
    pub fn is_intact(&self) -> bool {
        self.fd.is_intact()
    }

    /// This userfaultfd as a channel that is never closed.
    pub fn keep_open(self) -> Channel {
        let channel = self.channel();
        core::mem::forget(self.fd);
        channel
    }

    /// This userfaultfd, borrowed as a channel.
    pub fn channel(&self) -> Channel {
        Channel::new(self.fd.known_as().0)
    }
}

/// The number of a userfaultfd in the calling thread's descriptor table.
///
/// It may have been closed by the program, and its number used again: then every call here fails
/// (BADF, NOTTY, or what the other file says), which is harmless. Only [`read_faults`](Self::read_faults) would do damage to a
/// foreign descriptor; it is for the handler, whose table is private.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Channel {
    number: RawFd,
    /// Whether who waits for a page is woken as soon as it is in place.
    wakes: bool,
    /// Whether what is copied in counts as not written to.
    protects: bool,
}

impl Channel {
    /// None: every call fails.
    pub const CLOSED: Self = Self::new(RawFd::MAX);

    /// The userfaultfd of this number, if it still is that.
    pub const fn new(number: RawFd) -> Self {
        Self { number, wakes: true, protects: false }
    }

    /// Its number.
    pub fn number(self) -> RawFd {
        self.number
    }

    /// The same, but what it puts in place wakes nobody before [`wake`](Self::wake) is called: for
    /// pages that are put in place in several steps, behind which the program is not to run and
    /// stop again and again.
    pub fn quiet(self) -> Self {
        Self { wakes: false, ..self }
    }

    /// Whether it is [`quiet`](Self::quiet), as the handler's is.
    pub fn is_quiet(self) -> bool {
        !self.wakes
    }

    /// The same, but what it [copies](Self::copy) in is write-protected from the start, for a write watch; it is to
    /// places that are registered for that. There is no such move.
    pub fn protecting(self) -> Self {
        Self { protects: true, ..self }
    }

    /// Whether it is [`protecting`](Self::protecting).
    pub fn protects(self) -> bool {
        self.protects
    }

    fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the number is borrowed for one call that is harmless on a foreign descriptor.
        unsafe { BorrowedFd::borrow_raw(self.number) }
    }

    /// Registers a range; the whole of it must be private anonymous memory.
    pub fn register(&self, start: *mut u8, len: usize, mode: Watch) -> Result<()> {
        let mode = match mode {
            Watch::Missing => k::UFFDIO_REGISTER_MODE_MISSING,
            Watch::MissingAndWrites => k::UFFDIO_REGISTER_MODE_MISSING | k::UFFDIO_REGISTER_MODE_WP,
            Watch::MoveTarget => k::UFFDIO_REGISTER_MODE_WP,
        };
        let mut arg = k::uffdio_register {
            range: k::uffdio_range { start: start as u64, len: len as u64 },
            mode: mode as u64,
            ioctls: 0,
        };
        const OP: Opcode =
            opcode::read_write::<k::uffdio_register>(GROUP, k::_UFFDIO_REGISTER as u8);
        // SAFETY: UFFDIO_REGISTER reads and writes a `uffdio_register`.
        unsafe { ioctl::ioctl(self.fd(), Updater::<OP, _>::new(&mut arg)) }
    }

    /// Takes a registration back.
    pub fn unregister(&self, start: *mut u8, len: usize) -> Result<()> {
        let mut range = k::uffdio_range { start: start as u64, len: len as u64 };
        const OP: Opcode = opcode::read::<k::uffdio_range>(GROUP, k::_UFFDIO_UNREGISTER as u8);
        // SAFETY: UFFDIO_UNREGISTER reads a `uffdio_range`.
        unsafe { ioctl::ioctl(self.fd(), Updater::<OP, _>::new(&mut range)) }
    }

    /// Moves pages from `src` to `dst` (Linux 6.8+) up to the first that is missing, and wakes who waits for them unless it is
    /// [`quiet`](Self::quiet).
    #[cfg_attr(feature = "inject", track_caller)]
    pub fn move_pages(&self, dst: *mut u8, src: *mut u8, len: usize) -> Progress {
        #[cfg(feature = "inject")]
        return injected(inject::Site::Move, len, |len| self.move_now(dst, src, len));
        #[cfg(not(feature = "inject"))]
        self.move_now(dst, src, len)
    }

    fn move_now(&self, dst: *mut u8, src: *mut u8, len: usize) -> Progress {
        let mode = if self.wakes { 0 } else { MOVE_DONT_WAKE };
        let mut arg = k::uffdio_move {
            dst: dst as u64,
            src: src as u64,
            len: len as u64,
            mode,
            // Some EINVAL paths leave it alone.
            move_: 0,
        };
        const OP: Opcode = opcode::read_write::<k::uffdio_move>(GROUP, k::_UFFDIO_MOVE as u8);
        // SAFETY: UFFDIO_MOVE reads and writes a `uffdio_move`; that the moved pages are nobody's
        // at the source is the owner's business, as with any store to them.
        let result = unsafe { ioctl::ioctl(self.fd(), Updater::<OP, _>::new(&mut arg)) };
        progress(result, arg.move_)
    }

    /// Copies pages from `src` to missing pages at `dst`, and wakes who waits for them unless it is
    /// [`quiet`](Self::quiet).
    #[cfg_attr(feature = "inject", track_caller)]
    pub fn copy(&self, dst: *mut u8, src: *const u8, len: usize) -> Progress {
        #[cfg(feature = "inject")]
        return injected(inject::Site::Copy, len, |len| self.copy_now(dst, src, len));
        #[cfg(not(feature = "inject"))]
        self.copy_now(dst, src, len)
    }

    fn copy_now(&self, dst: *mut u8, src: *const u8, len: usize) -> Progress {
        let mode = if self.wakes { 0 } else { COPY_DONT_WAKE };
        let mode = mode | if self.protects { k::UFFDIO_COPY_MODE_WP as u64 } else { 0 };
        let mut arg =
            k::uffdio_copy { dst: dst as u64, src: src as u64, len: len as u64, mode, copy: 0 };
        const OP: Opcode = opcode::read_write::<k::uffdio_copy>(GROUP, k::_UFFDIO_COPY as u8);
        // SAFETY: UFFDIO_COPY reads and writes a `uffdio_copy`; it fills only missing pages.
        let result = unsafe { ioctl::ioctl(self.fd(), Updater::<OP, _>::new(&mut arg)) };
        progress(result, arg.copy)
    }

    /// Puts zeros under the missing pages of a range, and wakes who waits for them unless it is
    /// [`quiet`](Self::quiet).
    pub fn zero(&self, start: *mut u8, len: usize) -> Progress {
        let mode = if self.wakes { 0 } else { k::UFFDIO_ZEROPAGE_MODE_DONTWAKE as u64 };
        let range = k::uffdio_range { start: start as u64, len: len as u64 };
        let mut arg = k::uffdio_zeropage { range, mode, zeropage: 0 };
        const OP: Opcode =
            opcode::read_write::<k::uffdio_zeropage>(GROUP, k::_UFFDIO_ZEROPAGE as u8);
        // SAFETY: UFFDIO_ZEROPAGE reads and writes a `uffdio_zeropage`; it changes only missing pages.
        let result = unsafe { ioctl::ioctl(self.fd(), Updater::<OP, _>::new(&mut arg)) };
        progress(result, arg.zeropage)
    }

    /// Has every access to the missing pages of a range end in SIGBUS (Linux 6.6+), and wakes who waits
    /// for them unless it is [`quiet`](Self::quiet). Whoever drops the pages takes it back.
    pub fn poison(&self, start: *mut u8, len: usize) -> Progress {
        let mode = if self.wakes { 0 } else { POISON_DONT_WAKE };
        let range = k::uffdio_range { start: start as u64, len: len as u64 };
        let mut arg = k::uffdio_poison { range, mode, updated: 0 };
        const OP: Opcode = opcode::read_write::<k::uffdio_poison>(GROUP, k::_UFFDIO_POISON as u8);
        // SAFETY: UFFDIO_POISON reads and writes a `uffdio_poison`; it changes only missing pages.
        let result = unsafe { ioctl::ioctl(self.fd(), Updater::<OP, _>::new(&mut arg)) };
        progress(result, arg.updated)
    }

    /// Takes write protection away from the pages of a range.
    pub fn unprotect(&self, start: *mut u8, len: usize) -> Result<()> {
        let mut arg = k::uffdio_writeprotect {
            range: k::uffdio_range { start: start as u64, len: len as u64 },
            mode: WRITEPROTECT_DONT_WAKE,
        };
        const OP: Opcode =
            opcode::read_write::<k::uffdio_writeprotect>(GROUP, k::_UFFDIO_WRITEPROTECT as u8);
        // SAFETY: UFFDIO_WRITEPROTECT reads a `uffdio_writeprotect`.
        unsafe { ioctl::ioctl(self.fd(), Updater::<OP, _>::new(&mut arg)) }
    }

    /// Wakes who waits for a page of the range.
    pub fn wake(&self, start: *mut u8, len: usize) -> Result<()> {
        let mut arg = k::uffdio_range { start: start as u64, len: len as u64 };
        // The header declares it _IOR, unlike its siblings.
        const OP: Opcode = opcode::read::<k::uffdio_range>(GROUP, k::_UFFDIO_WAKE as u8);
        // SAFETY: UFFDIO_WAKE reads a `uffdio_range`.
        unsafe { ioctl::ioctl(self.fd(), Updater::<OP, _>::new(&mut arg)) }
    }

    /// Reads pending faults into `out` without waiting; the count is 0 when there are none.
    ///
    /// # Safety
    /// The number still names the userfaultfd: the calling thread's table is its own.
    pub unsafe fn read_faults(&self, out: &mut FaultBuffer) -> Result<usize> {
        let size = size_of::<k::uffd_msg>();
        let bytes = out.messages.len() * size;
        // SAFETY: `uffd_msg` is plain data, and the buffer is `bytes` long.
        let buffer = unsafe {
            core::slice::from_raw_parts_mut(out.messages.as_mut_ptr().cast::<u8>(), bytes)
        };
        match rustix::io::read(self.fd(), buffer) {
            Ok(n) => Ok(n / size),
            Err(Errno::AGAIN) => Ok(0),
            Err(e) => Err(e),
        }
    }

    /// Waits for a fault, for `timeout_ms` milliseconds at most (none: for ever). True if
    /// something can be read.
    pub fn poll(&self, timeout_ms: Option<u64>) -> Result<bool> {
        let timeout = timeout_ms.map(|ms| rustix::event::Timespec {
            tv_sec: (ms / 1000) as i64,
            tv_nsec: (ms % 1000) as i64 * 1_000_000,
        });
        let mut fds = [rustix::event::PollFd::new(&self, rustix::event::PollFlags::IN)];
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(n) => Ok(n > 0),
            Err(Errno::INTR) => Ok(false),
            // RLIMIT_NOFILE is 0, and poll takes no more descriptors than it says; select does.
            Err(Errno::INVAL) => self.select(timeout.as_ref()),
            Err(e) => Err(e),
        }
    }

    /// As [`poll`](Self::poll), where that is refused.
    fn select(&self, timeout: Option<&rustix::event::Timespec>) -> Result<bool> {
        use rustix::event::{FdSetElement, fd_set_insert, select};
        /// Descriptors of this number and above are not to be expected.
        const MOST: usize = 1 << 14;
        let mut set = [FdSetElement::default(); MOST / (8 * size_of::<FdSetElement>())];
        if !(0..MOST as RawFd).contains(&self.number) {
            return Err(Errno::INVAL);
        }
        fd_set_insert(&mut set, self.number);
        // SAFETY: the set has a bit for each number up to this one, which is open in the calling
        // thread's table.
        match unsafe { select(self.number + 1, Some(&mut set), None, None, timeout) } {
            Ok(n) => Ok(n > 0),
            Err(Errno::INTR) => Ok(false),
            Err(e) => Err(e),
        }
    }
}

impl AsFd for Uffd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd()
    }
}

/// Room for the faults that one read takes.
pub struct FaultBuffer {
    messages: [k::uffd_msg; Self::CAPACITY],
}

impl core::fmt::Debug for FaultBuffer {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("FaultBuffer").finish_non_exhaustive()
    }
}

impl Default for FaultBuffer {
    fn default() -> Self {
        // SAFETY: `uffd_msg` is plain data for which zeros are a value.
        Self { messages: unsafe { core::mem::zeroed() } }
    }
}

impl FaultBuffer {
    /// Faults that one read takes at most.
    pub const CAPACITY: usize = 16;

    /// The fault at `index` of the last read; none if that message is another event.
    pub fn fault(&self, index: usize) -> Option<Fault> {
        let message = self.messages.get(index)?;
        if u32::from(message.event) != k::UFFD_EVENT_PAGEFAULT {
            return None;
        }
        // SAFETY: the event says which field of the union the kernel wrote.
        let fault = unsafe { message.arg.pagefault };
        // SAFETY: asked for at the handshake; else zeros.
        let thread = unsafe { fault.feat.ptid };
        let writes = fault.flags & k::UFFD_PAGEFAULT_FLAG_WRITE as u64 != 0;
        Some(Fault { address: fault.address as usize, writes, thread })
    }
}

fn progress(result: Result<()>, field: i64) -> Progress {
    match result {
        // A complete ioctl returns 0 and the length; a short one AGAIN and the part done.
        Ok(()) => Progress { done: field.max(0) as usize, stop: None },
        Err(stop) => Progress { done: field.max(0) as usize, stop: Some(stop) },
    }
}

/// Makes a call for `len` bytes, or lets it fail as a test wants it to.
#[cfg(feature = "inject")]
#[track_caller]
fn injected(site: inject::Site, len: usize, call: impl FnOnce(usize) -> Progress) -> Progress {
    match inject::at(site, len) {
        (0, answer) => Progress { done: 0, stop: answer },
        (len, answer) => {
            let Progress { done, stop } = call(len);
            Progress { done, stop: stop.or(answer) }
        }
    }
}

/// `USERFAULTFD_IOC_NEW`, whose argument is a value and whose result is a descriptor.
struct NewUffd;

// SAFETY: opcode and calling convention are those of `linux/userfaultfd.h`.
unsafe impl Ioctl for NewUffd {
    type Output = OwnedFd;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        opcode::none(GROUP, 0)
    }

    fn as_ptr(&mut self) -> *mut c_void {
        (OFlags::CLOEXEC | OFlags::NONBLOCK).bits() as usize as *mut c_void
    }

    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut c_void) -> Result<OwnedFd> {
        // SAFETY: on success the ioctl returns a fresh descriptor that nobody else owns.
        Ok(unsafe { OwnedFd::from_raw_fd(out) })
    }
}
