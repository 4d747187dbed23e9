//! The example `snapshots`, smaller: what is restored is the heap as it was.

#[path = "../../examples/snapshots/chain.rs"]
mod chain;
#[path = "../../examples/snapshots/live.rs"]
mod live;
#[path = "../../examples/snapshots/memory.rs"]
mod memory;
#[path = "../../examples/snapshots/store.rs"]
mod store;

use std::collections::HashMap;
use std::path::PathBuf;

use chain::{Chain, Pages, restore};
use live::{Live, check_refusals};
use memory::Memory;
use refpage::WriteWatch;
use refpage::sys::vm::page_size;
use store::Store;

/// A file of one test's, which goes with it.
struct TemporaryFile(PathBuf);

impl TemporaryFile {
    fn new(test: &str) -> Self {
        let name = format!("refpage-test-{test}-{}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn a_chain_of_snapshots_is_the_heap() {
    let watch = match WriteWatch::new() {
        Ok(watch) => watch,
        Err(why) => return eprintln!("skipped: {why}"),
    };
    let file = TemporaryFile::new("chain");
    let live = Live::create(watch, 512 * page_size()).expect("memory");
    let mut chain = Chain::create(&file.0, live.len()).expect("a file");
    let mut pages = Pages::with_room_for(live.len());
    let mut shares = Vec::new();
    for share in [0.0, 0.01, 0.1, 0.1, 1.0, 0.01] {
        let (taken, copy) = live.while_written(2, || live.snapshot(share, &mut pages)).unwrap();
        let grown = chain.append(&pages).expect("room for the file");
        assert!(grown > taken.written, "{taken:?}");
        copy.check(&file.0).unwrap();
        assert!(taken.pairs > 0 && taken.pause.as_nanos() > 0 && taken.full_pause.as_nanos() > 0);
        shares.push(taken.written as f64 / taken.full as f64);
    }
    // A huge page has more than is in use.
    assert!(shares[0] >= 1.0, "the first one is a full one: {shares:?}");
    assert!(shares[1] > 0.009 && shares[1] < 0.2, "{shares:?}");
    assert!(shares[2] > 0.09 && shares[2] < 0.4, "{shares:?}");
    assert!(shares[4] > 0.9, "{shares:?}");
    assert!(shares[5] < 0.2, "{shares:?}");
    assert_eq!(check_refusals(&file.0, live.len()).unwrap().len(), 9);
}

#[test]
fn snapshots_that_are_missing_or_doubled_or_of_another_heap_are_refused() {
    let file = TemporaryFile::new("order");
    let (mut ends, mut pages) = (vec![0], Pages::default());
    let mut chain = Chain::create(&file.0, 64).expect("a file");
    for byte in 1..=3u8 {
        pages.clear();
        pages.add(8 * usize::from(byte), &[byte; 8]);
        pages.add(40, &[byte; 2]);
        ends.push(ends[ends.len() - 1] + chain.append(&pages).expect("room for the file"));
    }
    let bytes = std::fs::read(&file.0).expect("it was written");
    assert_eq!(ends[3], bytes.len());
    let part = |number: usize| &bytes[ends[number]..ends[number + 1]];
    let restored = |parts: &[&[u8]], heap: usize| {
        let mut memory = vec![0; heap];
        restore(&*parts.concat(), &mut memory).map(|count| (count, memory))
    };
    let mut expected = vec![0; 64];
    (1..=3).for_each(|byte| expected[8 * byte..][..8].fill(byte as u8));
    expected[40..42].fill(3);
    assert_eq!(restored(&[part(0), part(1), part(2)], 64).unwrap(), (3, expected));
    let of_two = restored(&[part(0), part(1)], 64).unwrap();
    assert_eq!((of_two.0, &of_two.1[40..42]), (2, &[2, 2][..]), "an older state is one");
    for wrong in [&[part(1)][..], &[part(0), part(2)], &[part(0), part(0)], &[]] {
        assert!(restored(wrong, 64).is_err());
    }
    let refusal = restored(&[part(0)], 72).unwrap_err().to_string();
    assert!(refusal.contains("a heap of 64 bytes"), "{refusal}");
    // Every bit of it matters.
    let mut changed = bytes.clone();
    for bit in 0..8 * bytes.len() {
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(restored(&[&changed], 64).is_err(), "bit {bit}");
        changed[bit / 8] ^= 1 << (bit % 8);
    }
    for length in 0..bytes.len() {
        let whole = ends[1..].contains(&length);
        assert_eq!(restored(&[&bytes[..length]], 64).is_ok(), whole, "{length} bytes");
    }
}

#[test]
fn the_store_does_what_a_map_does() {
    let memory = Memory::map(64 << 10).expect("address space");
    let mut store = Store::create(memory, 60).expect("room");
    let mut map = HashMap::new();
    let mut random = 1u64;
    for round in 0..20_000usize {
        random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        let (key, what) = ((random >> 33) % 100, random >> 60);
        if what < 6 {
            assert_eq!(store.delete(key), map.remove(&key).is_some(), "round {round}");
        } else {
            let value = vec![round as u8; (random >> 40) as usize % 300];
            store.put(key, &value).expect("room");
            map.insert(key, value);
        }
        assert_eq!(store.live(), map.len());
        assert_eq!(store.get(key), map.get(&key).map(Vec::as_slice), "round {round}");
        if round % 1000 == 0 {
            (0..100).for_each(|key| assert_eq!(store.get(key), map.get(&key).map(Vec::as_slice)));
        }
    }
}

#[test]
fn a_full_store_says_so_and_keeps_what_it_has() {
    let mut store = Store::create(Memory::map(16 << 10).expect("address space"), 30).expect("room");
    let most = (0..64).find(|&key| store.put(key, &[key as u8; 1000]).is_err()).expect("full");
    assert!(most > 3, "{most}");
    assert_eq!(store.live() as u64, most);
    (0..most).for_each(|key| assert_eq!(store.get(key), Some(&[key as u8; 1000][..])));
    assert!(store.put(0, &[0; 4000]).is_err(), "longer than any cell");
}
