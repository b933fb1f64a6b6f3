//! The protocol, case by case, in the time of a simulated world. Each rule that is named here was broken once to see its
//! case fail.

mod random;
mod sim_store;
mod world;

use super::ClaimError;
use super::lease::wait_for;
use crate::cluster::{MemberState, NodeId};
use crate::store::StoreError;
use world::{LEASE, World};

/// Longest time from an owner's last renewal until anybody else may serve.
fn wait_ms() -> u64 {
    wait_for(LEASE).as_millis() as u64
}

fn lease_ms() -> u64 {
    LEASE.as_millis() as u64
}

#[test]
fn of_two_takers_at_once_one_gets_it_and_the_other_learns_who() {
    for seed in 0..20 {
        let mut world = World::started(seed, 2);
        let (one, two) = (world.claim_here(1, "s"), world.claim_here(2, "s"));
        let outcomes = [world.outcome(one, 1000), world.outcome(two, 1000)];
        match outcomes {
            [Ok(_), Err(ClaimError::Elsewhere(NodeId(1)))] => assert_eq!(world.serving("s"), [NodeId(1)]),
            [Err(ClaimError::Elsewhere(NodeId(2))), Ok(_)] => assert_eq!(world.serving("s"), [NodeId(2)]),
            outcomes => panic!("{outcomes:?}"),
        }
    }
}

#[test]
fn look_ups_agree_and_write_nothing_and_a_claim_makes_them_sticky() {
    let mut world = World::started(1, 3);
    for resource in ["a", "b", "c", "d", "e"] {
        let owners: Vec<_> = (1..=3).map(|asked| world.owner(asked, resource)).collect();
        assert!(owners[0].is_some() && owners.iter().all(|owner| *owner == owners[0]), "{owners:?}");
        assert_eq!(world.store.get(&format!("owner/subscription/{resource}")), None);
        let placed = owners[0].unwrap();
        let other = placed % 3 + 1;
        let elsewhere = world.claim(other, resource);
        let elsewhere = world.outcome(elsewhere, 1000);
        assert_eq!(elsewhere.unwrap_err(), ClaimError::Elsewhere(NodeId(placed)));
        world.claimed(other, resource);
        assert!(
            (1..=3).all(|asked| world.owner(asked, resource) == Some(other)),
            "a claim counts more than placement"
        );
    }
}

#[test]
fn an_owner_without_its_store_stops_before_anybody_else_begins() {
    for offset in (0..1000).step_by(90) {
        let mut world = World::started(offset, 2);
        let claim = world.claimed(1, "s");
        // Answers to it take 800 ms: validity must count from before a renewal was sent.
        world.store.answers_late(0, 800);
        world.run(3_000 + offset);
        assert!(world.is_valid(1, &claim));
        world.cut(1, true);
        world.all_see(1, MemberState::Down);
        let taking = world.claim_here(2, "s");
        let mut stopped = None;
        let cut = world.now;
        world.until("the other one serves", 3 * wait_ms(), |world| {
            if stopped.is_none() && !world.is_valid(1, &claim) {
                stopped = Some(world.now);
            }
            let serving = world.serving("s");
            assert!(serving.len() < 2, "both serve, {} ms after the cut", world.now - cut);
            serving == [NodeId(2)]
        });
        let (stopped, began) = (stopped.unwrap() - cut, world.now - cut);
        assert!(stopped <= lease_ms(), "it went on for {stopped} ms");
        assert!(began <= wait_ms() + 3_500, "it took {began} ms");
        assert!(taking.is_done());
    }
}

#[test]
fn a_renewal_that_comes_too_late_does_not_bring_a_session_back() {
    for cut_for in [3_050, 3_200, 3_600, 5_000] {
        let mut world = World::started(cut_for, 1);
        let claim = world.claimed(1, "s");
        let generation = claim.term().generation();
        world.cut(1, true);
        world.until("its lease is over", lease_ms() + 50, |world| !world.is_valid(1, &claim));
        world.run(cut_for - 3_000);
        world.cut(1, false);
        world.until("it has another lease", 5_000, |world| {
            assert!(!world.is_valid(1, &claim), "others may have begun meanwhile");
            world.has_lease(1)
        });
        let ownership = world.node(1).ownership().unwrap();
        assert!(ownership.session().generation() > generation);
        world.claimed(1, "s");
        assert!(!world.is_valid(1, &claim));
    }
}

#[test]
fn what_was_seen_before_a_node_was_found_dead_need_not_be_waited_for() {
    let mut world = World::started(1, 2);
    world.claimed(1, "s");
    world.kill(1);
    // Detection and suspicion take longer than the lease.
    world.run(wait_ms() + 100);
    world.all_see(1, MemberState::Down);
    let taking = world.claim_here(2, "s");
    let start = world.now;
    world.outcome(taking, 1_000).unwrap();
    assert!(world.now - start < 100, "{} ms", world.now - start);
}

#[test]
fn a_suspect_keeps_what_it_has() {
    let mut world = World::started(1, 2);
    let claim = world.claimed(1, "s");
    world.all_see(1, MemberState::Suspect);
    let taking = world.claim_here(2, "s");
    assert_eq!(world.outcome(taking, 1000).unwrap_err(), ClaimError::Elsewhere(NodeId(1)));
    world.run(20_000);
    assert!(world.is_valid(1, &claim));
    assert_eq!(world.owner(2, "s"), Some(1));
}

#[test]
fn a_paused_owner_finds_its_claim_over_when_it_wakes_and_cannot_write() {
    for late in [0, 30_000] {
        let mut world = World::started(1, 2);
        let claim = world.claimed(1, "s");
        world.checkpoint(1, &claim, 5).unwrap();
        world.run(500);
        world.pause(1, true);
        world.all_see(1, MemberState::Down);
        let taking = world.claim_here(2, "s");
        let taken = world.outcome(taking, 3 * wait_ms()).unwrap();
        world.checkpoint(2, &taken, 9).unwrap();
        world.run(late);
        world.pause(1, false);
        world.step();
        assert!(!world.is_valid(1, &claim), "between a look at the claim and this look there was a pause");
        // It sent the write before it looked.
        let refused = world.checkpoint(1, &claim, 6).unwrap_err();
        assert!(matches!(refused, StoreError::Conflict { .. }), "{refused:?}");
        assert_eq!(world.store.get("checkpoint/s").unwrap().value, "9");
        assert_eq!(world.serving("s"), [NodeId(2)]);
    }
}

#[test]
fn clocks_that_run_apart_do_not_make_two_owners() {
    // The owner's runs slow, the taker's fast: together a tenth.
    for seed in 0..10 {
        let mut world = World::started(seed, 2);
        world.clock(1, 96);
        world.clock(2, 105);
        world.claimed(1, "s");
        world.run(1_000 + seed * 100);
        world.cut(1, true);
        world.all_see(1, MemberState::Down);
        let _taking = world.claim_here(2, "s");
        world.until("the other one serves", 3 * wait_ms(), |world| {
            let serving = world.serving("s");
            assert!(serving.len() < 2, "both serve");
            serving == [NodeId(2)]
        });
    }
}

#[test]
fn a_node_that_is_started_again_waits_for_its_own_old_lease() {
    let mut world = World::started(1, 2);
    world.claimed(1, "s");
    world.run(700);
    world.kill(1);
    let killed = world.now;
    world.start(1);
    world.until("it has begun again", 4_000, |world| world.node(1).ownership().is_some());
    let claim = world.claim(1, "s");
    world.outcome(claim, 5_000).unwrap();
    let waited = world.now - killed;
    assert!((lease_ms()..wait_ms() + 1_000).contains(&waited), "{waited} ms: the old process may live");
}

#[test]
fn a_node_that_stopped_in_order_waits_for_nothing_when_it_comes_back() {
    let mut world = World::started(1, 2);
    world.claimed(1, "s");
    let ownership = world.node(1).ownership().unwrap();
    world.on(1, async move { ownership.session().release().await });
    assert_eq!(world.serving("s"), []);
    world.start(1);
    let start = world.now;
    world.until("it has begun again", 1_000, |world| world.node(1).ownership().is_some());
    let claim = world.claim(1, "s");
    world.outcome(claim, 1_000).unwrap();
    assert!(world.now - start < 200, "{} ms", world.now - start);
}

#[test]
fn of_two_processes_of_one_number_the_older_one_yields_and_comes_back_when_the_newer_one_stops() {
    let mut world = World::of(vec![NodeId(1), NodeId(1)], 1, 3);
    world.start(1);
    world.until("the first has begun", 2_000, |world| world.node(1).ownership().is_some());
    let old = world.claimed(1, "s");
    // The second one is refused as long as the first renews its lease ...
    world.start(2);
    world.run(10_000);
    assert!(world.node(2).ownership().is_none() && world.is_valid(1, &old));
    // ... but not while that hangs.
    world.pause(1, true);
    world.until("the second has begun", 10_000, |world| world.node(2).ownership().is_some());
    let taking = world.claim_here(2, "s");
    world.until("the second one serves", 3 * wait_ms(), |world| !world.serving("s").is_empty());
    let new = world.outcome(taking, 1_000).unwrap();
    world.pause(1, false);
    world.run(10_000);
    assert!(!world.is_valid(1, &old) && world.is_valid(2, &new));
    let ownership = world.node(2).ownership().unwrap();
    world.on(2, async move { ownership.session().release().await });
    world.until("the first one has a lease again", 5_000, |world| {
        world
            .node(1)
            .ownership()
            .is_some_and(|ownership| ownership.session().generation() > new.term().generation())
    });
    world.claimed(1, "s");
}

#[test]
fn a_node_wrongly_found_dead_that_is_soon_heard_of_again_keeps_what_it_has() {
    let mut world = World::started(1, 2);
    let claim = world.claimed(1, "s");
    world.all_see(1, MemberState::Down);
    let taking = world.claim_here(2, "s");
    world.run(1_500);
    world.all_see(1, MemberState::Alive);
    assert_eq!(world.outcome(taking, 1_000).unwrap_err(), ClaimError::Elsewhere(NodeId(1)));
    assert!(world.is_valid(1, &claim));
}

#[test]
fn a_node_wrongly_found_dead_lets_go_before_the_other_one_begins() {
    let mut world = World::started(1, 2);
    let old = world.claimed(1, "s");
    world.all_see(1, MemberState::Down);
    let taking = world.claim_here(2, "s");
    let start = world.now;
    world.until("the other one serves", 2 * wait_ms(), |world| {
        let serving = world.serving("s");
        assert!(serving.len() < 2, "both serve");
        serving == [NodeId(2)]
    });
    world.outcome(taking, 100).unwrap();
    let took = world.now - start;
    assert!((wait_ms()..wait_ms() + 300).contains(&took), "{took} ms: patience, and then at once");
    assert!(!world.is_valid(1, &old));
    let refused = world.checkpoint(1, &old, 1).unwrap_err();
    assert!(matches!(refused, StoreError::Conflict { .. }));
}

#[test]
fn a_taker_that_dies_half_way_leaves_behind_whom_to_wait_for() {
    let mut world = World::started(1, 3);
    let old = world.claimed(1, "s");
    world.all_see(1, MemberState::Down);
    world.run(500);
    // Cut off from the store the owner does not hear that it should let go; its lease is the only end.
    let _taking = world.claim_here(2, "s");
    world.until("the taker wants it", 2 * wait_ms(), |world| {
        let record = world.store.get("owner/subscription/s").unwrap().value;
        let wanted = String::from_utf8_lossy(&record).contains("previous");
        if world.now % 100 == 0 && !wanted {
            assert!(world.is_valid(1, &old));
        }
        wanted
    });
    world.cut(1, true);
    world.kill(2);
    world.all_see(2, MemberState::Down);
    let third = world.claim_here(3, "s");
    world.until("the third one serves", 3 * wait_ms(), |world| {
        let serving = world.serving("s");
        assert!(serving.len() < 2, "both serve");
        serving == [NodeId(3)]
    });
    world.outcome(third, 100).unwrap();
}

#[test]
fn a_node_that_gossips_and_cannot_reach_the_store_loses_what_it_has() {
    let mut world = World::started(1, 2);
    world.claimed(1, "s");
    world.cut(1, true);
    let start = world.now;
    while world.owner(2, "s") != Some(2) {
        assert!(world.now - start < 3 * wait_ms(), "gossip alone keeps nobody an owner");
        world.run(100);
    }
    world.claimed(2, "s");
    world.cut(1, false);
    world.until("it has a lease again", 5_000, |world| world.has_lease(1));
}

#[test]
fn a_taker_without_the_store_says_so_and_can_try_again() {
    let mut world = World::started(1, 2);
    world.run(1_000);
    world.cut(2, true);
    let claim = world.claim_here(2, "s");
    let refused = world.outcome(claim, 8_000).unwrap_err();
    assert!(
        matches!(refused, ClaimError::Store(StoreError::Unreachable(_)) | ClaimError::NotYet(_)),
        "{refused:?}"
    );
    world.run(5_000);
    world.cut(2, false);
    world.run(5_000);
    world.claimed(2, "s");
}

#[test]
fn nothing_of_a_deleted_resource_reaches_one_created_anew() {
    let mut world = World::started(1, 2);
    let old = world.claimed(1, "s");
    let (ownership, claim) = (world.node(1).ownership().unwrap(), old.clone());
    world.on(1, async move { ownership.forget(&claim).await }).unwrap();
    assert_eq!(world.store.get("owner/subscription/s"), None);
    assert!(!world.is_valid(1, &old));
    let refused = world.checkpoint(1, &old, 1).unwrap_err();
    assert!(matches!(refused, StoreError::Conflict { .. }));
    let new = world.claimed(2, "s");
    assert!(world.checkpoint(1, &old, 1).is_err());
    world.checkpoint(2, &new, 1).unwrap();
}

#[test]
fn a_write_in_doubt_cannot_land_after_the_guard_was_renewed() {
    let mut world = World::started(1, 2);
    let claim = world.claimed(1, "s");
    let before = claim.guard().unwrap();
    let (ownership, renewed) = (world.node(1).ownership().unwrap(), claim.clone());
    world.on(1, async move { ownership.renew_guard(&renewed).await }).unwrap();
    world.run(500);
    assert!(world.is_valid(1, &claim), "its own change does not end it");
    world.checkpoint(1, &claim, 20).unwrap();
    let meta = world.store.link(0);
    let late = world
        .on(1, async move { meta.put_many(vec![("checkpoint/s".into(), "10".into())], Some(before)).await });
    assert!(matches!(late, Err(StoreError::Conflict { .. })), "{late:?}");
}

#[test]
fn a_node_that_drains_gives_everything_away_and_takes_nothing() {
    let mut world = World::started(1, 3);
    let names: Vec<String> = (0..20).map(|number| format!("s{number}")).collect();
    let claims: Vec<_> = names.iter().map(|name| world.claimed(1, name)).collect();
    let ownership = world.node(1).ownership().unwrap();
    world.on(1, async move { ownership.drain(std::time::Duration::from_secs(5)).await });
    assert!(claims.iter().all(|claim| !world.is_valid(1, claim)));
    for name in &names {
        let owner = world.owner(2, name).unwrap();
        assert_ne!(owner, 1);
        let start = world.now;
        world.claimed(owner, name);
        assert!(world.now - start < 100, "nobody is waited for");
        let back = world.claim_here(1, name);
        assert_eq!(world.outcome(back, 1_000).unwrap_err(), ClaimError::Elsewhere(NodeId(owner)));
    }
    let new = world.claim_here(1, "new");
    assert!(matches!(world.outcome(new, 1_000), Err(ClaimError::Elsewhere(_))));
}

#[test]
fn the_last_node_keeps_what_it_has_when_it_drains() {
    let mut world = World::started(1, 1);
    let claim = world.claimed(1, "s");
    let ownership = world.node(1).ownership().unwrap();
    world.on(1, async move { ownership.drain(std::time::Duration::from_secs(5)).await });
    assert!(world.is_valid(1, &claim));
}

#[test]
fn newcomers_get_their_share_one_by_one() {
    let mut world = World::started(1, 3);
    world.kill(3);
    world.all_see(3, MemberState::Down);
    let names: Vec<String> = (0..24).map(|number| format!("s{number}")).collect();
    for (number, name) in names.iter().enumerate() {
        world.claimed(1 + number as u32 % 2, name);
    }
    world.run(20_000);
    let on =
        |world: &mut World, node: u32| names.iter().filter(|name| world.owner(1, name) == Some(node)).count();
    assert_eq!([on(&mut world, 1), on(&mut world, 2)], [12, 12], "nothing moves while nobody joins");
    world.start(3);
    world.until("it has begun", 6_000, |world| world.node(3).ownership().is_some());
    world.all_see(3, MemberState::Alive);
    world.run(11_000);
    let moved = on(&mut world, 3);
    assert!((1..=6).contains(&moved), "{moved} at once is not gentle");
    world.run(60_000);
    let [one, two, three] = [1, 2, 3].map(|node| on(&mut world, node));
    assert!(one <= 9 && two <= 9 && three >= 6, "{one} {two} {three}");
    world.run(30_000);
    assert_eq!([1, 2, 3].map(|node| on(&mut world, node)), [one, two, three], "it comes to rest");
}
