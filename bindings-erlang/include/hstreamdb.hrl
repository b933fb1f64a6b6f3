%% Identity of a record: its shard, the sequence number of its batch, its index in the batch.
-record(record_id, {
    shard_id :: non_neg_integer(),
    batch_id :: non_neg_integer(),
    batch_index :: non_neg_integer()
}).
