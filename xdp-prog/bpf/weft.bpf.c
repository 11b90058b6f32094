// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * Weft's programs. One for each hook; docs/steering.md says what they decide, weft.h what they
 * share with user space. But for the fast path (fast.h), none rewrites an address: they classify, punt and give back.
 */
#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#ifndef IPPROTO_ICMPV6
#define IPPROTO_ICMPV6 58
#endif

#include "weft.h"
#include "maps.h"
#include "parse.h"
#include "steer.h"
#include "punt.h"
#include "pair.h"
#include "reset.h"
#include "fast.h"
#include "uplink.h"

/* The kernel is told the GPL half of the choice: some helpers ask for it. */
char LICENSE[] SEC("license") = "GPL";

/* Host side of an enrolled pod's veth, ingress: what the pod sends. */
SEC("tcx/ingress")
int weft_from_pod(struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex, packets;
	struct weft_pod_state *state;
	struct packet packet = {};
	struct weft_pod *pod;
	__u16 target = 0;
	int action = TCX_NEXT;

	if (skb->mark == WEFT_MARK) {
		skb->mark = 0;
		count(WEFT_COUNT_REINGRESSED, merged(skb));
		return TCX_NEXT;
	}
	pod = bpf_map_lookup_elem(&pods, &ifindex);
	if (!pod)
		return TCX_NEXT;
	switch (untag(skb) ? parse(skb, &packet) : PARSE_MALFORMED) {
	case PARSE_NOT_IP:
		return TCX_NEXT;
	case PARSE_MALFORMED:
		count(WEFT_COUNT_FROM_POD, 1);
		count(WEFT_COUNT_MALFORMED, 1);
		return TCX_DROP;
	case PARSE_OK:
		break;
	}
	packets = segments(skb, &packet);
	count(WEFT_COUNT_FROM_POD, packets);
	if (own_source(&packet, pod) && fast_path(skb, &packet, pod, ifindex, packets, &action))
		return action;
	switch (steer_from_pod(skb, &packet, pod, ifindex, &target)) {
	case STEER_KERNEL:
		break;
	case STEER_SPOOF:
		count(WEFT_COUNT_SRC_SPOOF, packets);
		return TCX_DROP;
	case STEER_PUNT:
		state = bpf_map_lookup_elem(&pod_state, &ifindex);
		if (!state) /* Its MAC could not be given back: leave the packet whole. */
			break;
		switch (punt(skb, WEFT_TAG_FROM_POD, ifindex, target, packets, packet.opens, packet.vip,
			     bulk_lane(skb, &packet, ifindex), pod, state, &action)) {
		case PUNT_SENT:
			count(WEFT_COUNT_FROM_POD_PUNTED, packets);
			return action;
		case PUNT_RATE:
			count(WEFT_COUNT_PUNT_RATE, packets);
			return TCX_DROP;
		case PUNT_STALE:
			if (orphaned(skb, &packet, ifindex, &action)) {
				count(WEFT_COUNT_FROM_POD_ORPHAN, packets);
				return action;
			}
			count(WEFT_COUNT_STALE, packets);
			break;
		}
		break;
	}
	count(WEFT_COUNT_FROM_POD_KERNEL, packets);
	return TCX_NEXT;
}

/* The same veth, egress: what the kernel delivers. bpf_redirect_peer() does not come by here. */
SEC("tcx/egress")
int weft_to_pod(struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex, packets;
	struct packet packet = {};
	__u16 target = 0;
	int action = TCX_NEXT;

	/* What cannot be read is not ours to judge here: the pod's own stack will. */
	if (parse(skb, &packet) != PARSE_OK)
		return TCX_NEXT;
	packets = segments(skb, &packet);
	count(WEFT_COUNT_TO_POD, packets);
	if (steer_to_pod(skb, &packet, ifindex, &target) == STEER_PUNT) {
		if (punt(skb, WEFT_TAG_TO_POD, ifindex, target, packets, false, false,
			 bulk_lane(skb, &packet, ifindex), NULL, NULL, &action) == PUNT_SENT) {
			count(WEFT_COUNT_TO_POD_PUNTED, packets);
			return action;
		}
		if (orphaned(skb, &packet, ifindex, &action)) {
			count(WEFT_COUNT_TO_POD_ORPHAN, packets);
			return action;
		}
		count(WEFT_COUNT_STALE, packets);
	}
	count(WEFT_COUNT_TO_POD_KERNEL, packets);
	return TCX_NEXT;
}

/*
 * A packet that is not wrapped: from a peer without a tunnel to an enrolled pod, from a router that says how long a wrapped
 * one may be, or the kernel's.
 */
static __noinline int native(struct __sk_buff *skb, const struct weft_overlay *here,
			     const struct packet *packet)
{
	__u32 tunnel, packets;
	int action = TCX_NEXT;
	__u16 target = 0;

	if (packet->error && is_about_tunnel(skb, here, packet)) {
		count(WEFT_COUNT_FROM_PEER, 1);
		if (punt(skb, WEFT_TAG_UPLINK, skb->ifindex, 0, 1, false, false, 0, NULL, NULL,
			 &action) == PUNT_SENT) {
			count(WEFT_COUNT_FROM_PEER_PUNTED, 1);
			return action;
		}
		count(WEFT_COUNT_FROM_PEER_KERNEL, 1);
		return TCX_NEXT;
	}
	tunnel = native_peer(packet);
	if (!tunnel)
		return TCX_NEXT;
	packets = segments(skb, packet);
	count(WEFT_COUNT_FROM_PEER, packets);
	if (fast_native(skb, packet, tunnel, packets, &action))
		return action;
	if (!sole_worker())
		target = native_target(skb, packet, tunnel);
	if (punt(skb, WEFT_TAG_FROM_POD, tunnel, target, packets, false, false, 0, NULL, NULL,
		 &action) == PUNT_SENT) {
		count(WEFT_COUNT_FROM_PEER_PUNTED, packets);
		return action;
	}
	count(WEFT_COUNT_FROM_PEER_KERNEL, packets);
	return TCX_NEXT;
}

/* An uplink, ingress: what the underlay brings. */
SEC("tcx/ingress")
int weft_from_peer(struct __sk_buff *skb)
{
	__u32 zero = 0, packets;
	struct weft_overlay *here = bpf_map_lookup_elem(&overlay, &zero);
	struct packet packet = {};
	int action = TCX_NEXT;
	__u16 target = 0;

	/* What cannot be read is the kernel's. */
	if (!here || !here->port || parse(skb, &packet) != PARSE_OK)
		return TCX_NEXT;
	if (!is_wrapped(&packet, here))
		return native(skb, here, &packet);
	packets = segments(skb, &packet);
	count(WEFT_COUNT_FROM_PEER, packets);
	if (fast_unwrap(skb, &packet, packets, &action))
		return action;
	if (!sole_worker())
		target = wrapped_target(skb, here, &packet);
	if (punt(skb, WEFT_TAG_UPLINK, skb->ifindex, target, packets, false, false, 0, NULL, NULL,
		 &action) == PUNT_SENT) {
		count(WEFT_COUNT_FROM_PEER_PUNTED, packets);
		return action;
	}
	/* The kernel would answer that nobody listens. */
	count(WEFT_COUNT_FROM_PEER_ORPHAN, packets);
	return TCX_DROP;
}

/* Run by user space for a flow that it has opened and need not see any more. 0, or -1 without room. */
SEC("syscall")
int weft_enter(struct weft_opening *wanted)
{
	struct weft_opening new = *wanted;

	return enter(&new, bpf_ktime_get_ns());
}

/* weft0 and the bulk lanes, ingress: what user space injects. Nothing else has any business there. */
SEC("tcx/ingress")
int weft_injected(struct __sk_buff *skb)
{
	struct encoded frame = {};

	if (decode(skb, &frame) && frame.tag == WEFT_TAG_FROM_POD) {
		if (frame.mode == WEFT_INJECT_PEER) {
			count(WEFT_COUNT_INJECTED_PEER, 1);
			return into_pod(skb, frame.ifindex);
		}
		if (frame.mode == WEFT_INJECT_REINGRESS) {
			count(WEFT_COUNT_INJECTED_REINGRESS, 1);
			return reingress(skb, frame.ifindex);
		}
		if (frame.mode == WEFT_INJECT_NEIGH) {
			count(WEFT_COUNT_INJECTED_UPLINK, 1);
			return bpf_redirect_neigh(frame.ifindex, NULL, 0, 0);
		}
	}
	count(WEFT_COUNT_INJECT_FOREIGN, 1);
	return TCX_DROP;
}

/*
 * weft1, XDP: punted frames, into the socket of the queue they came in on. The node's stack has its
 * own moods on any interface (MLD without an address, for one): those frames end here.
 */
SEC("xdp")
int weft_punted(struct xdp_md *xdp)
{
	struct ethhdr *eth = (void *)(long)xdp->data;
	int action;

	if ((void *)(eth + 1) > (void *)(long)xdp->data_end ||
	    (eth->h_source[0] != WEFT_TAG_FROM_POD && eth->h_source[0] != WEFT_TAG_TO_POD &&
	     eth->h_source[0] != WEFT_TAG_UPLINK)) {
		count(WEFT_COUNT_PUNT_FOREIGN, 1);
		return XDP_DROP;
	}
	action = bpf_redirect_map(&xsks, xdp->rx_queue_index, XDP_PASS);
	count(action == XDP_REDIRECT ? WEFT_COUNT_XSK_REDIRECTED : WEFT_COUNT_XSK_ABSENT, 1);
	return action;
}

/* weft1, ingress: punted frames whose queue has no socket, so nobody will ever decide them. */
SEC("tcx/ingress")
int weft_fail_open(struct __sk_buff *skb)
{
	struct encoded frame = {};

	if (decode(skb, &frame)) {
		if (frame.tag == WEFT_TAG_UPLINK || is_tunnel(frame.ifindex)) {
			count(WEFT_COUNT_FAILOPEN_UPLINK, merged(skb));
			return TCX_DROP;
		}
		if (frame.tag == WEFT_TAG_FROM_POD) {
			count(WEFT_COUNT_FAILOPEN_REINGRESS, merged(skb));
			return reingress(skb, frame.ifindex);
		}
		if (frame.tag == WEFT_TAG_TO_POD) {
			count(WEFT_COUNT_FAILOPEN_PEER, merged(skb));
			return into_pod(skb, frame.ifindex);
		}
	}
	count(WEFT_COUNT_PUNT_FOREIGN, 1);
	return TCX_DROP;
}
