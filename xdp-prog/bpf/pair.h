/* SPDX-License-Identifier: Apache-2.0 */
/* The punt pair: weft0 faces the kernel, weft1 faces user space. */
#ifndef WEFT_PAIR_H
#define WEFT_PAIR_H

#include "maps.h"

struct encoded {
	__u8 tag;
	__u8 mode; /* of an injected frame; high byte of the target in a punted one */
	__u32 ifindex;
};

static __always_inline bool decode(struct __sk_buff *skb, struct encoded *frame)
{
	__u8 mac[ETH_ALEN];

	if (bpf_skb_load_bytes(skb, ETH_ALEN, mac, sizeof(mac)))
		return false;
	frame->tag = mac[0];
	frame->ifindex = (__u32)mac[1] << 16 | (__u32)mac[2] << 8 | mac[3];
	frame->mode = mac[4];
	return frame->ifindex != 0;
}

/* User space has made the frame: it never was for anybody else. */
static __always_inline bool made_here(const __u8 *destination)
{
	return *(__be32 *)destination == bpf_htonl(WEFT_WEFT0_MAC_HIGH) &&
	       *(__be16 *)(destination + 4) == bpf_htons(WEFT_WEFT0_MAC_LOW);
}

/*
 * As if the pod's veth had just received it: its own source MAC, and a mark for the hook there.
 * The hook's eth_type_trans() decides the packet type anew, from the untouched destination MAC; what user
 * space has made has none, and goes where the pod sends what is for services.
 */
static __always_inline int reingress(struct __sk_buff *skb, __u32 ifindex)
{
	struct weft_pod_state *state = bpf_map_lookup_elem(&pod_state, &ifindex);

	if (state) {
		__u8 macs[2][ETH_ALEN] __attribute__((aligned(4)));

		if (bpf_skb_load_bytes(skb, 0, macs[0], ETH_ALEN))
			return TCX_DROP;
		if (made_here(macs[0]))
			__builtin_memcpy(macs[0], state->gateway, ETH_ALEN);
		__builtin_memcpy(macs[1], state->mac, ETH_ALEN);
		if (bpf_skb_store_bytes(skb, 0, macs, sizeof(macs), 0))
			return TCX_DROP;
	} /* Else the pod is gone: the kernel decides what that means. */
	skb->mark = WEFT_MARK;
	return bpf_redirect(ifindex, BPF_F_INGRESS);
}

/* Across the veth, past its egress hook. The destination MAC need not be the pod's. */
static __always_inline int into_pod(struct __sk_buff *skb, __u32 ifindex)
{
	if (skb->pkt_type != PACKET_HOST)
		bpf_skb_change_type(skb, PACKET_HOST);
	return bpf_redirect_peer(ifindex, 0);
}

#endif /* WEFT_PAIR_H */
