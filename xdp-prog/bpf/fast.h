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

#include "choice.h"
#include "first.h"
#include "flows.h"
#include "maps.h"
#include "pair.h"
#include "parse.h"
#include "punt.h"
#include "rewrite.h"
#include "steer.h"
#include "wrap.h"

#define IP4_PLAIN_L4 (ETH_HLEN + sizeof(struct iphdr))
#define IP6_PLAIN_L4 (ETH_HLEN + sizeof(struct ipv6hdr))

/* The pod is still where a flow between two pods leads. */
static __always_inline bool leads_there(const struct packet *packet, __u32 ifindex)
{
	struct weft_endpoint *end = bpf_map_lookup_elem(&endpoints, &packet->dst);

	return end && end->ifindex == ifindex;
}

static __always_inline bool usable(const struct weft_config *cfg, const struct packet *packet,
				   const struct weft_flow_key *key,
				   const struct weft_flow_value *flow)
{
	/* What a backend that has left still answers was asked of it. */
	if (flow->mode != WEFT_MODE_FROM_BACKEND && !holds(cfg, flow))
		return false;
	/* Where a peer's pods are is what such a flow depends on. */
	if (flow->mode == WEFT_MODE_PLAIN && !is_tunnel(flow->egress_ifindex) &&
	    !leads_there(packet, flow->egress_ifindex))
		return false;
	if (!is_over(flow->tcp_state))
		return true;
	/* What is over makes way for a SYN, and for a connection that a worker has opened in its place, whose answers begin so. */
	if (packet->control & (TCP_SYN | TCP_RST) && bpf_map_lookup_elem(&pins, key))
		drop_flow(key);
	else if (!packet->opens)
		return true;
	return false;
}

/* What the packet adds to the states of its flow. */
static __always_inline __u32 states_after(const struct packet *packet, __u32 states)
{
	if (packet->proto == IPPROTO_UDP)
		return states & WEFT_FLOW_OPENER ? states : states | WEFT_FLOW_ANSWERED;
	if (packet->control & TCP_FIN)
		states |= WEFT_FLOW_FIN;
	if (packet->control & TCP_RST)
		states |= WEFT_FLOW_RST;
	if (packet->control & TCP_RST)
		return states;
	/* The handshake takes both ends: a client's ACK alone proves nothing. */
	if (packet->control & TCP_SYN)
		return states & WEFT_FLOW_OPENER ? states : states | WEFT_FLOW_ACCEPTED;
	if (states & WEFT_FLOW_ACCEPTED || !(states & WEFT_FLOW_OPENER))
		states |= WEFT_FLOW_ANSWERED;
	return states;
}

/* Both entries of a flow live equally long, and know what went in either direction. */
static __always_inline void keep_alive(const struct packet *packet,
				       const struct weft_flow_key *key, struct weft_flow *flow,
				       __u64 now)
{
	__u32 before = flow->value.tcp_state, states = states_after(packet, before);
	__u16 deadline = deadline_of(packet->proto, states, now);

	if (states == before) {
		if (flow->value.deadline == deadline || is_over(states))
			return;
		/* A sender whom nobody answers is looked up again. */
		if (packet->proto == IPPROTO_UDP && !(states & WEFT_FLOW_ANSWERED))
			return;
	}
	note_flow(key, states, deadline);
}

/*
 * Whether the packet has to follow others of its flow to user space, which made the entry, so that it overtakes none:
 * until there was a pause.
 */
static __always_inline bool held(struct weft_flow_value *flow, __u64 now)
{
	if (!(flow->tcp_state & WEFT_FLOW_HELD))
		return false;
	if (now <= flow->last_seen || now - flow->last_seen < WEFT_HELD_MS * 1000000ull) {
		flow->last_seen = now;
		return true;
	}
	__sync_fetch_and_and(&flow->tcp_state, ~WEFT_FLOW_HELD);
	return false;
}

/* Bytes of an IP packet that fits into every pod: the least MTU of IPv6 (RFC 8200, 5). */
#define FITS_ANYWHERE 1280

/*
 * Whether the packet, or each segment that it is to be cut into, fits through the veth of the pod, which
 * bpf_redirect_peer() does not ask, or into the tunnel. A pod whose MTU is below FITS_ANYWHERE gets what is no longer than that.
 */
static __always_inline bool fits(struct __sk_buff *skb, const struct packet *packet, __u32 ifindex)
{
	__u32 size = skb->gso_size, length = (size ? packet->payload + size : packet->end) - ETH_HLEN;
	__u32 mtu = length; /* Out: the interface's. */

	if (is_tunnel(ifindex)) {
		struct weft_peer *peer = peer_of(ifindex);

		return peer && length <= peer->mtu;
	}
	return length <= FITS_ANYWHERE ||
	       (bpf_check_mtu(skb, ifindex, &mtu, 0, 0) >= 0 && length <= mtu);
}

/*
 * The engine sees how a connection to or from a peer's pod is opened, and tells the peer who has asked for what. So it does the
 * answer to that if clamp() cannot.
 */
static __always_inline bool opens_tunnelled(const struct packet *packet, const struct weft_flow_key *key,
					    __u32 egress)
{
	return packet->control & TCP_SYN && (packet->opens || !packet->segment) &&
	       (is_tunnel(key->ifindex) || is_tunnel(egress));
}

/*
 * Goes by the entry of a known flow, and counts. False: there is none that holds, or, with a mode in `way`, user space is to
 * see the packet.
 */
static __always_inline bool follow(struct __sk_buff *skb, const struct weft_config *cfg,
				   const struct packet *packet, const struct weft_flow_key *key,
				   __u32 packets, __u64 now, struct way *way)
{
	struct weft_flow *flow = find_flow(cfg, key, now);
	__u64 cookie;

	if (!flow)
		return false;
	cookie = *(volatile __u64 *)&flow->value.cookie;
	if (!cookie || !usable(cfg, packet, key, &flow->value))
		return false;
	*way = way_of(&flow->value);
	barrier();
	/* Another flow may have been given the entry meanwhile. */
	if (*(volatile __u64 *)&flow->value.cookie != cookie || !same_key(&flow->key, key)) {
		way->mode = WEFT_MODE_OWNER;
		return false;
	}
	if (opens_tunnelled(packet, key, way->egress_ifindex)) {
		/* The engine passes it on, but would not see what comes next. */
		if (!packet->opens)
			keep_alive(packet, key, flow, now);
		return false;
	}
	if (!fits(skb, packet, way->egress_ifindex) || held(&flow->value, now))
		return false;
	flow->value.last_seen = now;
	__sync_fetch_and_add(&flow->value.packets, packets);
	__sync_fetch_and_add(&flow->value.bytes, wire_bytes(packet, packets));
	keep_alive(packet, key, flow, now);
	return true;
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

/* The part of a flow between two pods. */
static __always_inline bool to_pod(const struct weft_config *cfg, struct weft_opening *new,
				   const struct weft_pod *pod, __u64 now)
{
	struct weft_endpoint *end;

	if (is_vip(&new->key.dst))
		return false;
	end = bpf_map_lookup_elem(&endpoints, &new->key.dst);
	if (!end || !end->ifindex || end->ifindex == new->key.ifindex)
		return false;
	/* A datagram may be the reply of a flow that the kernel translates; a SYN never is. */
	if (new->key.proto == IPPROTO_UDP &&
	    (in_grace(pod, now) || !settled(end->ifindex, now) || was_asked(&new->key, now)))
		return false;
	new->there.mode = WEFT_MODE_PLAIN;
	new->there.egress_ifindex = end->ifindex;
	new->there.instance = cfg->instance;
	new->back.mode = WEFT_MODE_PLAIN;
	return true;
}

/* Whether the answers' key is that of another flow that goes on, and not of an earlier one between these two. */
static __always_inline bool taken(const struct weft_config *cfg, const struct spot *spot,
				  const struct weft_opening *new, __u64 now)
{
	struct weft_flow *other = flow_at(spot, &new->back_key, now);
	bool plain = new->there.mode == WEFT_MODE_PLAIN;

	if (!other || !holds(cfg, &other->value) || is_over(other->value.tcp_state))
		return false;
	if (plain || other->value.mode != WEFT_MODE_FROM_BACKEND)
		return !plain || other->value.mode != WEFT_MODE_PLAIN;
	return other->value.rewrite_port != new->key.dport ||
	       !same_addr(&other->value.rewrite_addr, &new->key.dst);
}

/* A flow whose far end is known gets entries, unless user space has it, or its pod opens too many. */
static __always_inline int admit(const struct weft_config *cfg, const struct packet *packet,
				 const struct weft_pod *pod, const struct spot *spot,
				 struct weft_opening *new, __u32 packets, __u64 now,
				 struct way *way)
{
	struct weft_pod_state *state;
	struct spot back;

	if (is_pinned(spot, &new->key) || !spot_of(cfg, &new->back_key, &back) ||
	    is_pinned(&back, &new->back_key) || taken(cfg, &back, new, now))
		return NOT_MINE;
	state = bpf_map_lookup_elem(&pod_state, &new->key.ifindex);
	/* The bucket is shared with punt(), by whose clock it may run ahead for less than the coarse one lags behind. */
	if (!state || !conforms(pod, state, 1, false, bpf_ktime_get_ns()))
		return NOT_MINE;
	new->there.packets = packets;
	new->there.bytes = wire_bytes(packet, packets);
	*way = way_of(&new->there);
	return ENTERS;
}

/* Whether a packet without an entry may open a flow, for all that it says of itself. */
static __always_inline bool may_open(const struct packet *packet)
{
	return packet->proto == IPPROTO_UDP ||
	       (packet->opens && !(packet->control & (TCP_FIN | TCP_RST)));
}

/* The packet opens a flow to a service port that is the fast path's: where it goes. */
__noinline int open_service(const struct packet *packet, const struct weft_pod *pod,
			    const struct weft_flow_key *key, __u32 packets, struct way *way)
{
	const struct weft_config *cfg = configured();
	struct weft_service_key wanted = {};
	struct weft_backend *backend;
	struct weft_service *service;
	struct weft_opening *new;
	__u64 now, hash, known = 0;
	bool draining, udp;
	struct spot spot;
	int verdict;

	if (!packet || !pod || !key || !way || !cfg)
		return NOT_MINE;
	wanted.vip = key->dst;
	wanted.port = key->dport;
	wanted.proto = key->proto;
	service = bpf_map_lookup_elem(&services, &wanted);
	if (!service)
		return NO_SERVICE;
	new = begin();
	udp = packet->proto == IPPROTO_UDP;
	draining = pod->flags & WEFT_POD_DRAINING;
	if (!new || !may_open(packet) || (draining && !udp) ||
	    !(service->flags & WEFT_SERVICE_COMPILED))
		return NOT_MINE;
	new->key = *key;
	now = bpf_ktime_get_coarse_ns();
	hash = tuple_hash(key);
	backend = choose(service, hash);
	if (udp)
		known = remembered(key, hash, now);
	if (known)
		backend = first_backend(service, backend, known);
	else if (draining)
		return NOT_MINE;
	if (!to_backend(cfg, new, service, backend) || !spot_of(cfg, key, &spot))
		return NOT_MINE;
	new->back_key = answer_key(key, &new->there);
	if (udp && !known && packets == 1 && is_first(cfg, new, &spot, hash, now)) {
		*way = way_of(&new->there);
		return PASSES;
	}
	if (known & FIRST_ANSWERED)
		new->there.tcp_state = WEFT_FLOW_ANSWERED;
	verdict = admit(cfg, packet, pod, &spot, new, packets, now, way);
	return verdict == ENTERS && known ? ENTERS_SECOND : verdict;
}

/* The packet opens a flow to another pod that is the fast path's: where it goes. */
__noinline int open_direct(const struct packet *packet, const struct weft_pod *pod,
			   const struct weft_flow_key *key, __u32 packets, struct way *way)
{
	const struct weft_config *cfg = configured();
	struct weft_opening *new = begin();
	__u64 now = bpf_ktime_get_coarse_ns();
	struct spot spot;

	if (!packet || !pod || !key || !way || !cfg || !new || !may_open(packet) ||
	    (pod->flags & WEFT_POD_DRAINING))
		return NOT_MINE;
	new->key = *key;
	if (!to_pod(cfg, new, pod, now) || !spot_of(cfg, key, &spot))
		return NOT_MINE;
	new->back_key = answer_key(key, &new->there);
	return admit(cfg, packet, pod, &spot, new, packets, now, way);
}

/* Makes the entries of a flow. False: there is no room, and its packet cannot go without. */
static __always_inline bool entered(struct weft_opening *new, int verdict, __u64 now)
{
	if (enter(new, now)) {
		if (verdict != ENTERS_ANSWER)
			return false;
		count(WEFT_COUNT_FROM_POD_FIRST, 1);
	} else if (verdict != ENTERS) {
		forget(&new->key, now);
	}
	return true;
}

/* Where the packet's way leads, once it is rewritten. */
static __always_inline int onward(struct __sk_buff *skb, const struct packet *packet, const struct way *way)
{
	struct weft_peer *peer;

	if (!is_tunnel(way->egress_ifindex))
		return into_pod(skb, way->egress_ifindex);
	peer = peer_of(way->egress_ifindex);
	if (!peer || !clamped(skb, packet, way->egress_ifindex))
		return TCX_DROP;
	if (peer->native)
		return bpf_redirect_neigh(peer->uplink, NULL, 0, 0);
	return send_wrapped(skb, packet, peer, wrapped_hash(packet, way));
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
	struct weft_config *cfg;
	struct way way = {};
	__u32 zero = 0;
	__u64 now;

	cfg = bpf_map_lookup_elem(&config, &zero);
	if (!cfg || !cfg->fast_path || !packet->ports || packet->odd || packet->hops <= 1 ||
	    packet->l4 != (packet->v6 ? IP6_PLAIN_L4 : IP4_PLAIN_L4))
		return false;
	now = bpf_ktime_get_coarse_ns(); /* A few milliseconds old at most. */
	if (!follow(skb, cfg, packet, &key, packets, now, &way)) {
		struct weft_opening *new = bpf_map_lookup_elem(&opening, &zero);
		int verdict;

		if (cfg->fast_path != WEFT_FAST_FULL || !new || way.mode != WEFT_MODE_OWNER)
			return false;
		verdict = open_service(packet, pod, &key, packets, &way);
		if (verdict == NO_SERVICE)
			verdict = first_answer(packet, pod, &key, &way);
		if (verdict == NO_SERVICE)
			verdict = open_direct(packet, pod, &key, packets, &way);
		if (verdict == NOT_MINE || !fits(skb, packet, way.egress_ifindex) ||
		    (verdict != PASSES && !entered(new, verdict, now)))
			return false;
		if (verdict == PASSES)
			count(WEFT_COUNT_FROM_POD_FIRST, 1);
	}
	count(WEFT_COUNT_FROM_POD_FORWARDED, packets);
	*action = rewrite(skb, packet, &way) ? onward(skb, packet, &way) : TCX_DROP;
	return true;
}

/* The same for a packet of a peer's that is not wrapped, of a flow that is known. */
static __noinline bool fast_native(struct __sk_buff *skb, const struct packet *packet, __u32 tunnel,
				   __u32 packets, int *action)
{
	struct weft_flow_key key = key_of(packet, tunnel);
	struct weft_config *cfg;
	struct way way = {};
	__u32 zero = 0;

	cfg = bpf_map_lookup_elem(&config, &zero);
	if (!cfg || !cfg->fast_path || !packet->ports || packet->odd || packet->hops <= 1 ||
	    packet->l4 != (packet->v6 ? IP6_PLAIN_L4 : IP4_PLAIN_L4) ||
	    !follow(skb, cfg, packet, &key, packets, bpf_ktime_get_coarse_ns(), &way) ||
	    is_tunnel(way.egress_ifindex))
		return false;
	count(WEFT_COUNT_FROM_PEER_FORWARDED, packets);
	*action = rewrite(skb, packet, &way) && clamped(skb, packet, tunnel) ?
			  into_pod(skb, way.egress_ifindex) :
			  TCX_DROP;
	return true;
}

/* The same for a wrapped packet that came by an uplink, of a flow that is known. The packet is untouched otherwise. */
static __noinline bool fast_unwrap(struct __sk_buff *skb, const struct packet *outer, __u32 packets,
				   int *action)
{
	struct weft_tunnel *from = bpf_map_lookup_elem(&peers, &outer->src);
	struct packet inner = {};
	struct weft_flow_key key;
	struct weft_config *cfg;
	struct weft_peer *peer;
	struct way way = {};
	__u32 zero = 0;

	cfg = bpf_map_lookup_elem(&config, &zero);
	if (!cfg || !cfg->fast_path || !from)
		return false;
	peer = peer_of(from->port);
	if (!peer || peer->native || !read_wrapped(skb, outer, peer, &inner) || inner.odd || inner.hops <= 1 ||
	    inner.l4 != (inner.v6 ? IP6_PLAIN_L4 : IP4_PLAIN_L4))
		return false;
	key = key_of(&inner, from->port);
	if (!follow(skb, cfg, &inner, &key, packets, bpf_ktime_get_coarse_ns(), &way) ||
	    is_tunnel(way.egress_ifindex))
		return false;
	count(WEFT_COUNT_FROM_PEER_FORWARDED, packets);
	*action = unwrap(skb, &inner) && rewrite(skb, &inner, &way) && clamped(skb, &inner, from->port) ?
			  into_pod(skb, way.egress_ifindex) :
			  TCX_DROP;
	return true;
}

#endif /* WEFT_FAST_H */
