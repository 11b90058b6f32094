/* SPDX-License-Identifier: Apache-2.0 */
/*
 * First datagrams, for which no entry is made: many flows have no second packet. The choice is the same for the second
 * one, and `reverse` says whose answers a backend's packets are if it belongs to one service port alone. A client's
 * latest first packets are remembered by a word each, so that the second packet makes entries, and that a backend
 * which speaks to a client of itself is not taken for one that answers.
 */
#ifndef WEFT_FIRST_H
#define WEFT_FIRST_H

#include "choice.h"
#include "punt.h"

/* A word of `firsts`: the upper half of the flow's hash, whether there was an answer, and when, in units of 2^28 ns. */
#define FIRST_ANSWERED (1ull << 16)
#define FIRST_TAG (~0ull << 32)
/* As long as a flow lives that nobody answers: 30 s. */
#define FIRST_LIFETIME 112
/* For so long a client's first packet may have lost its place to another one before the answer: 5 s. */
#define FIRST_CROWDED 19

static __always_inline __u16 first_clock(__u64 now)
{
	return now >> 28;
}

static __always_inline __u64 *first_of(__u32 ifindex, __u64 hash)
{
	__u32 at = ifindex % WEFT_FIRST_REGIONS * WEFT_FIRST_PLACES + hash % WEFT_FIRST_PLACES;

	return bpf_map_lookup_elem(&firsts, &at);
}

static __always_inline bool is_of(__u64 word, __u64 hash, __u64 now)
{
	return !((word ^ hash) & FIRST_TAG) &&
	       (__u16)(first_clock(now) - (__u16)word) <= FIRST_LIFETIME;
}

static __always_inline struct weft_reverse *reverse_of(const struct weft_addr *addr, __be16 port,
						       __u8 proto)
{
	struct weft_service_key key = { .vip = *addr, .port = port, .proto = proto };

	return bpf_map_lookup_elem(&reverse, &key);
}

/* Whether the answers from the other pod would be those to a first packet to its service port. */
static __always_inline bool was_asked(const struct weft_flow_key *key, __u64 now)
{
	struct weft_reverse *back = reverse_of(&key->dst, key->dport, key->proto);
	struct weft_flow_key client = *key;
	__u64 *place, hash;

	if (!back)
		return false;
	client.dst = back->vip;
	client.dport = back->port;
	hash = tuple_hash(FLOW_HASH_START, &client);
	place = first_of(key->ifindex, hash);
	return place && is_of(*(volatile __u64 *)place, hash, now);
}

/*
 * Whether the client's packet may go without entries. If not because it is a flow's second, `*states` are those that the
 * flow has got to.
 */
static __always_inline bool is_first(const struct weft_config *cfg, const struct weft_opening *new,
				     __u64 hash, __u64 now, __u32 *states)
{
	struct weft_reverse *back;
	__u64 *place, word;

	back = reverse_of(&new->there.rewrite_addr, new->there.rewrite_port, new->key.proto);
	if (!back || !(back->flags & WEFT_REVERSE_SOLE) || back->port != new->key.dport ||
	    !same_addr(&back->vip, &new->key.dst))
		return false;
	place = first_of(new->key.ifindex, hash);
	if (!place)
		return false;
	word = *(volatile __u64 *)place;
	if (is_of(word, hash, now)) {
		if (word & FIRST_ANSWERED)
			*states |= WEFT_FLOW_ANSWERED;
		return false;
	}
	if (is_pinned(&new->key) || is_pinned(&new->back_key) ||
	    find_flow(cfg, &new->back_key, now))
		return false;
	*(volatile __u64 *)place = (hash & FIRST_TAG) | first_clock(now);
	return true;
}

/* Whether the second answer makes entries: the backend is still the one that the client's packets, `new->key`, go to. */
static __always_inline bool is_second(const struct weft_config *cfg,
					   const struct packet *packet, const struct weft_pod *pod,
					   const struct weft_flow_key *key,
					   struct weft_opening *new, __u64 hash)
{
	struct weft_service_key wanted = {
		.vip = new->key.dst,
		.port = new->key.dport,
		.proto = new->key.proto,
	};
	struct weft_service *service = bpf_map_lookup_elem(&services, &wanted);
	struct weft_pod_state *state;

	if (!service || !to_backend(cfg, new, service, hash))
		return false;
	new->back_key = answer_key(&new->key, &new->there);
	if (!same_key(&new->back_key, key) || is_pinned(&new->key))
		return false;
	state = bpf_map_lookup_elem(&pod_state, &key->ifindex);
	if (!state || !conforms(pod, state, 1, false, bpf_ktime_get_ns()))
		return false;
	new->back.packets = 1;
	new->back.bytes = wire_bytes(packet, 1);
	new->there.tcp_state = WEFT_FLOW_ANSWERED;
	return true;
}

/* The packet answers a client's first one, of whose flow there is no entry: where it goes. */
__noinline int first_answer(const struct packet *packet, const struct weft_pod *pod,
			    const struct weft_flow_key *key, struct way *way)
{
	const struct weft_config *cfg = configured();
	__u64 *place, word, hash, now;
	struct weft_reverse *back;
	struct weft_opening *new;
	struct weft_endpoint *end;

	if (!packet || !pod || !key || !way || !cfg || packet->proto != IPPROTO_UDP)
		return NOT_MINE;
	now = bpf_ktime_get_coarse_ns();
	back = reverse_of(&key->src, key->sport, key->proto);
	if (!back)
		return NOT_MINE;
	end = bpf_map_lookup_elem(&endpoints, &key->dst);
	new = begin();
	if (!end || !end->ifindex || !new || is_pinned(key))
		return NOT_MINE;
	new->key.src = key->dst;
	new->key.sport = key->dport;
	new->key.proto = key->proto;
	new->key.dst = back->vip;
	new->key.dport = back->port;
	new->key.ifindex = end->ifindex;
	way->addr = back->vip;
	way->port = back->port;
	way->mode = WEFT_MODE_FROM_BACKEND;
	way->egress_ifindex = end->ifindex;
	hash = tuple_hash(FLOW_HASH_START, &new->key);
	place = first_of(end->ifindex, hash);
	if (!place)
		return NOT_MINE;
	word = *(volatile __u64 *)place;
	if (is_of(word, hash, now)) {
		if ((word & FIRST_ANSWERED) && is_second(cfg, packet, pod, key, new, hash))
			return ENTERS;
		*(volatile __u64 *)place = word | FIRST_ANSWERED;
	} else if (!(back->flags & WEFT_REVERSE_SOLE) || !word ||
		   (__u16)(first_clock(now) - (__u16)word) > FIRST_CROWDED) {
		return NOT_MINE;
	}
	count(WEFT_COUNT_FROM_POD_FIRST, 1);
	return PASSES;
}

#endif /* WEFT_FIRST_H */
