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

/* A word of `firsts`: the upper half of the flow's hash, its backend's print, whether that has answered, and when, in
 * units of 2^28 ns. */
#define FIRST_ANSWERED (1ull << 16)
#define FIRST_TAG (~0ull << 32)
/* For so long a client's first packet may have lost its place to another one before the answer: 5 s. */
#define FIRST_CROWDED 19

static __always_inline __u16 first_clock(__u64 now)
{
	return now >> 28;
}

static __always_inline struct weft_firsts *line_of(__u32 ifindex, __u64 hash)
{
	__u32 at = ifindex % WEFT_FIRST_REGIONS * WEFT_FIRST_LINES + hash % WEFT_FIRST_LINES;

	return bpf_map_lookup_elem(&firsts, &at);
}

static __always_inline __u16 age_of(__u64 word, __u64 now)
{
	return first_clock(now) - (__u16)word;
}

/* The flow's word, if it is remembered; else NULL. */
static __always_inline __u64 *word_of(struct weft_firsts *line, __u64 hash, __u64 now)
{
	for (int i = 0; i < WEFT_FIRST_WORDS; i++) {
		__u64 word = *(volatile __u64 *)&line->words[i];

		if (!((word ^ hash) & FIRST_TAG) && age_of(word, now) <= WEFT_FIRST_LIFETIME)
			return &line->words[i];
	}
	return NULL;
}

/* Where another flow is remembered: a word that is free, or the oldest, so that answers which are under way find theirs. */
static __always_inline __u64 *free_word(struct weft_firsts *line, __u64 hash, __u64 now)
{
	__u32 oldest = 0, age = 0;

	for (__u32 i = 0; i < WEFT_FIRST_WORDS; i++) {
		__u32 at = (i + (hash >> 20)) % WEFT_FIRST_WORDS;
		__u32 of = line->words[at] ? age_of(line->words[at], now) + 1 : 1 << 16;

		if (of > age) {
			oldest = at;
			age = of;
		}
	}
	return &line->words[oldest];
}

/* A word of the line may just have been another flow's. */
static __always_inline bool crowded(const struct weft_firsts *line, __u64 now)
{
	for (int i = 0; i < WEFT_FIRST_WORDS; i++)
		if (!line->words[i] || age_of(line->words[i], now) > FIRST_CROWDED)
			return false;
	return true;
}

static __always_inline struct weft_reverse *reverse_of(const struct weft_addr *addr, __be16 port,
						       __u8 proto)
{
	struct weft_service_key key = { .vip = *addr, .port = port, .proto = proto };

	return bpf_map_lookup_elem(&reverse, &key);
}

/* What is remembered of the flow, if it has had its first packet; else 0. */
static __always_inline __u64 remembered(const struct weft_flow_key *client, __u64 hash, __u64 now)
{
	struct weft_firsts *line = line_of(client->ifindex, hash);
	__u64 *word = line ? word_of(line, hash, now) : NULL;
	__u64 known = word ? *(volatile __u64 *)word : 0;

	return (known ^ hash) & FIRST_TAG ? 0 : known; /* It may be another flow's by now. */
}

/* Entries take over what was remembered, or their flow would go back to its first backend after they are gone. */
static __always_inline void forget(const struct weft_flow_key *client, __u64 now)
{
	__u64 hash = tuple_hash(client);
	struct weft_firsts *line = line_of(client->ifindex, hash);
	__u64 *word = line ? word_of(line, hash, now) : NULL;

	if (word)
		*(volatile __u64 *)word = 0;
}

/* Of the backend that a word is about. */
static __always_inline __u16 print_in(__u64 word)
{
	return word >> 17 & 0x7fff;
}

/* Whether the answers from the other pod would be those to a first packet to its service port. */
static __always_inline bool was_asked(const struct weft_flow_key *key, __u64 now)
{
	struct weft_reverse *back = reverse_of(&key->dst, key->dport, key->proto);
	struct weft_flow_key client = *key;

	if (!back)
		return false;
	client.dst = back->vip;
	client.dport = back->port;
	return remembered(&client, tuple_hash(&client), now);
}

/* The backend that the flow's first packet went to, as long as the service port has it. */
static __always_inline struct weft_backend *first_backend(const struct weft_service *service,
							   struct weft_backend *chosen, __u64 word)
{
	__u16 print = print_in(word);
	__u32 at;
	int found;

	if (chosen && print_of(&chosen->addr, chosen->port) == print)
		return chosen;
	found = find_backend(service->backends_offset, service->backends, print);
	if (found < 0)
		return chosen;
	at = service->backends_offset + found;
	return bpf_map_lookup_elem(&backends, &at);
}

/* For so long a set knows whom it has seen, 4 s: who uses a tuple later is another flow. */
#define SEEN_LIFETIME 16

/*
 * Whether the flow is among the latest three of its set that had a first packet; it is from now on. A client of more flows
 * than its words remember gets entries by that. The lowest bits say since when.
 */
static __always_inline bool was_seen(const struct spot *spot, __u64 now)
{
	__u64 seen = *(volatile __u64 *)&spot->set->seen, prints = seen >> 16;
	__u16 print = spot->tag >> 16 | 1;

	if (age_of(seen, now) > SEEN_LIFETIME) {
		seen = first_clock(now);
		prints = 0;
	}
	if ((__u16)prints == print || (__u16)(prints >> 16) == print || prints >> 32 == print)
		return true;
	*(volatile __u64 *)&spot->set->seen = prints << 32 | (__u64)print << 16 | (__u16)seen;
	return false;
}

/* Whether the client's packet, a flow's first, may go without entries; then it is remembered. */
static __always_inline bool is_first(const struct weft_config *cfg, const struct weft_opening *new,
				     const struct spot *spot, __u64 hash, __u64 now)
{
	struct weft_reverse *back;
	struct weft_firsts *line;
	struct spot back_spot;
	__u64 print;

	back = reverse_of(&new->there.rewrite_addr, new->there.rewrite_port, new->key.proto);
	if (!back || !(back->flags & WEFT_REVERSE_SOLE) || back->port != new->key.dport ||
	    !same_addr(&back->vip, &new->key.dst))
		return false;
	line = line_of(new->key.ifindex, hash);
	if (!line || is_pinned(spot, &new->key) || !spot_of(cfg, &new->back_key, &back_spot) ||
	    is_pinned(&back_spot, &new->back_key) || flow_at(&back_spot, &new->back_key, now) ||
	    was_seen(spot, now))
		return false;
	print = print_of(&new->there.rewrite_addr, new->there.rewrite_port);
	*(volatile __u64 *)free_word(line, hash, now) = (hash & FIRST_TAG) | print << 17 |
							 first_clock(now);
	return true;
}

/* Whether the second answer, to the client whose packets' key is `new->key`, makes entries: the service port still has the
 * backend. */
static __always_inline bool is_second(const struct weft_config *cfg,
					   const struct packet *packet, const struct weft_pod *pod,
					   const struct weft_flow_key *key,
					   struct weft_opening *new)
{
	struct weft_service_key wanted = {
		.vip = new->key.dst,
		.port = new->key.dport,
		.proto = new->key.proto,
	};
	struct weft_service *service = bpf_map_lookup_elem(&services, &wanted);
	struct weft_pod_state *state;

	int found;
	__u32 at;

	if (!service)
		return false;
	found = find_backend(service->backends_offset, service->backends,
			     print_of(&key->src, key->sport));
	at = service->backends_offset + found;
	if (found < 0 || !to_backend(cfg, new, service, bpf_map_lookup_elem(&backends, &at)))
		return false;
	new->back_key = answer_key(&new->key, &new->there);
	if (!same_key(&new->back_key, key) || has_pin(cfg, &new->key))
		return false;
	state = bpf_map_lookup_elem(&pod_state, &key->ifindex);
	if (!state || !conforms(pod, state, 1, false, bpf_ktime_get_ns()))
		return false;
	new->back.packets = 1;
	new->back.bytes = wire_bytes(packet, 1);
	new->there.tcp_state = WEFT_FLOW_ANSWERED;
	return true;
}

/* Whether the packet answers a client's first one, of whose flow there is no entry, and where it goes; else NO_SERVICE. */
__noinline int first_answer(const struct packet *packet, const struct weft_pod *pod,
			    const struct weft_flow_key *key, struct way *way)
{
	const struct weft_config *cfg = configured();
	struct weft_firsts *line;
	__u64 *word, known, hash, now;
	struct weft_reverse *back;
	struct weft_opening *new;
	struct weft_endpoint *end;

	if (!packet || !pod || !key || !way || !cfg || packet->proto != IPPROTO_UDP)
		return NO_SERVICE;
	now = bpf_ktime_get_coarse_ns();
	back = reverse_of(&key->src, key->sport, key->proto);
	if (!back)
		return NO_SERVICE;
	end = bpf_map_lookup_elem(&endpoints, &key->dst);
	new = begin();
	if (!end || !end->ifindex || !new || has_pin(cfg, key))
		return NO_SERVICE;
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
	hash = tuple_hash(&new->key);
	line = line_of(end->ifindex, hash);
	if (!line)
		return NO_SERVICE;
	word = word_of(line, hash, now);
	if (word) {
		known = *(volatile __u64 *)word;
		/* Another backend of the service was not asked. */
		if (print_in(known) != print_of(&key->src, key->sport))
			return NO_SERVICE;
		if ((known & FIRST_ANSWERED) && is_second(cfg, packet, pod, key, new))
			return ENTERS_ANSWER;
		__sync_fetch_and_or(word, FIRST_ANSWERED);
	} else if (!(back->flags & WEFT_REVERSE_SOLE) || !crowded(line, now)) {
		return NO_SERVICE;
	}
	return PASSES;
}

#endif /* WEFT_FIRST_H */
