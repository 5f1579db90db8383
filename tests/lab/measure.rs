//! What a process has used, as `/proc` tells it.

use std::fs;

/// Clock ticks per second in `/proc`: the same on every Linux that Rust runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU seconds of process `id` itself, in the kernel too.
pub(crate) fn cpu_seconds(id: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    // The name, in brackets, may hold anything.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks = fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<f64>().ok());
    ticks.sum::<f64>() / TICKS_PER_SECOND
}

/// The most memory that process `id` had resident, in MiB.
pub(crate) fn peak_rss_mib(id: u32) -> f64 {
    memory_mib(id, "VmHWM:")
}

/// The memory that process `id` has resident, in MiB.
pub(crate) fn rss_mib(id: u32) -> f64 {
    memory_mib(id, "VmRSS:")
}

fn memory_mib(id: u32, what: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(what));
    let kib = line.and_then(|line| line.split_whitespace().next()).and_then(|kib| kib.parse::<f64>().ok());
    kib.unwrap_or_default() / 1024.0
}
