//! The guest's files: an archive that the kernel unpacks into memory.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::event::{Plan, plan_file};
use crate::suites::Built;
use crate::toolchain::Toolchain;

/// Makes the archive below `scratch`, with each of the plans under its number. Every file that was built lies where it
/// lies here, so that paths that tests were compiled with hold there too; process 1 is this program itself.
pub fn make(
    toolchain: &Toolchain,
    built: &Built,
    plans: &[Plan],
    scratch: &Path,
) -> Result<PathBuf> {
    let mut programs = vec![built.guest.clone(), built.doctor.clone()];
    programs.extend(built.suites.iter().map(|suite| suite.binary.clone()));
    programs.extend(built.programs.iter().cloned());
    let numbered = plans.iter().enumerate();
    let texts = numbered.map(|(number, plan)| Ok((plan_file(number), serde_json::to_vec(plan)?)));
    let texts = texts.collect::<Result<Vec<_>>>()?;
    let files = files(toolchain, programs, &built.guest)?;
    archive(&files, &texts, &built.scratch, scratch)
}

/// What a guest needs to run these programs, by the place where it is to have it; process 1 is `guest`.
pub fn files(
    toolchain: &Toolchain,
    programs: Vec<PathBuf>,
    guest: &Path,
) -> Result<BTreeMap<PathBuf, PathBuf>> {
    let mut files = toolchain.files(&programs)?;
    files.extend(programs.into_iter().map(|program| (program.clone(), program)));
    files.insert("/init".into(), guest.into());
    Ok(files)
}

/// Makes the archive of files and texts, and of a directory that every user may write to.
pub fn archive(
    files: &BTreeMap<PathBuf, PathBuf>,
    texts: &[(PathBuf, Vec<u8>)],
    writable: &Path,
    scratch: &Path,
) -> Result<PathBuf> {
    let root = scratch.join("root");
    for (place, file) in files {
        let copy = inside(&root, place);
        directory(copy.parent().expect("a file lies in a directory"), 0o755)?;
        fs::copy(file, &copy).with_context(|| format!("cannot copy {}", file.display()))?;
        fs::set_permissions(&copy, Permissions::from_mode(0o755))?;
    }
    for empty in ["/proc", "/sys", "/dev"] {
        directory(&inside(&root, empty.as_ref()), 0o755)?;
    }
    for writable in ["/tmp".as_ref(), writable] {
        let path = inside(&root, writable);
        directory(&path, 0o755)?;
        fs::set_permissions(&path, Permissions::from_mode(0o1777))?;
    }
    for (place, text) in texts {
        fs::write(inside(&root, place), text)?;
    }
    fs::set_permissions(&root, Permissions::from_mode(0o755))?;
    let archive = scratch.join("initramfs");
    pack(&root, &archive)?;
    fs::remove_dir_all(root)?;
    Ok(archive)
}

fn inside(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// A directory and all above it, whatever this process's umask.
fn directory(path: &Path, mode: u32) -> Result<()> {
    fs::DirBuilder::new().recursive(true).mode(mode).create(path)?;
    Ok(())
}

/// Packs a tree as the kernel wants it, with all files root's.
fn pack(root: &Path, archive: &Path) -> Result<()> {
    let mut names = Vec::new();
    list(root, Path::new("."), &mut names)?;
    let mut cpio = Command::new("cpio");
    cpio.args(["--create", "--null", "--quiet", "--format=newc", "--owner=+0:+0"]);
    cpio.current_dir(root).stdin(Stdio::piped()).stdout(File::create(archive)?);
    let mut child = cpio.spawn().context("cannot run cpio")?;
    child.stdin.take().expect("it was piped").write_all(&names)?;
    let status = child.wait()?;
    if !status.success() {
        bail!("cpio: {status}");
    }
    Ok(())
}

/// Appends `directory`, below `root`, and all in it, parents first, each name ended by a zero byte.
fn list(root: &Path, directory: &Path, names: &mut Vec<u8>) -> Result<()> {
    names.extend(directory.as_os_str().as_encoded_bytes());
    names.push(0);
    for entry in fs::read_dir(root.join(directory))? {
        let entry = entry?;
        let name = directory.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            list(root, &name, names)?;
        } else {
            names.extend(name.as_os_str().as_encoded_bytes());
            names.push(0);
        }
    }
    Ok(())
}
