//! The log against the bare disk.

fn main() {}
