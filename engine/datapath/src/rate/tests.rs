use super::*;

const MILLISECOND: u64 = 1_000_000;

#[test]
fn a_burst_passes_and_then_the_rate() {
    let mut limit = RateLimit::new(1_000, 10);
    let start = Now::from_nanos(5_000 * MILLISECOND);
    let taken = (0..100).filter(|_| limit.take(start)).count();
    assert_eq!(taken, 10);
    // One token a millisecond, however often it is asked.
    let later = |tenths: u64| Now::from_nanos(start.as_nanos() + tenths * MILLISECOND / 10);
    let taken = (1..=1_000).filter(|n| limit.take(later(*n))).count();
    assert_eq!(taken, 100);
    // Silence fills the bucket, and no further than its size.
    let taken = (0..100).filter(|_| limit.take(later(1_000_000))).count();
    assert_eq!(taken, 10);
}
