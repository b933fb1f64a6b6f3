//! The membership of one node.

use super::collector::Collector;
use super::description::{Description, DescriptionTooLong, Shared};
use super::health::LocalHealth;
use super::identity::{Identity, Place};
use super::packet::{Refusal, accuse, inspect};
use super::records::Records;
use super::settings::{GossipSettings, REMEMBER_DOWN};
use super::signal::{Event, Input, Output};
use super::stats::SwimStats;
use super::table::{Row, Table};
use super::timer::{TimerToken, Wake};
use crate::cluster::{Member, MemberState, Members, NodeId, Phase};
use foca::{Foca, PostcardCodec, State, Timer};
use rand_0_10::rngs::SmallRng;
use rand_0_10::seq::IteratorRandom as _;
use rand_0_10::{RngExt as _, SeedableRng as _};
use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest packet in bytes, taken or sent. It leaves 120 bytes of a usual 1,400 for what packets are sealed with.
pub const MAX_PACKET: usize = 1280;
/// So many nodes are known at most, dead ones included; of those the oldest are forgotten first.
pub const MAX_MEMBERS: usize = 512;

/// A node that leaves says so to so many others itself.
const MAX_GOODBYES: usize = 64;
/// How often the dead are looked through for those to forget.
const SWEEP: Duration = Duration::from_secs(60);

const PACKET_SIZE: NonZeroUsize = NonZeroUsize::new(MAX_PACKET).unwrap();

type Swim = Foca<Identity, PostcardCodec, SmallRng, Shared>;

/// The membership of one node: who is there, as far as it knows.
///
/// It does nothing by itself: it is [fed](Membership::handle) with what happens and answers with what to do. Whatever
/// comes from the network is counted and dropped if it is not good; nothing of it can make the membership fail or grow
/// without bound.
pub struct Membership {
    foca: Swim,
    /// Counts the focas there were: timers of earlier ones are void.
    life: u64,
    settings: GossipSettings,
    /// The size of the cluster that foca is set for.
    nodes: usize,
    identity: Identity,
    /// How often this identity refuted, as it tells others.
    incarnation: foca::Incarnation,
    me: Description,
    table: Table,
    descriptions: Shared,
    health: LocalHealth,
    /// Whether a probe is under way.
    probing: bool,
    /// Whether a timer is under way that asks for missing descriptions.
    asking: bool,
    left: bool,
    stats: SwimStats,
    rng: SmallRng,
}

impl fmt::Debug for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Membership")
            .field("identity", &self.identity)
            .field("table", &self.table)
            .finish_non_exhaustive()
    }
}

impl Membership {
    /// A node that knows nobody yet; it learns of others by their packets and records. Its generation has to be higher
    /// than in all its earlier runs. The output is what to do first.
    ///
    /// # Errors
    /// What the node says about itself does not fit into a packet.
    pub fn new(
        me: &Member,
        settings: GossipSettings,
        seed: u64,
        now: Instant,
    ) -> Result<(Self, Output), DescriptionTooLong> {
        let identity = Identity::new(me.id, me.internal, me.generation, &me.advertised.main);
        let me = Description::of(me);
        me.encode()?;
        let descriptions = Shared::default();
        descriptions.lock().set_me(me.clone());
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut membership = Membership {
            foca: swim(&identity, &settings, 1, &mut rng, &descriptions),
            life: 0,
            nodes: 1,
            identity,
            incarnation: 0,
            me,
            table: Table::default(),
            descriptions,
            health: LocalHealth::new(settings.max_local_health),
            probing: false,
            asking: false,
            left: false,
            stats: SwimStats::default(),
            rng,
            settings,
        };
        let mut output = Output::default();
        membership.spread_description();
        let first = membership.settings.push_pull_interval.mul_f64(membership.rng.random_range(0.1..1.0));
        membership.wake_in(first, Wake::PushPull, now, &mut output);
        membership.wake_in(membership.settings.reconnect(), Wake::Reconnect, now, &mut output);
        membership.wake_in(SWEEP, Wake::Sweep, now, &mut output);
        Ok((membership, output))
    }

    /// Takes in what happened and tells what to do now.
    pub fn handle(&mut self, input: Input<'_>, now: Instant) -> Output {
        let mut output = Output::default();
        if self.left {
            return output;
        }
        match input {
            Input::Packet(bytes) => self.packet(bytes, now, &mut output),
            Input::Timer(token) => self.timer(token, now, &mut output),
            Input::Records(bytes) => self.merge(bytes, now, &mut output),
            Input::Phase(phase) => {
                self.me.phase = phase;
                self.describe_again();
                self.gossip(now, &mut output);
            }
            Input::Generation(generation) if generation > self.identity.generation => {
                let next = Identity { generation, returns: 0, ..self.identity.clone() };
                self.begin_again(next, now, &mut output);
            }
            Input::Generation(_) => {}
            Input::SessionOver(node, generation) => self.confirm(node, generation, now, &mut output),
            Input::Leave => self.leave(now, &mut output),
        }
        self.let_go(now, &mut output);
        self.follow(now, &mut output);
        output.members_changed |= self.descriptions.lock().take_changed();
        output
    }

    /// All nodes it knows, itself included, suspects and dead ones too. Of a node that was started again or moved only the
    /// newest run, or the one that is alive.
    pub fn members(&self) -> Members {
        let descriptions = self.descriptions.lock();
        let mut rows: BTreeMap<NodeId, &Row> = BTreeMap::new();
        for row in self.table.rows() {
            let best = rows.entry(row.identity.id).or_insert(row);
            if row.rank() > best.rank() {
                *best = row;
            }
        }
        let mut nodes: BTreeMap<NodeId, Member> =
            rows.into_iter().map(|(id, row)| (id, row.member(&descriptions))).collect();
        nodes.insert(self.identity.id, self.as_member());
        Members { me: self.identity.id, nodes: Arc::new(nodes) }
    }

    /// What it thinks of one node, as [`Membership::members`] has it.
    pub fn state_of(&self, id: NodeId) -> Option<MemberState> {
        if id == self.identity.id {
            return Some(self.own_state());
        }
        let row = self.table.of_node(id).max_by_key(|row| row.rank())?;
        Some(row.member_state(&self.descriptions.lock()))
    }

    fn own_state(&self) -> MemberState {
        if self.left { MemberState::Left } else { MemberState::Alive }
    }

    fn as_member(&self) -> Member {
        Member {
            id: self.identity.id,
            generation: self.identity.generation,
            internal: self.identity.internal,
            state: self.own_state(),
            phase: self.me.phase,
            advertised: self.me.advertised.clone(),
            version: self.me.version.clone(),
            commit: self.me.commit.clone(),
        }
    }

    /// Everything it knows, for a push/pull. At most [`super::MAX_RECORDS`] bytes.
    pub fn records(&self) -> Vec<u8> {
        let my_place = self.place();
        let members =
            self.foca.iter_membership_state().filter(|member| member.id().place() != my_place).cloned();
        let descriptions = self.descriptions.lock().iter().cloned().collect();
        let records = Records {
            from: self.identity.clone(),
            incarnation: self.incarnation,
            members: members.collect(),
            descriptions,
        };
        records.encode()
    }

    /// What it counted so far.
    pub fn stats(&self) -> SwimStats {
        let count = |state| self.table.rows().filter(|row| row.state == state).count();
        SwimStats {
            local_health: self.health.score(),
            alive: count(State::Alive) + usize::from(!self.left),
            suspect: count(State::Suspect),
            down: count(State::Down),
            ..self.stats
        }
    }

    fn place(&self) -> Place {
        self.identity.place()
    }

    fn packet(&mut self, bytes: &[u8], now: Instant, output: &mut Output) {
        self.stats.packets_received += 1;
        self.stats.bytes_received += bytes.len() as u64;
        let seen = match inspect(bytes, &self.identity, &self.table) {
            Ok(seen) if self.make_room(seen.strangers.len()) => seen,
            Ok(_) | Err(Refusal::Implausible) => return self.stats.refused += 1,
            Err(Refusal::Malformed) => return self.stats.malformed += 1,
            Err(Refusal::Misdirected) => return self.stats.misdirected += 1,
        };
        self.stats.doubted_verdicts += seen.softened;
        let life = self.life;
        let mut run = Collector::default();
        if self.foca.handle_data(&seen.packet, &mut run).is_err() {
            self.stats.malformed += 1;
        }
        self.settle(run, now, output);
        self.accuse(&seen.from, now, output);
        if self.life != life {
            // It said that this node is dead: it knows what else was missed here.
            output.push_pull.push(seen.from.peer());
        }
    }

    fn timer(&mut self, mut token: TimerToken, now: Instant, output: &mut Output) {
        let timer = match token.what {
            Wake::Foca(_) if token.life != self.life => return,
            Wake::Foca(ref timer) => timer.clone(),
            ref own => return self.own_timer(own.clone(), now, output),
        };
        let late = now.saturating_duration_since(token.due) > self.settings.roundtrip_timeout;
        if late && !token.put_off {
            // The answers may lie in the socket, behind this timer: the verdict has to wait until they are read.
            let pause = match timer {
                Timer::ProbeRandomMember(_) if self.probing => {
                    self.health.worse();
                    Some(self.settings.probe_interval.saturating_sub(self.settings.roundtrip_timeout))
                }
                Timer::ChangeSuspectToDown { .. } => Some(self.settings.probe_interval),
                _ => None,
            };
            if let Some(pause) = pause {
                self.stats.late_timers += 1;
                (token.due, token.put_off) = (now + pause, true);
                output.timers.push((pause, token));
                return;
            }
        }
        if let Timer::ChangeSuspectToDown { member_id, incarnation, .. } = &timer
            && !self.is_suspect(member_id, *incarnation)
        {
            // Foca would tell it that it is dead, although it has refuted.
            return;
        }
        // A verdict is stretched by how this node was before, or every first failure would double its own.
        let verdict = self.health;
        let mut run = Collector::default();
        let ends_probe = matches!(timer, Timer::ProbeRandomMember(_)) && self.probing;
        // What foca complains about here it has also put right: a probe that was not completed.
        let _ = self.foca.handle_timer(timer, &mut run);
        if ends_probe {
            self.judge_probe(run.failed.as_ref());
            self.probing = run.pinged.is_some();
        } else {
            self.probing |= run.pinged.is_some();
        }
        let pinged = run.pinged.clone();
        self.settle_after(run, verdict, now, output);
        if let Some(pinged) = pinged {
            self.accuse(&pinged, now, output);
        }
    }

    /// Whoever is probed or heard of while it is a suspect is told so: rumours have an end, and it could not refute one that
    /// never came through to it.
    /// Not more often than it can answer, or two nodes that are slow would bury each other in packets.
    fn accuse(&mut self, node: &Identity, now: Instant, output: &mut Output) {
        let pause = self.settings.roundtrip_timeout;
        let Some(row) = self.table.row_of(node).filter(|row| row.state == State::Suspect) else { return };
        if row.accused.is_some_and(|told| now.saturating_duration_since(told) < pause) {
            return;
        }
        let suspect =
            self.foca.iter_members().find(|member| member.id() == node && member.state() == State::Suspect);
        if let Some(packet) = suspect.and_then(|suspect| accuse(&self.identity, self.incarnation, suspect)) {
            row.accused = Some(now);
            self.stats.packets_sent += 1;
            self.stats.gossip_sent += 1;
            self.stats.bytes_sent += packet.bytes.len() as u64;
            output.packets.push(packet);
        }
    }

    fn is_suspect(&self, identity: &Identity, incarnation: foca::Incarnation) -> bool {
        let suspicion = foca::Member::new(identity.clone(), incarnation, State::Suspect);
        self.foca.iter_members().any(|member| *member == suspicion)
    }

    /// A failed probe speaks against this node, too, unless others have found the same.
    fn judge_probe(&mut self, failed: Option<&Identity>) {
        let Some(failed) = failed else { return self.health.better() };
        self.stats.probes_failed += 1;
        let alone = self.table.get(&failed.place()).is_some_and(|row| row.state == State::Alive);
        if alone {
            self.health.worse();
        }
    }

    fn own_timer(&mut self, what: Wake, now: Instant, output: &mut Output) {
        match what {
            Wake::PushPull => {
                let active = self.table.rows().filter(|row| !row.is_down());
                output.push_pull.extend(active.choose(&mut self.rng).map(Row::peer));
                self.wake_in(self.settings.push_pull(self.nodes), what, now, output);
            }
            Wake::Reconnect => {
                let descriptions = self.descriptions.lock();
                let dead = self.table.rows().filter(|row| {
                    row.is_down()
                        && !row.has_left(&descriptions)
                        && !self.table.lives_elsewhere(row, &self.identity)
                });
                output.push_pull.extend(dead.choose(&mut self.rng).map(Row::peer));
                drop(descriptions);
                self.wake_in(self.settings.reconnect(), what, now, output);
            }
            Wake::Missing => {
                let descriptions = self.descriptions.lock();
                let missing =
                    self.table.rows().filter(|row| !row.is_down() && descriptions.get(row.run()).is_none());
                // Whoever is asked will know most of the others, too.
                let asked = missing.choose(&mut self.rng).map(Row::peer);
                drop(descriptions);
                self.asking = false;
                if let Some(peer) = asked {
                    output.push_pull.push(peer);
                    self.ask_in(self.settings.probe_interval.saturating_mul(2), now, output);
                }
            }
            Wake::Sweep => {
                let old =
                    |row: &&Row| row.is_down() && now.saturating_duration_since(row.since) >= REMEMBER_DOWN;
                let old: Vec<Identity> =
                    self.table.rows().filter(old).map(|row| row.identity.clone()).collect();
                output.members_changed |= !old.is_empty();
                old.into_iter().for_each(|identity| self.forget(identity));
                self.descriptions.lock().retain(self.table.rows().map(Row::run));
                self.wake_in(SWEEP, what, now, output);
            }
            Wake::Foca(_) => {}
        }
    }

    /// Forgets as many of those that are dead for the longest time as are needed for so many new ones.
    fn make_room(&mut self, newcomers: usize) -> bool {
        let room = (MAX_MEMBERS - 1).saturating_sub(self.table.len());
        if newcomers <= room {
            return true;
        }
        let down = self.table.oldest_down();
        let missing = newcomers - room;
        if down.len() < missing {
            return false;
        }
        down.into_iter().take(missing).for_each(|identity| self.forget(identity));
        true
    }

    fn forget(&mut self, identity: Identity) {
        self.table.remove(&identity.place());
        // It only looks for the member and takes it out.
        let _ = self.foca.handle_timer(Timer::RemoveDown(identity), Collector::default());
    }

    /// Takes over what another node knows.
    fn merge(&mut self, bytes: &[u8], now: Instant, output: &mut Output) {
        let Some(records) = Records::decode(bytes) else { return self.stats.malformed += 1 };
        let place = records.from.place();
        let identities = || records.members.iter().map(foca::Member::id).chain([&records.from]);
        let known = |identity: &Identity| {
            identity.place() == self.place() || self.table.get(&identity.place()).is_some()
        };
        let strangers = identities().filter(|identity| !known(identity)).count();
        let fits = records.members.len() < MAX_MEMBERS && identities().all(Identity::is_plausible);
        if place == self.place() || !fits || !self.make_room(strangers) {
            return self.stats.refused += 1;
        }
        self.take_descriptions(&records);
        let stale = self
            .table
            .get(&place)
            .is_some_and(|row| row.is_down() && !row.doubtful && row.identity.age() >= records.from.age());
        let says_dead =
            |member: &&foca::Member<Identity>| *member.id() == self.identity && member.state() == State::Down;
        let says_dead = records.members.iter().find(says_dead).is_some();
        if stale {
            // Each thinks the other is dead. The one that sees fewer nodes was cut off: it comes back and forgets whom it
            // thought dead. If that is the other one, it will do so when it has got this node's records.
            let theirs = (records.active(), records.from.id);
            if !says_dead || theirs < (self.foca.num_members() + 1, self.identity.id) {
                return;
            }
            self.come_back(now, output);
        }
        let from = foca::Member::new(records.from, records.incarnation, State::Alive);
        let members = records.members.into_iter().filter(|member| !stale || member.state() != State::Down);
        let mut updates: Vec<_> = [from].into_iter().chain(members).collect();
        for member in &mut updates {
            if self.table.is_surprised_by(member) {
                self.stats.doubted_verdicts += 1;
                *member = foca::Member::new(member.id().clone(), member.incarnation(), State::Suspect);
            }
        }
        let life = self.life;
        self.apply(updates.clone(), now, output);
        if self.life != life {
            // It came back in between, and forgot what it had just heard.
            self.apply(updates, now, output);
        }
    }

    /// Who said that it goes is gone, whatever else is heard of it.
    fn let_go(&mut self, now: Instant, output: &mut Output) {
        let leaving = self.descriptions.lock().take_leaving();
        if leaving.is_empty() {
            return;
        }
        let run = |identity: &Identity| (identity.id, identity.generation);
        let left = self.foca.iter_members().filter(|member| leaving.contains(&run(member.id())));
        let left =
            left.map(|member| foca::Member::new(member.id().clone(), member.incarnation(), State::Down));
        let left: Vec<_> = left.collect();
        self.apply(left, now, output);
    }

    /// A suspect without a session is not worth waiting for: it serves nothing, whether it is dead or only slow. Who is no
    /// suspect stays, as it answers.
    fn confirm(&mut self, node: NodeId, generation: u64, now: Instant, output: &mut Output) {
        let is_meant = |member: &&foca::Member<Identity>| {
            let identity = member.id();
            member.state() == State::Suspect && identity.id == node && identity.generation == generation
        };
        let dead = self.foca.iter_members().filter(is_meant);
        let dead =
            dead.map(|member| foca::Member::new(member.id().clone(), member.incarnation(), State::Down));
        let dead: Vec<_> = dead.collect();
        if dead.is_empty() {
            return;
        }
        self.stats.confirmed += dead.len() as u64;
        self.apply(dead, now, output);
        self.gossip(now, output);
    }

    fn apply(&mut self, updates: Vec<foca::Member<Identity>>, now: Instant, output: &mut Output) {
        let mut run = Collector::default();
        // It fails only if a member cannot be written into a vector.
        let _ = self.foca.apply_many(updates.into_iter(), true, &mut run);
        self.settle(run, now, output);
    }

    /// What the teller says about itself goes on as a rumour; what it heard from others has been one already.
    fn take_descriptions(&mut self, records: &Records) {
        for description in &records.descriptions {
            let Ok(bytes) = description.encode() else {
                self.stats.refused += 1;
                continue;
            };
            let own = description.run() == (records.from.id, records.from.generation);
            let news = self.descriptions.lock().take(description.clone());
            if own && news {
                let _ = self.foca.add_broadcast(&bytes);
            }
        }
    }

    /// Turns what foca wants into what the caller has to do.
    fn settle(&mut self, run: Collector, now: Instant, output: &mut Output) {
        self.settle_after(run, self.health, now, output);
    }

    fn settle_after(&mut self, run: Collector, verdict: LocalHealth, now: Instant, output: &mut Output) {
        if let Some(incarnation) = run.incarnation.filter(|incarnation| *incarnation > self.incarnation) {
            self.incarnation = incarnation;
            self.stats.own_refutations += 1;
            self.health.worse();
        }
        self.stats.probes += u64::from(run.pinged.is_some());
        self.stats.indirect_probes += run.indirect;
        self.stats.gossip_sent += run.gossip;
        self.stats.packets_sent += run.packets.len() as u64;
        self.stats.bytes_sent += run.packets.iter().map(|packet| packet.bytes.len() as u64).sum::<u64>();
        output.packets.extend(run.packets);
        for (after, timer) in run.timers {
            let after = match timer {
                // Done by sweeping: a node that dies often would have a day's worth of timers.
                Timer::RemoveDown(_) => continue,
                Timer::ChangeSuspectToDown { .. } => after.saturating_mul(verdict.factor()),
                Timer::ProbeRandomMember(_) | Timer::SendIndirectProbe { .. } => {
                    after.saturating_mul(self.health.factor())
                }
                _ => after,
            };
            self.wake_in(after, Wake::Foca(timer), now, output);
        }
        if run.defunct && !self.left {
            self.come_back(now, output);
        }
    }

    fn wake_in(&self, after: Duration, what: Wake, now: Instant, output: &mut Output) {
        let token = TimerToken { what, due: now + after, life: self.life, put_off: false };
        output.timers.push((after, token));
    }

    fn ask_in(&mut self, after: Duration, now: Instant, output: &mut Output) {
        if !std::mem::replace(&mut self.asking, true) {
            self.wake_in(after, Wake::Missing, now, output);
        }
    }

    /// Compares with what foca thinks now, and sets it for the size of the cluster.
    fn follow(&mut self, now: Instant, output: &mut Output) {
        let mut descriptions = self.descriptions.lock();
        let members = self.foca.iter_membership_state();
        let changes = self.table.follow(&self.identity, members, &mut descriptions, &mut self.stats, now);
        let missing = changes.any
            && self.table.rows().any(|row| !row.is_down() && descriptions.get(row.run()).is_none());
        drop(descriptions);
        output.members_changed |= changes.any;
        output.events.extend(changes.events);
        if missing {
            self.ask_in(self.settings.gossip_interval.saturating_mul(2), now, output);
        }
        let nodes = self.foca.num_members() + 1;
        if nodes != self.nodes {
            self.nodes = nodes;
            // Only what may be changed is.
            let _ = self.foca.set_config(self.settings.of_foca(nodes, PACKET_SIZE));
        }
    }

    /// Others declared this node dead while it was not: it returns under a new name.
    fn come_back(&mut self, now: Instant, output: &mut Output) {
        // Four thousand million returns of one run do not happen.
        let Some(next) = self.identity.again() else { return };
        self.follow(now, output);
        // Nobody heard this node, so it heard nobody: what it thought of others is worth nothing now.
        self.table.doubt(&self.descriptions.lock());
        self.stats.returns += 1;
        self.health.worse();
        output.events.push(Event::Returned);
        self.begin_again(next, now, output);
    }

    /// Goes on under another identity, knowing what it knew but for what is doubtful.
    fn begin_again(&mut self, next: Identity, now: Instant, output: &mut Output) {
        let my_place = self.place();
        let known: Vec<_> = self
            .foca
            .iter_membership_state()
            .filter(|member| {
                let place = member.id().place();
                place != my_place && self.table.get(&place).is_some_and(|row| !row.doubtful)
            })
            .cloned()
            .collect();
        self.foca = swim(&next, &self.settings, self.nodes, &mut self.rng, &self.descriptions);
        self.life += 1;
        (self.incarnation, self.probing) = (0, false);
        if self.identity.generation != next.generation {
            self.me.generation = next.generation;
            self.me.counter = 0;
            self.descriptions.lock().set_me(self.me.clone());
        }
        self.identity = next;
        let mut run = Collector::default();
        // Others know all that already. It fails only if a member cannot be written into a vector.
        let _ = self.foca.apply_many(known.into_iter(), false, &mut run);
        self.settle(run, now, output);
        self.spread_description();
        self.gossip(now, output);
    }

    fn describe_again(&mut self) {
        self.me.counter += 1;
        self.descriptions.lock().set_me(self.me.clone());
        self.spread_description();
    }

    fn spread_description(&mut self) {
        // Its length was checked at the beginning, and only numbers have changed since.
        if let Ok(bytes) = self.me.encode() {
            let _ = self.foca.add_broadcast(&bytes);
        }
    }

    /// Tells some others right now what is new.
    fn gossip(&mut self, now: Instant, output: &mut Output) {
        let mut run = Collector::default();
        // It fails only if a packet has no room for two identities.
        let _ = self.foca.gossip(&mut run);
        self.settle(run, now, output);
    }

    /// Says goodbye to everybody, twice.
    fn leave(&mut self, now: Instant, output: &mut Output) {
        let others = self.foca.num_members().clamp(1, MAX_GOODBYES);
        let mut config = self.settings.of_foca(self.nodes, PACKET_SIZE);
        config.num_indirect_probes = NonZeroUsize::new(others).unwrap_or(NonZeroUsize::MIN);
        config.max_transmissions = std::num::NonZeroU8::MAX;
        let _ = self.foca.set_config(config);
        self.me.left = true;
        self.me.phase = Phase::Draining;
        self.describe_again();
        self.left = true;
        let mut run = Collector::default();
        let _ = self.foca.leave_cluster(&mut run);
        let _ = self.foca.gossip(&mut run);
        self.settle(run, now, output);
        output.timers.clear();
        output.members_changed = true;
    }
}

fn swim(
    identity: &Identity,
    settings: &GossipSettings,
    nodes: usize,
    rng: &mut SmallRng,
    descriptions: &Shared,
) -> Swim {
    Foca::with_custom_broadcast(
        identity.clone(),
        settings.of_foca(nodes, PACKET_SIZE),
        SmallRng::seed_from_u64(rng.random()),
        PostcardCodec,
        descriptions.clone(),
    )
}
