//! Which rounds a command line asks for.

use std::fmt::Write;

use crate::boot::HOST;
use crate::suites::SLOW;
use crate::{Arguments, Tags};

/// The users to run the tests as if none is named.
const USERS: [u32; 2] = [0, 65534];

/// A round that is asked for.
#[derive(Debug, PartialEq, Eq)]
pub struct Wish {
    /// As it was asked for.
    pub kernel: String,
    /// Whether the processor is to have memory tags.
    pub tags: bool,
    pub user: u32,
    /// Only tests with one of these in their names; all, if there are none.
    pub tests: Vec<String>,
    /// And none with one of these.
    pub skip: Vec<String>,
}

/// A round of a quick run on an emulated Arm machine, which has time for a part of the tests on each kernel.
struct Quick {
    kernel: &'static str,
    tags: bool,
    user: u32,
    tests: &'static [&'static str],
    skip: &'static [&'static str],
}

/// The rounds of a quick run on an emulated Arm machine: the longest comes first.
const QUICK: [Quick; 5] = [
    // All suites, but for those of the next round, and of what is no different on Arm.
    Quick {
        kernel: "6.12",
        tags: true,
        user: 0,
        tests: &[],
        skip: &[
            "strict::",
            "second_rung::",
            "kernel::",
            "traces::",
            "misuse::",
            "traps::",
            "process::",
            "compaction::",
            "compact::threads",
            "::eager",
            "::memset",
        ],
    },
    Quick {
        kernel: "newest-16k",
        tags: true,
        user: 0,
        tests: &[
            "::unit::",
            "engine::",
            "model::",
            "tags::",
            "recycling::",
            "unseen::",
            "asleep::",
            "idle_pool::",
            "checks::",
            "instructions::",
            "ranges::",
        ],
        skip: &["::memset", "::eager"],
    },
    // What children find of their parent's memory, and what ends a program.
    Quick {
        kernel: "6.12",
        tags: true,
        user: 0,
        tests: &["process::fork", "process::a_vforked", "process::system", "misuse::"],
        skip: &["::memset", "::eager"],
    },
    // The fallback of a processor without tags.
    Quick {
        kernel: "6.12",
        tags: false,
        user: 0,
        tests: &["process::fork_gives", "::unit::", "engine::", "model::", "tags::", "recycling::"],
        skip: &["::memset", "::eager"],
    },
    // Pages cannot be moved there.
    Quick {
        kernel: "6.1",
        tags: true,
        user: 65534,
        tests: &["content::realloc", "engine::", "model::", "tags::"],
        skip: &["::memset", "::eager"],
    },
];

/// The rounds, in the table's order.
pub fn wishes(arguments: &Arguments) -> Vec<Wish> {
    let Arguments { kernels, users, tags, tests, skip, .. } = arguments;
    if is_composed(arguments) {
        let wish = |quick: &Quick| Wish {
            kernel: quick.kernel.into(),
            tags: quick.tags,
            user: quick.user,
            tests: owned(quick.tests),
            skip: owned(quick.skip).into_iter().chain(arguments.skip.clone()).collect(),
        };
        return QUICK.iter().map(wish).collect();
    }
    let arch = arguments.arch;
    let own = if arch.is_foreign() { &[][..] } else { &[HOST][..] };
    let all = || [owned(own), owned(arch.kernels)].concat();
    let kernels = if kernels.is_empty() { all() } else { kernels.clone() };
    let users = if users.is_empty() { &USERS[..] } else { users };
    let tags: Vec<_> = tags.iter().map(|tags| matches!(tags, Tags::On)).collect();
    let tags = if tags.is_empty() { vec![arch.tags] } else { tags };
    let mut wishes = Vec::new();
    for kernel in &kernels {
        // This machine has the tags that it has.
        let tags = if kernel == HOST { &[false] } else { &*tags };
        for &tags in tags {
            for &user in users {
                let (kernel, tests, skip) = (kernel.clone(), tests.clone(), skip.clone());
                wishes.push(Wish { kernel, tags, user, tests, skip });
            }
        }
    }
    wishes
}

/// What a quick run leaves out, a line for each reason.
pub fn left_out(arguments: &Arguments) -> String {
    let mut text =
        format!("left out, to be quick: {}, and all patterns but one\n", SLOW.join(", "));
    if !is_composed(arguments) {
        return text;
    }
    for Quick { kernel, tags, user, tests, skip } in &QUICK {
        let _ = write!(text, "  on {kernel}, {}, user {user}: ", arguments.arch.title(*tags));
        if !tests.is_empty() {
            let _ = write!(text, "all but {}; ", tests.join(", "));
        }
        let _ = writeln!(text, "{}", skip.join(", "));
    }
    text + "  all other kernels and users; they are run without --quick\n"
}

/// Whether a quick run is one of chosen rounds: of another architecture than x86-64, where all takes too long.
fn is_composed(arguments: &Arguments) -> bool {
    let Arguments { arch, kernels, users, tags, tests, quick, .. } = arguments;
    let named = !(kernels.is_empty() && users.is_empty() && tags.is_empty() && tests.is_empty());
    *quick && arch.is_foreign() && !named
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().copied().map(String::from).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::arch::Arch;

    fn asked(line: &str) -> Vec<(String, bool, u32, usize)> {
        let arguments = Arguments::try_parse_from(line.split(' ')).expect("a command line");
        let wishes = wishes(&arguments).into_iter();
        wishes.map(|wish| (wish.kernel, wish.tags, wish.user, wish.tests.len())).collect()
    }

    #[test]
    fn every_kernel_is_run_as_every_user_with_and_without_tags() {
        let line = "it --arch aarch64 --kernel 6.1 --mte on --mte off --user 1 --user 2 --test a";
        let expected = [(true, 1), (true, 2), (false, 1), (false, 2)];
        assert_eq!(asked(line), expected.map(|(tags, user)| ("6.1".into(), tags, user, 1)));
    }

    #[test]
    fn what_is_not_named_is_all_of_it() {
        for arch in ["x86_64", "aarch64"] {
            let arch = Arch::named(arch).expect("its name");
            let found = asked(&format!("it --arch {}", arch.name));
            let own = usize::from(!arch.is_foreign());
            assert_eq!(found.len(), 2 * (arch.kernels.len() + own));
            assert!(found.iter().all(|(kernel, tags, ..)| kernel == HOST || *tags == arch.tags));
        }
    }

    #[test]
    fn a_quick_run_of_another_architecture_is_composed_unless_something_is_named() {
        let foreign = ["x86_64", "aarch64"].map(|name| Arch::named(name).expect("its name"));
        let foreign = foreign.iter().find(|arch| arch.is_foreign()).expect("one is");
        let line = format!("it --arch {} --quick", foreign.name);
        assert_eq!(asked(&line).len(), QUICK.len());
        assert_eq!(asked(&format!("{line} --user 0")).len(), foreign.kernels.len());
        let own = format!("it --arch {} --quick", Arch::own().name);
        assert_eq!(asked(&own).len(), 2 * (Arch::own().kernels.len() + 1));
    }
}
