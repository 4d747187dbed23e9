//! What `refpage doctor` looks at: the kernel, its settings, this process's limits and privileges,
//! and every way to a userfaultfd. A fact that cannot be found out is `None`, never a guess.

use crate::probe;
use refpage::sys::uffd::{Features, Uffd, Way};
use rustix::io::Errno;
use std::fmt;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The number of CAP_SYS_PTRACE, which the userfaultfd system call asks for.
const CAP_SYS_PTRACE: u32 = 19;
/// The device whose file permissions say who may have a full userfaultfd.
pub const DEVICE: &str = "/dev/userfaultfd";

#[cfg(target_os = "android")]
type Resource = libc::c_int;
#[cfg(not(target_os = "android"))]
type Resource = libc::__rlimit_resource_t;

/// A limit of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// It cannot be found out.
    Unknown,
    /// There is none.
    None,
    /// Bytes, or what else is limited.
    Is(u64),
}

impl Limit {
    /// The soft limit of a resource (`RLIMIT_*`).
    fn of(resource: Resource) -> Self {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: getrlimit writes the struct. (rustix takes it for a call that cannot fail.)
        if unsafe { libc::getrlimit(resource, &mut limit) } != 0 {
            return Self::Unknown;
        }
        if limit.rlim_cur == libc::RLIM_INFINITY { Self::None } else { Self::Is(limit.rlim_cur) }
    }

    /// Whether it is known to be lower than `value`.
    pub fn is_below(self, value: u64) -> bool {
        matches!(self, Self::Is(limit) if limit < value)
    }
}

/// A service, and why it was taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Why it is not a better one.
    pub reason: String,
    /// How misuse of large allocations is made to end.
    pub guards: String,
}

impl Service {
    /// The one that this process's own heap runs on.
    pub fn of_this_process() -> Self {
        let reason = refpage_alloc::service_reason(|reason| reason.to_string());
        let guards = match refpage_alloc::guards() {
            [all, zeros] if all == zeros => all.to_owned(),
            [all, zeros] => format!("{all}; large callocs: {zeros}"),
        };
        Self { name: refpage_alloc::service_name().to_owned(), reason, guards }
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

/// What the control groups of this process allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlGroup {
    /// 1 or 2.
    pub version: u32,
    /// The lowest limit on memory, here or further up.
    pub limit: Limit,
    /// Bytes in use where that limit is, or in this process's own group if there is none.
    pub used: Option<u64>,
}

/// Which checks a CPU makes for a process that leaves it the choice.
const TCF_PREFERRED: &str = "/sys/devices/system/cpu/cpu0/mte_tcf_preferred";

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
    /// The same of `shmem_enabled`.
    pub shmem_huge_pages: Option<String>,
    /// Whether guard pages need no mapping of their own.
    pub guard_pages: Option<bool>,
    /// Whether the page map can be scanned.
    pub pagemap_scan: Option<bool>,
    /// Whether memory files can be sealed as the service `cow` needs it.
    pub memfd_sealing: Result<(), Errno>,
    /// Whether page tables without pages are given back; by the kernel's version.
    pub table_reclaim: bool,
    /// What the processor has of memory tags.
    pub memory_tags: Option<mte::Level>,
    /// The checks that the first CPU makes where it has the choice.
    pub preferred_tag_checks: Option<String>,
    /// vm.overcommit_memory.
    pub overcommit: Option<u64>,
    /// Bytes that can still be committed, where that is limited (vm.overcommit_memory=2).
    pub commit_left: Option<u64>,
    /// vm.max_map_count.
    pub max_map_count: Option<u64>,
    /// Mappings of this process.
    pub maps: Option<u64>,
    /// RLIMIT_AS.
    pub address_space: Limit,
    /// RLIMIT_DATA.
    pub data: Limit,
    /// RLIMIT_MEMLOCK.
    pub locked_memory: Limit,
    /// RLIMIT_NOFILE.
    pub descriptors: Limit,
    /// The memory control group.
    pub group: Option<ControlGroup>,
    /// vm.unprivileged_userfaultfd.
    pub unprivileged_userfaultfd: Option<u64>,
    /// Whether CAP_SYS_PTRACE is effective.
    pub may_trace: Option<bool>,
    /// Whether a seccomp filter is in force: containers have one.
    pub filtered: Option<bool>,
    /// What shows that this is a container.
    pub container: Option<&'static str>,
    /// Whether this is a user name space other than the machine's first.
    pub user_namespace: Option<bool>,
    /// What opening the device for reading and writing answers.
    pub device: Result<(), Errno>,
    /// The device's permissions, owner and group, where it exists.
    pub device_access: Option<(u32, u32, u32)>,
    /// Each way to a userfaultfd that sees faults in system calls, and what it answers.
    pub ways: Vec<(Way, Result<Features, Errno>)>,
    /// What a userfaultfd answers that sees none.
    pub user_mode_only: Result<Features, Errno>,
    /// The service that a program of this user gets.
    pub service: Service,
}

impl Machine {
    /// Looks at everything. Descriptors and mappings that it makes are gone again.
    pub fn examine(service: Service) -> Self {
        let name = rustix::system::uname();
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let field =
            |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
        let capabilities = field("CapEff:").and_then(|text| u64::from_str_radix(text, 16).ok());
        let overcommit = number("/proc/sys/vm/overcommit_memory");
        Self {
            kernel: name.release().to_string_lossy().into_owned(),
            architecture: name.machine().to_string_lossy().into_owned(),
            os_page: rustix::param::page_size(),
            huge_pages: chosen_word("/sys/kernel/mm/transparent_hugepage/enabled"),
            shmem_huge_pages: chosen_word("/sys/kernel/mm/transparent_hugepage/shmem_enabled"),
            guard_pages: probe::guard_pages(),
            pagemap_scan: probe::pagemap_scan(),
            memfd_sealing: probe::memfd_sealing(),
            table_reclaim: refpage::sys::vm::reclaims_tables(),
            memory_tags: mte::level(),
            preferred_tag_checks: std::fs::read_to_string(TCF_PREFERRED)
                .ok()
                .map(|text| text.trim().to_owned()),
            overcommit,
            commit_left: overcommit.filter(|&mode| mode == 2).and_then(|_| commit_left()),
            max_map_count: number("/proc/sys/vm/max_map_count"),
            maps: std::fs::read_to_string("/proc/self/maps")
                .ok()
                .map(|text| text.lines().count() as u64),
            address_space: Limit::of(libc::RLIMIT_AS),
            data: Limit::of(libc::RLIMIT_DATA),
            locked_memory: Limit::of(libc::RLIMIT_MEMLOCK),
            descriptors: Limit::of(libc::RLIMIT_NOFILE),
            group: control_group(),
            unprivileged_userfaultfd: number("/proc/sys/vm/unprivileged_userfaultfd"),
            may_trace: capabilities.map(|bits| bits >> CAP_SYS_PTRACE & 1 == 1),
            filtered: field("Seccomp:").map(|mode| mode == "2"),
            container: container(),
            user_namespace: std::fs::read_to_string("/proc/self/uid_map")
                .ok()
                .map(|text| !text.split_whitespace().eq(["0", "0", "4294967295"])),
            device: open_device(),
            device_access: std::fs::metadata(DEVICE)
                .ok()
                .map(|file| (file.mode() & 0o7777, file.uid(), file.gid())),
            ways: [Way::Device, Way::Syscall]
                .into_iter()
                .map(|way| (way, Uffd::open(way).map(|uffd| uffd.features())))
                .collect(),
            user_mode_only: Uffd::open(Way::UserMode).map(|uffd| uffd.features()),
            service,
        }
    }

    /// What the kernel can do on a userfaultfd that sees faults in system calls, if one can be had.
    pub fn full_features(&self) -> Option<Features> {
        self.ways.iter().find_map(|(_, answer)| answer.ok())
    }

    /// What the kernel can do on any userfaultfd.
    pub fn features(&self) -> Option<Features> {
        self.full_features().or(self.user_mode_only.ok())
    }
}

fn open_device() -> Result<(), Errno> {
    match File::options().read(true).write(true).open(DEVICE) {
        Ok(_) => Ok(()),
        Err(error) => Err(Errno::from_raw_os_error(error.raw_os_error().unwrap_or(libc::EIO))),
    }
}

/// The word in brackets: "always [madvise] never".
fn chosen_word(path: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let (_, rest) = text.split_once('[')?;
    Some(rest.split_once(']')?.0.to_owned())
}

fn number(path: impl AsRef<Path>) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn commit_left() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let bytes = |key: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? * 1024)
    };
    Some(bytes("CommitLimit:")?.saturating_sub(bytes("Committed_AS:")?))
}

fn container() -> Option<&'static str> {
    const FILES: [(&str, &str); 2] = [("/.dockerenv", "Docker"), ("/run/.containerenv", "Podman")];
    let by_file = FILES.into_iter().find(|(file, _)| Path::new(file).exists());
    by_file.map(|(_, name)| name).or_else(|| std::env::var_os("container").map(|_| "container"))
}

fn control_group() -> Option<ControlGroup> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
    group_among(&groups, &mounts)
}

/// The memory limit by the lines of `/proc/self/cgroup` and `/proc/self/mounts`.
fn group_among(groups: &str, mounts: &str) -> Option<ControlGroup> {
    // "4:memory:/path" is version 1, "0::/path" version 2.
    let of = |wanted: fn(&str) -> bool| {
        groups.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            wanted(controllers).then_some(path)
        })
    };
    let mount_of = |kind: &str, option: &str| {
        mounts.lines().find_map(|line| {
            let mut words = line.split(' ');
            let (_, directory, of_kind, options) =
                (words.next()?, words.next()?, words.next()?, words.next()?);
            let fits = of_kind == kind
                && (option.is_empty() || options.split(',').any(|word| word == option));
            fits.then(|| PathBuf::from(directory))
        })
    };
    let version1 = of(|names| names.split(',').any(|name| name == "memory"));
    let (version, root, path, [limit, usage]) = match version1 {
        Some(path) => (
            1,
            mount_of("cgroup", "memory")?,
            path,
            ["memory.limit_in_bytes", "memory.usage_in_bytes"],
        ),
        None => {
            let path = of(str::is_empty)?;
            (2, mount_of("cgroup2", "")?, path, ["memory.max", "memory.current"])
        }
    };
    // Where the path is one of the host's, which a container does not see, its own is the root.
    let own = root.join(path.trim_start_matches('/'));
    let own = if own.is_dir() { own } else { root.clone() };
    let mut lowest = ControlGroup { version, limit: Limit::Unknown, used: number(own.join(usage)) };
    for group in own.ancestors().take_while(|group| group.starts_with(&root)) {
        // The first group of version 2 has no such file, and no limit.
        let Ok(text) = std::fs::read_to_string(group.join(limit)) else { continue };
        match (text.trim().parse::<u64>(), lowest.limit) {
            // Version 1 says "none" by the largest number of pages.
            (Ok(bytes), _) if bytes >= 1 << 62 => {}
            (Ok(bytes), Limit::Is(lower)) if lower <= bytes => continue,
            (Ok(bytes), _) => {
                lowest.limit = Limit::Is(bytes);
                lowest.used = number(group.join(usage));
                continue;
            }
            (Err(_), _) if text.trim() == "max" => {}
            (Err(_), _) => continue,
        }
        if lowest.limit == Limit::Unknown {
            lowest.limit = Limit::None;
        }
    }
    let is_first = own == root && version == 2 && !root.join("cgroup.type").exists();
    if is_first && lowest.limit == Limit::Unknown {
        lowest.limit = Limit::None;
    }
    Some(lowest)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory of control groups.
    struct Groups(PathBuf);

    impl Groups {
        fn new(files: &[(&str, &str)]) -> Self {
            let name = std::thread::current().name().unwrap_or("?").replace(':', "-");
            let root = std::env::temp_dir().join(format!("refpage-{}-{name}", std::process::id()));
            for (file, text) in files {
                let file = root.join(file);
                std::fs::create_dir_all(file.parent().unwrap()).unwrap();
                std::fs::write(file, text).unwrap();
            }
            Self(root)
        }

        fn examine(&self, groups: &str, kind: &str, options: &str) -> Option<ControlGroup> {
            group_among(groups, &format!("x {} {kind} {options} 0 0\n", self.0.display()))
        }
    }

    impl Drop for Groups {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_lowest_limit_on_the_way_up_counts() {
        let groups = Groups::new(&[
            ("a/memory.max", "5000\n"),
            ("a/memory.current", "700\n"),
            ("a/b/memory.max", "max\n"),
            ("a/b/memory.current", "300\n"),
        ]);
        let found = groups.examine("0::/a/b\n", "cgroup2", "rw").unwrap();
        assert_eq!(found, ControlGroup { version: 2, limit: Limit::Is(5000), used: Some(700) });
        assert_eq!(groups.examine("0::/a/b\n", "tmpfs", "rw"), None);
    }

    #[test]
    fn no_limit_is_told_from_an_unknown_one() {
        let groups = Groups::new(&[
            ("memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory.usage_in_bytes", "1000\n"),
        ]);
        let found = groups.examine("5:cpu,memory:/gone\n0::/x\n", "cgroup", "rw,memory").unwrap();
        assert_eq!(found, ControlGroup { version: 1, limit: Limit::None, used: Some(1000) });
        let found = Groups::new(&[("c/cgroup.procs", ""), ("cgroup.type", "domain\n")]);
        let found = found.examine("0::/c\n", "cgroup2", "rw").unwrap();
        assert_eq!((found.limit, found.used), (Limit::Unknown, None));
    }
}
