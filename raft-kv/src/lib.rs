//! A fault-tolerant, linearizable key/value store over QUIC: server, client and command line.
