//! What the tests share.

use refpage_alloc::service_name;

/// The reason why pages of a run that was hardly used before go nowhere in this process, if there is
/// one.
pub fn no_moves() -> Option<String> {
    match service_name() {
        "lazy" => {}
        "eager" => return None,
        other => return Some(format!("no such pages are moved under {other}")),
    }
    let (channel, _) = refpage::probe_channel();
    let moves = channel.is_some_and(|(_, features)| features.has_move());
    (!moves).then(|| "this kernel cannot move pages".into())
}
