"""The bridge that all hosts hang on: a private subnet and a masquerade rule, both gone with the last host."""

import ipaddress
import itertools
import json
import pathlib
import re
import secrets
import shutil

from .common import HOSTS, STATE, LabError, read_json, run, write

BRIDGE = "gplab0"
TABLE = "goldenpath_lab"
RECORD = STATE / "network.json"
# The later ones for a machine whose company or VPN has the earlier ones.
POOLS = tuple(map(ipaddress.ip_network, ("10.213.0.0/16", "172.31.0.0/16", "192.168.128.0/17", "100.64.0.0/10")))
POOL6 = ipaddress.ip_network("fd67:7061:7468::/48")
# The machine's settings that the lab sets, or that a guest may set for all: put back with the last host.
SYSCTLS = ("net/ipv4/ip_forward", "vm/overcommit_memory", "vm/swappiness")
# The first that names a resolver which hosts can reach: an operator's choice, the machine's own, and the one behind
# it where systemd-resolved or NetworkManager listens on loopback.
RESOLVERS = (
    pathlib.Path("/etc/goldenpath-lab.resolv.conf"),
    pathlib.Path("/etc/resolv.conf"),
    pathlib.Path("/run/systemd/resolve/resolv.conf"),
    pathlib.Path("/run/NetworkManager/no-stub-resolv.conf"),
)
_LOOPBACK = re.compile(r"nameserver\s+(127\.|::1\b)")
# Where the machine's own firewall forwards nothing by default, as Docker's and ufw's.
FORWARD_RULES = (
    ("-i", BRIDGE, "-j", "ACCEPT"),
    ("-o", BRIDGE, "-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED", "-j", "ACCEPT"),
)


def used_networks():
    """The networks that the machine has a route or an address in.

    Returns a list of ip_network (IPv4 and IPv6), without default routes.
    """
    found = []
    for family in ("-4", "-6"):
        routes = json.loads(run("ip", "-j", family, "route", "show", "table", "all").stdout or "[]")
        found += [route.get("dst", "default") for route in routes]
    for link in json.loads(run("ip", "-j", "addr").stdout or "[]"):
        found += [f"{a['local']}/{a['prefixlen']}" for a in link.get("addr_info", []) if "local" in a]
    for path in RESOLVERS:
        for line in path.read_text().splitlines() if path.exists() else ():
            if line.startswith("nameserver") and len(line.split()) > 1:
                found.append(line.split()[1].partition("%")[0])
    networks = []
    for text in found:
        if text == "default" or " " in text:
            continue
        network = ipaddress.ip_network(text, strict=False)
        if network.prefixlen:
            networks.append(network)
    return networks


def free_subnet(used):
    """The first subnet of the lab's pools that touches none in use.

    used
        the networks in use on the machine (list of ip_network)

    Returns a pair: the IPv4 /24 and the IPv6 /64. Raises LabError when all are taken.
    """
    fours = itertools.chain.from_iterable(pool.subnets(new_prefix=24) for pool in POOLS)
    for four, six in zip(fours, POOL6.subnets(new_prefix=64), strict=False):
        if not any(net.overlaps(four) for net in used if net.version == 4) and not any(
            net.overlaps(six) for net in used if net.version == 6
        ):
            return four, six
    raise LabError(f"Every subnet of {', '.join(map(str, POOLS))} is in use on this machine. Try: ip route")


def free_address(subnet, taken, last=None):
    """The next free number in a subnet, going on after the last one so that an address is not reused at once.

    subnet
        the lab's IPv4 subnet (ip_network)
    taken
        the addresses in use (set of str)
    last
        the number that was given last (int or None)

    Returns the number within the subnet (int, 2 to 254). Raises LabError when all are taken.
    """
    first = (last or 1) + 1
    for step in range(253):
        number = (first - 2 + step) % 253 + 2
        if str(subnet[number]) not in taken:
            return number
    raise LabError(f"No free address in {subnet}. Try: python -m lab down --all")


def resolv_conf():
    """The resolver configuration for hosts: the machine's, without what listens on its loopback alone.

    Raises LabError when it has no other.
    """
    texts = [path.read_text() for path in RESOLVERS if path.exists()]
    for text in texts:
        lines = [line for line in text.splitlines() if not _LOOPBACK.match(line)]
        if any(line.startswith("nameserver") for line in lines):
            return "\n".join(lines) + "\n"
    if any(_LOOPBACK.match(line) for text in texts for line in text.splitlines()):
        raise LabError(
            "The only resolver of this machine listens on its loopback, where hosts cannot reach it. "
            f"Try: echo nameserver ADDRESS > {RESOLVERS[0]}"
        )
    return texts[-1] if texts else ""


def mtu():
    """The MTU of the machine's default route, in bytes: hosts use the same."""
    routes = json.loads(run("ip", "-j", "-4", "route", "show", "default").stdout or "[]")
    device = next((route["dev"] for route in routes if "dev" in route), "lo")
    return min(1500, int(pathlib.Path(f"/sys/class/net/{device}/mtu").read_text()))


def allocate():
    """Give the next free address; to be called under the state lock, before the host's record is written.

    Returns a dict with address, address6, gateway, gateway6, prefix, prefix6 and mtu.
    """
    record = ensure()
    four, six = ipaddress.ip_network(record["subnet"]), ipaddress.ip_network(record["subnet6"])
    taken = {read_json(path).get("address") for path in HOSTS.glob("*/host.json")}
    record["last"] = free_address(four, taken, record.get("last"))
    write(RECORD, json.dumps(record, indent=2))
    return {
        "address": str(four[record["last"]]),
        "address6": str(six[record["last"]]),
        "gateway": str(four[1]),
        "gateway6": str(six[1]),
        "prefix": four.prefixlen,
        "prefix6": six.prefixlen,
        "mtu": mtu(),
    }


def ensure():
    """Make what is missing of the bridge, its addresses and its rules; to be called under the state lock.

    A bridge that is there stays: hosts may hang on it.

    Returns the network's record (dict with subnet and subnet6).
    """
    record = read_json(RECORD) or _record_of_hosts()
    exists = pathlib.Path(f"/sys/class/net/{BRIDGE}").exists()
    if exists and not record:
        run("ip", "link", "del", BRIDGE)
        exists = False
    if not exists:
        record = _subnets(record)
    # What the machine had before the first host, and not what it has by now.
    record.setdefault("sysctl", {name: _sysctl(name) for name in SYSCTLS})
    write(RECORD, json.dumps(record, indent=2))
    if not exists:
        # A fixed MAC: a bridge otherwise takes on its ports' and hosts would ask for it again at each change.
        mac = "02:" + ":".join(f"{byte:02x}" for byte in secrets.token_bytes(5))
        run("ip", "link", "add", BRIDGE, "address", mac, "type", "bridge", "forward_delay", "0")
    four, six = (ipaddress.ip_network(record[key]) for key in ("subnet", "subnet6"))
    run("ip", "addr", "replace", f"{four[1]}/{four.prefixlen}", "dev", BRIDGE)
    # Also on a machine that has IPv6 switched off for all; a kernel without it has no such setting.
    if _sysctl(f"net/ipv6/conf/{BRIDGE}/disable_ipv6", "0") == "0":
        run("ip", "addr", "replace", f"{six[1]}/{six.prefixlen}", "dev", BRIDGE, "nodad")
    run("ip", "link", "set", BRIDGE, "up")
    # A booting host is asked for its address before it has one: ask again soon, not in a second.
    _sysctl(f"net/ipv4/neigh/{BRIDGE}/retrans_time_ms", "50")
    if run("nft", "list", "table", "ip", TABLE, check=False).returncode:
        rules = f"""
            table ip {TABLE} {{
                chain postrouting {{
                    type nat hook postrouting priority 100;
                    ip saddr {record["subnet"]} oifname != "{BRIDGE}" masquerade
                }}
            }}
        """
        run("nft", "-f", "-", input=rules)
    for program in _firewalls():
        rules = run(program, "-S", "FORWARD", check=False).stdout.splitlines()
        for rule in FORWARD_RULES if "-P FORWARD DROP" in rules else ():
            if f"-A FORWARD {' '.join(rule)}" not in rules:
                run(program, "-I", "FORWARD", *rule)
    _sysctl("net/ipv4/ip_forward", "1")
    return record


def _subnets(record):
    """The record of a bridge that is to be made: with the subnets that it had, or with free ones."""
    used = used_networks()
    if record:
        both = [ipaddress.ip_network(record[key]) for key in ("subnet", "subnet6")]
        if not any(net.version == own.version and net.overlaps(own) for net in used for own in both):
            return record
        if any(HOSTS.glob("*/host.json")):
            raise LabError(
                f"{record['subnet']} is in use on this machine now, and stopped hosts have addresses in it. "
                "Try: python -m lab down --all"
            )
    four, six = free_subnet(used)
    return {**record, "subnet": str(four), "subnet6": str(six)}


def _record_of_hosts():
    """What the hosts that there are know of a network whose record is lost; {} without any."""
    for path in HOSTS.glob("*/host.json"):
        if "gateway" in (host := read_json(path)):
            four, six = (f"{host['gateway' + six]}/{host['prefix' + six]}" for six in ("", "6"))
            return {
                "subnet": str(ipaddress.ip_network(four, strict=False)),
                "subnet6": str(ipaddress.ip_network(six, strict=False)),
            }
    return {}


def remove():
    """Remove bridge and table, and put the kernel's settings back; under the state lock, with no host left."""
    record = read_json(RECORD)
    if pathlib.Path(f"/sys/class/net/{BRIDGE}").exists():
        run("ip", "link", "del", BRIDGE, check=False)
    run("nft", "delete", "table", "ip", TABLE, check=False)
    for program in _firewalls():
        rules = run(program, "-S", "FORWARD", check=False).stdout.splitlines()
        for rule in FORWARD_RULES:
            if f"-A FORWARD {' '.join(rule)}" in rules:
                run(program, "-D", "FORWARD", *rule, check=False)
    # Whatever has a bridge of its own, as Docker, needs the forwarding too.
    keep = {"net/ipv4/ip_forward"} if any(pathlib.Path("/sys/class/net").glob("*/bridge")) else set()
    for name, value in record.get("sysctl", {}).items():
        if value is not None and name not in keep and _sysctl(name) != value:
            _sysctl(name, value)
    if record:
        write(RECORD, json.dumps({key: record[key] for key in ("subnet", "subnet6", "last") if key in record}))


def _firewalls():
    return [program for program in ("iptables", "ip6tables") if shutil.which(program)]


def _sysctl(name, value=None):
    path = pathlib.Path("/proc/sys") / name
    try:
        if value is not None:
            path.write_text(value)
        return path.read_text().strip()
    except OSError:
        return None
