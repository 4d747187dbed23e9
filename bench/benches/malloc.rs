//! Allocations through refpage and through glibc's malloc, in one process. The service is that
//! of `REFPAGE_OPTIONS`, else the machine's best.

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use refpage_alloc::{RefPage, pattern, service_name};

static REFPAGE: RefPage = RefPage::new();

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 16).expect("a valid layout")
}

/// Allocates, writes every `stride`th byte, frees.
fn churn(allocator: &dyn GlobalAlloc, layout: Layout, stride: usize) {
    // SAFETY: the block is used within its size and freed with its layout.
    unsafe {
        let block = black_box(allocator.alloc(layout));
        for at in (0..layout.size()).step_by(stride) {
            block.add(at).write(1);
        }
        allocator.dealloc(block, layout);
    }
}

fn check(layout: Layout) {
    let Some(pattern) = pattern() else { return };
    // SAFETY: as above, and refpage's memory is initialised.
    unsafe {
        let block = REFPAGE.alloc(layout);
        let bytes = std::slice::from_raw_parts(block, layout.size());
        assert_eq!(pattern.find_other(bytes), None, "bytes that are not {pattern}");
        REFPAGE.dealloc(block, layout);
    }
}

fn bench(c: &mut Criterion) {
    let own = format!("refpage ({})", service_name());
    let allocators: [(&str, &dyn GlobalAlloc); 2] = [("glibc", &System), (&own, &REFPAGE)];
    let cases = [
        ("16 bytes", 16, 16),
        ("100 bytes", 100, 64),
        ("1,000 bytes", 1000, 64),
        ("10,000 bytes", 10_000, 64),
        ("64 KiB, every page", 64 << 10, 4096),
        ("1 MiB, every page", 1 << 20, 4096),
        ("4,096,000 bytes, one page in ten", 4_096_000, 40_960),
    ];
    for (name, size, stride) in cases {
        let mut group = c.benchmark_group(format!("malloc, write, free: {name}"));
        for (allocator_name, allocator) in allocators {
            group.bench_function(BenchmarkId::from_parameter(allocator_name), |b| {
                b.iter(|| churn(allocator, layout(size), stride));
            });
        }
        check(layout(size));
        group.finish();
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
