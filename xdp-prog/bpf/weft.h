/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The one description of what the BPF programs and user space share: maps' keys and values, the
 * counters, and the encoding of a frame's source MAC.
 *
 * build.rs reads this file too: every WEFT_CONST, WEFT_COUNTER, WEFT_SIZE and WEFT_OFFSET line
 * becomes a Rust constant, enum variant or compile-time assertion (src/abi.rs). Each of these
 * stands on one line of its own. Nothing here is repeated by hand on the other side.
 */
#ifndef WEFT_H
#define WEFT_H

#include <linux/types.h>

/* Debian's headers may be older than the kernel: fall back to the kernel's own values. */
#ifndef TCX_NEXT
#define TCX_NEXT (-1)
#define TCX_PASS 0
#define TCX_DROP 2
#define TCX_REDIRECT 7
#endif
#ifndef PACKET_HOST
#define PACKET_HOST 0
#endif

#define WEFT_CONST(name, value) enum { WEFT_##name = value };

/* Layout version of every pinned map. A different one is refused, never converted. */
WEFT_CONST(ABI, 6)
/* On a frame that user space gave back: the pod's hook lets it pass unseen. "weft" in ASCII. */
WEFT_CONST(MARK, 0x77656674)
/* Workers, and so queues of the punt pair and slots of `xsks` and `heartbeat`. */
WEFT_CONST(MAX_WORKERS, 64)
/* Enrolled pods of one node. Kubernetes allows 110 by default, some distributions 1,000. */
WEFT_CONST(MAX_PODS, 4096)
/* Pods times two address families. */
WEFT_CONST(MAX_ENDPOINTS, 8192)
/* VIP ports and one wildcard per VIP: 5,000 services with several ports in two families. */
WEFT_CONST(MAX_SERVICES, 65536)
/* Owner entries. User space may choose another size before the load. */
WEFT_CONST(MAX_PINS, 524288)
/*
 * Flows on the fast path have two entries each, in sets of ways: as many entries as the kernel tracks. A pod takes no
 * more than some of the ways of a set.
 */
WEFT_CONST(MAX_FLOW_SETS, 65536)
WEFT_CONST(FLOW_WAYS, 8)
WEFT_CONST(FLOW_WAYS_A_POD, 6)
/* 32-bit words of the secret behind their places. */
WEFT_CONST(FLOW_SECRET, 10)
/*
 * First packets that nobody has made entries for: words a line, lines a region, and regions, of which pods have one each
 * unless there are more.
 */
WEFT_CONST(FIRST_WORDS, 8)
WEFT_CONST(FIRST_LINES, 1024)
WEFT_CONST(FIRST_REGIONS, 128)
/* For so long, in units of 2^28 ns: as a flow lives that nobody answers, 30 s. */
WEFT_CONST(FIRST_LIFETIME, 112)
/* Epochs: of pods' slots, then of backends' places. */
WEFT_CONST(MAX_POD_SLOTS, 16384)
WEFT_CONST(MAX_EPOCHS, 147456)
/* Backends of compiled service ports, and their Maglev tables in packs of entries: 16.7 M entries. */
WEFT_CONST(MAX_BACKENDS, 131072)
WEFT_CONST(MAGLEV_PACK, 32)
WEFT_CONST(MAX_MAGLEV_PACKS, 524288)

/* Peers, and ranges of their pods. */
WEFT_CONST(MAX_PEERS, 4096)
WEFT_CONST(MAX_RANGES, 16384)
/* The first number of a tunnel, which stands where a pod's ifindex does: above all that a MAC carries. */
WEFT_CONST(TUNNELS, 0xff0000)
/* weft_overlay.encap and weft_peer.encap */
WEFT_CONST(ENCAP_GENEVE, 0)
WEFT_CONST(ENCAP_VXLAN, 1)

/* IPv6 extension headers that are followed to the ports: how many, and how many bytes of them. */
WEFT_CONST(IP6_EXTENSIONS_MAX, 8)
WEFT_CONST(IP6_EXTENSION_BYTES_MAX, 256)

/*
 * Source MAC of a frame on the punt pair. Locally administered, unicast.
 *   punted:   [tag, ifindex (24 bit), target (16 bit)], big endian; at an uplink the packet is still wrapped
 *   injected: [WEFT_TAG_FROM_POD, ifindex (24 bit), mode, 0]
 */
WEFT_CONST(TAG_FROM_POD, 0x06)
WEFT_CONST(TAG_TO_POD, 0x0a)
WEFT_CONST(TAG_UPLINK, 0x0e)
/*
 * MAC of weft0, "weft" behind a locally administered unicast byte: its upper four bytes and its lower two.
 * The destination of frames that user space has made itself.
 */
WEFT_CONST(WEFT0_MAC_HIGH, 0x02776566)
WEFT_CONST(WEFT0_MAC_LOW, 0x7400)
/* Into the pod behind `ifindex`. */
WEFT_CONST(INJECT_PEER, 1)
/* Back to where it was punted from, as if Weft had never touched it; or, made by user space, as if the pod had sent it. */
WEFT_CONST(INJECT_REINGRESS, 2)
/* Reserved: into the node's own stack. Dropped until it exists. */
WEFT_CONST(INJECT_STACK, 3)
/* Out of the uplink `ifindex`, by the kernel's routes and neighbours. */
WEFT_CONST(INJECT_NEIGH, 4)

/* Bits of weft_pod.flags. */
WEFT_CONST(POD_HAS4, 1)
WEFT_CONST(POD_HAS6, 2)
WEFT_CONST(POD_DRAINING, 4)

/* weft_flow_value.mode: the flow belongs to a worker in user space. Others come with tier 0. */
WEFT_CONST(MODE_OWNER, 0)
/*
 * The same, and its connections end there: `rewrite` says how answers to its packets are injected, and
 * `egress_ifindex` where its large packets go, 0: with all others.
 * `last_seen` is when the last large one went there, written by the program that sent it.
 * Without its worker the connection is no more, and the hooks reset it (reset.h).
 */
WEFT_CONST(MODE_TERMINATED, 1)
/* On the fast path: packets to a backend, whose destination is rewritten; from it, whose source is; as they are. */
WEFT_CONST(MODE_TO_BACKEND, 2)
WEFT_CONST(MODE_FROM_BACKEND, 3)
WEFT_CONST(MODE_PLAIN, 4)

/*
 * Bits of weft_flow_value.tcp_state in `flows`: what went in the entry's own direction and in the other one, whether
 * its own is the client's, and that something came back (UDP) or the handshake is over (TCP).
 */
WEFT_CONST(FLOW_FIN, 1)
WEFT_CONST(FLOW_RST, 2)
WEFT_CONST(FLOW_OPENER, 4)
WEFT_CONST(FLOW_ANSWERED, 8)
WEFT_CONST(FLOW_PEER_FIN, 16)
WEFT_CONST(FLOW_PEER_RST, 32)
/* User space has made the entry while packets of the flow may be under way there: not followed before a pause. */
WEFT_CONST(FLOW_HELD, 64)
/* TCP: the server has answered the SYN. */
WEFT_CONST(FLOW_ACCEPTED, 128)
/* That pause, which is longer than they may wait there. */
WEFT_CONST(HELD_MS, 14)
/* weft_config.fast_path */
WEFT_CONST(FAST_FLOWS, 1)
WEFT_CONST(FAST_FULL, 2)

/* Bits of weft_service.flags: the hooks may choose a backend. */
WEFT_CONST(SERVICE_COMPILED, 1)
/* Bits of weft_reverse.flags: no other service port has the backend. */
WEFT_CONST(REVERSE_SOLE, 1)

/* 16 bytes in network order. IPv4 is v4-mapped, ::ffff:a.b.c.d. */
struct weft_addr {
	union {
		__u8 bytes[16];
		__be32 words[4];
	};
};

/* config[0], written at every start before a program is attached or exchanged. */
struct weft_config {
	__u32 abi;
	__u32 workers;
	__u32 weft0_ifindex;
	__u32 lanes; /* 1 once an owner entry names a bulk lane */
	__u64 heartbeat_limit_ns; /* 0: user space is never taken for dead (tests) */
	__u32 fast_path; /* 0, or what is done without user space: entries followed, and flows opened */
	__u32 instance; /* of user space: tells what an earlier one has left */
	__u32 flow_secret[WEFT_FLOW_SECRET]; /* of the places in `flows`, kept as long as the maps are */
};

/* heartbeat[worker], a cache line each: CLOCK_MONOTONIC of the worker's last step. */
struct weft_heartbeat {
	__u64 last_ns;
	__u64 pad[7];
};

/* pods[ifindex], written by user space only. */
struct weft_pod {
	__u8 ip4[4];
	__u8 ip6[16];
	__u32 flags;
	__u64 punt_interval_ns; /* time one packet costs; 0: unlimited */
	__u64 punt_burst_ns; /* how far ahead of now the bucket may run */
	__u64 grace_until; /* CLOCK_MONOTONIC: until when flows may be older than its enrolment */
};

/* pod_state[ifindex], made and deleted by user space, written by BPF. */
struct weft_pod_state {
	__u64 tat; /* theoretical arrival time of the token bucket (GCRA) */
	__u8 mac[6]; /* the pod's own MAC, restored on re-ingress */
	__u8 gateway[6]; /* the MAC by which it reaches services: where what is made in its name goes */
	__u8 pad[4];
};

/* endpoints[address]: enrolled pods, and the hairpin addresses with ifindex 0. */
struct weft_endpoint {
	__u32 ifindex;
	__u32 flags;
};

/* overlay[0]: where wrapped packets for this node go. */
struct weft_overlay {
	struct weft_addr node4; /* unspecified: not by that family */
	struct weft_addr node6;
	__be16 port; /* of UDP; 0: there is no overlay */
	__u8 encap;
	__u8 pad[5];
};

/* peers[address on the underlay] and ranges[pods' addresses]: the number of the tunnel. */
struct weft_tunnel {
	__u32 port;
};

/* tunnels[number]: how the programs wrap by themselves what goes to a peer, and unwrap what comes from it. */
struct weft_peer {
	__be32 local; /* on the underlay */
	__be32 remote;
	__u32 uplink; /* 0: only user space does */
	__be32 vni; /* in the upper three bytes */
	__be16 port;
	__u16 mtu; /* of what is inside */
	__u8 encap;
	__u8 native; /* as they are */
	__u8 pad[2];
};

/* ranges[key], by longest prefix. */
struct weft_range {
	__u32 bits; /* of all 128 */
	struct weft_addr addr;
};

/* services[key]: one per VIP, port and protocol, and one wildcard (port 0, proto 0) per VIP. */
struct weft_service_key {
	struct weft_addr vip;
	__be16 port;
	__u8 proto;
	__u8 pad;
};

/* All but its presence is for the compiled choice, and zero without one. */
struct weft_service {
	__u32 id; /* user space's number of the service port */
	__u32 flags;
	__u32 maglev_offset; /* in packs */
	__u32 maglev_size; /* in entries */
	__u32 backends_offset;
	__u32 backends;
};

/* maglev[]: each entry is a backend's place behind backends_offset. */
struct weft_maglev {
	__u16 entries[WEFT_MAGLEV_PACK];
};

/* backends[] */
struct weft_backend {
	struct weft_addr addr;
	__be16 port;
	__u16 pad;
	__u32 ifindex;
	__u32 slot; /* in `epochs`; 0 never moves */
	__u32 epoch;
	__u32 instance;
	__u32 reserved;
};

/* reverse[the backend's address, port and protocol]: whose answers its packets are, if a client has asked. */
struct weft_reverse {
	struct weft_addr vip;
	__be16 port;
	__u16 flags;
};

/* pins[key] and flows[]. The ifindex keeps a pod from hitting another pod's entry. */
struct weft_flow_key {
	struct weft_addr src;
	struct weft_addr dst;
	__be16 sport;
	__be16 dport;
	__u32 ifindex; /* the pod's veth: the sender's (FromPod), the receiver's (ToPod); the tunnel of a peer's pod */
	__u8 proto;
	__u8 pad[3];
};

/*
 * In `pins` `owner`, `cookie`, `rewrite` and `egress_ifindex` count, and the rest is zero.
 * In `flows` `rewrite` and `owner` are zero, and `cookie` is when the flow was opened.
 * A MODE_PLAIN entry rewrites nothing: its `rewrite_addr` and `rewrite_port` name the service port that a client asked
 * for at another node, or the client's destination, and its `service` is user space's number of the client's name, or 0.
 */
struct weft_flow_value {
	struct weft_addr rewrite_addr;
	__be16 rewrite_port;
	__u8 mode;
	__u8 rewrite;
	__u32 egress_ifindex;
	__u16 owner;
	__u16 deadline; /* in `flows`: as in the entry's set */
	__u32 slot;
	__u32 epoch;
	__u32 instance;
	__u64 cookie;
	__u64 packets;
	__u64 bytes;
	__u64 last_seen;
	__u32 tcp_state;
	__u32 service;
};

/* flows[way * WEFT_MAX_FLOW_SETS + set] */
struct weft_flow {
	struct weft_flow_key key;
	__u32 pad;
	struct weft_flow_value value;
};

/* A flow that begins: both entries, but for what is known when they are made. */
struct weft_opening {
	struct weft_flow_key key;
	struct weft_flow_key back_key;
	struct weft_flow_value there;
	struct weft_flow_value back;
};

/* firsts[region * WEFT_FIRST_LINES + line]: a client's latest first packets, a word each (first.h). */
struct weft_firsts {
	__u64 words[WEFT_FIRST_WORDS];
};

/*
 * flow_sets[set]: what is in its ways, so that a look at one cache line finds an entry, or room for one. `lock` is for
 * those who put entries in, which are programs alone; whoever takes one out makes its tag 0.
 */
struct weft_flow_set {
	__u32 lock;
	__u32 tags[WEFT_FLOW_WAYS]; /* of the hash; 0: nothing is there */
	__u16 deadlines[WEFT_FLOW_WAYS]; /* in units of 2^32 ns of CLOCK_MONOTONIC; past: as good as nothing */
	__u32 pins; /* owner entries whose keys belong here, or more */
	__u64 seen; /* 16 bits each of the latest first packets' hashes, and since when (first.h) */
};

#define WEFT_SIZE(type, size) _Static_assert(sizeof(struct weft_##type) == (size), #type);
#define WEFT_OFFSET(type, field, offset) \
	_Static_assert(__builtin_offsetof(struct weft_##type, field) == (offset), #type "." #field);

WEFT_SIZE(config, 72)
WEFT_OFFSET(config, workers, 4)
WEFT_OFFSET(config, weft0_ifindex, 8)
WEFT_OFFSET(config, lanes, 12)
WEFT_OFFSET(config, heartbeat_limit_ns, 16)
WEFT_OFFSET(config, fast_path, 24)
WEFT_OFFSET(config, instance, 28)
WEFT_OFFSET(config, flow_secret, 32)
WEFT_SIZE(heartbeat, 64)
WEFT_OFFSET(heartbeat, last_ns, 0)
WEFT_SIZE(pod, 48)
WEFT_OFFSET(pod, ip4, 0)
WEFT_OFFSET(pod, ip6, 4)
WEFT_OFFSET(pod, flags, 20)
WEFT_OFFSET(pod, punt_interval_ns, 24)
WEFT_OFFSET(pod, punt_burst_ns, 32)
WEFT_OFFSET(pod, grace_until, 40)
WEFT_SIZE(pod_state, 24)
WEFT_OFFSET(pod_state, tat, 0)
WEFT_OFFSET(pod_state, mac, 8)
WEFT_OFFSET(pod_state, gateway, 14)
WEFT_SIZE(endpoint, 8)
WEFT_OFFSET(endpoint, ifindex, 0)
WEFT_OFFSET(endpoint, flags, 4)
WEFT_SIZE(overlay, 40)
WEFT_OFFSET(overlay, node6, 16)
WEFT_OFFSET(overlay, port, 32)
WEFT_OFFSET(overlay, encap, 34)
WEFT_SIZE(tunnel, 4)
WEFT_SIZE(peer, 24)
WEFT_OFFSET(peer, uplink, 8)
WEFT_OFFSET(peer, vni, 12)
WEFT_OFFSET(peer, port, 16)
WEFT_OFFSET(peer, mtu, 18)
WEFT_OFFSET(peer, encap, 20)
WEFT_OFFSET(peer, native, 21)
WEFT_SIZE(range, 20)
WEFT_OFFSET(range, addr, 4)
WEFT_SIZE(service_key, 20)
WEFT_OFFSET(service_key, vip, 0)
WEFT_OFFSET(service_key, port, 16)
WEFT_OFFSET(service_key, proto, 18)
WEFT_SIZE(service, 24)
WEFT_OFFSET(service, id, 0)
WEFT_OFFSET(service, flags, 4)
WEFT_OFFSET(service, maglev_offset, 8)
WEFT_OFFSET(service, maglev_size, 12)
WEFT_OFFSET(service, backends_offset, 16)
WEFT_OFFSET(service, backends, 20)
WEFT_SIZE(maglev, 64)
WEFT_SIZE(backend, 40)
WEFT_OFFSET(backend, addr, 0)
WEFT_OFFSET(backend, port, 16)
WEFT_OFFSET(backend, ifindex, 20)
WEFT_OFFSET(backend, slot, 24)
WEFT_OFFSET(backend, epoch, 28)
WEFT_OFFSET(backend, instance, 32)
WEFT_SIZE(flow_key, 44)
WEFT_OFFSET(flow_key, src, 0)
WEFT_OFFSET(flow_key, dst, 16)
WEFT_OFFSET(flow_key, sport, 32)
WEFT_OFFSET(flow_key, dport, 34)
WEFT_OFFSET(flow_key, ifindex, 36)
WEFT_OFFSET(flow_key, proto, 40)
WEFT_SIZE(flow_value, 80)
WEFT_OFFSET(flow_value, rewrite_addr, 0)
WEFT_OFFSET(flow_value, rewrite_port, 16)
WEFT_OFFSET(flow_value, mode, 18)
WEFT_OFFSET(flow_value, rewrite, 19)
WEFT_OFFSET(flow_value, egress_ifindex, 20)
WEFT_OFFSET(flow_value, owner, 24)
WEFT_OFFSET(flow_value, deadline, 26)
WEFT_OFFSET(flow_value, slot, 28)
WEFT_OFFSET(flow_value, epoch, 32)
WEFT_OFFSET(flow_value, instance, 36)
WEFT_OFFSET(flow_value, cookie, 40)
WEFT_OFFSET(flow_value, packets, 48)
WEFT_OFFSET(flow_value, bytes, 56)
WEFT_OFFSET(flow_value, last_seen, 64)
WEFT_OFFSET(flow_value, tcp_state, 72)
WEFT_OFFSET(flow_value, service, 76)
WEFT_SIZE(flow, 128)
WEFT_OFFSET(flow, key, 0)
WEFT_OFFSET(flow, value, 48)
WEFT_SIZE(opening, 248)
WEFT_OFFSET(opening, back_key, 44)
WEFT_OFFSET(opening, there, 88)
WEFT_OFFSET(opening, back, 168)
WEFT_SIZE(flow_set, 64)
WEFT_OFFSET(flow_set, lock, 0)
WEFT_OFFSET(flow_set, tags, 4)
WEFT_OFFSET(flow_set, deadlines, 36)
WEFT_OFFSET(flow_set, pins, 52)
WEFT_OFFSET(flow_set, seen, 56)
WEFT_SIZE(firsts, 64)
WEFT_SIZE(reverse, 20)
WEFT_OFFSET(reverse, vip, 0)
WEFT_OFFSET(reverse, port, 16)
WEFT_OFFSET(reverse, flags, 18)

/*
 * Counters, in packets as the wire would see them (a GSO packet counts as its segments).
 *   from_pod = from_pod_kernel + from_pod_punted + from_pod_forwarded + from_pod_orphan + malformed + src_spoof + punt_rate
 *   to_pod   = to_pod_kernel + to_pod_punted + to_pod_orphan
 *   from_peer = from_peer_punted + from_peer_forwarded + from_peer_kernel + from_peer_orphan
 *   from_pod_punted + to_pod_punted + from_peer_punted = xsk_redirected + xsk_absent + losses of the pair + bulk_punted
 */
#define WEFT_COUNTER(name, text) WEFT_COUNT_##name,
enum weft_counter {
WEFT_COUNTER(FROM_POD, "packets that enrolled pods sent, re-ingressed ones not counted again")
WEFT_COUNTER(FROM_POD_KERNEL, "packets of enrolled pods left to the kernel")
WEFT_COUNTER(FROM_POD_PUNTED, "packets of enrolled pods sent to user space")
WEFT_COUNTER(FROM_POD_FORWARDED, "packets of enrolled pods that went into the other pod, or wrapped to a peer, by the fast path")
WEFT_COUNTER(FROM_POD_FIRST, "of those, first packets and first answers, for which no entry was made")
WEFT_COUNTER(FLOWS_OPENED, "flows that the fast path opened")
WEFT_COUNTER(FLOWS_NO_ROOM, "flows left to user space: live ones have all the places that the fast path had for them")
WEFT_COUNTER(FROM_POD_ORPHAN, "dropped or reset: their connections ended in a worker that does not step")
WEFT_COUNTER(TO_POD, "packets that the kernel delivers to enrolled pods")
WEFT_COUNTER(TO_POD_KERNEL, "of those, left alone")
WEFT_COUNTER(TO_POD_PUNTED, "of those, sent to user space for translation")
WEFT_COUNTER(TO_POD_ORPHAN, "of those, dropped or reset: their connections ended in a worker that does not step")
WEFT_COUNTER(FROM_PEER, "packets of peers that came by an uplink: wrapped ones, to enrolled pods from peers without a tunnel, and what routers say of wrapped ones")
WEFT_COUNTER(FROM_PEER_PUNTED, "of those, sent to user space")
WEFT_COUNTER(FROM_PEER_FORWARDED, "of those, unwrapped by the fast path and put into a pod")
WEFT_COUNTER(FROM_PEER_KERNEL, "of those, not wrapped, and left to the kernel: there is no worker that steps")
WEFT_COUNTER(FROM_PEER_ORPHAN, "of those, dropped: there is no worker that steps")
WEFT_COUNTER(BULK_PUNTED, "of the packets sent to user space, those in large ones by the bulk lane")
WEFT_COUNTER(BULK_FRAMES, "those large packets")
WEFT_COUNTER(STALE, "packets left to the kernel because their worker's heartbeat is stale")
WEFT_COUNTER(REINGRESSED, "packets given back to the kernel that passed the pod's hook")
WEFT_COUNTER(MALFORMED, "dropped: truncated or contradictory IP or layer 4 header")
WEFT_COUNTER(SRC_SPOOF, "dropped: source address that is not the pod's")
WEFT_COUNTER(PUNT_RATE, "dropped: the pod is above its punt rate")
WEFT_COUNTER(INJECTED_PEER, "frames of user space put into a pod")
WEFT_COUNTER(INJECTED_REINGRESS, "frames of user space given back to the kernel")
WEFT_COUNTER(INJECTED_UPLINK, "frames of user space sent out of an uplink")
WEFT_COUNTER(INJECT_FOREIGN, "dropped at weft0: not a frame that user space encoded")
WEFT_COUNTER(XSK_REDIRECTED, "punted frames handed to an AF_XDP socket")
WEFT_COUNTER(XSK_ABSENT, "punted frames of a queue without a socket")
WEFT_COUNTER(FAILOPEN_REINGRESS, "of those, given back to the kernel at the sender's veth")
WEFT_COUNTER(FAILOPEN_UPLINK, "of those, dropped: a peer sent them, and only user space can take them on")
WEFT_COUNTER(FAILOPEN_PEER, "of those, put into the pod they were on their way to")
WEFT_COUNTER(PUNT_FOREIGN, "dropped at weft1: not a punted frame")
	WEFT_COUNTERS
};

#endif /* WEFT_H */
