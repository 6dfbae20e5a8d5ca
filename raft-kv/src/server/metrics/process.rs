//! What the operating system says about this process.

use std::fs;

/// Where it does not say, there is nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ProcessStats {
    /// Resident memory, in bytes.
    pub(super) resident_bytes: Option<u64>,
    /// Open file descriptors.
    pub(super) open_files: Option<u64>,
}

impl ProcessStats {
    /// As of now.
    pub(super) fn read() -> Self {
        let statm = fs::read_to_string("/proc/self/statm").ok();
        // The directory that is being listed is open, too.
        let descriptors = fs::read_dir("/proc/self/fd").map(|all| all.count() as u64 - 1);
        Self {
            resident_bytes: statm.as_deref().and_then(resident_bytes),
            open_files: descriptors.ok(),
        }
    }
}

/// The second number of `statm` counts pages.
fn resident_bytes(statm: &str) -> Option<u64> {
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_pages_are_the_second_number() {
        let page = rustix::param::page_size() as u64;
        assert_eq!(resident_bytes("100 7 3 1 0 50 0\n"), Some(7 * page));
        assert_eq!(resident_bytes("100"), None);
    }

    #[test]
    fn this_process_has_memory_and_files() {
        let found = ProcessStats::read();
        assert!(found.resident_bytes.is_none_or(|bytes| bytes > 1 << 20));
        assert!(found.open_files.is_none_or(|count| count >= 3));
    }
}
