/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Wrapping and unwrapping without user space: GENEVE and VXLAN over IPv4, without options and without an outer checksum. Large
 * packets stay large. engine/datapath/src/tunnel.rs does the same for everything else.
 */
#ifndef WEFT_WRAP_H
#define WEFT_WRAP_H

#include "flows.h"
#include "maps.h"
#include "parse.h"
#include "rewrite.h"

/* uapi/linux/bpf.h of newer kernels. */
#ifndef BPF_F_ADJ_ROOM_DECAP_L3_IPV4
#define BPF_F_ADJ_ROOM_DECAP_L3_IPV4 (1ULL << 7)
#define BPF_F_ADJ_ROOM_DECAP_L3_IPV6 (1ULL << 8)
#endif

/* Behind IP and UDP: GENEVE's header without options, or VXLAN's. */
struct tunnel_header {
	__u8 flags;
	__u8 more;
	__be16 protocol;
	__be32 vni;
};

/* Everything before the inner packet. */
struct wrapping {
	struct ethhdr outer;
	struct iphdr ip;
	struct udphdr udp;
	struct tunnel_header tunnel;
	struct ethhdr inner;
} __attribute__((packed));

#define WRAPPED_AT sizeof(struct wrapping) /* 64 */
#define WRAP_ROOM (WRAPPED_AT - ETH_HLEN)
#define ETHERNET_INSIDE 0x6558 /* RFC 8926, 3.4 */
#define VXLAN_HAS_VNI 0x08
#define INNER_MAC_LOW 0x74 /* behind the upper four bytes of weft0's */
#define DYNAMIC_PORTS 0xc000
#define ECN 0x03

static __always_inline bool is_tunnel(__u32 ifindex)
{
	return ifindex >= WEFT_TUNNELS;
}

/* The peer behind a tunnel that the programs wrap for. */
static __always_inline struct weft_peer *peer_of(__u32 tunnel)
{
	struct weft_peer *peer = bpf_map_lookup_elem(&tunnels, &tunnel);

	return peer && peer->uplink ? peer : NULL;
}

/* The same number for all packets of a flow: engine/datapath/src/tunnel.rs, inner_hash(). */
static __always_inline __u64 inner_hash(const struct weft_addr *src, const struct weft_addr *dst, bool v6,
					__be16 sport, __be16 dport, __u8 proto)
{
	__u64 ports = (__u64)bpf_ntohs(sport) << 16 | bpf_ntohs(dport), hash = 0x77656674;

	if (v6) {
		hash = hash_mix(hash, half(src, 0));
		hash = hash_mix(hash, half(src, 2));
		hash = hash_mix(hash, half(dst, 0));
		hash = hash_mix(hash, half(dst, 2));
	} else {
		hash = hash_mix(hash, (__u64)bpf_ntohl(src->words[3]) << 32 | bpf_ntohl(dst->words[3]));
	}
	return hash_finish(hash_mix(hash, ports << 8 | proto));
}

/* What the way makes of the packet's ends. */
static __always_inline __u64 wrapped_hash(const struct packet *packet, const struct way *way)
{
	bool to = way->mode == WEFT_MODE_TO_BACKEND, from = way->mode == WEFT_MODE_FROM_BACKEND;

	return inner_hash(from ? &way->addr : &packet->src, to ? &way->addr : &packet->dst, packet->v6,
			  from ? way->port : packet->sport, to ? way->port : packet->dport, packet->proto);
}

static __always_inline __u8 traffic_class(struct __sk_buff *skb, bool v6, __u32 at)
{
	__u8 bytes[2] = {};

	bpf_skb_load_bytes(skb, at, bytes, sizeof(bytes));
	return v6 ? bytes[0] << 4 | bytes[1] >> 4 : bytes[1];
}

/* The sum of an IPv4 header without options: 0xffff where its own is right. */
static __always_inline __u16 header_sum(const void *ip)
{
	const __u16 *words = ip;
	__u64 sum = 0;

#pragma unroll
	for (int i = 0; i < 10; i++)
		sum += words[i];
	return folded(sum);
}

/* Whether the outer headers contradict neither themselves nor what is wrapped. */
static __always_inline bool outer_holds(struct __sk_buff *skb, const struct packet *outer,
					const struct packet *inner)
{
	struct wrapping *head = (void *)(long)skb->data;

	if ((void *)(head + 1) > (void *)(long)skb->data_end)
		return false;
	return !head->udp.check && inner->end == outer->end && header_sum((void *)head + ETH_HLEN) == 0xffff &&
	       (skb->gso_size || bpf_ntohs(head->udp.len) == outer->end - outer->l4);
}

/* Wraps a packet, whose headers are as they go into the tunnel, and sends it by the kernel's routes and neighbours. */
static __always_inline int send_wrapped(struct __sk_buff *skb, const struct packet *packet,
					const struct weft_peer *peer, __u64 hash)
{
	__u8 class = traffic_class(skb, packet->v6, ETH_HLEN);
	__u32 length = skb->len - ETH_HLEN, uplink = peer->uplink;
	struct wrapping head = {};

	head.outer.h_proto = bpf_htons(ETH_P_IP);
	head.ip.version = 4;
	head.ip.ihl = 5;
	head.ip.tos = class;
	/* More has no place there, and is cut up before anyone looks. */
	head.ip.tot_len = length + WRAP_ROOM > 0xffff ? 0 : bpf_htons(length + WRAP_ROOM);
	head.ip.frag_off = bpf_htons(0x4000); /* do not fragment */
	head.ip.ttl = 64;
	head.ip.protocol = IPPROTO_UDP;
	head.ip.saddr = peer->local;
	head.ip.daddr = peer->remote;
	head.ip.check = ~header_sum((void *)&head + ETH_HLEN);
	head.udp.source = bpf_htons(DYNAMIC_PORTS | (hash & 0x3fff));
	head.udp.dest = peer->port;
	head.udp.len = bpf_htons(length + WRAP_ROOM - sizeof(head.ip));
	head.tunnel.vni = peer->vni;
	if (peer->encap == WEFT_ENCAP_GENEVE)
		head.tunnel.protocol = bpf_htons(ETHERNET_INSIDE);
	else
		head.tunnel.flags = VXLAN_HAS_VNI;
	*(__be32 *)head.inner.h_dest = bpf_htonl(WEFT_WEFT0_MAC_HIGH);
	head.inner.h_dest[4] = INNER_MAC_LOW;
	head.inner.h_dest[5] = 1;
	*(__be32 *)head.inner.h_source = bpf_htonl(WEFT_WEFT0_MAC_HIGH);
	head.inner.h_source[4] = INNER_MAC_LOW;
	head.inner.h_proto = bpf_htons(packet->v6 ? ETH_P_IPV6 : ETH_P_IP);
	/* The inner Ethernet header is 14 bytes, whatever stands before it. Segments keep their size, which fits(): datagrams have to. */
	if (bpf_skb_adjust_room(skb, WRAP_ROOM, BPF_ADJ_ROOM_MAC,
				BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | BPF_F_ADJ_ROOM_ENCAP_L4_UDP |
					BPF_F_ADJ_ROOM_ENCAP_L2(ETH_HLEN) | BPF_F_ADJ_ROOM_ENCAP_L2_ETH))
		return TCX_DROP;
	if (bpf_skb_store_bytes(skb, 0, &head, sizeof(head), 0))
		return TCX_DROP;
	return bpf_redirect_neigh(uplink, NULL, 0, 0);
}

/*
 * Whether what is wrapped in `outer` is as send_wrapped() makes it, from that peer, and `inner` says what it is, as if
 * it stood there alone. Anything else is for the engine to judge.
 */
static __always_inline bool read_wrapped(struct __sk_buff *skb, const struct packet *outer,
					 const struct weft_peer *peer, struct packet *inner)
{
	struct tunnel_header tunnel;
	__be16 ethertype;
	bool v6;

	if (outer->v6 || outer->payload != WRAPPED_AT - ETH_HLEN - sizeof(tunnel) ||
	    bpf_skb_load_bytes(skb, outer->payload, &tunnel, sizeof(tunnel)) ||
	    bpf_skb_load_bytes(skb, WRAPPED_AT - sizeof(ethertype), &ethertype, sizeof(ethertype)))
		return false;
	if ((tunnel.vni ^ peer->vni) & bpf_htonl(0xffffff00))
		return false;
	if (peer->encap == WEFT_ENCAP_GENEVE) {
		if (tunnel.flags || tunnel.more || tunnel.protocol != bpf_htons(ETHERNET_INSIDE))
			return false;
	} else if (!(tunnel.flags & VXLAN_HAS_VNI)) {
		return false;
	}
	v6 = ethertype == bpf_htons(ETH_P_IPV6);
	if (!v6 && ethertype != bpf_htons(ETH_P_IP))
		return false;
	if ((v6 ? parse_ip6(skb, inner, WRAPPED_AT) : parse_ip4(skb, inner, WRAPPED_AT)) != PARSE_OK ||
	    !inner->ports || !outer_holds(skb, outer, inner))
		return false;
	/* Large datagrams cannot be unwrapped as one. */
	if (skb->gso_size && inner->proto == IPPROTO_UDP)
		return false;
	/* What the way has done to the outer bits is for the engine to carry in (RFC 6040). */
	if ((traffic_class(skb, false, ETH_HLEN) ^ traffic_class(skb, v6, WRAPPED_AT)) & ECN)
		return false;
	inner->l4 -= WRAP_ROOM;
	inner->payload -= WRAP_ROOM;
	inner->end -= WRAP_ROOM;
	return true;
}

/*
 * Lowers the largest segment that a SYN asks for to what the tunnel holds (TUN-04), as clamp_segments() of
 * engine/datapath/src/tunnel.rs does. 0, or -1 if that is not possible.
 */
static __noinline int clamp(struct __sk_buff *skb, const struct packet *packet, __u32 tunnel)
{
	__u32 headers = (packet->v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr)) + sizeof(struct tcphdr);
	__u32 check = packet->l4 + __builtin_offsetof(struct tcphdr, check);
	struct weft_peer *peer = bpf_map_lookup_elem(&tunnels, &tunnel);
	__be16 most;

	if (!peer || peer->mtu < headers)
		return -1;
	if (bpf_ntohs(packet->segment) + headers <= peer->mtu)
		return 0;
	most = bpf_htons(peer->mtu - headers);
	if (bpf_l4_csum_replace(skb, check, packet->segment, most, sizeof(most)))
		return -1;
	return bpf_skb_store_bytes(skb, packet->l4 + TCP_FIRST_OPTION + 2, &most, sizeof(most), 0);
}

/* Whether the packet asks for no more than the tunnel holds, if need be from now on. */
static __always_inline bool clamped(struct __sk_buff *skb, const struct packet *packet, __u32 tunnel)
{
	return !(packet->control & TCP_SYN) || !clamp(skb, packet, tunnel);
}

/* Takes the outer headers off. */
static __always_inline bool unwrap(struct __sk_buff *skb, const struct packet *inner)
{
	__u64 decap = inner->v6 ? BPF_F_ADJ_ROOM_DECAP_L3_IPV6 : BPF_F_ADJ_ROOM_DECAP_L3_IPV4;
	__be16 ethertype = bpf_htons(inner->v6 ? ETH_P_IPV6 : ETH_P_IP);

	return !bpf_skb_adjust_room(skb, -(__s32)WRAP_ROOM, BPF_ADJ_ROOM_MAC,
				    BPF_F_ADJ_ROOM_FIXED_GSO | decap) &&
	       !bpf_skb_store_bytes(skb, 2 * ETH_ALEN, &ethertype, sizeof(ethertype), 0);
}

#endif /* WEFT_WRAP_H */
