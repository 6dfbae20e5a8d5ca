//! A segmented, fsync'd, CRC-checked write-ahead log with crash recovery that tells torn from corrupt.
