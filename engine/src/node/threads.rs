//! How much of their cores the workers' threads use.

use std::fs;

/// The CPU time of this process's thread of that name, in microseconds; `None` where the kernel does not say.
pub(super) fn cpu_time_us(name: &str) -> Option<u64> {
    for thread in fs::read_dir("/proc/self/task").ok()?.flatten() {
        let path = thread.path();
        let comm = fs::read_to_string(path.join("comm")).unwrap_or_default();
        if comm.trim_end() == name {
            return cpu_time(&fs::read_to_string(path.join("schedstat")).ok()?);
        }
    }
    None
}

/// The first number of `schedstat` is the time on a CPU, in nanoseconds.
fn cpu_time(schedstat: &str) -> Option<u64> {
    let nanos: u64 = schedstat.split_whitespace().next()?.parse().ok()?;
    Some(nanos / 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_thread_is_found_by_its_name() {
        assert_eq!(cpu_time("123456789 42 7\n"), Some(123_456));
        assert_eq!(cpu_time(""), None);
        let named = std::thread::Builder::new().name("weft-worker-77".into());
        let found = named.spawn(|| cpu_time_us("weft-worker-77")).unwrap();
        assert!(found.join().unwrap().is_some());
        assert_eq!(cpu_time_us("weft-worker-78"), None);
    }
}
