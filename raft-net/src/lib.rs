//! An authenticated QUIC transport for Raft: mutual TLS, a stream per class of traffic, bounded queues.
