//! A deterministic Raft consensus core: no I/O, no clock, no threads.
