use super::*;

const MS: u64 = 1_000_000;

fn frame(number: u32) -> Frame {
    let mut frame = Frame {
        length: 1514,
        ..Frame::default()
    };
    frame.room[14..18].copy_from_slice(&number.to_be_bytes());
    frame
}

fn number(frame: &Frame) -> u32 {
    u32::from_be_bytes([
        frame.room[14],
        frame.room[15],
        frame.room[16],
        frame.room[17],
    ])
}

fn lane(text: &str) -> Lane {
    Lane::new(text.parse().unwrap(), 7)
}

/// Offers `count` frames, one every 10 us, takes what is due meanwhile and after; numbers and times.
fn run(lane: &mut Lane, count: u32) -> Vec<(u32, u64)> {
    let (mut found, mut now) = (Vec::new(), 0);
    for number in 0..count {
        lane.offer(frame(number), now);
        take(lane, now, &mut found);
        now += 10_000;
    }
    while let Some(next) = lane.next() {
        take(lane, next, &mut found);
    }
    found
}

fn take(lane: &mut Lane, now: u64, found: &mut Vec<(u32, u64)>) {
    while let Some(frame) = lane.due(now) {
        found.push((number(&frame), now));
        lane.release(frame);
    }
}

#[test]
fn a_perfect_link_passes_everything_in_order_at_once() {
    let mut lane = lane("");
    let found = run(&mut lane, 1000);
    assert!(
        found
            .iter()
            .enumerate()
            .all(|(at, found)| *found == (at as u32, at as u64 * 10_000))
    );
    assert_eq!((lane.counters.offered, lane.counters.passed), (1000, 1000));
}

#[test]
fn the_same_seed_loses_the_same_frames_and_about_as_many_as_asked() {
    let runs = [(); 2].map(|()| run(&mut lane("loss=1%"), 100_000));
    assert_eq!(runs[0], runs[1]);
    let lost = 100_000 - runs[0].len();
    assert!((850..1150).contains(&lost), "{lost}");
}

#[test]
fn a_frame_out_of_order_comes_behind_at_most_eight_and_none_is_lost() {
    let mut lane = lane("reorder=1%");
    let found = run(&mut lane, 100_000);
    assert_eq!(found.len(), 100_000);
    let late = found
        .iter()
        .enumerate()
        .map(|(at, (number, _))| at - (*number as usize).min(at))
        .collect::<Vec<_>>();
    let moved = late.iter().filter(|late| **late > 0).count();
    assert!(late.iter().all(|late| *late <= OVERTAKEN));
    assert_eq!(moved as u64, lane.counters.reordered);
    assert!((800..1150).contains(&moved), "{moved}");
}

#[test]
fn a_held_frame_that_nothing_follows_comes_after_two_milliseconds() {
    let mut lane = lane("reorder=100%");
    lane.offer(frame(1), 0);
    assert_eq!(lane.next(), Some(2 * MS));
    assert!(lane.due(2 * MS - 1).is_none());
    assert_eq!(lane.due(2 * MS).map(|frame| number(&frame)), Some(1));
    assert_eq!(lane.next(), None);
}

#[test]
fn doubles_follow_each_other_and_are_the_same() {
    let mut lane = lane("duplicate=1%");
    let found = run(&mut lane, 10_000);
    assert_eq!(found.len() as u64, 10_000 + lane.counters.duplicated);
    assert!(found.is_sorted());
    assert!((70..140).contains(&lane.counters.duplicated));
}

#[test]
fn corruption_flips_one_bit_behind_the_ethernet_header() {
    let mut lane = lane("corrupt=100%");
    for offered in 0..1000 {
        lane.offer(frame(offered), 0);
        let (sent, came) = (frame(offered), lane.due(0).unwrap());
        let flipped: u32 = sent
            .bytes()
            .iter()
            .zip(came.bytes())
            .map(|(a, b)| (a ^ b).count_ones())
            .sum();
        assert_eq!((flipped, &came.room[..14]), (1, &sent.room[..14]));
    }
}

#[test]
fn a_delay_moves_every_frame_by_as_much() {
    let found = run(&mut lane("delay=10ms"), 5000);
    assert!(
        found
            .iter()
            .all(|(number, time)| *time == u64::from(*number) * 10_000 + 10 * MS)
    );
}

#[test]
fn a_rate_spaces_frames_and_drops_at_the_tail_of_its_queue() {
    // 1514 bytes every 10 us are 1211 Mbit/s; a tenth of a second at 100 Mbit/s is 825 frames.
    let mut lane = lane("rate=100mbit queue=30280");
    let found = run(&mut lane, 10_000);
    assert!((825..=850).contains(&found.len()), "{}", found.len());
    assert_eq!(found.len() as u64 + lane.counters.tail_dropped, 10_000);
    let gap = 1514 * 8 * 10;
    // Seen every 10 us.
    assert!(
        found
            .windows(2)
            .all(|pair| pair[1].1 - pair[0].1 + 10_000 >= gap)
    );
    // Nobody waits longer than the queue takes: 20 frames.
    assert!(
        found
            .iter()
            .all(|(number, time)| time - u64::from(*number) * 10_000 <= 20 * gap + 10_000)
    );
}

#[test]
fn a_link_with_an_mtu_swallows_what_is_longer() {
    let mut lane = lane("mtu=1499");
    assert!(run(&mut lane, 10).is_empty());
    assert_eq!(lane.counters.oversize, 10);
    lane.impair("mtu=1500".parse().unwrap());
    assert_eq!(run(&mut lane, 10).len(), 10);
}

#[test]
fn a_shorter_delay_never_lets_later_frames_overtake() {
    let mut lane = lane("delay=50ms");
    lane.offer(frame(1), 0);
    lane.impair(Impairment::default());
    lane.offer(frame(2), MS);
    assert_eq!(lane.next(), Some(50 * MS));
    let mut found = Vec::new();
    take(&mut lane, 50 * MS, &mut found);
    assert_eq!(found, [(1, 50 * MS), (2, 50 * MS)]);
}

#[test]
fn what_is_written_is_what_is_read() {
    for text in [
        "",
        "loss=1% reorder=1% duplicate=1% corrupt=0.5% delay=10000us rate=100000000bit queue=65536 mtu=1400",
    ] {
        assert_eq!(text.parse::<Impairment>().unwrap().to_string(), text);
    }
    for text in ["loss=1", "loss=101%", "delay=1s", "rate=100mbit", "speed=1"] {
        assert!(text.parse::<Impairment>().is_err(), "{text}");
    }
}
