// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
// The maps of one family and the way of its packets. balancer.bpf.c includes this twice, with FAMILY 4 and 6:
// keys of IPv4 are a third of IPv6's, and hashing them is a part of what a packet costs.

#if FAMILY == 4
typedef __be32 addr4;
#define IP_HEADER struct iphdr
#else
typedef struct in6_addr addr6;
#define IP_HEADER struct ipv6hdr
#endif

struct OF_FAMILY(service_key) {
	OF_FAMILY(addr) vip;
	__be16 port;
	__u8 proto;
	__u8 pad;
};

struct OF_FAMILY(backend) {
	OF_FAMILY(addr) address;
	__be16 port;
	__u16 pad;
	__u32 ifindex; // of its veth on the node
};

struct OF_FAMILY(flow_key) {
	OF_FAMILY(addr) src, dst;
	__be16 sport, dport;
	__u32 proto;
};

struct OF_FAMILY(flow) {
	OF_FAMILY(addr) address; // what the destination becomes, or in a reply the source
	__be16 port;
	__u16 reply;
	__u32 ifindex; // where to: the veth of the other pod
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, SERVICES);
	__type(key, struct OF_FAMILY(service_key));
	__type(value, struct service);
} OF_FAMILY(services) SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, BACKENDS);
	__type(key, __u32);
	__type(value, struct OF_FAMILY(backend));
} OF_FAMILY(backends) SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, FLOW_ENTRIES);
	__type(key, struct OF_FAMILY(flow_key));
	__type(value, struct OF_FAMILY(flow));
} OF_FAMILY(flows) SEC(".maps");

// Chooses a backend for the first packet of a flow and enters both directions. False: not for a service.
static __always_inline bool OF_FAMILY(open_flow)(struct __sk_buff *skb, const struct OF_FAMILY(flow_key) *key,
						 struct OF_FAMILY(flow) *flow)
{
	struct OF_FAMILY(service_key) vip = { .vip = key->dst, .port = key->dport, .proto = key->proto };
	struct service *service = bpf_map_lookup_elem(&OF_FAMILY(services), &vip);

	if (!service || !service->count)
		return false;
	__u32 at = service->first + bpf_get_prandom_u32() % service->count;
	struct OF_FAMILY(backend) *backend = bpf_map_lookup_elem(&OF_FAMILY(backends), &at);

	if (!backend || !backend->ifindex)
		return false;
	struct OF_FAMILY(flow_key) back = {
		.src = backend->address, .dst = key->src,
		.sport = backend->port, .dport = key->sport, .proto = key->proto,
	};
	struct OF_FAMILY(flow) reply = {
		.address = key->dst, .port = key->dport, .reply = 1, .ifindex = skb->ifindex,
	};

	flow->address = backend->address;
	flow->port = backend->port;
	flow->ifindex = backend->ifindex;
	if (bpf_map_update_elem(&OF_FAMILY(flows), &back, &reply, BPF_ANY))
		return false;
	if (bpf_map_update_elem(&OF_FAMILY(flows), key, flow, BPF_ANY))
		return false;
	count_opened();
	return true;
}

static __always_inline int OF_FAMILY(balance)(struct __sk_buff *skb)
{
	struct l4 l4 = { .offset = ETH_HLEN + sizeof(IP_HEADER) };
	IP_HEADER *ip;
	__be16 *ports;

	if (!readable(skb, l4.offset))
		return TC_ACT_UNSPEC;
	ip = (void *)(long)skb->data + ETH_HLEN;
	if ((void *)(ip + 1) > (void *)(long)skb->data_end)
		return TC_ACT_UNSPEC;
#if FAMILY == 4
	if (ip->ihl != 5 || (ip->frag_off & bpf_htons(IP4_FRAGMENT)))
		return TC_ACT_UNSPEC;
	l4.proto = ip->protocol;
#else
	l4.proto = ip->nexthdr;
#endif
	if (!read_l4(skb, &l4))
		return TC_ACT_UNSPEC;
	// Reading may have moved the packet.
	ip = (void *)(long)skb->data + ETH_HLEN;
	ports = (void *)(ip + 1);
	if ((void *)(ports + 2) > (void *)(long)skb->data_end)
		return TC_ACT_UNSPEC;

	// A hop that is the last is the kernel's to answer.
#if FAMILY == 4
	if (ip->ttl <= 1)
		return TC_ACT_UNSPEC;
#else
	if (ip->hop_limit <= 1)
		return TC_ACT_UNSPEC;
#endif

	struct OF_FAMILY(flow_key) key = {
		.src = ip->saddr, .dst = ip->daddr,
		.sport = ports[0], .dport = ports[1], .proto = l4.proto,
	};
	struct OF_FAMILY(flow) flow = {}, *known = bpf_map_lookup_elem(&OF_FAMILY(flows), &key);

	if (known)
		flow = *known;
	else if (!l4.opens || !OF_FAMILY(open_flow)(skb, &key, &flow))
		return TC_ACT_UNSPEC;

	OF_FAMILY(addr) old = flow.reply ? key.src : key.dst, new = flow.address;
	__be16 old_port = flow.reply ? key.sport : key.dport, new_port = flow.port;

	if (flow.reply) {
		ip->saddr = new;
		ports[0] = new_port;
	} else {
		ip->daddr = new;
		ports[1] = new_port;
	}
#if FAMILY == 4
	// RFC 1624, equation 3, for the address and for the hop: the TTL is the high byte of its word.
	__u32 sum = (__u16)~ip->check + (~old & 0xffff) + (~old >> 16) + (new & 0xffff) + (new >> 16) +
		    (__u16)~bpf_htons(0x0100);

	ip->check = ~fold(sum);
	ip->ttl--;
	bpf_l4_csum_replace(skb, l4.checksum, old, new, BPF_F_PSEUDO_HDR | l4.flags | sizeof(new));
#else
	ip->hop_limit--;
	__s64 difference = bpf_csum_diff((void *)&old, sizeof(old), (void *)&new, sizeof(new), 0);

	bpf_l4_csum_replace(skb, l4.checksum, 0, difference, BPF_F_PSEUDO_HDR | l4.flags);
#endif
	if (old_port != new_port)
		bpf_l4_csum_replace(skb, l4.checksum, old_port, new_port, l4.flags | sizeof(new_port));
	// The packet is for the pod whatever its MAC says: the veth has taken it in already.
	return bpf_redirect_peer(flow.ifindex, 0);
}

#undef IP_HEADER
