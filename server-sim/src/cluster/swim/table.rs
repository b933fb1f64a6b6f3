//! The members as they were after the last input, to tell what an input changed.

use super::description::{Descriptions, Run};
use super::identity::{Identity, Place};
use super::signal::{Event, Peer};
use super::stats::SwimStats;
use crate::cluster::{Member, MemberState, NodeId, Phase};
use crate::listener::Advertised;
use foca::State;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Instant;

/// One run of another node.
#[derive(Debug)]
pub(super) struct Row {
    pub identity: Identity,
    pub state: State,
    /// Since when it is in this state.
    pub since: Instant,
    /// Whether it is foca's opinion too. It is not after this node came back: what it thought of others while nobody heard
    /// it is worth nothing, yet until somebody says otherwise they are shown as dead.
    pub doubtful: bool,
    /// When it was last told that it is a suspect.
    pub accused: Option<Instant>,
}

impl Row {
    pub fn peer(&self) -> Peer {
        self.identity.peer()
    }

    pub fn run(&self) -> Run {
        (self.identity.id, self.identity.generation)
    }

    pub fn is_down(&self) -> bool {
        self.state == State::Down
    }

    pub fn has_left(&self, descriptions: &Descriptions) -> bool {
        self.is_down() && descriptions.get(self.run()).is_some_and(|description| description.left)
    }

    pub fn member_state(&self, descriptions: &Descriptions) -> MemberState {
        match self.state {
            State::Alive => MemberState::Alive,
            State::Suspect => MemberState::Suspect,
            State::Down if self.has_left(descriptions) => MemberState::Left,
            State::Down => MemberState::Down,
        }
    }

    /// Of several runs of a node that one counts which is there, then the latest.
    pub fn rank(&self) -> (bool, (u64, u32)) {
        (!self.is_down(), self.identity.age())
    }

    pub fn member(&self, descriptions: &Descriptions) -> Member {
        let identity = &self.identity;
        let description = descriptions.get(self.run());
        Member {
            id: identity.id,
            generation: identity.generation,
            internal: identity.internal,
            state: self.member_state(descriptions),
            phase: description.map_or(Phase::Starting, |description| description.phase),
            advertised: description.map_or_else(
                || Advertised { main: identity.client(), extra: Vec::new() },
                |description| description.advertised.clone(),
            ),
            version: description.map_or_else(String::new, |description| description.version.clone()),
            commit: description.map_or_else(String::new, |description| description.commit.clone()),
        }
    }
}

/// What an input changed.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Whether anything did.
    pub any: bool,
    pub events: Vec<Event>,
}

/// All other nodes that are known, dead ones included.
#[derive(Debug, Default)]
pub(super) struct Table {
    rows: BTreeMap<Place, Row>,
}

impl Table {
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn get(&self, place: &Place) -> Option<&Row> {
        self.rows.get(place)
    }

    pub fn rows(&self) -> impl Iterator<Item = &Row> {
        self.rows.values()
    }

    /// A row of this very identity, to be changed.
    pub fn row_of(&mut self, identity: &Identity) -> Option<&mut Row> {
        self.rows.get_mut(&identity.place()).filter(|row| row.identity == *identity)
    }

    /// The runs of one node, by their addresses.
    pub fn of_node(&self, id: NodeId) -> impl Iterator<Item = &Row> {
        let first = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
        self.rows.range((id, first)..).take_while(move |((other, _), _)| *other == id).map(|(_, row)| row)
    }

    pub fn remove(&mut self, place: &Place) -> Option<Row> {
        self.rows.remove(place)
    }

    /// The dead, those first that have been so for the longest time.
    pub fn oldest_down(&self) -> Vec<Identity> {
        let mut down: Vec<&Row> = self.rows().filter(|row| row.is_down()).collect();
        down.sort_by_key(|row| row.since);
        down.into_iter().map(|row| row.identity.clone()).collect()
    }

    /// Whether somebody is said to be dead who was no suspect so far.
    ///
    /// A suspicion is known everywhere long before the verdict. A verdict that comes out of the blue is one by somebody who
    /// has missed the refutation, or was cut off: it counts as a suspicion, which can be refuted, or the mistake of one node
    /// would become that of all.
    pub fn is_surprised_by(&self, member: &foca::Member<Identity>) -> bool {
        let unsuspected = |row: &Row| row.state == State::Alive && row.identity == *member.id();
        member.state() == State::Down && self.get(&member.id().place()).is_some_and(unsuspected)
    }

    /// Whether the node of a dead run is alive at another place.
    pub fn lives_elsewhere(&self, row: &Row, me: &Identity) -> bool {
        let id = row.identity.id;
        id == me.id || self.of_node(id).any(|other| !other.is_down())
    }

    /// Doubts all that are dead but those that said they go.
    pub fn doubt(&mut self, descriptions: &Descriptions) {
        for row in self.rows.values_mut() {
            row.doubtful = row.is_down() && !row.has_left(descriptions);
        }
    }

    /// Takes over what foca thinks, and tells what changed.
    pub fn follow<'a>(
        &mut self,
        me: &Identity,
        members: impl Iterator<Item = &'a foca::Member<Identity>>,
        descriptions: &mut Descriptions,
        stats: &mut SwimStats,
        now: Instant,
    ) -> Changes {
        let mut any = false;
        let mut events = Vec::new();
        let my_place = me.place();
        for member in members {
            let (identity, state) = (member.id(), member.state());
            let place = identity.place();
            if place == my_place {
                continue;
            }
            let Some(row) = self.rows.get_mut(&place) else {
                let row =
                    Row { identity: identity.clone(), state, since: now, doubtful: false, accused: None };
                descriptions.expect(row.run());
                if state != State::Down {
                    events.push(Event::Up(row.peer()));
                }
                if state == State::Suspect {
                    stats.suspicions += 1;
                    events.push(Event::Suspect(row.peer()));
                }
                self.rows.insert(place, row);
                any = true;
                continue;
            };
            if row.doubtful && identity.age() < row.identity.age() {
                // Foca has forgotten the later run, and somebody still speaks of this one.
                continue;
            }
            row.doubtful = false;
            if row.state == state && row.identity.age() == identity.age() {
                continue;
            }
            any = true;
            let before = std::mem::replace(&mut row.state, state);
            row.since = now;
            row.accused = None;
            let same_run = row.identity.generation == identity.generation;
            if row.identity != *identity {
                row.identity = identity.clone();
                descriptions.expect(row.run());
            }
            let peer = row.peer();
            if before == State::Down && state != State::Down && same_run {
                stats.false_downs += 1;
                events.push(Event::WronglyDown(peer));
            }
            if state != State::Down && (before == State::Down || !same_run) {
                events.push(Event::Up(peer));
            }
            match state {
                State::Alive if before == State::Suspect && same_run => {
                    stats.refutations += 1;
                    events.push(Event::Refuted(peer));
                }
                State::Alive => {}
                State::Suspect if before == State::Suspect => {}
                State::Suspect => {
                    stats.suspicions += 1;
                    events.push(Event::Suspect(peer));
                }
                State::Down if before == State::Down => {}
                State::Down if row.has_left(descriptions) => {
                    stats.lefts += 1;
                    events.push(Event::Left(peer));
                }
                State::Down => {
                    stats.downs += 1;
                    events.push(Event::Down(peer));
                }
            }
        }
        let ups: Vec<Peer> = events
            .iter()
            .filter_map(|event| match event {
                Event::Up(peer) => Some(*peer),
                _ => None,
            })
            .collect();
        for up in ups {
            events.extend(self.twins(me, up));
        }
        Changes { any, events }
    }

    /// Others alive under the number of a node that just came up.
    fn twins(&self, me: &Identity, up: Peer) -> Vec<Event> {
        let others = self.rows().filter(|row| row.state == State::Alive).map(Row::peer);
        let twins =
            others.chain([me.peer()]).filter(|other| other.id == up.id && other.internal != up.internal);
        twins.map(|other| Event::Duplicate { older: other.min(up), newer: other.max(up) }).collect()
    }
}
