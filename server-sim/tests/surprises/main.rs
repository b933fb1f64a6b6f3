//! What implementers of this protocol get wrong: the forty surprises of the original server, each a test named
//! after it. Most are copied because clients depend on them; the names say where this server does better.
//!
//! Number 23 needs the real binary and is in `process.rs`: a test that starts processes must not share one with tests
//! that open a data directory again, because a process being born holds the locks of its parent for a moment.
//!
//! Not here, because this server has no SQL: 31 (sources and results of queries), 32 (integers in SQL results),
//! 33 (NULL, MIN, MAX, AVG, outer joins). Of 23 to 25, which are about clusters, what one node can show.

#[path = "../support/mod.rs"]
mod support;

mod appends;
mod cluster;
mod errors;
mod offsets;
mod readers;
mod reads;
mod streams;
mod subscriptions;
mod trims;
