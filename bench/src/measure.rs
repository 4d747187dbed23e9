//! What the measured part of a case costs this process: clock, CPU time, memory, faults.

use std::fs::{self, File};
use std::io::Read;
use std::mem::MaybeUninit;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// How long the process is watched after the measured part, for work that was put off.
const AFTERMATH: Duration = Duration::from_millis(10);

/// What one measured part cost.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Cost {
    /// Wall time in nanoseconds.
    pub wall_ns: u64,
    /// CPU time of all threads, the allocator's own included, in nanoseconds.
    pub cpu_ns: u64,
    /// CPU time in the 10 ms after it: work that was put off, not saved.
    pub late_cpu_ns: u64,
    /// Peak resident set of the process during the measured part (VmHWM), in KiB.
    pub peak_kib: u64,
    /// Resident set at the end of the measured part, in KiB.
    pub held_kib: u64,
    /// Page faults that needed no second try.
    pub minor_faults: u64,
    /// Page faults that did: from a disk, or answered through a userfaultfd.
    pub major_faults: u64,
    /// Whether the peak is of the measured part alone; else the kernel refused to reset it, and it
    /// is of the process from its start.
    pub peak_was_reset: bool,
}

/// A measured part under way.
pub struct Meter {
    wall: Instant,
    cpu: Duration,
    faults: Faults,
    peak_was_reset: bool,
}

impl Meter {
    /// The measured part begins.
    pub fn start() -> Self {
        // 5: reset the peak of the resident set (proc_pid_clear_refs(5)).
        let peak_was_reset = fs::write("/proc/self/clear_refs", "5").is_ok();
        let faults = Faults::now();
        let cpu = process_cpu();
        Self { wall: Instant::now(), cpu, faults, peak_was_reset }
    }

    /// The measured part is over.
    pub fn stop(self) -> Cost {
        let wall = self.wall.elapsed();
        let cpu = process_cpu() - self.cpu;
        let faults = Faults::now();
        let memory = Memory::now();
        let before = process_cpu();
        sleep(AFTERMATH);
        let late = process_cpu() - before;
        Cost {
            wall_ns: nanoseconds(wall),
            cpu_ns: nanoseconds(cpu),
            late_cpu_ns: nanoseconds(late),
            peak_kib: memory.peak_kib,
            held_kib: memory.resident_kib,
            minor_faults: faults.minor - self.faults.minor,
            major_faults: faults.major - self.faults.major,
            peak_was_reset: self.peak_was_reset,
        }
    }
}

/// As it is reported.
pub fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// CPU time of all threads of this process so far.
pub fn process_cpu() -> Duration {
    cpu(libc::CLOCK_PROCESS_CPUTIME_ID)
}

/// CPU time of this thread so far.
pub fn thread_cpu() -> Duration {
    cpu(libc::CLOCK_THREAD_CPUTIME_ID)
}

fn cpu(clock: libc::clockid_t) -> Duration {
    let mut time = MaybeUninit::<libc::timespec>::zeroed();
    // SAFETY: the pointer is to a live timespec, for which all zeros is a valid value.
    let time = unsafe {
        let result = libc::clock_gettime(clock, time.as_mut_ptr());
        assert_eq!(result, 0, "every process and thread has a CPU clock");
        time.assume_init()
    };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Page faults of this process so far.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    /// Those that needed no second try.
    pub minor: u64,
    /// Those that did.
    pub major: u64,
}

impl Faults {
    /// Reads them.
    pub fn now() -> Self {
        let mut usage = MaybeUninit::<libc::rusage>::zeroed();
        // SAFETY: the pointer is to a live rusage, for which all zeros is a valid value.
        let usage = unsafe {
            let result = libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
            assert_eq!(result, 0, "every process may ask for its usage");
            usage.assume_init()
        };
        Self { minor: usage.ru_minflt as u64, major: usage.ru_majflt as u64 }
    }
}

/// Resident memory of this process.
struct Memory {
    peak_kib: u64,
    resident_kib: u64,
}

/// The resident set of this process, in KiB.
pub fn resident_kib() -> u64 {
    Memory::now().resident_kib
}

impl Memory {
    /// Reads it without allocating: the heap here is the one under test.
    fn now() -> Self {
        let mut text = [0; 4096];
        let mut file = File::open("/proc/self/status").expect("/proc is mounted");
        let length = file.read(&mut text).expect("/proc/self/status is readable");
        let text = &text[..length];
        Self { peak_kib: field(text, b"VmHWM:"), resident_kib: field(text, b"VmRSS:") }
    }
}

/// The number behind `name` in /proc/self/status.
pub fn field(status: &[u8], name: &[u8]) -> u64 {
    let line = status.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(name));
    let digits = line.into_iter().flatten().filter(|byte| byte.is_ascii_digit());
    digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_the_status_are_found_by_name() {
        let status = b"VmPeak:\t     900 kB\nVmHWM:\t    1234 kB\nVmRSS:\t      56 kB\n";
        assert_eq!(field(status, b"VmHWM:"), 1234);
        assert_eq!(field(status, b"VmRSS:"), 56);
    }

    #[test]
    fn touching_memory_shows_in_every_account() {
        let meter = Meter::start();
        let mut memory = vec![0u8; 32 << 20];
        for page in memory.chunks_mut(4096) {
            page[0] = std::hint::black_box(1);
        }
        let cost = meter.stop();
        assert!(cost.wall_ns > 0 && cost.cpu_ns > 0);
        assert!(cost.minor_faults > 0);
        assert!(cost.peak_kib >= 32 << 10 && cost.held_kib >= 32 << 10, "{cost:?}");
    }
}
