use libbpf_rs::{MapCore, MapFlags, MapHandle, MapType};

use crate::links::{inspect, link_path};
use crate::netlink::{XdpMode, xdp_mode};
use crate::{Error, OwnedKind, Steering, cleanup, owned, pair_is_foreign};

use super::support::{block_on, ip, node};

#[test]
fn what_a_killed_process_leaves_is_listed_and_goes() {
    node(|node| {
        let pod = node.pod(1);
        let steering = node.steering(1);
        steering.attach_pair().unwrap();
        steering.set_pod(&pod.entry()).unwrap();
        steering.attach_pod(pod.ifindex).unwrap();
        drop(steering); // Nothing is detached, as after a kill.

        let objects = owned(&node.pin_dir).unwrap();
        let of = |kind| objects.iter().filter(|object| object.kind == kind).count();
        assert_eq!(of(OwnedKind::Link), 5, "{objects:?}");
        assert_eq!(of(OwnedKind::Map), 19, "{objects:?}");
        assert_eq!(of(OwnedKind::Interface), 2, "{objects:?}");
        assert_eq!(of(OwnedKind::Directory), 1, "{objects:?}");
        let from_pod = objects
            .iter()
            .find(|o| o.name.contains("from_pod"))
            .unwrap();
        assert_eq!(from_pod.detail, "tcx ingress at veth1");

        let report = cleanup(&node.pin_dir).unwrap();
        assert_eq!(report.removed, objects);
        assert_eq!(owned(&node.pin_dir).unwrap(), []);
        assert!(!node.pin_dir.exists());
        assert_eq!(cleanup(&node.pin_dir).unwrap().removed, [], "twice is fine");
    });
}

#[test]
fn the_pair_of_another_run_directory_stays() {
    node(|node| {
        let steering = node.steering(1);
        let stranger = std::path::Path::new(crate::BPFFS).join("weft-test-stranger");
        assert!(!pair_is_foreign(&stranger).unwrap(), "nobody's yet");
        steering.attach_pair().unwrap();
        assert!(!pair_is_foreign(&node.pin_dir).unwrap());
        assert!(pair_is_foreign(&stranger).unwrap());
        assert_eq!(owned(&stranger).unwrap(), []);
        assert_eq!(cleanup(&stranger).unwrap().removed, []);
        let weft1 = steering.config.pair.weft1_ifindex;
        assert_eq!(block_on(xdp_mode(weft1)).unwrap(), XdpMode::Native);
    });
}

#[test]
fn a_second_open_takes_links_and_maps_over() {
    node(|node| {
        let pod = node.pod(1);
        let first = node.steering(1);
        first.attach_pair().unwrap();
        first.set_pod(&pod.entry()).unwrap();
        first.attach_pod(pod.ifindex).unwrap();
        first.sync_endpoints(&pod.endpoints()).unwrap();
        let pair = first.config.pair.clone();
        let paths = [
            link_path(&node.pin_dir, "from_pod", pod.ifindex),
            link_path(&node.pin_dir, "to_pod", pod.ifindex),
            link_path(&node.pin_dir, "injected", pair.weft0_ifindex),
            link_path(&node.pin_dir, "fail_open", pair.weft1_ifindex),
            link_path(&node.pin_dir, "punted", pair.weft1_ifindex),
        ];
        let before = paths.each_ref().map(|path| inspect(path).unwrap());
        drop(first);

        let second = node.steering(1);
        assert_eq!(second.config.pair, pair, "the pair was taken over");
        assert_eq!(second.pods().unwrap(), [pod.entry()]);
        assert_eq!(second.endpoints().unwrap().len(), 2);
        assert_eq!(second.attached_pods().unwrap(), [pod.ifindex]);
        second.attach_pair().unwrap();
        second.attach_pod(pod.ifindex).unwrap();
        let after = paths.each_ref().map(|path| inspect(path).unwrap());
        for (before, after) in before.iter().zip(&after) {
            assert_eq!(
                (before.id, before.ifindex),
                (after.id, after.ifindex),
                "the same link"
            );
            assert_ne!(before.program, after.program, "another program");
        }
        assert_eq!(
            block_on(xdp_mode(pair.weft1_ifindex)).unwrap(),
            XdpMode::Native
        );

        second.detach_pod(pod.ifindex).unwrap();
        assert!(second.remove_pod(pod.ifindex).unwrap());
        assert_eq!(second.attached_pods().unwrap(), [0_u32; 0]);
        second.detach_pod(pod.ifindex).unwrap();
    });
}

#[test]
fn the_link_of_a_deleted_interface_makes_room() {
    node(|node| {
        let steering = node.steering(1);
        ip("link add test7 index 777 type veth peer name far7");
        steering.attach_pod(777).unwrap();
        ip("link del test7");
        ip("link add test8 index 777 type veth peer name far7");
        steering.attach_pod(777).unwrap();
        let info = inspect(&link_path(&node.pin_dir, "from_pod", 777)).unwrap();
        assert_eq!(info.ifindex, Some(777));
        ip("link del test8");
        let objects = owned(&node.pin_dir).unwrap();
        let gone = objects
            .iter()
            .filter(|o| o.detail.ends_with("that is gone"))
            .count();
        assert_eq!(gone, 2, "{objects:?}");
        steering.detach_pod(777).unwrap();
    });
}

#[test]
fn the_links_of_a_deleted_pair_are_forgotten() {
    node(|node| {
        let first = node.steering(1);
        first.attach_pair().unwrap();
        drop(first);
        ip("link del weft0");
        let second = node.steering(1);
        second.attach_pair().unwrap();
        let objects = owned(&node.pin_dir).unwrap();
        let links = objects.iter().filter(|o| o.kind == OwnedKind::Link);
        assert_eq!(links.count(), 3, "{objects:?}");
    });
}

#[test]
fn maps_of_another_layout_are_refused() {
    node(|node| {
        let steering = node.steering(1);
        let pair = steering.config.pair.clone();
        let config =
            crate::maps::TypedMap::<u32, crate::abi::Config>::open(&node.pin_dir.join("config"))
                .unwrap();
        let mut content = config.lookup(&0).unwrap().unwrap();
        content.abi = 99;
        config.insert(&0, &content).unwrap();
        drop(steering);
        match Steering::open(node.config(pair, 1)) {
            Err(error @ Error::ForeignAbi { found: 99, .. }) => {
                assert!(error.to_string().contains("weft cleanup"), "{error}");
            }
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("opened"),
        }
    });
}

/// Layout 4 had a shorter `config`.
#[test]
fn maps_of_a_layout_with_another_config_are_refused_by_its_number() {
    node(|node| {
        let steering = node.steering(1);
        let pair = steering.config.pair.clone();
        drop(steering);
        let path = node.pin_dir.join("config");
        std::fs::remove_file(&path).unwrap();
        let options = libbpf_sys::bpf_map_create_opts {
            sz: size_of::<libbpf_sys::bpf_map_create_opts>() as _,
            ..Default::default()
        };
        let mut former =
            MapHandle::create(MapType::Array, Some("config"), 4, 40, 1, &options).unwrap();
        let mut value = [0; 40];
        value[0] = 4;
        let key = 0_u32.to_ne_bytes();
        former.update(&key, &value, MapFlags::ANY).unwrap();
        former.pin(&path).unwrap();
        match Steering::open(node.config(pair, 1)) {
            Err(Error::ForeignAbi { found: 4, .. }) => {}
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("opened"),
        }
    });
}

#[test]
fn another_number_of_pins_makes_a_new_map() {
    node(|node| {
        let pair = node.steering(1).config.pair.clone();
        let mut config = node.config(pair, 1);
        config.max_pins = 100;
        let steering = Steering::open(config).unwrap();
        assert_eq!(steering.pins().unwrap(), []);
    });
}

/// The constant says what the kernel says.
#[test]
fn one_byte_more_is_too_much_for_native_xdp() {
    node(|node| {
        let steering = node.steering(1);
        ip(&format!(
            "link set weft0 mtu {}",
            crate::netlink::PAIR_MTU + 1
        ));
        let error = steering.attach_pair().unwrap_err();
        assert!(error.to_string().contains("MTU"), "{error}");
        ip(&format!("link set weft0 mtu {}", crate::netlink::PAIR_MTU));
        steering.attach_pair().unwrap();
    });
}
