//! What is told of a misuse.

use refpage::sys::report::warn;
use refpage::sys::uffd::Fault;

use crate::heap::Heap;

/// Tells about an access that the fault handler refuses: called on its thread, which has no stderr and no
/// libc.
pub fn of_fault(_: &Heap, fault: Fault) {
    warn(format_args!("refused: {:#x}", fault.address));
}
