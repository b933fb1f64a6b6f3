//! Points 1, 2, 3, 8, 9, 13, 14, 15: receipts, order, close, flow control, batch limits, shard maps, codec.
