//! Point 22: an option that is none is refused with those that are, wherever options are given.

use crate::node_under_test::TestNode;
use hstreamdb::{Client, Error, ErrorKind, OptionScope, StreamOptions, SubscriptionOptions, option_table};

#[tokio::test]
async fn p22_unknown_options_are_refused_with_the_known_ones_in_every_scope() {
    let node = TestNode::start().await;
    let client = node.client().await;
    let refusals: [(OptionScope, Result<(), Error>); 6] = [
        (OptionScope::Client, Client::builder().set("reqest_timeout_ms", 1).map(|_| ())),
        (OptionScope::Stream, StreamOptions::new().set("shards", 1).map(|_| ())),
        (OptionScope::Subscription, SubscriptionOptions::new().set("timeout", 1).map(|_| ())),
        (OptionScope::Producer, client.producer("s").set("batch_size", 1).map(|_| ())),
        (OptionScope::Consumer, client.consumer("c").set("prefetch", 1).map(|_| ())),
        (OptionScope::Reader, client.stream_reader("s").set("form", 1).map(|_| ())),
    ];
    for (scope, result) in refusals {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.message().starts_with("unknown option; the options are "), "{error}");
        let known: Vec<_> = option_table().iter().filter(|row| row.scope == scope).collect();
        assert!(!known.is_empty());
        for row in known {
            assert!(error.message().contains(row.name), "{} of {}: {error}", row.name, scope.name());
        }
    }
}

#[test]
fn p22_values_that_do_not_fit_name_the_option_and_what_fits() {
    for (name, value, reason) in [
        ("request_timeout_ms", "0", "0 is outside 1 to"),
        ("channels_per_node", "65", "65 is outside 1 to 64"),
        ("tls", "maybe", "true or false"),
    ] {
        let error = Client::builder().set(name, value).unwrap_err();
        assert_eq!((error.kind(), error.resource()), (ErrorKind::InvalidArgument, Some(name)));
        assert!(error.message().contains(reason), "{error}");
    }
}
