//! A Rust program on refpage: `cargo run --release -p refpage-alloc --example global_allocator`.

use refpage_alloc::RefPage;

#[global_allocator]
static ALLOCATOR: RefPage = RefPage::new();

fn main() {
    let buffer = Box::<[u8]>::new_uninit_slice(64 << 20);
    // SAFETY: every byte of a fresh allocation holds the pattern.
    let buffer = unsafe { buffer.assume_init() };
    let sample = buffer.iter().step_by(1 << 20);
    println!("64 MiB, never written, all {:#04x}: {}", 0xAA, sample.clone().all(|&b| b == 0xAA));
    refpage_alloc::print_stats(1);
}
