//! What an errno means, in words: libc's strerror allocates and translates.

use rustix::io::Errno;

/// The kernel's answer in words that fit whatever was asked of it. Reports add the number.
pub fn name(errno: Errno) -> &'static str {
    match errno {
        Errno::ACCESS => "no permission",
        Errno::PERM => "no privilege, or forbidden by a filter",
        Errno::NOENT => "no such file or directory",
        Errno::NOTDIR => "a part of the path is no directory",
        Errno::ISDIR => "a directory",
        Errno::NAMETOOLONG => "the name is too long",
        Errno::LOOP => "too many symbolic links",
        Errno::ROFS => "the file system is read-only",
        Errno::TXTBSY => "a program that is running",
        Errno::NOSPC => "no space left on the device",
        Errno::DQUOT => "the disk quota is used up",
        Errno::FBIG => "the file is too large",
        Errno::IO => "input or output failed",
        Errno::PIPE => "nobody reads it",
        Errno::BADF => "no open descriptor",
        Errno::MFILE | Errno::NFILE => "out of file descriptors",
        Errno::NXIO | Errno::NODEV => "no such device",
        Errno::NOMEM => "out of memory or address space",
        Errno::AGAIN => "not possible now",
        Errno::BUSY => "in use",
        Errno::EXIST => "there already",
        Errno::INVAL => "refused by this kernel",
        Errno::NOSYS => "not in this kernel",
        Errno::OPNOTSUPP => "not supported",
        _ => "failed",
    }
}
