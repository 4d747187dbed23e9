//! Address space: reservations, advice, residency.

use core::ffi::c_void;
use core::sync::atomic::{AtomicUsize, Ordering};

use rustix::fd::BorrowedFd;
use rustix::io::{Errno, Result};
use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags};

use crate::sys::descriptor::Descriptor;
use crate::sys::thread;

/// Size of an OS page in bytes: 4, 16 or 64 KiB. Read once, at run time.
#[inline]
pub fn page_size() -> usize {
    static SIZE: AtomicUsize = AtomicUsize::new(0);
    match SIZE.load(Ordering::Relaxed) {
        0 => {
            // SAFETY: sysconf has no precondition, and _SC_PAGESIZE cannot fail.
            let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
            SIZE.store(size, Ordering::Relaxed);
            size
        }
        size => size,
    }
}

/// Whether memory can carry tags: it is mapped with PROT_MTE, which only a machine that
/// [has them](mte::level) allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tags {
    /// It cannot.
    Without,
    /// It can; the tags are 0 at first.
    With,
}

/// Of linux/mman.h on arm64; anywhere else it would mean nothing, or something else.
const PROT_MTE: u32 = 0x20;

impl Tags {
    fn bits(self) -> u32 {
        if mte::AVAILABLE && self == Tags::With { PROT_MTE } else { 0 }
    }

    fn readable(self) -> ProtFlags {
        ProtFlags::READ | ProtFlags::from_bits_retain(self.bits())
    }

    fn writable(self) -> ProtFlags {
        self.readable() | ProtFlags::WRITE
    }
}

/// Reserves `len` bytes of private anonymous memory, aligned to `align` (a power of two, at
/// least one OS page). Nothing is committed until it is touched.
///
/// # Errors
/// What mmap said: ENOMEM under RLIMIT_AS, strict overcommit, or a full address space.
pub fn reserve(len: usize, align: usize) -> Result<*mut u8> {
    reserve_as(len, align, Tags::Without)
}

/// As [`reserve`], for memory with or without tags.
///
/// # Errors
/// As [`reserve`].
pub fn reserve_as(len: usize, align: usize, tags: Tags) -> Result<*mut u8> {
    map(len, align, tags.writable())
}

/// As [`reserve`], but where [`reserving_costs`] the memory can only be read, as zeros, and counts
/// for nothing until [`make_writable`] makes parts of it what [`reserve`] gives.
///
/// # Errors
/// As [`reserve`].
pub fn reserve_for_later(len: usize, align: usize) -> Result<*mut u8> {
    reserve_for_later_as(len, align, Tags::Without)
}

/// As [`reserve_for_later`], for memory with or without tags.
///
/// # Errors
/// As [`reserve`].
pub fn reserve_for_later_as(len: usize, align: usize, tags: Tags) -> Result<*mut u8> {
    let start = map(len, align, if reserving_costs() { tags.readable() } else { tags.writable() })?;
    // Little of it will be used, and here and there: not 2 MiB at a time, or 32 where pages are 16 KiB.
    // SAFETY: advice on our own mapping, and it discards nothing. A kernel without huge pages refuses.
    let _ = unsafe { advise(start, len, Advice::LinuxNoHugepage) };
    Ok(start)
}

/// Makes the pages that hold any of these bytes writable, in what [`reserve_for_later`] gave.
///
/// # Errors
/// ENOMEM where a limit does not allow more.
///
/// # Safety
/// The range lies in such a reservation.
pub unsafe fn make_writable(start: *mut u8, len: usize) -> Result<()> {
    // SAFETY: the caller's promise.
    unsafe { make_writable_as(start, len, Tags::Without) }
}

/// As [`make_writable`], in what [`reserve_for_later_as`] gave.
///
/// # Errors
/// As [`make_writable`].
///
/// # Safety
/// As for [`make_writable`]; `tags` is what the reservation was made with.
pub unsafe fn make_writable_as(start: *mut u8, len: usize, tags: Tags) -> Result<()> {
    if !reserving_costs() || len == 0 {
        return Ok(());
    }
    let first = start as usize / page_size() * page_size();
    let end = (start as usize + len).next_multiple_of(page_size());
    let writable = MprotectFlags::READ | MprotectFlags::WRITE;
    // SAFETY: the caller's promise; nothing becomes less accessible than it was.
    unsafe { protect(first as *mut u8, end - first, writable, tags) }
}

/// Says what may be done with whole pages, which keep their tags.
///
/// # Errors
/// What mprotect said.
///
/// # Safety
/// The range lies in a mapping of ours, and nobody goes on with it that the access refuses.
pub unsafe fn protect(start: *mut u8, len: usize, access: MprotectFlags, tags: Tags) -> Result<()> {
    let access = access | MprotectFlags::from_bits_retain(tags.bits());
    // SAFETY: the caller's promise.
    unsafe { rustix::mm::mprotect(start.cast(), len, access) }
}

/// Whether private writable memory counts in full against a limit before it is touched: under
/// strict overcommit, whose limit all processes share, and under RLIMIT_DATA. Found out once.
pub fn reserving_costs() -> bool {
    const YES: usize = 1;
    const NO: usize = 2;
    static ANSWER: AtomicUsize = AtomicUsize::new(0);
    match ANSWER.load(Ordering::Relaxed) {
        0 => {
            let costs = is_overcommit_strict() || data_limit().is_some();
            ANSWER.store(if costs { YES } else { NO }, Ordering::Relaxed);
            costs
        }
        answer => answer == YES,
    }
}

fn is_overcommit_strict() -> bool {
    let mut mode = [0u8; 1];
    let read = Descriptor::read_from(c"/proc/sys/vm/overcommit_memory", &mut mode);
    read == Ok(1) && mode == *b"2"
}

/// Core files leave out reservations of so many bytes and more: the kernel looks at each page of
/// what it writes there, for minutes at a terabyte.
const UNDUMPED_FROM: usize = 64 << 20;

fn map(len: usize, align: usize, access: ProtFlags) -> Result<*mut u8> {
    let slack = align.saturating_sub(page_size());
    let total = len.checked_add(slack).ok_or(Errno::NOMEM)?;
    // SAFETY: a fresh mapping at an address of the kernel's choice aliases nothing.
    let base = unsafe {
        rustix::mm::mmap_anonymous(
            core::ptr::null_mut(),
            total,
            access,
            MapFlags::PRIVATE | MapFlags::NORESERVE,
        )?
    } as usize;
    let start = base.next_multiple_of(align);
    trim(base, start - base);
    trim(start + len, base + total - (start + len));
    let start = start as *mut u8;
    if len >= UNDUMPED_FROM {
        // SAFETY: our own, and it keeps what it holds. Refused, core files are slow to be written.
        let _ = unsafe { advise(start, len, Advice::LinuxDontDump) };
    }
    Ok(start)
}

fn trim(start: usize, len: usize) {
    if len > 0 {
        // SAFETY: called only on the unused ends of a mapping that `reserve` just made.
        let _ = unsafe { rustix::mm::munmap(start as *mut c_void, len) };
    }
}

/// Maps the first `len` bytes of a file shared, for reading and writing.
///
/// # Errors
/// What mmap said.
///
/// # Safety
/// The file stays as long as the mapping.
pub unsafe fn map_shared(len: usize, file: BorrowedFd<'_>, tags: Tags) -> Result<*mut u8> {
    // SAFETY: a fresh mapping at an address of the kernel's choice aliases nothing.
    let mapped = unsafe {
        let start = core::ptr::null_mut();
        rustix::mm::mmap(start, len, tags.writable(), MapFlags::SHARED, file, 0)?
    };
    Ok(mapped.cast())
}

/// Maps a file's beginning privately over `len` bytes of a mapping of ours. What cannot be mapped
/// stays as it was, or becomes fresh anonymous memory.
///
/// # Errors
/// What mmap said: NOMEM where the process has too many mappings.
///
/// # Safety
/// The range lies in a mapping of ours, and nobody needs what it holds.
pub unsafe fn map_over(start: *mut u8, len: usize, file: BorrowedFd<'_>, tags: Tags) -> Result<()> {
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED;
    // SAFETY: the caller's promise.
    let mapped = unsafe { rustix::mm::mmap(start.cast(), len, tags.writable(), flags, file, 0) };
    match mapped {
        Ok(_) => Ok(()),
        Err(errno) => {
            // The kernel may have unmapped what was there before it failed.
            // SAFETY: as above.
            unsafe { map_anonymous_over(start, len, tags)? };
            Err(errno)
        }
    }
}

/// Maps fresh anonymous memory over `len` bytes of a mapping of ours, whatever is there.
///
/// # Errors
/// What mmap said.
///
/// # Safety
/// As for [`map_over`].
pub unsafe fn map_anonymous_over(start: *mut u8, len: usize, tags: Tags) -> Result<()> {
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED;
    // SAFETY: the caller's promise.
    unsafe { rustix::mm::mmap_anonymous(start.cast(), len, tags.writable(), flags)? };
    // SAFETY: as above. As all of the Region: see there.
    let _ = unsafe { advise(start, len, Advice::LinuxNoHugepage) };
    Ok(())
}

/// Mappings that a process may have: `vm.max_map_count`, or the kernel's own default if that cannot
/// be read.
pub fn max_map_count() -> usize {
    const DEFAULT: usize = 65_530;
    let mut text = [0u8; 24];
    let read = Descriptor::read_from(c"/proc/sys/vm/max_map_count", &mut text);
    let digits = text.get(..read.unwrap_or(0)).unwrap_or_default();
    let digits = core::str::from_utf8(digits).unwrap_or_default().trim();
    digits.parse().unwrap_or(DEFAULT)
}

/// Unmaps what [`reserve`] gave.
///
/// # Safety
/// The range is a whole reservation, and nobody uses it any more.
pub unsafe fn unmap(start: *mut u8, len: usize) {
    // SAFETY: the caller's promise is munmap's precondition.
    let _ = unsafe { rustix::mm::munmap(start.cast(), len) };
}

/// Tells the kernel how the range is to be treated.
///
/// # Safety
/// The range lies in a mapping of ours, and for advice that discards contents nobody needs them.
pub unsafe fn advise(start: *mut u8, len: usize, advice: Advice) -> Result<()> {
    // SAFETY: the caller's promise is madvise's precondition.
    unsafe { rustix::mm::madvise(start.cast(), len, advice) }
}

/// Has the kernel put the pages of a range in place, each as it reads now.
///
/// # Safety
/// The range is writable memory of ours, and nobody else uses it meanwhile.
pub unsafe fn populate(start: *mut u8, len: usize) {
    // SAFETY: the caller's promise.
    if unsafe { try_populate(start, len) }.is_err() {
        // There the program sees the signal, as it would without us.
        // SAFETY: as above.
        unsafe { touch(start, len) };
    }
}

/// As [`populate`], but where there is no memory an error says so.
///
/// # Errors
/// NOMEM, or what else stood in the way.
///
/// # Safety
/// As for [`populate`].
pub unsafe fn try_populate(start: *mut u8, len: usize) -> Result<()> {
    #[cfg(feature = "inject")]
    super::inject::refusal(super::inject::Site::Populate)?;
    // SAFETY: the caller's promise.
    match unsafe { advise(start, len, Advice::LinuxPopulateWrite) } {
        // Before Linux 5.14.
        Err(Errno::INVAL) => {
            // SAFETY: as above.
            unsafe { touch(start, len) };
            Ok(())
        }
        result => result,
    }
}

/// # Safety
/// As for [`populate`].
unsafe fn touch(start: *mut u8, len: usize) {
    for offset in (0..len).step_by(page_size()) {
        // SAFETY: a byte of the range, which is replaced by itself.
        unsafe { start.add(offset).write_volatile(start.add(offset).read_volatile()) };
    }
}

/// A word that the kernel clears in the child of any fork or clone that copies the address space,
/// also one that runs no atfork handlers.
#[derive(Debug)]
pub struct ForkWord(*mut AtomicUsize);

// SAFETY: an atomic in a mapping that lives as long as the process.
unsafe impl Sync for ForkWord {}
// SAFETY: as above.
unsafe impl Send for ForkWord {}

impl ForkWord {
    /// A word that is 0.
    ///
    /// # Errors
    /// ENOMEM without address space, INVAL before Linux 4.14.
    pub fn map() -> Result<Self> {
        let page = reserve(page_size(), page_size())?;
        // SAFETY: a mapping made just above.
        unsafe { advise(page, page_size(), Advice::LinuxWipeOnFork)? };
        Ok(Self(page.cast()))
    }

    /// What was set; 0 if this process is the child of the one that set it.
    #[inline]
    pub fn get(&self) -> usize {
        self.word().load(Ordering::Acquire)
    }

    /// Sets it.
    pub fn set(&self, value: usize) {
        self.word().store(value, Ordering::Release);
    }

    fn word(&self) -> &AtomicUsize {
        // SAFETY: the page lives as long as the process, and zeros are a value of the atomic.
        unsafe { &*self.0 }
    }
}

impl Drop for ForkWord {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `map`, and its owner goes.
        unsafe { unmap(self.0.cast(), page_size()) };
    }
}

/// Drops pages, also such as are locked in memory (Linux 5.18+): they are missing afterwards.
///
/// # Errors
/// What madvise said: INVAL for locked pages on an older kernel.
///
/// # Safety
/// The range lies in a mapping of ours, and nobody needs what it holds.
#[cfg_attr(feature = "inject", track_caller)]
pub unsafe fn drop_pages(start: *mut u8, len: usize) -> Result<()> {
    #[cfg(feature = "inject")]
    super::inject::refusal(super::inject::Site::Drop)?;
    // SAFETY: the caller's promise.
    match unsafe { advise(start, len, Advice::LinuxDontNeed) } {
        // SAFETY: as above.
        Err(Errno::INVAL) => unsafe { advise(start, len, Advice::LinuxDontneedLocked) },
        result => result,
    }
}

/// `MADV_GUARD_INSTALL` and `MADV_GUARD_REMOVE` of Linux 6.13: uapi/asm-generic/mman-common.h.
const GUARD_INSTALL: usize = 102;
const GUARD_REMOVE: usize = 103;

/// Has every access to the pages end in SIGSEGV; what they held is gone.
///
/// # Errors
/// INVAL: this kernel cannot, or not in this mapping: a file's, or one that is locked in memory.
///
/// # Safety
/// The range lies in a mapping of ours, and nobody needs what it holds.
pub unsafe fn install_guards(start: *mut u8, len: usize) -> Result<()> {
    // SAFETY: the caller's promise.
    unsafe { advise_by_number(start, len, GUARD_INSTALL) }
}

/// Takes back what [`install_guards`] did: those pages are missing afterwards, the others as they were.
///
/// # Errors
/// INVAL: this kernel has no guards.
///
/// # Safety
/// The range lies in a mapping of ours.
pub unsafe fn remove_guards(start: *mut u8, len: usize) -> Result<()> {
    // SAFETY: the caller's promise.
    unsafe { advise_by_number(start, len, GUARD_REMOVE) }
}

/// For advice that rustix has no name for.
///
/// # Safety
/// As for [`advise`].
unsafe fn advise_by_number(start: *mut u8, len: usize, advice: usize) -> Result<()> {
    // SAFETY: the caller's promise.
    match unsafe { thread::raw_call(libc::SYS_madvise, start as usize, len, advice, 0) } {
        0 => Ok(()),
        error => Err(Errno::from_raw_os_error(-error as i32)),
    }
}

/// Reads words of this process that may be protected, gone, or written meanwhile. None if one of
/// them cannot be read, or the system call is not allowed.
pub fn read_words<const N: usize>(addresses: [usize; N]) -> Option<[u64; N]> {
    let mut words = [0u64; N];
    let size = size_of::<u64>();
    let local = libc::iovec { iov_base: words.as_mut_ptr().cast(), iov_len: N * size };
    let remote =
        addresses.map(|address| libc::iovec { iov_base: address as *mut c_void, iov_len: size });
    let pid = rustix::process::getpid().as_raw_pid();
    // SAFETY: the kernel writes at most N words to the buffer, and checks what it reads. The
    // caller of malloc keeps its errno by `KeepErrno` further up.
    let read = unsafe {
        libc::process_vm_readv(pid, &raw const local, 1, remote.as_ptr(), N as libc::c_ulong, 0)
    };
    (read == (N * size) as isize).then_some(words)
}

/// CPUs that this process may run on.
pub fn cpus() -> usize {
    rustix::thread::sched_getaffinity(None).map_or(1, |set| set.count() as usize).max(1)
}

/// The CPU that the thread runs on, for choosing among equals: it may be another one by now.
#[inline]
pub fn this_cpu() -> usize {
    rustix::thread::sched_getcpu()
}

/// From uapi/linux/resource.h, since not every C library has it.
const RUSAGE_THREAD: libc::c_int = 1;

/// Page faults of the calling thread so far that needed no I/O.
pub fn thread_faults() -> u64 {
    let mut usage = core::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: getrusage fills the struct, for which zeros are a value too.
    unsafe {
        libc::getrusage(RUSAGE_THREAD, usage.as_mut_ptr());
        usage.assume_init().ru_minflt as u64
    }
}

/// Whether dropping a whole 2 MiB block of pages also drops its page table, so that a huge page
/// can be moved there: Linux 6.14 with CONFIG_PT_RECLAIM, on x86-64 (kernel commit 6375e95f381e).
pub fn reclaims_tables() -> bool {
    let uname = rustix::system::uname();
    let mut numbers = uname.release().to_bytes().split(|byte| !byte.is_ascii_digit());
    let mut next = || {
        let digits = numbers.next().unwrap_or_default();
        digits.iter().fold(0u32, |n, digit| n.saturating_mul(10) + u32::from(digit - b'0'))
    };
    cfg!(target_arch = "x86_64") && (next(), next()) >= (6, 14)
}

/// The soft limit on private writable memory in bytes, if there is one.
pub fn data_limit() -> Option<u64> {
    soft_limit(libc::RLIMIT_DATA)
}

/// The soft limit on address space in bytes, if there is one.
pub fn address_space_limit() -> Option<u64> {
    soft_limit(libc::RLIMIT_AS)
}

#[cfg(target_os = "android")]
type Resource = libc::c_int;
#[cfg(not(target_os = "android"))]
type Resource = libc::__rlimit_resource_t;

/// A limit that cannot be asked for counts as none. (rustix takes the call for one that cannot
/// fail, but a filter may refuse it.)
fn soft_limit(resource: Resource) -> Option<u64> {
    let _errno = KeepErrno::new();
    let mut limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: getrlimit writes the struct, or leaves it alone if it fails.
    unsafe { libc::getrlimit(resource, &mut limit) };
    (limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}

// Where libc keeps the thread's errno: bionic has its own name for it.
#[cfg(target_os = "android")]
pub(super) use libc::__errno as errno_location;
#[cfg(not(target_os = "android"))]
pub(super) use libc::__errno_location as errno_location;

/// Keeps what the caller's code does to `errno` from the program: made at the entry of a path
/// that calls libc, it puts the old value back when dropped.
#[derive(Debug)]
pub struct KeepErrno(i32);

impl KeepErrno {
    /// Remembers errno.
    #[allow(clippy::new_without_default, reason = "making one is an effect, not a default value")]
    pub fn new() -> Self {
        // SAFETY: errno_location always returns this thread's valid errno.
        Self(unsafe { *errno_location() })
    }
}

impl Drop for KeepErrno {
    fn drop(&mut self) {
        // SAFETY: as in `new`.
        unsafe { *errno_location() = self.0 }
    }
}

/// Has the kernel's vDSO found, which rustix looks up once: before Linux 6.4 in a file, which another thread
/// of the program could close meanwhile, if it were not done while there is none.
pub fn find_vdso() {
    let _ = (now_ms(), this_cpu());
}

/// Nanoseconds of the monotonic clock.
pub fn now_ns() -> u64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

/// Nanoseconds of CPU time that the calling thread has used.
pub fn thread_cpu_ns() -> u64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

/// Milliseconds of the coarse monotonic clock: a vDSO read, a few nanoseconds.
pub fn now_ms() -> u64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    t.tv_sec as u64 * 1000 + t.tv_nsec as u64 / 1_000_000
}
