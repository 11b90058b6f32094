/* SPDX-License-Identifier: Apache-2.0 */
/* Another address, port and TTL, with the checksums that go with them. */
#ifndef WEFT_REWRITE_H
#define WEFT_REWRITE_H

#include "choice.h"
#include "parse.h"

static __always_inline __u32 sum_at(const struct packet *packet)
{
	return packet->l4 + (packet->proto == IPPROTO_TCP ? __builtin_offsetof(struct tcphdr, check) :
							   __builtin_offsetof(struct udphdr, check));
}

/* The transport checksum, for another address and port. Whether it is a whole one is the helper's to know. */
static __always_inline bool rewrite_sum(struct __sk_buff *skb, const struct packet *packet,
					const struct way *way)
{
	bool to = way->mode == WEFT_MODE_TO_BACKEND;
	const struct weft_addr *old = to ? &packet->dst : &packet->src;
	__be16 port = to ? packet->dport : packet->sport;
	__u64 udp = packet->proto == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;
	__u32 at = sum_at(packet);

	if (packet->v6) {
		__s64 diff = bpf_csum_diff((__be32 *)old->words, 16, (__be32 *)way->addr.words, 16, 0);

		if (bpf_l4_csum_replace(skb, at, 0, diff, BPF_F_PSEUDO_HDR | udp))
			return false;
	} else if (bpf_l4_csum_replace(skb, at, old->words[3], way->addr.words[3],
				       BPF_F_PSEUDO_HDR | udp | 4)) {
		return false;
	}
	return port == way->port || !bpf_l4_csum_replace(skb, at, port, way->port, udp | 2);
}

/* The 16-bit ones' complement sum of two halves' difference (RFC 1624, equation 3). */
static __always_inline __u32 difference(__be32 old, __be32 new)
{
	return (~old & 0xffff) + (~old >> 16) + (new & 0xffff) + (new >> 16);
}

static __always_inline void rewrite_ports(__be16 *ports, const struct way *way)
{
	if (way->mode == WEFT_MODE_TO_BACKEND)
		ports[1] = way->port;
	else if (way->mode == WEFT_MODE_FROM_BACKEND)
		ports[0] = way->port;
}

/* Hops, address and ports. */
static __always_inline bool rewrite_ip4(struct __sk_buff *skb, const struct way *way)
{
	struct iphdr *ip = (void *)(long)skb->data + ETH_HLEN;
	__be16 *ports = (void *)(ip + 1), *hops, before;
	__u32 sum;

	if ((void *)(ports + 2) > (void *)(long)skb->data_end)
		return false;
	hops = (__be16 *)&ip->ttl; /* and the protocol */
	before = *hops;
	ip->ttl--;
	sum = (__u16)~ip->check + (__u16)~before + *hops;
	if (way->mode == WEFT_MODE_TO_BACKEND) {
		sum += difference(ip->daddr, way->addr.words[3]);
		ip->daddr = way->addr.words[3];
	} else if (way->mode == WEFT_MODE_FROM_BACKEND) {
		sum += difference(ip->saddr, way->addr.words[3]);
		ip->saddr = way->addr.words[3];
	}
	sum = (sum & 0xffff) + (sum >> 16);
	sum += sum >> 16;
	ip->check = ~sum;
	rewrite_ports(ports, way);
	return true;
}

static __always_inline bool rewrite_ip6(struct __sk_buff *skb, const struct way *way)
{
	struct ipv6hdr *ip = (void *)(long)skb->data + ETH_HLEN;
	__be16 *ports = (void *)(ip + 1);

	if ((void *)(ports + 2) > (void *)(long)skb->data_end)
		return false;
	ip->hop_limit--;
	if (way->mode == WEFT_MODE_TO_BACKEND)
		__builtin_memcpy(&ip->daddr, &way->addr, sizeof(ip->daddr));
	else if (way->mode == WEFT_MODE_FROM_BACKEND)
		__builtin_memcpy(&ip->saddr, &way->addr, sizeof(ip->saddr));
	rewrite_ports(ports, way);
	return true;
}

/* Everything that the way says of the packet, whose headers are plain ones. */
static __always_inline bool rewrite(struct __sk_buff *skb, const struct packet *packet,
				    const struct way *way)
{
	if (way->mode != WEFT_MODE_PLAIN && !rewrite_sum(skb, packet, way))
		return false;
	return packet->v6 ? rewrite_ip6(skb, way) : rewrite_ip4(skb, way);
}

#endif /* WEFT_REWRITE_H */
