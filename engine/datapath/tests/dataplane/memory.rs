//! Memory is there before a packet needs it.

use weft_datapath::*;

use crate::support::*;

/// Pages that the kernel has made for this thread since it began (proc_pid_stat).
fn pages_made() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    fields.split_whitespace().nth(7).unwrap().parse().unwrap()
}

/// The index has eight megabytes, and a flow's keys may be anywhere in them.
#[test]
fn new_flows_do_not_wait_for_the_kernel_to_make_the_index() {
    const FLOWS: u16 = 2_000;
    let tables = settled();
    let mut state = State::new(StateConfig {
        max_flows: 1 << 18,
        seed: 7,
        worker: 0,
        workers: 1,
        ports: Ports { weft0_mac: WEFT0 },
        hairpin: Default::default(),
    });
    state.take_memory();
    let frames: Vec<_> = (10_000..10_000 + FLOWS)
        .map(|port| Spec::udp(Net::V4.pod(1), port, Net::V4.vip(80), SERVED))
        .map(|spec| spec.punted(CLIENT, Hook::FromPod))
        .collect();
    let before = pages_made();
    for frame in frames {
        let (mut memory, length) = ([0; 256], frame.len());
        memory[..length].copy_from_slice(&frame);
        let mut frame = FrameBuf::new(&mut memory, length);
        let verdict = process(&mut frame, START, &tables, &mut state);
        assert_eq!(verdict, Verdict::Deliver);
        state.pin_ops.clear();
    }
    let made = pages_made() - before;
    // 192 bytes for each flow's record, one after the other: 94 pages.
    assert!(made < 150, "{made} pages");
}
