//! Settings of the whole machine that a guest makes for one suite.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::event::Setting;

/// What is left to commit where commitment is strict: room for a heap and its child's, and soon used up.
const ROOM_KIB: u64 = 512 << 10;

/// A setting that was made, and what it was before.
#[must_use]
pub struct Made {
    file: PathBuf,
    before: String,
}

impl Made {
    /// Makes it what it was.
    pub fn undo(self) -> Result<()> {
        write(&self.file, self.before.trim())
    }
}

/// Makes a setting.
pub fn make(setting: Setting) -> Result<Made> {
    let (name, value) = match setting {
        Setting::StrictCommitment => {
            // Only where commitment is strict does this size mean anything.
            write(&file("overcommit_kbytes"), &(committed_kib()? + ROOM_KIB).to_string())?;
            ("overcommit_memory", "2")
        }
        Setting::UserfaultfdForAll => ("unprivileged_userfaultfd", "1"),
    };
    let file = file(name);
    let before = fs::read_to_string(&file).with_context(|| format!("cannot read vm.{name}"))?;
    write(&file, value)?;
    Ok(Made { file, before })
}

fn file(name: &str) -> PathBuf {
    Path::new("/proc/sys/vm").join(name)
}

fn write(file: &Path, value: &str) -> Result<()> {
    fs::write(file, value).with_context(|| format!("cannot write {value} to {}", file.display()))
}

/// What has been promised to all processes, and to files in memory.
fn committed_kib() -> Result<u64> {
    let about = fs::read_to_string("/proc/meminfo")?;
    let value = about.lines().find_map(|line| line.strip_prefix("Committed_AS:"));
    let number = value.and_then(|value| value.trim().strip_suffix(" kB"));
    number.and_then(|number| number.parse().ok()).context("/proc/meminfo names no Committed_AS")
}
