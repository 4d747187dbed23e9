//! A file name in an option.

use core::fmt;

/// A file name of 1 to 255 bytes, without NUL and without `:`, kept in place because an option may
/// not allocate. 255 is what `rustix` turns into a C string on the stack.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PathText {
    /// The name, then zeros: equality may compare the whole array.
    bytes: [u8; Self::MAX],
    len: u8,
}

impl PathText {
    /// The longest name in bytes.
    pub const MAX: usize = 255;

    /// Takes a name, or `None` if it is empty, too long, or holds a NUL or a `:`.
    pub const fn new(name: &[u8]) -> Option<Self> {
        if name.is_empty() || name.len() > Self::MAX {
            return None;
        }
        let mut bytes = [0; Self::MAX];
        let mut at = 0;
        while at < name.len() {
            if name[at] == 0 || name[at] == b':' {
                return None;
            }
            bytes[at] = name[at];
            at += 1;
        }
        Some(Self { bytes, len: name.len() as u8 })
    }

    /// The name.
    pub fn as_bytes(&self) -> &[u8] {
        // `len` is at most MAX by construction; `get` keeps a panic path out of malloc all the same.
        self.bytes.get(..usize::from(self.len)).unwrap_or(&[])
    }
}

impl fmt::Debug for PathText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.as_bytes().escape_ascii())
    }
}
