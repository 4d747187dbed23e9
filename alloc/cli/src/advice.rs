//! What keeps a better service away, and the commands that change it. Each of them was run, by the
//! user that it is for, and seen to give the service `lazy`, or `cow` where that is what it says; but
//! the one about overcommitting was not, as it concerns every program of the machine.

use crate::flags::VARIABLE;
use crate::machine::{DEVICE, Machine};
use refpage_alloc::options::ServiceChoice;
use rustix::io::Errno;

/// Less than this of RLIMIT_AS or RLIMIT_DATA leaves no room for a fault handler's memory.
const ROOM: u64 = 64 << 20;
/// Less than this of RLIMIT_AS, of which the Region gets half, leaves it too small for `cow`.
const COW_ROOM: u64 = 128 << 30;

/// What keeps a better service away, and the commands that change it if there are any.
#[derive(Debug, PartialEq, Eq)]
pub struct Advice {
    /// A sentence.
    pub what: String,
    /// A command for this boot, or this one time.
    pub now: Option<String>,
    /// Commands for good.
    pub permanent: Vec<String>,
}

impl Advice {
    fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), now: None, permanent: Vec::new() }
    }

    fn now(self, command: impl Into<String>) -> Self {
        Self { now: Some(command.into()), ..self }
    }

    fn permanent(self, commands: &[&str]) -> Self {
        Self { permanent: commands.iter().map(|&command| command.to_owned()).collect(), ..self }
    }
}

/// What to do for a better service, the most likely first; empty if there is none.
pub fn advice(machine: &Machine, requested: ServiceChoice) -> Vec<Advice> {
    let mut advice = Vec::new();
    if !matches!(requested, ServiceChoice::Auto | ServiceChoice::Lazy) {
        let what = format!("{VARIABLE} asks for {}.", requested.as_str());
        advice.push(Advice::new(what).now(format!("unset {VARIABLE}")));
    }
    let full = machine.full_features();
    match full {
        None => advice.extend(access(machine)),
        Some(features) if !features.has_move() => {
            advice.push(Advice::new(
                "This kernel cannot move pages, so they are copied in; Linux 6.8 can move them.",
            ));
        }
        Some(_) => {}
    }
    let next_best = full.is_none() && !matches!(requested, ServiceChoice::Eager);
    for (limit, name, flag, cow_room) in [
        (machine.address_space, "RLIMIT_AS", 'v', COW_ROOM),
        // What is reserved counts in full, so the Region is not divided.
        (machine.data, "RLIMIT_DATA", 'd', u64::MAX),
    ] {
        let what = if limit.is_below(ROOM) {
            "no room for a fault handler's memory"
        } else if next_best && limit.is_below(cow_room) {
            "a Region too small for the service cow, the next best"
        } else {
            continue;
        };
        let what = format!("{name} leaves {what}. Unless its hard limit is as low:");
        advice.push(Advice::new(what).now(format!("ulimit -{flag} unlimited")));
    }
    if next_best && machine.overcommit == Some(2) {
        let what = "vm.overcommit_memory=2 leaves a Region too small for the service cow, the next \
                    best. With the kernel's own default:";
        advice.push(Advice::new(what).now("sudo sysctl vm.overcommit_memory=0"));
    }
    if next_best && machine.memfd_sealing.is_err() {
        advice.push(Advice::new(
            "The service cow, the next best, needs memory files that can be sealed: Linux 5.1, and \
             no filter that refuses memfd_create.",
        ));
    }
    advice
}

/// How this process could get a userfaultfd that sees faults in system calls.
fn access(machine: &Machine) -> Vec<Advice> {
    let answers: Vec<Errno> = machine.ways.iter().filter_map(|(_, answer)| answer.err()).collect();
    let filtered = machine.filtered != Some(false);
    if answers.iter().all(|&errno| matches!(errno, Errno::NOSYS | Errno::NOENT)) && !filtered {
        return vec![Advice::new(
            "This kernel has no userfaultfd: one built with CONFIG_USERFAULTFD is needed.",
        )];
    }
    if answers.iter().all(|&errno| matches!(errno, Errno::MFILE | Errno::NFILE)) {
        return Vec::new();
    }
    // The mark alone may be left over in a machine that was made from a container's image.
    if machine.container.is_some() && filtered {
        return contained(machine);
    }
    if machine.user_namespace == Some(true) {
        return vec![Advice::new(
            "This is a user name space, whose privileges do not count for userfaultfd. Ask \
             `refpage doctor` outside of it.",
        )];
    }
    let mut advice = Vec::new();
    if machine.device == Err(Errno::ACCESS) {
        advice.push(device());
    }
    let allowed = machine.unprivileged_userfaultfd == Some(1) || machine.may_trace == Some(true);
    if filtered {
        advice.push(Advice::new(
            "A seccomp filter is in force, and may be what refuses the userfaultfd system call: \
             start the program without it.",
        ));
    } else if !allowed {
        advice.push(sysctl());
        advice.push(capability());
    }
    advice
}

fn device() -> Advice {
    let group = rustix::process::getgid().as_raw();
    let what = format!("{DEVICE} does not let this user in. For group {group}:");
    Advice::new(what)
        .now(format!("sudo chgrp {group} {DEVICE} && sudo chmod g+rw {DEVICE}"))
        .permanent(&[
            &format!(
                "echo 'KERNEL==\"userfaultfd\", GROUP=\"{group}\", MODE=\"0660\"' | \
             sudo tee /etc/udev/rules.d/60-userfaultfd.rules"
            ),
            "sudo udevadm control --reload && sudo udevadm trigger --name-match=userfaultfd",
        ])
}

fn sysctl() -> Advice {
    Advice::new("The system call is for the privileged only. For every user of the machine:")
        .now("sudo sysctl vm.unprivileged_userfaultfd=1")
        .permanent(&[
            "echo vm.unprivileged_userfaultfd=1 | sudo tee /etc/sysctl.d/60-userfaultfd.conf",
            "sudo sysctl -p /etc/sysctl.d/60-userfaultfd.conf",
        ])
}

/// An ambient capability is the one kind that lets LD_PRELOAD through: a file's or a setuid
/// program's makes the loader ignore it.
fn capability() -> Advice {
    let (user, group) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    Advice::new(
        "Or for one program, which may then trace every process of any user. (setcap will not do: \
         the loader ignores LD_PRELOAD for a file with capabilities.)",
    )
    .now(format!(
        "sudo setpriv --reuid={user} --regid={group} --init-groups --inh-caps=+sys_ptrace \
         --ambient-caps=+sys_ptrace {} run -- PROGRAM",
        this_command()
    ))
}

/// This executable, for a shell: sudo has a PATH of its own.
fn this_command() -> String {
    let path = std::env::current_exe().ok();
    let path = path.and_then(|path| path.into_os_string().into_string().ok());
    match path {
        Some(path) if path.chars().all(|c| c.is_alphanumeric() || "/._+-".contains(c)) => path,
        Some(path) => format!("'{}'", path.replace('\'', r"'\''")),
        None => "refpage".to_owned(),
    }
}

/// In a container: what it is started with decides.
fn contained(machine: &Machine) -> Vec<Advice> {
    let device = if machine.device == Err(Errno::ACCESS) {
        Advice::new(format!(
            "{DEVICE} is here, but not for this user. On the host, let a group have it (`refpage \
             doctor` says how there), and start the container with that group's number:",
        ))
        .now(format!("docker run --group-add GROUP --device {DEVICE} …"))
    } else {
        Advice::new(format!("The container was not given {DEVICE}. Start it with:"))
            .now(format!("docker run --device {DEVICE} …"))
    };
    let unfiltered = Advice::new("Or, for root in the container, without its filter:")
        .now("docker run --security-opt seccomp=unconfined --cap-add SYS_PTRACE …");
    vec![device, unfiltered]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::{Limit, Service};
    use refpage::sys::uffd::{Features, Way};

    /// A machine on which everything works.
    fn machine() -> Machine {
        let service =
            Service { name: "memset".into(), reason: "why not".into(), ..Service::default() };
        Machine {
            memfd_sealing: Ok(()),
            overcommit: Some(0),
            address_space: Limit::None,
            data: Limit::None,
            container: None,
            user_namespace: Some(false),
            filtered: Some(false),
            device: Ok(()),
            ways: vec![(Way::Device, Ok(Features(u64::MAX)))],
            ..Machine::examine(service)
        }
    }

    fn refused(device: Errno, call: Errno) -> Machine {
        Machine {
            device: Err(device),
            ways: vec![(Way::Device, Err(device)), (Way::Syscall, Err(call))],
            may_trace: Some(false),
            unprivileged_userfaultfd: Some(0),
            ..machine()
        }
    }

    fn commands(machine: &Machine) -> Vec<String> {
        let advice = advice(machine, ServiceChoice::Auto);
        advice
            .into_iter()
            .flat_map(|advice| advice.now.into_iter().chain(advice.permanent))
            .collect()
    }

    #[test]
    fn a_machine_that_does_all_needs_no_advice() {
        assert_eq!(advice(&machine(), ServiceChoice::Auto), []);
    }

    #[test]
    fn an_environment_that_asks_for_less_is_named() {
        let advice = advice(&machine(), ServiceChoice::Memset);
        assert_eq!(advice[0].now.as_deref(), Some("unset REFPAGE_OPTIONS"));
    }

    #[test]
    fn a_user_without_privilege_is_told_every_way_to_it() {
        let commands = commands(&refused(Errno::ACCESS, Errno::PERM));
        for part in [
            "chmod g+rw /dev/userfaultfd",
            "udev/rules.d",
            "udevadm trigger",
            "sudo sysctl vm.",
            "sysctl.d",
            "setpriv",
        ] {
            assert!(commands.iter().any(|command| command.contains(part)), "{part}");
        }
    }

    #[test]
    fn a_device_that_is_not_there_is_not_to_be_opened() {
        let commands = commands(&refused(Errno::NOENT, Errno::PERM));
        assert!(commands[0].starts_with("sudo sysctl"), "{commands:?}");
    }

    #[test]
    fn a_container_is_to_be_started_with_the_device() {
        let inside = |device| Machine {
            container: Some("Docker"),
            filtered: Some(true),
            ..refused(device, Errno::PERM)
        };
        assert_eq!(commands(&inside(Errno::NOENT))[0], "docker run --device /dev/userfaultfd …");
        assert!(commands(&inside(Errno::ACCESS))[0].contains("--group-add GROUP"));
    }

    #[test]
    fn a_filter_is_told_from_a_lack_of_privilege() {
        let machine = Machine {
            may_trace: Some(true),
            filtered: Some(true),
            ..refused(Errno::NOENT, Errno::PERM)
        };
        assert!(advice(&machine, ServiceChoice::Auto)[0].what.contains("seccomp"));
    }

    #[test]
    fn a_kernel_without_userfaultfd_cannot_be_helped_by_a_command() {
        assert_eq!(commands(&refused(Errno::NOENT, Errno::NOSYS)), [""; 0]);
        assert_eq!(advice(&refused(Errno::NOENT, Errno::NOSYS), ServiceChoice::Auto).len(), 1);
    }

    #[test]
    fn limits_that_leave_no_room_are_named() {
        let machine =
            Machine { address_space: Limit::Is(1 << 20), data: Limit::Is(1 << 20), ..machine() };
        assert_eq!(commands(&machine), ["ulimit -v unlimited", "ulimit -d unlimited"]);
    }

    #[test]
    fn the_next_best_service_has_needs_of_its_own() {
        let limited = |machine| Machine {
            address_space: Limit::Is(8 << 30),
            data: Limit::Is(8 << 30),
            overcommit: Some(2),
            memfd_sealing: Err(Errno::NOSYS),
            ..machine
        };
        assert_eq!(advice(&limited(machine()), ServiceChoice::Auto), []);
        let found = advice(&limited(refused(Errno::NOENT, Errno::PERM)), ServiceChoice::Auto);
        let about_cow: Vec<_> =
            found.iter().filter(|advice| advice.what.contains("service cow")).collect();
        let commands: Vec<_> =
            about_cow.iter().filter_map(|advice| advice.now.as_deref()).collect();
        assert_eq!(about_cow.len(), 4);
        let expected =
            ["ulimit -v unlimited", "ulimit -d unlimited", "sudo sysctl vm.overcommit_memory=0"];
        assert_eq!(commands, expected);
    }

    #[test]
    fn the_command_for_sudo_names_this_executable_in_full() {
        let commands = commands(&refused(Errno::ACCESS, Errno::PERM));
        let command = commands.iter().find(|command| command.contains("setpriv")).unwrap();
        let own = std::env::current_exe().unwrap();
        assert!(command.contains(own.to_str().unwrap()), "{command}");
    }
}
