//! First touch of a 4,096,000-byte run, as in the reference-page patch's own benchmark.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use refpage::{Config, Engine, Pages, Pattern, Region, RunWindow, Runs, Service};
use refpage_bench::assert_all;

const PATTERN: u8 = 0xAA;
const RUN_BYTES: usize = 4_096_000;
/// Runs used one after the other before their pages are given back, outside the timed part.
const RUNS: usize = 32;

/// Runs of equal length, one behind the other.
struct Equal {
    pages_each: usize,
    windows: [RunWindow; RUNS],
}

impl Runs for Equal {
    fn run_at(&self, page: usize) -> Option<&RunWindow> {
        self.windows.get(page / self.pages_each)
    }
    fn purge(&self, _: u64) -> Option<u64> {
        None
    }
}

struct Bench {
    engine: &'static Engine,
    runs: &'static Equal,
    page_bytes: usize,
}

impl Bench {
    fn new(service: Service) -> Self {
        let region = Region::reserve(RUNS * (4 << 20), 2 << 20).expect("address space");
        let page_bytes = 1usize << region.page_shift();
        let runs: &'static Equal = Box::leak(Box::new(Equal {
            pages_each: (4 << 20) / page_bytes,
            windows: Default::default(),
        }));
        let config = Config {
            service: Some(service),
            pattern: Pattern::byte(PATTERN),
            pool: 16 << 20,
            pool_low: 0,
        };
        let engine: &'static Engine =
            Box::leak(Box::new(Engine::new(region, &config, runs).expect("address space")));
        engine.launch();
        assert!(engine.wake(), "{:?}", engine.reasons());
        Self { engine, runs, page_bytes }
    }

    fn run(&self, index: usize) -> Pages {
        let first = index * self.runs.pages_each;
        Pages { first, count: RUN_BYTES.div_ceil(self.page_bytes) }
    }

    /// Allocates the run, touches every `step`th page of it, checks what it touched.
    fn use_run(&self, index: usize, step: usize) -> Duration {
        let pages = self.run(index);
        self.runs.windows[index].open(pages, 0, 1);
        let expected = self.engine.content().pattern().map_or(0, |_| PATTERN);
        let start = Instant::now();
        self.engine.provide(pages);
        for page in (pages.first..pages.end()).step_by(step) {
            let byte = self.engine.region().address(page);
            // SAFETY: the page lies in the Region and this thread is its only user.
            unsafe {
                assert_eq!(byte.add(self.page_bytes - 1).read(), expected);
                byte.write(black_box(1));
            }
        }
        start.elapsed()
    }

    fn check_and_drop(&self, index: usize, step: usize) {
        let pages = self.run(index);
        let expected = self.engine.content().pattern().map_or(0, |_| PATTERN);
        for page in (pages.first..pages.end()).step_by(step) {
            let start = self.engine.region().address(page);
            // SAFETY: as above.
            let bytes = unsafe { std::slice::from_raw_parts(start, self.page_bytes) };
            assert_all(&bytes[1..], expected);
        }
        self.engine.drop_pages(pages);
    }
}

fn first_touch(c: &mut Criterion) {
    for (name, step) in [("every page", 1), ("every second page", 2), ("one page", 1000)] {
        let mut group = c.benchmark_group(format!("first touch, {name}"));
        let touched = RUN_BYTES.div_ceil(4096).div_ceil(step);
        group.throughput(Throughput::Elements(touched as u64));
        group.sample_size(10).measurement_time(Duration::from_secs(3));
        for service in [Service::Off, Service::Memset, Service::Lazy] {
            let bench = Bench::new(service);
            if bench.engine.service() != service {
                eprintln!("skipped: {}: {}", service.as_str(), bench.engine.reasons());
                continue;
            }
            group.bench_function(BenchmarkId::from_parameter(service.as_str()), |b| {
                b.iter_custom(|iterations| {
                    let mut spent = Duration::ZERO;
                    for i in 0..iterations {
                        let index = i as usize % RUNS;
                        spent += bench.use_run(index, step);
                        bench.check_and_drop(index, step);
                    }
                    spent
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, first_touch);
criterion_main!(benches);
