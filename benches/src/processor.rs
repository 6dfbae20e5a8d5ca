//! Processor time of this process, of one of its threads, and of other processes.

use std::fs;
use std::time::Duration;

/// Clock ticks of /proc/PID/stat per second; fixed in Linux's user interface.
const TICKS_PER_SECOND: u64 = 100;

/// Processor time that the calling thread has taken. Unlike the clock it does not count what other
/// programs do meanwhile.
///
/// # Panics
/// Where /proc does not tell: that is not Linux.
#[must_use]
pub fn of_thread() -> Duration {
    let path = "/proc/thread-self/schedstat";
    let stat = fs::read_to_string(path).expect("Linux tells a thread's processor time");
    let ns = stat.split_whitespace().next();
    let ns = ns.and_then(|ns| ns.parse().ok());
    Duration::from_nanos(ns.expect("the first number is nanoseconds"))
}

/// Processor time that all threads of this process have taken, in steps of 10 ms.
///
/// # Panics
/// Where /proc does not tell: that is not Linux.
#[must_use]
pub fn of_process() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").expect("Linux tells a process's times");
    // The name in parentheses may hold spaces; utime and stime are fields 14 and 15.
    let (_, rest) = stat.rsplit_once(')').expect("the name is in parentheses");
    let ticks: u64 = rest
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|field| field.parse::<u64>().expect("times are numbers"))
        .sum();
    Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND)
}
