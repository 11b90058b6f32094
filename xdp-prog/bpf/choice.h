/* SPDX-License-Identifier: Apache-2.0 */
/* The choice that user space has compiled, and the entries of a flow that begins. */
#ifndef WEFT_CHOICE_H
#define WEFT_CHOICE_H

#include "flows.h"
#include "maps.h"
#include "parse.h"

/* What is done to a packet. */
struct way {
	struct weft_addr addr;
	__be16 port;
	__u8 mode;
	__u32 egress_ifindex;
};

static __always_inline struct way way_of(const struct weft_flow_value *flow)
{
	struct way way = {
		.addr = flow->rewrite_addr,
		.port = flow->rewrite_port,
		.mode = flow->mode,
		.egress_ifindex = flow->egress_ifindex,
	};

	return way;
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

/* Bytes of IP packets as the wire would see them: each segment with headers of its own. */
static __always_inline __u64 wire_bytes(const struct packet *packet, __u32 packets)
{
	__u32 headers = packet->payload - ETH_HLEN;

	return packet->end - ETH_HLEN + (__u64)(packets - 1) * headers;
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

/* 15 bits that tell a backend from most others. */
static __always_inline __u16 print_of(const struct weft_addr *addr, __be16 port)
{
	__u32 words = addr->words[0] ^ addr->words[1] ^ addr->words[2] ^ addr->words[3] ^ port;

	return words * 0x9e3779b1 >> 17;
}

/* Backends of a service port that are looked through at most. */
#define SCAN_MAX 1024

struct search {
	__u32 at; /* of `backends` */
	__u16 print;
	bool found;
};

/* One step of find_backend(). Its caller's stack is all but used up: the key is there already. */
static long is_backend(__u64 step, struct search *search)
{
	struct weft_backend *backend;

	(void)step;
	backend = bpf_map_lookup_elem(&backends, &search->at);
	search->found = backend && print_of(&backend->addr, backend->port) == search->print;
	if (!search->found)
		search->at++;
	return search->found;
}

/* The place of the service port's backend with that print, from its first one on; -1: it has none. */
__noinline int find_backend(__u32 offset, __u32 backends_count, __u16 print)
{
	struct search search = { .at = offset, .print = print };

	bpf_loop(backends_count < SCAN_MAX ? backends_count : SCAN_MAX, is_backend, &search, 0);
	return search.found ? (int)(search.at - offset) : -1;
}

/* The service port's part of a flow that begins, to that backend. */
static __always_inline bool to_backend(const struct weft_config *cfg, struct weft_opening *new,
				       const struct weft_service *service,
				       const struct weft_backend *backend)
{
	if (!backend || !backend->ifindex || same_addr(&backend->addr, &new->key.src))
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
	new->back.rewrite_addr = new->key.dst;
	new->back.rewrite_port = new->key.dport;
	return true;
}

static __always_inline struct weft_opening *begin(void)
{
	__u32 zero = 0;
	struct weft_opening *new = bpf_map_lookup_elem(&opening, &zero);

	if (new)
		__builtin_memset(new, 0, sizeof(*new));
	return new;
}

/* What becomes of a packet for which there is no entry. */
enum verdict {
	NOT_MINE, /* left to the steering table */
	NO_SERVICE, /* not to a service port: perhaps to another pod */
	PASSES, /* goes without entries */
	ENTERS, /* goes once `opening` is in the table */
	ENTERS_SECOND, /* the same, and the client's first packet is remembered till then */
	ENTERS_ANSWER, /* the same, and without room it goes by what is remembered, as the first answer did */
};

/* Makes both entries, the answers' first; 0, or -1 without room. The states are in the client's. */
static __always_inline int enter(struct weft_opening *new, __u64 now)
{
	__u32 states = new->there.tcp_state;
	__u16 deadline = deadline_of(new->key.proto, states, now);

	new->there.cookie = now;
	new->there.last_seen = now;
	new->there.deadline = deadline;
	new->there.tcp_state = states | WEFT_FLOW_OPENER;
	new->back.egress_ifindex = new->key.ifindex;
	new->back.slot = new->there.slot;
	new->back.epoch = new->there.epoch;
	new->back.instance = new->there.instance;
	new->back.service = new->there.service;
	new->back.cookie = now;
	new->back.last_seen = now;
	new->back.deadline = deadline;
	new->back.tcp_state = states;
	if (put_flow(&new->back_key, &new->back, now))
		goto no_room;
	if (put_flow(&new->key, &new->there, now)) {
		drop_flow(&new->back_key);
		goto no_room;
	}
	count(WEFT_COUNT_FLOWS_OPENED, 1);
	return 0;
no_room:
	count(WEFT_COUNT_FLOWS_NO_ROOM, 1);
	return -1;
}

#endif /* WEFT_CHOICE_H */
