use super::*;

const VIP: Front = Front {
    address: Address([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 96, 0, 80]),
    port: 8080,
};

fn written(options: &Options<'_>) -> Vec<u8> {
    let mut bytes = vec![0xee; options.wire_len()];
    options.write(&mut bytes);
    bytes
}

fn option(class: u16, kind: u8, data: &[u8]) -> Vec<u8> {
    let [high, low] = class.to_be_bytes();
    [&[high, low, kind, (data.len() / 4) as u8], data].concat()
}

#[test]
fn what_is_written_is_read() {
    let mut v6 = VIP;
    v6.address.0[0] = 0xfd;
    for front in [None, Some(VIP), Some(v6)] {
        for length in 0..=CLIENT_NAME_MAX {
            let name = vec![b'n'; length];
            let options = Options {
                front,
                client: Some(&name[..]).filter(|name| !name.is_empty()),
            };
            let bytes = written(&options);
            assert_eq!(bytes.len() % geneve::OPTION_UNIT, 0);
            assert!(bytes.len() <= 252);
            assert_eq!(Options::read(&bytes), Ok(options));
        }
    }
}

#[test]
fn zeros_fill_the_last_word_of_a_name() {
    let bytes = written(&Options {
        front: None,
        client: Some(b"ns/ab"),
    });
    assert_eq!(bytes, option(0xff77, 2, b"ns/ab\0\0\0"));
}

/// Data of any length that is no name, and of lengths that are no service's.
#[test]
fn what_is_malformed_is_not_said() {
    for data in [
        &b""[..],
        b"\0\0\0\0",
        b"a b\0",
        b"a\0b\0",
        b"\xff\xff\xff\xff",
    ] {
        let read = Options::read(&option(CLASS, CLIENT, data)).map(|read| read.client.is_some());
        assert_eq!(read, Ok(false), "{data:?}");
    }
    for length in [0, 4, 12, 16, 24, 124] {
        let read = Options::read(&option(CLASS, FRONT, &vec![1; length])).map(|read| read.front);
        assert_eq!(read, Ok(None), "{length}");
    }
}

#[test]
fn options_that_do_not_fill_their_room_are_refused() {
    let whole = written(&Options {
        front: Some(VIP),
        client: Some(b"name"),
    });
    // Of the two options whole, one, or none.
    for end in 1..whole.len() {
        let read = Options::read(&whole[..end]);
        assert_eq!(read.is_ok(), end == 12, "{end}");
    }
}

/// Others' are passed over, wherever they are, but for critical ones.
#[test]
fn others_options_are_passed_over() {
    let own = Options {
        front: Some(VIP),
        client: Some(b"name"),
    };
    let other = option(0xff12, CLIENT, b"else");
    let unknown = option(CLASS, 3, b"more");
    let around = [&other[..], &written(&own), &unknown].concat();
    assert_eq!(Options::read(&around), Ok(own));
    let critical = option(CLASS, CLIENT | geneve::OPTION_CRITICAL, b"name");
    let all = [&around[..], &critical].concat();
    assert_eq!(Options::read(&all), Err(DropReason::GeneveCriticalOption));
}

#[test]
fn the_service_comes_before_the_name() {
    let own = Options {
        front: Some(VIP),
        client: Some(b"name"),
    };
    let alone = Options {
        client: None,
        ..own
    };
    let name = Options { front: None, ..own };
    for (room, expected) in [(1000, own), (20, own), (19, alone), (12, alone), (11, name)] {
        assert_eq!(own.within(room), expected, "{room}");
    }
    assert_eq!(own.within(7), Options::default());
    assert_eq!(name.within(8), name);
}
