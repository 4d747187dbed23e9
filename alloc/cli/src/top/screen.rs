//! The terminal that the view is drawn on, and what is typed there.
//!
//! It is the process's own one, `/dev/tty`, whatever stdin, stdout and stderr are. It is put into raw mode and shows
//! its other screen; both are undone when the [`Screen`] goes, by a panic, too.

use std::fmt::{self, Display, Write as _};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::sync::{Mutex, Once, PoisonError};

use ratatui::backend::{Backend, ClearType, WindowSize};
use ratatui::buffer::Cell;
use ratatui::layout::{Position, Size};
use ratatui::style::{Color, Modifier};
use ratatui::text::Span;
use rustix::fd::BorrowedFd;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetpgrp, tcgetwinsize, tcsetattr};

use super::fd::lent;

/// The other screen, and no cursor; and back, without any style.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[2J";
const LEAVE: &str = "\x1b[0m\x1b[?25h\x1b[?1049l";

/// What undoes it.
static BEFORE: Mutex<Option<(File, Termios)>> = Mutex::new(None);

/// Gives the terminal back as it was, once.
fn restore() {
    let before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some((mut terminal, modes)) = before {
        // It may be gone, and there is nobody to tell.
        let _ = terminal.write_all(LEAVE.as_bytes());
        let _ = tcsetattr(lent(&terminal), OptionalActions::Drain, &modes);
    }
}

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    Quit,
    /// Ctrl-C, which is a key in raw mode.
    Interrupt,
    Pause,
    Slower,
    Faster,
    Other,
}

impl Key {
    /// The keys of what was read at once: so an escape sequence, of an arrow for example, is not taken for Esc.
    fn of(bytes: &[u8]) -> Vec<Self> {
        if let [0x1b, _, ..] = bytes {
            return vec![Key::Other];
        }
        let key = |&byte: &u8| match byte {
            b'q' | b'Q' | 0x1b => Key::Quit,
            0x03 => Key::Interrupt,
            b'p' | b'P' | b' ' => Key::Pause,
            b'+' | b'=' => Key::Slower,
            b'-' | b'_' => Key::Faster,
            _ => Key::Other,
        };
        bytes.iter().map(key).collect()
    }
}

/// The terminal while it shows the view.
#[derive(Debug)]
pub struct Screen {
    terminal: File,
    /// What is to be written at once.
    pending: String,
    has_colors: bool,
}

impl Screen {
    /// Takes the terminal, if this process has one that it may draw on: not in the background, and not
    /// where nothing but lines can be drawn.
    pub fn open() -> Option<Self> {
        if std::env::var_os("TERM").is_none_or(|name| name.is_empty() || name == "dumb") {
            return None;
        }
        let terminal = OpenOptions::new().read(true).write(true).open("/dev/tty").ok()?;
        if tcgetpgrp(lent(&terminal)).ok()? != rustix::process::getpgrp() {
            return None;
        }
        let before = tcgetattr(lent(&terminal)).ok()?;
        let mut modes = before.clone();
        modes.make_raw();
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let report = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                restore();
                report(panic);
            }));
        });
        *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((terminal.try_clone().ok()?, before));
        let has_colors = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let mut screen = Self { terminal, pending: String::new(), has_colors };
        let shown = tcsetattr(lent(&screen.terminal), OptionalActions::Flush, &modes).is_ok()
            && screen.terminal.write_all(ENTER.as_bytes()).is_ok();
        // If not, it is given back by its Drop.
        shown.then_some(screen)
    }

    /// Readable when something was typed.
    pub fn handle(&self) -> BorrowedFd<'_> {
        lent(&self.terminal)
    }

    /// What was typed; nothing more comes from a terminal that is gone.
    pub fn keys(&mut self) -> Vec<Key> {
        let mut bytes = [0; 64];
        match self.terminal.read(&mut bytes) {
            Ok(count) if count > 0 => Key::of(bytes.get(..count).unwrap_or_default()),
            _ => vec![Key::Quit],
        }
    }

    fn put(&mut self, text: impl Display) {
        // A String takes all that it is given.
        let _ = write!(self.pending, "{text}");
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

/// The sequence that sets a style, whatever was before it.
struct Set(Color, Modifier);

impl Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(color, modifier) = *self;
        f.write_str("\x1b[0")?;
        for (of, code) in [(Modifier::BOLD, 1), (Modifier::DIM, 2), (Modifier::REVERSED, 7)] {
            if modifier.contains(of) {
                write!(f, ";{code}")?;
            }
        }
        // The colors of the view; the terminal's own palette says what they look like.
        let code = match color {
            Color::Green => 32,
            Color::Yellow => 33,
            Color::Blue => 34,
            Color::Cyan => 36,
            _ => return f.write_str("m"),
        };
        write!(f, ";{code}m")
    }
}

impl Backend for Screen {
    type Error = io::Error;

    fn draw<'a, I>(&mut self, content: I) -> io::Result<()>
    where
        I: Iterator<Item = (u16, u16, &'a Cell)>,
    {
        let mut style = None;
        let mut next = None;
        for (x, y, cell) in content {
            if next != Some((x, y)) {
                self.put(format_args!("\x1b[{};{}H", y + 1, x + 1));
            }
            let color = if self.has_colors { cell.fg } else { Color::Reset };
            if style != Some((color, cell.modifier)) {
                self.put(Set(color, cell.modifier));
                style = Some((color, cell.modifier));
            }
            self.put(cell.symbol());
            // A wide character's second cell is not told.
            next = (Span::raw(cell.symbol()).width() == 1).then_some((x + 1, y));
        }
        self.put("\x1b[0m");
        Ok(())
    }

    fn hide_cursor(&mut self) -> io::Result<()> {
        self.put("\x1b[?25l");
        Ok(())
    }

    fn show_cursor(&mut self) -> io::Result<()> {
        // `restore` does, at the end.
        Ok(())
    }

    fn get_cursor_position(&mut self) -> io::Result<Position> {
        Ok(Position::ORIGIN)
    }

    fn set_cursor_position<P: Into<Position>>(&mut self, position: P) -> io::Result<()> {
        let Position { x, y } = position.into();
        self.put(format_args!("\x1b[{};{}H", y + 1, x + 1));
        Ok(())
    }

    fn clear(&mut self) -> io::Result<()> {
        self.put("\x1b[0m\x1b[2J");
        Ok(())
    }

    fn clear_region(&mut self, _: ClearType) -> io::Result<()> {
        // The view is always the whole terminal.
        self.clear()
    }

    fn size(&self) -> io::Result<Size> {
        let size = tcgetwinsize(lent(&self.terminal))
            .map_err(|errno| io::Error::from_raw_os_error(errno.raw_os_error()))?;
        // A terminal that does not know is taken for the oldest.
        let or = |size, other| if size == 0 { other } else { size };
        Ok(Size::new(or(size.ws_col, 80), or(size.ws_row, 24)))
    }

    fn window_size(&mut self) -> io::Result<WindowSize> {
        Ok(WindowSize { columns_rows: self.size()?, pixels: Size::ZERO })
    }

    fn flush(&mut self) -> io::Result<()> {
        let pending = std::mem::take(&mut self.pending);
        self.terminal.write_all(pending.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_told_from_escape_sequences() {
        assert_eq!(Key::of(b"\x1b"), [Key::Quit]);
        assert_eq!(Key::of(b"\x1b[A"), [Key::Other]);
        assert_eq!(Key::of(b"\x1bOP"), [Key::Other]);
        let typed = [Key::Slower, Key::Faster, Key::Pause, Key::Interrupt, Key::Quit];
        assert_eq!(Key::of(b"+-p\x03q"), typed);
    }

    #[test]
    fn a_style_is_set_from_scratch() {
        assert_eq!(Set(Color::Reset, Modifier::empty()).to_string(), "\x1b[0m");
        assert_eq!(Set(Color::Cyan, Modifier::BOLD).to_string(), "\x1b[0;1;36m");
    }
}
