//! What a reader has to know of where figures come from: the machine, its kernel, the sources.

use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::path::Path;
use std::process::Command;

use crate::rounds;

/// A file's text, without what surrounds it; nothing if it cannot be read.
fn read(path: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    Some(text.trim_matches(|c: char| c.is_whitespace() || c == '\0').to_owned())
}

/// The choice in brackets, as files below /sys have it.
fn chosen(path: &str) -> Option<String> {
    let text = read(path)?;
    Some(text.split_once('[')?.1.split_once(']')?.0.to_owned())
}

/// What a command prints, if it succeeds.
fn answer(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The processor's name: in /proc/cpuinfo on x86-64, in the device tree on most Arm machines.
fn processor() -> String {
    let cpuinfo = read("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = cpuinfo.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.trim_start_matches([' ', '\t', ':']).to_owned())
    };
    let name = field("model name").or_else(|| read("/sys/firmware/devicetree/base/model"));
    let name = name.unwrap_or_else(|| "unknown".into());
    let virtual_machine = cpuinfo
        .lines()
        .any(|line| line.starts_with("flags") && line.split(' ').any(|flag| flag == "hypervisor"));
    let kind = if virtual_machine { ", a virtual machine" } else { "" };
    format!("{name} ({}){kind}", std::env::consts::ARCH)
}

fn memory() -> Option<String> {
    let meminfo = read("/proc/meminfo")?;
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().ok()?;
    Some(format!("{:.1} GiB", kib / f64::from(1 << 20)))
}

/// The commit of the sources, and whether they have changed since.
pub fn commit() -> String {
    let Some(commit) = answer("git", &["rev-parse", "--short=12", "HEAD"]) else {
        return "unknown: no git, or no repository".into();
    };
    match answer("git", &["status", "--porcelain", "--untracked-files=no"]) {
        Some(changes) if changes.is_empty() => commit,
        _ => format!("{commit}, with changes"),
    }
}

/// A short name for a file's content.
pub fn digest(path: &Path) -> String {
    let mut hasher = DefaultHasher::new();
    hasher.write(&fs::read(path).unwrap_or_default());
    format!("{:016x}", hasher.finish())
}

/// The machine in names and values. Whatever cannot be told is left out.
pub fn facts() -> Vec<(String, String)> {
    let huge = "/sys/kernel/mm/transparent_hugepage/enabled";
    let facts = [
        ("processor", Some(processor())),
        ("CPUs", Some(rounds::cpus().to_string())),
        ("memory", memory()),
        ("kernel", rounds::kernel().ok()),
        ("huge pages", chosen(huge)),
        ("compiler", answer("rustc", &["--version"])),
        (
            "C library",
            answer("ldd", &["--version"]).and_then(|text| text.lines().next().map(Into::into)),
        ),
    ];
    let told = facts.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    told.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_told_as_far_as_it_can_be() {
        let facts = facts();
        for name in ["processor", "CPUs", "memory", "kernel"] {
            let fact = facts.iter().find(|(its, _)| its == name);
            assert!(fact.is_some_and(|(_, value)| !value.is_empty()), "{name}: {facts:?}");
        }
    }
}
