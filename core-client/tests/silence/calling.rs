//! Calls while a node falls silent.

use super::World;
use crate::node_under_test::soon;
use hstreamdb::StreamOptions;
use std::time::Duration;
use tokio::time::sleep;

#[tokio::test]
async fn calls_that_change_nothing_go_to_another_node() {
    let world = World::start().await;
    world.silence();
    soon(world.client.list_streams()).await.unwrap();
    soon(world.client.list_shards("s")).await.unwrap();
    soon(world.client.refresh_nodes()).await.unwrap();
    assert_eq!(world.count("node_suspects"), 1);
}

#[tokio::test]
async fn a_call_that_must_not_be_repeated_waits_for_its_answer() {
    let world = World::start().await;
    let called = |method| world.members.iter().map(|member| member.calls(method)).sum::<u64>();
    let before = called("CreateStream");
    world.silence();
    let creation = world.client.create_stream("t", StreamOptions::new());
    let pause = async {
        sleep(Duration::from_millis(1500)).await;
        world.resume();
    };
    let (created, ()) = soon(async { tokio::join!(creation, pause) }).await;
    created.unwrap();
    assert_eq!(called("CreateStream") - before, 1);
}

#[tokio::test]
async fn a_call_for_the_owner_waits_until_the_cluster_names_another() {
    let world = World::start().await;
    world.silence();
    let question = world.client.get_query("q");
    let failover = async {
        // Longer than all tries of a call and their pauses together.
        sleep(Duration::from_secs(4)).await;
        world.script.owner(&world.members[1]);
    };
    let (answer, ()) = soon(async { tokio::join!(question, failover) }).await;
    // An answer it is: there is no such query.
    assert!(!answer.unwrap_err().is_retryable());
    assert_eq!(world.members[1].calls("GetQuery"), 1);
}

#[tokio::test]
async fn a_node_that_the_cluster_doubts_is_spared_where_any_will_do() {
    use hstreamdb_proto::api::NodeState;
    let world = World::start().await;
    let producer = soon(world.client.producer("s").build()).await.unwrap();
    let states = [NodeState::Unavailable, NodeState::Running, NodeState::Running];
    let members: Vec<_> = world.members.iter().zip(states).collect();
    world.script.nodes(&members);
    soon(world.client.refresh_nodes()).await.unwrap();
    let before = world.members[0].calls("Append");
    soon(soon(producer.append(hstreamdb::Record::raw("x"))).await.unwrap()).await.unwrap();
    assert_eq!(world.members[0].calls("Append"), before);
}
