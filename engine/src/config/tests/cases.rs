//! Every error, with its exact text.

/// A text and all of its errors.
pub(super) const CASES: &[(&str, &str)] = &[
    // Syntax.
    (
        "[node]\nname = \"a\"\n[[pod]\n",
        "node.toml:3: syntax: unclosed array table, expected `]`",
    ),
    (
        "[node]\nname = \"a\n",
        "node.toml:2: syntax: invalid basic string, expected `\"`",
    ),
    (
        "[[pod]]\nip = 10.0.0.1\ninterface = veth7\n",
        "node.toml:2: syntax: missing or unquoted value: names, addresses and durations stand in quotes\n\
         node.toml:3: syntax: missing or unquoted value: names, addresses and durations stand in quotes",
    ),
    (
        "[workers]\nframes = 010\n",
        "node.toml:2: syntax: unexpected leading zero",
    ),
    (
        "[node]\nname = \"a\"\nname = \"b\"\n",
        "node.toml:3: node.name: duplicate key",
    ),
    (
        "[node]\nname = \"a\"\n[workers]\n[node]\n",
        "node.toml:4: node: duplicate key",
    ),
    (
        "a = 1\n[node]\nname = \"a\"\nx = { b = 1, b = 2 }\n",
        "node.toml:1: a: unknown key\nnode.toml:4: node.x: unknown key\nnode.toml:4: node.x.b: duplicate key",
    ),
    // Keys.
    (
        "[node]\nname = \"a\"\ndrian = \"30s\"\n",
        "node.toml:3: node.drian: unknown key, did you mean `drain`?",
    ),
    // The overlay.
    (
        "[node]\nname = \"a\"\n[overlay]\n[[overlay.peer]]\nname = \"b\"\naddress = \"10.0.0.2\"\npods = [\"10.1.0.0/24\"]\n",
        "node.toml:3: overlay: needs `node.uplink`\nnode.toml:3: overlay: needs `node.address`",
    ),
    (
        "[node]\nname = \"a\"\naddress = \"10.0.0.1\"\nuplink = [\"eth0\"]\n[overlay]\nvni = 77\n[[overlay.peer]]\nname = \"b\"\naddress = \"fd00::2\"\npods = [\"10.1.0.0/24\"]\n",
        "node.toml:9: overlay.peer[0].address: fd00::2 is of a family that `node.address` has no address of",
    ),
    (
        "[overlay]\n[[overlay.peer]]\nname = \"b\"\naddress = \"10.0.0.2\"\npods = [\"10.244.2.0\", \"10.244.2.1/24\", \"0.0.0.0/0\", \"127.0.0.0/8\", \"10.01.0.0/16\", \"fd00::/64\"]\n[node]\nname = \"a\"\naddress = \"10.0.0.1\"\nuplink = \"eth0\"\n",
        "node.toml:5: overlay.peer[0].pods[0]: \"10.244.2.0\" is not a range of addresses such as \"10.244.2.0/24\"\n\
         node.toml:5: overlay.peer[0].pods[1]: \"10.244.2.1/24\" has bits behind its prefix: write 10.244.2.0/24\n\
         node.toml:5: overlay.peer[0].pods[2]: \"0.0.0.0/0\" is not a range of addresses such as \"10.244.2.0/24\"\n\
         node.toml:5: overlay.peer[0].pods[3]: 127.0.0.0 is a loopback address, which cannot be used here\n\
         node.toml:5: overlay.peer[0].pods[4]: \"10.01.0.0/16\" has leading zeros, which are refused because they are ambiguous: some programs read them as octal",
    ),
    (
        "[node]\nname = \"a\"\naddress = \"10.0.0.1\"\nuplink = \"veth7\"\n[overlay]\n[[overlay.peer]]\nname = \"b\"\naddress = \"10.0.0.2\"\npods = [\"10.0.0.0/29\", \"10.0.0.0/30\", \"10.0.1.0/24\", \"::fffe:0:0/95\"]\n[[pod]]\nname = \"p\"\nip = \"10.0.0.2\"\ninterface = \"veth7\"\n[[service]]\nname = \"s\"\ncluster_ip = \"10.0.0.1\"\nendpoints = [{ address = \"10.0.0.1\" }]\nports = [{ port = 80 }]\n",
        "node.toml:9: overlay.peer[0].pods[0]: 10.0.0.1 in 10.0.0.0/29 is already taken by node.address at node.toml:3\n\
         node.toml:9: overlay.peer[0].pods[0]: 10.0.0.2 in 10.0.0.0/29 is already taken by overlay.peer[0].address at node.toml:8\n\
         node.toml:9: overlay.peer[0].pods[1]: 10.0.0.1 in 10.0.0.0/30 is already taken by node.address at node.toml:3\n\
         node.toml:9: overlay.peer[0].pods[1]: 10.0.0.2 in 10.0.0.0/30 is already taken by overlay.peer[0].address at node.toml:8\n\
         node.toml:9: overlay.peer[0].pods[3]: \"::fffe:0:0/95\" is not a range of addresses such as \"10.244.2.0/24\"\n\
         node.toml:12: pod[0].ip: 10.0.0.2 is already taken by overlay.peer[0].address at node.toml:8\n\
         node.toml:13: pod[0].interface: \"veth7\" is already taken by node.uplink at node.toml:4\n\
         node.toml:16: service[0].cluster_ip: 10.0.0.1 is already taken by node.address at node.toml:3",
    ),
    (
        "[node]\nname = \"a\"\naddress = [\"10.0.0.1\", \"10.0.0.9\"]\nuplink = [\"eth0\", \"eth0\"]\n[overlay]\nvni = 16777216\nencap = \"gre\"\npeer = [\n{ name = \"b\", address = \"10.0.0.1\", pods = [\"10.1.0.0/24\"] },\n{ name = \"b\", address = \"10.0.0.3\", pods = [\"10.1.0.0/24\"] },\n]\n",
        "node.toml:3: node.address[1]: 10.0.0.9 is a second IPv4 address, and there may be one of each family\n\
         node.toml:4: node.uplink[1]: \"eth0\" is already taken by node.uplink[0] at node.toml:4\n\
         node.toml:6: overlay.vni: 16777216 is not in 0..=16777215\n\
         node.toml:7: overlay.encap: \"gre\" is not one of \"geneve\", \"vxlan\"\n\
         node.toml:9: overlay.peer[0].address: 10.0.0.1 is already taken by node.address[0] at node.toml:3\n\
         node.toml:10: overlay.peer[1].name: \"b\" is already taken by overlay.peer[0].name at node.toml:9\n\
         node.toml:10: overlay.peer[1].pods[0]: 10.1.0.0/24 is already taken by overlay.peer[0].pods[0] at node.toml:9",
    ),
    (
        "[worker]\n",
        "node.toml:1: worker: unknown key, did you mean `workers`?",
    ),
    ("\"a\\nb\" = 1\n", "node.toml:1: \"a\\nb\": unknown key"),
    (
        "[[service]]\nname = \"s\"\ncluster_ip = \"10.96.0.1\"\nendpoints = []\nhealth_check_port = 80\nports = [\n  { port = 80, node_port = 30080 },\n]\n",
        "node.toml:5: service[0].health_check_port: unknown key\nnode.toml:7: service[0].ports[0].node_port: unknown key",
    ),
    (
        "[[service]]\nname = \"s\"\ncluster_ip = \"10.96.0.1\"\nports = [{ port = 80 }]\nendpoints = [{ adress = \"10.0.0.1\", address = \"10.0.0.2\" }]\n",
        "node.toml:5: service[0].endpoints[0].adress: unknown key, did you mean `address`?",
    ),
    ("", "node.toml:1: node: required, but missing"),
    ("[node]\n", "node.toml:1: node.name: required, but missing"),
    (
        "[[pod]]\n\n[[service]]\n",
        "node.toml:1: pod[0]: needs either `ip` or `ips`\n\
         node.toml:1: pod[0].interface: required, but missing\n\
         node.toml:1: pod[0].name: required, but missing\n\
         node.toml:3: service[0]: needs either `cluster_ip` or `cluster_ips`\n\
         node.toml:3: service[0]: needs either `selector` or `endpoints`\n\
         node.toml:3: service[0].name: required, but missing\n\
         node.toml:3: service[0].ports: required, but missing",
    ),
    // Types.
    (
        "[node]\nname = 7\n",
        "node.toml:2: node.name: expected a string, found a whole number",
    ),
    (
        "node = 1\n",
        "node.toml:1: node: expected a table, found a whole number",
    ),
    (
        "[node]\nname = \"a\"\ndrain = 30\n",
        "node.toml:3: node.drain: expected a duration such as \"30s\", found a whole number",
    ),
    (
        "[workers]\ncores = 0\nframes = 1.5\n",
        "node.toml:2: workers.cores: expected an array of core numbers, found a whole number\nnode.toml:3: workers.frames: expected a whole number, found a fraction",
    ),
    (
        "[pod]\nname = \"x\"\n",
        "node.toml:1: pod: expected an array of tables, written [[pod]], found a table",
    ),
    (
        "service = true\n",
        "node.toml:1: service: expected an array of tables, written [[service]], found true or false",
    ),
    (
        "pod = [1]\n",
        "node.toml:1: pod[0]: expected a table, found a whole number",
    ),
    (
        "[[pod]]\nname = \"x\"\nip = 2024-01-01\ninterface = \"veth7\"\nlabels = { a = 1 }\nports = [80]\n",
        "node.toml:3: pod[0].ip: expected an address as a string, found a date or time\n\
         node.toml:5: pod[0].labels.a: expected a string, found a whole number\n\
         node.toml:6: pod[0].ports: expected a table of port numbers, found an array",
    ),
    (
        "[[service]]\nname = \"s\"\ncluster_ip = \"10.96.0.1\"\nports = [{ port = 80, target_port = true }]\nendpoints = [{ address = \"10.0.0.1\", ready = \"yes\" }]\n",
        "node.toml:4: service[0].ports[0].target_port: expected a port number, or the name of a port, found true or false\nnode.toml:5: service[0].endpoints[0].ready: expected true or false, found a string",
    ),
    // Numbers.
    (
        "[workers]\n\nframes = 0\n",
        "node.toml:3: workers.frames: 0 is not in 64..=16384",
    ),
    (
        "[workers]\nmax_flows = 1\npunt_rate = -1\n",
        "node.toml:2: workers.max_flows: 1 is not in 16..=16777216\nnode.toml:3: workers.punt_rate: -1 is not in 0..=1000000000",
    ),
    (
        "[workers]\nframes = 0xffff_ffff_ffff_ffff_ffff_ffff_ffff_ffff_ffff\n",
        "node.toml:2: workers.frames: 0xffffffffffffffffffffffffffffffffffff is not in 64..=16384",
    ),
    (
        "[[pod]]\nname = \"x\"\nip = \"10.0.0.1\"\ninterface = \"veth7\"\nports = { http = 0 }\npunt_rate = 1_000_000_001\n",
        "node.toml:5: pod[0].ports.http: 0 is not in 1..=65535\nnode.toml:6: pod[0].punt_rate: 1000000001 is not in 0..=1000000000",
    ),
    (
        "[[service]]\nname = \"s\"\ncluster_ip = \"10.96.0.1\"\nports = [{ port = 65536, target_port = 0 }]\nendpoints = [{ address = \"10.0.0.1\", weight = 1001, ports = { a = 70000 } }]\n",
        "node.toml:4: service[0].ports[0].port: 65536 is not in 1..=65535\nnode.toml:4: service[0].ports[0].target_port: 0 is not in 1..=65535\nnode.toml:5: service[0].endpoints[0].ports.a: 70000 is not in 1..=65535\nnode.toml:5: service[0].endpoints[0].weight: 1001 is not in 0..=1000",
    ),
    // Words.
    (
        "[workers]\npoll = \"busy\"\n",
        "node.toml:2: workers.poll: \"busy\" is not one of \"adaptive\", \"spin\", \"sleep\"",
    ),
    (
        "[workers]\nfast_path = \"on\"\n",
        "node.toml:2: workers.fast_path: \"on\" is not one of \"off\", \"flows\", \"full\"",
    ),
    (
        "[[service]]\nname = \"s\"\ncluster_ip = \"10.96.0.1\"\nalgorithm = \"least_conn\"\nendpoints = []\nports = [\n  { name = \"a\", port = 80, protocol = \"sctp\" },\n  { name = \"b\", port = 81, stage = \"https\" },\n  { name = \"c\", port = 82, stage = \"tcp\", protocol = \"udp\" },\n  { name = \"d\", port = 83, stage = \"tls\" },\n  { name = \"e\", port = 84, source = \"node\" },\n  { name = \"f\", port = 85, stage = \"tcp\", source = \"pod\" },\n]\n",
        "node.toml:4: service[0].algorithm: \"least_conn\" is not one of \"maglev\", \"round_robin\", \"random\", \"least_connections\"\n\
         node.toml:7: service[0].ports[0].protocol: \"sctp\" is not one of \"tcp\", \"udp\"\n\
         node.toml:8: service[0].ports[1].stage: \"https\" is not one of \"l4\", \"tcp\", \"http\"\n\
         node.toml:9: service[0].ports[2].stage: only TCP ports have a stage other than \"l4\"\n\
         node.toml:10: service[0].ports[3].stage: \"tls\" is not available yet in this version\n\
         node.toml:11: service[0].ports[4].source: with stage = \"l4\" backends see the client: `source` is for \"tcp\" and \"http\"\n\
         node.toml:12: service[0].ports[5].source: \"pod\" is not one of \"client\", \"node\"",
    ),
    (
        "[node]\nname = \"a\"\naccess_log = \"\"\nmetrics = \"127.0.0.1\"\n",
        "node.toml:3: node.access_log: must not be empty\nnode.toml:4: node.metrics: \"127.0.0.1\" is not an address and port, such as 127.0.0.1:9464",
    ),
    // Routes.
    (
        "[[service]]\nname = \"s\"\ncluster_ip = \"10.96.0.1\"\nendpoints = []\nports = [{ port = 80 }]\nroutes = [{ name = \"r\", rules = [{ backends = [] }] }]\nhttp = { access_log = false }\n",
        "node.toml:6: service[0].routes: no port of the service has stage = \"http\", which this is for\n\
         node.toml:7: service[0].http: no port of the service has stage = \"http\", which this is for",
    ),
    (
        "[[service]]\nname = \"s\"\ncluster_ip = \"10.96.0.1\"\nendpoints = []\nports = [{ port = 80, stage = \"http\" }]\n\
         [[service.routes]]\nname = \"r\"\nhostnames = [\"-a\"]\n\
         rules = [\n  { backends = [{ service = \"t\" }] },\n  { backends = [{ service = \"s\", port = 81 }, { service = \"s\", port = \"x\" }] },\n\
         \x20 { matches = [{ path = { exact = \"a\" } }] },\n\
         \x20 { redirect = { status = 304 }, request_headers = { set = { host = \"a\" } } },\n  { redirect = { port = 81 }, backends = [] },\n\
         \x20 { redirect = { port = 81 }, matches = [{ path = { exact = \"/\", prefix = \"/\" }, method = \"G T\", headers = { \"a b\" = \"c\" } }] },\n]\n\
         [[service.routes]]\nname = \"q\"\nrules = []\n[service.http]\nhead_fields = 101\n",
        "node.toml:8: service[0].routes[0].hostnames[0]: \"-a\" is not a hostname: labels of a-z, 0-9 and -, with *. in front for a wildcard\n\
         node.toml:10: service[0].routes[0].rules[0].backends[0]: there is no service \"t\"\n\
         node.toml:11: service[0].routes[0].rules[1]: is never reached: service[0].routes[0].rules[0] at node.toml:10 matches the same, and comes first\n\
         node.toml:12: service[0].routes[0].rules[2]: needs either `backends` or `redirect`\n\
         node.toml:12: service[0].routes[0].rules[2].matches[0].path.exact: \"a\" is not a path: it begins with / and has no query, fragment, empty or dot element\n\
         node.toml:13: service[0].routes[0].rules[3]: is never reached: service[0].routes[0].rules[0] at node.toml:10 matches the same, and comes first\n\
         node.toml:13: service[0].routes[0].rules[3].redirect.status: 304 is not one of 301, 302, 303, 307, 308\n\
         node.toml:13: service[0].routes[0].rules[3].request_headers: \"host\" is not a field that may be changed: it frames or routes the message\n\
         node.toml:13: service[0].routes[0].rules[3].request_headers: `request_headers` and `redirect` exclude each other\n\
         node.toml:14: service[0].routes[0].rules[4]: is never reached: service[0].routes[0].rules[0] at node.toml:10 matches the same, and comes first\n\
         node.toml:14: service[0].routes[0].rules[4].redirect: `backends` and `redirect` exclude each other\n\
         node.toml:15: service[0].routes[0].rules[5].matches[0].headers.\"a b\": \"a b\" is not a header field's name\n\
         node.toml:15: service[0].routes[0].rules[5].matches[0].method: \"G T\" is not a method, such as GET\n\
         node.toml:15: service[0].routes[0].rules[5].matches[0].path.prefix: `exact` and `prefix` exclude each other\n\
         node.toml:19: service[0].routes[1].rules: must not be empty\n\
         node.toml:21: service[0].http.head_fields: 101 is not in 1..=100",
    ),
    (
        "[[service]]\nname = \"s\"\ncluster_ip = \"10.96.0.1\"\nendpoints = []\nports = [{ port = 80, stage = \"http\" }]\n\
         [[service.routes]]\nname = \"r\"\nrules = [{ backends = [{ service = \"s\", port = 81 }, { service = \"s\", port = \"x\" }, { service = \"s\" }] }]\n",
        "node.toml:8: service[0].routes[0].rules[0].backends[0]: service \"s\" has no TCP port 81\n\
         node.toml:8: service[0].routes[0].rules[0].backends[1]: service \"s\" has no TCP port \"x\"",
    ),
    (
        "[[service]]\nname = \"s\"\ncluster_ip = \"10.96.0.1\"\nendpoints = []\nports = [{ port = 80, stage = \"http\" }]\n\
         [[service.routes]]\nname = \"r\"\nrules = [{ redirect = { port = 81 }, matches = [{ method = \"post\" }, { method = \"Get\" }, { method = \"purge\" }] }]\n",
        "node.toml:8: service[0].routes[0].rules[0].matches[0].method: \"post\" is not a method: they are case-sensitive, and known ones have capitals, such as GET\n\
         node.toml:8: service[0].routes[0].rules[0].matches[1].method: \"Get\" is not a method: they are case-sensitive, and known ones have capitals, such as GET",
    ),
    (
        "[[service]]\nname = \"s\"\ncluster_ip = \"10.96.0.1\"\nendpoints = []\nports = [{ port = 80, stage = \"http\" }]\n\
         [[service.routes]]\nname = \"r\"\nhostnames = [\"a.b\", \"*.a.b\", \"A.b\"]\n\
         rules = [\n  { backends = [{ service = \"s\" }], matches = [{ path = { prefix = \"/a\" } }, { headers = { b = \"c\", d = \"e\" } }] },\n\
         \x20 { backends = [], match = [], matches = [{ headers = { D = \"e\", B = \"c\" } }, { path = { exact = \"/a\" } }] },\n\
         \x20 { backends = [], matches = [{ path = { prefix = \"/a/\" }, query = { x = \"\" } }] },\n\
         \x20 { backends = [], matches = [{ path = { prefix = \"/a/\" } }] },\n\
         \x20 { backends = [] },\n  { backends = [], matches = [{ path = { prefix = \"/\" } }] },\n]\n\
         [[service.routes]]\nname = \"r\"\n\
         rules = [\n  { redirect = {} },\n  { redirect = { status = 301 }, matches = [{ method = \"PUT\" }] },\n\
         \x20 { redirect = { port = 81 }, matches = [{ method = \"GET\" }], request_headers = { remove = [\"a\"] } },\n\
         \x20 { redirect = { port = 81 }, matches = [{ method = \"POST\" }], timeouts = {} },\n\
         \x20 { backends = [], timeouts = { request = \"1s\", backend_request = \"1001ms\" }, matches = [{ method = \"HEAD\", headers = { a-b = \"\", A-B = \"\" }, query = { \"\" = \"x\" } }] },\n]\n",
        "node.toml:8: service[0].routes[0].hostnames[2]: \"a.b\" is already taken by service[0].routes[0].hostnames[0] at node.toml:8\n\
         node.toml:11: service[0].routes[0].rules[1].match: unknown key, did you mean `matches`?\n\
         node.toml:11: service[0].routes[0].rules[1].matches[0]: is never reached: service[0].routes[0].rules[0].matches[1] at node.toml:10 matches the same, and comes first\n\
         node.toml:13: service[0].routes[0].rules[3].matches[0]: is never reached: service[0].routes[0].rules[0].matches[0] at node.toml:10 matches the same, and comes first\n\
         node.toml:15: service[0].routes[0].rules[5].matches[0]: is never reached: service[0].routes[0].rules[4] at node.toml:14 matches the same, and comes first\n\
         node.toml:18: service[0].routes[1].name: \"r\" is already taken by service[0].routes[0].name at node.toml:7\n\
         node.toml:20: service[0].routes[1].rules[0].redirect: leads back to the URL that was asked for: needs `scheme`, `hostname` or `port`\n\
         node.toml:21: service[0].routes[1].rules[1].redirect: leads back to the URL that was asked for: needs `scheme`, `hostname` or `port`\n\
         node.toml:22: service[0].routes[1].rules[2].request_headers: `request_headers` and `redirect` exclude each other\n\
         node.toml:23: service[0].routes[1].rules[3].timeouts: `timeouts` and `redirect` exclude each other\n\
         node.toml:24: service[0].routes[1].rules[4].matches[0].headers.a-b: \"a-b\" is already taken by service[0].routes[1].rules[4].matches[0].headers.A-B at node.toml:24\n\
         node.toml:24: service[0].routes[1].rules[4].matches[0].query.\"\": \"\" is not the name of a query parameter\n\
         node.toml:24: service[0].routes[1].rules[4].timeouts.backend_request: is longer than `request`, which it is part of",
    ),
    // Durations.
    (
        "[node]\nname = \"a\"\ndrain = \"30\"\nenrolment_grace = \"1 m\"\n",
        "node.toml:3: node.drain: \"30\" is not a duration: write a whole number and its unit, ms, s, m or h, such as \"30s\"\nnode.toml:4: node.enrolment_grace: \"1 m\" is not a duration: write a whole number and its unit, ms, s, m or h, such as \"30s\"",
    ),
    (
        "[node]\nname = \"a\"\ndrain = \"2h\"\nenrolment_grace = \"25h\"\n",
        "node.toml:3: node.drain: \"2h\" is not in 0s..=1h\nnode.toml:4: node.enrolment_grace: \"25h\" is not in 0s..=24h",
    ),
    (
        "[workers]\nheartbeat = \"9ms\"\n",
        "node.toml:2: workers.heartbeat: \"9ms\" is not in 10ms..=10s",
    ),
    (
        "[workers]\nheartbeat = \"99999999999999999999999s\"\n",
        "node.toml:2: workers.heartbeat: \"99999999999999999999999s\" is not in 10ms..=10s",
    ),
    (
        "[workers]\nheartbeat = \"\"\n",
        "node.toml:2: workers.heartbeat: \"\" is not a duration: write a whole number and its unit, ms, s, m or h, such as \"30s\"",
    ),
    (
        "[workers]\nheartbeat = \"-5s\"\n",
        "node.toml:2: workers.heartbeat: \"-5s\" is not a duration: write a whole number and its unit, ms, s, m or h, such as \"30s\"",
    ),
    // Names.
    (
        "[node]\nname = \"\"\n",
        "node.toml:2: node.name: must not be empty",
    ),
    (
        "[node]\nname = \"a b\"\n",
        "node.toml:2: node.name: \"a b\" is not a name: at most 317 letters, digits and . _ - /",
    ),
    (
        "[[pod]]\nname = \"x\"\nip = \"10.0.0.1\"\ninterface = \"veth-that-is-long\"\nlabels = { \"\" = \"x\" }\nports = { HTTP = 80 }\n",
        "node.toml:4: pod[0].interface: \"veth-that-is-long\" is not an interface name: at most 15 characters, no spaces, / or :\n\
         node.toml:5: pod[0].labels.\"\": must not be empty\n\
         node.toml:6: pod[0].ports.HTTP: \"HTTP\" is not a port name: at most 63 lower-case letters, digits and -, no - at either end",
    ),
    (
        "[[service]]\nname = \"\"\ncluster_ip = \"\"\nports = []\nselector = {}\n",
        "node.toml:2: service[0].name: must not be empty\nnode.toml:3: service[0].cluster_ip: must not be empty\nnode.toml:4: service[0].ports: must not be empty\nnode.toml:5: service[0].selector: must not be empty",
    ),
    (
        "[[service]]\nname = \"s\"\ncluster_ips = []\nports = [{ name = \"\", port = 80, target_port = \"\" }]\nendpoints = []\n",
        "node.toml:3: service[0].cluster_ips: must not be empty\nnode.toml:4: service[0].ports[0].name: must not be empty\nnode.toml:4: service[0].ports[0].target_port: must not be empty",
    ),
    (
        "[[service]]\nname = \"s\"\ncluster_ip = \"10.96.0.1\"\nports = [{ port = 80 }, { port = 81 }]\nendpoints = []\n",
        "node.toml:4: service[0].ports[0].name: required, because the service has more than one port\nnode.toml:4: service[0].ports[1].name: required, because the service has more than one port",
    ),
    // Addresses.
    (
        "[[pod]]\nname = \"x\"\nip = \"10.0.0\"\ninterface = \"veth7\"\n",
        "node.toml:3: pod[0].ip: \"10.0.0\" is not an IP address",
    ),
    (
        "[[pod]]\nname = \"x\"\nip = \"10.0.0.0/24\"\ninterface = \"veth7\"\n",
        "node.toml:3: pod[0].ip: \"10.0.0.0/24\" is a range of addresses, and one address is expected",
    ),
    (
        "[[pod]]\nname = \"x\"\nip = \"10.010.0.1\"\ninterface = \"veth7\"\n",
        "node.toml:3: pod[0].ip: \"10.010.0.1\" has leading zeros, which are refused because they are ambiguous: some programs read them as octal",
    ),
    (
        "[[pod]]\nname = \"x\"\nips = [\n  \"127.0.0.1\",\n  \"::\",\n]\ninterface = \"veth7\"\n",
        "node.toml:4: pod[0].ips[0]: 127.0.0.1 is a loopback address, which cannot be used here\n\
         node.toml:5: pod[0].ips[1]: :: is an unspecified address, which cannot be used here",
    ),
    (
        "[[service]]\nname = \"s\"\ncluster_ips = [\"224.0.0.1\", \"fe80::1\"]\nports = [{ port = 80 }]\nendpoints = [\n  { address = \"169.254.1.1\" },\n  { address = \"ff02::1\" },\n  { address = \"255.255.255.255\" },\n  { address = \"0.1.2.3\" },\n  { address = \"::1\" },\n  { address = \"0.0.0.0\" },\n]\n",
        "node.toml:3: service[0].cluster_ips[0]: 224.0.0.1 is a multicast address, which cannot be used here\n\
         node.toml:3: service[0].cluster_ips[1]: fe80::1 is a link-local address, which cannot be used here\n\
         node.toml:6: service[0].endpoints[0].address: 169.254.1.1 is a link-local address, which cannot be used here\n\
         node.toml:7: service[0].endpoints[1].address: ff02::1 is a multicast address, which cannot be used here\n\
         node.toml:8: service[0].endpoints[2].address: 255.255.255.255 is a broadcast address, which cannot be used here\n\
         node.toml:9: service[0].endpoints[3].address: 0.1.2.3 is a \"this network\" address, which cannot be used here\n\
         node.toml:10: service[0].endpoints[4].address: ::1 is a loopback address, which cannot be used here\n\
         node.toml:11: service[0].endpoints[5].address: 0.0.0.0 is an unspecified address, which cannot be used here",
    ),
    (
        "[[service]]\nname = \"s\"\ncluster_ip = \"10.96.0.1\"\nports = [{ port = 80 }]\nendpoints = []\nsession_affinity = \"cookie\"\nsession_affinity_timeout = \"25h\"\nmax_flows = 0\nrst_on_removal = 1\n",
        "node.toml:6: service[0].session_affinity: \"cookie\" is not one of \"none\", \"client_ip\"\n\
         node.toml:7: service[0].session_affinity_timeout: \"25h\" is not in 1s..=24h\n\
         node.toml:8: service[0].max_flows: 0 is not in 1..=16777216\n\
         node.toml:9: service[0].rst_on_removal: expected true or false, found a whole number",
    ),
    (
        "[[pod]]\nname = \"x\"\nip = \"::ffff:10.0.0.1\"\ninterface = \"veth7\"\n",
        "node.toml:3: pod[0].ip: ::ffff:10.0.0.1 is an IPv4-mapped IPv6 address: write 10.0.0.1",
    ),
    (
        "[[service]]\nname = \"s\"\ncluster_ips = [\"10.96.0.1\", \"10.96.0.2\"]\nports = [{ port = 80 }]\nendpoints = []\n",
        "node.toml:3: service[0].cluster_ips[1]: 10.96.0.2 is a second IPv4 address, and there may be one of each family",
    ),
    (
        "[[pod]]\nname = \"x\"\nips = [\"fd00::1\", \"fd00:0:0::1\"]\ninterface = \"veth7\"\n",
        "node.toml:3: pod[0].ips[1]: fd00::1 is a second IPv6 address, and there may be one of each family",
    ),
    // One of two keys.
    (
        "[[pod]]\nname = \"x\"\nip = \"10.0.0.1\"\nips = [\"10.0.0.1\"]\ninterface = \"veth7\"\n",
        "node.toml:4: pod[0].ips: `ip` and `ips` exclude each other",
    ),
    (
        "[[service]]\nname = \"s\"\ncluster_ip = \"10.96.0.1\"\ncluster_ips = [\"fd00::1\"]\nports = [{ port = 80 }]\nselector = { a = \"b\" }\nendpoints = []\n",
        "node.toml:4: service[0].cluster_ips: `cluster_ip` and `cluster_ips` exclude each other\nnode.toml:7: service[0].endpoints: `selector` and `endpoints` exclude each other",
    ),
    // Had once only.
    (
        "[[pod]]\nname = \"x\"\nip = \"10.0.0.1\"\ninterface = \"veth7\"\n[[pod]]\nname = \"x\"\nips = [\"10.0.0.1\"]\ninterface = \"veth7\"\n",
        "node.toml:6: pod[1].name: \"x\" is already taken by pod[0].name at node.toml:2\n\
         node.toml:7: pod[1].ips[0]: 10.0.0.1 is already taken by pod[0].ip at node.toml:3\n\
         node.toml:8: pod[1].interface: \"veth7\" is already taken by pod[0].interface at node.toml:4",
    ),
    (
        "[[service]]\nname = \"s\"\ncluster_ips = [\"10.96.0.1\", \"fd00::1\"]\nports = [{ port = 80 }]\nendpoints = []\n[[service]]\nname = \"s\"\ncluster_ips = [\"10.96.0.1\", \"fd00::1\"]\nports = [\n  { name = \"a\", port = 80, protocol = \"udp\" },\n  { name = \"b\", port = 80, protocol = \"tcp\" },\n]\nendpoints = []\n",
        "node.toml:7: service[1].name: \"s\" is already taken by service[0].name at node.toml:2\n\
         node.toml:11: service[1].ports[1].port: 10.96.0.1 port 80/tcp is already taken by service[0].ports[0].port at node.toml:4",
    ),
    (
        "[[service]]\nname = \"s\"\ncluster_ip = \"10.96.0.1\"\nendpoints = [{ address = \"10.0.0.1\" }, { address = \"10.0.0.1\" }, { address = \"10.96.0.1\" }]\n[[service.ports]]\nname = \"a\"\nport = 80\n[[service.ports]]\nname = \"a\"\nport = 80\n",
        "node.toml:4: service[0].endpoints[1].address: 10.0.0.1 is already taken by service[0].endpoints[0].address at node.toml:4\n\
         node.toml:4: service[0].endpoints[2].address: 10.96.0.1 is already taken by service[0].cluster_ip at node.toml:3\n\
         node.toml:9: service[0].ports[1].name: \"a\" is already taken by service[0].ports[0].name at node.toml:6\n\
         node.toml:10: service[0].ports[1].port: 10.96.0.1 port 80/tcp is already taken by service[0].ports[0].port at node.toml:7",
    ),
    (
        "[[service]]\nname = \"s\"\ncluster_ip = \"10.0.0.1\"\nports = [{ port = 80 }]\nendpoints = []\n[[pod]]\nname = \"x\"\nip = \"10.0.0.1\"\ninterface = \"veth7\"\n",
        "node.toml:3: service[0].cluster_ip: 10.0.0.1 is already taken by pod[0].ip at node.toml:8",
    ),
    (
        "[workers]\ncores = [0, 1, 0]\n",
        "node.toml:2: workers.cores[2]: core 0 is already taken by workers.cores[0] at node.toml:2",
    ),
    (
        "[workers]\ncores = []\n",
        "node.toml:2: workers.cores: must not be empty",
    ),
    (
        "[workers]\ncores = [-1]\n",
        "node.toml:2: workers.cores[0]: -1 is not in 0..=65535",
    ),
];
