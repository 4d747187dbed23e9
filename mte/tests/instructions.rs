//! What every instruction does to tags and data.

#![cfg(target_arch = "aarch64")]

mod common;

use common::{Memory, tag};
use mte::instructions::*;
use mte::{GRANULE, tag_of};

const OTHER: u8 = 9;
const BYTE: u8 = 0x77;

/// Stores to memory of another tag and content, and sees that `granules` got tag 3, that they hold `word`
/// if that is given, and that all else is as it was.
fn check(name: &str, from: usize, len: usize, word: Option<u64>, store: impl FnOnce(*mut u8)) {
    let memory = Memory::new(0x8000);
    memory.reset(BYTE, tag(OTHER));
    store(memory.tagged(from, tag(3)));
    let end = memory.tags(0, 0x8000).len();
    for (nth, found) in memory.tags(0, 0x8000).into_iter().enumerate() {
        let stored = (from..from + len).contains(&(nth * GRANULE));
        assert_eq!(found, if stored { 3 } else { OTHER }, "{name}: granule {nth} of {end}");
    }
    for (at, &found) in memory.bytes(0, 0x8000).iter().enumerate() {
        let stored = (from..from + len).contains(&at);
        let expected = match word {
            Some(word) if stored => word.to_ne_bytes()[at % 8],
            _ => BYTE,
        };
        assert_eq!(found, expected, "{name}: byte {at}");
    }
}

#[test]
fn tag_stores_tag_their_granules_and_keep_the_data() {
    needs_tags!();
    // Inside a page, and over the border of two.
    for from in [0x1000, 0x1050, 0x4000 - GRANULE] {
        // SAFETY: all of it is in the memory that `check` makes.
        unsafe {
            check("stg", from, 16, None, |at| stg(at));
            check("st2g", from, 32, None, |at| st2g(at));
            check("st2g_by_8", from, 256, None, |at| st2g_by_8(at));
        }
    }
}

#[test]
fn zeroing_tag_stores_zero_what_they_tag() {
    needs_tags!();
    for from in [0x1000, 0x1050, 0x4000 - GRANULE] {
        // SAFETY: all of it is in the memory that `check` makes.
        unsafe {
            check("stzg", from, 16, Some(0), |at| stzg(at));
            check("stz2g", from, 32, Some(0), |at| stz2g(at));
            check("stz2g_by_8", from, 256, Some(0), |at| stz2g_by_8(at));
        }
    }
}

#[test]
fn pair_stores_write_what_they_tag() {
    needs_tags!();
    let word = 0x0123_4567_89ab_cdef;
    for from in [0x1000, 0x1050, 0x4000 - GRANULE] {
        // SAFETY: all of it is in the memory that `check` makes.
        unsafe {
            check("stgp", from, 16, Some(word), |at| stgp(at, word));
            check("stgp_by_2", from, 32, Some(word), |at| stgp_by_2(at, word));
            check("stgp_by_16", from, 256, Some(word), |at| stgp_by_16(at, word));
        }
    }
}

#[test]
fn cache_instructions_tag_the_block_around_the_address() {
    needs_tags!();
    let Some(size) = block() else {
        println!("skipped: DC GVA and DC GZVA are prohibited here (DCZID_EL0.DZP)");
        return;
    };
    assert!(size.is_power_of_two() && (GRANULE..=2048).contains(&size), "{size}");
    for within in [0, 1, size / 2, size - 1] {
        // SAFETY: the blocks are in the memory that `check` makes.
        unsafe {
            check("dc gva", 0x1000, size, None, |at| dc_gva(at.add(within)));
            check("dc gzva", 0x1000, size, Some(0), |at| dc_gzva(at.add(within)));
        }
    }
}

#[test]
fn ldg_changes_the_tag_of_the_address_and_nothing_else() {
    needs_tags!();
    let memory = Memory::new(0x1000);
    memory.reset(BYTE, tag(5));
    for offset in [0, 1, 15, 16, 0xfff] {
        // Bits 63 to 60 stay: they are the program's.
        let address = memory.tagged(offset, tag(12)).map_addr(|address| address | 0xa << 60);
        // SAFETY: the granule is the memory's.
        let loaded = unsafe { ldg(address) };
        assert_eq!(loaded.addr(), memory.tagged(offset, tag(5)).addr() | 0xa << 60);
    }
}

#[test]
fn irg_changes_the_tag_of_the_address_and_nothing_else() {
    needs_tags!();
    mte::enable(mte::Mode::Sync).unwrap();
    for _ in 0..1000 {
        // SAFETY: there are tags.
        let tagged = unsafe { irg(0xa512_3456_789a_bcde, 0x00f1) };
        assert_eq!(tagged & !(0xf << 56), 0xa012_3456_789a_bcde);
        assert!((8..16).contains(&tag_of(tagged).get()) || (1..4).contains(&tag_of(tagged).get()));
    }
}

#[test]
fn memory_without_tags_gets_the_data() {
    needs_tags!();
    let memory = Memory::without_tags(0x4000);
    // SAFETY: all of it is in the memory.
    unsafe {
        stgp_by_16(memory.tagged(0x100, tag(3)), 5);
        stz2g(memory.tagged(0x120, tag(3)));
        stg(memory.tagged(0x140, tag(3)));
        st2g(memory.tagged(0x160, tag(3)));
        if block().is_some() {
            stgp_by_16(memory.tagged(0x2000, tag(3)), 5);
            dc_gva(memory.tagged(0x2000, tag(3)));
            dc_gzva(memory.tagged(0x2000, tag(3)));
            assert_eq!(memory.at(0x2000).cast::<u64>().read(), 0);
        }
    }
    for (at, byte) in (0x100..0x200).zip(memory.bytes(0x100, 0x200)) {
        let expected = if at % 8 != 0 || (0x120..0x140).contains(&at) { 0 } else { 5 };
        assert_eq!(*byte, expected, "{at:#x}");
    }
    assert!(memory.tags(0, 0x4000).iter().all(|&tag| tag == 0));
}
