/* SPDX-License-Identifier: Apache-2.0 */
/* The steering table (docs/steering.md), BPF column. Tests check every row of it. */
#ifndef WEFT_STEER_H
#define WEFT_STEER_H

#include "icmp.h"
#include "maps.h"
#include "parse.h"

enum steering {
	STEER_KERNEL,
	STEER_PUNT,
	STEER_SPOOF,
};

static __always_inline bool is_mapped(const struct weft_addr *addr)
{
	return !addr->words[0] && !addr->words[1] && addr->words[2] == IP4_MAPPED;
}

static __always_inline bool is_link_local(const struct packet *packet, const struct weft_addr *addr)
{
	if (packet->v6)
		return (addr->words[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
	return (addr->words[3] & bpf_htonl(0xffff0000)) == bpf_htonl(0xa9fe0000);
}

static __always_inline bool is_unspecified(const struct packet *packet, const struct weft_addr *addr)
{
	if (packet->v6)
		return !addr->words[0] && !addr->words[1] && !addr->words[2] && !addr->words[3];
	return !addr->words[3];
}

static __always_inline bool is_multicast(const struct packet *packet, const struct weft_addr *addr)
{
	if (packet->v6)
		return addr->bytes[0] == 0xff;
	return (addr->words[3] & bpf_htonl(0xf0000000)) == bpf_htonl(0xe0000000) ||
	       addr->words[3] == bpf_htonl(0xffffffff);
}

/* ARP, NDP, MLD, DHCP and discovery live here, and Weft has no business with them. */
static __always_inline bool kernel_destination(const struct packet *packet)
{
	return is_multicast(packet, &packet->dst) || is_link_local(packet, &packet->dst) ||
	       (packet->v6 && is_mapped(&packet->dst)); /* Would alias an IPv4 key. */
}

static __always_inline bool own_source(const struct packet *packet, const struct weft_pod *pod)
{
	if (packet->v6) {
		struct weft_addr own;

		__builtin_memcpy(&own, pod->ip6, sizeof(own));
		return (pod->flags & WEFT_POD_HAS6) && own.words[0] == packet->src.words[0] &&
		       own.words[1] == packet->src.words[1] && own.words[2] == packet->src.words[2] &&
		       own.words[3] == packet->src.words[3];
	}
	return (pod->flags & WEFT_POD_HAS4) && *(__be32 *)pod->ip4 == packet->src.words[3];
}

static __always_inline bool is_vip(const struct weft_addr *addr)
{
	struct weft_service_key key = { .vip = *addr };

	return bpf_map_lookup_elem(&services, &key);
}

/* Whether a peer has the pod with this address. */
static __always_inline bool is_remote(const struct weft_addr *addr)
{
	struct weft_range key = { .bits = 128, .addr = *addr };
	__u32 zero = 0;
	struct weft_overlay *here = bpf_map_lookup_elem(&overlay, &zero);

	return here && here->port && bpf_map_lookup_elem(&ranges, &key);
}

/* Every packet is that worker's, whosever flow it is of. */
static __always_inline bool sole_worker(void)
{
	__u32 zero = 0;
	struct weft_config *cfg = bpf_map_lookup_elem(&config, &zero);

	return cfg && cfg->workers == 1;
}

static __always_inline struct weft_flow_key key_of(const struct packet *packet, __u32 ifindex)
{
	struct weft_flow_key key = {
		.src = packet->src,
		.dst = packet->dst,
		.sport = packet->sport,
		.dport = packet->dport,
		.ifindex = ifindex,
		.proto = packet->proto,
	};

	return key;
}

static __always_inline struct weft_flow_value *pin(const struct packet *packet, __u32 ifindex)
{
	struct weft_flow_key key = key_of(packet, ifindex);

	return bpf_map_lookup_elem(&pins, &key);
}

/* For so long small packets follow a large one, so that none overtakes it: longer than it waits to be read. */
#define BULK_MEMORY_NS (10 * 1000 * 1000)

/*
 * Where a packet of a flow that ends in user space goes by the bulk lane, so that nobody has to cut it up;
 * 0: it goes by the pair.
 */
static __always_inline __u32 bulk_lane(struct __sk_buff *skb, const struct packet *packet,
				       __u32 ifindex)
{
	struct weft_flow_value *flow;
	__u32 zero = 0;

	if (!packet->ports || packet->proto != IPPROTO_TCP)
		return 0;
	if (!skb->gso_size) {
		struct weft_config *cfg = bpf_map_lookup_elem(&config, &zero);

		if (!cfg || !cfg->lanes)
			return 0;
	}
	flow = pin(packet, ifindex);
	if (!flow || flow->mode != WEFT_MODE_TERMINATED || !flow->egress_ifindex)
		return 0;
	if (skb->gso_size)
		flow->last_seen = bpf_ktime_get_ns();
	else if (bpf_ktime_get_ns() - flow->last_seen > BULK_MEMORY_NS)
		return 0;
	return flow->egress_ifindex;
}

/* Spreads the flows that nobody owns yet. By the source alone, so that a flow's fragments of
 * knowledge (its SYN, its retransmissions, its sibling to another VIP) meet on one worker; and so do
 * the fragments of a packet, whose port counts as 0 here, first or not. The same for every service, or two
 * workers could give a backend one tuple for two flows. The engine computes the same
 * (weft_datapath::source_hash) where it looks for the worker of a first fragment's flow. */
static __always_inline __u16 source_hash(const struct packet *packet)
{
	__u32 hash = ((__u32)packet->sport << 8) | packet->proto;

#pragma unroll
	for (int i = 0; i < 4; i++) {
		hash = (hash ^ packet->src.words[i]) * 0x9e3779b1;
		hash ^= hash >> 15;
	}
	hash *= 0x85ebca6b;
	return hash >> 16;
}

/*
 * A pod without its own address yet (DHCP, NDP) or speaking on its link. Neighbour discovery may
 * carry a link-local source to anybody on the link; anything else with such a source that claims
 * to reach a VIP or a pod is a spoof. Never looks at a flow entry.
 */
static __always_inline enum steering steer_addressless(const struct packet *packet)
{
	if (packet->proto == IPPROTO_ICMPV6 || kernel_destination(packet))
		return STEER_KERNEL;
	if (is_vip(&packet->dst) || bpf_map_lookup_elem(&endpoints, &packet->dst) ||
	    is_remote(&packet->dst))
		return STEER_SPOOF;
	return STEER_KERNEL;
}

/*
 * Whether a pod has wrapped something by itself, for a peer: where the kernel gives what leaves the node's address, it would
 * pass there for this node's.
 */
static __always_inline bool poses_as_node(struct __sk_buff *skb, const struct packet *packet)
{
	__u32 zero = 0;
	struct weft_overlay *here = bpf_map_lookup_elem(&overlay, &zero);
	struct packet first = {};

	if (packet->proto != IPPROTO_UDP || !here || !here->port ||
	    !bpf_map_lookup_elem(&peers, &packet->dst))
		return false;
	if (!packet->fragment)
		return packet->dport == here->port;
	/* The kernel may put fragments together. */
	return read_ports(skb, ETH_HLEN, packet->v6, &first) && first.dport == here->port;
}

/* What an enrolled pod sends. `target` is set with STEER_PUNT. */
static __noinline enum steering steer_from_pod(struct __sk_buff *skb,
						    struct packet *packet,
						    const struct weft_pod *pod, __u32 ifindex,
						    __u16 *target)
{
	struct weft_flow_value *flow;
	bool ours;

	if (!own_source(packet, pod)) {
		if (is_link_local(packet, &packet->src) || is_unspecified(packet, &packet->src))
			return steer_addressless(packet);
		return STEER_SPOOF;
	}
	if (kernel_destination(packet))
		return STEER_KERNEL;
	*target = source_hash(packet);
	/* Other protocols: only where a VIP must not leak. Fragments may be of a service's reply: only the
	 * engine knows, once it has the first one. */
	packet->vip = is_vip(&packet->dst);
	ours = packet->vip || ((packet->ports || packet->error || packet->fragment) &&
				bpf_map_lookup_elem(&endpoints, &packet->dst)) ||
	       is_remote(&packet->dst);
	if (ours && sole_worker())
		return STEER_PUNT; /* Whose flow it is makes no difference: `pins` is large and cold. */
	flow = packet->ports ? pin(packet, ifindex) :
	       packet->error ? quoted_pin(skb, packet, ifindex) :
			       NULL;
	if (flow)
		*target = flow->owner;
	if (ours || flow)
		return STEER_PUNT;
	return poses_as_node(skb, packet) ? STEER_SPOOF : STEER_KERNEL;
}

/* What the kernel delivers to an enrolled pod: only replies that need their source back, and errors about
 * what was sent to such a backend. */
static __always_inline enum steering steer_to_pod(struct __sk_buff *skb,
						  const struct packet *packet, __u32 ifindex,
						  __u16 *target)
{
	struct weft_flow_value *flow;

	if (!packet->ports && !packet->error && !packet->fragment)
		return STEER_KERNEL;
	if (packet->v6 && (is_mapped(&packet->src) || is_mapped(&packet->dst)))
		return STEER_KERNEL;
	if (packet->fragment) {
		*target = source_hash(packet);
		return kernel_destination(packet) ? STEER_KERNEL : STEER_PUNT;
	}
	flow = packet->ports ? pin(packet, ifindex) : quoted_pin(skb, packet, ifindex);
	if (!flow)
		return STEER_KERNEL;
	*target = flow->owner;
	return STEER_PUNT;
}

#endif /* WEFT_STEER_H */
