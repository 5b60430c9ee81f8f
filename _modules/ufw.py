"""
Read and change ufw, the host's firewall.

Reading does not start ufw: its rules are read from the files that it writes and loads at boot, and what is
in force now from the kernel (``iptables -S``, one call per family). Both are lists of iptables rules, so one
walk over the chains, as a packet takes it, answers for both which rules let a new connection from outside
the host in: any spelling (port, list, range, no port at all, application profile, interface, IPv6 only),
any place (before.rules, rules put in with iptables, the default policy), and only where no earlier rule
stops it.

The walk is careful on the closed side. A rule that allows under a condition (a source address, an interface
other than lo) does let the port in; a rule that denies under a condition does not close it. Harmless are only
loopback, and what another program than ufw opened for all ports of a private network's interface, as Tailscale.
"""

import glob
import ipaddress
import os
import re
import shlex
import shutil
import socket
from typing import NamedTuple

from salt.exceptions import CommandExecutionError

RULES = "/etc/ufw"
CONFIG = "/etc/ufw/ufw.conf"
DEFAULTS = "/etc/default/ufw"
PROC = "/proc"
SSHD_CONFIG = "/etc/ssh/sshd_config"

# A rule does not fit a packet, fits it under a condition, or fits it whatever its source.
NO, SOME, ALL = 0, 1, 2
POLICIES = {"ACCEPT": "allow", "DROP": "deny", "REJECT": "reject"}
ANYWHERE = {"0.0.0.0/0": "any", "::/0": "any"}
POLICY = "default policy allow"
ABSENT = "ufw is not installed. Try: apt-get install ufw"


class Rule(NamedTuple):
    """One iptables rule; `command` is what one types after `ufw` for it, if ufw wrote it."""

    tests: tuple
    target: str
    goto: bool
    text: str
    source: str
    command: str


class View(NamedTuple):
    """The filter table of one family, as configured or as loaded: its chains and what INPUT ends with."""

    chains: dict
    policy: str
    source: str


class Hit(NamedTuple):
    """A way in: the rules that lead to an ACCEPT (none: the policy), and whether everybody can take it."""

    path: tuple
    everybody: bool


def _program(name):
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/bin:/bin")


def _run(command, stdin=None):
    return __salt__["cmd.run_all"](
        command,
        stdin=stdin,
        python_shell=False,
        ignore_retcode=True,
        output_loglevel="quiet",
        env={"LC_ALL": "C"},
        timeout=60,  # seconds; ufw waits for another ufw without end
    )


def _ufw(*args):
    if not installed():
        raise CommandExecutionError(ABSENT)
    ret = _run([_program("ufw"), *args])
    if ret["retcode"]:
        lines = (ret["stderr"] or ret["stdout"]).strip().splitlines() or [f"exit code {ret['retcode']}"]
        reason = next((line for line in lines if line.startswith("ERROR: ")), lines[-1])
        # What ufw-init says of the file that it could not load.
        reason += "".join(f"; {line}" for line in lines if re.search(r" \(nf_tables\): |^Problem running ", line))
        raise CommandExecutionError(
            f"{shlex.join(['ufw', *args])} failed: {reason.removeprefix('ERROR: ')}. Try: ufw status verbose"
        )
    return ret["stdout"]


def _read(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except FileNotFoundError:
        return ""
    except OSError as exc:
        raise CommandExecutionError(f"{path} cannot be read: {exc.strerror}. Try: ls -l {path}") from exc


def _settings(path):
    pairs = re.findall(r"^(\w+)=[\"']?(\w*)[\"']?\s*(?:#.*)?$", _read(path), re.MULTILINE)
    return {key: value.upper() for key, value in pairs}


def _tuple(line):
    """What ufw notes above each of its rules: `### tuple ### allow tcp 80 0.0.0.0/0 any 0.0.0.0/0 in`."""
    line, _, comment = line.partition(" comment=")
    fields = line.removeprefix("### tuple ###").split()
    if len(fields) < 6:
        return None
    action, proto, to_port, to, from_port, from_ = fields[:6]
    apps = [app.replace("%20", " ") for app in fields[6:8]] if len(fields) > 7 else ["-", "-"]
    place = fields[-1] if len(fields) in (7, 9) else "in"
    route, action = action.startswith("route:"), action.removeprefix("route:")
    action, _, log = action.partition("_")
    ways = dict(part.partition("_")[::2] for part in place.split("!"))
    return {
        "action": action,
        "log": log,
        "route": route,
        "direction": "out" if list(ways) == ["out"] else "in",
        "interface": ways.get("in", ""),
        "interface_out": ways.get("out", ""),
        "proto": proto,
        "port": to_port,
        "to": ANYWHERE.get(to, to),
        "from_port": from_port,
        "from": ANYWHERE.get(from_, from_),
        "app": apps[0] if apps[0] != "-" else "",
        "from_app": apps[1] if apps[1] != "-" else "",
        "comment": bytes.fromhex(comment.strip()).decode("utf-8", "replace") if comment else "",
    }


def _command(rule):
    """What one types after `ufw` to add this rule or after `ufw delete`; the words of `ufw show added`."""
    words = ["route"] if rule["route"] else []
    words.append(rule["action"])
    if rule["interface"]:
        words += ["in", "on", rule["interface"]]
    if rule["interface_out"]:
        words += ["out", "on", rule["interface_out"]]
    elif rule["direction"] == "out":
        words.append("out")
    if rule["log"]:
        words.append(rule["log"])
    interface = rule["interface"] or rule["interface_out"]
    start, end = (rule["from"], rule["from_port"], rule["from_app"]), (rule["to"], rule["port"], rule["app"])
    if start == ("any", "any", "") and rule["to"] == "any" and rule["port"] != "any" and not interface:
        port = rule["port"] if rule["proto"] == "any" else f"{rule['port']}/{rule['proto']}"
        return shlex.join([*words, rule["app"] or port])
    bare = len(words)
    for way, (address, port, app) in (("from", start), ("to", end)):
        if (address, port, app) != ("any", "any", ""):
            words += [way, address, *(["app", app] if app else ["port", port] if port != "any" else [])]
    if len(words) == bare and not interface:
        words += ["to", "any"]
    if rule["proto"] != "any" and not (rule["app"] or rule["from_app"]):
        words += ["proto", rule["proto"]]
    return shlex.join(words)


def _tests(words):
    """Split an iptables rule into (negated, option, values)."""
    tests, negated = [], False
    for word in words:
        if word == "!":
            negated = True
        elif word.startswith("-"):
            tests.append((negated, word, []))
            negated = False
        elif tests:
            tests[-1][2].append(word)
    return tests


def _chains(text, source):
    """Read the filter table from `iptables -S` or a file for iptables-restore: chains and INPUT's policy."""
    chains, policy, table, command = {}, "ACCEPT", "filter", ""
    for line in text.splitlines():
        line = line.strip()
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith("### tuple ###"):
            told = _tuple(line)
            command = _command(told) if told else ""
        elif line.startswith("###"):
            command = ""
        elif table != "filter" or not line or line.startswith("#"):
            continue
        elif line.startswith((":", "-N ")):
            chains.setdefault(line.removeprefix(":").removeprefix("-N ").split()[0], [])
        elif line.startswith("-P INPUT "):
            policy = line.split()[2]
        elif line.startswith(("-A ", "--append ", "-I ", "--insert ")):
            words = shlex.split(line) if "'" in line or '"' in line else line.split()
            place, chain, tests = words[0], words[1], _tests(words[2:])
            jumps = [test for test in tests if test[1] in ("-j", "--jump", "-g", "--goto") and test[2]]
            rule = Rule(
                tests=tuple(test for test in tests if test not in jumps),
                target=jumps[0][2][0] if jumps else "",
                goto=bool(jumps) and jumps[0][1] in ("-g", "--goto"),
                text=line,
                source=source,
                command=command,
            )
            rules = chains.setdefault(chain, [])
            rules.insert(0 if place in ("-I", "--insert") else len(rules), rule)
    return chains, policy


def _covers(spec, port):
    """Whether an iptables list of ports (80,1000:7000,http) names the port; None if that cannot be told."""
    for part in spec.split(","):
        low, colon, high = part.partition(":")
        ends = (low or "0", high or "65535") if colon else (low, low)
        try:
            low, high = (int(end) if end.isdigit() else socket.getservbyname(end) for end in ends)
        except OSError:
            return None
        if low <= port <= high:
            return True
    return False


def _fits(option, values, port, proto):
    """Whether a condition holds for a new connection from outside: True, False, or None for sometimes."""
    value = values[0] if values else ""
    if option in ("-m", "--match", "--comment", "--reject-with") or option.startswith("--log-"):
        return True
    if option in ("-p", "--protocol", "--proto"):
        return value in ("all", "0", proto, str(socket.getprotobyname(proto)))
    if option in ("-i", "--in-interface"):
        return False if value == "lo" else True if value == "+" else None
    if option in ("-s", "--source", "--src", "-d", "--destination", "--dst"):
        try:
            network = ipaddress.ip_network(value, strict=False)
        except ValueError:
            return None
        if network.is_loopback or (network.is_multicast and option.startswith(("-d", "--d"))):
            return False
        return True if network.prefixlen == 0 else None
    if option in ("--dport", "--destination-port", "--dports", "--destination-ports"):
        return _covers(value, port)
    if option == "--ports":
        return _covers(value, port) or None
    if option in ("--ctstate", "--state"):
        states = set(value.upper().split(","))
        return True if "NEW" in states else False if states <= {"INVALID", "ESTABLISHED", "RELATED"} else None
    if option == "--dst-type":
        return "LOCAL" in value.upper().split(",")
    return None


def _matches(rule, port, proto):
    grade = ALL
    for negated, option, values in rule.tests:
        fits = _fits(option, values, port, proto)
        if fits is None:
            grade = SOME
        elif fits == negated:
            return NO
    return grade


def _ways_in(view, port, without=()):
    """The ways in for a new connection from outside to the port, were the rules in `without` not there."""
    hits = []

    def walk(chain, path, everybody):
        """True where a packet can leave the chain at its end or by RETURN."""
        leaks = False
        for rule in view.chains.get(chain, ()):
            if rule.command and rule.command in without:
                continue
            grade = _matches(rule, *port)
            if grade == NO:
                continue
            here, sure = (*path, rule), everybody and grade == ALL
            ends = True
            if rule.target == "ACCEPT":
                hits.append(Hit(here, sure))
            elif rule.target == "RETURN":
                leaks = True
            elif rule.target in view.chains:
                came_out = walk(rule.target, here, sure)
                leaks = leaks or (rule.goto and came_out)
                ends = rule.goto or not came_out
            elif rule.target not in ("DROP", "REJECT"):
                ends = False
            if ends and grade == ALL:
                return leaks
        return True

    if walk("INPUT", (), True) and view.policy == "ACCEPT":
        hits.append(Hit((), True))
    return hits


def _open_to(view, port, without=()):
    """NO, SOME or ALL: who gets in."""
    hits = _ways_in(view, port, without)
    return ALL if any(hit.everybody for hit in hits) else SOME if hits else NO


def _written(hit):
    """The ufw rule that this way in goes through, if any."""
    return next((rule.command for rule in hit.path if rule.command), "")


def _told(hit, view):
    """Name a way in by the rule which an operator would look for, and where it stands."""
    if not hit.path:
        return POLICY, view.source
    rule = next((rule for rule in reversed(hit.path) if rule.tests), hit.path[-1])
    return (_written(hit) or rule.text), rule.source


def _families():
    """v4, and v6 unless the kernel runs without it (the same question that ufw asks)."""
    return ["v4", "v6"] if os.path.exists(os.path.join(PROC, "sys/net/ipv6")) else ["v4"]


def _configured(family, policy):
    """What ufw loads at boot: its files, joined as its own start script joins them."""
    six = "6" if family == "v6" else ""
    chains = {}
    for name in ("before", "user", "after"):
        path = f"{RULES}/{name}{six}.rules"
        for chain, rules in _chains(_read(path), path)[0].items():
            chains.setdefault(chain, []).extend(rules)
    joints = (
        f"-A ufw{six}-before-input -j ufw{six}-user-input\n"
        f"-A ufw{six}-skip-to-policy-input -j {policy}\n"
        f"-A INPUT -j ufw{six}-before-input\n"
        f"-A INPUT -j ufw{six}-after-input\n"
    )
    for chain, rules in _chains(joints, RULES)[0].items():
        chains.setdefault(chain, []).extend(rules)
    return View(chains, policy, DEFAULTS)


def _loaded(family):
    """What the kernel does now; None for a family that it does not know."""
    name = "ip6tables" if family == "v6" else "iptables"
    program = _program(name)
    if not program:
        raise CommandExecutionError(ABSENT)
    ret = _run([program, "-w", "5", "-S"])
    if ret["retcode"]:
        if family == "v6" and not os.path.exists(os.path.join(PROC, "net/if_inet6")):
            return None
        reason = (ret["stderr"].strip().splitlines() or ["no reason given"])[-1]
        raise CommandExecutionError(f"{name} cannot read the firewall: {reason}. Try: {name} -S, as root")
    return View(*_chains(ret["stdout"], "kernel"), "kernel")


def _leads(view, chain, target):
    return any(rule.target == target and not rule.tests for rule in view.chains.get(chain, ()))


def _running(view, configured, family):
    """Whether ufw is in the kernel, whole: without its first file neither loopback nor an answer gets in."""
    prefix = "ufw6" if family == "v6" else "ufw"
    before, user = f"{prefix}-before-input", f"{prefix}-user-input"
    if not (_leads(view, "INPUT", before) and _leads(view, before, user) and user in view.chains):
        return False
    return _lets_loopback(view, before) or not _lets_loopback(configured, before)


def _lets_loopback(view, chain):
    return any(rule.target == "ACCEPT" and (False, "-i", ["lo"]) in rule.tests for rule in view.chains[chain])


class Facts(NamedTuple):
    """Everything about the firewall, read once."""

    enabled: bool
    active: bool
    ipv6: bool
    incoming: str
    outgoing: str
    routed: str
    configured: dict
    loaded: dict


def _facts():
    if not installed():
        raise CommandExecutionError(ABSENT)
    settings = {**_settings(DEFAULTS), **_settings(CONFIG)}
    ipv6 = settings.get("IPV6") == "YES"
    loaded = {family: view for family in _families() if (view := _loaded(family))}
    wanted = [family for family in loaded if family == "v4" or ipv6]
    # What is to be is decided with the policy that is to be.
    configured = {family: _configured(family, "DROP") for family in _families()}
    return Facts(
        enabled=settings.get("ENABLED") == "YES",
        active=bool(wanted) and all(_running(loaded[family], configured[family], family) for family in wanted),
        ipv6=ipv6,
        incoming=settings.get("DEFAULT_INPUT_POLICY", ""),
        outgoing=settings.get("DEFAULT_OUTPUT_POLICY", ""),
        routed=settings.get("DEFAULT_FORWARD_POLICY", ""),
        configured=configured,
        loaded=loaded,
    )


def _parse_port(port):
    """(6379, "tcp") from 6379, "6379" or "6379/tcp"."""
    number, _, proto = str(port).partition("/")
    proto = proto or "tcp"
    if not number.isdecimal() or not 0 < int(number) < 65536 or proto not in ("tcp", "udp"):
        raise CommandExecutionError(f"{port} is not a port: write it as 80/tcp or 443/udp.")
    return int(number), proto


def _port(port):
    return f"{port[0]}/{port[1]}"


def installed():
    """
    Tell whether ufw is there.

    :return: True or False.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 ufw.installed
    """
    return bool(_program("ufw"))


def status():
    """
    Read the firewall: settings, rules, and whether the kernel has them.

    :return: dict with ``installed``; if it is, also ``enabled`` (at boot), ``active`` (in the kernel now),
        ``ipv6``, ``policies`` (incoming, outgoing, routed: allow, deny or reject) and ``rules``: one dict per
        rule and family with ``rule`` (what one types after ``ufw``), ``family`` (v4 or v6), ``action``,
        ``direction``, ``proto``, ``port`` (22, ``80,443``, ``1000:7000`` or any), ``from``, ``to``,
        ``from_port``, ``interface``, ``app``, ``route``, ``comment``.
    :raises CommandExecutionError: if the files or the kernel cannot be read.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 ufw.status
    """
    if not installed():
        return {"installed": False}
    facts = _facts()
    rules = []
    for family in _families():
        text = _read(f"{RULES}/user{'6' if family == 'v6' else ''}.rules")
        for line in text.splitlines():
            if line.startswith("### tuple ###") and (rule := _tuple(line)):
                rules.append({"rule": _command(rule), "family": family, **rule})
    return {
        "installed": True,
        "enabled": facts.enabled,
        "active": facts.active,
        "ipv6": facts.ipv6,
        "policies": {
            "incoming": POLICIES.get(facts.incoming, "unknown"),
            "outgoing": POLICIES.get(facts.outgoing, "unknown"),
            "routed": POLICIES.get(facts.routed, "unknown"),
        },
        "rules": rules,
    }


def permits(port, proto="tcp"):
    """
    List what lets a port in from outside the host, now or after the next boot. A host without ufw, or with
    ufw off, lets everything in, and that is then in the list.

    :param port: port, an integer from 1 to 65535.
    :param proto: ``tcp`` or ``udp``.
    :return: list of dicts with ``rule`` (what one types after ``ufw``, or the iptables rule), ``family``
        (v4 or v6) and ``source`` (the file that holds it, or ``kernel``). Empty: the port is closed.
    :raises CommandExecutionError: if the files or the kernel cannot be read.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 ufw.permits 6379
    """
    port = _parse_port(f"{port}/{proto}")
    if not installed():
        return [{"rule": "ufw is not installed", "family": each, "source": "host"} for each in _families()]
    facts = _facts()
    found = []
    for family in _families():
        # Where IPv6 is off, ufw drops all of it, and its IPv6 rules wait.
        if facts.enabled and (family == "v4" or facts.ipv6):
            view = _configured(family, facts.incoming)
            hits = _ways_in(view, port)
            found += [(*_told(hit, view), family) for hit in hits]
        else:
            hits = []
        # The kernel's copy of what stands in ufw's files is not told twice.
        if live := facts.loaded.get(family):
            hits = [hit for hit in _ways_in(live, port) if (not hits or _foreign(hit)) and not _private(hit)]
            found += [(*_told(hit, live), family) for hit in hits]
    if not facts.active:
        found = [("ufw is off" if rule == POLICY else rule, *rest) for rule, *rest in found]
    return [dict(zip(("rule", "source", "family"), each, strict=True)) for each in dict.fromkeys(found)]


def _foreign(hit):
    """A way in that does not lead through ufw's chains: somebody put it beside them."""
    return bool(hit.path) and not hit.path[0].target.startswith("ufw")


def _private(hit):
    """
    A way in that somebody else's program opened for a network of its own, as Tailscale and other tunnels do:
    bound to an interface that the internet does not come in by, and for every port alike.
    """
    tests = [test for rule in hit.path for test in rule.tests]
    if not _foreign(hit) or any("port" in option for _, option, _ in tests):
        return False
    names = [values[0] for negated, option, values in tests if option in ("-i", "--in-interface") and not negated]
    public = _public_interfaces()
    return bool(public) and any(not _names_one_of(name, public) for name in names)


def _names_one_of(name, interfaces):
    """An interface's name as iptables takes it: `eth+` is all that begin with eth."""
    if name.endswith("+"):
        return any(each.startswith(name[:-1]) for each in interfaces)
    return name in interfaces


def _public_interfaces():
    """Those of a default route, and those with an address that the internet can reach."""
    found = set()
    for line in _read(f"{PROC}/net/route").splitlines()[1:]:
        words = line.split()
        if words[1] == words[7] == "00000000":
            found.add(words[0])
    for line in _read(f"{PROC}/net/ipv6_route").splitlines():
        words = line.split()
        if words[0] == "0" * 32 and words[1] == "00" and words[-1] != "lo":
            found.add(words[-1])
    for name, addresses in __grains__.get("ip_interfaces", {}).items():
        if any(ipaddress.ip_address(each).is_global for each in addresses):
            found.add(name)
    return found


def ssh_ports():
    """
    Find the ports on which this host is administered: those of sshd's configuration, of ssh.socket where
    systemd listens for sshd (Ubuntu 24.04), and of the ssh session that asks.

    :return: sorted list of integers, empty on a host without ssh.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 ufw.ssh_ports
    """
    ports = set()
    sshd = _program("sshd")
    if sshd:
        ret = _run([sshd, "-T"])
        text = "" if ret["retcode"] else ret["stdout"]
        ports.update(re.findall(r"^listenaddress \S*:(\d+)$", text, re.MULTILINE))
        if not ports:
            # sshd -T answers only where sshd could start: without /run/sshd, for one, it does not.
            ports.update(_written_ssh_ports(SSHD_CONFIG) or {"22"})
    if _program("systemctl"):
        ret = _run([_program("systemctl"), "show", "ssh.socket", "-pListen,ActiveState,UnitFileState"])
        if re.search(r"^(ActiveState=active|UnitFileState=enabled)$", ret["stdout"], re.MULTILINE):
            ports.update(re.findall(r"^Listen=\S*?(\d+) \(Stream\)$", ret["stdout"], re.MULTILINE))
    ports.update(_session_ports())
    return sorted(int(port) for port in ports)


def _written_ssh_ports(path):
    ports = set()
    for line in _read(path).splitlines():
        words = line.partition("#")[0].replace("=", " ", 1).split()
        keyword = words[0].lower() if len(words) > 1 else ""
        if keyword == "port":
            ports.add(words[1])
        elif keyword == "listenaddress":
            ports.update(re.findall(r"(?:\]|^[^:]+):(\d+)$", words[1]))
        elif keyword == "include":
            for pattern in words[1:]:
                for name in glob.glob(os.path.join(os.path.dirname(SSHD_CONFIG), pattern)):
                    ports |= _written_ssh_ports(name)
    return ports


def _session_ports():
    """The port of the ssh session above this process: sudo takes SSH_CONNECTION away, its parents keep it."""
    pid = os.getpid()
    while pid > 1:
        try:
            session = re.search(r"(?:^|\0)SSH_CONNECTION=\S+ \d+ \S+ (\d+)\0", _read(f"{PROC}/{pid}/environ"))
            # The program's name stands in brackets and may hold anything.
            parent = re.search(r".*\) \S (\d+) ", _read(f"{PROC}/{pid}/stat"), re.DOTALL)
        except CommandExecutionError:
            break
        if session:
            return {session.group(1)}
        pid = int(parent.group(1)) if parent else 0
    return set()


def drift(allow=(), closed=()):
    """
    Compare the firewall with what it should be: on, at boot and in the kernel, for IPv4 and IPv6; incoming
    denied and outgoing allowed by default; ssh and the ports of ``allow`` open to everybody, those of
    ``closed`` to nobody. ``ufw limit`` on an open port counts as open.

    :param allow: list of ports to be open, ``80/tcp`` or ``443/udp``.
    :param closed: list of ports to be closed, 6379 or ``6379/tcp``.
    :return: dict with ``changes`` (every drift by its name, with old and new), ``allow`` (ports that need a
        rule), ``delete`` (ufw rules that let a closed port in), ``reload`` (whether the firewall has to be
        loaded anew), ``stuck`` (a sentence for each way in that ufw did not write and cannot take back) and
        ``remarks`` (a sentence for each interface of a private network, such as a VPN's, that lets all ports in).
    :raises CommandExecutionError: if the files or the kernel cannot be read, or a port is not one.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 ufw.drift allow='[80/tcp, 443/tcp]' closed='[6379, 5432]'
    """
    wanted = list(dict.fromkeys([*((port, "tcp") for port in ssh_ports()), *map(_parse_port, allow)]))
    closed = list(dict.fromkeys(map(_parse_port, closed)))
    changes, missing, doomed, stuck, remarks = {}, [], [], [], []
    if not installed():
        changes["ufw"] = {"old": "not installed", "new": "on"}
        changes.update({_port(port): {"old": "no rule", "new": f"open by: allow {_port(port)}"} for port in wanted})
        missing = [_port(port) for port in wanted]
        return {"changes": changes, "allow": missing, "delete": [], "reload": True, "stuck": [], "remarks": []}
    facts = _facts()
    for what, old, new in (
        ("at boot", "on" if facts.enabled else "off", "on"),
        ("in the kernel", "on" if facts.active else "off", "on"),
        ("ipv6", "on" if facts.ipv6 else "off", "on"),
        ("incoming", POLICIES.get(facts.incoming, "unknown"), "deny"),
        ("outgoing", POLICIES.get(facts.outgoing, "unknown"), "allow"),
    ):
        if old != new:
            changes[what] = {"old": old, "new": new}
    reload = bool(changes)

    for port in closed:
        rules = []
        for family, view in facts.configured.items():
            # A rule that goes may have stood before another one that lets the port in as well.
            while found := [rule for hit in _ways_in(view, port, rules) if (rule := _written(hit))]:
                rules += found
            live = facts.loaded.get(family)
            hits = _ways_in(live, port) if live else []
            stuck += [_sentence(hit, view, port, family) for hit in _ways_in(view, port, rules)]
            stuck += [_sentence(hit, live, port, family) for hit in hits if _foreign(hit) and not _private(hit)]
            remarks += [f"'{_told(hit, live)[0]}' lets everything in" for hit in hits if _private(hit)]
            if not reload and not _ways_in(view, port) and not all(map(_foreign, hits)):
                changes[_port(port)] = {"old": "open in the kernel", "new": "closed"}
                reload = True
        if rules:
            rules = list(dict.fromkeys(rules))
            changes[_port(port)] = {"old": f"open by: {', '.join(rules)}", "new": "closed"}
            doomed += [rule for rule in rules if rule not in doomed]

    for port in wanted:
        if any(_open_to(view, port, doomed) < ALL for view in facts.configured.values()):
            missing.append(_port(port))
            changes[_port(port)] = {"old": _who(facts.configured, port), "new": f"open by: allow {_port(port)}"}
        elif not reload and any(_open_to(view, port) < ALL for view in facts.loaded.values()):
            changes[_port(port)] = {"old": "closed in the kernel", "new": "open"}
            reload = True
    return {
        "changes": changes,
        "allow": missing,
        "delete": doomed,
        "reload": reload,
        "stuck": list(dict.fromkeys(stuck)),
        "remarks": list(dict.fromkeys(remarks)),
    }


def _sentence(hit, view, port, family):
    rule, source = _told(hit, view)
    if source == "kernel":
        program = "ip6tables" if family == "v6" else "iptables"
        return f"{_port(port)} is open in the kernel by '{rule}'. Try: {program} {rule.replace('-A', '-D', 1)}"
    return f"{_port(port)} is open by '{rule}'. Try: remove it from {source}, then ufw reload"


def _who(views, port):
    """How a port stands now, in a few words."""
    hits = {family: _ways_in(view, port) for family, view in views.items()}
    rules = dict.fromkeys(_told(hit, views[family])[0] for family in hits for hit in hits[family])
    if not rules:
        return "closed"
    some = "" if all(_open_to(view, port) == ALL for view in views.values()) else " to some"
    return f"open{some} by: {', '.join(rules)}"


def allow(port):
    """
    Open a port to everybody, for IPv4 and IPv6. The rule goes behind those that are there, so that what an
    operator denied to some stays denied; only where one of them would shut everybody out it goes to the top.

    :param port: ``80/tcp`` or ``443/udp``; a bare number is TCP.
    :return: True.
    :raises CommandExecutionError: if it is not a port, or ufw refuses.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 ufw.allow 80/tcp
    """
    port = _parse_port(port)
    if not installed():
        raise CommandExecutionError(ABSENT)
    for family in _families():
        view = _configured(family, "DROP")
        user = "ufw6-user-input" if family == "v6" else "ufw-user-input"
        last = _chains(f"-A {user} -p {port[1]} --dport {port[0]} -j ACCEPT", "")[0][user]
        appended = view._replace(chains={**view.chains, user: [*view.chains.get(user, ()), *last]})
        if _open_to(appended, port) < ALL:
            # ufw does not move a rule that it has.
            _ufw("delete", "allow", _port(port))
            _ufw("prepend", "allow", _port(port))
            return True
    _ufw("allow", _port(port))
    return True


def delete(rule):
    """
    Delete a rule, for IPv4 and IPv6. Refused if ssh would no longer get in as it does now.

    :param rule: the rule as it was typed after ``ufw`` (``allow 6379/tcp``), see ``ufw.status``.
    :return: True.
    :raises CommandExecutionError: if that would cut ssh off, or ufw refuses.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 ufw.delete 'allow 6379/tcp'
    """
    facts = _facts()
    for port in ssh_ports() if facts.enabled else []:
        for view in facts.configured.values():
            if _open_to(view, (port, "tcp"), [rule]) < _open_to(view, (port, "tcp")):
                raise CommandExecutionError(
                    f"'{rule}' is what lets ssh in on port {port}. Try: ufw allow {port}/tcp, and then again"
                )
    _ufw("delete", *shlex.split(rule))
    return True


def disable():
    """
    Take ufw out of the kernel and off at boot. Rules stay in its files.

    :return: True.
    :raises CommandExecutionError: if ufw refuses.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 ufw.disable
    """
    _ufw("disable")
    return True


def enable(ports=(), rules=()):
    """
    Load the firewall anew and turn it on at boot: incoming denied, outgoing allowed, for IPv4 and IPv6. The
    ports of ssh are opened before, so that the session that asks for it goes on.

    A file of ufw's that cannot be loaded is refused before anything is touched; whatever fails after that, a
    firewall that was in the kernel before is there again.

    :param ports: list of ports to be opened on the way, ``80/tcp`` or ``443/udp``.
    :param rules: list of rules to be deleted on the way, as for ``ufw.delete``.
    :return: True.
    :raises CommandExecutionError: if ufw refuses, or is not in the kernel after it.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 ufw.enable
    """
    facts = _facts()
    for family in facts.loaded:
        _check_files(family)
    kept, loaded = {}, False
    try:
        # ufw leaves chains alone that are in the kernel already, and writes no rule to a firewall half loaded.
        if facts.enabled or any(chain.startswith("ufw") for chain in facts.loaded["v4"].chains):
            kept = _keep(facts)
            disable()
            _hang_up()
        if not facts.ipv6:
            __salt__["file.replace"](
                DEFAULTS, "^IPV6=.*$", "IPV6=yes", flags=["MULTILINE"], append_if_not_found=True, backup=False
            )
        if facts.incoming != "DROP":
            _ufw("default", "deny", "incoming")
        if facts.outgoing != "ACCEPT":
            _ufw("default", "allow", "outgoing")
        ssh = [(port, "tcp") for port in ssh_ports()]
        ssh = [port for port in ssh if any(_open_to(view, port, rules) < ALL for view in facts.configured.values())]
        for port in ssh:
            allow(_port(port))
        try:
            for port in ports:
                if _parse_port(port) not in ssh:
                    allow(port)
            for rule in rules:
                delete(rule)
        finally:
            # One rule that is refused must not leave the host without a firewall.
            _ufw("--force", "enable")
            loaded = _facts().active
        if not loaded:
            raise CommandExecutionError("ufw was enabled and is not in the kernel. Try: ufw --force enable")
    except BaseException:
        if kept and not loaded:
            _bring_back(facts, kept)
        raise
    return True


def _restore(family):
    return "ip6tables-restore" if family == "v6" else "iptables-restore"


def _check_files(family):
    """Ask the program that loads ufw's files whether it could."""
    for name in ("before", "after", "user"):
        path = f"{RULES}/{name}{'6' if family == 'v6' else ''}.rules"
        text = _read(path)
        if not text.strip():
            raise CommandExecutionError(f"{path} is missing or empty. Try: apt-get install --reinstall ufw")
        # Chains of ufw's own that are made before this file is loaded.
        declared = set(re.findall(r"^:(\S+)", text, re.MULTILINE))
        called = dict.fromkeys(re.findall(r"(?:-j|-g|--jump|--goto) (ufw6?-\S+)", text))
        chains = [f":{chain} - [0:0]" for chain in called if chain not in declared]
        text = re.sub(r"^\*filter$", "\n".join(["*filter", *chains]), text, count=1, flags=re.MULTILINE)
        ret = _run([_program(_restore(family)), "--test", "--noflush"], text)
        if not ret["retcode"]:
            continue
        said = [line for line in ret["stderr"].splitlines() if line and not line.startswith("Try ")]
        reason = re.sub(r"^ip6?tables-restore[^:]*: ", "", said[0]) if said else f"exit code {ret['retcode']}"
        number = re.search(r"line:? (\d+)", "\n".join(said))
        lines = text.splitlines()
        where = f", in '{lines[int(number[1]) - 1]}'" if number and 0 < int(number[1]) <= len(lines) else ""
        raise CommandExecutionError(
            f"{path} cannot be loaded: {reason}{where}. Try: {_restore(family)} --test --noflush < {path}"
        )


def _keep(facts):
    """The filter tables as they are in the kernel, for the program that loads them."""
    kept = {}
    for family in facts.loaded:
        ret = _run([_program(_restore(family).replace("restore", "save")), "-t", "filter"])
        if not ret["retcode"]:
            kept[family] = ret["stdout"] + "\n"
    return kept


def _bring_back(facts, kept):
    """What was in the kernel before, and whether ufw was to load it at boot."""
    for family, text in kept.items():
        _run([_program(_restore(family))], text)
    if facts.enabled:
        __salt__["file.replace"](CONFIG, "^ENABLED=.*$", "ENABLED=yes", flags=["MULTILINE"], backup=False)


def _hang_up():
    """ufw leads INPUT to its chains when it makes them: after `iptables -F` they are there and nothing does."""
    for family in _families():
        view = _loaded(family)
        program, prefix = ("ip6tables", "ufw6") if family == "v6" else ("iptables", "ufw")
        for way in ("input", "output", "forward"):
            for part in ("before-logging", "before", "after", "after-logging", "reject", "track"):
                chain = f"{prefix}-{part}-{way}"
                if view and chain in view.chains and not _leads(view, way.upper(), chain):
                    _run([_program(program), "-w", "5", "-A", way.upper(), "-j", chain])
