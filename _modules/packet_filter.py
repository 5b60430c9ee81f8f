"""
Which iptables rules let a new connection in: pure, nothing is run or read here, and Salt is not imported.

The files of ufw and what the kernel has are both lists of iptables rules, so one walk over the chains, as a packet
takes it, answers for both which rules let a new connection from outside the host in: any spelling (port, list, range,
no port at all, application profile, interface, IPv6 only), any place (before.rules, rules put in with iptables, the
default policy), and only where no earlier rule stops it.

The walk is careful on the closed side. A rule that allows under a condition (a source address, an interface other
than lo) does let the port in; a rule that denies under a condition does not close it. Harmless are only loopback, and
what another program than ufw opened for all ports of a private network's interface, as Tailscale.
"""

import ipaddress
import os
import shlex
import socket
from typing import NamedTuple

# A rule does not fit a packet, fits it under a condition, or fits it whatever its source.
NO, SOME, ALL = 0, 1, 2
ANYWHERE = {"0.0.0.0/0": "any", "::/0": "any"}


class Port(NamedTuple):
    """A port as a packet names it; its text is what one types after `ufw allow`."""

    number: int
    proto: str

    def __str__(self):
        return f"{self.number}/{self.proto}"


class Rule(NamedTuple):
    """One iptables rule; `command` is what one types after `ufw` for it, if ufw wrote it."""

    tests: tuple
    target: str
    goto: bool
    text: str
    source: str
    command: str

    def grade(self, port):
        """NO, SOME or ALL: which new connections to the port it fits."""
        grade = ALL
        for negated, option, values in self.tests:
            fits = _fits(option, values, *port)
            if fits is None:
                grade = SOME
            elif fits == negated:
                return NO
        return grade


class Hit(NamedTuple):
    """A way in: the rules that lead to an ACCEPT (none: the policy), and whether everybody can take it."""

    path: tuple
    everybody: bool

    def written(self):
        """The ufw rule that this way in goes through, if any."""
        return next((rule.command for rule in self.path if rule.command), "")

    def told(self, view):
        """Name it by the rule which an operator would look for, and where that stands."""
        if not self.path:
            return "default policy allow", view.source
        rule = next((rule for rule in reversed(self.path) if rule.tests), self.path[-1])
        return (self.written() or rule.text), rule.source

    def foreign(self):
        """It does not lead through ufw's chains: somebody put it beside them."""
        return bool(self.path) and not self.path[0].target.startswith("ufw")

    def private(self, public):
        """
        Somebody else's program opened it for a network of its own, as Tailscale and other tunnels do: bound to an
        interface that is none of the `public` ones, which the internet comes in by, and for every port alike.
        """
        tests = [test for rule in self.path for test in rule.tests]
        if not self.foreign() or any("port" in option for _, option, _ in tests):
            return False
        names = [values[0] for negated, option, values in tests if option in ("-i", "--in-interface") and not negated]
        return bool(public) and any(not _names_one_of(name, public) for name in names)


class View(NamedTuple):
    """The filter table of one family, as configured or as loaded: its chains and what INPUT ends with."""

    chains: dict
    policy: str
    source: str

    def ways_in(self, port, without=()):
        """The ways in for a new connection from outside to the port, were the rules in `without` not there."""
        hits = []

        def walk(chain, path, everybody):
            """True where a packet can leave the chain at its end or by RETURN."""
            leaks = False
            for rule in self.chains.get(chain, ()):
                if rule.command and rule.command in without:
                    continue
                grade = rule.grade(port)
                if grade == NO:
                    continue
                here, sure = (*path, rule), everybody and grade == ALL
                ends = True
                if rule.target == "ACCEPT":
                    hits.append(Hit(here, sure))
                elif rule.target == "RETURN":
                    leaks = True
                elif rule.target in self.chains:
                    came_out = walk(rule.target, here, sure)
                    leaks = leaks or (rule.goto and came_out)
                    ends = rule.goto or not came_out
                elif rule.target not in ("DROP", "REJECT"):
                    ends = False
                if ends and grade == ALL:
                    return leaks
            return True

        if walk("INPUT", (), True) and self.policy == "ACCEPT":
            hits.append(Hit((), True))
        return hits

    def open_to(self, port, without=()):
        """NO, SOME or ALL: who gets in."""
        hits = self.ways_in(port, without)
        return ALL if any(hit.everybody for hit in hits) else SOME if hits else NO

    def lets_all_in(self, port, without=()):
        """Whether everybody gets in."""
        return self.open_to(port, without) == ALL

    def leads(self, chain, target):
        """Whether every packet that comes to the end of one chain goes to another."""
        return any(rule.target == target and not rule.tests for rule in self.chains.get(chain, ()))

    def allowing(self, family, port):
        """This view with a rule of ufw's that allows the port, behind the others."""
        user = f"{_prefix(family)}-user-input"
        last = _chains(f"-A {user} -p {port.proto} --dport {port.number} -j ACCEPT", "")[0][user]
        return self._replace(chains={**self.chains, user: [*self.chains.get(user, ()), *last]})

    def holds(self, boot, family):
        """Whether ufw is in the kernel, whole: without its first file neither loopback nor an answer gets in."""
        before, user = f"{_prefix(family)}-before-input", f"{_prefix(family)}-user-input"
        if not (self.leads("INPUT", before) and self.leads(before, user) and user in self.chains):
            return False
        return self._lets_loopback(before) or not boot._lets_loopback(before)

    def _lets_loopback(self, chain):
        return any(rule.target == "ACCEPT" and (False, "-i", ["lo"]) in rule.tests for rule in self.chains[chain])

    def loose(self, family):
        """Pairs of a chain of the kernel's and one of ufw's that is there, and that nothing leads to."""
        names = [
            (way.upper(), f"{_prefix(family)}-{part}-{way}")
            for way in ("input", "output", "forward")
            for part in ("before-logging", "before", "after", "after-logging", "reject", "track")
        ]
        return [(way, chain) for way, chain in names if chain in self.chains and not self.leads(way, chain)]


def port(text):
    """
    Read a port.

    :param text: 6379, ``6379`` or ``6379/tcp``; a bare number is TCP.
    :return: a ``Port``, which is a tuple of number and protocol.
    :raises ValueError: with one sentence, if it is none.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 ufw.permits 6379
    """
    number, _, proto = str(text).partition("/")
    proto = proto or "tcp"
    if not number.isdecimal() or not 0 < int(number) < 65536 or proto not in ("tcp", "udp"):
        raise ValueError(f"{text} is not a port: write it as 80/tcp or 443/udp.")
    return Port(int(number), proto)


def kernel(text):
    """
    Read what the kernel does now.

    :param text: what ``iptables -S`` or ``ip6tables -S`` printed.
    :return: a ``View``.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 ufw.status
    """
    return View(*_chains(text, "kernel"), "kernel")


def boot(family, files, policy, source):
    """
    Read what ufw loads at boot: its files, joined as its own start script joins them.

    :param family: ``v4`` or ``v6``.
    :param files: dict of paths and texts, in the order in which ufw loads them.
    :param policy: what INPUT ends with, as iptables names it: ``DROP``.
    :param source: the file that says so.
    :return: a ``View``.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 ufw.status
    """
    prefix = _prefix(family)
    joints = (
        f"-A {prefix}-before-input -j {prefix}-user-input\n"
        f"-A {prefix}-skip-to-policy-input -j {policy}\n"
        f"-A INPUT -j {prefix}-before-input\n"
        f"-A INPUT -j {prefix}-after-input\n"
    )
    chains = {}
    for path, text in [*files.items(), (os.path.dirname(next(iter(files))), joints)]:
        for chain, rules in _chains(text, path)[0].items():
            chains.setdefault(chain, []).extend(rules)
    return View(chains, policy, source)


def noted(text):
    """
    List the rules that ufw wrote into a file.

    :param text: the file's text.
    :return: list of dicts, one for each rule; ``rule`` is what one types after ``ufw`` for it.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 ufw.status
    """
    rules = [_tuple(line) for line in text.splitlines() if line.startswith("### tuple ###")]
    return [{"rule": _command(rule), **rule} for rule in rules if rule]


def _prefix(family):
    return "ufw6" if family == "v6" else "ufw"


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


def _names_one_of(name, interfaces):
    """An interface's name as iptables takes it: `eth+` is all that begin with eth."""
    if name.endswith("+"):
        return any(each.startswith(name[:-1]) for each in interfaces)
    return name in interfaces
