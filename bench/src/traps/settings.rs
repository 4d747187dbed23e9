//! Which traps refpage has: a peer each.

use crate::peers::{Peer, REFPAGE, is_own};

/// None: what ratios are taken to.
const NO_TRAPS: &str = ", no traps";
/// Every freed run waits.
pub const ALL: &str = ", all";

/// Endings of the names, and options.
const SETTINGS: [(&str, &str); 4] = [
    (NO_TRAPS, ":guards=off:quarantine=0"),
    ("", ""),
    (ALL, ":guards=on:quarantine=16G:quarantine_share=100"),
    (", guards", ":guards=on:quarantine=0"),
];

/// refpage, under whichever service, in every setting.
pub fn of(refpage: &Peer) -> [Peer; 4] {
    SETTINGS.map(|(ending, more)| {
        let mut peer = refpage.clone();
        peer.name.push_str(ending);
        // Behind what the user adds, because the last entry counts.
        for (_, options) in &mut peer.environment {
            options.push_str(more);
        }
        peer
    })
}

/// The service of a peer that is refpage in some setting.
pub fn service(peer: &str) -> Option<&str> {
    let name = peer.split(',').next()?;
    is_own(name).then_some(name)
}

/// What a peer's ratios are taken to: refpage without traps, under its own service if it is refpage.
pub fn base(peer: &str) -> String {
    without_traps(service(peer).unwrap_or(REFPAGE))
}

/// refpage without traps, under that service.
pub fn without_traps(service: &str) -> String {
    format!("{service}{NO_TRAPS}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers;

    #[test]
    fn settings_come_after_what_the_user_adds_and_the_default_has_none() {
        let peers = of(&peers::refpage(REFPAGE, "/lib/librefpage.so".as_ref(), "guards=right"));
        let options = |name: &str| {
            let peer = peers.iter().find(|peer| peer.name == name).expect(name);
            peer.environment[0].1.clone()
        };
        assert!(options("refpage, no traps").ends_with(":guards=off:quarantine=0"));
        assert!(options("refpage, all").ends_with(":quarantine_share=100"));
        assert!(options("refpage").ends_with(":stats=0"));
        assert!(peers.iter().all(|peer| peer.promise.is_some() && peer.service.is_none()));
    }

    #[test]
    fn a_setting_is_compared_under_its_own_service() {
        assert_eq!(base("refpage, all"), "refpage, no traps");
        assert_eq!(base("cow"), "cow, no traps");
        assert_eq!(base("scudo"), "refpage, no traps");
        assert_eq!(base("mmap+mprotect, quarantine"), "refpage, no traps");
        assert_eq!(service("memset, guards"), Some("memset"));
        assert_eq!(service("mmap+mprotect, quarantine"), None);
    }
}
