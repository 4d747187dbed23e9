//! Where allocators' libraries lie on a system.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

/// The library of an allocator in the system's directories, by its possible names without `lib` and
/// the ending.
pub fn installed(stems: &[&str]) -> Option<PathBuf> {
    let directories = library_directories();
    stems.iter().find_map(|stem| {
        directories.iter().find_map(|directory| {
            let mut found: Vec<PathBuf> = entries(directory)
                .filter(|p| p.file_name().is_some_and(|f| is_library(f.to_os_string(), stem)))
                .collect();
            found.sort();
            found.pop()
        })
    })
}

/// Whether `file` is `lib<stem>.so`, one with a version behind, or one with the machine in between.
fn is_library(file: OsString, stem: &str) -> bool {
    let file = file.to_string_lossy();
    let Some(rest) = file.strip_prefix("lib").and_then(|f| f.strip_prefix(stem)) else {
        return false;
    };
    let machine = format!("-{}", std::env::consts::ARCH);
    let rest = rest.strip_prefix(&machine).unwrap_or(rest);
    rest == ".so" || rest.starts_with(".so.")
}

fn entries(directory: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(directory).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()))
}

fn library_directories() -> Vec<PathBuf> {
    let triplet = format!("{}-linux-gnu", std::env::consts::ARCH);
    let mut directories: Vec<PathBuf> = Vec::new();
    for base in ["/usr/local/lib", "/usr/lib", "/lib", "/usr/lib64"] {
        directories.extend([Path::new(base).join(&triplet), base.into()]);
    }
    // LLVM keeps its runtimes, Scudo among them, at <llvm>/lib/clang/<version>/lib/<system>. The
    // newest LLVM first.
    let mut llvms: Vec<PathBuf> =
        entries("/usr/lib".as_ref()).filter(|p| p.to_string_lossy().contains("/llvm-")).collect();
    llvms.sort();
    for llvm in llvms.iter().rev() {
        for version in entries(&llvm.join("lib/clang")) {
            directories.extend(entries(&version.join("lib")));
        }
    }
    directories
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_allocator_itself_counts_as_its_library() {
        for file in ["libjemalloc.so", "libjemalloc.so.2"] {
            assert!(is_library(file.into(), "jemalloc"), "{file}");
        }
        for file in ["libjemalloc.a", "libjemalloc_pic.so", "jemalloc.so"] {
            assert!(!is_library(file.into(), "jemalloc"), "{file}");
        }
        assert!(!is_library("libmimalloc-secure.so.2".into(), "mimalloc"));
        let scudo = format!("libclang_rt.scudo_standalone-{}.so", std::env::consts::ARCH);
        assert!(is_library(scudo.into(), "clang_rt.scudo_standalone"));
    }
}
