//! What it costs to fill a page: tried out as the process exits, on memory of its own.

use refpage::sys::vm;

use super::tally::Sum;

/// Bytes that are filled: enough for the clock, and about a millisecond.
const LEN: usize = 4 << 20;

/// Times that it is tried: the median counts.
const TIMES: usize = 3;

/// Nanoseconds of CPU time for a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prices {
    /// That the kernel has yet to put in place.
    pub fresh: u64,
    /// That is there.
    pub warm: u64,
}

impl Prices {
    /// Those of this moment; none without memory to try it on.
    pub fn now() -> Option<Self> {
        let (mut fresh, mut warm) = ([0; TIMES], [0; TIMES]);
        for (fresh, warm) in fresh.iter_mut().zip(&mut warm) {
            let start = vm::reserve(LEN, vm::page_size()).ok()?;
            // SAFETY: the mapping made above, which nobody else knows.
            [*fresh, *warm] = [0xaa, 0x55].map(|byte| unsafe { fill(start, byte) });
            // SAFETY: the same; nobody uses it any more.
            unsafe { vm::unmap(start, LEN) };
        }
        fresh.sort_unstable();
        warm.sort_unstable();
        Some(Self { fresh: fresh[TIMES / 2], warm: warm[TIMES / 2] })
    }

    /// Microseconds for so many pages of either kind.
    fn us(self, fresh: u64, warm: u64) -> u64 {
        let ns = (u128::from(fresh) * u128::from(self.fresh))
            .saturating_add(u128::from(warm) * u128::from(self.warm));
        (ns / 1000).try_into().unwrap_or(u64::MAX)
    }
}

/// Fills a mapping page by page: nanoseconds of CPU time for each.
///
/// # Safety
/// It is [`LEN`] bytes long, and nobody else uses it.
unsafe fn fill(start: *mut u8, byte: u8) -> u64 {
    let page = vm::page_size();
    let before = vm::thread_cpu_ns();
    for at in (0..LEN).step_by(page) {
        // SAFETY: the caller's promise.
        unsafe { core::hint::black_box(start.add(at)).write_bytes(byte, page) };
    }
    (vm::thread_cpu_ns() - before) / (LEN / page) as u64
}

/// Pages that are filled for large mallocs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filled {
    /// The first time.
    pub fresh: u64,
    /// Once more.
    pub warm: u64,
}

impl Filled {
    /// All of them.
    pub fn pages(self) -> u64 {
        self.fresh.saturating_add(self.warm)
    }

    /// What it takes at these prices, in microseconds.
    pub fn us(self, prices: Prices) -> u64 {
        prices.us(self.fresh, self.warm)
    }

    /// What memset at each malloc would have filled.
    pub fn by_memset(malloc: &Sum, calloc: &Sum, page_bytes: u64) -> Self {
        let warm = malloc.bytes_recycled;
        let bytes = memset_bytes(malloc, calloc);
        Self {
            fresh: (bytes - warm.min(bytes)).div_ceil(page_bytes),
            warm: warm.div_ceil(page_bytes),
        }
    }

    /// What was put in place for them, and restored when they were freed.
    pub fn by_refpage(malloc: &Sum) -> Self {
        Self {
            fresh: malloc.pages_present.saturating_sub(malloc.pages_kept),
            warm: malloc.pages_present.saturating_sub(malloc.live_pages_present),
        }
    }
}

/// Bytes that memset would have written: of mallocs, and what realloc added.
pub fn memset_bytes(malloc: &Sum, calloc: &Sum) -> u64 {
    malloc.bytes_asked.saturating_add(calloc.bytes_grown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filling_a_page_takes_time() {
        let prices = Prices::now().expect("memory");
        assert!(prices.fresh > 0 && prices.warm > 0, "{prices:?}");
    }

    #[test]
    fn what_is_filled_follows_from_the_counts() {
        let malloc = Sum {
            bytes_asked: 10 << 20,
            bytes_recycled: 4 << 20,
            pages_present: 300,
            pages_kept: 100,
            live_pages_present: 50,
            ..Sum::default()
        };
        let calloc = Sum { bytes_grown: 4096, ..Sum::default() };
        let memset = Filled::by_memset(&malloc, &calloc, 4096);
        assert_eq!(memset, Filled { fresh: 6 * 256 + 1, warm: 4 * 256 });
        let refpage = Filled::by_refpage(&malloc);
        assert_eq!(refpage, Filled { fresh: 200, warm: 250 });
        assert_eq!(refpage.us(Prices { fresh: 500, warm: 100 }), 125);
    }
}
