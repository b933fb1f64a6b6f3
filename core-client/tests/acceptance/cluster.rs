//! Points 7, 10, 11, 12, 22: deadlines, errors, connections, discovery, options.
