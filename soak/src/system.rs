//! Touches by the kernel: system calls that read untouched memory or write to it. And what becomes of descriptors.

use std::ffi::c_void;
use std::ops::Range;

use crate::block::Block;
use crate::board::Count;
use crate::lane::Lane;
use crate::shadow::Content;
use crate::world::{Descriptors, board, errno};

/// Bytes of one such touch: less than a pipe holds, so that nobody waits.
pub const MOST: usize = 16 << 10;
/// Places of one scattered touch.
const PLACES: usize = 6;

/// A pipe that closes itself.
struct Pipe([i32; 2]);

impl Pipe {
    fn new(lane: &Lane) -> Self {
        let mut ends = [0; 2];
        // SAFETY: the array has room for two.
        if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
            lane.fail(format_args!("pipe2: {}", errno()));
        }
        Self(ends)
    }

    fn write(&self, lane: &Lane, bytes: *const u8, length: usize) {
        // SAFETY: callers give memory of that length; what is in it matters to nobody but them.
        let done = unsafe { libc::write(self.0[1], bytes.cast(), length) };
        lane.expect_length("write to a pipe", done, length);
    }

    fn read(&self, lane: &Lane, places: &[libc::iovec]) {
        let length: usize = places.iter().map(|place| place.iov_len).sum();
        // SAFETY: callers give places of memory that is theirs.
        let done = unsafe { libc::readv(self.0[0], places.as_ptr(), places.len() as i32) };
        lane.expect_length("readv from a pipe", done, length);
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        // SAFETY: they are this pipe's own: nobody closes descriptors while it is used.
        self.0.iter().for_each(|&end| unsafe {
            libc::close(end);
        });
    }
}

fn place(start: *mut u8, length: usize) -> libc::iovec {
    libc::iovec { iov_base: start.cast::<c_void>(), iov_len: length }
}

/// Has the kernel write to a range of a block.
pub fn write(lane: &mut Lane, block: &mut Block, range: Range<usize>) {
    board().add(Count::SystemTouches, 1);
    let range = range.start..range.end.min(range.start + MOST);
    let tag = lane.random.next();
    // SAFETY: the range lies in the block.
    let start = unsafe { block.start().add(range.start) };
    match lane.random.below(8) {
        0 => {
            // A signal may come after a part of it.
            let mut got = 0;
            while got < range.len() {
                // SAFETY: the rest of the range is the block's, and the block is the lane's.
                let more = unsafe { libc::getrandom(start.add(got).cast(), range.len() - got, 0) };
                if more <= 0 && errno().kind() != std::io::ErrorKind::Interrupted {
                    lane.fail(format_args!("getrandom: {}", errno()));
                }
                got += more.max(0) as usize;
            }
            return block.shadow.set(range, Content::Any);
        }
        1..3 => {
            let content = bytes(range.clone(), tag);
            let (to, from) =
                (place(start, range.len()), place(content.as_ptr().cast_mut(), range.len()));
            // SAFETY: the range is the block's, which is the lane's; the other one is the vector's.
            let done = unsafe { libc::process_vm_readv(libc::getpid(), &to, 1, &from, 1, 0) };
            lane.expect_length("process_vm_readv", done, range.len());
        }
        _ => {
            let content = bytes(range.clone(), tag);
            let _use = Descriptors::shared();
            let pipe = Pipe::new(lane);
            pipe.write(lane, content.as_ptr(), content.len());
            pipe.read(lane, &[place(start, range.len())]);
        }
    }
    block.shadow.set(range, Content::Tag(tag));
}

/// Has the kernel write to some places of a block at once.
pub fn scatter(lane: &mut Lane, block: &mut Block) {
    board().add(Count::SystemTouches, 1);
    let tag = lane.random.next();
    let mut content = Vec::new();
    let mut places = Vec::new();
    let part = block.size() / PLACES;
    for index in 0..PLACES {
        let length = 1 + lane.random.below(part.min(MOST / PLACES));
        let at = index * part + lane.random.below(part - length + 1);
        content.extend(bytes(at..at + length, tag));
        // SAFETY: the place lies in the block, and in no other part of it.
        places.push(place(unsafe { block.start().add(at) }, length));
        block.shadow.set(at..at + length, Content::Tag(tag));
    }
    let _use = Descriptors::shared();
    let pipe = Pipe::new(lane);
    pipe.write(lane, content.as_ptr(), content.len());
    pipe.read(lane, &places);
}

/// Has the kernel read a range of a block, and checks what it saw.
pub fn check(lane: &mut Lane, block: &Block, range: Range<usize>) {
    board().add(Count::SystemTouches, 1);
    let range = range.start..range.end.min(range.start + MOST);
    // Words at the same places as in the block, for the shadow to look at.
    let mut copy = vec![0u64; range.len() / 8 + 2];
    let shift = range.start % 8;
    // SAFETY: the copy is up to 7 bytes longer than the range.
    let to = unsafe { copy.as_mut_ptr().cast::<u8>().add(shift) };
    {
        let _use = Descriptors::shared();
        let pipe = Pipe::new(lane);
        // SAFETY: the range lies in the block.
        pipe.write(lane, unsafe { block.start().add(range.start) }, range.len());
        pipe.read(lane, &[place(to, range.len())]);
    }
    for (at, found) in range.clone().zip(bytes_of(&copy).skip(shift)) {
        // SAFETY: a byte of the block.
        let now = unsafe { block.start().add(at).read_volatile() };
        if now != found {
            lane.fail(format_args!(
                "write(2) from a block read {found:#04x} at byte {at} of {}, a load reads {now:#04x}",
                block.size()
            ));
        }
    }
    // What the kernel saw is what loads see: they have to see the right thing.
    lane.check(block, range);
}

fn bytes_of(words: &[u64]) -> impl Iterator<Item = u8> {
    words.iter().flat_map(|word| word.to_ne_bytes())
}

/// What a range of a block holds after it was written with the tag.
fn bytes(range: Range<usize>, tag: u64) -> Vec<u8> {
    let words = range.start / 8..range.end.div_ceil(8);
    let words: Vec<_> = words.filter_map(|index| Content::Tag(tag).word(index, 0)).collect();
    bytes_of(&words).skip(range.start % 8).take(range.len()).collect()
}

/// Closes descriptors of this process: all, or all but the standard ones, or one after the other; takes their
/// numbers; or uses up all there may be, and has the heap work meanwhile.
pub fn descriptors(lane: &mut Lane) {
    let what = lane.random.below(5);
    let _use = Descriptors::alone();
    // The first process keeps its stderr: what refpage has to say arrives.
    let first = if lane.in_first_process() { 3 } else { 3 * (what % 2) as u32 };
    let open = |count| {
        (0..count)
            // SAFETY: a constant string.
            .map(|_| unsafe { libc::open(c"/dev/zero".as_ptr(), libc::O_RDWR) })
            .take_while(|&fd| fd >= 0)
            .collect::<Vec<i32>>()
    };
    // SAFETY: all descriptors of this process belong to the lanes, which use none now.
    unsafe {
        match what {
            0 | 1 => {
                libc::syscall(libc::SYS_close_range, first, u32::MAX, 0);
                lane.count(Count::DescriptorsClosed, 1);
            }
            2 => {
                let closed = (first as i32..512).filter(|&fd| libc::close(fd) == 0).count();
                lane.count(Count::DescriptorsClosed, closed);
                open(8);
            }
            3 => {
                for fd in open(1) {
                    for number in first as i32..200 {
                        libc::dup2(fd, number);
                    }
                    libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0);
                    lane.count(Count::DescriptorsClosed, 200);
                }
            }
            _ => {
                let all = open(usize::MAX);
                lane.several_allocations();
                lane.count(Count::DescriptorsClosed, all.len());
                for fd in all {
                    libc::close(fd);
                }
            }
        }
    }
}
