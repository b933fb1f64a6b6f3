//! Looks into packets before foca does: what it would take in and must not.

use super::identity::{Identity, Place};
use super::signal::Packet;
use super::table::Table;
use foca::{Header, Incarnation, Member, Message, State};
use std::borrow::Cow;

/// What foca would take in.
#[derive(Debug)]
pub(super) struct Seen<'a> {
    /// Who sent it.
    pub from: Identity,
    /// Places that are not known yet.
    pub strangers: Vec<Place>,
    /// The packet, with verdicts that come out of the blue turned into suspicions.
    pub packet: Cow<'a, [u8]>,
    /// How many of these there were.
    pub softened: u64,
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
pub(super) fn inspect<'a>(bytes: &'a [u8], me: &Identity, table: &Table) -> Result<Seen<'a>, Refusal> {
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
        && (target == me || table.get(&target.place()).is_none())
    {
        return Err(Refusal::Implausible);
    }
    let mut seen =
        Seen { from: header.src.clone(), strangers: Vec::new(), packet: Cow::Borrowed(bytes), softened: 0 };
    seen.meet(&header.src, table);
    if matches!(header.message, Message::Broadcast | Message::Announce | Message::TurnUndead) {
        return Ok(seen);
    }
    let Some((count, mut rest)) = rest.split_first_chunk::<2>() else {
        return if rest.is_empty() { Ok(seen) } else { Err(Refusal::Malformed) };
    };
    for _ in 0..u16::from_be_bytes(*count) {
        let (member, after): (Member<Identity>, _) =
            postcard::take_from_bytes(rest).map_err(|_| Refusal::Malformed)?;
        if !member.id().is_plausible() {
            return Err(Refusal::Implausible);
        }
        seen.meet(member.id(), table);
        if table.is_surprised_by(&member) && *member.id() != header.src {
            // A member ends with its state, which is one byte.
            let state = (bytes.len() - after.len()).checked_sub(1);
            if let Some(state) = state.and_then(|state| seen.packet.to_mut().get_mut(state)) {
                *state = SUSPECT;
                seen.softened += 1;
            }
        }
        rest = after;
    }
    Ok(seen)
}

/// Tells a suspect what is thought of it.
pub(super) fn accuse(
    from: &Identity,
    incarnation: Incarnation,
    suspect: &Member<Identity>,
) -> Option<Packet> {
    let header = Header {
        src: from.clone(),
        src_incarnation: incarnation,
        dst: suspect.id().clone(),
        message: Message::Gossip,
    };
    let mut bytes = postcard::to_stdvec(&header).ok()?;
    bytes.extend(1_u16.to_be_bytes());
    bytes.extend(postcard::to_stdvec(suspect).ok()?);
    Some(Packet { to: suspect.id().peer(), bytes: bytes.into() })
}

/// [`State::Suspect`] as it is written.
const SUSPECT: u8 = State::Suspect as u8;

impl Seen<'_> {
    fn meet(&mut self, identity: &Identity, table: &Table) {
        let place = identity.place();
        if table.get(&place).is_none() && !self.strangers.contains(&place) {
            self.strangers.push(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_written_as_expected() {
        for state in [State::Alive, State::Suspect, State::Down] {
            assert_eq!(
                postcard::to_stdvec(&Member::new(7_u8, 300, state)).unwrap().last(),
                Some(&(state as u8))
            );
        }
        assert_eq!(SUSPECT, 1);
    }
}
