//! The process's mappings, as /proc/self/maps has them.

use rustix::fs::OFlags;
use rustix::io::Result;
use rustix::mm::MprotectFlags;

use crate::sys::descriptor::Descriptor;

/// One mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Its first address.
    pub start: usize,
    /// The address behind its last.
    pub end: usize,
    /// What may be done with it.
    pub access: MprotectFlags,
}

/// Calls `tell` for each mapping, in order.
///
/// # Errors
/// What open or read said: a process that is not dumpable may not see its own.
pub fn each(mut tell: impl FnMut(Mapping)) -> Result<()> {
    let maps = Descriptor::open(c"/proc/self/maps", OFlags::RDONLY)?;
    let (mut mapping, mut field) = (NONE, 0);
    let mut buffer = [0u8; 1024];
    loop {
        let read = rustix::io::read(&maps, &mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        // "start-end rwxp offset …"
        for &byte in buffer.get(..read).unwrap_or_default() {
            match (byte, field) {
                (b'\n', _) => (mapping, field) = (NONE, 0),
                (b'-', 0) | (b' ', 1) => field += 1,
                (b' ', 2) => {
                    tell(mapping);
                    field += 1;
                }
                (digit, 0) => mapping.start = mapping.start << 4 | hex(digit),
                (digit, 1) => mapping.end = mapping.end << 4 | hex(digit),
                (b'r', 2) => mapping.access |= MprotectFlags::READ,
                (b'w', 2) => mapping.access |= MprotectFlags::WRITE,
                (b'x', 2) => mapping.access |= MprotectFlags::EXEC,
                _ => {}
            }
        }
    }
}

/// What may be done with the memory at an address; none if that cannot be found out.
pub fn access_at(address: usize) -> Option<MprotectFlags> {
    let mut access = None;
    let told = each(|mapping| {
        if (mapping.start..mapping.end).contains(&address) {
            access = Some(mapping.access);
        }
    });
    told.ok().and(access)
}

const NONE: Mapping = Mapping { start: 0, end: 0, access: MprotectFlags::empty() };

fn hex(digit: u8) -> usize {
    char::from(digit).to_digit(16).unwrap_or(0) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::vm;

    #[test]
    fn mappings_are_told_apart_by_their_access() {
        let page = vm::page_size();
        let start = vm::reserve(3 * page, page).expect("address space");
        let second = start.wrapping_add(page);
        // SAFETY: the middle of the test's own memory.
        unsafe { rustix::mm::mprotect(second.cast(), page, MprotectFlags::READ) }.expect("its own");
        let writable = MprotectFlags::READ | MprotectFlags::WRITE;
        let found = [0, 1, 2].map(|at| access_at(start as usize + at * page + 5));
        assert_eq!(found, [Some(writable), Some(MprotectFlags::READ), Some(writable)]);
        assert_eq!(access_at(1), None);
        let code = access_at(access_at as fn(usize) -> _ as usize).expect("code");
        assert!(code.contains(MprotectFlags::EXEC) && !code.contains(MprotectFlags::WRITE));
        let mut last = 0;
        each(|mapping| {
            assert!(last <= mapping.start && mapping.start < mapping.end);
            last = mapping.end;
        })
        .expect("/proc");
        // SAFETY: reserved above.
        unsafe { vm::unmap(start, 3 * page) };
    }
}
