use std::time::Duration;

use crate::support::*;

#[test]
fn bytes_go_both_ways_and_each_half_is_closed_by_itself() {
    for net in Net::both() {
        let mut pair = Pair::new(small());
        let (client, server) = pair.open(&net, 40_000);
        let question = pattern(3_000);
        assert_eq!(write(&client, &question), question.len());
        pair.exchange();
        assert_eq!(read(&server), (question.clone(), false));
        shutdown(&client);
        pair.exchange();
        assert_eq!(read(&server), (vec![], true));
        let answer = pattern(5_000);
        assert_eq!(write(&server, &answer), answer.len());
        pair.exchange();
        assert_eq!(read(&client), (answer, false), "the other half is open");
        shutdown(&server);
        pair.exchange();
        assert_eq!(read(&client), (vec![], true));
        drop((client, server));
        pair.pass(Duration::from_millis(100), Duration::from_millis(1));
        assert_eq!(pair.a.stack.holdings().time_wait, 1, "it closed first");
        assert_eq!(pair.a.stack.holdings().connections, 0);
        assert_eq!(pair.b.stack.holdings().connections, 0);
        pair.pass(Duration::from_secs(61), Duration::from_secs(1));
        assert_eq!(pair.a.stack.holdings().time_wait, 0);
    }
}

#[test]
fn a_megabyte_arrives_as_it_was_sent() {
    for net in Net::both() {
        let mut pair = Pair::new(small());
        let (client, server) = pair.open(&net, 40_000);
        let data = pattern(1 << 20);
        let (mut sent, mut got) = (0, Vec::new());
        while got.len() < data.len() {
            sent += write(&client, &data[sent..]);
            pair.exchange();
            got.extend(read(&server).0);
            pair.pass(Duration::from_millis(1), Duration::from_millis(1));
        }
        assert!(got == data);
        assert_eq!(pair.a.event(weft_stack::Event::Retransmission), 0);
    }
}
