//! Every system call of the project: address space, userfaultfd, threads, locks, last words, and what
//! the kernel's answers mean.
//!
//! The contract of all of it: no heap allocation, no `errno` (rustix's raw backend returns it
//! instead), no panic. So any function here may run inside malloc, in the fault handler, and
//! between fork and exec.

pub mod descriptor;
pub mod errno;
#[cfg(feature = "inject")]
pub mod inject;
pub mod lock;
pub mod maps;
pub mod number;
pub mod pagemap;
pub mod peek;
pub mod report;
pub mod scan;
pub mod swap;
pub mod thread;
pub mod uffd;
pub mod vm;
