//! What takes something away from a program before it begins: limits, system call filters, name spaces,
//! control groups. All of it is done by the child between fork and exec, and inherited.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{ScratchDir, library, serve, skipped};

/// Whether this is root; if not, says that the test is skipped.
pub fn is_root(what_for: &str) -> bool {
    // SAFETY: `geteuid` has no precondition.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        skipped(format_args!("not root, who alone can {what_for}"));
    }
    root
}

/// Runs `action` in the child, between fork and exec.
fn before_exec(
    command: &mut Command,
    action: impl FnMut() -> io::Result<()> + Send + Sync + 'static,
) {
    // SAFETY: the callers below pass closures that make system calls on copies of plain data, and allocate nothing.
    unsafe { command.pre_exec(action) };
}

fn checked(result: impl Into<i64>) -> io::Result<()> {
    if result.into() < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Both limits of a resource (`RLIMIT_*`), as far down as `value`: who may raise none keeps a lower one.
pub fn limit(command: &mut Command, resource: libc::__rlimit_resource_t, value: u64) {
    // SAFETY: getrlimit writes the struct, and setrlimit reads it.
    before_exec(command, move || unsafe {
        let mut limit = libc::rlimit { rlim_cur: value, rlim_max: value };
        checked(libc::getrlimit(resource, &mut limit))?;
        limit.rlim_max = limit.rlim_max.min(value);
        limit.rlim_cur = limit.rlim_max;
        checked(libc::setrlimit(resource, &limit))
    });
}

/// A system call that a filter refuses.
#[derive(Clone, Copy, Debug)]
pub struct Refusal {
    pub call: libc::c_long,
    /// Refused only if the argument of this index has this value in its low 32 bits.
    pub argument: Option<(u32, u32)>,
    pub errno: i32,
}

impl Refusal {
    pub fn of(call: libc::c_long, errno: i32) -> Self {
        Self { call, argument: None, errno }
    }

    pub fn with_argument(self, index: u32, value: u32) -> Self {
        Self { argument: Some((index, value)), ..self }
    }
}

/// Installs a seccomp filter that refuses these system calls and allows all others.
pub fn refuse(command: &mut Command, refusals: &[Refusal]) {
    let step = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let load = |offset: u32| step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset);
    // Where it is not equal, `over` steps are jumped over.
    let unless = |k: u32, over: u8| libc::sock_filter {
        jf: over,
        ..step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, k)
    };
    let answer = |k: u32| step(libc::BPF_RET | libc::BPF_K, k);
    let mut filter = Vec::new();
    for refusal in refusals {
        // Offsets in `struct seccomp_data`: the number is first, the arguments begin at 16, low half first.
        filter.extend([
            load(0),
            unless(refusal.call as u32, if refusal.argument.is_some() { 3 } else { 1 }),
        ]);
        if let Some((index, value)) = refusal.argument {
            filter.extend([load(16 + 8 * index), unless(value, 1)]);
        }
        filter.push(answer(libc::SECCOMP_RET_ERRNO | refusal.errno as u32));
    }
    filter.push(answer(libc::SECCOMP_RET_ALLOW));
    before_exec(command, move || {
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
        // SAFETY: prctl takes numbers and, for the filter, a pointer to a program that lives in this closure.
        unsafe {
            checked(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
            let mode = libc::SECCOMP_MODE_FILTER as libc::c_ulong;
            checked(libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program, 0, 0))
        }
    });
}

/// A mount name space of the program's own, without /proc.
pub fn without_proc(command: &mut Command) {
    // SAFETY: all arguments are constant strings, null pointers and numbers.
    before_exec(command, || unsafe {
        checked(libc::unshare(libc::CLONE_NEWNS))?;
        let private = libc::MS_REC | libc::MS_PRIVATE;
        checked(libc::mount(
            std::ptr::null(),
            c"/".as_ptr(),
            std::ptr::null(),
            private,
            std::ptr::null(),
        ))?;
        checked(libc::umount2(c"/proc".as_ptr(), libc::MNT_DETACH))
    });
}

/// Becomes user and group `id` and keeps CAP_SYS_PTRACE, as an ambient capability that survives exec.
pub fn only_tracing(command: &mut Command, id: u32) {
    const CAP_SYS_PTRACE: u32 = 19;
    const VERSION: u32 = 0x2008_0522;
    before_exec(command, move || {
        let header = [VERSION, 0u32];
        let sets = [1u32 << CAP_SYS_PTRACE, 1 << CAP_SYS_PTRACE, 1 << CAP_SYS_PTRACE, 0, 0, 0];
        // SAFETY: numbers, and for capset a header and two triples of 32 bits as its version 3 reads them.
        unsafe {
            checked(libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0))?;
            checked(libc::syscall(libc::SYS_setgroups, 0usize, 0usize))?;
            checked(libc::syscall(libc::SYS_setresgid, id, id, id))?;
            checked(libc::syscall(libc::SYS_setresuid, id, id, id))?;
            checked(libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()))?;
            let raise = libc::PR_CAP_AMBIENT_RAISE as libc::c_ulong;
            checked(libc::prctl(
                libc::PR_CAP_AMBIENT,
                raise,
                libc::c_ulong::from(CAP_SYS_PTRACE),
                0,
                0,
            ))
        }
    });
}

/// A user without privileges, and what it runs where it can read it.
pub struct Nobody {
    /// Where it can read and run things.
    pub dir: ScratchDir,
}

impl Nobody {
    pub const ID: u32 = 65534;

    /// None, and said so, when this is not root, who alone can become nobody.
    pub fn new() -> Option<Self> {
        if !is_root("become nobody") {
            return None;
        }
        // Not cargo's target directory, which may lie under a home that nobody may enter.
        let name = format!("refpage-nobody-{}", super::scratch("dir").file_name()?.display());
        let dir = ScratchDir(std::env::temp_dir().join(name));
        fs::create_dir(&dir.0).expect("a directory for temporary files");
        readable(&dir.0);
        Some(Self { dir })
    }

    /// The services that are for others.
    pub fn lacks() -> &'static [&'static str] {
        let setting = fs::read_to_string("/proc/sys/vm/unprivileged_userfaultfd");
        let device = fs::metadata("/dev/userfaultfd").map(|about| about.permissions().mode());
        let all_may = setting.is_ok_and(|value| value.trim() == "1")
            || device.is_ok_and(|mode| mode & 0o006 == 0o006);
        if all_may { &[] } else { &["lazy"] }
    }

    pub fn bring(&self, file: &Path) -> PathBuf {
        let copy = self.dir.0.join(file.file_name().expect("a file has a name"));
        fs::copy(file, &copy).expect("a copy");
        readable(&copy);
        copy
    }

    /// A directory that it owns.
    pub fn own_dir(&self) -> PathBuf {
        let dir = self.dir.0.join("own");
        fs::create_dir(&dir).expect("a directory in a directory");
        std::os::unix::fs::chown(&dir, Some(Self::ID), Some(Self::ID)).expect("root may");
        dir
    }

    pub fn command(&self, program: &Path, service: &str, pattern: &str) -> Command {
        let mut command = Command::new(self.bring(program));
        serve(&mut command, service, pattern).env("LD_PRELOAD", self.bring(&library()));
        command.current_dir(&self.dir.0).uid(Self::ID).gid(Self::ID);
        command
    }
}

fn readable(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .expect("an owner may set permissions");
}

/// A memory control group of our own, of either version. It goes away with its owner.
#[derive(Debug)]
pub struct MemoryGroup {
    dir: PathBuf,
}

impl MemoryGroup {
    /// A group whose processes may have `bytes` of memory. None, and said so, where it cannot be made.
    pub fn new(bytes: u64) -> Option<Self> {
        // Version 1 has a hierarchy for memory alone; in version 2 the controller may be on or off.
        let version1 = Path::new("/sys/fs/cgroup/memory");
        let (root, file) = if version1.join("memory.limit_in_bytes").exists() {
            (version1, "memory.limit_in_bytes")
        } else {
            (Path::new("/sys/fs/cgroup"), "memory.max")
        };
        let name = super::scratch("group");
        let dir = root.join(format!("refpage-test-{}", name.file_name()?.display()));
        if let Err(error) = fs::create_dir(&dir) {
            skipped(format_args!("no control group can be made: {error}"));
            return None;
        }
        let group = Self { dir };
        if let Err(error) = fs::write(group.dir.join(file), bytes.to_string()) {
            skipped(format_args!("a control group's memory cannot be limited: {error}"));
            return None;
        }
        // Swap would only make the end take longer.
        for swap in ["memory.swap.max", "memory.swappiness"] {
            let _ = fs::write(group.dir.join(swap), "0");
        }
        Some(group)
    }

    /// Who asks for too much is told so, or waits, and is not killed. False, and said so, where that cannot be had: in
    /// version 2.
    pub fn spare(&self) -> bool {
        let spared = fs::write(self.dir.join("memory.oom_control"), "1");
        if let Err(error) = &spared {
            skipped(format_args!("a control group kills who asks for too much: {error}"));
        }
        spared.is_ok()
    }

    /// The command becomes a member before it begins.
    pub fn confine(&self, command: &mut Command) {
        let procs = self.dir.join("cgroup.procs");
        let procs =
            std::ffi::CString::new(procs.into_os_string().into_encoded_bytes()).expect("a path");
        // SAFETY: the path is a string that lives in the closure; 0 stands for the writer.
        before_exec(command, move || unsafe {
            let file = libc::open(procs.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
            checked(file)?;
            checked(libc::write(file, c"0".as_ptr().cast(), 1) as i64)
        });
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // A process that was killed may leave a moment after it was waited for.
        for _ in 0..100 {
            if fs::remove_dir(&self.dir).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}
