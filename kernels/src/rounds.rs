//! Which rounds a command line asks for.

use crate::boot::HOST;
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
}

/// A round of a quick run on an emulated Arm machine, which has time for a part of the tests on each kernel.
struct Quick {
    kernel: &'static str,
    tags: bool,
    user: u32,
    tests: &'static [&'static str],
}

/// The rounds of a quick run on an emulated Arm machine.
const QUICK: [Quick; 1] = [Quick { kernel: "6.12", tags: true, user: 0, tests: &[] }];

/// The rounds, in the table's order.
pub fn wishes(arguments: &Arguments) -> Vec<Wish> {
    let Arguments { kernels, users, tags, tests, .. } = arguments;
    if is_composed(arguments) {
        let wish = |quick: &Quick| Wish {
            kernel: quick.kernel.into(),
            tags: quick.tags,
            user: quick.user,
            tests: quick.tests.iter().copied().map(String::from).collect(),
        };
        return QUICK.iter().map(wish).collect();
    }
    let arch = arguments.arch;
    let own = if arch.is_foreign() { &[][..] } else { &[HOST][..] };
    let all = || own.iter().chain(arch.kernels).copied().map(String::from).collect();
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
                wishes.push(Wish { kernel: kernel.clone(), tags, user, tests: tests.clone() });
            }
        }
    }
    wishes
}

/// Whether a quick run is one of chosen rounds: of another architecture than x86-64, where all takes too long.
fn is_composed(arguments: &Arguments) -> bool {
    let Arguments { arch, kernels, users, tags, tests, quick, .. } = arguments;
    let named = !(kernels.is_empty() && users.is_empty() && tags.is_empty() && tests.is_empty());
    *quick && arch.is_foreign() && !named
}
