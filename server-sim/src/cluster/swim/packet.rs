//! Looks into packets before foca does: what it would take in and must not.

use super::identity::{Identity, Place};
use super::signal::Peer;
use foca::{Header, Member, Message};

/// What foca would take in.
#[derive(Debug)]
pub(super) struct Seen {
    /// Who sent it.
    pub from: Peer,
    /// Places that are not known yet.
    pub strangers: Vec<Place>,
}

/// Why a packet is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It cannot be read.
    Malformed,
    /// It names nodes that cannot exist, or would make this one send to strangers.
    Implausible,
    /// It is for somebody else, or for another run of this node.
    Misdirected,
}

/// Reads a packet as foca will.
///
/// # Errors
/// Why it must not be given to foca.
pub(super) fn inspect(
    bytes: &[u8],
    me: &Identity,
    is_known: impl Fn(&Place) -> bool,
) -> Result<Seen, Refusal> {
    let (header, rest): (Header<Identity>, _) =
        postcard::take_from_bytes(bytes).map_err(|_| Refusal::Malformed)?;
    if !header.src.is_plausible() {
        return Err(Refusal::Implausible);
    }
    if header.src.place() == me.place() {
        return Err(Refusal::Misdirected);
    }
    let to_my_place = header.message == Message::Announce && header.dst.place() == me.place();
    if header.dst != *me && !to_my_place {
        return Err(Refusal::Misdirected);
    }
    // These make this node send to whom they name.
    if let Message::PingReq { target, .. } | Message::IndirectAck { target, .. } = &header.message
        && (target == me || !is_known(&target.place()))
    {
        return Err(Refusal::Implausible);
    }
    let from = header.src.peer();
    let mut strangers = Vec::new();
    let mut meet = |identity: &Identity| {
        let place = identity.place();
        if !is_known(&place) && !strangers.contains(&place) {
            strangers.push(place);
        }
    };
    meet(&header.src);
    if matches!(header.message, Message::Broadcast | Message::Announce | Message::TurnUndead) {
        return Ok(Seen { from, strangers });
    }
    let Some((count, mut rest)) = rest.split_first_chunk::<2>() else {
        return if rest.is_empty() { Ok(Seen { from, strangers }) } else { Err(Refusal::Malformed) };
    };
    for _ in 0..u16::from_be_bytes(*count) {
        let (member, after): (Member<Identity>, _) =
            postcard::take_from_bytes(rest).map_err(|_| Refusal::Malformed)?;
        if !member.id().is_plausible() {
            return Err(Refusal::Implausible);
        }
        meet(member.id());
        rest = after;
    }
    Ok(Seen { from, strangers })
}
