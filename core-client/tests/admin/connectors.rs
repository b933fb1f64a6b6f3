use crate::{node_under_test::soon, published::Published};
use hstreamdb::{ConnectorKind, ConnectorState, ErrorKind};
use hstreamdb_proto::api::ResourceType;
use serde_json::json;
use std::time::Duration;

const CONFIG: &str = r#"{"host":"db","password":"hunter2"}"#;

#[tokio::test]
async fn a_connector_lives_from_create_to_delete() {
    let published = Published::start(1).await;
    let client = published.client().await;
    let created = soon(client.create_connector("c", ConnectorKind::Source, "mysql", CONFIG)).await.unwrap();
    assert_eq!(
        (created.name.as_str(), &created.kind, created.target.as_str()),
        ("c", &ConnectorKind::Source, "mysql")
    );
    assert_eq!((&created.state, created.created_ms), (&ConnectorState::Running, Some(1_700_000_000_005)));
    assert_eq!(
        (created.config.as_str(), created.task_id.as_str(), created.node.as_str()),
        (CONFIG, "task-1", "node-0")
    );
    assert_eq!(
        (created.docker_status.as_str(), created.image.as_str()),
        ("running", "connector/source-mysql:latest")
    );
    assert_eq!(json!(created.offsets), json!([{ "position": 7 }]));
    assert_eq!(client.get_connector("c").await.unwrap(), created);
    assert_eq!(client.list_connectors().await.unwrap(), [created]);

    client.pause_connector("c").await.unwrap();
    assert_eq!(client.get_connector("c").await.unwrap().state, ConnectorState::Stopped);
    client.resume_connector("c").await.unwrap();
    client.alter_connector_config("c", r#"{"host":"db2"}"#).await.unwrap();
    let changed = client.get_connector("c").await.unwrap();
    assert_eq!((&changed.state, changed.config.as_str()), (&ConnectorState::Running, r#"{"host":"db2"}"#));
    assert_eq!(client.connector_logs("c", 1, 2).await.unwrap(), "line 1\nline 2\n");
    assert_eq!(client.connector_spec(ConnectorKind::Sink, "mysql").await.unwrap(), r#"{"kind":"SINK"}"#);
    client.delete_connector("c").await.unwrap();
    assert_eq!(client.get_connector("c").await.unwrap_err().code(), Some(600));
    assert_eq!(client.delete_connector("c").await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn refusals_keep_the_servers_code_and_detail() {
    let published = Published::start(1).await;
    let client = published.client().await;
    let create = |kind, target, config| client.create_connector("c", kind, target, config);
    let error = soon(create(ConnectorKind::Unknown("MIRROR".into()), "mysql", CONFIG)).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::InvalidArgument, Some(602)), "{error}");
    let error = create(ConnectorKind::Sink, "fax", CONFIG).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Unimplemented, Some(605)), "{error}");
    let error = create(ConnectorKind::Sink, "mysql", r#"{"password":"hunter2"}"#).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::FailedPrecondition, Some(604)), "{error}");
    assert_eq!(error.extra().unwrap()["message"], "host is missing");
    assert!(!error.to_string().contains("hunter2"), "{error}");
    create(ConnectorKind::Sink, "mysql", CONFIG).await.unwrap();
    assert_eq!(create(ConnectorKind::Sink, "mysql", CONFIG).await.unwrap_err().code(), Some(601));
    for name in ["", "a b"] {
        assert_eq!(client.get_connector(name).await.unwrap_err().code(), Some(603));
    }
    for (begin, count) in [(0, 1), (u32::MAX, 1), (1, u32::MAX)] {
        let error = client.connector_logs("c", begin, count).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    }
}

#[tokio::test]
async fn calls_go_to_the_owner_and_follow_it_when_it_moves() {
    let published = Published::start(3).await;
    published.state().put_owner(ResourceType::ResConnector, "c", 2);
    let client = published.client().await;
    soon(client.create_connector("c", ConnectorKind::Source, "mysql", CONFIG)).await.unwrap();
    client.pause_connector("c").await.unwrap();
    published.state().put_owner(ResourceType::ResConnector, "c", 1);
    // Refused by the old owner.
    client.resume_connector("c").await.unwrap();
    assert_eq!(published.nodes_of("PauseConnector"), [2]);
    assert_eq!(published.nodes_of("ResumeConnector"), [2, 1]);
    // Not refused by an old owner, who would say that there is no such connector.
    published.state().put_owner(ResourceType::ResConnector, "c", 0);
    client.get_connector("c").await.unwrap();
    published.state().put_owner(ResourceType::ResConnector, "c", 2);
    client.connector_logs("c", 1, 1).await.unwrap();
    assert_eq!(
        (published.nodes_of("GetConnector"), published.nodes_of("GetConnectorLogs")),
        (vec![0], vec![2])
    );
}

#[tokio::test]
async fn a_program_that_takes_its_time_is_waited_for_and_a_plain_call_is_not() {
    let published = Published::start(1).await;
    let builder = published.builder().request_timeout(Duration::from_millis(400)).unwrap();
    let client = builder.retry_max_attempts(1).unwrap().connect().await.unwrap();
    for call in ["CreateConnector", "GetConnectorSpec", "AlterConnectorConfig", "ListConnectors"] {
        published.state().delays.insert(call.into(), Duration::from_millis(1200));
    }
    let (created, spec, listed) = soon(async {
        tokio::join!(
            client.create_connector("c", ConnectorKind::Source, "mysql", CONFIG),
            client.connector_spec(ConnectorKind::Source, "mysql"),
            client.list_connectors(),
        )
    })
    .await;
    assert_eq!((created.unwrap().name.as_str(), spec.is_ok()), ("c", true));
    assert_eq!(listed.unwrap_err().kind(), ErrorKind::Timeout);
    soon(client.alter_connector_config("c", CONFIG)).await.unwrap();

    // The whole of a call has its own limit.
    let builder = published.builder().set("total_timeout_ms", 500).unwrap();
    let hurried = builder.connect().await.unwrap();
    let error =
        soon(hurried.create_connector("d", ConnectorKind::Source, "mysql", CONFIG)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutcomeUnknown, "{error}");
}
