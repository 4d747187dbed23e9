//! The parent's side of one measurement: a process of its own, started, waited for, read.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde::de::DeserializeOwned;

use crate::peers::{Peer, Source, surround};
use crate::seed;
use crate::work::Measured;

/// Seconds until a measurement is given up. The longest ones take about two.
const TIMEOUT: u32 = 120;

/// Runs a subcommand that measures under a peer: what it measured, and what it wrote to stderr.
pub fn measure(arguments: &[&str], peer: &Peer) -> Result<(Measured, String)> {
    let seed = seed::get().to_string();
    let arguments = [arguments, &["--seed", &seed]].concat();
    let (measured, messages): (Measured, _) = report(&arguments, peer)?;
    if let Some(asked) = peer.service
        && measured.service.as_deref() != Some(asked)
    {
        let taken = measured.service.as_deref().unwrap_or("of a library that is not refpage");
        bail!("refpage took the service {taken}, not {asked}");
    }
    Ok((measured, messages))
}

/// Runs a subcommand of this program under a peer: what it reported, and what it wrote to stderr.
pub fn report<T: DeserializeOwned>(arguments: &[&str], peer: &Peer) -> Result<(T, String)> {
    let output = command(arguments, peer)?.output().context("cannot start a measurement")?;
    let messages = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if !output.status.success() {
        bail!("{}", failure(&output, &messages));
    }
    let report = serde_json::from_slice(&output.stdout).context("the report is not readable")?;
    Ok((report, messages))
}

fn command(arguments: &[&str], peer: &Peer) -> Result<Command> {
    let own = std::env::current_exe().context("cannot find this executable")?;
    let mut command = Command::new(own);
    command.args(arguments).args(["--timeout", &TIMEOUT.to_string()]);
    surround(&mut command, peer);
    match &peer.source {
        Source::Libc => {}
        Source::Preload(path) => {
            command.env("LD_PRELOAD", path).arg("--library").arg(path);
        }
        Source::Baseline(baseline) => {
            command.args(["--baseline", &value(*baseline)]);
        }
    }
    if let Some(promise) = peer.promise {
        command.args(["--promise", &promise.to_string()]);
    }
    Ok(command)
}

/// The name of a choice as its flag takes it.
pub fn value(choice: impl ValueEnum) -> String {
    choice.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

/// Why a measurement failed, in one line.
fn failure(output: &Output, messages: &str) -> String {
    let last = messages.lines().last().unwrap_or("it wrote no message");
    match output.status.signal() {
        Some(libc::SIGALRM) => format!("given up after {TIMEOUT} s"),
        Some(signal) => format!("killed by signal {signal}: {last}"),
        None => last.strip_prefix("error: ").unwrap_or(last).to_owned(),
    }
}
