// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
// The beginning of a rate measurement over very many flows: of each UDP packet that a marked socket of the pod
// sends, as many leave as make a batch, each with the ports of its own flow. They leave as the segments of one
// large send do, so a packet costs the generator what it costs there, not a system call of its own.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define GENERATORS 64
#define BATCH 64 // BATCH of flows.rs

struct plan {
	__u32 flows, ports;
	__u32 source, target; // the first ports, in host order
};

// Numbers of packets to send: next, and the one after the last.
struct run {
	__u32 next, end;
};

// Index 0, written by user space before the program is attached.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct plan);
} spread_plan SEC(".maps");

// By mark - 1: one a generator, which is on one core.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, GENERATORS);
	__type(key, __u32);
	__type(value, struct run);
} spread_runs SEC(".maps");

// Plan::ports_of of flows.rs. The checksum is the device's to complete, so it does not have the ports yet.
static __always_inline void set_ports(struct __sk_buff *skb, __u32 l4, const struct plan *plan, __u32 number)
{
	__u32 flow = number % plan->flows;
	__be16 ports[2] = {
		bpf_htons(plan->source + flow / plan->ports),
		bpf_htons(plan->target + flow % plan->ports),
	};

	bpf_skb_store_bytes(skb, l4, ports, sizeof(ports), 0);
}

SEC("tcx/egress")
int spread(struct __sk_buff *skb)
{
	__u32 zero = 0, generator = skb->mark - 1;
	__u32 l4 = ETH_HLEN + (skb->protocol == bpf_htons(ETH_P_IPV6) ? sizeof(struct ipv6hdr) : sizeof(struct iphdr));

	if (!skb->mark)
		return TC_ACT_UNSPEC;

	struct plan *plan = bpf_map_lookup_elem(&spread_plan, &zero);
	struct run *run = bpf_map_lookup_elem(&spread_runs, &generator);

	if (!plan || !run || run->next >= run->end)
		return TC_ACT_SHOT;
	skb->mark = 0; // Clones come by here, too.
	for (int i = 1; i < BATCH && run->next + 1 < run->end; i++) {
		set_ports(skb, l4, plan, run->next++);
		bpf_clone_redirect(skb, skb->ifindex, 0);
	}
	set_ports(skb, l4, plan, run->next++);
	return TC_ACT_UNSPEC;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
