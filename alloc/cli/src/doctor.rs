//! `refpage doctor`: what this machine allows, the service that comes of it, and how to get a better
//! one.

use crate::child::Job;
use crate::failure::{Failure, print};
use crate::flags::VARIABLE;
use crate::machine::{DEVICE, Limit, Machine};
use refpage_alloc::options::{Options, ServiceChoice};
use rustix::io::Errno;
use serde_json::{Value, json};
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;

/// Say what this machine can do, and how to get more
#[derive(clap::Args)]
pub struct Arguments {
    /// Write JSON
    #[arg(long)]
    json: bool,
}

/// Examines the machine and prints what was found.
pub fn examine(arguments: &Arguments) -> Result<(), Failure> {
    // In a process of its own: a service is taken at a process's start.
    let machine = Machine::examine(Job::empty(requested()).run()?.measurement.service);
    let advice = advice(&machine, requested());
    if arguments.json {
        return print(&format!("{:#}\n", as_json(&machine, &advice)));
    }
    print(&as_text(&machine, &advice))
}

/// The service that the environment asks for.
fn requested() -> ServiceChoice {
    let mut options = Options::new();
    if let Some(text) = std::env::var_os(VARIABLE) {
        options.apply(text.as_bytes(), &mut |_| {});
    }
    options.service
}

/// What keeps a better service away, and the command that changes it if there is one.
#[derive(Debug, PartialEq, Eq)]
struct Advice {
    what: String,
    command: Option<String>,
}

impl Advice {
    fn new(what: impl Into<String>, command: Option<String>) -> Self {
        Self { what: what.into(), command }
    }
}

/// What to do for a better service, the most likely first; empty if there is none.
fn advice(machine: &Machine, requested: ServiceChoice) -> Vec<Advice> {
    let mut advice = Vec::new();
    if matches!(requested, ServiceChoice::Memset | ServiceChoice::Off) {
        let command = format!("unset {VARIABLE}");
        advice.push(Advice::new(
            format!("{VARIABLE} asks for {}", requested.as_str()),
            Some(command),
        ));
    }
    match machine.features() {
        None => advice.extend(access_advice(machine)),
        Some(features) if !features.has_move() => {
            let what =
                "this kernel cannot move pages, so they are copied in; Linux 6.8 can move them";
            advice.push(Advice::new(what, None));
        }
        Some(_) => {}
    }
    if machine.overcommit == Some(2) {
        let command = "sudo sysctl vm.overcommit_memory=0";
        advice.push(Advice::new(
            "strict overcommit leaves only a small Region",
            Some(command.into()),
        ));
    }
    if machine.address_space.is_some() {
        let what = "the address space is limited (RLIMIT_AS), which leaves only a small Region";
        advice.push(Advice::new(what, Some("ulimit -v unlimited".into())));
    }
    advice
}

/// How this process could get a userfaultfd that sees faults in system calls.
fn access_advice(machine: &Machine) -> Vec<Advice> {
    let missing =
        machine.ways.iter().all(|(_, answer)| matches!(answer, Err(Errno::NOSYS | Errno::NOENT)));
    if missing {
        return vec![Advice::new(
            "this kernel has no userfaultfd: one built with CONFIG_USERFAULTFD is needed",
            None,
        )];
    }
    let mut advice = Vec::new();
    if machine.device_exists {
        let group = rustix::process::getgid().as_raw();
        let command = format!("sudo chgrp {group} {DEVICE} && sudo chmod g+rw {DEVICE}");
        advice.push(Advice::new(
            format!("{DEVICE} does not let this user in (until the next boot)"),
            Some(command),
        ));
    }
    // With either of these the call would succeed, were it not for a filter.
    let allowed = machine.unprivileged_userfaultfd == Some(1) || machine.may_trace == Some(true);
    if allowed && machine.filtered == Some(true) {
        let what = "a seccomp filter refuses the userfaultfd system call; a container can be given the device";
        advice.push(Advice::new(what, Some(format!("docker run --device {DEVICE} …"))));
    } else if !allowed {
        let what = "the system call is for the privileged only (until the next boot)";
        advice.push(Advice::new(what, Some("sudo sysctl vm.unprivileged_userfaultfd=1".into())));
    }
    advice
}

fn as_text(machine: &Machine, advice: &[Advice]) -> String {
    let unknown = || "unknown".to_owned();
    let setting = |value: Option<u64>| value.map_or_else(unknown, |value| value.to_string());
    let yes_no = |value: Option<bool>| {
        value.map_or_else(unknown, |value| if value { "yes" } else { "no" }.to_owned())
    };
    let device = match &machine.device {
        Ok(()) => "can be opened".to_owned(),
        Err(error) => error.clone(),
    };
    let mut rows = vec![
        ("kernel", format!("{} ({})", machine.kernel, machine.architecture)),
        ("OS page", format!("{} KiB", machine.os_page / 1024)),
        ("transparent huge pages", machine.huge_pages.clone().unwrap_or_else(unknown)),
        ("vm.overcommit_memory", setting(machine.overcommit)),
        ("vm.max_map_count", setting(machine.max_map_count)),
        ("address space limit", limit(machine.address_space)),
        ("locked memory limit", limit(machine.locked_memory)),
        ("vm.unprivileged_userfaultfd", setting(machine.unprivileged_userfaultfd)),
        ("CAP_SYS_PTRACE", yes_no(machine.may_trace)),
        ("seccomp filter", yes_no(machine.filtered)),
        (DEVICE, device),
    ];
    for (way, answer) in &machine.ways {
        let answer = match answer {
            Ok(_) => "works".to_owned(),
            Err(errno) => std::io::Error::from_raw_os_error(errno.raw_os_error()).to_string(),
        };
        rows.push(("userfaultfd by", format!("{}: {answer}", way.as_str())));
    }
    if let Some(features) = machine.features() {
        for (name, present) in feature_list(features) {
            rows.push(("  can", format!("{name}: {}", if present { "yes" } else { "no" })));
        }
    }
    rows.push(("service", machine.service.to_string()));
    let mut text = String::new();
    for (name, value) in rows {
        let _ = writeln!(text, "{name:<28} {value}");
    }
    if advice.is_empty() {
        text += "No better service is to be had.\n";
    }
    for Advice { what, command } in advice {
        let _ = writeln!(text, "For more: {what}");
        if let Some(command) = command {
            let _ = writeln!(text, "    {command}");
        }
    }
    text
}

fn as_json(machine: &Machine, advice: &[Advice]) -> Value {
    let ways = machine.ways.iter().map(|(way, answer)| {
        let errno = answer.err().map(Errno::raw_os_error);
        json!({ "way": way.as_str(), "works": answer.is_ok(), "errno": errno })
    });
    let features = machine.features().map(|features| {
        feature_list(features)
            .into_iter()
            .map(|(name, present)| (name.to_owned(), present.into()))
            .collect::<serde_json::Map<_, _>>()
    });
    let advice =
        advice.iter().map(|Advice { what, command }| json!({ "what": what, "command": command }));
    json!({
        "kernel": machine.kernel,
        "architecture": machine.architecture,
        "os_page_bytes": machine.os_page,
        "transparent_huge_pages": machine.huge_pages,
        "overcommit_memory": machine.overcommit,
        "max_map_count": machine.max_map_count,
        "address_space_limit_bytes": machine.address_space,
        "locked_memory_limit_bytes": machine.locked_memory,
        "unprivileged_userfaultfd": machine.unprivileged_userfaultfd,
        "cap_sys_ptrace": machine.may_trace,
        "seccomp_filter": machine.filtered,
        "device": { "path": DEVICE, "exists": machine.device_exists, "error": machine.device.as_ref().err() },
        "ways": ways.collect::<Value>(),
        "features": features,
        "service": machine.service.name,
        "reason": machine.service.reason,
        "advice": advice.collect::<Value>(),
    })
}

fn feature_list(features: refpage::sys::uffd::Features) -> [(&'static str, bool); 4] {
    [
        ("move pages", features.has_move()),
        ("write protection", features.has_write_protect()),
        ("poison", features.has_poison()),
        ("asynchronous write protection", features.has_async_write_protect()),
    ]
}

fn limit(limit: Limit) -> String {
    limit.map_or_else(|| "none".to_owned(), |bytes| format!("{} KiB", bytes / 1024))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Service;
    use refpage::sys::uffd::{Features, Way};

    /// A machine on which everything works.
    fn machine() -> Machine {
        let mut machine =
            Machine::examine(Service { name: "memset".into(), reason: "why not".into() });
        machine.overcommit = Some(0);
        machine.address_space = None;
        machine.ways = vec![(Way::Device, Ok(Features(u64::MAX)))];
        machine
    }

    fn refused(errno: Errno) -> Machine {
        Machine {
            ways: Way::ALL.map(|way| (way, Err(errno))).into(),
            may_trace: Some(false),
            unprivileged_userfaultfd: Some(0),
            ..machine()
        }
    }

    #[test]
    fn a_machine_that_does_all_needs_no_advice() {
        assert_eq!(advice(&machine(), ServiceChoice::Auto), []);
    }

    #[test]
    fn an_environment_that_asks_for_less_is_named() {
        assert_eq!(
            advice(&machine(), ServiceChoice::Memset)[0].command.as_deref(),
            Some("unset REFPAGE_OPTIONS")
        );
    }

    #[test]
    fn a_user_without_privilege_is_told_both_ways_to_it() {
        let commands: Vec<_> =
            advice(&Machine { device_exists: true, ..refused(Errno::ACCESS) }, ServiceChoice::Auto)
                .into_iter()
                .filter_map(|advice| advice.command)
                .collect();
        assert_eq!(commands.len(), 2);
        assert!(commands[0].contains("chmod g+rw /dev/userfaultfd"));
        assert_eq!(commands[1], "sudo sysctl vm.unprivileged_userfaultfd=1");
    }

    #[test]
    fn a_filter_is_told_from_a_lack_of_privilege() {
        let machine = Machine {
            device_exists: false,
            may_trace: Some(true),
            filtered: Some(true),
            ..refused(Errno::PERM)
        };
        assert!(advice(&machine, ServiceChoice::Auto)[0].what.contains("seccomp"));
    }

    #[test]
    fn a_kernel_without_userfaultfd_cannot_be_helped_by_a_command() {
        let advice =
            advice(&Machine { device_exists: false, ..refused(Errno::NOSYS) }, ServiceChoice::Auto);
        assert_eq!((advice.len(), advice[0].command.as_deref()), (1, None));
    }

    #[test]
    fn both_forms_name_the_service() {
        let machine = machine();
        assert!(as_text(&machine, &[]).contains(&machine.service.to_string()));
        assert_eq!(as_json(&machine, &[])["service"], machine.service.name);
    }
}
