//! Waiting for something to become true, for a bounded time.

use anyhow::{Result, bail};
use std::thread;
use std::time::{Duration, Instant};

/// How long servers and the node process may take to come up in a lab.
pub const START_LIMIT: Duration = Duration::from_secs(10);

/// Asks `probe` until it returns a value, at most `limit` long; `what` names the wait in the error.
pub fn wait_for<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Option<T>) -> Result<T> {
    let deadline = Instant::now() + limit;
    let mut nap = Duration::from_millis(1);
    loop {
        if let Some(value) = probe() {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            bail!("waited {limit:?} for {what}");
        }
        thread::sleep(nap);
        nap = (nap * 2).min(Duration::from_millis(50));
    }
}

/// As [`wait_for`], for a condition without a value.
pub fn wait_until(what: &str, limit: Duration, mut probe: impl FnMut() -> bool) -> Result<()> {
    wait_for(what, limit, || probe().then_some(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_up_at_the_limit_and_says_for_what() {
        let error = wait_until("godot", Duration::from_millis(5), || false).unwrap_err();
        assert!(error.to_string().contains("godot"));
    }

    #[test]
    fn returns_the_value_once_it_is_there() {
        let mut asked = 0;
        let value = wait_for("three", START_LIMIT, || {
            asked += 1;
            (asked == 3).then_some(asked)
        });
        assert_eq!(value.unwrap(), 3);
    }
}
