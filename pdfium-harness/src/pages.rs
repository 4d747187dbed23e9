//! Which pages to render: lists such as `1-100`, `7`, `3-` or `1-3,8,10-12`.

use std::fmt;
use std::str::FromStr;

/// Pages, counted from 1, in the order given.
#[derive(Clone, Debug, PartialEq)]
pub struct Pages(Vec<Span>);

/// The first and the last page; no last one means up to the document's end.
type Span = (u32, Option<u32>);

impl Pages {
    /// All pages of any document.
    pub fn all() -> Self {
        Self(vec![(1, None)])
    }

    /// The same with every open end closed, for a document of `count` pages.
    pub fn closed(&self, count: u32) -> Self {
        Self(self.0.iter().map(|&(first, last)| (first, last.or(Some(count)))).collect())
    }

    /// The page numbers in a document of `count` pages, or the first one that it does not have.
    pub fn resolve(&self, count: u32) -> Result<Vec<u32>, u32> {
        let mut numbers = Vec::new();
        for &(first, last) in &self.0 {
            let last = last.unwrap_or(count);
            if let Some(&beyond) = [first, last].iter().find(|&&page| page > count) {
                return Err(beyond.max(count + 1));
            }
            numbers.extend(first..=last);
        }
        Ok(numbers)
    }
}

impl FromStr for Pages {
    type Err = String;

    fn from_str(list: &str) -> Result<Self, String> {
        list.split(',').map(span).collect::<Result<_, _>>().map(Self)
    }
}

fn span(text: &str) -> Result<Span, String> {
    let number = |digits: &str| match digits.trim().parse::<u32>() {
        Ok(0) => Err("pages are counted from 1".to_string()),
        Ok(page) => Ok(page),
        Err(_) => Err(format!("'{text}' is no page range such as 7, 1-100 or 3-")),
    };
    let (first, last) = match text.split_once('-') {
        None => (number(text)?, Some(number(text)?)),
        Some((first, "")) => (number(first)?, None),
        Some((first, last)) => (number(first)?, Some(number(last)?)),
    };
    if last.is_some_and(|last| last < first) {
        return Err(format!("the range '{text}' ends before it begins"));
    }
    Ok((first, last))
}

impl fmt::Display for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (first, last)) in self.0.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            match last {
                Some(last) if last == first => write!(f, "{comma}{first}")?,
                Some(last) => write!(f, "{comma}{first}-{last}")?,
                None => write!(f, "{comma}{first}-")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_pages_and_ranges_are_read_and_printed_alike() {
        for text in ["7", "1-100", "3-", "1-3,8,10-"] {
            assert_eq!(text.parse::<Pages>().unwrap().to_string(), text);
        }
        assert_eq!("1-3,8".parse::<Pages>().unwrap().resolve(8), Ok(vec![1, 2, 3, 8]));
        assert_eq!("6-".parse::<Pages>().unwrap().resolve(8), Ok(vec![6, 7, 8]));
        assert_eq!(Pages::all().closed(9).to_string(), "1-9");
        assert_eq!(Pages::all().resolve(2), Ok(vec![1, 2]));
    }

    #[test]
    fn what_is_no_page_range_is_refused() {
        for text in ["", "0", "-", "-4", "5-2", "1,,2", "a", "1-2-3", "0-4", "99999999999"] {
            assert!(text.parse::<Pages>().is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn a_page_beyond_the_end_is_named() {
        assert_eq!("1-200".parse::<Pages>().unwrap().resolve(120), Err(200));
        assert_eq!("130-".parse::<Pages>().unwrap().resolve(120), Err(130));
    }
}
