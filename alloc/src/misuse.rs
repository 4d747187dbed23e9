//! The last lines of a program that frees what it must not.

use core::fmt;
use core::sync::atomic::Ordering::Relaxed;

use mte::Tag;

use crate::page_map::{Kind, PageMap};
use crate::report::die_of;
use crate::tags;

/// Ends the process because of a `free` or `realloc` of `pointer`, which is to no live allocation;
/// the map tells what it is to instead.
#[cold]
pub fn bad_free(map: &PageMap, pointer: *const u8) -> ! {
    let address = tags::address(pointer);
    let Some(head) = map.head(map.slot_at(address)) else { not_a_block(pointer) };
    let die = |line: fmt::Arguments<'_>| -> ! { die_of(line, address) };
    let run = map.run(head);
    let offset = address.wrapping_sub(map.address(head) as usize);
    // From where a large allocation begins in its run.
    let byte = offset.wrapping_sub(run.offset.load(Relaxed) as usize).cast_signed();
    match run.kind() {
        Kind::Span | Kind::EmptySpan | Kind::BareSpan => {
            let size = crate::classes::size(usize::from(run.class.load(Relaxed)));
            if offset.is_multiple_of(size) && offset / size < run.opened.load(Relaxed) as usize {
                die(format_args!("double free of {pointer:p}, a block of {size} bytes"));
            }
            die(format_args!(
                "invalid free of {pointer:p}, byte {} of a block of {size} bytes",
                offset % size
            ));
        }
        Kind::Cached | Kind::Moving | Kind::Quarantined if byte == 0 => {
            die(format_args!("double free of {pointer:p}, a large allocation"))
        }
        Kind::Large => die(format_args!(
            "invalid free of {pointer:p}, byte {byte} of an allocation of {} bytes",
            run.size.load(Relaxed)
        )),
        Kind::Free | Kind::None if byte == 0 => {
            die(format_args!("double free of {pointer:p}, a large allocation given back"))
        }
        _ => not_a_block(pointer),
    }
}

/// Ends the process because of a `free` or `realloc` of a pointer whose tag is not that of the block it
/// points to.
#[cold]
pub fn wrong_tag(pointer: *const u8, tag: Tag, size: usize) -> ! {
    let line = format_args!(
        "invalid free of {pointer:p}, whose tag is not the {} of the block of {size} bytes there: it was \
         freed before, or the pointer is forged",
        tag.get(),
    );
    die_of(line, tags::address(pointer))
}

/// Ends the process because of a `free` or `realloc` of an address outside every heap.
#[cold]
pub fn not_a_block(pointer: *const u8) -> ! {
    let line = format_args!("invalid free of {pointer:p}, which malloc never returned");
    die_of(line, tags::address(pointer))
}

/// Ends the process because a block that was freed in a signal handler was written to before it was
/// taken in.
#[cold]
pub fn overwritten_link(link: *const u8) -> ! {
    let line = format_args!(
        "write to freed memory: a block that a signal handler freed leads to {link:p}"
    );
    die_of(line, tags::address(link))
}

/// Ends the process because a free block does not hold what free memory holds.
#[cold]
pub fn written_when_free(block: *const u8, size: usize, byte: usize) -> ! {
    let line =
        format_args!("write to freed memory: byte {byte} of {block:p}, a block of {size} bytes");
    die_of(line, tags::address(block))
}

/// Ends the process because a byte beside an allocation, counted from its start, was written while it was
/// live.
#[cold]
pub fn written_beside(start: *const u8, size: usize, byte: isize) -> ! {
    let kind = if byte < 0 { "underflow" } else { "overflow" };
    let line = format_args!(
        "{kind}: byte {byte} of an allocation of {size} bytes at {start:p} was written before it was freed"
    );
    die_of(line, tags::address(start))
}
