//! A deterministic simulator for replicated state machines: virtual time, hostile network and disk.
