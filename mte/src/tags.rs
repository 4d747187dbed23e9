//! The arithmetic: pure, portable and without an instruction of its own.

/// The bytes that share one allocation tag.
pub const GRANULE: usize = 16;

/// Where the tag starts in an address: bits 59:56.
const TAG_SHIFT: u32 = 56;
/// The bits that the tag takes in an address.
const TAG_BITS: u64 = 0xf << TAG_SHIFT;

/// A memory tag, 0 to 15.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(u8);

impl Tag {
    /// The tag of untagged addresses, and of memory that nobody tagged.
    pub const ZERO: Self = Self(0);
    /// How many tags there are.
    pub const COUNT: u32 = 16;

    /// Takes a number, or `None` if it is above 15.
    pub const fn new(number: u8) -> Option<Self> {
        if number < 16 { Some(Self(number)) } else { None }
    }

    /// The number.
    pub const fn get(self) -> u8 {
        self.0
    }
}

/// The logical tag of an address.
pub const fn tag_of(address: u64) -> Tag {
    Tag(((address & TAG_BITS) >> TAG_SHIFT) as u8)
}

/// The address with `tag` in place of the tag it has.
pub const fn with_tag(address: u64, tag: Tag) -> u64 {
    untag(address) | (tag.0 as u64) << TAG_SHIFT
}

/// The address with tag 0: the form that system calls such as the userfaultfd ioctls want.
pub const fn untag(address: u64) -> u64 {
    address & !TAG_BITS
}

/// Rounds down to a whole number of granules. A tag, if there is one, stays.
pub const fn granule_floor(bytes: u64) -> u64 {
    bytes & !(GRANULE as u64 - 1)
}

/// Rounds up to a whole number of granules, or `None` where that does not fit in 64 bits.
///
/// Round untagged addresses and sizes only: the last granule of the address space would carry into
/// the tag.
pub const fn granule_ceil(bytes: u64) -> Option<u64> {
    match bytes.checked_add(GRANULE as u64 - 1) {
        Some(sum) => Some(granule_floor(sum)),
        None => None,
    }
}

/// A set of tags; used for those that a choice must not give. Bit n stands for tag n, as in
/// `GCR_EL1.Exclude` and in the operand of `IRG` and `GMI`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TagSet(u16);

impl TagSet {
    /// No tag.
    pub const EMPTY: Self = Self(0);

    /// The set that a mask stands for.
    pub const fn from_mask(mask: u16) -> Self {
        Self(mask)
    }

    /// The mask, bit n for tag n.
    pub const fn mask(self) -> u16 {
        self.0
    }

    /// The set with `tag` in it.
    #[must_use]
    pub const fn insert(self, tag: Tag) -> Self {
        Self(self.0 | 1 << tag.0)
    }

    /// Whether `tag` is in the set.
    pub const fn contains(self, tag: Tag) -> bool {
        self.0 & 1 << tag.0 != 0
    }

    /// How many tags are in the set.
    pub const fn len(self) -> u32 {
        self.0.count_ones()
    }

    /// Whether no tag is in the set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// Chooses a tag that is not excluded, each with the same chance up to 2^-60 if `seed` is uniformly
/// random; `None` if all are excluded.
pub const fn choose(seed: u64, excluded: TagSet) -> Option<Tag> {
    let allowed = Tag::COUNT - excluded.len();
    if allowed == 0 {
        return None;
    }
    let mut skip = seed % allowed as u64;
    // Clearing the lowest bit `skip` times leaves the chosen one lowest.
    let mut candidates = !excluded.0;
    while skip > 0 {
        candidates &= candidates - 1;
        skip -= 1;
    }
    Some(Tag(candidates.trailing_zeros() as u8))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESSES: [u64; 6] =
        [0, 1, 0x7fff_ffff_fff0, 0x0a00_1234_5678_9abc, 0xf0ff_ffff_ffff_ffff, u64::MAX];

    fn all_tags() -> impl Iterator<Item = Tag> {
        (0..16).filter_map(Tag::new)
    }

    #[test]
    fn tags_are_the_numbers_below_sixteen() {
        assert_eq!(all_tags().count(), 16);
        for number in 0..=u8::MAX {
            assert_eq!(Tag::new(number).map(Tag::get), (number < 16).then_some(number));
        }
    }

    #[test]
    fn a_tag_changes_bits_59_to_56_and_no_others() {
        for address in ADDRESSES {
            for tag in all_tags() {
                let tagged = with_tag(address, tag);
                assert_eq!(tag_of(tagged), tag);
                assert_eq!(tagged & !(0xf << 56), address & !(0xf << 56));
                assert_eq!(untag(tagged), with_tag(address, Tag::ZERO));
            }
            assert_eq!(with_tag(address, tag_of(address)), address);
        }
    }

    #[test]
    fn rounding_gives_the_nearest_granule() {
        for bytes in (0..1000).chain(u64::MAX - 100..=u64::MAX) {
            let (floor, ceil) = (granule_floor(bytes), granule_ceil(bytes));
            assert!(floor % 16 == 0 && bytes - floor < 16);
            match ceil {
                Some(ceil) => assert!(ceil % 16 == 0 && ceil >= bytes && ceil - bytes < 16),
                None => assert!(bytes > u64::MAX - 15),
            }
        }
    }

    #[test]
    fn rounding_down_keeps_the_tag() {
        for address in ADDRESSES {
            assert_eq!(tag_of(granule_floor(address)), tag_of(address));
        }
    }

    #[test]
    fn a_set_holds_what_was_inserted() {
        for mask in 0..=u16::MAX {
            let set = TagSet::from_mask(mask);
            let rebuilt =
                all_tags().filter(|&tag| set.contains(tag)).fold(TagSet::EMPTY, TagSet::insert);
            assert_eq!((rebuilt, rebuilt.mask()), (set, mask));
            assert_eq!(set.len() as usize, all_tags().filter(|&tag| set.contains(tag)).count());
            assert_eq!(set.is_empty(), set == TagSet::EMPTY);
        }
    }

    #[test]
    fn every_allowed_tag_is_chosen_and_no_excluded_one() {
        for mask in 0..u16::MAX {
            let excluded = TagSet::from_mask(mask);
            let mut chosen = TagSet::EMPTY;
            // As many consecutive seeds as tags are allowed: each tag must come exactly once.
            for seed in 0..u64::from(16 - excluded.len()) {
                let tag = choose(seed + 1_000_003, excluded).unwrap();
                assert!(!excluded.contains(tag) && !chosen.contains(tag));
                chosen = chosen.insert(tag);
            }
            assert_eq!(chosen.mask(), !mask);
        }
        assert_eq!(choose(7, TagSet::from_mask(u16::MAX)), None);
        assert!(choose(u64::MAX, TagSet::EMPTY).is_some());
    }
}
