/* SPDX-License-Identifier: Apache-2.0 */
/* Reads a frame's headers once, into a struct that cannot be half filled. */
#ifndef WEFT_PARSE_H
#define WEFT_PARSE_H

#include "weft.h"

#define IP4_FRAGMENT 0x3fff /* more-fragments bit and offset (RFC 791, 3.1) */
#define IP6_FRAGMENT 44 /* next header (RFC 8200, 4.5) */
#define IP6_FRAGMENT_LEN 8
#define IP4_MAPPED bpf_htonl(0xffff)

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04

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
	__u8 error; /* an ICMP error that quotes a packet, and not a fragment */
	__u8 opens; /* a TCP SYN without ACK */
	__u8 control; /* TCP: the control bits */
	__u8 hops; /* TTL or hop limit */
	__u8 odd; /* its layer 4 header contradicts its length */
	__u8 vip; /* from a pod to a service's address: filled in by the steering */
	__be16 segment; /* TCP with SYN: the largest segment that it asks for, if that is its first option; else 0 */
	__u32 icmp; /* with `error`: where the ICMP header begins */
	__u32 l4; /* with `ports`: where the layer 4 header begins, */
	__u32 payload; /* where what it carries begins, as far as it says, */
	__u32 end; /* and where the packet ends, without padding */
};

/* Makes `need` bytes readable directly. False: the frame is shorter than that. */
static __always_inline bool readable(struct __sk_buff *skb, __u32 need)
{
	if ((void *)(long)skb->data + need <= (void *)(long)skb->data_end)
		return true;
	return need <= skb->len && !bpf_skb_pull_data(skb, need);
}

#define TCP_FIRST_OPTION sizeof(struct tcphdr)
#define TCP_MSS bpf_htons(0x0204) /* kind and length (RFC 9293, 3.2) */

/* The largest segment that the SYN at `offset` asks for. Every stack says so first. */
static __always_inline __be16 asked_segment(struct __sk_buff *skb, __u32 offset)
{
	__be16 option[2];

	if (bpf_skb_load_bytes(skb, offset + TCP_FIRST_OPTION, option, sizeof(option)) || option[0] != TCP_MSS)
		return 0;
	return option[1];
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
	l4 = data + (offset & 0x1ff); /* At most 64 + 40 + 256; the mask is for the verifier. */
	if (packet->proto == IPPROTO_TCP) {
		struct tcphdr *tcp = l4;

		if ((void *)(tcp + 1) > end)
			return PARSE_MALFORMED;
		packet->sport = tcp->source;
		packet->dport = tcp->dest;
		packet->opens = tcp->syn && !tcp->ack;
		packet->control = ((__u8 *)tcp)[13];
		header = tcp->doff * 4;
		packet->odd = header < sizeof(*tcp) || offset + header > l3_end;
		if (packet->control & TCP_SYN && header > sizeof(*tcp))
			packet->segment = asked_segment(skb, offset);
	} else {
		struct udphdr *udp = l4;

		if ((void *)(udp + 1) > end)
			return PARSE_MALFORMED;
		__u32 length = bpf_ntohs(udp->len);

		packet->sport = udp->source;
		packet->dport = udp->dest;
		packet->odd = !skb->gso_size && (length < header || offset + length > l3_end);
	}
	packet->ports = 1;
	packet->l4 = offset;
	packet->payload = offset + header;
	packet->end = l3_end;
	return PARSE_OK;
}

/* Whether it is one of the ICMP errors that the engine translates (icmp.rs says why these). */
static __always_inline bool is_error(__u8 proto, bool v6, __u8 type)
{
	if (v6)
		return proto == IPPROTO_ICMPV6 && type >= 1 && type <= 4;
	return proto == IPPROTO_ICMP && (type == 3 || type == 11 || type == 12);
}

/*
 * Whether it is one of the errors that the engine translates. What is too short to be
 * ICMP goes by its address, as every other protocol.
 */
static __always_inline void parse_icmp(struct __sk_buff *skb, struct packet *packet, __u32 offset,
				       __u32 l3_end)
{
	__u8 type;

	if (offset + 8 > l3_end || bpf_skb_load_bytes(skb, offset, &type, sizeof(type)))
		return;
	packet->icmp = offset;
	packet->error = is_error(packet->proto, packet->v6, type);
}

/* The packet whose IP header begins at `base`, a constant: behind a frame's own Ethernet header, or a wrapped one's. */
static __always_inline enum parse_result parse_ip4(struct __sk_buff *skb, struct packet *packet, __u32 base)
{
	struct iphdr *ip;
	__u32 header, total;
	bool fragment;

	if (!readable(skb, base + sizeof(*ip)))
		return PARSE_MALFORMED;
	ip = (void *)(long)skb->data + base;
	if ((void *)(ip + 1) > (void *)(long)skb->data_end)
		return PARSE_MALFORMED;
	header = ip->ihl * 4;
	total = bpf_ntohs(ip->tot_len);
	/* A GSO packet above 64 KiB (BIG TCP) has no room for its length in the header. */
	if (!total && skb->gso_size)
		total = skb->len - base;
	if (ip->version != 4 || header < sizeof(*ip) || total < header || base + total > skb->len)
		return PARSE_MALFORMED;
	packet->src.words[2] = IP4_MAPPED;
	packet->src.words[3] = ip->saddr;
	packet->dst.words[2] = IP4_MAPPED;
	packet->dst.words[3] = ip->daddr;
	packet->proto = ip->protocol;
	packet->hops = ip->ttl;
	fragment = ip->frag_off & bpf_htons(IP4_FRAGMENT);
	if (packet->proto == IPPROTO_ICMP && !fragment)
		parse_icmp(skb, packet, base + header, base + total);
	if (packet->proto != IPPROTO_TCP && packet->proto != IPPROTO_UDP)
		return PARSE_OK;
	packet->fragment = fragment;
	if (fragment)
		return PARSE_OK;
	return parse_ports(skb, packet, base + header, base + total);
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

static __always_inline bool is_followed(__u8 next)
{
	return next == IPPROTO_HOPOPTS || next == IPPROTO_ROUTING || next == IPPROTO_DSTOPTS;
}

/*
 * Walks from `offset` over the extension headers that may stand before the ports, as the engine does:
 * src/extension.rs says where it stops. What it does not follow stays `packet->proto`, so that packet
 * has no ports and goes by its address.
 */
static __always_inline enum parse_result skip_extensions(struct __sk_buff *skb,
							 struct packet *packet, __u32 *offset,
							 __u32 l3_end)
{
	__u32 start = *offset;

	for (int i = 0; i < WEFT_IP6_EXTENSIONS_MAX; i++) {
		__u8 header[4]; /* Next header, length, and in a routing header type and segments left. */
		__u32 next;

		if (!is_followed(packet->proto) || (packet->proto == IPPROTO_HOPOPTS && i))
			return PARSE_OK;
		if (*offset + 8 > l3_end || bpf_skb_load_bytes(skb, *offset, header, sizeof(header)))
			return PARSE_MALFORMED;
		next = *offset + 8 + header[1] * 8;
		if (next > l3_end)
			return PARSE_MALFORMED;
		if ((packet->proto == IPPROTO_ROUTING && header[3]) ||
		    next - start > WEFT_IP6_EXTENSION_BYTES_MAX)
			return PARSE_OK;
		packet->proto = header[0];
		*offset = next;
	}
	return PARSE_OK;
}

static __always_inline enum parse_result parse_ip6(struct __sk_buff *skb, struct packet *packet, __u32 base)
{
	__u32 offset = base + sizeof(struct ipv6hdr), end;
	struct ipv6hdr *ip;

	if (!readable(skb, base + sizeof(*ip)))
		return PARSE_MALFORMED;
	ip = (void *)(long)skb->data + base;
	if ((void *)(ip + 1) > (void *)(long)skb->data_end)
		return PARSE_MALFORMED;
	end = base + sizeof(*ip) + bpf_ntohs(ip->payload_len);
	if (!ip->payload_len && skb->gso_size)
		end = skb->len;
	if (ip->version != 6 || end > skb->len)
		return PARSE_MALFORMED;
	__builtin_memcpy(&packet->src, &ip->saddr, sizeof(packet->src));
	__builtin_memcpy(&packet->dst, &ip->daddr, sizeof(packet->dst));
	packet->proto = ip->nexthdr;
	packet->hops = ip->hop_limit;
	packet->v6 = 1;
	if (is_followed(packet->proto) &&
	    skip_extensions(skb, packet, &offset, end) == PARSE_MALFORMED)
		return PARSE_MALFORMED;
	if (packet->proto == IP6_FRAGMENT)
		return parse_ip6_fragment(skb, packet, offset, end);
	if (packet->proto == IPPROTO_ICMPV6)
		parse_icmp(skb, packet, offset, end);
	if (packet->proto != IPPROTO_TCP && packet->proto != IPPROTO_UDP)
		return PARSE_OK;
	return parse_ports(skb, packet, offset, end);
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

/*
 * `packet` is zeroed by the caller and complete only with PARSE_OK. Global, so that the verifier looks at what follows once, and
 * not for all that a packet may be.
 */
__noinline int parse(struct __sk_buff *skb, struct packet *packet)
{
	if (!packet || skb->vlan_present)
		return PARSE_NOT_IP;
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return parse_ip4(skb, packet, ETH_HLEN);
	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		return parse_ip6(skb, packet, ETH_HLEN);
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
