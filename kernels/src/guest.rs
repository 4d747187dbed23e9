//! Process 1 of a guest: mounts what programs expect, runs the tests, and tells what comes of them.

use std::ffi::CStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::arch::Arch;
use crate::event::{Plan, plan_file};
use crate::runner::Runner;

/// Does all that process 1 has to do; never returns if it is process 1.
pub fn run(user: u32, plan: usize) -> Result<ExitCode> {
    if std::process::id() != 1 {
        bail!("this is for process 1 of a guest alone");
    }
    let events = set_up()?;
    let plan = fs::read(plan_file(plan)).context("a guest has a plan")?;
    let plan: Plan = serde_json::from_slice(&plan)?;
    let runner = Runner { plan: &plan, user, alone: true };
    runner.run(|event| tell(&events, &event))?;
    // The host ends the machine when it has heard that; process 1 must not end by itself.
    loop {
        std::thread::park();
    }
}

/// Mounts file systems and opens the port for events.
pub fn set_up() -> Result<File> {
    mount(c"proc", c"/proc", c"")?;
    mount(c"sysfs", c"/sys", c"")?;
    mount(c"devtmpfs", c"/dev", c"")?;
    fs::create_dir("/dev/shm")?;
    mount(c"tmpfs", c"/dev/shm", c"mode=1777")?;
    let events = Arch::own().events;
    File::options().write(true).open(events).context(events)
}

fn mount(kind: &CStr, place: &CStr, options: &CStr) -> Result<()> {
    // SAFETY: all are strings that end with a zero byte and live on; these kinds of file systems take a string as
    // their data.
    let result = unsafe {
        libc::mount(kind.as_ptr(), place.as_ptr(), kind.as_ptr(), 0, options.as_ptr().cast())
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()).with_context(|| format!("cannot mount {place:?}")),
    }
}

/// Tells the host something.
pub fn tell(mut events: &File, event: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    Ok(events.write_all(&line)?)
}
