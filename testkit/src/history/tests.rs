//! Every rule has a history that breaks it and one close by that does not.

use super::*;

fn id(batch: u64) -> Id {
    Id { shard: 1, batch, index: 0 }
}

/// One lane whose records were acknowledged as batches 10, 11, 12 …, and are all stored.
fn sound(promise: Promise, records: u64) -> History {
    let history = History::default();
    let lane = history.lane(promise);
    let mut kept = Vec::new();
    for number in 0..records {
        let record = history.invoke(lane);
        history.resolve(record, Outcome::Stored(id(10 + number)));
        kept.push((id(10 + number), record));
    }
    history.keep(&kept);
    history
}

fn violations(history: &History) -> Vec<Violation> {
    history.check().map_or_else(|violations| violations.0, |_| Vec::new())
}

fn edited(history: History, edit: impl FnOnce(&mut Vec<Event>)) -> History {
    let mut events = history.events();
    edit(&mut events);
    events.into()
}

fn kept(events: &mut [Event]) -> &mut Vec<(Id, u64)> {
    match events.iter_mut().rev().find(|event| matches!(event, Event::Kept { .. })) {
        Some(Event::Kept { records }) => records,
        _ => panic!("the history has a final look"),
    }
}

#[test]
fn a_sound_run_passes_with_its_figures() {
    let history = sound(Promise::ExactlyOnce, 3);
    let consumer = history.attach(0, true);
    for batch in 10..13 {
        history.deliver(consumer, &[(id(batch), batch - 10)]);
        history.ack(consumer, &[id(batch)]);
    }
    history.leave(consumer);
    history.confirm(consumer);
    history.note(Event::Drained { subscription: 0 });
    let reader = history.open(None);
    history.read(reader, &[(id(10), 0), (id(11), 1), (id(12), 2)]);
    history.note(Event::Finished { reader });
    history.idle(0, 0, 0);
    let summary = history.check().unwrap();
    assert_eq!((summary.appended, summary.stored, summary.failed, summary.unknown), (3, 3, 0, 0));
    assert_eq!((summary.delivered, summary.redelivered, summary.acked, summary.read), (3, 0, 3, 3));
}

#[test]
fn a_history_survives_its_way_through_json() {
    let history = sound(Promise::AtMostOnce, 2);
    let text = serde_json::to_string(&history.events()).unwrap();
    let back: Vec<Event> = serde_json::from_str(&text).unwrap();
    assert_eq!(back, history.events());
}

#[test]
fn acknowledged_and_gone_is_lost() {
    let history = edited(sound(Promise::ExactlyOnce, 3), |events| {
        kept(events).remove(1);
    });
    assert_eq!(violations(&history), [Violation::Lost { record: 1, id: id(11) }]);
}

#[test]
fn what_nobody_appended_is_invented() {
    let history = edited(sound(Promise::ExactlyOnce, 1), |events| kept(events).push((id(20), 99)));
    assert_eq!(violations(&history), [Violation::Invented { record: 99, id: id(20) }]);
}

#[test]
fn what_certainly_failed_must_not_be_stored() {
    let history = edited(sound(Promise::ExactlyOnce, 1), |events| {
        events[2] = Event::Resolved { record: 0, outcome: Outcome::Failed };
    });
    assert_eq!(violations(&history), [Violation::FailedAndStored { record: 0, id: id(10) }]);
    let unclear = edited(history, |events| {
        events[2] = Event::Resolved { record: 0, outcome: Outcome::Unknown };
    });
    assert_eq!(violations(&unclear), []);
}

#[test]
fn stored_twice_is_doubled_unless_that_is_allowed() {
    for promise in [Promise::ExactlyOnce, Promise::AtMostOnce] {
        let history = edited(sound(promise, 2), |events| kept(events).push((id(20), 0)));
        assert_eq!(violations(&history), [Violation::Doubled { record: 0, first: id(10), second: id(20) }]);
    }
    let allowed = edited(sound(Promise::Duplicates, 2), |events| kept(events).push((id(20), 0)));
    assert_eq!(allowed.check().unwrap().doubled, 1);
}

#[test]
fn the_order_of_a_lane_is_the_order_of_its_shard() {
    for promise in [Promise::ExactlyOnce, Promise::AtMostOnce, Promise::Duplicates] {
        let history = edited(sound(promise, 2), |events| {
            events[2] = Event::Resolved { record: 0, outcome: Outcome::Stored(id(11)) };
            events[4] = Event::Resolved { record: 1, outcome: Outcome::Stored(id(10)) };
            *kept(events) = vec![(id(10), 1), (id(11), 0)];
        });
        assert_eq!(
            violations(&history),
            [Violation::Inverted { earlier: (0, id(11)), later: (1, id(10)) }],
            "{promise:?}"
        );
    }
}

#[test]
fn what_was_given_up_may_come_late_where_nothing_can_stop_it() {
    let late = |promise| {
        edited(sound(promise, 2), |events| {
            events[2] = Event::Resolved { record: 0, outcome: Outcome::Unknown };
            *kept(events) = vec![(id(11), 1), (id(15), 0)];
        })
    };
    assert_eq!(violations(&late(Promise::AtMostOnce)), []);
    assert_eq!(
        violations(&late(Promise::ExactlyOnce)),
        [Violation::Inverted { earlier: (0, id(15)), later: (1, id(11)) }]
    );
}

#[test]
fn an_id_is_one_record() {
    let history = edited(sound(Promise::ExactlyOnce, 2), |events| {
        events[4] = Event::Resolved { record: 1, outcome: Outcome::Stored(id(10)) };
        kept(events).pop();
    });
    let found = violations(&history);
    assert!(found.contains(&Violation::Ambiguous { id: id(10), one: 0, other: 1 }), "{found:?}");
}

#[test]
fn the_final_look_must_be_in_order() {
    let history = edited(sound(Promise::ExactlyOnce, 2), |events| kept(events).reverse());
    assert_eq!(violations(&history), [Violation::Unsorted { id: id(10) }]);
}

#[test]
fn every_append_is_answered_once() {
    let history = sound(Promise::ExactlyOnce, 1);
    history.resolve(0, Outcome::Stored(id(10)));
    assert_eq!(violations(&history), [Violation::ResolvedTwice { record: 0 }]);
    let silent = edited(sound(Promise::ExactlyOnce, 2), |events| {
        events.remove(4);
    });
    assert_eq!(violations(&silent), [Violation::Unresolved { record: 1 }]);
    silent.release(1);
    assert_eq!(violations(&silent), []);
}

#[test]
fn room_comes_back() {
    let history = sound(Promise::ExactlyOnce, 1);
    history.idle(3, 1, 50);
    assert_eq!(violations(&history), [Violation::RoomHeld { producer: 3, records: 1, bytes: 50 }]);
}

#[test]
fn what_is_shown_is_stored() {
    let history = sound(Promise::ExactlyOnce, 1);
    let consumer = history.attach(0, true);
    history.deliver(consumer, &[(id(11), 5)]);
    assert_eq!(violations(&history), [Violation::Phantom { record: 5, id: id(11) }]);
    let history = sound(Promise::ExactlyOnce, 1);
    let reader = history.open(None);
    history.read(reader, &[(id(10), 0), (id(11), 5)]);
    assert_eq!(violations(&history), [Violation::Phantom { record: 5, id: id(11) }]);
}

#[test]
fn a_batch_acknowledged_whole_is_not_shown_again() {
    let history = sound(Promise::ExactlyOnce, 2);
    let consumer = history.attach(0, false);
    let batch = [(id(10), 0), (id(11), 1)];
    history.deliver(consumer, &batch);
    history.ack(consumer, &[id(10)]);
    history.deliver(consumer, &batch);
    assert_eq!(violations(&history), [], "half of it was open");
    history.ack(consumer, &[id(11)]);
    history.deliver(consumer, &batch);
    assert_eq!(violations(&history), [Violation::ShownAfterAck { consumer, id: id(10) }]);
}

#[test]
fn what_is_confirmed_does_not_come_to_later_consumers() {
    let history = sound(Promise::ExactlyOnce, 1);
    let (first, early) = (history.attach(0, true), history.attach(0, false));
    history.deliver(first, &[(id(10), 0)]);
    history.ack(first, &[id(10)]);
    let unconfirmed = history.attach(0, true);
    history.deliver(unconfirmed, &[(id(10), 0)]);
    history.leave(first);
    history.confirm(first);
    history.deliver(early, &[(id(10), 0)]);
    let other = history.attach(1, true);
    history.deliver(other, &[(id(10), 0)]);
    assert_eq!(violations(&history), []);
    let late = history.attach(0, true);
    history.deliver(late, &[(id(10), 0)]);
    assert_eq!(violations(&history), [Violation::ShownAfterConfirmation { consumer: late, id: id(10) }]);
}

#[test]
fn a_restart_forgets_what_was_confirmed() {
    for (before, between) in [(true, false), (false, true), (false, false)] {
        let history = sound(Promise::ExactlyOnce, 1);
        let first = history.attach(0, true);
        history.deliver(first, &[(id(10), 0)]);
        history.ack(first, &[id(10)]);
        history.leave(first);
        if between {
            history.note(Event::Restarted);
        }
        history.confirm(first);
        if before {
            history.note(Event::Restarted);
        }
        let late = history.attach(0, true);
        history.deliver(late, &[(id(10), 0)]);
        assert_eq!(violations(&history).is_empty(), before || between);
    }
}

#[test]
fn a_consumer_without_an_excuse_goes_forward() {
    for (in_order, expected) in [(true, 1), (false, 0)] {
        let history = sound(Promise::ExactlyOnce, 2);
        let consumer = history.attach(0, in_order);
        history.deliver(consumer, &[(id(11), 1)]);
        history.deliver(consumer, &[(id(10), 0)]);
        assert_eq!(violations(&history).len(), expected);
        if in_order {
            let backwards = Violation::DeliveredBackwards { consumer, id: id(10), after: id(11) };
            assert_eq!(violations(&history), [backwards]);
        }
    }
}

#[test]
fn drained_means_delivered_and_acknowledged() {
    let history = sound(Promise::ExactlyOnce, 2);
    let consumer = history.attach(0, true);
    history.deliver(consumer, &[(id(10), 0)]);
    history.ack(consumer, &[id(10)]);
    history.deliver(consumer, &[(id(11), 1)]);
    assert_eq!(violations(&history), []);
    history.note(Event::Drained { subscription: 0 });
    assert_eq!(violations(&history), [Violation::Undelivered { subscription: 0, id: id(11) }]);
}

#[test]
fn a_reader_neither_repeats_nor_leaves_out() {
    let history = sound(Promise::ExactlyOnce, 3);
    let reader = history.open(Some(1));
    history.read(reader, &[(id(10), 0)]);
    history.read(reader, &[(id(12), 2)]);
    assert_eq!(violations(&history), [Violation::ReadHole { reader, id: id(11) }]);
    let history = sound(Promise::ExactlyOnce, 3);
    let reader = history.open(None);
    history.read(reader, &[(id(10), 0), (id(11), 1)]);
    history.read(reader, &[(id(11), 1)]);
    assert_eq!(violations(&history), [Violation::ReadBackwards { reader, id: id(11), after: id(11) }]);
}

#[test]
fn a_reader_begins_at_the_first_record() {
    let history = sound(Promise::ExactlyOnce, 2);
    let reader = history.open(None);
    history.read(reader, &[(id(11), 1)]);
    assert_eq!(violations(&history), [Violation::ReadHole { reader, id: id(10) }]);
}

#[test]
fn a_reader_ends_behind_what_was_acknowledged_when_it_was_opened() {
    let history = sound(Promise::ExactlyOnce, 2);
    let (short, other) = (history.open(Some(1)), history.open(Some(2)));
    history.read(short, &[(id(10), 0)]);
    assert_eq!(violations(&history), []);
    history.note(Event::Finished { reader: other });
    assert_eq!(violations(&history), [], "nothing is in its shard");
    history.note(Event::Finished { reader: short });
    assert_eq!(violations(&history), [Violation::ReadShort { reader: short, id: id(11) }]);
}
