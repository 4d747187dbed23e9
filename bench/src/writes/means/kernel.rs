//! `refpage::WriteWatch`.

use anyhow::Result;
use refpage::{Reset, WriteWatch};

use super::{Absent, Tell};
use crate::writes::space::Space;

struct Watched<'s> {
    watch: WriteWatch<'static>,
    space: &'s Space,
}

pub fn tell(space: &Space) -> Result<Result<impl Tell, Absent>> {
    let watch = match WriteWatch::new() {
        Ok(watch) => watch,
        Err(why) => return Ok(Err(Absent(why.to_string()))),
    };
    watch.watch(space.start(), space.bytes())?;
    Ok(Ok(Watched { watch, space }))
}

impl Watched<'_> {
    fn tell(&self, reset: Reset, told: &mut Vec<usize>) -> Result<()> {
        for found in self.watch.written(self.space.start(), self.space.bytes(), reset)? {
            let found = found?;
            told.extend(self.space.page_of(found.start)..self.space.page_of(found.end));
        }
        Ok(())
    }
}

impl Tell for Watched<'_> {
    fn reset(&mut self) -> Result<()> {
        for found in self.watch.written(self.space.start(), self.space.bytes(), Reset::Yes)? {
            found?;
        }
        Ok(())
    }

    fn look(&mut self, told: &mut Vec<usize>) -> Result<()> {
        self.tell(Reset::No, told)
    }

    fn take(&mut self, told: &mut Vec<usize>) -> Result<()> {
        self.tell(Reset::Yes, told)
    }
}
