//! The process's mappings, as /proc/self/maps has them.

use rustix::fs::OFlags;
use rustix::io::Result;
use rustix::mm::MprotectFlags;

use crate::sys::descriptor::Descriptor;
use crate::sys::report::Line;

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

/// A path that is longer is cut.
pub type Path = Line<512>;

/// One mapping, and which file it shows.
#[derive(Debug)]
struct Entry {
    mapping: Mapping,
    /// Where in the file it begins.
    offset: usize,
    /// Empty for what is no file's.
    path: Path,
}

/// Calls `tell` for each mapping, in order.
///
/// # Errors
/// What open or read said: a process that is not dumpable may not see its own.
pub fn each(mut tell: impl FnMut(Mapping)) -> Result<()> {
    each_entry(|entry| tell(entry.mapping))
}

fn each_entry(mut tell: impl FnMut(&Entry)) -> Result<()> {
    let maps = Descriptor::open(c"/proc/self/maps", OFlags::RDONLY)?;
    let mut entry = Entry { mapping: NONE, offset: 0, path: Path::new() };
    let mut field = 0;
    let mut buffer = [0u8; 1024];
    loop {
        let read = rustix::io::read(&maps, &mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        // "start-end rwxp offset device inode    path"
        for &byte in buffer.get(..read).unwrap_or_default() {
            let mapping = &mut entry.mapping;
            match (byte, field) {
                (b'\n', _) => {
                    tell(&entry);
                    (entry.mapping, entry.offset, field) = (NONE, 0, 0);
                    entry.path.clear();
                }
                (b'-', 0) | (b' ', 1..=5) => field += 1,
                (b' ', 6) => {}
                (_, 6) => {
                    field += 1;
                    entry.path.push(&[byte]);
                }
                (byte, 7) => entry.path.push(&[byte]),
                (digit, 0) => mapping.start = mapping.start << 4 | hex(digit),
                (digit, 1) => mapping.end = mapping.end << 4 | hex(digit),
                (b'r', 2) => mapping.access |= MprotectFlags::READ,
                (b'w', 2) => mapping.access |= MprotectFlags::WRITE,
                (b'x', 2) => mapping.access |= MprotectFlags::EXEC,
                (digit, 3) => entry.offset = entry.offset << 4 | hex(digit),
                _ => {}
            }
        }
    }
}

/// A file's mappings around an address: those that follow one of its beginning.
#[derive(Debug)]
pub struct Module {
    /// Where the file's beginning is mapped.
    pub base: usize,
    /// Behind the mapping that holds the address.
    pub end: usize,
    /// The file, as the kernel names it.
    pub path: Path,
}

/// The file that is mapped at an address; none if there is none, or it cannot be found out.
pub fn module_at(address: usize) -> Option<Module> {
    let mut module = Module { base: 0, end: 0, path: Path::new() };
    let mut found = false;
    let told = each_entry(|entry| {
        if found || entry.path.as_bytes().is_empty() {
            return;
        }
        if entry.offset == 0
            && (module.base == 0 || module.path.as_bytes() != entry.path.as_bytes())
        {
            module.base = entry.mapping.start;
            module.path.clear();
            module.path.push(entry.path.as_bytes());
        }
        if (entry.mapping.start..entry.mapping.end).contains(&address)
            && module.path.as_bytes() == entry.path.as_bytes()
        {
            module.end = entry.mapping.end;
            found = true;
        }
    });
    told.ok()?;
    found.then_some(module)
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
    fn code_is_its_files() {
        let code = module_at as fn(usize) -> _ as usize;
        let module = module_at(code).expect("the test's own file");
        let path = std::env::current_exe().expect("its path");
        assert_eq!(module.path.as_bytes(), path.as_os_str().as_encoded_bytes());
        assert!((module.base..module.end).contains(&code));
        // SAFETY: a file that is mapped to be run begins with its header.
        assert_eq!(unsafe { *(module.base as *const [u8; 4]) }, *b"\x7fELF");
        assert!(module_at(1).is_none());
    }

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
