//! The metadata of both engines: one contract, and what only servers behind a network can do wrong.

mod checks;
mod contract;
mod engines;
mod faults;
mod leases;
mod peers;
