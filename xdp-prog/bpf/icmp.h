/* SPDX-License-Identifier: Apache-2.0 */
/* ICMP errors: whose packet they quote. Read with a helper, since errors are rare and seldom linear. */
#ifndef WEFT_ICMP_H
#define WEFT_ICMP_H

#include "maps.h"
#include "parse.h"

#define ICMP_HEADER 8
#define IP4_OFFSET 0x1fff /* of a fragment (RFC 791, 3.1) */
#define IP6_OFFSET 0xfff8 /* the same (RFC 8200, 4.5) */

/*
 * The packet whose IP header begins at `offset`, as far as its ports; false if it has none, and `found` says what it is
 * all the same. The engine judges the rest.
 */
static __noinline bool read_ports(struct __sk_buff *skb, __u32 offset, bool v6, struct packet *found)
{
	__be16 ports[2];

	found->v6 = v6;
	if (v6) {
		struct ipv6hdr ip;

		if (bpf_skb_load_bytes(skb, offset, &ip, sizeof(ip)) || ip.version != 6)
			return false;
		__builtin_memcpy(&found->src, &ip.saddr, sizeof(found->src));
		__builtin_memcpy(&found->dst, &ip.daddr, sizeof(found->dst));
		found->proto = ip.nexthdr;
		offset += sizeof(ip);
		if (skip_extensions(skb, found, &offset, skb->len) != PARSE_OK)
			return false;
		if (found->proto == IPPROTO_FRAGMENT) {
			__u8 header[8];

			if (bpf_skb_load_bytes(skb, offset, header, sizeof(header)))
				return false;
			found->proto = header[0];
			found->fragment = 1;
			if ((header[2] << 8 | header[3]) & IP6_OFFSET)
				return false;
			offset += sizeof(header);
		}
	} else {
		struct iphdr ip;

		if (bpf_skb_load_bytes(skb, offset, &ip, sizeof(ip)) || ip.version != 4)
			return false;
		found->src.words[2] = IP4_MAPPED;
		found->src.words[3] = ip.saddr;
		found->dst.words[2] = IP4_MAPPED;
		found->dst.words[3] = ip.daddr;
		found->proto = ip.protocol;
		found->fragment = !!(ip.frag_off & bpf_htons(IP4_FRAGMENT));
		if (ip.frag_off & bpf_htons(IP4_OFFSET))
			return false;
		offset += ip.ihl * 4;
	}
	found->l4 = offset;
	if (found->proto != IPPROTO_TCP && found->proto != IPPROTO_UDP)
		return false;
	if (bpf_skb_load_bytes(skb, offset, ports, sizeof(ports)))
		return false;
	found->sport = ports[0];
	found->dport = ports[1];
	return true;
}

/* The owner entry of the flow that an ICMP error goes with: against the quoted packet. */
static __always_inline struct weft_flow_value *quoted_pin(struct __sk_buff *skb,
							  const struct packet *error,
							  __u32 ifindex)
{
	struct packet quoted = {};
	struct weft_flow_key key = { .ifindex = ifindex };

	if (!read_ports(skb, error->icmp + ICMP_HEADER, error->v6, &quoted))
		return NULL;
	key.src = quoted.dst;
	key.dst = quoted.src;
	key.sport = quoted.dport;
	key.dport = quoted.sport;
	key.proto = quoted.proto;
	return bpf_map_lookup_elem(&pins, &key);
}

#endif /* WEFT_ICMP_H */
