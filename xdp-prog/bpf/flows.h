/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table of the fast path's flows: set-associative, in two arrays. An entry whose deadline has passed is as good as
 * none, so is that of a flow that is over if room is scarce, and a live one is never taken out for another: what finds no way in
 * its set is left to user space. A pod may
 * have most of the ways of a set, not all, so that it cannot fill the table for others.
 *
 * Programs put entries in, under the set's lock; user space only takes them out, by the tag. A reader takes no lock:
 * it copies what it needs, and looks at key and cookie again (copy_way()).
 */
#ifndef WEFT_FLOWS_H
#define WEFT_FLOWS_H

#include "maps.h"
#include "parse.h"

/* As the engine's timeouts.rs says, in units of deadlines, rounded up and one more. */
#define LIFETIME(seconds) ((__u16)(((seconds) * 1000000000ull >> 32) + 2))

/* Deadlines are of a 16-bit clock. */
static __always_inline __u16 clock_units(__u64 now)
{
	return now >> 32;
}

static __always_inline bool past(__u16 deadline, __u64 now)
{
	return (__s16)(deadline - clock_units(now)) < 0;
}

static __always_inline bool is_over(__u32 states)
{
	if (states & (WEFT_FLOW_RST | WEFT_FLOW_PEER_RST))
		return true;
	return (states & WEFT_FLOW_FIN) && (states & WEFT_FLOW_PEER_FIN);
}

/* When a flow that has a packet now is no more, if that is the last one. */
static __always_inline __u16 deadline_of(__u8 proto, __u32 states, __u64 now)
{
	__u16 units;

	if (proto == IPPROTO_UDP)
		units = states & WEFT_FLOW_ANSWERED ? LIFETIME(180) : LIFETIME(30);
	else if (states & (WEFT_FLOW_RST | WEFT_FLOW_PEER_RST))
		units = LIFETIME(10);
	else if (is_over(states))
		units = LIFETIME(30);
	else if (states & (WEFT_FLOW_FIN | WEFT_FLOW_PEER_FIN))
		units = LIFETIME(3600);
	else
		units = states & WEFT_FLOW_ANSWERED ? LIFETIME(24 * 3600) : LIFETIME(60);
	return clock_units(now) + units;
}

static __always_inline bool same_addr(const struct weft_addr *a, const struct weft_addr *b)
{
	return a->words[0] == b->words[0] && a->words[1] == b->words[1] &&
	       a->words[2] == b->words[2] && a->words[3] == b->words[3];
}

static __always_inline bool same_key(const struct weft_flow_key *a, const struct weft_flow_key *b)
{
	return a->sport == b->sport && a->dport == b->dport && a->ifindex == b->ifindex &&
	       a->proto == b->proto && same_addr(&a->src, &b->src) && same_addr(&a->dst, &b->dst);
}

static __always_inline __u64 hash_mix(__u64 hash, __u64 word)
{
	hash = (hash ^ word) * 0xff51afd7ed558ccdull;
	return hash ^ hash >> 32;
}

static __always_inline __u64 hash_finish(__u64 hash)
{
	hash *= 0xc4ceb9fe1a85ec53ull;
	return hash ^ hash >> 33;
}

static __always_inline __u64 half(const struct weft_addr *addr, int at)
{
	return (__u64)bpf_ntohl(addr->words[at]) << 32 | bpf_ntohl(addr->words[at + 1]);
}

/* weft_datapath::flow_hash, which chooses backends: the tests compare the two. */
static __always_inline __u64 tuple_hash(const struct weft_flow_key *key)
{
	__u64 hash = 0x9e3779b97f4a7c15ull;

	hash = hash_mix(hash, half(&key->src, 0));
	hash = hash_mix(hash, half(&key->src, 2));
	hash = hash_mix(hash, half(&key->dst, 0));
	hash = hash_mix(hash, half(&key->dst, 2));
	hash = hash_mix(hash, (__u64)bpf_ntohs(key->sport) << 32 | (__u64)bpf_ntohs(key->dport) << 16 |
				      key->proto);
	return hash_finish(hash);
}

static __always_inline __u64 product(__u32 a, __u32 b)
{
	return (__u64)a * b;
}

/*
 * Where a key belongs: NH (Black et al., UMAC, CRYPTO 1999, 4.2) over its eleven words, of which none waits for another.
 * By itself that turns ports in a row into an arithmetic progression, which may crowd into few sets: so it is mixed.
 */
static __always_inline __u64 place_hash(const struct weft_config *cfg,
					const struct weft_flow_key *key)
{
	const __be32 *src = key->src.words, *dst = key->dst.words;
	const __u32 *secret = cfg->flow_secret;
	__u32 ports = (__u32)key->dport << 16 | key->sport;
	__u64 hash;

	hash = product(src[0] + secret[0], src[1] + secret[1]) +
	       product(src[2] + secret[2], src[3] + secret[3]) +
	       product(dst[0] + secret[4], dst[1] + secret[5]) +
	       product(dst[2] + secret[6], dst[3] + secret[7]) +
	       product(ports + secret[8], (key->ifindex ^ (__u32)key->proto << 24) + secret[9]);
	hash = (hash ^ hash >> 32) * 0x9e3779b97f4a7c15ull;
	hash = (hash ^ hash >> 29) * 0xff51afd7ed558ccdull;
	return hash ^ hash >> 32;
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

/* Where an entry is, or would be. */
struct spot {
	struct weft_flow_set *set;
	__u32 at; /* of the set */
	__u32 tag;
};

/* The functions that are not inlined are global, so that the verifier looks at each of them once. */
static __always_inline const struct weft_config *configured(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&config, &zero);
}

static __always_inline bool spot_of(const struct weft_config *cfg, const struct weft_flow_key *key,
				    struct spot *spot)
{
	__u64 hash = place_hash(cfg, key);
	__u32 at = hash & (WEFT_MAX_FLOW_SETS - 1);

	spot->set = bpf_map_lookup_elem(&flow_sets, &at);
	spot->at = at;
	spot->tag = hash >> 32 | 1;
	return spot->set;
}

/* The ways of a set lie far apart and are taken in order, so that few flows are in few pages. */
static __always_inline struct weft_flow *entry_at(__u32 set, __u32 way)
{
	__u32 at = way * WEFT_MAX_FLOW_SETS + set;

	return bpf_map_lookup_elem(&flows, &at);
}

static __always_inline struct weft_flow *way_at(const struct spot *spot, __u32 way)
{
	return entry_at(spot->at, way);
}

/* The way of the tag; WEFT_FLOW_WAYS: none. */
static __always_inline __u32 tagged(const struct spot *spot)
{
	__u32 way = WEFT_FLOW_WAYS;

#pragma unroll
	for (int i = WEFT_FLOW_WAYS - 1; i >= 0; i--)
		if (spot->set->tags[i] == spot->tag)
			way = i;
	return way;
}

/* The key's entry, if it has not run out. */
static __always_inline struct weft_flow *flow_at(const struct spot *spot,
						 const struct weft_flow_key *key, __u64 now)
{
	struct weft_flow *flow;
	__u32 way = tagged(spot);

	if (way >= WEFT_FLOW_WAYS || past(spot->set->deadlines[way], now))
		return NULL;
	flow = way_at(spot, way);
	return flow && same_key(&flow->key, key) ? flow : NULL;
}

static __always_inline struct weft_flow *find_flow(const struct weft_config *cfg,
						   const struct weft_flow_key *key, __u64 now)
{
	struct spot spot;

	return spot_of(cfg, key, &spot) ? flow_at(&spot, key, now) : NULL;
}

/* Whether a worker owns the flow. `pins` is large and cold: most keys' sets say that nothing of theirs is there. */
static __always_inline bool is_pinned(const struct spot *spot, const struct weft_flow_key *key)
{
	return *(volatile __u32 *)&spot->set->pins && bpf_map_lookup_elem(&pins, key);
}

static __always_inline bool has_pin(const struct weft_config *cfg, const struct weft_flow_key *key)
{
	struct spot spot;

	return spot_of(cfg, key, &spot) && is_pinned(&spot, key);
}

/* Takes an owner entry out. */
__noinline int unpin(const struct weft_flow_key *key)
{
	const struct weft_config *cfg = configured();
	struct spot spot;

	if (!key || !cfg || bpf_map_delete_elem(&pins, key))
		return -1;
	if (spot_of(cfg, key, &spot))
		__sync_fetch_and_add(&spot.set->pins, -1);
	return 0;
}

/* Adds to the states of the key's entry, and gives it another deadline. */
static __always_inline struct weft_flow *note(const struct weft_config *cfg,
					      const struct weft_flow_key *key, __u32 states,
					      __u16 deadline)
{
	struct weft_flow *flow;
	struct spot spot;
	__u32 way;

	if (!spot_of(cfg, key, &spot))
		return NULL;
	way = tagged(&spot);
	if (way >= WEFT_FLOW_WAYS)
		return NULL;
	flow = way_at(&spot, way);
	if (!flow || !same_key(&flow->key, key))
		return NULL;
	if ((flow->value.tcp_state & states) != states)
		__sync_fetch_and_or(&flow->value.tcp_state, states);
	flow->value.deadline = deadline;
	spot.set->deadlines[way] = deadline;
	return flow;
}

/* The same for both entries of the key's flow. */
__noinline int note_flow(const struct weft_flow_key *key, __u32 states, __u16 deadline)
{
	const struct weft_config *cfg = configured();
	struct weft_flow_key back;
	struct weft_flow *flow;
	__u32 peer = states & (WEFT_FLOW_ANSWERED | WEFT_FLOW_ACCEPTED);

	if (!key || !cfg)
		return -1;
	flow = note(cfg, key, states, deadline);
	if (!flow)
		return -1;
	if (states & WEFT_FLOW_FIN)
		peer |= WEFT_FLOW_PEER_FIN;
	if (states & WEFT_FLOW_RST)
		peer |= WEFT_FLOW_PEER_RST;
	back = answer_key(key, &flow->value);
	return note(cfg, &back, peer, deadline) ? 0 : -1;
}

/* Attempts at a lock that is held for a fraction of a microsecond. */
#define LOCK_ATTEMPTS 32

static __always_inline bool lock(struct weft_flow_set *set)
{
	for (int i = 0; i < LOCK_ATTEMPTS; i++)
		if (!__sync_val_compare_and_swap(&set->lock, 0, 1))
			return true;
	return false;
}

/* The pod that has opened the flow, whichever of its entries that is. */
static __always_inline __u32 opener(const struct weft_flow_key *key,
				    const struct weft_flow_value *value)
{
	return value->tcp_state & WEFT_FLOW_OPENER ? key->ifindex : value->egress_ifindex;
}

/* So long a flow that nobody has answered is more than its first packet, which would open it again. */
#define UNANSWERED_NS (1000ull * 1000 * 1000)

/* Whether the entry may make room: the flow is over, or its next packet would open it as it is. */
static __always_inline bool spare(const struct weft_flow_value *value, __u64 now)
{
	if (is_over(value->tcp_state))
		return true;
	return !(value->tcp_state & (WEFT_FLOW_ANSWERED | WEFT_FLOW_ACCEPTED)) &&
	       value->last_seen < now &&
	       now - value->last_seen > UNANSWERED_NS;
}

/*
 * The way for a new entry where room is scarce: entries are looked at, so that none is lost that is needed, and a pod keeps to its
 * share. `way` is one that is free, if there is any.
 */
__noinline int scarce_room(__u32 at, __u32 ifindex, __u32 way, __u64 now)
{
	__u32 held = 0, spared = WEFT_FLOW_WAYS;
	struct weft_flow_set *set = bpf_map_lookup_elem(&flow_sets, &at);

	if (!set)
		return WEFT_FLOW_WAYS;
	for (__u32 i = 0; i < WEFT_FLOW_WAYS; i++) {
		struct weft_flow *flow = entry_at(at, i);

		if (!flow || !set->tags[i] || past(set->deadlines[i], now))
			continue;
		if (spare(&flow->value, now))
			spared = i;
		else if (opener(&flow->key, &flow->value) == ifindex)
			held++;
	}
	if (held >= WEFT_FLOW_WAYS_A_POD)
		return WEFT_FLOW_WAYS;
	return way < WEFT_FLOW_WAYS ? way : spared;
}

/* The way for a new entry of the key, or WEFT_FLOW_WAYS. The set is locked. */
static __always_inline __u32 room_for(const struct spot *spot, const struct weft_flow_key *key,
				      const struct weft_flow_value *value, __u64 now)
{
	__u32 way = tagged(spot), room = 0;

	if (way < WEFT_FLOW_WAYS) {
		struct weft_flow *flow = way_at(spot, way);

		/* Two keys with one tag would hide each other. */
		if (flow && (same_key(&flow->key, key) || past(spot->set->deadlines[way], now)))
			return way;
		return WEFT_FLOW_WAYS;
	}
#pragma unroll
	for (int i = WEFT_FLOW_WAYS - 1; i >= 0; i--)
		if (!spot->set->tags[i] || past(spot->set->deadlines[i], now)) {
			way = i;
			room++;
		}
	if (room <= WEFT_FLOW_WAYS - WEFT_FLOW_WAYS_A_POD)
		return scarce_room(spot->at, opener(key, value), way, now);
	return way;
}

#define BEFORE_COOKIE __builtin_offsetof(struct weft_flow_value, cookie)
#define AFTER_COOKIE (BEFORE_COOKIE + sizeof(__u64))

/* Makes an entry, with the deadline in the value; 0, or -1 without room. */
__noinline int put_flow(const struct weft_flow_key *key, const struct weft_flow_value *value,
			__u64 now)
{
	const struct weft_config *cfg = configured();
	struct weft_flow *flow;
	struct spot spot;
	__u32 way;

	if (!key || !value || !cfg || !spot_of(cfg, key, &spot) || !lock(spot.set))
		return -1;
	way = room_for(&spot, key, value, now);
	flow = way < WEFT_FLOW_WAYS ? way_at(&spot, way) : NULL;
	if (flow) {
		way &= WEFT_FLOW_WAYS - 1;
		spot.set->tags[way] = 0;
		/* A reader that is at it sees that the cookie is another, whatever else it sees. */
		*(volatile __u64 *)&flow->value.cookie = 0;
		barrier();
		flow->key = *key;
		__builtin_memcpy(&flow->value, value, BEFORE_COOKIE);
		__builtin_memcpy((void *)&flow->value + AFTER_COOKIE, (void *)value + AFTER_COOKIE,
				 sizeof(*value) - AFTER_COOKIE);
		barrier();
		*(volatile __u64 *)&flow->value.cookie = value->cookie;
		barrier();
		spot.set->deadlines[way] = value->deadline;
		__sync_lock_test_and_set(&spot.set->tags[way], spot.tag);
	}
	__sync_lock_test_and_set(&spot.set->lock, 0);
	return flow ? 0 : -1;
}

/* Takes the key's entry out. */
__noinline int drop_flow(const struct weft_flow_key *key)
{
	const struct weft_config *cfg = configured();
	struct weft_flow *flow;
	struct spot spot;
	__u32 way;

	if (!key || !cfg || !spot_of(cfg, key, &spot))
		return -1;
	way = tagged(&spot);
	if (way >= WEFT_FLOW_WAYS)
		return -1;
	flow = way_at(&spot, way);
	if (!flow || !same_key(&flow->key, key))
		return -1;
	__sync_val_compare_and_swap(&spot.set->tags[way], spot.tag, 0);
	return 0;
}

#endif /* WEFT_FLOWS_H */
