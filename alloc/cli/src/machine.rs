//! What `refpage doctor` looks at: the kernel, its settings, this process's limits and privileges,
//! and every way to a userfaultfd. A fact that cannot be read is `None`, never a guess.

use refpage::sys::uffd::{Features, Uffd, Way};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};
use std::fmt;
use std::fs::File;
use std::path::Path;

/// The number of CAP_SYS_PTRACE, which the userfaultfd system call asks for.
const CAP_SYS_PTRACE: u32 = 19;
/// The device whose file permissions say who may have a full userfaultfd.
pub const DEVICE: &str = "/dev/userfaultfd";

/// A limit of this process in bytes: `None` where there is none.
pub type Limit = Option<u64>;

/// A service, and why it was taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Why it is not a better one.
    pub reason: String,
}

impl Service {
    /// The one that this process's own heap runs on.
    pub fn of_this_process() -> Self {
        let reason = refpage_alloc::service_reason(|reason| reason.to_string());
        Self { name: refpage_alloc::service_name().to_owned(), reason }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name.as_str() {
            "lazy" => f.write_str("lazy, the best there is"),
            lesser => write!(f, "{lesser}: {}", self.reason),
        }
    }
}

/// The machine as this process sees it.
#[derive(Debug)]
pub struct Machine {
    /// `uname -r`.
    pub kernel: String,
    /// `uname -m`.
    pub architecture: String,
    /// Bytes in an OS page.
    pub os_page: usize,
    /// The chosen word of `/sys/kernel/mm/transparent_hugepage/enabled`.
    pub huge_pages: Option<String>,
    /// vm.overcommit_memory.
    pub overcommit: Option<u64>,
    /// vm.max_map_count.
    pub max_map_count: Option<u64>,
    /// RLIMIT_AS.
    pub address_space: Limit,
    /// RLIMIT_MEMLOCK.
    pub locked_memory: Limit,
    /// vm.unprivileged_userfaultfd.
    pub unprivileged_userfaultfd: Option<u64>,
    /// Whether CAP_SYS_PTRACE is effective.
    pub may_trace: Option<bool>,
    /// Whether a seccomp filter is in force: containers have one.
    pub filtered: Option<bool>,
    /// What opening the device for reading and writing answers.
    pub device: Result<(), String>,
    /// Whether the device is there.
    pub device_exists: bool,
    /// Each way to a userfaultfd that sees faults in system calls, and what it answers.
    pub ways: Vec<(Way, Result<Features, Errno>)>,
    /// The service that a program of this user gets.
    pub service: Service,
}

impl Machine {
    /// Looks at everything. Descriptors that it opens are closed again.
    pub fn examine(service: Service) -> Self {
        let name = rustix::system::uname();
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let field =
            |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
        let capabilities = field("CapEff:").and_then(|text| u64::from_str_radix(text, 16).ok());
        let device = File::options().read(true).write(true).open(DEVICE);
        Self {
            kernel: name.release().to_string_lossy().into_owned(),
            architecture: name.machine().to_string_lossy().into_owned(),
            os_page: rustix::param::page_size(),
            huge_pages: chosen_word("/sys/kernel/mm/transparent_hugepage/enabled"),
            overcommit: number("/proc/sys/vm/overcommit_memory"),
            max_map_count: number("/proc/sys/vm/max_map_count"),
            address_space: getrlimit(Resource::As).current,
            locked_memory: getrlimit(Resource::Memlock).current,
            unprivileged_userfaultfd: number("/proc/sys/vm/unprivileged_userfaultfd"),
            may_trace: capabilities.map(|bits| bits >> CAP_SYS_PTRACE & 1 == 1),
            filtered: field("Seccomp:").map(|mode| mode == "2"),
            device: device.map(drop).map_err(|error| error.to_string()),
            device_exists: Path::new(DEVICE).exists(),
            ways: Way::ALL
                .into_iter()
                .map(|way| (way, Uffd::open(way).map(|uffd| uffd.features())))
                .collect(),
            service,
        }
    }

    /// What the kernel can do on a userfaultfd, if one can be had.
    pub fn features(&self) -> Option<Features> {
        self.ways.iter().find_map(|(_, answer)| answer.ok())
    }
}

/// The word in brackets: "always [madvise] never".
fn chosen_word(path: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let (_, rest) = text.split_once('[')?;
    Some(rest.split_once(']')?.0.to_owned())
}

fn number(path: &str) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}
