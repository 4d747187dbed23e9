//! The heap's beginning: made by the first allocation, which may come from inside the dynamic
//! linker, before libc has an environment.

use core::cell::UnsafeCell;
use core::ffi::{CStr, c_void};
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicI64, AtomicU8, AtomicU32, AtomicU64, Ordering};

use refpage::sys::descriptor::Descriptor;
use refpage::sys::errno::name;
use refpage::sys::lock::Mutex;
use refpage::sys::report::warn;
use refpage::sys::vm::{self, Tags};
use refpage::{Config, Engine, Failure, Reason, Region, Service};
use rustix::fs::OFlags;
use rustix::io::{Errno, Result};

use crate::beacon;
use crate::cache::RunCache;
use crate::chance::Chance;
use crate::depot::Depot;
use crate::exit;
use crate::faults;
use crate::fork::{self, Inside};
use crate::heap::{self, Heap};
use crate::large::Large;
use crate::options::{Options, ServiceChoice};
use crate::page_map::{PageMap, SLOT};
use crate::profile;
use crate::spans::Spans;
use crate::tags;
use crate::thread_cache::CachePool;
use crate::threads;
use crate::traces;

/// The Region is reserved as large as it can be, from here down to [`SMALLEST`], by halves.
const LARGEST: usize = 1 << 40;
const SMALLEST: usize = 4 << 20;

/// A Region that is smaller gives up the service `lazy`, if that makes it larger.
const MODEST: usize = 64 << 20;

/// Huge pages are 2 MiB: the Region begins and ends at a border of theirs.
const REGION_ALIGN: usize = 2 << 20;

const NONE: u8 = 0;
const READY: u8 = 1;
const FAILED: u8 = 2;

struct Place(UnsafeCell<MaybeUninit<Heap>>);

// SAFETY: written once, under START, before STATE says that it may be read; shared after that.
unsafe impl Sync for Place {}

static HEAP: Place = Place(UnsafeCell::new(MaybeUninit::uninit()));
static STATE: AtomicU8 = AtomicU8::new(NONE);
static START: Mutex<()> = Mutex::new(());
/// Wider than a key, whose type is signed in some C libraries; the first value is none.
static THREAD_KEY: AtomicI64 = AtomicI64::new(i64::MIN);

/// What a [`RefPage`](crate::RefPage) asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Defaults {
    /// What holds unless the environment says otherwise.
    pub options: Options,
    /// Where in the environment.
    pub variable: &'static str,
}

impl Defaults {
    pub const fn new(options: Options) -> Self {
        Self { options, variable: "REFPAGE_OPTIONS" }
    }
}

static DEFAULTS: Mutex<Defaults> = Mutex::new(Defaults::new(Options::new()));

/// The heap, for those who hold a block of it.
#[inline]
pub(crate) fn heap() -> &'static Heap {
    // SAFETY: whoever has a block or a cache got it from a heap that was written before.
    unsafe { (*HEAP.0.get()).assume_init_ref() }
}

/// The heap, if it has started.
#[inline]
pub(crate) fn try_heap() -> Option<&'static Heap> {
    (STATE.load(Ordering::Acquire) == READY).then(heap)
}

/// The heap, started if need be. None if the process has no address space for one.
pub(crate) fn started() -> Option<&'static Heap> {
    try_heap().or_else(start)
}

/// For a heap that has not started: false if it has.
pub(crate) fn set_defaults(defaults: Defaults) -> bool {
    *DEFAULTS.lock() = defaults;
    STATE.load(Ordering::Acquire) == NONE
}

/// The heap at a fork. None if there is none; then none starts before [`fork_over`] is called.
pub(crate) fn heap_to_fork() -> Option<&'static Heap> {
    try_heap().or_else(|| {
        START.acquire();
        let heap = try_heap();
        if heap.is_some() {
            // SAFETY: taken above.
            unsafe { START.release() };
        }
        heap
    })
}

/// # Safety
/// [`heap_to_fork`] has told this thread, or the one that it is the image of, that there is none.
pub(crate) unsafe fn fork_over() {
    // SAFETY: taken there.
    unsafe { START.release() };
}

#[cold]
fn start() -> Option<&'static Heap> {
    let guard = START.lock();
    match STATE.load(Ordering::Acquire) {
        READY => return Some(heap()),
        FAILED => return None,
        _ => {}
    }
    vm::find_vdso();
    let Defaults { mut options, variable } = *DEFAULTS.lock();
    read_environment(variable, &mut options);
    let tags = tags::start(&options);
    match make(&options, tags) {
        Ok(heap) => {
            // SAFETY: START is held and STATE is NONE: nobody reads or writes the place.
            unsafe { (*HEAP.0.get()).write(heap) };
        }
        Err(errno) => {
            warn(format_args!(
                "no room for a heap of {SMALLEST} bytes: {} ({}); every malloc will fail. Raise \
                 RLIMIT_AS (ulimit -v), RLIMIT_DATA, vm.max_map_count or the overcommit limit",
                name(errno),
                errno.raw_os_error()
            ));
            STATE.store(FAILED, Ordering::Release);
            return None;
        }
    }
    // SAFETY: written just above, and never again.
    let heap: &'static Heap = unsafe { (*HEAP.0.get()).assume_init_ref() };
    fork::settled(heap);
    traces::start(&options);
    profile::start(&options, heap.map.slots());
    heap.engine.launch();
    beacon::light(heap);
    tell_of_a_lesser_service(heap);
    STATE.store(READY, Ordering::Release);
    heap::FAST.open(heap);
    drop(guard);
    Inside::call_out(|| hook_into_libc(&options));
    Some(heap)
}

fn make(options: &Options, tags: Tags) -> Result<Heap> {
    let mut config = Config {
        service: match options.service {
            // `launch` says so if it has to take less.
            ServiceChoice::Auto => None,
            ServiceChoice::Lazy => Some(Service::Lazy),
            ServiceChoice::Cow => Some(Service::Cow),
            ServiceChoice::Eager => Some(Service::Eager),
            ServiceChoice::Memset => Some(Service::Memset),
            ServiceChoice::Off => Some(Service::Off),
        },
        pattern: options.pattern,
        // Every process would hold this much back from the others.
        pool: if vm::reserving_costs() { options.pool.min(SMALLEST) } else { options.pool },
        pool_low: options.pool_low,
    };
    let largest = match (options.region, vm::address_space_limit()) {
        (0, None) => LARGEST,
        // The limit counts what is reserved, and the program maps things too.
        (0, Some(limit)) => ((limit / 2).min(LARGEST as u64) as usize).max(SMALLEST),
        (region, _) => region,
    };
    let asked = config.service;
    let supplied =
        |config: &Config| !matches!(config.service, Some(Service::Memset | Service::Off));
    if supplied(&config) && vm::data_limit().is_some_and(|limit| limit < MODEST as u64) {
        config.service = Some(Service::Memset);
    }
    let mut wanted = largest;
    loop {
        wanted = (wanted / REGION_ALIGN * REGION_ALIGN).max(SMALLEST);
        // What a fault handler needs is not to be had at the price of most of the heap.
        let least = if supplied(&config) { MODEST.min(largest / 2) } else { SMALLEST };
        match make_with(wanted, &config, options, tags) {
            Ok(heap) => {
                if config.service != asked {
                    let step = "cannot map what a fault handler needs";
                    heap.engine.explain(Reason::Failed(Failure { step, errno: Errno::NOMEM }));
                }
                return Ok(heap);
            }
            // AGAIN is madvise's word for too many mappings.
            Err(Errno::NOMEM | Errno::AGAIN) if wanted > least.max(SMALLEST) => wanted /= 2,
            Err(Errno::NOMEM | Errno::AGAIN) if supplied(&config) => {
                config.service = Some(Service::Memset);
                wanted = largest;
            }
            Err(errno) => return Err(errno),
        }
    }
}

fn make_with(len: usize, config: &Config, options: &Options, tags: Tags) -> Result<Heap> {
    let region = Region::reserve_as(len, REGION_ALIGN, tags)?;
    let map = PageMap::reserve(&region)?;
    let cache = RunCache::new(&map, &region, options);
    // A thread for each slot, within reason.
    let caches = CachePool::reserve((len / SLOT).clamp(64, 16 << 10))?;
    let shared = caches.take().ok_or(Errno::NOMEM)? as usize;
    let engine = Engine::new(region, config, &heap::PROCESS)?;
    Ok(Heap {
        engine,
        map,
        cache,
        large: Large::new(),
        spans: Spans::new(),
        depot: Depot::reserve()?,
        caches,
        shared: Mutex::new(shared),
        options: *options,
        chance: Chance::new(),
        last_sweep: AtomicU64::new(0),
        sweeps: AtomicU32::new(0),
        fork_word: vm::ForkWord::map()?,
    })
}

/// One line if the service is less than what was asked for, or the least: without privilege, `cow`
/// and `eager` are what is to be had, and nothing to complain about at the start of every program. The
/// beacon says it in any case.
pub(crate) fn tell_of_a_lesser_service(heap: &Heap) {
    beacon::say_why(heap);
    let (wanted, service) = (heap.options.service, heap.engine.offered());
    let less = match wanted {
        ServiceChoice::Auto => service == Service::Memset,
        asked => service.as_str() != asked.as_str(),
    };
    if less {
        warn(format_args!(
            "service {0} instead of {1}: {2}; `refpage doctor` tells more, \
             service={0} in REFPAGE_OPTIONS asks for it",
            service.as_str(),
            if wanted == ServiceChoice::Auto { "a lazy one" } else { wanted.as_str() },
            heap.engine.reasons(),
        ));
    }
}

fn hook_into_libc(options: &Options) {
    fork::hook();
    if tags::on() {
        faults::install();
    }
    let mut key: libc::pthread_key_t = 0;
    // SAFETY: the function is given what it asks for, and the callback lives for ever. A
    // process that has all its keys in use does without the cleaning up at thread end.
    unsafe {
        if libc::pthread_key_create(&mut key, Some(end_of_thread)) == 0 {
            THREAD_KEY.store(key.into(), Ordering::Release);
        }
    }
    exit::register(options);
}

unsafe extern "C" fn end_of_thread(cache: *mut c_void) {
    threads::end(cache);
}

/// Has [`threads::end`] called with `cache` when this thread ends.
pub(crate) fn watch_thread_end(cache: *mut c_void) {
    if let Ok(key) = libc::pthread_key_t::try_from(THREAD_KEY.load(Ordering::Acquire)) {
        // SAFETY: the key was made by `hook_into_libc`.
        Inside::call_out(|| unsafe { libc::pthread_setspecific(key, cache) });
    }
}

/// To be called before memory is handed out whose pages may be missing: the fault handler is
/// started if need be.
#[inline]
pub(crate) fn wake_handler() {
    let heap = heap();
    if !heap.engine.wake() {
        tell_of_a_lesser_service(heap);
    }
}

/// Applies the variable, unless the process runs with more rights than its caller.
fn read_environment(variable: &str, options: &mut Options) {
    // SAFETY: getauxval has no precondition.
    if unsafe { libc::getauxval(libc::AT_SECURE) } != 0 {
        return;
    }
    let mut apply = |entry: &[u8]| {
        let value = entry.strip_prefix(variable.as_bytes());
        if let Some(value) = value.and_then(|rest| rest.strip_prefix(b"=")) {
            options.apply(value, &mut |error| {
                warn(format_args!("ignored in {variable}: {error}"));
            });
        }
    };
    unsafe extern "C" {
        static environ: *const *const libc::c_char;
    }
    // SAFETY: libc's variable; null until libc has started.
    let mut entry = unsafe { environ };
    if entry.is_null() {
        read_kernel_environment(&mut apply);
        return;
    }
    loop {
        // SAFETY: the array ends with a null, which is where this loop ends.
        let text = unsafe { *entry };
        if text.is_null() {
            return;
        }
        // SAFETY: entries before the null are strings.
        apply(unsafe { CStr::from_ptr(text) }.to_bytes());
        // SAFETY: not past the null.
        entry = unsafe { entry.add(1) };
    }
}

/// Inside the dynamic linker, before libc has an environment: from the kernel's copy of it.
fn read_kernel_environment(apply: &mut dyn FnMut(&[u8])) {
    let Ok(file) = Descriptor::open(c"/proc/self/environ", OFlags::RDONLY) else { return };
    // Read through a window: entries longer than it are none of ours.
    let mut window = [0u8; 4096];
    let mut filled = 0;
    loop {
        let room = window.get_mut(filled..).unwrap_or_default();
        let read = rustix::io::read(&file, room).unwrap_or(0);
        filled += read;
        let held = window.get(..filled).unwrap_or_default();
        let mut used = 0;
        for entry in held.split_inclusive(|&byte| byte == 0) {
            if entry.last() != Some(&0) && read != 0 && filled < window.len() {
                break;
            }
            used += entry.len();
            apply(entry.strip_suffix(b"\0").unwrap_or(entry));
        }
        if read == 0 {
            return;
        }
        window.copy_within(used..filled, 0);
        filled -= used;
    }
}
