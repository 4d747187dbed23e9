//! The last line of a program that frees what it must not.

use core::sync::atomic::Ordering::Relaxed;

use mte::Tag;
use refpage::sys::report::die;

use crate::page_map::{Kind, PageMap};

/// Ends the process because of a `free` or `realloc` of `address`, which is no live allocation;
/// the map tells what it is instead.
#[cold]
pub fn bad_free(map: &PageMap, address: usize) -> ! {
    let Some(head) = map.head(map.slot_at(address)) else { not_a_block(address) };
    let run = map.run(head);
    let offset = address.wrapping_sub(map.address(head) as usize);
    match run.kind() {
        Kind::Span | Kind::EmptySpan | Kind::BareSpan => {
            let size = crate::classes::size(usize::from(run.class.load(Relaxed)));
            if offset.is_multiple_of(size) && offset / size < run.opened.load(Relaxed) as usize {
                die(format_args!("double free of {address:#x}, a block of {size} bytes"));
            }
            die(format_args!(
                "invalid free of {address:#x}, byte {} of a block of {size} bytes",
                offset % size
            ));
        }
        Kind::Cached | Kind::Moving if offset == 0 => {
            die(format_args!("double free of {address:#x}, a large allocation"))
        }
        Kind::Large => die(format_args!(
            "invalid free of {address:#x}, byte {offset} of an allocation of {} bytes",
            run.size.load(Relaxed)
        )),
        Kind::Free | Kind::None if offset == 0 => {
            die(format_args!("double free of {address:#x}, a large allocation given back"))
        }
        _ => not_a_block(address),
    }
}

/// Ends the process because of a `free` or `realloc` of a pointer whose tag is not that of the block it
/// points to.
#[cold]
pub fn wrong_tag(pointer: usize, tag: Tag, size: usize) -> ! {
    die(format_args!(
        "invalid free of {:#x}, a block of {size} bytes with tag {}, by a pointer with tag {}: it was \
         freed before, or the pointer is forged",
        mte::untag(pointer as u64),
        tag.get(),
        mte::tag_of(pointer as u64).get(),
    ))
}

/// Ends the process because of a `free` or `realloc` of an address outside every heap.
#[cold]
pub fn not_a_block(address: usize) -> ! {
    die(format_args!("invalid free of {address:#x}, which malloc never returned"))
}
