/* SPDX-License-Identifier: Apache-2.0 */
/* Reads a frame's headers once, into a struct that cannot be half filled. */
#ifndef WEFT_PARSE_H
#define WEFT_PARSE_H

#include "weft.h"

#define IP4_FRAGMENT 0x3fff /* more-fragments bit and offset (RFC 791, 3.1) */
#define IP6_FRAGMENT 44 /* next header (RFC 8200, 4.5) */
#define IP6_FRAGMENT_LEN 8
#define IP4_MAPPED bpf_htonl(0xffff)

enum parse_result {
	PARSE_OK,
	PARSE_NOT_IP, /* the kernel's: ARP, VLAN-tagged frames and all else */
	PARSE_MALFORMED,
};

struct packet {
	struct weft_addr src;
	struct weft_addr dst;
	__be16 sport; /* both 0 unless `ports` */
	__be16 dport;
	__u8 proto; /* IPv4 protocol or IPv6 next header */
	__u8 v6;
	__u8 ports; /* TCP or UDP, and not a fragment */
	__u8 fragment; /* of TCP or UDP, first or later */
	__u32 payload; /* where the layer 4 payload begins; of use for GSO packets only */
};

/* Makes `need` bytes readable directly. False: the frame is shorter than that. */
static __always_inline bool readable(struct __sk_buff *skb, __u32 need)
{
	if ((void *)(long)skb->data + need <= (void *)(long)skb->data_end)
		return true;
	return need <= skb->len && !bpf_skb_pull_data(skb, need);
}

static __always_inline enum parse_result parse_ports(struct __sk_buff *skb, struct packet *packet,
						     __u32 offset, __u32 l3_end)
{
	__u32 header = packet->proto == IPPROTO_TCP ? sizeof(struct tcphdr) : sizeof(struct udphdr);
	void *data, *end, *l4;

	if (offset + header > l3_end || !readable(skb, offset + header))
		return PARSE_MALFORMED;
	data = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	l4 = data + (offset & 0x7f); /* At most 14 + 60; the mask is for the verifier. */
	if (packet->proto == IPPROTO_TCP) {
		struct tcphdr *tcp = l4;

		if ((void *)(tcp + 1) > end)
			return PARSE_MALFORMED;
		packet->sport = tcp->source;
		packet->dport = tcp->dest;
		header = tcp->doff * 4;
	} else {
		struct udphdr *udp = l4;

		if ((void *)(udp + 1) > end)
			return PARSE_MALFORMED;
		packet->sport = udp->source;
		packet->dport = udp->dest;
	}
	packet->ports = 1;
	packet->payload = offset + header;
	return PARSE_OK;
}

static __always_inline enum parse_result parse_ip4(struct __sk_buff *skb, struct packet *packet)
{
	struct iphdr *ip;
	__u32 header, total;

	if (!readable(skb, ETH_HLEN + sizeof(*ip)))
		return PARSE_MALFORMED;
	ip = (void *)(long)skb->data + ETH_HLEN;
	if ((void *)(ip + 1) > (void *)(long)skb->data_end)
		return PARSE_MALFORMED;
	header = ip->ihl * 4;
	total = bpf_ntohs(ip->tot_len);
	/* A GSO packet above 64 KiB (BIG TCP) has no room for its length in the header. */
	if (!total && skb->gso_size)
		total = skb->len - ETH_HLEN;
	if (ip->version != 4 || header < sizeof(*ip) || total < header || ETH_HLEN + total > skb->len)
		return PARSE_MALFORMED;
	packet->src.words[2] = IP4_MAPPED;
	packet->src.words[3] = ip->saddr;
	packet->dst.words[2] = IP4_MAPPED;
	packet->dst.words[3] = ip->daddr;
	packet->proto = ip->protocol;
	if (packet->proto != IPPROTO_TCP && packet->proto != IPPROTO_UDP)
		return PARSE_OK;
	packet->fragment = !!(ip->frag_off & bpf_htons(IP4_FRAGMENT));
	if (packet->fragment)
		return PARSE_OK;
	return parse_ports(skb, packet, ETH_HLEN + header, ETH_HLEN + total);
}

/* The fragment header at `offset` says what it is a fragment of. Only the first one has ports, so all
 * go without. Neighbour discovery is never fragmented (RFC 6980), so it is not looked for. */
static __always_inline enum parse_result parse_ip6_fragment(struct __sk_buff *skb,
							    struct packet *packet, __u32 offset,
							    __u32 l3_end)
{
	__u8 next;

	if (offset + IP6_FRAGMENT_LEN > l3_end || bpf_skb_load_bytes(skb, offset, &next, 1))
		return PARSE_MALFORMED;
	if (next == IPPROTO_TCP || next == IPPROTO_UDP) {
		packet->proto = next;
		packet->fragment = 1;
	}
	return PARSE_OK;
}

/* Other extension headers are not followed: such packets have no ports here and go by their address. */
static __always_inline enum parse_result parse_ip6(struct __sk_buff *skb, struct packet *packet)
{
	struct ipv6hdr *ip;
	__u32 end;

	if (!readable(skb, ETH_HLEN + sizeof(*ip)))
		return PARSE_MALFORMED;
	ip = (void *)(long)skb->data + ETH_HLEN;
	if ((void *)(ip + 1) > (void *)(long)skb->data_end)
		return PARSE_MALFORMED;
	end = ETH_HLEN + sizeof(*ip) + bpf_ntohs(ip->payload_len);
	if (!ip->payload_len && skb->gso_size)
		end = skb->len;
	if (ip->version != 6 || end > skb->len)
		return PARSE_MALFORMED;
	__builtin_memcpy(&packet->src, &ip->saddr, sizeof(packet->src));
	__builtin_memcpy(&packet->dst, &ip->daddr, sizeof(packet->dst));
	packet->proto = ip->nexthdr;
	packet->v6 = 1;
	if (packet->proto == IP6_FRAGMENT)
		return parse_ip6_fragment(skb, packet, ETH_HLEN + sizeof(*ip), end);
	if (packet->proto != IPPROTO_TCP && packet->proto != IPPROTO_UDP)
		return PARSE_OK;
	return parse_ports(skb, packet, ETH_HLEN + sizeof(*ip), end);
}

#define VLAN_ID 0x0fff
#define PRIORITY_TAGS 4

/*
 * Takes priority tags (VLAN 0, IEEE 802.1Q 9.6) off. The kernel does so after this hook and then sees
 * a plain packet, so one that is tagged must not pass as "not IP". False: more tags than anyone sends.
 */
static __always_inline bool untag(struct __sk_buff *skb)
{
#pragma unroll
	for (int i = 0; i < PRIORITY_TAGS; i++) {
		if (!skb->vlan_present || (skb->vlan_tci & VLAN_ID))
			return true;
		if (bpf_skb_vlan_pop(skb))
			return false;
	}
	return !skb->vlan_present || (skb->vlan_tci & VLAN_ID);
}

/* `packet` is zeroed by the caller and complete only with PARSE_OK. */
static __always_inline enum parse_result parse(struct __sk_buff *skb, struct packet *packet)
{
	if (skb->vlan_present)
		return PARSE_NOT_IP;
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return parse_ip4(skb, packet);
	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		return parse_ip6(skb, packet);
	return PARSE_NOT_IP;
}

/* How many packets the wire would see. `gso_segs` may be unset (0) on packets from outside. */
static __always_inline __u32 segments(struct __sk_buff *skb, const struct packet *packet)
{
	__u32 size = skb->gso_size;

	if (!size)
		return 1;
	if (skb->gso_segs)
		return skb->gso_segs;
	if (skb->len <= packet->payload)
		return 1;
	return (skb->len - packet->payload + size - 1) / size;
}

/* The same for frames that came over the pair, where nobody but GRO has put any together. */
static __always_inline __u32 merged(struct __sk_buff *skb)
{
	__u32 segs = skb->gso_segs;

	return segs ? segs : 1;
}

#endif /* WEFT_PARSE_H */
