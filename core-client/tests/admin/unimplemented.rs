//! Our server has no queries, views, schemas and connectors, and the client says so at once.

use crate::node_under_test::{TestNode, soon};
use hstreamdb::{ConnectorKind, Error, ErrorKind, Result, Schema};

fn unimplemented<T: std::fmt::Debug>(answers: &mut Vec<Error>, answer: Result<T>) {
    answers.push(answer.unwrap_err());
}

#[tokio::test]
async fn what_the_server_does_not_have_is_said_with_the_name_of_the_call() {
    let node = TestNode::start().await;
    let client = node.client().await;
    let schema = Schema { owner: "s".into(), columns: Vec::new() };
    let mut errors = Vec::new();
    macro_rules! each {
        ($($call:expr => $name:literal,)*) => {
            let names = [$($name),*];
            $(unimplemented(&mut errors, soon($call).await);)*
            for (error, name) in errors.iter().zip(names) {
                assert_eq!((error.kind(), error.status(), error.tries()), (ErrorKind::Unimplemented, Some(12), 1), "{error}");
                assert!(!error.is_retryable() && !error.may_have_been_applied(), "{error}");
                let text = error.to_string();
                assert!(text.starts_with(name), "{text}");
                assert!(text.contains("not offered by the server: this server does not have "), "{text}");
                assert_eq!(error.node(), Some(node.address().to_string().as_str()));
            }
        };
    }
    each! {
        client.create_query("q", "x") => "create query \"q\" at ",
        client.create_query_with_namespace("q", "x", "n") => "create query \"q\" at ",
        client.list_queries() => "list queries at ",
        client.get_query("q") => "get query \"q\" at ",
        client.terminate_query("q") => "terminate query \"q\" at ",
        client.pause_query("q") => "pause query \"q\" at ",
        client.resume_query("q") => "resume query \"q\" at ",
        client.delete_query("q") => "delete query \"q\" at ",
        client.execute_query("x") => "execute query at ",
        client.parse_sql("x") => "parse sql at ",
        client.list_views() => "list views at ",
        client.get_view("v") => "get view \"v\" at ",
        client.delete_view("v", false) => "delete view \"v\" at ",
        client.delete_view("v", true) => "delete view \"v\" at ",
        client.execute_view_query("SELECT * FROM v") => "execute view query at ",
        client.execute_view_query_with_namespace("SELECT * FROM v", "n") => "execute view query at ",
        client.register_schema(&schema) => "register schema \"s\" at ",
        client.get_schema("s") => "get schema \"s\" at ",
        client.unregister_schema("s") => "unregister schema \"s\" at ",
        client.create_connector("c", ConnectorKind::Sink, "t", "{}") => "create connector \"c\" at ",
        client.list_connectors() => "list connectors at ",
        client.get_connector("c") => "get connector \"c\" at ",
        client.connector_spec(ConnectorKind::Sink, "t") => "get connector spec \"t\" at ",
        client.connector_logs("c", 1, 1) => "get connector logs \"c\" at ",
        client.alter_connector_config("c", "{}") => "alter connector config \"c\" at ",
        client.pause_connector("c") => "pause connector \"c\" at ",
        client.resume_connector("c") => "resume connector \"c\" at ",
        client.delete_connector("c") => "delete connector \"c\" at ",
    }
}
