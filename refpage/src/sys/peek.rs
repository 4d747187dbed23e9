//! Memory of this process that may be protected or gone, read without a fault.

use core::ffi::c_void;

use rustix::io::{Errno, Result};

use crate::sys::vm::{KeepErrno, errno_location};

/// Fills `bytes` with what there is from an address on, whoever writes there meanwhile.
///
/// # Errors
/// FAULT: not all of it can be read. NOSYS or PERM: a filter does not allow process_vm_readv.
pub fn read(address: usize, bytes: &mut [u8]) -> Result<()> {
    let _errno = KeepErrno::new();
    let local = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let remote = libc::iovec { iov_base: address as *mut c_void, iov_len: bytes.len() };
    let pid = rustix::process::getpid().as_raw_pid();
    // SAFETY: the kernel writes to the bytes, no more of them than there are, and checks what it reads.
    let read = unsafe { libc::process_vm_readv(pid, &raw const local, 1, &raw const remote, 1, 0) };
    match usize::try_from(read) {
        Ok(count) if count == bytes.len() => Ok(()),
        Ok(_) => Err(Errno::FAULT),
        // SAFETY: the calling thread's own, live errno.
        Err(_) => Err(Errno::from_raw_os_error(unsafe { *errno_location() })),
    }
}

#[cfg(test)]
mod tests {
    use rustix::mm::MprotectFlags;

    use super::*;
    use crate::sys::vm::{self, Tags};

    #[test]
    fn what_cannot_be_read_is_an_error_and_no_fault() {
        let page = vm::page_size();
        let start = vm::reserve(2 * page, page).expect("address space");
        // SAFETY: the reservation is this test's.
        unsafe {
            start.add(page - 1).write(7);
            vm::protect(start.add(page), page, MprotectFlags::empty(), Tags::Without)
                .expect("ours");
        }
        let mut bytes = [1; 2];
        assert_eq!(read(start as usize + page - 2, &mut bytes), Ok(()));
        assert_eq!(bytes, [0, 7]);
        assert_eq!(read(start as usize + page - 1, &mut bytes), Err(Errno::FAULT));
        // SAFETY: as above.
        unsafe { vm::unmap(start, 2 * page) };
    }
}
