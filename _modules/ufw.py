"""
Read and change ufw, the host's firewall.

Reading does not start ufw: its rules are read from the files that it writes and loads at boot, and what is
in force now from the kernel (``iptables -S``, one call per family). ``packet_filter`` tells what both let in, and
``ufw_plan`` what should be otherwise, pure both; here is what runs commands.
"""

import ipaddress
import os
import re
import shlex
import shutil
from typing import NamedTuple

from salt.exceptions import CommandExecutionError

RULES = "/etc/ufw"
CONFIG = "/etc/ufw/ufw.conf"
DEFAULTS = "/etc/default/ufw"
PROC = "/proc"
_ENV = {"LC_ALL": "C"}
CHAINS = {"incoming": "INPUT", "outgoing": "OUTPUT", "routed": "FORWARD"}
ABSENT = "ufw is not installed. Try: apt-get install ufw"


class Facts(NamedTuple):
    """Everything about the firewall, read once; `public` are the interfaces that the internet comes in by."""

    enabled: bool
    active: bool
    ipv6: bool
    policies: dict
    configured: dict
    loaded: dict
    public: set


def _program(name):
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/bin:/bin")


def _run(command, stdin=None):
    # ufw waits for another ufw without end.
    return __salt__["cmd.run_all"](
        command, stdin=stdin, python_shell=False, ignore_retcode=True, output_loglevel="quiet", timeout=60, env=_ENV
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


def _families():
    """v4, and v6 unless the kernel runs without it (the same question that ufw asks)."""
    return ["v4", "v6"] if os.path.exists(os.path.join(PROC, "sys/net/ipv6")) else ["v4"]


def _configured(family, policy):
    """What ufw loads at boot."""
    six = "6" if family == "v6" else ""
    paths = [f"{RULES}/{name}{six}.rules" for name in ("before", "user", "after")]
    return __salt__["packet_filter.boot"](family, {path: _read(path) for path in paths}, policy, DEFAULTS)


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
    return __salt__["packet_filter.kernel"](ret["stdout"])


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
        active=bool(wanted) and all(loaded[family].holds(configured[family], family) for family in wanted),
        ipv6=ipv6,
        policies={way: settings.get(f"DEFAULT_{chain}_POLICY", "") for way, chain in CHAINS.items()},
        configured=configured,
        loaded=loaded,
        public=_public_interfaces(),
    )


def _port(text):
    try:
        return __salt__["packet_filter.port"](text)
    except ValueError as exc:
        raise CommandExecutionError(str(exc)) from None


def _ssh():
    return [_port(port) for port in __salt__["sshd.ports"]()]


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
    texts = {family: _read(f"{RULES}/user{'6' if family == 'v6' else ''}.rules") for family in _families()}
    return {
        "installed": True,
        "enabled": facts.enabled,
        "active": facts.active,
        "ipv6": facts.ipv6,
        "policies": __salt__["ufw_plan.policies"](facts),
        "rules": [
            {"family": each, **rule} for each, text in texts.items() for rule in __salt__["packet_filter.noted"](text)
        ],
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
    port = _port(f"{port}/{proto}")
    if not installed():
        return [{"rule": "ufw is not installed", "family": each, "source": "host"} for each in _families()]
    facts = _facts()
    # Where IPv6 is off, ufw drops all of it, and its IPv6 rules wait.
    wanted = [family for family in _families() if facts.enabled and (family == "v4" or facts.ipv6)]
    at_boot = {family: _configured(family, facts.policies["incoming"]) for family in wanted}
    return __salt__["ufw_plan.ways_in"](facts, at_boot, port)


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
    wanted = list(dict.fromkeys([*_ssh(), *map(_port, allow)]))
    closed = list(dict.fromkeys(map(_port, closed)))
    return __salt__["ufw_plan.drift"](_facts() if installed() else None, wanted, closed)


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
    port = _port(port)
    if not installed():
        raise CommandExecutionError(ABSENT)
    if all(_configured(family, "DROP").allowing(family, port).lets_all_in(port) for family in _families()):
        _ufw("allow", str(port))
    else:
        # ufw does not move a rule that it has.
        _ufw("delete", "allow", str(port))
        _ufw("prepend", "allow", str(port))
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
    for port in _ssh() if facts.enabled else []:
        if any(view.open_to(port, [rule]) < view.open_to(port) for view in facts.configured.values()):
            raise CommandExecutionError(
                f"'{rule}' is what lets ssh in on port {port.number}. Try: ufw allow {port}, and then again"
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
        if facts.policies["incoming"] != "DROP":
            _ufw("default", "deny", "incoming")
        if facts.policies["outgoing"] != "ACCEPT":
            _ufw("default", "allow", "outgoing")
        ssh = [port for port in _ssh() if not all(view.lets_all_in(port, rules) for view in facts.configured.values())]
        for port in ssh:
            allow(port)
        try:
            for port in ports:
                if _port(port) not in ssh:
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
        text = __salt__["ufw_plan.alone"](text)
        ret = _run([_program(_restore(family)), "--test", "--noflush"], text)
        if ret["retcode"]:
            reason = __salt__["ufw_plan.refusal"](text, ret["stderr"]) or f"exit code {ret['retcode']}"
            raise CommandExecutionError(
                f"{path} cannot be loaded: {reason}. Try: {_restore(family)} --test --noflush < {path}"
            )


def _keep(facts):
    """The filter tables as they are in the kernel, for the program that loads them."""
    saved = {each: _run([_program(_restore(each).replace("restore", "save")), "-t", "filter"]) for each in facts.loaded}
    return {family: ret["stdout"] + "\n" for family, ret in saved.items() if not ret["retcode"]}


def _bring_back(facts, kept):
    """What was in the kernel before, and whether ufw was to load it at boot."""
    for family, text in kept.items():
        _run([_program(_restore(family))], text)
    if facts.enabled:
        __salt__["file.replace"](CONFIG, "^ENABLED=.*$", "ENABLED=yes", flags=["MULTILINE"], backup=False)


def _hang_up():
    """ufw leads INPUT to its chains when it makes them: after `iptables -F` they are there and nothing does."""
    for family in _families():
        program = "ip6tables" if family == "v6" else "iptables"
        for way, chain in view.loose(family) if (view := _loaded(family)) else []:
            _run([_program(program), "-w", "5", "-A", way, "-j", chain])
