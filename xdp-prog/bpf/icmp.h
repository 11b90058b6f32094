/* SPDX-License-Identifier: Apache-2.0 */
/* ICMP errors: whose packet they quote. Read with a helper, since errors are rare and seldom linear. */
#ifndef WEFT_ICMP_H
#define WEFT_ICMP_H

#include "maps.h"
#include "parse.h"

#define ICMP_HEADER 8
#define IP4_OFFSET 0x1fff /* of a fragment (RFC 791, 3.1) */
#define IP6_OFFSET 0xfff8 /* the same (RFC 8200, 4.5) */

/* The quoted packet as far as its ports; false if it has none. The engine judges the rest. */
static __always_inline bool parse_quoted(struct __sk_buff *skb, const struct packet *error,
					 struct packet *quoted)
{
	__u32 offset = error->icmp + ICMP_HEADER;
	__be16 ports[2];

	if (error->v6) {
		struct ipv6hdr ip;

		if (bpf_skb_load_bytes(skb, offset, &ip, sizeof(ip)) || ip.version != 6)
			return false;
		__builtin_memcpy(&quoted->src, &ip.saddr, sizeof(quoted->src));
		__builtin_memcpy(&quoted->dst, &ip.daddr, sizeof(quoted->dst));
		quoted->proto = ip.nexthdr;
		offset += sizeof(ip);
		if (skip_extensions(skb, quoted, &offset, skb->len) != PARSE_OK)
			return false;
		if (quoted->proto == IPPROTO_FRAGMENT) {
			__u8 header[8];

			if (bpf_skb_load_bytes(skb, offset, header, sizeof(header)) ||
			    ((header[2] << 8 | header[3]) & IP6_OFFSET))
				return false;
			quoted->proto = header[0];
			offset += sizeof(header);
		}
	} else {
		struct iphdr ip;

		if (bpf_skb_load_bytes(skb, offset, &ip, sizeof(ip)) || ip.version != 4 ||
		    (ip.frag_off & bpf_htons(IP4_OFFSET)))
			return false;
		quoted->src.words[2] = IP4_MAPPED;
		quoted->src.words[3] = ip.saddr;
		quoted->dst.words[2] = IP4_MAPPED;
		quoted->dst.words[3] = ip.daddr;
		quoted->proto = ip.protocol;
		offset += ip.ihl * 4;
	}
	if (quoted->proto != IPPROTO_TCP && quoted->proto != IPPROTO_UDP)
		return false;
	if (bpf_skb_load_bytes(skb, offset, ports, sizeof(ports)))
		return false;
	quoted->sport = ports[0];
	quoted->dport = ports[1];
	return true;
}

/* The owner entry of the flow that an ICMP error goes with: against the quoted packet. */
static __always_inline struct weft_flow_value *quoted_pin(struct __sk_buff *skb,
							  const struct packet *error,
							  __u32 ifindex)
{
	struct packet quoted = {};
	struct weft_flow_key key = { .ifindex = ifindex };

	if (!parse_quoted(skb, error, &quoted))
		return NULL;
	key.src = quoted.dst;
	key.dst = quoted.src;
	key.sport = quoted.dport;
	key.dport = quoted.sport;
	key.proto = quoted.proto;
	return bpf_map_lookup_elem(&pins, &key);
}

#endif /* WEFT_ICMP_H */
