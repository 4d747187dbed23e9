//! The child: one measurement, on one allocator, reported as JSON on stdout.

use std::ffi::{CStr, c_char};
use std::fs;
use std::mem::transmute;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::cases::{self, Outcome, Scale};
use crate::measure::Cost;
use crate::memory::{Baseline, Malloc, Mapped, Memory};
use crate::report::work::Detail;
use crate::seed;
use crate::traps::space::Space;

/// One measurement
#[derive(clap::Args)]
pub struct Arguments {
    /// The case's whole name
    #[arg(long)]
    case: String,
    /// How large
    #[arg(long)]
    scale: Scale,
    #[command(flatten)]
    provider: Provider,
}

/// Where the memory comes from
#[derive(clap::Args)]
pub struct Provider {
    /// A baseline instead of malloc
    #[arg(long)]
    baseline: Option<Baseline>,
    /// The library that malloc must come from
    #[arg(long)]
    library: Option<PathBuf>,
    /// The byte that malloc promises
    #[arg(long)]
    promise: Option<u8>,
    /// Seconds until this process gives up
    #[arg(long)]
    timeout: u32,
    /// What chance comes from
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

impl Provider {
    /// The memory, once it is certain that it is what was asked for. From here on the process has its time limit.
    pub fn memory(&self) -> Result<Box<dyn Memory>> {
        Ok(match self.baseline {
            Some(baseline) => {
                self.begin()?;
                Box::new(Mapped::new(baseline))
            }
            None => Box::new(self.malloc()?),
        })
    }

    /// The same where no baseline can be asked for.
    pub fn malloc(&self) -> Result<Malloc> {
        self.begin()?;
        if self.baseline.is_some() {
            bail!("only an allocator can do this, not a baseline");
        }
        Ok(Malloc { promise: self.promise })
    }

    fn begin(&self) -> Result<()> {
        // SAFETY: alarm only sets a timer, whose signal ends this process.
        unsafe { libc::alarm(self.timeout) };
        seed::set(self.seed);
        check_provider(self.library.as_deref())
    }
}

/// What the child reports.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measured {
    /// What the measured part cost.
    #[serde(flatten)]
    pub cost: Cost,
    /// How many operations it consisted of.
    pub operations: usize,
    /// How many bytes were compared with what they should be.
    pub checked_bytes: u64,
    /// The service that refpage took.
    pub service: Option<String>,
    /// What was done, as a hash of what chance chose, or of what came out: the same under every allocator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub work: Option<String>,
    /// Resident set a while after everything was freed, in KiB, where that was waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decayed_kib: Option<u64>,
    /// What became of the address space, where that was looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub space: Option<Space>,
    /// What there is to tell besides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<Detail>,
}

impl Measured {
    /// What came of a case.
    pub fn new(Outcome { cost, operations, checked_bytes }: Outcome) -> Self {
        Self {
            cost,
            operations,
            checked_bytes,
            service: None,
            work: None,
            decayed_kib: None,
            space: None,
            detail: None,
        }
    }

    /// The same, of this process: with its service, and the work that was noted in it.
    pub fn here(outcome: Outcome) -> Self {
        Self { service: service(), work: Some(seed::noted()), ..Self::new(outcome) }
    }
}

/// Measures, checks and reports.
pub fn run(arguments: &Arguments) -> Result<()> {
    let memory = arguments.provider.memory()?;
    let case =
        cases::with_shares(arguments.scale).into_iter().find(|case| case.name == arguments.case);
    let case = case.with_context(|| format!("no case is called {}", arguments.case))?;
    let measured = Measured::here(case.work.run(&*memory)?);
    println!("{}", serde_json::to_string(&measured)?);
    Ok(())
}

/// The loader goes on without a library that it cannot preload: that must not pass for a result.
fn check_provider(library: Option<&Path>) -> Result<()> {
    let provider = provider().context("the loader does not know whose malloc this is")?;
    let Some(library) = library else {
        let name = provider.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !name.starts_with("libc.so") && !name.starts_with("libc-") {
            bail!("malloc comes from {}, not from the C library", provider.display());
        }
        return Ok(());
    };
    let maps = fs::read_to_string("/proc/self/maps").context("/proc/self/maps")?;
    if !maps.lines().any(|line| line.ends_with(&*library.to_string_lossy())) {
        bail!("{} is not mapped: it was not preloaded", library.display());
    }
    if provider.canonicalize()? != library {
        bail!("malloc comes from {}, not from {}", provider.display(), library.display());
    }
    Ok(())
}

/// The file that this process's malloc is in.
pub fn provider() -> Option<PathBuf> {
    let malloc = symbol(c"malloc")?;
    // SAFETY: the structure is plain pointers, for which null is a valid value, and the name that
    // dladdr leaves in it belongs to the loader and stays.
    unsafe {
        let mut information: libc::Dl_info = std::mem::zeroed();
        let found = libc::dladdr(malloc, &mut information) != 0;
        let name = information.dli_fname;
        (found && !name.is_null()).then(|| CStr::from_ptr(name).to_string_lossy().as_ref().into())
    }
}

/// The service that refpage took in this process, if it is here.
pub fn service() -> Option<String> {
    answer(c"refpage_service")
}

/// How refpage has this process's pointers checked, if it is here.
pub fn tags() -> Option<String> {
    answer(c"refpage_tags")
}

/// What one of refpage's functions says that give a name.
fn answer(function: &CStr) -> Option<String> {
    let function = symbol(function)?;
    // SAFETY: refpage.h declares these functions so, and their strings are constant.
    unsafe {
        let function = transmute::<*mut libc::c_void, extern "C" fn() -> *const c_char>(function);
        Some(CStr::from_ptr(function()).to_string_lossy().into_owned())
    }
}

fn symbol(name: &CStr) -> Option<*mut libc::c_void> {
    // SAFETY: the name is a C string.
    let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    (!address.is_null()).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_was_not_preloaded_is_noticed() {
        let missing = check_provider(Some("/no/such/libmalloc.so".as_ref())).unwrap_err();
        assert!(missing.to_string().contains("not preloaded"), "{missing}");
    }

    #[test]
    fn this_process_has_the_c_librarys_malloc_unless_one_was_preloaded() {
        if std::env::var_os("LD_PRELOAD").is_none() {
            check_provider(None).unwrap();
            assert_eq!(service(), None);
        }
    }
}
