use crate::{node_under_test::soon, published::Published};
use hstreamdb::{Column, ErrorKind, Schema};

#[tokio::test]
async fn a_schema_is_kept_until_it_is_unregistered() {
    let published = Published::start(1).await;
    let client = published.client().await;
    let column = |index, name: &str, nullable, hidden| Column {
        index,
        name: name.into(),
        data_type: "INTEGER".into(),
        nullable,
        hidden,
    };
    let schema = Schema {
        owner: "weather".into(),
        columns: vec![column(0, "t", true, false), column(1, "secret", false, true)],
    };
    // Repeated after a lost answer: the first one counts, and both say the same.
    published.state().lost.insert("RegisterSchema".into(), 1);
    soon(client.register_schema(&schema)).await.unwrap();
    assert_eq!(client.get_schema("weather").await.unwrap(), schema);
    client.unregister_schema("weather").await.unwrap();
    client.unregister_schema("weather").await.unwrap();
    let error = client.get_schema("weather").await.unwrap_err();
    assert_eq!((error.kind(), error.resource()), (ErrorKind::NotFound, Some("weather")), "{error}");
}
