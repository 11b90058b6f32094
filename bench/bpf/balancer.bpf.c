// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
// What a good eBPF dataplane does, and no more: a per-packet load balancer at the tcx ingress of every pod's
// veth. A known flow costs one lookup, the rewrite and bpf_redirect_peer; a new one a service lookup, a random
// backend and one entry for each direction in an LRU hash. Nothing of it passes netfilter or conntrack.
//
// Not here, because no measured packet needs it: fragments, IP options and extension headers, ICMP, backends
// that are not local pods, a pod that reaches itself, and two services whose replies would share a tuple.
// All of these are the kernel's, but the last: there the later flow takes the reply entry over.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <stdbool.h>
#include <stddef.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

// Entries: two a flow, so as many flows as nf_conntrack_max and Weft's max_flows allow by default.
#define FLOW_ENTRIES (2 * 262144)
#define SERVICES 65536
#define BACKENDS 131072

#define IP4_FRAGMENT 0x3fff // more-fragments bit and offset (RFC 791, 3.1)

// A service's backends are `count` entries of the array from `first` on.
struct service {
	__u32 first, count;
};

// Flows opened since the program was loaded. Only the first packet of a flow counts here.
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} opened SEC(".maps");

// What both families' headers of layer 4 have in common.
struct l4 {
	__u32 offset; // of the header
	__u32 checksum; // of its checksum
	__u64 flags; // for bpf_l4_csum_replace
	__u8 proto;
	bool opens; // may be the first packet of a flow
};

static __always_inline __u16 fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

// Makes `need` bytes readable directly. False: the frame is shorter than that.
static __always_inline bool readable(struct __sk_buff *skb, __u32 need)
{
	if ((void *)(long)skb->data + need > (void *)(long)skb->data_end && bpf_skb_pull_data(skb, need))
		return false;
	barrier(); // Callers load the pointers anew; merged from two ways, they would be plain numbers.
	return true;
}

// False: neither TCP nor UDP. The ports are readable afterwards; a TCP header's flags too.
static __always_inline bool read_l4(struct __sk_buff *skb, struct l4 *l4)
{
	if (l4->proto == IPPROTO_UDP) {
		l4->checksum = l4->offset + offsetof(struct udphdr, check);
		l4->flags = BPF_F_MARK_MANGLED_0;
		l4->opens = true;
		return readable(skb, l4->offset + sizeof(struct udphdr));
	}
	if (l4->proto != IPPROTO_TCP || !readable(skb, l4->offset + sizeof(struct tcphdr)))
		return false;
	struct tcphdr *tcp = (void *)(long)skb->data + l4->offset;

	if ((void *)(tcp + 1) > (void *)(long)skb->data_end)
		return false;
	l4->checksum = l4->offset + offsetof(struct tcphdr, check);
	l4->flags = 0;
	l4->opens = tcp->syn && !tcp->ack;
	return true;
}

static __always_inline void count_opened(void)
{
	__u32 zero = 0;
	__u64 *count = bpf_map_lookup_elem(&opened, &zero);

	if (count)
		*count += 1;
}

#define PASTE(name, family) name##family
#define EXPAND(name, family) PASTE(name, family)
#define OF_FAMILY(name) EXPAND(name, FAMILY)

#define FAMILY 4
#include "balancer_family.h"
#undef FAMILY

#define FAMILY 6
#include "balancer_family.h"
#undef FAMILY

SEC("tcx/ingress")
int balance(struct __sk_buff *skb)
{
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return balance4(skb);
	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		return balance6(skb);
	return TC_ACT_UNSPEC;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
