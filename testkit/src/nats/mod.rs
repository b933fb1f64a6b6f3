//! Real NATS servers with JetStream: one, or a cluster of peers, on free ports of the loopback interface and in a
//! temporary folder. They end with the value, and with the test process however that ends.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use hstream_testkit::nats::{Nats, NatsOptions};
//!
//! let nats = Nats::start(NatsOptions { peers: 3, ..NatsOptions::default() })?;
//! println!("--store {}", nats.store_url("orders"));
//! nats.kill(0)?;
//! nats.restart(0)?;
//! nats.wait_until_ready()?;
//! # Ok(())
//! # }
//! ```

mod binary;
mod monitor;
mod options;
mod peer;
mod ports;
mod servers;
#[cfg(test)]
mod tests;

pub use binary::nats_binary;
pub use options::{NatsOptions, NatsTls};
pub use servers::Nats;
