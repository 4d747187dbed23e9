//! Benchmarks of refpage.
//!
//! - `cargo bench -p refpage-bench --bench first_touch`: what a page costs the first time it is
//!   touched, by service and by how much is touched, through the engine alone.
//! - `cargo bench -p refpage-bench --bench malloc`: allocations through refpage and through
//!   glibc, side by side in one process.
//!
//! Each checks what it reads: a page that does not hold what it should ends the benchmark. Times
//! are wall times of one thread; for CPU time of all threads, the handler's included, and for
//! memory, see the demonstration (`cargo run --release`) and `pdfium-harness`.

/// Panics unless every byte is `value`: benchmarks call it outside their timed parts.
pub fn assert_all(bytes: &[u8], value: u8) {
    let wrong = bytes.iter().position(|&byte| byte != value);
    assert_eq!(wrong, None, "byte {wrong:?} of {} is not {value:#04x}", bytes.len());
}
