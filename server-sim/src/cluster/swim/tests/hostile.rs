//! What comes from a network and is no good.

use crate::cluster::NodeId;
use crate::cluster::swim::sim::{World, address_of, id_of, member};
use crate::cluster::swim::{
    GossipSettings, Input, MAX_DESCRIPTION, MAX_MEMBERS, MAX_PACKET, Membership, Output,
};
use crate::listener::Address;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

fn node(number: usize, now: Instant) -> Membership {
    let me = member(id_of(number), 1, address_of(number));
    Membership::new(&me, GossipSettings::default(), number as u64, now).unwrap().0
}

/// Two nodes that know each other, and everything they said.
fn acquainted(now: Instant) -> (Membership, Membership, Vec<Vec<u8>>) {
    let (mut a, mut b) = (node(0, now), node(1, now));
    let mut said = Vec::new();
    b.handle(Input::Records(&a.records()), now);
    let mut to_a: Vec<Output> = vec![a.handle(Input::Records(&b.records()), now)];
    for second in 1..20 {
        let at = now + Duration::from_millis(second * 500);
        let timers: Vec<_> = to_a.drain(..).flat_map(|output| output.timers).collect();
        for (_, token) in timers {
            let output = a.handle(Input::Timer(token), at);
            for packet in &output.packets {
                said.push(packet.bytes.to_vec());
                for reply in b.handle(Input::Packet(&packet.bytes), at).packets {
                    said.push(reply.bytes.to_vec());
                    a.handle(Input::Packet(&reply.bytes), at);
                }
            }
            to_a.push(output);
        }
    }
    assert!(said.len() > 10, "{}", said.len());
    (a, b, said)
}

#[test]
fn damaged_packets_are_counted_and_change_nothing_that_lasts() {
    let now = Instant::now();
    let (mut a, mut b, said) = acquainted(now);
    let mut fed = 0_u64;
    for packet in &said {
        for cut in 0..packet.len() {
            b.handle(Input::Packet(&packet[..cut]), now);
            fed += 1;
        }
        for position in 0..packet.len() {
            for bit in [0, 3, 7] {
                let mut damaged = packet.clone();
                damaged[position] ^= 1 << bit;
                for node in [&mut a, &mut b] {
                    node.handle(Input::Packet(&damaged), now);
                    node.handle(Input::Records(&damaged), now);
                }
                fed += 1;
            }
        }
    }
    let stats = b.stats();
    assert!(fed > 1000 && stats.packets_received >= fed);
    assert!(stats.malformed > 0 && stats.misdirected > 0, "{stats:?}");
    assert!(stats.alive + stats.suspect + stats.down <= MAX_MEMBERS);
}

#[test]
fn nodes_that_cannot_be_are_refused() {
    let now = Instant::now();
    let mut a = node(0, now);
    for internal in ["0.0.0.0:6571", "10.0.0.9:0", "224.0.0.1:6571"] {
        let me = member(id_of(9), 1, internal.parse().unwrap());
        let (other, _) = Membership::new(&me, GossipSettings::default(), 1, now).unwrap();
        a.handle(Input::Records(&other.records()), now);
    }
    assert_eq!((a.stats().refused, a.stats().alive), (3, 1));
}

#[test]
fn noise_and_packets_that_are_too_long_are_dropped() {
    let now = Instant::now();
    let (_, mut b, said) = acquainted(now);
    let before = (b.members().nodes, b.stats());
    let mut long = said[0].clone();
    long.resize(MAX_PACKET + 1, 0);
    b.handle(Input::Packet(&long), now);
    b.handle(Input::Packet(&[]), now);
    let mut noise: u64 = 1;
    for length in 0..600_usize {
        let bytes: Vec<u8> = (0..length)
            .map(|_| {
                noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (noise >> 56) as u8
            })
            .collect();
        b.handle(Input::Packet(&bytes), now);
        b.handle(Input::Records(&bytes), now);
    }
    assert_eq!(b.members().nodes, before.0);
    let stats = b.stats();
    let dropped =
        |stats: crate::cluster::swim::SwimStats| stats.malformed + stats.refused + stats.misdirected;
    assert_eq!(dropped(stats) - dropped(before.1), 2 + 1200, "{stats:?}");
}

/// As many strangers as it takes, each with records of its own.
fn strangers(membership: &mut Membership, from: usize, count: usize, now: Instant) {
    for number in from..from + count {
        let internal = SocketAddr::new(
            IpAddr::V4(Ipv4Addr::new(10, 9, (number / 250) as u8, (number % 250 + 1) as u8)),
            6571,
        );
        let me = member(NodeId(number as u32 + 1000), 1, internal);
        let (stranger, _) = Membership::new(&me, GossipSettings::default(), 1, now).unwrap();
        membership.handle(Input::Records(&stranger.records()), now);
    }
}

#[test]
fn there_are_no_more_members_than_may_be() {
    let now = Instant::now();
    let mut a = node(0, now);
    strangers(&mut a, 0, MAX_MEMBERS + 200, now);
    let stats = a.stats();
    assert_eq!(stats.alive, MAX_MEMBERS);
    assert_eq!(stats.refused, 201);
    assert!(a.records().len() <= crate::cluster::swim::MAX_RECORDS);
}

#[test]
fn the_dead_make_room_for_the_living() {
    let mut world = World::settled(3, GossipSettings::default(), 1);
    world.crash(1);
    world.crash(2);
    world.run(Duration::from_secs(30));
    assert_eq!(world.membership(0).stats().down, 2);
    let now = Instant::now();
    let mut full = node(7, now);
    full.handle(Input::Records(&world.membership(0).records()), now);
    assert_eq!(full.stats().down, 2);
    strangers(&mut full, 0, MAX_MEMBERS - 4, now);
    assert_eq!((full.stats().alive, full.stats().down), (MAX_MEMBERS - 2, 2));
    strangers(&mut full, MAX_MEMBERS, 3, now);
    assert_eq!((full.stats().alive, full.stats().down, full.stats().refused), (MAX_MEMBERS, 0, 1));
}

#[test]
fn what_a_node_says_of_itself_has_to_fit() {
    let mut me = member(id_of(0), 1, address_of(0));
    let listener = |number: usize| (format!("l{number}").into(), Address { host: "h".repeat(40), port: 1 });
    me.advertised.extra = (0..15).map(listener).collect();
    assert!(Membership::new(&me, GossipSettings::default(), 1, Instant::now()).is_ok());
    me.advertised.extra = (0..40).map(listener).collect();
    let error = Membership::new(&me, GossipSettings::default(), 1, Instant::now()).unwrap_err();
    assert!(
        error.size > MAX_DESCRIPTION && error.to_string().contains("fewer or shorter advertised listeners")
    );
}
