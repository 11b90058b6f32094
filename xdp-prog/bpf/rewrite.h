/* SPDX-License-Identifier: Apache-2.0 */
/* Another address, port and TTL, with the checksums that go with them. */
#ifndef WEFT_REWRITE_H
#define WEFT_REWRITE_H

#include "choice.h"
#include "parse.h"

/* RFC 1624, equation 3, for the header's words from TTL on. */
static __always_inline __sum16 header_sum(__sum16 sum, const __be32 *old, const __be32 *new, int words)
{
	__s64 diff = bpf_csum_diff((__be32 *)old, words * 4, (__be32 *)new, words * 4,
				   ~(__u32)sum & 0xffff);
	__u32 folded = (__u32)diff;

	folded = (folded & 0xffff) + (folded >> 16);
	folded = (folded & 0xffff) + (folded >> 16);
	return ~folded;
}

static __always_inline __u32 sum_at(const struct packet *packet)
{
	return packet->l4 + (packet->proto == IPPROTO_TCP ? __builtin_offsetof(struct tcphdr, check) :
							   __builtin_offsetof(struct udphdr, check));
}

/* Everything but the address and TTL: ports and the transport checksum. */
static __always_inline bool rewrite_l4(struct __sk_buff *skb, const struct packet *packet,
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
	if (port == way->port)
		return true;
	return !bpf_l4_csum_replace(skb, at, port, way->port, udp | 2) &&
	       !bpf_skb_store_bytes(skb, packet->l4 + (to ? 2 : 0), &way->port, sizeof(way->port), 0);
}

/* Bytes 8 to 19 of an IPv4 header: TTL, protocol, checksum, source, destination. */
struct ip4_tail {
	__u8 ttl;
	__u8 protocol;
	__sum16 check;
	__be32 saddr;
	__be32 daddr;
};

static __always_inline bool rewrite_ip4(struct __sk_buff *skb, const struct way *way)
{
	const __u32 at = ETH_HLEN + 8;
	union {
		struct ip4_tail fields;
		__be32 words[3];
	} old, new;

	if (bpf_skb_load_bytes(skb, at, &old, sizeof(old)))
		return false;
	new = old;
	new.fields.ttl--;
	if (way->mode == WEFT_MODE_TO_BACKEND)
		new.fields.daddr = way->addr.words[3];
	else if (way->mode == WEFT_MODE_FROM_BACKEND)
		new.fields.saddr = way->addr.words[3];
	/* The sum itself is no part of what is summed up. */
	old.fields.check = 0;
	__sum16 sum = new.fields.check;
	new.fields.check = 0;
	new.fields.check = header_sum(sum, old.words, new.words, 3);
	return !bpf_skb_store_bytes(skb, at, &new, sizeof(new), 0);
}

static __always_inline bool rewrite_ip6(struct __sk_buff *skb, const struct packet *packet,
					const struct way *way)
{
	const __u32 hops = ETH_HLEN + __builtin_offsetof(struct ipv6hdr, hop_limit);
	__u8 left = packet->hops - 1;

	if (bpf_skb_store_bytes(skb, hops, &left, 1, 0))
		return false;
	if (way->mode == WEFT_MODE_TO_BACKEND)
		return !bpf_skb_store_bytes(skb, ETH_HLEN + __builtin_offsetof(struct ipv6hdr, daddr),
					    &way->addr, 16, 0);
	if (way->mode == WEFT_MODE_FROM_BACKEND)
		return !bpf_skb_store_bytes(skb, ETH_HLEN + __builtin_offsetof(struct ipv6hdr, saddr),
					    &way->addr, 16, 0);
	return true;
}

#endif /* WEFT_REWRITE_H */
