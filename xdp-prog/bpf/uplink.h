/* SPDX-License-Identifier: Apache-2.0 */
/* What comes by an uplink: wrapped packets of peers. Whether they are right is the engine's to say, which unwraps them. */
#ifndef WEFT_UPLINK_H
#define WEFT_UPLINK_H

#include "icmp.h"
#include "maps.h"
#include "parse.h"
#include "steer.h"
#include "wrap.h"

#define TUNNEL_HEADER 8 /* GENEVE's without options, and VXLAN's */
#define GENEVE_OPTIONS 0x3f /* their length in words (RFC 8926, 3.4) */

/* Whether the packet is one of a tunnel that ends here. */
static __always_inline bool is_wrapped(const struct packet *packet, const struct weft_overlay *here)
{
	return packet->ports && packet->proto == IPPROTO_UDP && packet->dport == here->port &&
	       same_addr(&packet->dst, packet->v6 ? &here->node6 : &here->node4);
}

/* Whether an ICMP error says that something too long was sent in a tunnel from here. */
static __noinline bool is_about_tunnel(struct __sk_buff *skb, const struct weft_overlay *here,
				       const struct packet *error)
{
	const struct weft_addr *node = error->v6 ? &here->node6 : &here->node4;
	struct packet quoted = {};
	__u8 kind[2];

	if (bpf_skb_load_bytes(skb, error->icmp, kind, sizeof(kind)))
		return false;
	if (error->v6 ? kind[0] != 2 : kind[0] != 3 || kind[1] != 4)
		return false;
	return read_ports(skb, error->icmp + ICMP_HEADER, error->v6, &quoted) &&
	       quoted.proto == IPPROTO_UDP && quoted.dport == here->port &&
	       same_addr(&quoted.src, node);
}

/* The tunnel of a peer that sends to an enrolled pod of this node without wrapping; 0: it is no such packet. */
static __always_inline __u32 native_peer(const struct packet *packet)
{
	struct weft_range key = { .bits = 128, .addr = packet->src };
	struct weft_endpoint *end = bpf_map_lookup_elem(&endpoints, &packet->dst);
	struct weft_tunnel *from;
	struct weft_peer *peer;

	if (!end || !end->ifindex)
		return 0;
	from = bpf_map_lookup_elem(&ranges, &key);
	if (!from)
		return 0;
	peer = bpf_map_lookup_elem(&tunnels, &from->port);
	return peer && peer->native ? from->port : 0;
}

/* Whose packet that is, as of a pod's. */
static __noinline __u16 native_target(struct __sk_buff *skb, const struct packet *packet, __u32 tunnel)
{
	struct weft_flow_value *flow = packet->ports ? pin(packet, tunnel) :
				       packet->error ? quoted_pin(skb, packet, tunnel) :
						       NULL;

	return flow ? flow->owner : source_hash(packet);
}

/* The owner of the flow that the wrapped packet is of, or a hash of its source, as of a pod's. */
static __noinline __u16 wrapped_target(struct __sk_buff *skb, const struct weft_overlay *here,
					const struct packet *outer)
{
	struct weft_tunnel *tunnel = bpf_map_lookup_elem(&peers, &outer->src);
	__u32 offset = outer->payload;
	struct weft_flow_value *flow;
	struct packet inner = {};
	__u8 header, type;
	__be16 ethertype;

	if (!tunnel || bpf_skb_load_bytes(skb, offset, &header, sizeof(header)))
		return 0;
	if (here->encap == WEFT_ENCAP_GENEVE)
		offset += (header & GENEVE_OPTIONS) * 4;
	offset += TUNNEL_HEADER + ETH_HLEN;
	if (bpf_skb_load_bytes(skb, offset - sizeof(ethertype), &ethertype, sizeof(ethertype)))
		return 0;
	if (read_ports(skb, offset, ethertype == bpf_htons(ETH_P_IPV6), &inner)) {
		if (inner.fragment) {
			inner.sport = 0; /* As the later ones. */
			return source_hash(&inner);
		}
		flow = pin(&inner, tunnel->port);
		return flow ? flow->owner : source_hash(&inner);
	}
	if (!inner.fragment && !bpf_skb_load_bytes(skb, inner.l4, &type, sizeof(type))) {
		inner.icmp = inner.l4;
		if (is_error(inner.proto, inner.v6, type)) {
			flow = quoted_pin(skb, &inner, tunnel->port);
			if (flow)
				return flow->owner;
		}
	}
	return source_hash(&inner);
}

#endif /* WEFT_UPLINK_H */
