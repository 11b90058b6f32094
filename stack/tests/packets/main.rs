//! One behaviour a file, in `scripts/`: see `script.rs` for their language.

mod script;
#[path = "../support/mod.rs"]
mod support;

macro_rules! scripts {
    ($($name:ident)+) => {
        /// Every script there is.
        const ALL: &[&str] = &[$(stringify!($name)),+];

        $(#[test]
        fn $name() {
            script::run(include_str!(concat!("scripts/", stringify!($name), ".pkt")));
        })+
    };
}

scripts! {
    abort
    bogus_options
    clock_scale_is_1_for_a_far_peer
    clock_scale_shortens_the_timeout
    closing_ends
    connect
    connect_is_refused
    connect_meets_an_old_connection
    connect_times_out
    cookie
    cookie_and_overtaking_data
    cookie_is_good_once
    cookie_that_is_none
    data_after_close_is_reset
    data_and_fin_complete_the_handshake
    data_beyond_the_window_is_cut
    data_completes_the_handshake
    duplicate_acks_of_a_fin
    fin_wait_2_ends
    hibernation_and_old_segments
    hibernation_cannot_be_seen
    hibernation_keeps_the_window
    idle_timeout
    impossible_flags
    keepalive
    keepalive_of_the_peer
    lost_data_behind_a_shut_window
    old_acks_with_new_data
    resets_for_nobody_are_limited
    rfc1122_a_new_syn_in_time_wait
    rfc1337_a_reset_in_time_wait
    rfc2018_out_of_order_data
    rfc2525_close_with_unread_data
    rfc3465_bytes_are_counted
    rfc5681_fast_retransmit
    rfc5827_early_retransmit
    rfc5961_acks_that_cannot_be_true
    rfc5961_challenges_are_limited
    rfc5961_reset
    rfc5961_reset_of_a_half_open_connection
    rfc5961_syn_in_an_open_connection
    rfc6093_urgent_data_stays_in_line
    rfc6298_timeout_and_backoff
    rfc6582_partial_acknowledgement
    rfc9293_delayed_ack
    rfc9293_handshake_with_options
    rfc9293_handshake_without_options
    rfc9293_segment_size_of_the_peer
    rfc9293_zero_window_of_ours
    rfc9293_zero_window_of_the_peer
    segments_for_nobody
    simultaneous_close
    simultaneous_open
    small_writes_go_at_once
    syn_ack_is_repeated
    syn_again_gets_the_same_answer
    syn_to_a_closed_port
    the_fin_is_repeated_in_time_wait
    the_last_data_and_the_fin_are_acknowledged
    the_last_data_bears_the_fin
    the_peer_closes_first
    unacknowledged_timeout
    we_close_first
    window_probes_without_an_answer
    wrong_ack_of_a_half_open_connection
}

#[test]
fn no_script_is_left_out() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/packets/scripts");
    let entries = std::fs::read_dir(folder).unwrap();
    let name = |path: std::path::PathBuf| path.file_stem().unwrap().to_str().unwrap().to_owned();
    let mut found: Vec<String> = entries.map(|entry| name(entry.unwrap().path())).collect();
    found.sort();
    assert_eq!(found, ALL);
}
