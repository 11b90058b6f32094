/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The fast path: plain layer-4 flows between enrolled pods, which need no thought. A new flow gets the backend
 * that user space's tables say, a known one is translated, and either goes straight into the other pod. What is
 * not plain, or has no compiled verdict, is left to the steering table.
 *
 * Nothing here asks whether user space is alive: flows go on, and new ones begin by the last tables.
 */
#ifndef WEFT_FAST_H
#define WEFT_FAST_H

#include "maps.h"
#include "pair.h"
#include "parse.h"
#include "punt.h"
#include "steer.h"

/* As the engine's timeouts.rs says: a UDP flow is looked up again after so long. */
#define UDP_ONE_WAY_NS (30ull * 1000 * 1000 * 1000)
#define UDP_TWO_WAY_NS (180ull * 1000 * 1000 * 1000)

#define IP4_PLAIN_L4 (ETH_HLEN + sizeof(struct iphdr))
#define IP6_PLAIN_L4 (ETH_HLEN + sizeof(struct ipv6hdr))

/* weft_datapath::flow_hash: the tests compare the two. */
static __always_inline __u64 hash_mix(__u64 hash, __u64 word)
{
	hash = (hash ^ word) * 0xff51afd7ed558ccdull;
	return hash ^ hash >> 32;
}

static __always_inline __u64 half(const struct weft_addr *addr, int at)
{
	return (__u64)bpf_ntohl(addr->words[at]) << 32 | bpf_ntohl(addr->words[at + 1]);
}

static __always_inline __u64 flow_hash(const struct packet *packet)
{
	__u64 hash = 0x9e3779b97f4a7c15ull;

	hash = hash_mix(hash, half(&packet->src, 0));
	hash = hash_mix(hash, half(&packet->src, 2));
	hash = hash_mix(hash, half(&packet->dst, 0));
	hash = hash_mix(hash, half(&packet->dst, 2));
	hash = hash_mix(hash, (__u64)bpf_ntohs(packet->sport) << 32 |
				      (__u64)bpf_ntohs(packet->dport) << 16 | packet->proto);
	hash *= 0xc4ceb9fe1a85ec53ull;
	return hash ^ hash >> 33;
}

/* What is done to a packet, copied out of an entry that may be another flow's a moment later. */
struct way {
	struct weft_addr addr;
	__be16 port;
	__u8 mode;
	__u32 egress_ifindex;
};

static __always_inline bool same_addr(const struct weft_addr *a, const struct weft_addr *b)
{
	return a->words[0] == b->words[0] && a->words[1] == b->words[1] &&
	       a->words[2] == b->words[2] && a->words[3] == b->words[3];
}

/* The key of the packets that come back. */
static __always_inline struct weft_flow_key answer_key(const struct weft_flow_key *key,
						       const struct weft_flow_value *flow)
{
	struct weft_flow_key back = {
		.src = key->dst,
		.dst = key->src,
		.sport = key->dport,
		.dport = key->sport,
		.ifindex = flow->egress_ifindex,
		.proto = key->proto,
	};

	if (flow->mode == WEFT_MODE_TO_BACKEND) {
		back.src = flow->rewrite_addr;
		back.sport = flow->rewrite_port;
	} else if (flow->mode == WEFT_MODE_FROM_BACKEND) {
		back.dst = flow->rewrite_addr;
		back.dport = flow->rewrite_port;
	}
	return back;
}

/* Nothing that the flow depends on has changed since its entry was made. What an earlier process left is good until
 * this one has looked at it. */
static __always_inline bool holds(const struct weft_config *cfg, const struct weft_flow_value *flow)
{
	__u32 slot = flow->slot, *epoch;

	if (flow->instance != cfg->instance || !slot)
		return true;
	epoch = bpf_map_lookup_elem(&epochs, &slot);
	return epoch && *(volatile __u32 *)epoch == flow->epoch;
}

/* Reset by one end, or closed by both: a SYN opens another connection. */
static __always_inline bool over(const struct weft_flow_key *key, const struct weft_flow_value *flow)
{
	struct weft_flow_key back_key = answer_key(key, flow);
	struct weft_flow_value *back = bpf_map_lookup_elem(&flows, &back_key);
	__u32 states = flow->tcp_state;

	if (!back)
		return true;
	if ((states | back->tcp_state) & WEFT_FLOW_RST)
		return true;
	return states & back->tcp_state & WEFT_FLOW_FIN;
}

/* Whether a datagram may still go by the entry, as the engine's timeouts have it. */
static __always_inline bool fresh(const struct weft_flow_key *key, struct weft_flow_value *flow, __u64 now)
{
	__u64 last = flow->last_seen;
	struct weft_flow_value *back;
	struct weft_flow_key back_key;

	if (last < now && now - last > UDP_TWO_WAY_NS)
		return false;
	if (!(flow->tcp_state & WEFT_FLOW_OPENER) || (flow->tcp_state & WEFT_FLOW_ANSWERED) ||
	    now - flow->cookie < UDP_ONE_WAY_NS || now < flow->cookie)
		return true;
	back_key = answer_key(key, flow);
	back = bpf_map_lookup_elem(&flows, &back_key);
	if (!back || !back->packets)
		return false;
	flow->tcp_state |= WEFT_FLOW_ANSWERED;
	return true;
}

/* The pod is still where a flow between two pods leads. */
static __always_inline bool leads_there(const struct packet *packet, __u32 ifindex)
{
	struct weft_endpoint *end = bpf_map_lookup_elem(&endpoints, &packet->dst);

	return end && end->ifindex == ifindex;
}

static __always_inline bool usable(const struct weft_config *cfg, const struct packet *packet,
				   const struct weft_flow_key *key, struct weft_flow_value *flow,
				   __u64 now)
{
	/* What a backend that has left still answers was asked of it. */
	if (flow->mode != WEFT_MODE_FROM_BACKEND && !holds(cfg, flow))
		return false;
	if (flow->mode == WEFT_MODE_PLAIN && !leads_there(packet, flow->egress_ifindex))
		return false;
	if (packet->proto == IPPROTO_UDP)
		return fresh(key, flow, now);
	return !packet->opens || !over(key, flow);
}

/* The backend for a packet that opens a flow to the service port. */
static __always_inline struct weft_backend *choose(const struct weft_service *service, __u64 hash)
{
	__u32 at = (hash >> 32) * service->maglev_size >> 32;
	__u32 key = service->maglev_offset + at / WEFT_MAGLEV_PACK;
	struct weft_maglev *pack = bpf_map_lookup_elem(&maglev, &key);

	if (!pack)
		return NULL;
	key = service->backends_offset + pack->entries[at % WEFT_MAGLEV_PACK];
	return bpf_map_lookup_elem(&backends, &key);
}

/*
 * Whether the key of the answers is free for this flow: neither the engine's, nor that of another flow that goes on.
 */
static __always_inline bool free_for(const struct weft_config *cfg, const struct weft_flow_key *key,
				     const struct packet *packet, __u8 mode, __u64 now)
{
	struct weft_flow_value *other;

	if (bpf_map_lookup_elem(&pins, key))
		return false;
	other = bpf_map_lookup_elem(&flows, key);
	if (!other || !holds(cfg, other))
		return true;
	if (mode == WEFT_MODE_PLAIN)
		return other->mode == WEFT_MODE_PLAIN;
	if (other->mode == WEFT_MODE_FROM_BACKEND && other->rewrite_port == packet->dport &&
	    same_addr(&other->rewrite_addr, &packet->dst))
		return true; /* Its own, of an earlier time. */
	if (packet->proto == IPPROTO_UDP)
		return other->last_seen < now && now - other->last_seen > UDP_TWO_WAY_NS;
	return over(key, other);
}

/* Flows may be older than the pod's enrolment. */
static __always_inline bool in_grace(const struct weft_pod *pod, __u64 now)
{
	return now < pod->grace_until;
}

static __always_inline bool settled(__u32 ifindex, __u64 now)
{
	struct weft_pod *pod = bpf_map_lookup_elem(&pods, &ifindex);

	return pod && !(pod->flags & WEFT_POD_DRAINING) && !in_grace(pod, now);
}

/*
 * Makes both entries of a flow that the packet opens, the answers' first. False: not this program's to decide.
 */
static __always_inline bool open_flow(const struct weft_config *cfg, const struct packet *packet,
				      const struct weft_pod *pod, struct weft_pod_state *state,
				      __u32 ifindex, __u64 now)
{
	struct weft_service_key wanted = {
		.vip = packet->dst,
		.port = packet->dport,
		.proto = packet->proto,
	};
	struct weft_service *service;
	struct weft_endpoint *end;
	struct weft_opening *new;
	__u32 zero = 0;

	if ((packet->proto == IPPROTO_TCP &&
	     (!packet->opens || (packet->control & (TCP_FIN | TCP_RST)))) ||
	    (pod->flags & WEFT_POD_DRAINING))
		return false;
	service = bpf_map_lookup_elem(&services, &wanted);
	new = bpf_map_lookup_elem(&opening, &zero);
	if (!new)
		return false;
	__builtin_memset(new, 0, sizeof(*new));
	if (service) {
		struct weft_backend *backend;

		if (!(service->flags & WEFT_SERVICE_COMPILED))
			return false;
		backend = choose(service, flow_hash(packet));
		if (!backend || !backend->ifindex || same_addr(&backend->addr, &packet->src))
			return false;
		new->there.mode = WEFT_MODE_TO_BACKEND;
		new->there.rewrite_addr = backend->addr;
		new->there.rewrite_port = backend->port;
		new->there.egress_ifindex = backend->ifindex;
		new->there.slot = backend->slot;
		new->there.epoch = backend->epoch;
		new->there.instance = backend->instance;
		new->there.service = service->id;
		/* Its place may be on its way to another backend. */
		if (!holds(cfg, &new->there))
			return false;
		new->back.mode = WEFT_MODE_FROM_BACKEND;
		new->back.rewrite_addr = packet->dst;
		new->back.rewrite_port = packet->dport;
	} else {
		if (is_vip(&packet->dst))
			return false;
		end = bpf_map_lookup_elem(&endpoints, &packet->dst);
		if (!end || !end->ifindex || end->ifindex == ifindex)
			return false;
		/* A datagram may be the reply of a flow that the kernel translates; a SYN never is. */
		if (packet->proto == IPPROTO_UDP && (in_grace(pod, now) || !settled(end->ifindex, now)))
			return false;
		new->there.mode = WEFT_MODE_PLAIN;
		new->there.egress_ifindex = end->ifindex;
		new->there.instance = cfg->instance;
		new->back.mode = WEFT_MODE_PLAIN;
	}
	new->key = key_of(packet, ifindex);
	new->back_key = answer_key(&new->key, &new->there);
	if (bpf_map_lookup_elem(&pins, &new->key) ||
	    !free_for(cfg, &new->back_key, packet, new->there.mode, now))
		return false;
	/* The bucket is shared with punt(), by whose clock it may run ahead for less than the coarse one lags behind. */
	now = bpf_ktime_get_ns();
	if (!conforms(pod, state, 1, false, now))
		return false;
	new->there.cookie = now;
	new->there.last_seen = now;
	new->there.tcp_state = WEFT_FLOW_OPENER;
	new->back.egress_ifindex = ifindex;
	new->back.slot = new->there.slot;
	new->back.epoch = new->there.epoch;
	new->back.instance = new->there.instance;
	new->back.service = new->there.service;
	new->back.cookie = now;
	new->back.last_seen = now;
	if (bpf_map_update_elem(&flows, &new->back_key, &new->back, BPF_ANY) ||
	    bpf_map_update_elem(&flows, &new->key, &new->there, BPF_ANY))
		return false;
	count(WEFT_COUNT_FLOWS_OPENED, 1);
	return true;
}

/* RFC 1624, equation 3, for the header's words from TTL on. */
static __always_inline __sum16 header_sum(__sum16 sum, const __be32 *old, const __be32 *new, int words)
{
	__s64 diff = bpf_csum_diff((__be32 *)old, words * 4, (__be32 *)new, words * 4,
				   ~(__u32)sum & 0xffff);
	__u32 folded = (__u32)diff;

	folded = (folded & 0xffff) + (folded >> 16);
	folded = (folded & 0xffff) + (folded >> 16);
	return ~folded;
}

static __always_inline __u32 sum_at(const struct packet *packet)
{
	return packet->l4 + (packet->proto == IPPROTO_TCP ? __builtin_offsetof(struct tcphdr, check) :
							   __builtin_offsetof(struct udphdr, check));
}

/* Everything but the address and TTL: ports and the transport checksum. */
static __always_inline bool rewrite_l4(struct __sk_buff *skb, const struct packet *packet,
				       const struct way *way)
{
	bool to = way->mode == WEFT_MODE_TO_BACKEND;
	const struct weft_addr *old = to ? &packet->dst : &packet->src;
	__be16 port = to ? packet->dport : packet->sport;
	__u64 udp = packet->proto == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;
	__u32 at = sum_at(packet);

	if (packet->v6) {
		__s64 diff = bpf_csum_diff((__be32 *)old->words, 16, (__be32 *)way->addr.words, 16, 0);

		if (bpf_l4_csum_replace(skb, at, 0, diff, BPF_F_PSEUDO_HDR | udp))
			return false;
	} else if (bpf_l4_csum_replace(skb, at, old->words[3], way->addr.words[3],
				       BPF_F_PSEUDO_HDR | udp | 4)) {
		return false;
	}
	if (port == way->port)
		return true;
	return !bpf_l4_csum_replace(skb, at, port, way->port, udp | 2) &&
	       !bpf_skb_store_bytes(skb, packet->l4 + (to ? 2 : 0), &way->port, sizeof(way->port), 0);
}

/* Bytes 8 to 19 of an IPv4 header: TTL, protocol, checksum, source, destination. */
struct ip4_tail {
	__u8 ttl;
	__u8 protocol;
	__sum16 check;
	__be32 saddr;
	__be32 daddr;
};

static __always_inline bool rewrite_ip4(struct __sk_buff *skb, const struct way *way)
{
	const __u32 at = ETH_HLEN + 8;
	union {
		struct ip4_tail fields;
		__be32 words[3];
	} old, new;

	if (bpf_skb_load_bytes(skb, at, &old, sizeof(old)))
		return false;
	new = old;
	new.fields.ttl--;
	if (way->mode == WEFT_MODE_TO_BACKEND)
		new.fields.daddr = way->addr.words[3];
	else if (way->mode == WEFT_MODE_FROM_BACKEND)
		new.fields.saddr = way->addr.words[3];
	/* The sum itself is no part of what is summed up. */
	old.fields.check = 0;
	__sum16 sum = new.fields.check;
	new.fields.check = 0;
	new.fields.check = header_sum(sum, old.words, new.words, 3);
	return !bpf_skb_store_bytes(skb, at, &new, sizeof(new), 0);
}

static __always_inline bool rewrite_ip6(struct __sk_buff *skb, const struct packet *packet,
					const struct way *way)
{
	const __u32 hops = ETH_HLEN + __builtin_offsetof(struct ipv6hdr, hop_limit);
	__u8 left = packet->hops - 1;

	if (bpf_skb_store_bytes(skb, hops, &left, 1, 0))
		return false;
	if (way->mode == WEFT_MODE_TO_BACKEND)
		return !bpf_skb_store_bytes(skb, ETH_HLEN + __builtin_offsetof(struct ipv6hdr, daddr),
					    &way->addr, 16, 0);
	if (way->mode == WEFT_MODE_FROM_BACKEND)
		return !bpf_skb_store_bytes(skb, ETH_HLEN + __builtin_offsetof(struct ipv6hdr, saddr),
					    &way->addr, 16, 0);
	return true;
}

/* Bytes of IP packets as the wire would see them: each segment with headers of its own. */
static __always_inline __u64 wire_bytes(const struct packet *packet, __u32 packets)
{
	__u32 headers = packet->payload - ETH_HLEN;

	return packet->end - ETH_HLEN + (__u64)(packets - 1) * headers;
}

/*
 * Takes a packet of a pod if it is the fast path's. True: `*action` is what the program returns. The packet is
 * untouched otherwise.
 */
static __always_inline bool fast_path(struct __sk_buff *skb, const struct packet *packet,
				      const struct weft_pod *pod, __u32 ifindex, __u32 packets,
				      int *action)
{
	struct weft_flow_key key = key_of(packet, ifindex);
	struct weft_flow_value *flow;
	struct weft_config *cfg;
	struct way way = {};
	__u32 zero = 0;
	__u64 now;

	cfg = bpf_map_lookup_elem(&config, &zero);
	if (!cfg || !cfg->fast_path || !packet->ports || packet->odd || packet->hops <= 1 ||
	    packet->l4 != (packet->v6 ? IP6_PLAIN_L4 : IP4_PLAIN_L4))
		return false;
	now = bpf_ktime_get_coarse_ns(); /* A few milliseconds old at most. */
	flow = bpf_map_lookup_elem(&flows, &key);
	if (!flow || !usable(cfg, packet, &key, flow, now)) {
		struct weft_pod_state *state = bpf_map_lookup_elem(&pod_state, &ifindex);

		if (!state || !open_flow(cfg, packet, pod, state, ifindex, now))
			return false;
		flow = bpf_map_lookup_elem(&flows, &key);
		if (!flow)
			return false;
	}
	way.addr = flow->rewrite_addr;
	way.port = flow->rewrite_port;
	way.mode = flow->mode;
	way.egress_ifindex = flow->egress_ifindex;
	flow->last_seen = now;
	__sync_fetch_and_add(&flow->packets, packets);
	__sync_fetch_and_add(&flow->bytes, wire_bytes(packet, packets));
	if (packet->control & (TCP_FIN | TCP_RST))
		flow->tcp_state |= (packet->control & TCP_FIN ? WEFT_FLOW_FIN : 0) |
				   (packet->control & TCP_RST ? WEFT_FLOW_RST : 0);
	count(WEFT_COUNT_FROM_POD_FORWARDED, packets);
	*action = TCX_DROP;
	if (way.mode != WEFT_MODE_PLAIN && !rewrite_l4(skb, packet, &way))
		return true;
	if (packet->v6 ? !rewrite_ip6(skb, packet, &way) : !rewrite_ip4(skb, &way))
		return true;
	*action = into_pod(skb, way.egress_ifindex);
	return true;
}

#endif /* WEFT_FAST_H */
