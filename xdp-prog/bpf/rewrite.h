/* SPDX-License-Identifier: Apache-2.0 */
/* Another address, port and TTL, with the checksums that go with them. */
#ifndef WEFT_REWRITE_H
#define WEFT_REWRITE_H

#include <bpf/bpf_core_read.h>

#include "choice.h"
#include "parse.h"

/* What this needs of the kernel's own. */
struct sk_buff {
	__u8 ip_summed : 2;
} __attribute__((preserve_access_index));

void *bpf_cast_to_kern_ctx(void *skb) __ksym;

/*
 * CHECKSUM_PARTIAL of ip_summed (include/linux/skbuff.h). What a pod sends has nothing but this and whole sums: that a device
 * has summed up what it forwards is forgotten on the way (skb_forward_csum()).
 */
#define SUM_TO_DO 3

/* The ones' complement difference of two words, to be added to a sum (RFC 1624, equation 3). */
static __always_inline __u64 difference(__u32 old, __u32 new)
{
	return (__u64)(__u32)~old + new;
}

/* Ones' complement sum in 16 bits (RFC 1071). */
static __always_inline __u16 folded(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

/*
 * The transport checksum after another address and port: of the pseudo header alone where the rest is left to whoever sends it
 * on. A datagram without one stays so (RFC 768).
 */
static __always_inline void rewrite_sum(struct __sk_buff *skb, const struct packet *packet,
					const struct way *way, __sum16 *check)
{
	const struct sk_buff *kernel = bpf_cast_to_kern_ctx(skb);
	bool to = way->mode == WEFT_MODE_TO_BACKEND, udp = packet->proto == IPPROTO_UDP;
	const struct weft_addr *old = to ? &packet->dst : &packet->src;
	__u64 sum = difference(old->words[3], way->addr.words[3]);

	if (packet->v6)
		sum += difference(old->words[0], way->addr.words[0]) +
		       difference(old->words[1], way->addr.words[1]) +
		       difference(old->words[2], way->addr.words[2]);
	if (BPF_CORE_READ_BITFIELD(kernel, ip_summed) == SUM_TO_DO) {
		*check = folded(sum + *check);
		return;
	}
	if (udp && !*check)
		return;
	sum += difference(to ? packet->dport : packet->sport, way->port);
	*check = ~folded(sum + (__u16)~*check);
	if (udp && !*check)
		*check = 0xffff;
}

/* What stands behind the IP header: ports first, in TCP and in UDP. */
static __always_inline bool rewrite_l4(struct __sk_buff *skb, const struct packet *packet,
				       const struct way *way, void *l4)
{
	void *end = (void *)(long)skb->data_end;
	struct tcphdr *tcp = l4;
	struct udphdr *udp = l4;
	__be16 *ports = l4;

	if ((void *)(udp + 1) > end)
		return false;
	if (way->mode == WEFT_MODE_PLAIN)
		return true;
	if (packet->proto == IPPROTO_UDP)
		rewrite_sum(skb, packet, way, &udp->check);
	else if ((void *)(tcp + 1) > end)
		return false;
	else
		rewrite_sum(skb, packet, way, &tcp->check);
	ports[way->mode == WEFT_MODE_TO_BACKEND] = way->port;
	return true;
}

/* Hops, address and ports. */
static __always_inline bool rewrite_ip4(struct __sk_buff *skb, const struct packet *packet,
					const struct way *way)
{
	struct iphdr *ip = (void *)(long)skb->data + ETH_HLEN;
	__be16 *hops, before;
	__u64 sum;

	if (!rewrite_l4(skb, packet, way, ip + 1))
		return false;
	hops = (__be16 *)&ip->ttl; /* and the protocol */
	before = *hops;
	ip->ttl--;
	sum = (__u16)~ip->check + difference(before, *hops);
	if (way->mode == WEFT_MODE_TO_BACKEND) {
		sum += difference(ip->daddr, way->addr.words[3]);
		ip->daddr = way->addr.words[3];
	} else if (way->mode == WEFT_MODE_FROM_BACKEND) {
		sum += difference(ip->saddr, way->addr.words[3]);
		ip->saddr = way->addr.words[3];
	}
	ip->check = ~folded(sum);
	return true;
}

static __always_inline bool rewrite_ip6(struct __sk_buff *skb, const struct packet *packet,
					const struct way *way)
{
	struct ipv6hdr *ip = (void *)(long)skb->data + ETH_HLEN;

	if (!rewrite_l4(skb, packet, way, ip + 1))
		return false;
	ip->hop_limit--;
	if (way->mode == WEFT_MODE_TO_BACKEND)
		__builtin_memcpy(&ip->daddr, &way->addr, sizeof(ip->daddr));
	else if (way->mode == WEFT_MODE_FROM_BACKEND)
		__builtin_memcpy(&ip->saddr, &way->addr, sizeof(ip->saddr));
	return true;
}

/* Everything that the way says of the packet, whose headers are plain ones. */
static __always_inline bool rewrite(struct __sk_buff *skb, const struct packet *packet,
				    const struct way *way)
{
	return packet->v6 ? rewrite_ip6(skb, packet, way) : rewrite_ip4(skb, packet, way);
}

#endif /* WEFT_REWRITE_H */
