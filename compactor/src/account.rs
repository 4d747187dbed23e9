//! What is measured of the kernel's work.

use std::fs;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// CPU time of the calling thread so far.
pub fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Pages that the kernel has allocated for whatever purpose, of all processes: the sum of `pgalloc_*` in
/// /proc/vmstat.
pub fn allocated_pages() -> Option<u64> {
    let text = fs::read_to_string("/proc/vmstat").ok()?;
    let lines = text.lines().filter(|line| line.starts_with("pgalloc_"));
    lines.map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

/// Minor page faults of this process so far.
pub fn minor_faults() -> u64 {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the pointer is to a live rusage, for which all zeros is a valid value.
    let usage = unsafe {
        let result = libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
        assert_eq!(result, 0, "every process may ask for its usage");
        usage.assume_init()
    };
    usage.ru_minflt as u64
}

/// Mappings (lines of /proc/self/maps) in a range of addresses.
///
/// # Errors
/// /proc is not mounted.
pub fn mappings(range: Range<usize>) -> std::io::Result<usize> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    let bounds = |line: &str| {
        let (start, end) = line.split_once(' ')?.0.split_once('-')?;
        Some((usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?))
    };
    let within = |&(start, end): &(usize, usize)| start < range.end && end > range.start;
    Ok(maps.lines().filter_map(bounds).filter(within).count())
}
