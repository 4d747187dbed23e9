//! Touches that must trap: where the kernel has what ends them, and what is to be told of them.

use std::process::Command;
use std::sync::LazyLock;

use engine::sys::uffd::{Uffd, Way};

use super::{Outcome, c_program, has_tags, is_served, preload, run, skipped};

/// Guards, and every freed large allocation in quarantine.
pub const GUARDED: &str = "guards=on:quarantine_share=100";
/// The same, with allocations at the ends of their pages.
pub const RIGHT: &str = "guards=right:quarantine_share=100";
/// Guards for small allocations, too.
pub const SAMPLED: &str = "guards=on:quarantine_share=100:sample=1";

/// What this kernel can mark pages with.
#[derive(Debug)]
struct Markers {
    anonymous: bool,
    in_files: bool,
    poison: bool,
}

static MARKERS: LazyLock<Markers> = LazyLock::new(|| {
    // SAFETY: the name is a string; nobody else has the file.
    let file = unsafe { libc::memfd_create(c"test".as_ptr(), libc::MFD_CLOEXEC) };
    let markers = Markers {
        anonymous: takes_markers(libc::MAP_ANONYMOUS, -1),
        in_files: takes_markers(0, file),
        poison: Uffd::open(Way::UserMode).is_ok_and(|uffd| uffd.features().has_poison()),
    };
    // SAFETY: nobody else has it.
    unsafe { libc::close(file) };
    markers
});

fn takes_markers(kind: i32, file: i32) -> bool {
    const MADV_GUARD_INSTALL: i32 = 102;
    const LEN: usize = 64 << 10;
    let (rights, private) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | kind);
    // SAFETY: new memory, which is touched by nobody, and a file of our own or none.
    unsafe {
        libc::ftruncate(file, LEN as i64);
        let start = libc::mmap(std::ptr::null_mut(), LEN, rights, private, file, 0);
        assert_ne!(start, libc::MAP_FAILED, "64 KiB of memory");
        let taken = libc::madvise(start, LEN, MADV_GUARD_INSTALL) == 0;
        libc::munmap(start, LEN);
        taken
    }
}

/// The signals that a trap under a service may end with; none, and said so, where there are no traps.
pub fn traps(service: &str) -> Option<&'static [i32]> {
    if !is_served(service) {
        return None;
    }
    if has_tags("") {
        skipped("memory has tags, which tell before a guard does: the suite `tags`");
        return None;
    }
    let Markers { anonymous, in_files, poison } = *MARKERS;
    let trapped = match service {
        "lazy" => true,
        // Its sparse memory is a file's.
        "cow" => in_files,
        "eager" => anonymous || poison,
        _ => anonymous,
    };
    if !trapped {
        skipped(format_args!("nothing traps under {service} on this kernel: {:?}", *MARKERS));
        return None;
    }
    // Markers (Linux 6.13, in files 6.15) kill with SIGSEGV, and so does what is not mapped at all. Poison (6.6) kills
    // with SIGBUS, and is taken where there are no markers only.
    Some(if anonymous { &[libc::SIGSEGV] } else { &[libc::SIGSEGV, libc::SIGBUS] })
}

/// As [`traps`], for large allocations of calloc's: the fault handler is not asked for their pages.
pub fn traps_of(service: &str, allocation: &str) -> Option<&'static [i32]> {
    let Markers { anonymous, poison, .. } = *MARKERS;
    if service == "lazy" && allocation.contains("calloc") && !anonymous && !poison {
        skipped(format_args!("nothing traps in calloc's memory on this kernel: {:?}", *MARKERS));
        return None;
    }
    traps(service)
}

/// `service` with some options beside.
pub fn with(service: &str, options: &str) -> String {
    format!("service={service}:{options}").trim_end_matches(':').to_owned()
}

/// What `tests/c/traps.c` is about to touch.
#[derive(Debug)]
pub struct Touch {
    pub address: String,
    pub byte: i64,
    pub size: usize,
    pub block: String,
}

impl Touch {
    #[track_caller]
    fn of(outcome: &Outcome) -> Self {
        let text = outcome.stdout_text();
        let words: Vec<_> = text.split_whitespace().collect();
        let [address, byte, size, block] = words[..] else {
            panic!("{}: {}\n{text}{}", outcome.what, outcome.status, outcome.stderr);
        };
        let untagged = |pointer: &str| {
            let digits = pointer.strip_prefix("0x").expect("a pointer");
            let address = u64::from_str_radix(digits, 16).expect("a pointer");
            format!("{:#x}", address << 8 >> 8)
        };
        Self {
            address: untagged(address),
            byte: byte.parse().expect("which byte"),
            size: size.parse().expect("of how many"),
            block: untagged(block),
        }
    }

    /// The first line about a read or write of it.
    pub fn line(&self, verdict: &str, access: &str) -> String {
        let Self { address, byte, size, .. } = self;
        let verb = if access == "write" { "writing to" } else { "reading from" };
        let what = if verdict == "use after free" { "a freed" } else { "an" };
        format!(
            "refpage: {verdict}: {verb} byte {byte} of {what} allocation of {size} bytes, by {address}"
        )
    }
}

/// Runs `tests/c/traps.c` with words: an allocation, its size, a place, by what, and where. None without a compiler.
pub fn touch(options: &str, words: [&str; 5]) -> Option<(Outcome, Touch)> {
    let program = c_program("traps")?;
    let outcome = run(preload(Command::new(program).args(words), options));
    let touch = Touch::of(&outcome);
    Some((outcome, touch))
}

/// The same with nothing touched ends well, and nothing is told.
#[track_caller]
pub fn expect_no_trap(options: &str, [allocation, size, place, _, place_of]: [&str; 5]) {
    let Some((outcome, _)) = touch(options, [allocation, size, place, "none", place_of]) else {
        return;
    };
    outcome.expect_success();
    assert_eq!(outcome.stderr, "", "{}", outcome.what);
}

/// The first line is this one, and the others belong to it.
#[track_caller]
pub fn expect_lines(outcome: &Outcome, first: &str) {
    let mut lines = outcome.stderr.lines();
    let told = lines.next().unwrap_or_default();
    assert!(is_line(told, first), "{first:?} expected: {}\n{}", outcome.what, outcome.stderr);
    for line in lines {
        assert!(line.starts_with("refpage:   "), "{line:?}: {}\n{}", outcome.what, outcome.stderr);
    }
}

/// All of it, or its beginning where that ends with a blank.
fn is_line(told: &str, line: &str) -> bool {
    if line.ends_with(' ') { told.starts_with(line) } else { told == line }
}

/// What the process ended with is one of these signals.
#[track_caller]
pub fn expect_one_of(outcome: &Outcome, signals: &[i32]) {
    use std::os::unix::process::ExitStatusExt;
    let signal = outcome.status.signal();
    assert!(
        signal.is_some_and(|signal| signals.contains(&signal)),
        "one of the signals {signals:?} expected: {}: {}\n{}",
        outcome.what,
        outcome.status,
        outcome.stderr
    );
}
