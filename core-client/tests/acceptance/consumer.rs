//! Points 4, 5, 6, 17, 18: leaving, acknowledgements, reconnects, handlers, demand.
