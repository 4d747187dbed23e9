//! Another process, as the kernel shows it: its memory, its mappings, what it is and whether it lives.
//!
//! It is held by a pidfd: when it has ended, its number may be another one's.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// Remote ranges in one call; the kernel takes 1024.
const RANGES: usize = 512;

/// Why there is nothing to see.
#[derive(Debug)]
pub enum Trouble {
    /// There is no such process.
    Missing,
    /// The number is a thread's.
    Thread,
    /// It has ended.
    Ended,
    /// No heap of refpage's is in it.
    NotOn,
    /// One of another build is, in this file.
    OtherBuild(String),
    /// This process may not look at it, and who may.
    Refused(String),
    /// Anything else.
    Failed(String),
}

impl Trouble {
    /// As one line, about the process of that number.
    pub fn line(&self, pid: i32) -> String {
        match self {
            Trouble::Missing => format!("no process {pid}"),
            Trouble::Thread => {
                format!(
                    "{pid} is a thread: give the number of its process (Tgid in /proc/{pid}/status)"
                )
            }
            Trouble::Ended => format!("process {pid} has ended"),
            Trouble::NotOn => format!(
                "process {pid} is not on refpage: start it with `refpage run`, or with refpage as its \
                 #[global_allocator]"
            ),
            Trouble::OtherBuild(file) => format!(
                "process {pid} runs another version of refpage ({file}): use the `refpage` command that \
                 was built with it"
            ),
            Trouble::Refused(remedy) => format!("not permitted to look at process {pid}: {remedy}"),
            Trouble::Failed(what) => format!("cannot look at process {pid}: {what}"),
        }
    }
}

/// A process, alive or not.
#[derive(Debug)]
pub struct Process {
    pub pid: i32,
    handle: OwnedFd,
}

/// What `/proc/PID/status` says, in bytes, and the rest of what is told of a process as a whole.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// Its command line, spaces between the arguments; its name, if it has none.
    pub command: String,
    pub rss: u64,
    pub peak_rss: u64,
    pub swapped: u64,
    pub threads: u64,
    /// Children of its threads; none where the kernel does not tell.
    pub children: Option<u64>,
}

/// A mapping that begins where its file begins.
#[derive(Debug)]
pub struct Image {
    pub start: usize,
    pub file: String,
}

impl Process {
    /// The process of that number.
    pub fn open(pid: i32) -> Result<Self, Trouble> {
        let number = (pid > 0).then(|| Pid::from_raw(pid)).flatten().ok_or(Trouble::Missing)?;
        match pidfd_open(number, PidfdFlags::empty()) {
            Ok(handle) => Ok(Self { pid, handle }),
            Err(Errno::SRCH) => Err(Trouble::Missing),
            // What the kernel says of a thread has changed.
            Err(Errno::INVAL | Errno::NOENT) => Err(Trouble::Thread),
            Err(errno) => Err(Trouble::Failed(format!("pidfd_open: {errno}"))),
        }
    }

    /// Readable once it has ended.
    pub fn handle(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        let mut ends = [PollFd::new(&self.handle, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        matches!(poll(&mut ends, Some(&now)), Ok(1))
    }

    /// A file of its directory in /proc.
    fn path(&self, name: &str) -> String {
        format!("/proc/{}/{name}", self.pid)
    }

    /// Opens one of those.
    pub fn file(&self, name: &str) -> Result<File, Trouble> {
        File::open(self.path(name)).map_err(|error| self.trouble(&error))
    }

    fn text(&self, name: &str) -> Result<String, Trouble> {
        let bytes = fs::read(self.path(name)).map_err(|error| self.trouble(&error))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn trouble(&self, error: &io::Error) -> Trouble {
        if self.has_ended() {
            return Trouble::Ended;
        }
        match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::SRCH) => Trouble::Ended,
            Some(Errno::PERM | Errno::ACCESS) => Trouble::Refused(self.remedy()),
            // With hidepid, others' directories are not there.
            Some(Errno::NOENT) => Trouble::Refused(self.remedy()),
            _ => Trouble::Failed(error.to_string()),
        }
    }

    /// Who may look, if this process may not.
    fn remedy(&self) -> String {
        let status = fs::read_to_string(self.path("status")).unwrap_or_default();
        let ids = |key| field(&status, key).unwrap_or_default().split_whitespace();
        let (own_user, own_group) =
            (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        let differs = |key, own: u32| ids(key).take(3).any(|id| id.parse() != Ok(own));
        if own_user == 0 {
            return "it takes CAP_SYS_PTRACE, which this root has not".into();
        }
        if status.is_empty() || differs("Uid", own_user) || differs("Gid", own_group) {
            return match ids("Uid").next() {
                Some(user) => format!("it belongs to user {user}; be that user, or root"),
                None => "it belongs to another user; be that user, or root".into(),
            };
        }
        let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
        match scope.trim() {
            "" | "0" => "it is not dumpable (it has gained rights, or wants it so); be root".into(),
            scope => format!(
                "kernel.yama.ptrace_scope is {scope}; be root, or start the program with `refpage run \
                 --live`"
            ),
        }
    }

    /// Copies ranges of its memory, one behind the other: how many bytes, up to the first that cannot be read.
    pub fn read_ranges(&self, ranges: &[Range<usize>], bytes: &mut [u8]) -> Result<usize, Trouble> {
        let mut done = 0;
        for ranges in ranges.chunks(RANGES) {
            let wanted: usize = ranges.iter().map(ExactSizeIterator::len).sum();
            let Some(part) = bytes.get_mut(done..done + wanted) else { return Ok(done) };
            let remote: Vec<libc::iovec> = ranges
                .iter()
                .map(|range| libc::iovec {
                    iov_base: std::ptr::without_provenance_mut(range.start),
                    iov_len: range.len(),
                })
                .collect();
            let local = libc::iovec { iov_base: part.as_mut_ptr().cast(), iov_len: part.len() };
            // SAFETY: the kernel writes to `part`, no more than it has room for, and checks what it reads.
            let read = unsafe {
                libc::process_vm_readv(
                    self.pid,
                    &raw const local,
                    1,
                    remote.as_ptr(),
                    remote.len() as libc::c_ulong,
                    0,
                )
            };
            match usize::try_from(read) {
                Ok(read) => {
                    done += read;
                    if read < wanted {
                        return Ok(done);
                    }
                }
                Err(_) => {
                    let error = io::Error::last_os_error();
                    return match error.raw_os_error() {
                        Some(libc::EFAULT) => Ok(done),
                        _ => Err(self.trouble(&error)),
                    };
                }
            }
        }
        Ok(done)
    }

    /// Copies memory from an address on: false if not all of it can be read.
    pub fn read(&self, address: usize, bytes: &mut [u8]) -> Result<bool, Trouble> {
        let range = address..address.saturating_add(bytes.len());
        Ok(self.read_ranges(&[range], bytes)? == bytes.len())
    }

    /// Where programs and libraries begin in its memory, in the order of their addresses.
    pub fn images(&self) -> Result<Vec<Image>, Trouble> {
        // start-end access offset device inode path
        let maps = self.text("maps")?;
        let image = |line: &str| {
            let mut fields = line.split_ascii_whitespace();
            let start = fields.next()?.split('-').next()?;
            let readable = fields.next()?.starts_with('r');
            let begins = usize::from_str_radix(fields.next()?, 16) == Ok(0);
            let file = line.get(line.find('/')?..)?.to_owned();
            let start = usize::from_str_radix(start, 16).ok()?;
            (readable && begins).then_some(Image { start, file })
        };
        let images: Vec<Image> = maps.lines().filter_map(image).collect();
        // A process that is ending has no memory, but is there.
        if images.is_empty() && self.ends_soon() { Err(Trouble::Ended) } else { Ok(images) }
    }

    fn ends_soon(&self) -> bool {
        let mut ends = [PollFd::new(&self.handle, PollFlags::IN)];
        let soon = Timespec::try_from(Duration::from_millis(50)).ok();
        matches!(poll(&mut ends, soon.as_ref()), Ok(1))
    }

    /// What it is as a whole.
    pub fn status(&self) -> Result<Status, Trouble> {
        let status = self.text("status")?;
        let number = |key| {
            let text = field(&status, key)?;
            text.split_whitespace().next()?.parse::<u64>().ok()
        };
        let bytes = |key| number(key).unwrap_or(0) << 10;
        let command = self.text("cmdline")?;
        let command = command.trim_end_matches('\0').replace('\0', " ");
        Ok(Status {
            command: match command.is_empty() {
                true => field(&status, "Name").unwrap_or_default().to_owned(),
                // It is shown on a terminal.
                false => command.chars().map(|c| if c.is_control() { ' ' } else { c }).collect(),
            },
            rss: bytes("VmRSS"),
            peak_rss: bytes("VmHWM"),
            swapped: bytes("VmSwap"),
            threads: number("Threads").unwrap_or(0),
            children: self.children(),
        })
    }

    fn children(&self) -> Option<u64> {
        let mut count = 0;
        for thread in fs::read_dir(self.path("task")).ok()?.flatten() {
            let children = fs::read_to_string(thread.path().join("children")).ok()?;
            count += children.split_ascii_whitespace().count() as u64;
        }
        Some(count)
    }
}

/// What a line of `/proc/PID/status` says.
fn field<'a>(status: &'a str, key: &str) -> Option<&'a str> {
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    Some(line.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> Process {
        Process::open(std::process::id() as i32).expect("this process")
    }

    #[test]
    fn memory_is_copied_up_to_where_it_ends() {
        let word = 0x1234_5678_u32;
        let at = &raw const word as usize;
        let mut bytes = [0; 4];
        assert!(own().read(at, &mut bytes).expect("own memory"));
        assert_eq!(u32::from_ne_bytes(bytes), word);
        assert!(!own().read(16, &mut bytes).expect("an address of nothing is no error"));
        let mut both = [0; 8];
        let ranges = [at..at + 4, 16..20];
        assert_eq!(own().read_ranges(&ranges, &mut both).expect("own memory"), 4);
    }

    #[test]
    fn numbers_of_nothing_are_told() {
        for pid in [-1, 0, i32::MAX] {
            assert!(matches!(Process::open(pid), Err(Trouble::Missing)), "{pid}");
        }
        let thread = std::thread::spawn(|| {
            let number = rustix::thread::gettid().as_raw_pid();
            matches!(Process::open(number), Err(Trouble::Thread))
        });
        assert!(thread.join().expect("no panic"));
    }

    #[test]
    fn every_trouble_is_one_line() {
        let text = || "x".to_owned();
        for trouble in [
            Trouble::Missing,
            Trouble::Thread,
            Trouble::Ended,
            Trouble::NotOn,
            Trouble::OtherBuild(text()),
            Trouble::Refused(text()),
            Trouble::Failed(text()),
        ] {
            let line = trouble.line(17);
            assert!(line.contains("17") && !line.contains('\n') && !line.contains("  "), "{line}");
        }
    }

    #[test]
    fn this_process_has_a_status_and_images() {
        let status = own().status().expect("own status");
        assert!(status.rss > 0 && status.peak_rss >= status.rss && status.threads > 0);
        assert!(!status.command.is_empty());
        assert!(!own().images().expect("own maps").is_empty());
        assert!(!own().has_ended());
    }
}
