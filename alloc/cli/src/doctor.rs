//! `refpage doctor`: what this machine allows, the service that comes of it, and how to get a better
//! one; as text for people and as JSON, whose keys stay as they are, for programs.

use crate::advice::{Advice, advice};
use crate::child::Job;
use crate::failure::{Failure, print};
use crate::flags;
use crate::machine::{DEVICE, Limit, Machine, Service};
use refpage::sys::uffd::{Features, Way};
use rustix::io::Errno;
use serde_json::{Value, json};
use std::fmt::Write;

/// Columns of the text, commands excepted: those are to be copied as they are.
const WIDTH: usize = 96;
/// Columns of a row's name.
const NAME: usize = 26;

/// Say what this machine can do, and how to get more
#[derive(clap::Args)]
pub struct Arguments {
    /// Write JSON
    #[arg(long)]
    json: bool,
}

/// Examines the machine and prints what was found.
pub fn examine(arguments: &Arguments) -> Result<(), Failure> {
    let requested = flags::inherited()?.service;
    // In a process of its own: a service is taken at a process's start.
    let service = match Job::empty(requested).run() {
        Ok(outcome) => outcome.measurement.service,
        // Under a limit that leaves not even that much room.
        Err(Failure { line, .. }) => {
            Service { name: "unknown".into(), reason: line, ..Service::default() }
        }
    };
    let machine = Machine::examine(service);
    let advice = advice(&machine, requested);
    if arguments.json {
        return print(&format!("{:#}\n", as_json(&machine, &advice)));
    }
    print(&as_text(&machine, &advice))
}

/// What an answer means to who wants a userfaultfd in this way.
fn meaning(machine: &Machine, way: Option<Way>, errno: Errno) -> String {
    let filter = match machine.filtered {
        Some(false) => "",
        Some(true) => ", or refused by the seccomp filter",
        None => ", or refused by a filter",
    };
    let text = match (way, errno) {
        (Some(Way::Device), Errno::NOENT) => {
            "no such file: Linux before 6.1, or a container that was not given it"
        }
        (Some(Way::Device), Errno::ACCESS) => "the file's permissions do not let this user in",
        (_, Errno::PERM) if machine.filtered == Some(true) => {
            "refused by the seccomp filter, or for want of privilege"
        }
        (Some(Way::Syscall), Errno::PERM) => {
            "needs CAP_SYS_PTRACE (outside any user name space) or vm.unprivileged_userfaultfd=1"
        }
        (_, Errno::NOSYS) => return format!("not in this kernel{filter}"),
        (None, Errno::INVAL) => "this kernel has none: Linux before 5.11",
        (_, Errno::MFILE | Errno::NFILE) => "no descriptor is left",
        _ => return plain(errno),
    };
    text.to_owned()
}

fn tagging(machine: &Machine) -> String {
    let Some(level) = machine.memory_tags else {
        return if mte::AVAILABLE { "no" } else { "not on this architecture" }.to_owned();
    };
    let preferred = machine.preferred_tag_checks.as_deref().unwrap_or("unknown");
    let (level, taken) = (level.as_str(), refpage_alloc::tags_name());
    format!("{level}; checks taken: {taken}; what the kernel makes of asymm: {preferred}")
}

fn as_text(machine: &Machine, advice: &[Advice]) -> String {
    let mut page = Page::default();
    page.heading("Service");
    page.row("taken", &machine.service.to_string());
    page.row("guards", &machine.service.guards);

    page.heading("Kernel");
    page.row("release", &format!("{} ({})", machine.kernel, machine.architecture));
    page.row("OS page", &format!("{} KiB", machine.os_page / 1024));
    page.row("transparent huge pages", &known(machine.huge_pages.as_ref()));
    page.row("  of memory files", &known(machine.shmem_huge_pages.as_ref()));
    page.row("guard pages (6.13)", yes_no(machine.guard_pages));
    page.row("PAGEMAP_SCAN (6.7)", yes_no(machine.pagemap_scan));
    page.row(
        "sealed memory files (5.1)",
        &answer(machine.memfd_sealing.map(|()| "yes".to_owned()), plain),
    );
    page.row("page-table reclaim (6.14)", yes_no(Some(machine.table_reclaim)));
    page.row("memory tags (MTE)", &tagging(machine));

    page.heading("userfaultfd");
    for (way, result) in &machine.ways {
        let text =
            answer(result.map(|_| "works".to_owned()), |errno| meaning(machine, Some(*way), errno));
        page.row(if *way == Way::Device { DEVICE } else { "system call" }, &text);
        if *way == Way::Device
            && let Some((mode, user, group)) = machine.device_access
        {
            page.row("  its permissions", &format!("{mode:04o}, user {user}, group {group}"));
        }
    }
    page.row(
        "user mode only",
        &answer(machine.user_mode_only.map(|_| "works".to_owned()), |errno| {
            meaning(machine, None, errno)
        }),
    );
    for (name, _, present) in feature_list(machine.features()) {
        page.row(&format!("  {name}"), yes_no(present));
    }
    page.row("CAP_SYS_PTRACE", yes_no(machine.may_trace));
    page.row("unprivileged_userfaultfd", &known(machine.unprivileged_userfaultfd));

    page.heading("Limits");
    let mode = match (machine.overcommit, machine.commit_left) {
        (Some(2), Some(left)) => format!("2 (strict): {} left", size(left)),
        (Some(2), None) => "2 (strict): unknown how much is left".to_owned(),
        (mode, _) => known(mode),
    };
    page.row("vm.overcommit_memory", &mode);
    page.row("address space", &limit(machine.address_space, size));
    page.row("data", &limit(machine.data, size));
    page.row("locked memory", &limit(machine.locked_memory, size));
    page.row("descriptors", &limit(machine.descriptors, |count| count.to_string()));
    let maps =
        format!("{} ({} used by this process)", known(machine.max_map_count), known(machine.maps));
    page.row("vm.max_map_count", &maps);
    let group = match machine.group {
        Some(group) => format!(
            "{}, {} used (version {})",
            limit(group.limit, size),
            group.used.map_or_else(|| "unknown".to_owned(), size),
            group.version
        ),
        None => "unknown".to_owned(),
    };
    page.row("control group's memory", &group);

    page.heading("Surroundings");
    page.row("seccomp filter", yes_no(machine.filtered));
    page.row(
        "container",
        &machine
            .container
            .map_or_else(|| "no sign of one".to_owned(), |name| format!("signs of {name}")),
    );
    page.row("user name space", yes_no(machine.user_namespace));

    page.heading("For a better service");
    if advice.is_empty() {
        page.paragraph("There is nothing to be done.");
    }
    for Advice { what, now, permanent } in advice {
        page.paragraph(what);
        now.iter().for_each(|command| page.command(command));
        if !permanent.is_empty() {
            page.paragraph("That lasts until the next boot. For good:");
            permanent.iter().for_each(|command| page.command(command));
        }
    }
    page.text
}

/// Headings, and rows under them, within [`WIDTH`].
#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn heading(&mut self, name: &str) {
        let gap = if self.text.is_empty() { "" } else { "\n" };
        let _ = writeln!(self.text, "{gap}{name}");
    }

    fn row(&mut self, name: &str, value: &str) {
        self.wrapped(&format!("  {name:<NAME$} "), value);
    }

    fn paragraph(&mut self, text: &str) {
        self.wrapped("  ", text);
    }

    /// Lines that begin with `head`, then with as many spaces.
    fn wrapped(&mut self, head: &str, text: &str) {
        let indent = head.chars().count();
        let mut column = indent;
        self.text += head;
        for (at, word) in text.split_whitespace().enumerate() {
            let length = word.chars().count();
            if at > 0 && column + 1 + length > WIDTH {
                let _ = write!(self.text, "\n{:indent$}", "");
                column = indent;
            } else if at > 0 {
                self.text.push(' ');
                column += 1;
            }
            self.text += word;
            column += length;
        }
        self.text.push('\n');
    }

    /// A shell command: a long one goes on in another line where the shell lets it.
    fn command(&mut self, command: &str) {
        if let Some((first, second)) = command.split_once(" | ") {
            let _ = writeln!(self.text, "      {first} |\n        {second}");
            return;
        }
        // Two columns are kept for the mark at a line's end. A quoted blank is none of the shell's.
        let words =
            if command.contains('\'') { vec![command] } else { command.split(' ').collect() };
        let mut column = 0;
        for word in words {
            let length = word.chars().count();
            if column == 0 {
                self.text += "      ";
                column = 6;
            } else if column + 1 + length + 2 > WIDTH {
                self.text += " \\\n       ";
                column = 7;
            } else {
                self.text.push(' ');
                column += 1;
            }
            self.text += word;
            column += length;
        }
        self.text.push('\n');
    }
}

fn known(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "unknown".to_owned(), |value| value.to_string())
}

fn yes_no(value: Option<bool>) -> &'static str {
    match value {
        Some(true) => "yes",
        Some(false) => "no",
        None => "unknown",
    }
}

fn answer(result: Result<String, Errno>, why_not: impl Fn(Errno) -> String) -> String {
    result.unwrap_or_else(|errno| format!("no: {}", why_not(errno)))
}

/// The system's own words for it.
fn plain(errno: Errno) -> String {
    std::io::Error::from_raw_os_error(errno.raw_os_error()).to_string()
}

fn limit(limit: Limit, text: impl Fn(u64) -> String) -> String {
    match limit {
        Limit::Unknown => "unknown".to_owned(),
        Limit::None => "no limit".to_owned(),
        Limit::Is(value) => text(value),
    }
}

fn size(bytes: u64) -> String {
    let (mut value, mut units) = (bytes as f64, ["bytes", "KiB", "MiB", "GiB", "TiB"].iter());
    let mut unit = units.next().unwrap_or(&"");
    while value >= 1024.0
        && let Some(next) = units.next()
    {
        (value, unit) = (value / 1024.0, next);
    }
    let decimals = usize::from(value.fract() >= 0.05 && value < 100.0);
    format!("{value:.decimals$} {unit}")
}

/// Names for people and for programs; nothing is known of what no descriptor was had to ask.
fn feature_list(features: Option<Features>) -> [(&'static str, &'static str, Option<bool>); 4] {
    let ask = |has: fn(Features) -> bool| features.map(has);
    [
        ("MOVE (6.8)", "move", ask(Features::has_move)),
        ("POISON (6.6)", "poison", ask(Features::has_poison)),
        ("write protection", "write_protect", ask(Features::has_write_protect)),
        ("WP_ASYNC (6.7)", "async_write_protect", ask(Features::has_async_write_protect)),
    ]
}

/// What is unknown is null. A limit that does not exist is "none".
fn as_json(machine: &Machine, advice: &[Advice]) -> Value {
    let result = |name: &str, way: Option<Way>, answer: Result<Features, Errno>| {
        json!({
            "way": name,
            "works": answer.is_ok(),
            "errno": answer.err().map(Errno::raw_os_error),
            "meaning": answer.err().map(|errno| meaning(machine, way, errno)),
        })
    };
    let limit = |limit: Limit| match limit {
        Limit::Unknown => Value::Null,
        Limit::None => "none".into(),
        Limit::Is(value) => value.into(),
    };
    let ways = machine.ways.iter().map(|(way, answer)| result(way.as_str(), Some(*way), *answer));
    let features = feature_list(machine.features()).into_iter();
    let features = features.map(|(_, key, present)| (key.to_owned(), json!(present)));
    let advice = advice.iter().map(|Advice { what, now, permanent }| {
        json!({ "what": what, "now": now, "permanent": permanent })
    });
    let (mode, user, group) =
        machine.device_access.map_or((None, None, None), |(mode, user, group)| {
            (Some(format!("{mode:04o}")), Some(user), Some(group))
        });
    json!({
        "service": machine.service.name,
        "reason": machine.service.reason,
        "guards": machine.service.guards,
        "kernel": machine.kernel,
        "architecture": machine.architecture,
        "os_page_bytes": machine.os_page,
        "transparent_huge_pages": machine.huge_pages,
        "shmem_huge_pages": machine.shmem_huge_pages,
        "guard_pages": machine.guard_pages,
        "pagemap_scan": machine.pagemap_scan,
        "memfd_sealing": machine.memfd_sealing.is_ok(),
        "page_table_reclaim": machine.table_reclaim,
        "memory_tagging": mte::AVAILABLE.then_some(machine.memory_tags.is_some()),
        "memory_tags": machine.memory_tags.map(mte::Level::as_str),
        "preferred_tag_checks": machine.preferred_tag_checks,
        "tags": refpage_alloc::tags_name(),
        "ways": ways.collect::<Value>(),
        "user_mode_only": result("user mode only", None, machine.user_mode_only),
        "features": features.collect::<serde_json::Map<_, _>>(),
        "device": {
            "path": DEVICE, "exists": machine.device_access.is_some(),
            "errno": machine.device.err().map(Errno::raw_os_error),
            "mode": mode, "user": user, "group": group,
        },
        "cap_sys_ptrace": machine.may_trace,
        "unprivileged_userfaultfd": machine.unprivileged_userfaultfd,
        "overcommit_memory": machine.overcommit,
        "commit_left_bytes": machine.commit_left,
        "address_space_limit_bytes": limit(machine.address_space),
        "data_limit_bytes": limit(machine.data),
        "locked_memory_limit_bytes": limit(machine.locked_memory),
        "descriptor_limit": limit(machine.descriptors),
        "max_map_count": machine.max_map_count,
        "maps_in_use": machine.maps,
        "control_group": machine.group.map(|group| json!({
            "version": group.version,
            "memory_limit_bytes": limit(group.limit),
            "memory_used_bytes": group.used,
        })),
        "seccomp_filter": machine.filtered,
        "container": machine.container,
        "user_namespace": machine.user_namespace,
        "advice": advice.collect::<Value>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine::examine(Service {
            name: "memset".into(),
            reason: "why not ".repeat(30),
            guards: "none".into(),
        })
    }

    #[test]
    fn both_forms_name_the_service() {
        let machine = machine();
        assert!(as_text(&machine, &[]).contains("memset: why not"));
        assert_eq!(as_json(&machine, &[])["service"], "memset");
    }

    #[test]
    fn lines_are_short_whatever_is_found() {
        let what = "something that has to be explained at length ".repeat(9);
        let command = "sudo do --this=and --that=and ".repeat(5).trim().to_owned();
        let advice = Advice { what, now: Some(command.clone()), permanent: vec![command] };
        for refused in [Errno::PERM, Errno::NOSYS, Errno::ACCESS, Errno::NOENT, Errno::MFILE] {
            let ways = [Way::Device, Way::Syscall].map(|way| (way, Err(refused))).into();
            let (user_mode_only, filtered) = (Err(refused), Some(true));
            let machine = Machine { ways, user_mode_only, filtered, ..machine() };
            let text = as_text(&machine, std::slice::from_ref(&advice));
            for line in text.lines() {
                assert!(line.chars().count() <= 100 && !line.ends_with(' '), "{line:?}");
            }
        }
    }

    #[test]
    fn what_cannot_be_found_out_is_said_to_be_unknown() {
        let machine = Machine {
            huge_pages: None,
            guard_pages: None,
            pagemap_scan: None,
            overcommit: None,
            max_map_count: None,
            maps: None,
            address_space: Limit::Unknown,
            group: None,
            may_trace: None,
            filtered: None,
            user_namespace: None,
            ..machine()
        };
        let (text, json) = (as_text(&machine, &[]), as_json(&machine, &[]));
        for (row, key) in [
            ("transparent huge pages", "transparent_huge_pages"),
            ("guard pages (6.13)", "guard_pages"),
            ("PAGEMAP_SCAN (6.7)", "pagemap_scan"),
            ("vm.overcommit_memory", "overcommit_memory"),
            ("vm.max_map_count", "max_map_count"),
            ("address space", "address_space_limit_bytes"),
            ("control group's memory", "control_group"),
            ("CAP_SYS_PTRACE", "cap_sys_ptrace"),
            ("seccomp filter", "seccomp_filter"),
            ("user name space", "user_namespace"),
        ] {
            let line = text.lines().find(|line| line.trim_start().starts_with(row)).unwrap();
            assert!(line.contains("unknown"), "{line}");
            assert!(json[key].is_null(), "{key}");
        }
    }

    #[test]
    fn sizes_are_short() {
        assert_eq!(size(0), "0 bytes");
        assert_eq!(size(8 << 20), "8 MiB");
        assert_eq!(size(3 << 29), "1.5 GiB");
    }
}
