//! Swap space for the time of a test, in compressed memory: a device of its own, so that nobody else's is in the way.

use std::ffi::CString;
use std::fs;
use std::process::Command;
use std::sync::{Arc, Mutex, Weak};

use super::{confine::is_root, have, run, skipped};

/// It is there as long as one of the tests that run at the same time holds on to it.
#[derive(Debug)]
pub struct Swap {
    /// The number of the device.
    zram: u32,
}

const CONTROL: &str = "/sys/class/zram-control";

impl Swap {
    /// None, and said so, where there can be none.
    pub fn on() -> Option<Arc<Self>> {
        static SHARED: Mutex<Weak<Swap>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let swap = match shared.upgrade() {
            Some(swap) => swap,
            None => Arc::new(Self::make()?),
        };
        *shared = Arc::downgrade(&swap);
        Some(swap)
    }

    fn make() -> Option<Self> {
        if !is_root("have memory swapped out") || !have("mkswap") {
            return None;
        }
        let added = fs::read_to_string(format!("{CONTROL}/hot_add"));
        let Some(zram) = added.as_ref().ok().and_then(|number| number.trim().parse().ok()) else {
            skipped(format_args!("no device to swap to: zram-control says {added:?}"));
            return None;
        };
        // From here on it is taken down again whatever happens.
        let swap = Self { zram };
        let size = fs::write(format!("/sys/block/zram{zram}/disksize"), "128M");
        if size.is_err() || !std::path::Path::new(&swap.device()).exists() {
            skipped(format_args!("{} cannot be used: {size:?}", swap.device()));
            return None;
        }
        run(Command::new("mkswap").arg(swap.device())).expect_success();
        // SAFETY: the path is a string.
        if unsafe { libc::swapon(swap.path().as_ptr(), 0) } != 0 {
            skipped(format_args!("no swapping here: {}", std::io::Error::last_os_error()));
            return None;
        }
        Some(swap)
    }

    fn device(&self) -> String {
        format!("/dev/zram{}", self.zram)
    }

    fn path(&self) -> CString {
        CString::new(self.device()).expect("a path without a NUL")
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        // SAFETY: the path is a string. That it is no swap space, after a failure above, is told and does no harm.
        unsafe { libc::swapoff(self.path().as_ptr()) };
        let reset = fs::write(format!("/sys/block/zram{}/reset", self.zram), "1");
        let removed =
            reset.and_then(|()| fs::write(format!("{CONTROL}/hot_remove"), self.zram.to_string()));
        if let Err(error) = removed {
            skipped(format_args!("{} stays: {error}", self.device()));
        }
    }
}
