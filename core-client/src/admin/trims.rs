//! Forgetting old records before their retention ends.

use crate::{
    client::Client,
    cluster::Target,
    error::{Error, ErrorKind, Result},
    record::{Offset, RecordId},
    retry::Operation,
};
use hstreamdb_proto::api::{
    self, ShardOffset, SpecialOffset, StreamOffset, TimestampOffset, shard_offset, stream_offset,
};

fn shard_offset(offset: Offset) -> ShardOffset {
    use shard_offset::Offset as Wire;
    let offset = match offset {
        Offset::Earliest => Wire::SpecialOffset(SpecialOffset::Earliest as i32),
        Offset::Latest => Wire::SpecialOffset(SpecialOffset::Latest as i32),
        Offset::Record(id) => Wire::RecordOffset(id.to_wire()),
        Offset::Timestamp(ms) => Wire::TimestampOffset(timestamp(ms)),
    };
    ShardOffset { offset: Some(offset) }
}

/// `None` for a record, which names one shard only.
fn stream_offset(offset: Offset) -> Option<StreamOffset> {
    use stream_offset::Offset as Wire;
    let offset = match offset {
        Offset::Earliest => Wire::SpecialOffset(SpecialOffset::Earliest as i32),
        Offset::Latest => Wire::SpecialOffset(SpecialOffset::Latest as i32),
        Offset::Timestamp(ms) => Wire::TimestampOffset(timestamp(ms)),
        Offset::Record(_) => return None,
    };
    Some(StreamOffset { offset: Some(offset) })
}

fn timestamp(ms: i64) -> TimestampOffset {
    TimestampOffset { timestamp_in_ms: ms, strict_accuracy: true }
}

impl Client {
    /// Forgets the records of all shards up to an offset: all there are for [`Offset::Latest`]; for a time those before it
    /// and, as the wire has it, the first batch at or after it.
    ///
    /// # Errors
    /// `InvalidArgument` for a record offset, which belongs to [`trim_shard`](Client::trim_shard) or
    /// [`trim_shards`](Client::trim_shards); `NotFound`, `Unavailable`, `Timeout`, `Closed`. Trimming is repeated
    /// after unclear failures, which is harmless.
    pub async fn trim_stream(&self, name: &str, before: Offset) -> Result<()> {
        let trim_point = stream_offset(before).ok_or_else(|| {
            Error::new(ErrorKind::InvalidArgument, "trim stream")
                .with_resource(name)
                .with_message("a record id names one shard; use trim_shard or trim_shards")
        })?;
        let request = api::TrimStreamRequest { stream_name: name.to_owned(), trim_point: Some(trim_point) };
        self.cluster
            .call(Operation::repeatable("trim stream"), Some(name), Target::Any, |mut client| {
                let request = request.clone();
                async move { client.trim_stream(request).await }
            })
            .await
    }

    /// Forgets the records of a shard up to an offset, the batch of a record offset included; otherwise as
    /// [`trim_stream`](Client::trim_stream).
    ///
    /// # Errors
    /// As [`trim_stream`](Client::trim_stream), but every offset is allowed.
    pub async fn trim_shard(&self, stream: &str, shard_id: u64, before: Offset) -> Result<()> {
        let request = api::TrimShardRequest {
            stream_name: stream.to_owned(),
            shard_id,
            trim_point: Some(shard_offset(before)),
        };
        let resource = format!("{stream:?} shard {shard_id}");
        self.cluster
            .call(Operation::repeatable("trim"), Some(&resource), Target::Any, |mut client| {
                let request = request.clone();
                async move { client.trim_shard(request).await }
            })
            .await
    }

    /// Forgets, shard by shard, the records before the earliest of the given ones of that shard; says where each shard
    /// was trimmed.
    ///
    /// # Errors
    /// `InvalidArgument` for a record of another stream or beyond the tail, `Codec` when the answer is none, and as
    /// [`trim_stream`](Client::trim_stream).
    pub async fn trim_shards(&self, stream: &str, records: &[RecordId]) -> Result<Vec<(u64, RecordId)>> {
        let request = api::TrimShardsRequest {
            stream_name: stream.to_owned(),
            record_ids: records.iter().map(ToString::to_string).collect(),
        };
        let response = self
            .cluster
            .call(Operation::repeatable("trim shards of"), Some(stream), Target::Any, |mut client| {
                let request = request.clone();
                async move { client.trim_shards(request).await }
            })
            .await?;
        let mut points = Vec::with_capacity(response.trim_points.len());
        for (shard, text) in response.trim_points {
            let id = text.parse::<RecordId>().map_err(|error| {
                Error::new(ErrorKind::Codec, "trim shards of")
                    .with_resource(stream)
                    .with_message(error.message().to_owned())
            })?;
            points.push((shard, id));
        }
        points.sort_unstable_by_key(|(shard, _)| *shard);
        Ok(points)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_no_place_in_a_whole_stream() {
        assert_eq!(stream_offset(Offset::Record(RecordId::default())), None);
        assert!(stream_offset(Offset::Timestamp(5)).is_some());
    }
}
