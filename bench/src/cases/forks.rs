//! A process with a heap forks, again and again; the child ends, or becomes another program.

use super::touched::Touched;
use super::{Case, MIB, Outcome, Scale, Work, short};
use crate::measure::Meter;
use crate::memory::{Block, Memory, Wrong, page_bytes};

/// What the child does.
#[derive(Clone, Copy)]
enum Then {
    /// Ends at once.
    Exit,
    /// Becomes `true`, on the same allocator.
    Exec,
}

/// Forks with one large block, beside what the process has in small ones.
struct Forks {
    size: usize,
    touched: Touched,
    then: Then,
    forks: usize,
}

impl Work for Forks {
    fn run(&self, memory: &dyn Memory) -> Result<Outcome, Wrong> {
        let order = self.touched.order(self.size.div_ceil(page_bytes()));
        let mut block = Block::new(memory, self.size);
        for &page in order.of_use(0) {
            block.touch(page);
        }
        let meter = Meter::start();
        for _ in 0..self.forks {
            // A child of a process with threads may call little, and this calls nothing else.
            let status = in_child(|| match self.then {
                Then::Exit => 0,
                Then::Exec => become_true(),
            });
            assert_eq!(status, 0, "the child could not do its work");
        }
        let cost = meter.stop();
        let mask = order.mask_of_use(0);
        // The child first: what is missing here is missing there, too.
        let status = in_child(|| block.check(|page| mask[page]).map_or(1, |_| 0));
        let checked_bytes = block.check(|page| mask[page])?;
        assert_eq!(status, 0, "wrong content in the child alone");
        Ok(Outcome { cost, operations: self.forks, checked_bytes })
    }
}

/// Forks, and waits for the child, which ends with what `work` returns: how it ended.
fn in_child(work: impl FnOnce() -> i32) -> i32 {
    // SAFETY: the child does as the callers say, and leaves by _exit, the parent's other threads or
    // not; the status is this function's own.
    unsafe {
        let child = libc::fork();
        assert!(child >= 0, "cannot fork: {}", std::io::Error::last_os_error());
        if child == 0 {
            libc::_exit(work());
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(child, &mut status, 0), child);
        status
    }
}

fn become_true() -> i32 {
    let program = c"/bin/true".as_ptr();
    // SAFETY: the strings end with a zero, the array with a null.
    unsafe { libc::execv(program, [program, std::ptr::null()].as_ptr()) };
    127
}

/// With little memory, with a gigabyte in use, and with one of which a few pages are.
pub fn add(cases: &mut Vec<Case>, scale: Scale) {
    let large = scale.pick(1024 * MIB, 256 * MIB, 2 * MIB);
    let forks: usize = scale.pick(200, 50, 2);
    let heaps = [
        ("small", "half in use", 256 << 10, Touched::Prefix(50), forks),
        // Its page tables take their time to copy.
        ("1G-dense", "all in use", large, Touched::Prefix(100), forks.div_ceil(5)),
        ("1G-sparse", "one page in 1024 in use", large, Touched::OneIn(1024), forks.div_ceil(2)),
    ];
    for (name, used, size, touched, forks) in heaps {
        for (ends, what, then) in [("exit", "ends", Then::Exit), ("exec", "execs true", Then::Exec)]
        {
            cases.push(Case {
                name: format!("fork-{ends}-{name}"),
                title: format!("fork with a block of {}, {used}; the child {what}", short(size)),
                unit: "fork",
                baselines: &[],
                with_large_pool: false,
                work: Box::new(Forks { size, touched, then, forks }),
            });
        }
    }
}
