//! What a cluster does, seen from outside: real nodes, real sockets, the real client.

mod support;

mod faults;
