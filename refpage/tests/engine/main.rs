//! The engine without an allocator: faults, moves, recycling, limits of what may be moved.

mod compact;
mod lazy;
mod tagged;
mod without_faults;

use refpage::sys::vm::Tags;
use refpage::{Config, Engine, Pages, Pattern, Region, RunWindow, Runs, Service, probe_channel};

const PATTERN: u8 = 0xAA;
/// What the tests have room for, in OS pages of any size.
const PAGES: usize = 16384;

/// The whole Region is one run.
#[derive(Debug, Default)]
struct OneRun(RunWindow);

impl Runs for OneRun {
    fn run_at(&self, _: usize) -> Option<&RunWindow> {
        Some(&self.0)
    }
    fn purge(&self, _: u64) -> Option<u64> {
        None
    }
}

struct Fixture {
    engine: &'static Engine,
    run: &'static OneRun,
}

impl Fixture {
    fn new(service: Service) -> Self {
        Self::with_region(service, PAGES * refpage::sys::vm::page_size())
    }

    fn with_region(service: Service, len: usize) -> Self {
        Self::over(service, Region::reserve(len, 2 << 20).expect("address space"))
    }

    fn with_tags(service: Service, tags: Tags) -> Self {
        let len = PAGES * refpage::sys::vm::page_size();
        Self::over(service, Region::reserve_as(len, 2 << 20, tags).expect("address space"))
    }

    fn over(service: Service, region: Region) -> Self {
        let run: &'static OneRun = Box::leak(Box::default());
        let config = Config {
            service: Some(service),
            pattern: Pattern::byte(PATTERN),
            pool: PAGES / 4 * refpage::sys::vm::page_size(),
            pool_low: 0,
        };
        let engine: &'static Engine =
            Box::leak(Box::new(Engine::new(region, &config, run).expect("address space")));
        engine.launch();
        assert!(engine.wake(), "{:?}", engine.reasons());
        let fixture = Self { engine, run };
        fixture.open(0);
        fixture
    }

    /// A fixture of `lazy`, or the printed reason why there is none.
    fn lazy() -> Option<Self> {
        let (channel, attempts) = probe_channel();
        match channel {
            Some((_, features)) if features.has_move() => Some(Self::new(Service::Lazy)),
            Some(_) => {
                eprintln!("skipped: this kernel cannot move pages");
                None
            }
            None => {
                eprintln!("skipped: no userfaultfd ({attempts})");
                None
            }
        }
    }

    /// The engine, at rest. A thread whose page comes before it has gone to sleep does not wait for
    /// the rest of its answer, so what it asks next may come between.
    fn engine(&self) -> &'static Engine {
        self.engine.let_handler_finish(self.all());
        self.engine
    }

    /// The pages of the 2 MiB block at `index`.
    fn block(&self, index: usize) -> Pages {
        let count = self.engine.pages_per_block();
        Pages { first: index * count, count }
    }

    fn open(&self, zero: usize) {
        let pages = self.all();
        self.run.0.open(pages, zero, 1);
    }

    fn all(&self) -> Pages {
        self.engine.region().present().all()
    }

    fn page_bytes(&self) -> usize {
        1 << self.engine.region().page_shift()
    }

    fn bytes(&self, pages: Pages) -> &'static mut [u8] {
        let start = self.engine.region().address(pages.first);
        // SAFETY: the pages lie in the Region, which lives for ever, and each test is their only
        // user.
        unsafe { std::slice::from_raw_parts_mut(start, pages.count * self.page_bytes()) }
    }

    fn assert_all(&self, pages: Pages, value: u8) {
        assert_eq!(self.bytes(pages).iter().position(|&byte| byte != value), None);
    }
}
