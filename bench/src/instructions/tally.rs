//! What the counted parts of a case add up to: by the counter, and by the kernel's accounts of this process.

use std::thread::sleep;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::counter::Counter;
use crate::measure::{Faults, process_cpu};

/// How long a process is watched for work that was put off.
const AFTERMATH: Duration = Duration::from_millis(50);

/// The sums.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Tally {
    /// Without one nothing is counted.
    #[serde(skip)]
    counter: Option<Counter>,
    /// What the counter counted: everything the processor executed.
    pub instructions: u64,
    /// Nanoseconds of CPU time of all of this process's threads, which on such a machine are instructions too. A few
    /// hundred of each part are those of asking for it.
    pub cpu_ns: u64,
    /// The same, after the counted parts: work that was put off.
    pub late_cpu_ns: u64,
    /// Page faults.
    pub faults: u64,
}

impl Tally {
    /// Nothing so far.
    pub fn new(counter: Counter) -> Self {
        Self { counter: Some(counter), ..Self::default() }
    }

    /// One that counts nothing: for tests, on machines that cannot.
    #[cfg(test)]
    pub fn uncounted() -> Self {
        Self::default()
    }

    /// Counts a part.
    pub fn count(&mut self, part: impl FnOnce()) {
        let Some(counter) = self.counter else { return part() };
        let (faults, cpu) = (Faults::now(), process_cpu());
        self.instructions += counter.of(part);
        self.cpu_ns += nanoseconds(process_cpu() - cpu);
        let now = Faults::now();
        self.faults += now.minor + now.major - faults.minor - faults.major;
    }

    /// Waits a while, and notes what this process does meanwhile.
    pub fn wait_for_what_was_put_off(&mut self) {
        let cpu = process_cpu();
        sleep(AFTERMATH);
        self.late_cpu_ns += nanoseconds(process_cpu() - cpu);
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
