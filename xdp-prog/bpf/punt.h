/* SPDX-License-Identifier: Apache-2.0 */
/* Sends a packet to user space, or says why not. */
#ifndef WEFT_PUNT_H
#define WEFT_PUNT_H

#include "maps.h"

enum punt_result {
	PUNT_SENT, /* return what bpf_redirect() said */
	PUNT_STALE, /* user space is gone: the kernel's */
	PUNT_RATE, /* the pod is above its rate: drop */
};

/* True if the worker has stepped within the limit. A worker that never did is not alive. */
static __always_inline bool alive(const struct weft_config *cfg, __u32 worker, __u64 now)
{
	struct weft_heartbeat *beat = bpf_map_lookup_elem(&heartbeat, &worker);
	__u64 last;

	if (!beat)
		return false;
	last = *(volatile __u64 *)&beat->last_ns;
	if (!cfg->heartbeat_limit_ns)
		return true;
	/* Another CPU may have written it after we read our clock. */
	return last && (last >= now || now - last <= cfg->heartbeat_limit_ns);
}

/* Heartbeat limits after which a worker that stopped without a word counts as dead. */
#define DEAD_AFTER 10

/*
 * True if the worker will not go on: it said so (0), or has not stepped for long. A stall, which the
 * heartbeat limit finds, is none: what ends in the worker must outlive that.
 */
static __always_inline bool dead(const struct weft_config *cfg, __u32 worker, __u64 now)
{
	struct weft_heartbeat *beat = bpf_map_lookup_elem(&heartbeat, &worker);
	__u64 last;

	if (!beat || !cfg->heartbeat_limit_ns)
		return false;
	last = *(volatile __u64 *)&beat->last_ns;
	return !last || (last < now && (now - last) / DEAD_AFTER > cfg->heartbeat_limit_ns);
}

/*
 * What a SYN takes out of the bucket, in packets. User space spends a few times as long on it as on
 * a packet of a known flow, and a flood is made of nothing else; a pod that works sends many packets
 * to each SYN.
 */
#define OPEN_COST 16

/*
 * Generic cell rate algorithm (ITU-T I.371): `tat` is when the bucket would be empty. One try:
 * whoever loses the race passes uncharged, which bounds the error by the number of CPUs.
 */
static __always_inline bool conforms(const struct weft_pod *pod, struct weft_pod_state *state,
				     __u32 packets, bool opens, __u64 now)
{
	__u64 old, tat, cost = (__u64)packets + (opens ? OPEN_COST - 1 : 0);

	if (!pod->punt_interval_ns)
		return true;
	old = *(volatile __u64 *)&state->tat;
	tat = old > now ? old : now;
	/* All but one of its segments must fit the burst: one packet may be cut into 65,000. */
	if (tat - now + (__u64)(packets - 1) * pod->punt_interval_ns > pod->punt_burst_ns)
		return false;
	__sync_val_compare_and_swap(&state->tat, old, tat + cost * pod->punt_interval_ns);
	return true;
}

static __always_inline void remember(__u8 *known, const __u8 *mac)
{
	/* Written only when it changes. */
	if (*(__u16 *)mac != *(__u16 *)known || *(__u16 *)(mac + 2) != *(__u16 *)(known + 2) ||
	    *(__u16 *)(mac + 4) != *(__u16 *)(known + 4))
		__builtin_memcpy(known, mac, ETH_ALEN);
}

/* Remembers the sender's MAC, which the punt overwrites, and to a service the one that leads there. */
static __always_inline void learn_macs(struct __sk_buff *skb, struct weft_pod_state *state, bool vip)
{
	__u8 macs[2][ETH_ALEN] __attribute__((aligned(4)));

	if (bpf_skb_load_bytes(skb, 0, macs, sizeof(macs)))
		return;
	remember(state->mac, macs[1]);
	if (vip)
		remember(state->gateway, macs[0]);
}

/*
 * A large packet of the bulk lane costs user space about as much as that many small ones: it is copied
 * whole, and looked at once.
 */
static __always_inline __u32 bulk_cost(__u32 packets)
{
	return 1 + packets / 8;
}

/*
 * `ifindex` is where the packet came in: the interface, or the tunnel. `lane` is the device of the bulk lane, or 0. `pod` and `state` are null for the ToPod hook, which neither limits nor learns. With PUNT_SENT
 * `*action` is the program's return value.
 */
static __always_inline enum punt_result punt(struct __sk_buff *skb, __u8 tag, __u32 ifindex,
					     __u16 target, __u32 packets, bool opens, bool vip, __u32 lane,
					     const struct weft_pod *pod,
					     struct weft_pod_state *state, int *action)
{
	__u32 zero = 0, worker;
	struct weft_config *cfg = bpf_map_lookup_elem(&config, &zero);
	__u64 now = bpf_ktime_get_ns();
	__u8 mac[ETH_ALEN] = { tag,	      ifindex >> 16, ifindex >> 8,
			       ifindex,	      target >> 8,   target };

	if (!cfg || !cfg->workers)
		return PUNT_STALE;
	worker = target % cfg->workers;
	if (!alive(cfg, worker, now))
		return PUNT_STALE;
	if (state) {
		if (pod &&
		    !conforms(pod, state, lane ? bulk_cost(packets) : packets, opens, now))
			return PUNT_RATE;
		learn_macs(skb, state, vip);
	}
	if (bpf_skb_store_bytes(skb, ETH_ALEN, mac, sizeof(mac), 0))
		return PUNT_STALE; /* No memory to unshare the header: the kernel may do better. */
	if (lane) {
		count(WEFT_COUNT_BULK_PUNTED, packets);
		count(WEFT_COUNT_BULK_FRAMES, 1);
		*action = bpf_redirect(lane, 0);
		return PUNT_SENT;
	}
	skb->queue_mapping = worker + 1;
	*action = bpf_redirect(cfg->weft0_ifindex, 0);
	return PUNT_SENT;
}

#endif /* WEFT_PUNT_H */
