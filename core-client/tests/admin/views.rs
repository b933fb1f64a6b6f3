use crate::{node_under_test::soon, published::Published};
use hstreamdb::{ErrorKind, TaskState, plain_row};
use hstreamdb_proto::api::ResourceType;
use serde_json::json;

const SQL: &str = "CREATE VIEW totals AS SELECT city, COUNT(*) AS n FROM weather GROUP BY city";

#[tokio::test]
async fn a_view_lives_from_create_to_delete() {
    let published = Published::start(1).await;
    let client = published.client().await;
    soon(client.create_query("q", SQL)).await.unwrap();
    let view = client.get_view("totals").await.unwrap();
    assert_eq!((view.id.as_str(), view.sql.as_str(), view.query.as_str()), ("totals", SQL, "q"));
    assert_eq!(
        (view.columns.as_slice(), view.state),
        (&["city".to_owned(), "n".to_owned()][..], TaskState::Running)
    );
    assert_eq!(view.created_ms, Some(1_700_000_000_000));
    assert_eq!(client.list_views().await.unwrap(), [view]);

    let error = client.delete_query("q").await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::FailedPrecondition, Some(403)), "{error}");
    let error = client.delete_view("totals", false).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::FailedPrecondition, Some(407)), "{error}");
    client.terminate_query("q").await.unwrap();
    client.delete_view("totals", false).await.unwrap();
    let error = client.delete_view("totals", false).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::NotFound, Some(400)), "{error}");
    client.delete_view("totals", true).await.unwrap();
    assert_eq!(client.get_view("totals").await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(client.get_view("7").await.unwrap_err().code(), Some(503));
}

#[tokio::test]
async fn a_select_goes_to_the_node_that_has_the_view_and_follows_it() {
    let published = Published::start(3).await;
    published.state().put_owner(ResourceType::ResQuery, "q", 2);
    let client = published.client().await;
    soon(client.create_query("q", SQL)).await.unwrap();
    let rows = soon(client.execute_view_query("SELECT * FROM totals")).await.unwrap();
    assert_eq!(published.nodes_of("ExecuteViewQuery"), [2]);
    assert_eq!(rows[0]["n"], json!({ "$numberLong": "9007199254740993" }));
    let plain: Vec<_> = rows.into_iter().map(plain_row).collect();
    // An SQL integer beyond 2^53 keeps all its digits.
    assert_eq!(
        json!(plain),
        json!([{ "city": "Ulm", "n": 9007199254740993u64 }, { "city": "Bonn", "n": 2 }])
    );

    // The old node says that there is no such view, and must not be asked.
    published.state().put_owner(ResourceType::ResQuery, "q", 1);
    soon(client.execute_view_query("SELECT * FROM totals")).await.unwrap();
    assert_eq!(published.nodes_of("ExecuteViewQuery"), [2, 1]);
}

#[tokio::test]
async fn a_select_in_a_namespace_finds_the_view_by_its_whole_name() {
    let published = Published::start(2).await;
    published.state().put_owner(ResourceType::ResQuery, "q", 1);
    let client = published.client().await;
    soon(client.create_query_with_namespace("q", SQL, "tenant_")).await.unwrap();
    let rows = client.execute_view_query_with_namespace("SELECT * FROM totals", "tenant_").await.unwrap();
    assert_eq!(rows.len(), 2);
    let error = client.execute_view_query("SELECT * FROM totals").await.unwrap_err();
    assert_eq!((error.kind(), error.resource()), (ErrorKind::NotFound, Some("totals")), "{error}");
}

#[tokio::test]
async fn a_select_that_fails_says_so() {
    let published = Published::start(1).await;
    let client = published.client().await;
    client.create_query("q", SQL).await.unwrap();
    let error = soon(client.execute_view_query("INSERT INTO totals")).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.operation()),
        (ErrorKind::InvalidArgument, "execute view query"),
        "{error}"
    );
    let error = soon(client.execute_view_query("SELECT * FROM totals WHERE 1/0")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal, "{error}");
    assert!(error.to_string().contains("division by zero") && !error.may_have_been_applied(), "{error}");
}
