"""
What a firewall lets in, and what of it is not as it should be: decided from facts that ``ufw`` read. Pure, nothing is
run or read here, and Salt is not imported.
"""

import re

POLICIES = {"ACCEPT": "allow", "DROP": "deny", "REJECT": "reject"}


def policies(facts):
    """
    What the chains end with, in the words of ufw.

    :param facts: the firewall, as ``ufw`` read it.
    :return: dict with ``incoming``, ``outgoing`` and ``routed``: allow, deny, reject or unknown.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 ufw.status
    """
    return {way: POLICIES.get(name, "unknown") for way, name in facts.policies.items()}


def ways_in(facts, at_boot, port):
    """
    List what lets a port in from outside the host, now or after the next boot.

    :param facts: the firewall, as ``ufw`` read it.
    :param at_boot: dict of families and the ``View`` that ufw loads; one without has none of ufw's rules.
    :param port: a ``Port``.
    :return: list of dicts with ``rule``, ``source`` and ``family``, as of ``ufw.permits``.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 ufw.permits 6379
    """
    found = []
    for family in facts.configured:
        view, live = at_boot.get(family), facts.loaded.get(family)
        known = view.ways_in(port) if view else []
        # The kernel's copy of what stands in ufw's files is not told twice.
        added = [hit for hit in live.ways_in(port) if not known or hit.foreign()] if live else []
        found += [(hit, view, family) for hit in known]
        found += [(hit, live, family) for hit in added if not hit.private(facts.public)]
    told = {}
    for hit, view, family in found:
        rule, source = hit.told(view)
        rule = rule if facts.active or hit.path else "ufw is off"
        told[rule, source, family] = {"rule": rule, "source": source, "family": family}
    return list(told.values())


def drift(facts, wanted, closed):
    """
    Compare the firewall with what it should be.

    :param facts: the firewall, as ``ufw`` read it; None for a host without ufw.
    :param wanted: list of ``Port``, to be open to everybody.
    :param closed: list of ``Port``, to be closed.
    :return: dict, as of ``ufw.drift``.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 ufw.drift allow='[80/tcp, 443/tcp]' closed='[6379, 5432]'
    """
    changes, missing, doomed, stuck, remarks = {}, [], [], [], []
    if not facts:
        changes["ufw"] = {"old": "not installed", "new": "on"}
        changes.update({str(port): {"old": "no rule", "new": f"open by: allow {port}"} for port in wanted})
        missing = [str(port) for port in wanted]
        return {"changes": changes, "allow": missing, "delete": [], "reload": True, "stuck": [], "remarks": []}
    ends = policies(facts)
    for what, old, new in (
        ("at boot", "on" if facts.enabled else "off", "on"),
        ("in the kernel", "on" if facts.active else "off", "on"),
        ("ipv6", "on" if facts.ipv6 else "off", "on"),
        ("incoming", ends["incoming"], "deny"),
        ("outgoing", ends["outgoing"], "allow"),
    ):
        if old != new:
            changes[what] = {"old": old, "new": new}
    reload = bool(changes)

    for port in closed:
        rules = []
        for family, view in facts.configured.items():
            # A rule that goes may have stood before another one that lets the port in as well.
            while found := [rule for hit in view.ways_in(port, rules) if (rule := hit.written())]:
                rules += found
            live = facts.loaded.get(family)
            hits = live.ways_in(port) if live else []
            stuck += [_sentence(hit, view, port, family) for hit in view.ways_in(port, rules)]
            stuck += [
                _sentence(hit, live, port, family) for hit in hits if hit.foreign() and not hit.private(facts.public)
            ]
            remarks += [f"'{hit.told(live)[0]}' lets everything in" for hit in hits if hit.private(facts.public)]
            if not reload and not view.ways_in(port) and not all(hit.foreign() for hit in hits):
                changes[str(port)] = {"old": "open in the kernel", "new": "closed"}
                reload = True
        if rules:
            rules = list(dict.fromkeys(rules))
            changes[str(port)] = {"old": f"open by: {', '.join(rules)}", "new": "closed"}
            doomed += [rule for rule in rules if rule not in doomed]

    for port in wanted:
        if any(not view.lets_all_in(port, doomed) for view in facts.configured.values()):
            missing.append(str(port))
            changes[str(port)] = {"old": _who(facts.configured, port), "new": f"open by: allow {port}"}
        elif not reload and any(not view.lets_all_in(port) for view in facts.loaded.values()):
            changes[str(port)] = {"old": "closed in the kernel", "new": "open"}
            reload = True
    return {
        "changes": changes,
        "allow": missing,
        "delete": doomed,
        "reload": reload,
        "stuck": list(dict.fromkeys(stuck)),
        "remarks": list(dict.fromkeys(remarks)),
    }


def alone(text):
    """
    One of ufw's files as iptables-restore takes it alone: with the chains that ufw makes before it loads the file.

    :param text: the file's text.
    :return: the text to try.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 ufw.enable
    """
    declared = set(re.findall(r"^:(\S+)", text, re.MULTILINE))
    called = dict.fromkeys(re.findall(r"(?:-j|-g|--jump|--goto) (ufw6?-\S+)", text))
    chains = [f":{chain} - [0:0]" for chain in called if chain not in declared]
    return re.sub(r"^\*filter$", "\n".join(["*filter", *chains]), text, count=1, flags=re.MULTILINE)


def refusal(text, said):
    """
    Why iptables-restore does not take a text, and which line of it.

    :param text: the text.
    :param said: what the program wrote to standard error.
    :return: a reason, or an empty string where it gave none.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 ufw.enable
    """
    said = [line for line in said.splitlines() if line and not line.startswith("Try ")]
    if not said:
        return ""
    number = re.search(r"line:? (\d+)", "\n".join(said))
    lines = text.splitlines()
    where = f", in '{lines[int(number[1]) - 1]}'" if number and 0 < int(number[1]) <= len(lines) else ""
    return re.sub(r"^ip6?tables-restore[^:]*: ", "", said[0]) + where


def _sentence(hit, view, port, family):
    rule, source = hit.told(view)
    if source == "kernel":
        program = "ip6tables" if family == "v6" else "iptables"
        return f"{port} is open in the kernel by '{rule}'. Try: {program} {rule.replace('-A', '-D', 1)}"
    return f"{port} is open by '{rule}'. Try: remove it from {source}, then ufw reload"


def _who(views, port):
    """How a port stands now, in a few words."""
    hits = {family: view.ways_in(port) for family, view in views.items()}
    rules = dict.fromkeys(hit.told(views[family])[0] for family in hits for hit in hits[family])
    if not rules:
        return "closed"
    some = "" if all(view.lets_all_in(port) for view in views.values()) else " to some"
    return f"open{some} by: {', '.join(rules)}"
