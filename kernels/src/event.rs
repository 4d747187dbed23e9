//! What host and guest tell each other: the plan lies in the guest's files, the events come over a serial port.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Where a guest finds the plan with that number.
pub fn plan_file(number: usize) -> PathBuf {
    format!("/plan.{number}.json").into()
}

/// What a guest has to do. Every path is the same on the host.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Plan {
    /// The test binaries.
    pub suites: Vec<Suite>,
    /// The `refpage` command, which says what service a process gets.
    pub doctor: PathBuf,
    /// A directory that every user may write to.
    pub scratch: PathBuf,
    /// What the tests find in their environment.
    pub environment: Vec<(String, String)>,
    /// Seconds that one test may take.
    pub limit: u64,
}

/// A test binary and those of its tests that are to be run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Suite {
    /// Its source file's name; of a library's own tests, the library's and `unit`.
    pub name: String,
    /// The binary.
    pub binary: PathBuf,
    /// The names of tests.
    pub tests: Vec<String>,
    /// What a guest sets up for it.
    pub setting: Option<Setting>,
}

/// A setting of the whole machine, which only a guest has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Setting {
    /// The kernel commits no more memory than it has, and little of that is left.
    StrictCommitment,
    /// Everybody may have a userfaultfd that sees all faults, by the system call.
    UserfaultfdForAll,
}

impl Plan {
    /// How many tests a guest runs.
    pub fn tests(&self) -> usize {
        self.suites.iter().map(|suite| suite.tests.len()).sum()
    }
}

/// What a guest says, one a line.
#[derive(Debug, Serialize, Deserialize)]
pub enum Event {
    /// The guest is up.
    Ready(Found),
    /// A test begins.
    Begun(String),
    /// A test is over.
    Over(Finished),
    /// The tests of a suite are over.
    SuiteOver(String),
    /// All tests are over.
    Done,
}

/// What a process finds in a guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// `uname -r`.
    pub kernel: String,
    /// The service that a process gets that asks for none.
    pub service: String,
}

/// A test that is over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finished {
    /// suite::module::test.
    pub test: String,
    /// What came of it.
    pub verdict: Verdict,
    /// How long it took.
    pub seconds: f64,
}

/// What came of a test.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// It ran, and what it checks holds.
    Passed,
    /// It, or a part of it, could not run here, for these reasons.
    Skipped(Vec<String>),
    /// What it checks does not hold; this is what it wrote.
    Failed(String),
}
