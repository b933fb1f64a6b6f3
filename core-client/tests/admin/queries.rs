use crate::{node_under_test::soon, published::Published};
use hstreamdb::{ErrorKind, ParsedSql, QueryKind, TaskState};
use hstreamdb_proto::api::{ResourceType, TaskStatusPb};

const SQL: &str = "CREATE STREAM hot AS SELECT * FROM weather WHERE t > 30";

#[tokio::test]
async fn a_query_lives_from_create_to_delete() {
    let published = Published::start(1).await;
    let client = published.client().await;
    let created = soon(client.create_query("q", SQL)).await.unwrap();
    assert_eq!((created.id.as_str(), created.sql.as_str(), created.result.as_str()), ("q", SQL, "hot"));
    assert_eq!((created.state, created.kind, created.node_id), (TaskState::Running, QueryKind::Stream, 1));
    assert_eq!(
        (created.sources.as_slice(), created.created_ms),
        (&["weather".to_owned()][..], Some(1_700_000_000_000))
    );
    assert_eq!(client.get_query("q").await.unwrap(), created);
    assert_eq!(client.list_queries().await.unwrap(), [created]);

    let error = client.create_query("q", SQL).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::AlreadyExists, Some(401)), "{error}");
    let error = client.delete_query("q").await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::FailedPrecondition, Some(407)), "{error}");
    client.terminate_query("q").await.unwrap();
    assert_eq!(client.get_query("q").await.unwrap().state, TaskState::Terminated);
    let error = client.resume_query("q").await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::FailedPrecondition, Some(408)), "{error}");
    client.delete_query("q").await.unwrap();
    let error = client.get_query("q").await.unwrap_err();
    assert_eq!((error.kind(), error.code(), error.resource()), (ErrorKind::NotFound, Some(400), Some("q")));
}

#[tokio::test]
async fn a_query_that_does_not_run_is_not_terminated_five_times() {
    let published = Published::start(1).await;
    let client = published.client().await;
    client.create_query("q", SQL).await.unwrap();
    published.state().queries.get_mut("q").unwrap().set_status(TaskStatusPb::TaskAborted);
    let error = soon(client.terminate_query("q")).await.unwrap_err();
    assert_eq!((error.kind(), error.code(), error.tries()), (ErrorKind::FailedPrecondition, Some(406), 1));
    assert!(!error.is_retryable() && !error.may_have_been_applied());
    client.resume_query("q").await.unwrap();
    assert_eq!(client.get_query("q").await.unwrap().state, TaskState::Running);
}

#[tokio::test]
async fn names_in_a_namespace_are_prefixed() {
    let published = Published::start(1).await;
    let client = published.client().await;
    let created = soon(client.create_query_with_namespace("q", SQL, "tenant_")).await.unwrap();
    assert_eq!(
        (created.result.as_str(), created.sources.as_slice()),
        ("tenant_hot", &["tenant_weather".to_owned()][..])
    );
}

#[tokio::test]
async fn states_and_kinds_that_are_new_here_are_kept() {
    let published = Published::start(1).await;
    let client = published.client().await;
    client.create_query("q", SQL).await.unwrap();
    {
        let mut state = published.state();
        let query = state.queries.get_mut("q").unwrap();
        (query.status, query.r#type, query.created_time) = (77, 78, 0);
    }
    let query = client.get_query("q").await.unwrap();
    assert_eq!(
        (query.state, query.kind, query.created_ms),
        (TaskState::Unknown(77), QueryKind::Unknown(78), None)
    );
}

#[tokio::test]
async fn calls_go_to_the_owner_and_follow_it_when_it_moves() {
    let published = Published::start(3).await;
    published.state().put_owner(ResourceType::ResQuery, "q", 2);
    let client = published.client().await;
    soon(client.create_query("q", SQL)).await.unwrap();
    client.get_query("q").await.unwrap();
    assert_eq!(published.nodes_of("GetQuery"), [2], "the owner is remembered");
    assert_eq!(published.nodes_of("LookupResource").len(), 1);

    published.state().put_owner(ResourceType::ResQuery, "q", 1);
    soon(client.get_query("q")).await.unwrap();
    assert_eq!(published.nodes_of("GetQuery"), [2, 2, 1], "the old owner refuses, the new one is looked up");
}

#[tokio::test]
async fn a_change_whose_answer_is_lost_is_not_repeated() {
    let published = Published::start(1).await;
    let client = published.client().await;
    for call in ["CreateQuery", "TerminateQuery", "DeleteQuery"] {
        published.state().lost.insert(call.into(), 1);
    }
    let lost = [
        soon(client.create_query("q", SQL)).await.unwrap_err(),
        soon(client.terminate_query("q")).await.unwrap_err(),
        soon(client.delete_query("q")).await.unwrap_err(),
    ];
    for error in lost {
        assert_eq!(error.kind(), ErrorKind::OutcomeUnknown, "{error}");
        assert!(error.may_have_been_applied() && !error.is_retryable(), "{error}");
    }
    assert_eq!(published.nodes_of("CreateQuery").len(), 1);
    assert!(client.list_queries().await.unwrap().is_empty(), "each was carried out");
    // What changes nothing is asked again.
    published.state().lost.insert("ListQueries".into(), 2);
    soon(client.list_queries()).await.unwrap();
}

#[tokio::test]
async fn a_name_that_is_none_is_refused_before_a_place_is_kept_for_it() {
    let published = Published::start(1).await;
    let client = published.client().await;
    for name in ["", "7up", "a.b"] {
        for error in [
            client.create_query(name, SQL).await.unwrap_err(),
            client.create_query_with_namespace(name, SQL, "n").await.unwrap_err(),
            client.get_query(name).await.unwrap_err(),
            client.terminate_query(name).await.unwrap_err(),
            client.pause_query(name).await.unwrap_err(),
            client.resume_query(name).await.unwrap_err(),
            client.delete_query(name).await.unwrap_err(),
        ] {
            assert_eq!((error.kind(), error.code()), (ErrorKind::InvalidArgument, Some(404)), "{error}");
        }
    }
    assert_eq!(published.nodes_of("LookupResource").len(), 0);
}

#[tokio::test]
async fn statements_are_carried_out_or_refused_without_being_repeated_in_errors() {
    let published = Published::start(1).await;
    let client = published.client().await;
    let rows = soon(client.execute_query("EXPLAIN SELECT 1")).await.unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0]["explain"], "plan of SELECT 1");
    let error = client.execute_query("INSERT INTO s VALUES ('hunter2')").await.unwrap_err();
    assert_eq!((error.kind(), error.message()), (ErrorKind::Internal, "DiscardedMethod"));
    assert!(!error.to_string().contains("hunter2"), "{error}");
    let error = client.execute_query("SELECT * FROM s EMIT CHANGES").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);

    let parsed = client.parse_sql("SELECT * FROM v").await.unwrap();
    assert_eq!(parsed, ParsedSql::ViewSelect { view: "v".into() });
    let error = client.parse_sql("DROP VIEW v").await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::InvalidArgument, Some(0)));
}
