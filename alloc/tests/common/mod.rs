//! What the tests share.

use refpage_alloc::service_name;

/// The reason why no pages can go from place to place in this process, if there is one.
pub fn no_moves() -> Option<String> {
    if service_name() != "lazy" {
        return Some(format!("no pages are moved under {}", service_name()));
    }
    let (channel, _) = refpage::probe_channel();
    let moves = channel.is_some_and(|(_, features)| features.has_move());
    (!moves).then(|| "this kernel cannot move pages".into())
}
