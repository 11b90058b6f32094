// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
// The end of a rate measurement: counts and drops UDP packets to a range of ports as they enter a pod, so
// that no socket, no scheduler and no copy to user space is part of the figure.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

struct ports {
	__u32 first, last;
};

// Index 0: the ports in host order, written by user space before the program is attached.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct ports);
} sink_port SEC(".maps");

// Index 0: packets, a segmented super-packet counted as the packets it stands for.
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} sink_packets SEC(".maps");

SEC("tc")
int sink(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ethhdr *eth = data;
	struct udphdr *udp;

	if ((void *)(eth + 1) > end)
		return TC_ACT_UNSPEC;
	if (eth->h_proto == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = (void *)(eth + 1);

		if ((void *)(ip + 1) > end || ip->protocol != IPPROTO_UDP || ip->ihl != 5)
			return TC_ACT_UNSPEC;
		udp = (void *)(ip + 1);
	} else if (eth->h_proto == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = (void *)(eth + 1);

		if ((void *)(ip + 1) > end || ip->nexthdr != IPPROTO_UDP)
			return TC_ACT_UNSPEC;
		udp = (void *)(ip + 1);
	} else {
		return TC_ACT_UNSPEC;
	}
	if ((void *)(udp + 1) > end)
		return TC_ACT_UNSPEC;

	__u32 zero = 0;
	__u16 dest = bpf_ntohs(udp->dest);
	struct ports *ports = bpf_map_lookup_elem(&sink_port, &zero);
	__u64 *packets = bpf_map_lookup_elem(&sink_packets, &zero);

	if (!ports || !packets || dest < ports->first || dest > ports->last)
		return TC_ACT_UNSPEC;
	*packets += skb->gso_segs ? skb->gso_segs : 1;
	return TC_ACT_SHOT;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
