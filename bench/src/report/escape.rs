//! Text made safe: names come from the command line, and what they hold must stay text.

use std::fmt;

/// Text as it stands in HTML and XML, in elements and in quoted attributes.
pub struct Escaped<'a>(pub &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in printable(self.0) {
            match character {
                '&' => out.write_str("&amp;")?,
                '<' => out.write_str("&lt;")?,
                '>' => out.write_str("&gt;")?,
                '"' => out.write_str("&quot;")?,
                '\'' => out.write_str("&#39;")?,
                other => write!(out, "{other}")?,
            }
        }
        Ok(())
    }
}

/// The characters of a text with a mark in place of those that XML does not know, not even escaped.
pub fn printable(text: &str) -> impl Iterator<Item = char> {
    text.chars().map(|character| match character {
        '\n' | '\t' => ' ',
        '\u{fffe}' | '\u{ffff}' => char::REPLACEMENT_CHARACTER,
        control if control.is_control() => char::REPLACEMENT_CHARACTER,
        other => other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_stays_text() {
        let hostile = "<img src='x' onerror=\"alert(1)\"> & \u{1b}[0m\n";
        let escaped = "&lt;img src=&#39;x&#39; onerror=&quot;alert(1)&quot;&gt; &amp; \u{fffd}[0m ";
        assert_eq!(Escaped(hostile).to_string(), escaped);
    }
}
