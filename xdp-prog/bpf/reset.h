/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connections that ended in a worker of user space, when that is no more: nobody can go on with them,
 * so whatever their peers send is answered with a reset, in place.
 */
#ifndef WEFT_RESET_H
#define WEFT_RESET_H

#include "flows.h"
#include "pair.h"
#include "punt.h"
#include "rewrite.h"
#include "steer.h"

#define IP4_TOTAL (ETH_HLEN + 2) /* RFC 791, 3.1 */
#define IP4_TTL (ETH_HLEN + 8) /* and protocol */
#define IP4_CHECKSUM (ETH_HLEN + 10)
#define IP4_ADDRESSES (ETH_HLEN + 12)
#define IP6_PAYLOAD (ETH_HLEN + 4) /* RFC 8200, 3 */
#define IP6_HOPS (ETH_HLEN + 7)
#define IP6_ADDRESSES (ETH_HLEN + 8)
#define RESET_HOPS 64

/*
 * The reset that answers `got` (RFC 9293, 3.10.7.1).
 *
 * Its checksum is right twice: as it stands, and as a mere beginning that somebody is to complete,
 * so that nobody has to ask which of the two its packet wants. With P the sum of the pseudo-header
 * and T that of the TCP header without checksum, the field is -(P + T) in the first case and P in the
 * second. The window, which means nothing in a reset, makes T = -2P, and both are P. (The prefixes of
 * v4-mapped addresses sum up to nothing.)
 */
static __always_inline struct tcphdr reset_for(const struct packet *packet, const struct tcphdr *got)
{
	struct tcphdr rst = {
		.source = got->dest,
		.dest = got->source,
		.doff = sizeof(rst) / 4,
		.rst = 1,
	};
	__u64 pseudo, header;

	if (got->ack) {
		rst.seq = got->ack_seq;
	} else {
		__u32 carried = packet->end > packet->payload ? packet->end - packet->payload : 0;

		rst.ack = 1;
		rst.ack_seq = bpf_htonl(bpf_ntohl(got->seq) + carried + got->syn + got->fin);
	}
	pseudo = bpf_csum_diff(NULL, 0, (__be32 *)&packet->src, 2 * sizeof(packet->src), 0);
	pseudo = folded(pseudo + bpf_htons(IPPROTO_TCP) + bpf_htons(sizeof(rst)));
	header = bpf_csum_diff(NULL, 0, (__be32 *)&rst, sizeof(rst), 0);
	rst.window = ~folded(header + 2 * pseudo);
	rst.check = pseudo;
	return rst;
}

static __always_inline bool store(struct __sk_buff *skb, __u32 at, const void *bytes, __u32 length)
{
	return !bpf_skb_store_bytes(skb, at, bytes, length, BPF_F_RECOMPUTE_CSUM);
}

static __always_inline bool swap_macs(struct __sk_buff *skb)
{
	__u8 from[2][ETH_ALEN], to[2][ETH_ALEN];

	if (bpf_skb_load_bytes(skb, 0, from, sizeof(from)))
		return false;
	__builtin_memcpy(to[0], from[1], ETH_ALEN);
	__builtin_memcpy(to[1], from[0], ETH_ALEN);
	return !bpf_skb_store_bytes(skb, 0, to, sizeof(to), 0);
}

/* What is before the TCP header stays, options and extension headers too: where a checksum to be completed begins is
 * not ours to change. Exchanged addresses leave the sum of the header as it is. */
static __always_inline bool answer_ip4(struct __sk_buff *skb, const struct packet *packet)
{
	__be16 length[2], hops[2];
	__be32 ends[2] = { packet->dst.words[3], packet->src.words[3] };

	if (bpf_skb_load_bytes(skb, IP4_TOTAL, &length[0], sizeof(length[0])) ||
	    bpf_skb_load_bytes(skb, IP4_TTL, &hops[0], sizeof(hops[0])))
		return false;
	length[1] = bpf_htons(packet->l4 + sizeof(struct tcphdr) - ETH_HLEN);
	hops[1] = bpf_htons(RESET_HOPS << 8 | IPPROTO_TCP);
	return !bpf_l3_csum_replace(skb, IP4_CHECKSUM, length[0], length[1], sizeof(length[1])) &&
	       !bpf_l3_csum_replace(skb, IP4_CHECKSUM, hops[0], hops[1], sizeof(hops[1])) &&
	       store(skb, IP4_TOTAL, &length[1], sizeof(length[1])) &&
	       store(skb, IP4_TTL, &hops[1], sizeof(hops[1])) &&
	       store(skb, IP4_ADDRESSES, ends, sizeof(ends));
}

static __always_inline bool answer_ip6(struct __sk_buff *skb, const struct packet *packet)
{
	struct weft_addr ends[2] = { packet->dst, packet->src };
	__be16 length = bpf_htons(packet->l4 + sizeof(struct tcphdr) - ETH_HLEN - sizeof(struct ipv6hdr));
	__u8 hops = RESET_HOPS;

	return store(skb, IP6_PAYLOAD, &length, sizeof(length)) &&
	       store(skb, IP6_HOPS, &hops, sizeof(hops)) &&
	       store(skb, IP6_ADDRESSES, ends, sizeof(ends));
}

/* Turns the packet into its answer. False: no memory, and the packet is good for nothing. */
static __always_inline bool turn_around(struct __sk_buff *skb, const struct packet *packet,
					const struct tcphdr *got)
{
	struct tcphdr rst = reset_for(packet, got);

	/* Also makes one packet of one that the device was to cut. */
	return !bpf_skb_change_tail(skb, packet->l4 + sizeof(rst), 0) &&
	       store(skb, packet->l4, &rst, sizeof(rst)) &&
	       (packet->v6 ? answer_ip6(skb, packet) : answer_ip4(skb, packet)) && swap_macs(skb);
}

/*
 * For a packet whose worker does not step: false if its connection does not end there, so that it is the
 * kernel's. Else `*action` is the program's return value: dropped while the worker may go on, since TCP
 * repeats it; answered with a reset once the worker is dead.
 *
 * The entry stays behind a reset, which may have crossed data on its way: then it is not taken, and the
 * challenge to it (RFC 5961, 3.2) is answered with the right one. It goes when nothing is left to reset.
 */
static __noinline bool orphaned(struct __sk_buff *skb, const struct packet *packet,
				     __u32 ifindex, int *action)
{
	struct weft_flow_key key = key_of(packet, ifindex);
	struct weft_flow_value *flow;
	struct weft_config *cfg;
	struct tcphdr got;
	__u32 zero = 0;
	__u8 inject;

	if (!packet->ports || packet->proto != IPPROTO_TCP)
		return false;
	flow = bpf_map_lookup_elem(&pins, &key);
	if (!flow || flow->mode != WEFT_MODE_TERMINATED)
		return false;
	*action = TCX_DROP;
	cfg = bpf_map_lookup_elem(&config, &zero);
	if (!cfg || !cfg->workers || !dead(cfg, flow->owner % cfg->workers, bpf_ktime_get_ns()))
		return true;
	if (packet->opens) { /* The former connection is over for its peer: a new one, and the kernel's. */
		unpin(&key);
		return false;
	}
	inject = flow->rewrite;
	if (bpf_skb_load_bytes(skb, packet->l4, &got, sizeof(got)))
		return true;
	/* A reset is never answered; its sender knows of no connection. And one that was being opened is not tried twice. */
	if (got.rst || got.syn)
		unpin(&key);
	if (got.rst || !turn_around(skb, packet, &got))
		return true;
	if (inject == WEFT_INJECT_PEER)
		*action = into_pod(skb, ifindex);
	else if (inject == WEFT_INJECT_REINGRESS)
		*action = reingress(skb, ifindex);
	return true;
}

#endif /* WEFT_RESET_H */
