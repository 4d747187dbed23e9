//! What the loader will do with a program: it ignores LD_PRELOAD for a static one, a privileged one,
//! and one of another word size.

use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// `p_type` of the program headers that say what is mapped, and that name the dynamic loader.
const PT_LOAD: u32 = 1;
const PT_INTERP: u32 = 3;
/// The file header's size in a 64-bit ELF file.
const HEADER: usize = 64;

/// The file that `exec` will find, by its name or along PATH.
pub fn find(name: &OsStr) -> Option<PathBuf> {
    if name.as_bytes().contains(&b'/') {
        return Some(name.into());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(name)).find(|file| {
        file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.mode() & 0o111 != 0)
    })
}

/// Why the loader will ignore LD_PRELOAD for this file, or `None` if it will not, as far as can be
/// seen: a script is judged by its interpreter only when it is run.
pub fn ignores_preload(file: &Path) -> Option<&'static str> {
    if gains_privilege(file, &file.metadata().ok()?) {
        return Some("is setuid, setgid or has file capabilities");
    }
    match Linkage::of(&File::open(file).ok()?) {
        Linkage::Dynamic | Linkage::Unknown => None,
        Linkage::Static => Some("is statically linked"),
        Linkage::OtherWordSize => Some("is a 32-bit program"),
    }
}

/// Whether exec would set AT_SECURE: a change of identity, not the mode bit alone.
fn gains_privilege(file: &Path, metadata: &Metadata) -> bool {
    let (user, group) = (rustix::process::getuid(), rustix::process::getgid());
    let setuid = metadata.mode() & 0o4000 != 0 && metadata.uid() != user.as_raw();
    let setgid = metadata.mode() & 0o2000 != 0 && metadata.gid() != group.as_raw();
    let has_capabilities = || {
        rustix::fs::getxattr(file.as_os_str().as_bytes(), "security.capability", &mut [0u8; 64][..])
            .is_ok()
    };
    setuid || setgid || (!user.is_root() && has_capabilities())
}

/// How an executable comes to its libraries.
#[derive(Debug, PartialEq, Eq)]
enum Linkage {
    /// It names a dynamic loader.
    Dynamic,
    /// It is a 64-bit ELF file that names none.
    Static,
    /// It is an ELF file of 32 bits.
    OtherWordSize,
    /// It is no ELF file of this byte order, or cannot be read.
    Unknown,
}

impl Linkage {
    fn of(file: &File) -> Self {
        match segments(file) {
            Err(why) => why,
            Ok(segments) if segments.iter().any(|segment| segment.kind == PT_INTERP) => {
                Self::Dynamic
            }
            Ok(_) => Self::Static,
        }
    }
}

/// What a file's first byte would have for an address, as the file itself counts them: 0 unless it is to lie at a
/// certain place. `None` if it is no such file.
pub fn own_base(file: &File) -> Option<u64> {
    let segments = segments(file).ok()?;
    let first = segments.iter().find(|segment| segment.kind == PT_LOAD)?;
    first.address.checked_sub(first.offset)
}

/// What a program header says.
struct Segment {
    kind: u32,
    offset: u64,
    address: u64,
}

/// The program headers of a 64-bit ELF file, or what it is instead.
fn segments(file: &File) -> Result<Vec<Segment>, Linkage> {
    let mut header = [0; HEADER];
    let native = if cfg!(target_endian = "little") { 1 } else { 2 };
    if file.read_exact_at(&mut header, 0).is_err()
        || header[..4] != *b"\x7fELF"
        || header[5] != native
    {
        return Err(Linkage::Unknown);
    }
    if header[4] != 2 {
        return Err(Linkage::OtherWordSize);
    }
    let half = |at: usize| u64::from(u16::from_ne_bytes([header[at], header[at + 1]]));
    // e_phoff, e_phentsize and e_phnum of Elf64_Ehdr.
    let table = u64::from_ne_bytes(header[32..40].try_into().unwrap_or_default());
    let (entry_size, entries) = (half(54), half(56));
    let segment = |entry| {
        // p_type, p_flags, p_offset and p_vaddr of Elf64_Phdr.
        let mut start = [0; 24];
        let at = table.saturating_add(entry * entry_size);
        file.read_exact_at(&mut start, at).map_err(|_| Linkage::Unknown)?;
        let word = |at: usize| u64::from_ne_bytes(start[at..at + 8].try_into().unwrap_or_default());
        let kind = u32::from_ne_bytes(start[..4].try_into().unwrap_or_default());
        Ok(Segment { kind, offset: word(8), address: word(16) })
    };
    (0..entries).map(segment).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// A file with the given bytes and no name.
    fn file_of(bytes: &[u8]) -> File {
        let directory = std::env::temp_dir();
        let path = directory.join(format!("refpage-elf-{}-{:p}", std::process::id(), bytes));
        let mut file = File::options().create_new(true).read(true).write(true).open(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    /// A 64-bit header followed by program headers of the given types.
    fn elf(types: &[u32]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER];
        bytes[..4].copy_from_slice(b"\x7fELF");
        bytes[4] = 2;
        bytes[5] = if cfg!(target_endian = "little") { 1 } else { 2 };
        bytes[32..40].copy_from_slice(&(HEADER as u64).to_ne_bytes());
        bytes[54..56].copy_from_slice(&56u16.to_ne_bytes());
        bytes[56..58].copy_from_slice(&(types.len() as u16).to_ne_bytes());
        for kind in types {
            bytes.extend(kind.to_ne_bytes());
            bytes.extend([0; 52]);
        }
        bytes
    }

    #[test]
    fn a_program_that_names_no_loader_is_static() {
        assert_eq!(Linkage::of(&file_of(&elf(&[6, PT_INTERP, 1]))), Linkage::Dynamic);
        assert_eq!(Linkage::of(&file_of(&elf(&[1, 2]))), Linkage::Static);
    }

    #[test]
    fn another_word_size_is_told_from_a_static_program() {
        let mut bytes = elf(&[1]);
        bytes[4] = 1;
        assert_eq!(Linkage::of(&file_of(&bytes)), Linkage::OtherWordSize);
    }

    #[test]
    fn a_file_for_a_certain_place_counts_from_there() {
        let mut bytes = elf(&[6, 1, 1]);
        for (segment, offset, address) in [(1, 0u64, 0x40_0000u64), (2, 0x1000, 0x40_3000)] {
            let at = HEADER + segment * 56;
            bytes[at + 8..at + 16].copy_from_slice(&offset.to_ne_bytes());
            bytes[at + 16..at + 24].copy_from_slice(&address.to_ne_bytes());
        }
        assert_eq!(own_base(&file_of(&bytes)), Some(0x40_0000));
        assert_eq!(own_base(&file_of(b"#!/bin/sh\n")), None);
    }

    #[test]
    fn scripts_and_broken_files_are_not_judged() {
        assert_eq!(Linkage::of(&file_of(b"#!/bin/sh\n")), Linkage::Unknown);
        assert_eq!(Linkage::of(&file_of(&[])), Linkage::Unknown);
        assert_eq!(Linkage::of(&file_of(&elf(&[1, 1])[..HEADER])), Linkage::Unknown);
    }

    #[test]
    fn this_test_is_dynamically_linked_or_nothing_can_be_said() {
        let own = File::open("/proc/self/exe").unwrap();
        assert_eq!(Linkage::of(&own) == Linkage::Static, cfg!(target_feature = "crt-static"));
    }
}
