//! Record ids, record lists and received records as terms.

use hstreamdb::{ReceivedRecord, RecordBatch, RecordId};
use rustler::{Atom, Binary, Encoder, Env, NewBinary, NifResult, Term};

mod atoms {
    rustler::atoms! { record_id, id, key, payload, attributes, publish_time_ms }
}

/// `#record_id{}`.
pub fn id_term<'a>(env: Env<'a>, id: &RecordId) -> Term<'a> {
    (atoms::record_id(), id.shard_id, id.batch_id, id.batch_index).encode(env)
}

/// A list of `#record_id{}`.
pub fn ids_from(term: Term<'_>) -> NifResult<Vec<RecordId>> {
    let tuples: Vec<(Atom, u64, u64, u32)> = term.decode()?;
    tuples
        .into_iter()
        .map(|(tag, shard_id, batch_id, batch_index)| {
            if tag == atoms::record_id() {
                Ok(RecordId { shard_id, batch_id, batch_index })
            } else {
                Err(rustler::Error::BadArg)
            }
        })
        .collect()
}

/// A list of `{Key, Payload}`, copied once into one buffer.
pub fn batch_from(term: Term<'_>) -> NifResult<RecordBatch> {
    let records: Vec<(Binary<'_>, Binary<'_>)> = term.decode()?;
    let bytes = records.iter().map(|(_, payload)| payload.len()).sum();
    let mut batch = RecordBatch::with_capacity(records.len(), bytes);
    for (key, payload) in &records {
        let key = std::str::from_utf8(key.as_slice()).map_err(|_| rustler::Error::BadArg)?;
        batch.push(key, payload.as_slice());
    }
    Ok(batch)
}

/// `#{id, key, payload, attributes, publish_time_ms}`.
pub fn received_term<'a>(env: Env<'a>, record: &ReceivedRecord) -> Term<'a> {
    let attributes = record.attributes.iter().fold(Term::map_new(env), |map, (name, value)| {
        map.map_put(name.as_str(), value.as_str()).unwrap_or(map)
    });
    let mut payload = NewBinary::new(env, record.payload.len());
    payload.as_mut_slice().copy_from_slice(&record.payload);
    let payload: Binary<'a> = payload.into();
    let pairs = [
        (atoms::id(), id_term(env, &record.id)),
        (atoms::key(), record.key.encode(env)),
        (atoms::payload(), payload.encode(env)),
        (atoms::attributes(), attributes),
        (atoms::publish_time_ms(), record.publish_time_ms.encode(env)),
    ];
    pairs.into_iter().fold(Term::map_new(env), |map, (key, value)| map.map_put(key, value).unwrap_or(map))
}
