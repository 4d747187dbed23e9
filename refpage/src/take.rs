//! Taking pages away: back to the pool, else to the kernel.
//!
//! What will not go to the pool, because it is shared with a child, or pinned, goes to the kernel.

use rustix::io::Errno;

use crate::bits::Pages;
use crate::counters::Cause;
use crate::engine::Engine;
use crate::huge::{Block, HUGE, Settled};
use crate::pool::Pool;
use crate::sys::uffd::Channel;
use crate::sys::vm;

impl Engine {
    /// Takes the present ones of `pages` away: into the pool as far as it has room, the rest to
    /// the kernel. They must hold their content and be nobody's.
    pub(crate) fn take_away(&self, pages: Pages) {
        let _taking = self.taking();
        for stretch in self.region().present().stretches(pages, true) {
            let mut rest = stretch;
            while rest.count > 0 {
                let (piece, huge) =
                    self.blocks().map_or((rest, false), |blocks| blocks.first_piece(rest));
                rest = rest.skip(piece.count);
                if huge {
                    self.take_huge_away(piece);
                } else {
                    self.take_small_away(piece);
                }
            }
        }
    }

    fn take_small_away(&self, pages: Pages) {
        let mut rest = pages;
        if let Some(pool) = self.movable_pool_at(pages.first) {
            while rest.count > 0 {
                match self.move_out(pool, self.channel(), rest) {
                    Some(done) => rest = rest.skip(done),
                    None => break,
                }
            }
        }
        self.discard(rest);
    }

    /// Takes a huge page away, or what was asked for of one: a part would have to be split off to
    /// be moved, so that goes to the kernel.
    fn take_huge_away(&self, pages: Pages) {
        let whole = pages.count == self.pages_per_block();
        let block = self
            .movable_pool_at(pages.first)
            .filter(|pool| whole && pool.room() >= HUGE)
            .and_then(|pool| Some((pool, pool.huge.take_empty()?)));
        match block {
            Some((pool, block)) => self.move_huge_out(pool, block, pages),
            None => {
                self.discard(pages);
            }
        }
    }

    fn move_huge_out(&self, pool: &Pool, block: Block, pages: Pages) {
        let src = self.region().address(pages.first);
        let moved = self.channel().move_pages(block.start, src, HUGE);
        self.counters().fall_backs.note_move(moved.done, moved.stop);
        let whole = moved.done == HUGE;
        pool.huge.settle(block, if whole { Settled::Filled } else { Settled::Broken });
        let gone = pages.prefix(moved.done >> self.region().page_shift());
        self.region().present().clear(gone);
        if let Some(blocks) = self.blocks() {
            blocks.forget_huge(pages);
        }
        if whole {
            self.counters().pooled.add(gone.count);
        } else {
            self.discard(pages.skip(gone.count));
        }
    }

    fn move_out(&self, pool: &Pool, channel: Channel, pages: Pages) -> Option<usize> {
        let (shard, holes) = pool.take_holes(pages.count)?;
        let shift = self.region().page_shift();
        let src = self.region().address(pages.first);
        let moved = channel.move_pages(shard.address(holes.first), src, holes.count << shift);
        let done = (moved.done >> shift).min(holes.count);
        self.counters().pooled.add(done);
        self.counters().fall_backs.note_move(done, moved.stop);
        shard.deposit(holes.prefix(done));
        let mut left = holes.skip(done);
        if done == 0 && moved.stop == Some(Errno::EXIST) {
            // It has come uncounted (see `relocate`).
            left = left.skip(shard.discard(left.prefix(1)));
        }
        shard.vacate(left);
        self.region().present().clear(pages.prefix(done));
        match moved.stop {
            _ if done > 0 => Some(done),
            // A bit may be set for a page that never came. If it is there all the same, it goes.
            Some(Errno::NOENT) => {
                self.discard(pages.prefix(1));
                Some(1)
            }
            // Shared with a child, pinned, or no channel: this page goes to the kernel, and what
            // it has in common with its neighbours is not worth a system call each to find out.
            _ => None,
        }
    }

    /// Drops the page table that a fault left in a block none of whose pages is present, so that it
    /// takes a huge page. False where the kernel keeps it.
    pub(crate) fn drop_empty_table(&self, block: Pages) -> bool {
        let Some(blocks) = self.blocks().filter(|blocks| blocks.reclaims_tables()) else {
            return false;
        };
        if self.region().present().count(block) > 0 {
            return false;
        }
        let start = self.region().address(block.first);
        let len = block.count << self.region().page_shift();
        // SAFETY: the block holds nothing. Only the handler puts pages into a run that is in use.
        let dropped = unsafe { vm::drop_pages(start, len) }.is_ok();
        if dropped {
            blocks.note_dropped(block);
        }
        dropped
    }

    /// Gives pages back to the kernel, whatever they hold. False if it would not have them: they
    /// stay as they are.
    pub(crate) fn discard(&self, pages: Pages) -> bool {
        if pages.count == 0 {
            return true;
        }
        let _taking = self.taking();
        self.counters().purged.add(pages.count);
        let shift = self.region().page_shift();
        let start = self.region().address(pages.first);
        // SAFETY: the pages belong to a free run; nobody needs what they hold.
        let dropped = unsafe { vm::drop_pages(start, pages.count << shift) };
        if dropped.is_err() {
            self.note(Cause::DropRefused);
            return false;
        }
        self.region().present().clear(pages);
        if let Some(blocks) = self.blocks() {
            blocks.note_dropped(pages);
        }
        true
    }
}
