//! Spans: one per batch, with what became of it.

use super::model::{Faults, Model, producer, small_batches};
use crate::record::{Record, RecordBatch};
use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex},
};
use tracing::{
    Subscriber,
    field::{Field, Visit},
    span,
};
use tracing_subscriber::{
    Layer,
    layer::{Context, SubscriberExt as _},
    registry::LookupSpan,
};

/// The fields of all spans of one name.
#[derive(Clone, Default)]
struct Spans(Arc<Mutex<BTreeMap<u64, Fields>>>);

#[derive(Debug, Clone, Default)]
struct Fields(BTreeMap<&'static str, String>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Spans {
    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, _: Context<'_, S>) {
        if attributes.metadata().name() == "hstreamdb.append" {
            attributes.record(self.0.lock().unwrap().entry(id.into_u64()).or_default());
        }
    }

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, _: Context<'_, S>) {
        if let Some(fields) = self.0.lock().unwrap().get_mut(&id.into_u64()) {
            values.record(fields);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn there_is_one_span_per_batch_and_none_per_record() {
    let spans = Spans::default();
    let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(spans.clone()));
    // A span that is first met on another test's thread, where nobody listens, is off until the interest in it is asked
    // for again.
    let met = producer(&Model::new(2, 1, Faults::default(), true), small_batches());
    for _ in 0..100 {
        tracing::callsite::rebuild_interest_cache();
        met.append(Record::raw("1")).await.unwrap().await.unwrap();
        if !spans.0.lock().unwrap().is_empty() {
            break;
        }
        std::thread::yield_now();
    }
    spans.0.lock().unwrap().clear();
    let model = Model::new(1, 1, Faults::default(), true);
    model.ignorant.store(1, std::sync::atomic::Ordering::SeqCst);
    let producer = producer(&model, small_batches());
    let batch: RecordBatch = vec![Record::raw("secret"); 6].iter().collect();
    producer.append_many(batch).await.unwrap().await.into_result().unwrap();
    let spans = spans.0.lock().unwrap();
    let of = |field: &str| {
        spans.values().map(|span| span.0.get(field).cloned().unwrap_or_default()).collect::<Vec<_>>()
    };
    assert_eq!(of("stream"), ["s", "s"]);
    assert_eq!(of("shard"), ["1", "1"]);
    assert_eq!(of("records"), ["4", "2"]);
    assert_eq!(of("sequence"), ["0", "1"]);
    assert_eq!(of("bytes"), ["56", "28"]);
    assert!(of("tries").iter().any(|tries| tries == "2"), "{:?}", of("tries"));
    assert!(!format!("{spans:?}").contains("secret"));
}
