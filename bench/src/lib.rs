//! Benchmarks of refpage.
//!
//! - `cargo bench -p refpage-bench --bench first_touch`: what a page costs the first time it is
//!   touched, by service and by how much is touched, through the engine alone.
//! - `cargo bench -p refpage-bench --bench malloc`: allocations through refpage and through
//!   glibc, side by side in one process.
//!
//! - `cargo run --release -p refpage-bench -- report [--quick] [--install]`: the comparison with all allocators, as a page with
//!   tables and plots; it builds what it measures. The commands below are its parts by themselves, and more.
//!
//! - `cargo run --release -p refpage-bench -- engine [--quick]`: allocators side by side, refpage
//!   through its preload library, each measurement in a process of its own, with wall time, CPU time
//!   of all threads, memory and faults, and the targets that refpage has to reach. It needs
//!   `cargo build --release -p refpage-preload` before; `engine --help` has the flags, `main.rs` the
//!   map of its modules.
//!
//! - `cargo run --release -p refpage-bench -- small [--quick] [--programs]`: the same of small blocks,
//!   by the well-known workloads of allocators with one to eight threads, and of real programs.
//!
//! - `cargo run --release -p refpage-bench -- traps [--quick] [--services]`: large blocks with and without
//!   guards and quarantine, beside Scudo and an allocator that maps each block between guard pages.
//!
//! - `cargo run --release -p refpage-bench -- moves [--quick]`: a heap that is compacted by page moves, by copies and
//!   by mremap, and what each call costs by itself.
//! - `cargo run --release -p refpage-bench -- writes [--quick]`: which pages were written, by PAGEMAP_SCAN, by
//!   mprotect with a signal handler, and by soft-dirty bits.
//!
//! Each checks what it reads: a byte that is not what it should be ends the benchmark. The first two
//! know wall times of one thread only.
//!
//! What the comparisons share with `pdfium-harness`: [`stats`], the [`peers`] that are compared, the [`memory`] that the
//! baselines among them map, and where [`libraries`] lie.

pub mod libraries;
pub mod memory;
pub mod peers;
pub mod stats;

/// Panics unless every byte is `value`: benchmarks call it outside their timed parts.
pub fn assert_all(bytes: &[u8], value: u8) {
    let wrong = bytes.iter().position(|&byte| byte != value);
    assert_eq!(wrong, None, "byte {wrong:?} of {} is not {value:#04x}", bytes.len());
}
