//! A program with a handler of SIGSEGV of its own, where memory has tags: that is what a report ends with.
//!
//! Everything happens in a child, in which the heap starts after the handler was installed.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd};

use refpage_alloc::{heap, tags_name};

const NO_TAGS: i32 = 77;
const WITH_TAG: i32 = 40;
const WITHOUT_TAG: i32 = 41;

extern "C" fn own_handler(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the signal is SIGSEGV; `_exit` may be called anywhere.
    unsafe {
        let tagged = (*info).si_addr().addr() >> 56 != 0;
        libc::_exit(if tagged { WITH_TAG } else { WITHOUT_TAG });
    }
}

/// Uses a block after it was freed.
fn misuse() -> i32 {
    // SAFETY: zeros are a value of the struct; the handler keeps to what it may do.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = own_handler as extern "C" fn(_, _, _) as usize;
        action.sa_flags = libc::SA_SIGINFO;
        assert_eq!(libc::sigaction(libc::SIGSEGV, &action, std::ptr::null_mut()), 0);
    }
    if tags_name() == "off" {
        return NO_TAGS;
    }
    let block = heap::allocate(1 << 20, 16, false);
    // SAFETY: the block is live, and written within; then it is not, which is what the test is for.
    unsafe {
        block.add(5000).write_volatile(1);
        heap::deallocate(block);
        block.add(5000).write_volatile(2);
    }
    0
}

#[test]
fn the_programs_own_handler_comes_behind_the_report() {
    let mut ends = [0; 2];
    // SAFETY: the array has room for two descriptors, and each is owned once.
    let (mut from, to) = unsafe {
        assert_eq!(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC), 0);
        (File::from_raw_fd(ends[0]), File::from_raw_fd(ends[1]))
    };
    // SAFETY: the child uses nothing that another thread may have locked: this heap has not started.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: the child's stderr is the pipe from now on.
        unsafe { libc::dup2(to.as_raw_fd(), 2) };
        let code = misuse();
        // SAFETY: the child has nothing to clean up.
        unsafe { libc::_exit(code) };
    }
    drop(to);
    let (mut said, mut status) = (String::new(), 0);
    from.read_to_string(&mut said).expect("the child writes text");
    // SAFETY: the child is this test's.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert!(libc::WIFEXITED(status), "{status:#x}: {said}");
    match libc::WEXITSTATUS(status) {
        NO_TAGS => eprintln!("skipped: there are no memory tags here"),
        code => {
            assert!(said.contains("use after free: writing to byte 5000 of a freed"), "{said}");
            assert_eq!(code, WITHOUT_TAG, "the handler asked for no tags in addresses");
        }
    }
}
