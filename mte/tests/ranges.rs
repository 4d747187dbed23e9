//! Ranges get their tags and their data, and their neighbours keep theirs; where there are no tags, the
//! data alone.

#[cfg(target_arch = "aarch64")]
mod common;

use mte::{GRANULE, Granules, Tag};

const WORD: u64 = 0x0123_4567_89ab_cdef;
const BYTE: u8 = 0x77;

/// What is done to a range.
#[derive(Clone, Copy, Debug)]
enum Work {
    Tag,
    Zero,
    Fill,
}

const ALL: [Work; 3] = [Work::Tag, Work::Zero, Work::Fill];

impl Work {
    /// # Safety
    /// As for [`Granules::new`].
    unsafe fn on(self, start: *mut u8, len: usize, tag: Tag) {
        // SAFETY: the caller's promise.
        let range = unsafe { Granules::new(start, len) };
        match self {
            Work::Tag => range.tag(tag),
            Work::Zero => range.zero_and_tag(tag),
            Work::Fill => range.fill_and_tag(WORD, tag),
        }
    }

    /// The byte at an address in the range, if not what was there.
    fn byte(self, address: usize) -> u8 {
        match self {
            Work::Tag => BYTE,
            Work::Zero => 0,
            Work::Fill => WORD.to_ne_bytes()[address % 8],
        }
    }
}

/// Every short length, and long ones around the borders of blocks of all sizes and of pages; beginning at
/// every granule of a block of 512 bytes, the emulator's.
fn ranges() -> impl Iterator<Item = (usize, usize)> {
    let short = (0..=512).step_by(GRANULE);
    let long = [1024, 2048, 4096, 8192, 16384].map(|size| [size - GRANULE, size, size + GRANULE]);
    let lens = short.chain(long.into_iter().flatten()).chain([65536 - 48]);
    lens.flat_map(|len| {
        let step = if len > 4096 { 5 * GRANULE } else { GRANULE };
        (4096 - 256..4096 + 256).step_by(step).map(move |from| (from, len))
    })
}

#[cfg(not(target_arch = "aarch64"))]
#[test]
fn without_tags_ranges_get_their_data_and_neighbours_keep_theirs() {
    let mut granules = vec![u128::from_ne_bytes([BYTE; GRANULE]); 20 * 256];
    let start = granules.as_mut_ptr().cast::<u8>();
    for work in ALL {
        for (from, len) in ranges() {
            let tag = Tag::new(7).unwrap();
            // SAFETY: the range, and 256 bytes on both sides of it, lie in the vector.
            unsafe {
                work.on(start.add(from), len, tag);
                for at in from - 256..from + len + 256 {
                    let inside = (from..from + len).contains(&at);
                    let expected = if inside { work.byte(at) } else { BYTE };
                    assert_eq!(start.add(at).read(), expected, "{work:?} {from}+{len} at {at}");
                }
                start.add(from).write_bytes(BYTE, len);
                assert_eq!(mte::tag_at(start.add(from)), Tag::ZERO);
            }
        }
    }
}

#[cfg(not(target_arch = "aarch64"))]
#[test]
fn without_tags_there_is_nothing_to_enable_and_nothing_to_choose() {
    assert!(mte::level().is_none() && mte::mode().is_none());
    assert!(mte::enable(mte::Mode::Sync).is_err());
    assert_eq!(mte::random(mte::TagSet::EMPTY), Tag::ZERO);
    let _nothing = mte::without_checks();
    assert_eq!(size_of::<mte::Unchecked>(), 0);
}

#[cfg(target_arch = "aarch64")]
#[test]
fn ranges_get_tags_and_data_and_neighbours_keep_theirs() {
    use common::{Memory, tag};
    needs_tags!();
    let (new, old) = (tag(6), tag(9));
    let memory = Memory::new(20 * 4096);
    memory.reset(BYTE, old);
    for work in ALL {
        for (from, len) in ranges() {
            // A tag in the address that the range is made of does not matter.
            // SAFETY: the range lies in the memory.
            unsafe { work.on(memory.tagged(from, tag(13)), len, new) };
            let (first, end) = (from - 256, from + len + 256);
            for (at, found) in (first..end).step_by(GRANULE).zip(memory.tags(first, end)) {
                let expected = if (from..from + len).contains(&at) { new } else { old };
                assert_eq!(found, expected.get(), "{work:?} {from}+{len}: tag at {at}");
            }
            for (at, &found) in (first..end).zip(memory.bytes(first, end)) {
                let inside = (from..from + len).contains(&at);
                let expected = if inside { work.byte(at) } else { BYTE };
                assert_eq!(found, expected, "{work:?} {from}+{len}: byte {at}");
            }
            for at in (from..from + len).step_by(GRANULE) {
                // SAFETY: the granule lies in the memory.
                unsafe {
                    mte::instructions::stg(memory.tagged(at, old));
                    memory.at(at).write_bytes(BYTE, GRANULE);
                }
            }
        }
    }
}

/// Stores that follow go through the new tag, those before through the old one: the compiler must keep
/// them on their sides.
#[cfg(target_arch = "aarch64")]
#[test]
fn accesses_stay_on_their_side_of_a_change_of_tags() {
    use common::{End, Memory, in_child, tag};
    needs_tags!();
    let memory = Memory::new(4096);
    let end = in_child(|| {
        mte::enable(mte::Mode::Sync).map_or(1, |()| {
            let mut last = 0;
            for round in 0..1000u64 {
                let new = tag((round % 15) as u8 + 1);
                // SAFETY: the range is the memory's.
                let range = unsafe { Granules::new(memory.at(64), 48) };
                range.fill_and_tag(round, new);
                let at = memory.tagged(64, new).cast::<u64>();
                // SAFETY: the words are the range's.
                unsafe {
                    if at.add(5).read() != round {
                        return 2;
                    }
                    at.write(last);
                    last = at.read() + 1;
                }
                range.tag(Tag::ZERO);
                // SAFETY: as above; and the tag is 0 now.
                if unsafe { memory.at(64).cast::<u64>().read() } + 1 != last {
                    return 3;
                }
            }
            0
        })
    });
    assert_eq!(end, End::Exit(0));
}
