"""
Keep ufw on, with what a host must let in open and what it must not let in closed.
"""

from salt.exceptions import CommandExecutionError


def enabled(name, allow=(), closed=()):
    """
    The firewall is on, at boot and in the kernel, for IPv4 and IPv6: incoming denied and outgoing allowed by
    default; the ports of ssh, as found on the host, and those of ``allow`` open to everybody. A rule that lets
    a port of ``closed`` in, in whatever spelling and from wherever, is deleted whole; what an open port needed
    of it is allowed by a rule of its own before. All other rules stay.

    What lets a closed port in and was not written by ufw (before.rules, iptables) stays too, and fails the
    state with its name. The interface of a VPN that its own program opened for all ports is only told.

    name
        Any name; not used.

    allow
        List of ports to be open, such as ``80/tcp`` and ``443/udp``.

    closed
        List of ports to be closed, such as 6379.

    .. code-block:: yaml

        firewall-enabled:
          ufw.enabled:
            - allow: [80/tcp, 443/tcp]
            - closed: [6379, 5432]
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": ""}
    allow, closed = list(allow), list(closed)
    try:
        drift = left = __salt__["ufw.drift"](allow, closed)
        ret["changes"] = drift["changes"]
        if drift["changes"] and not __opts__["test"]:
            _apply(drift)
            left = __salt__["ufw.drift"](allow, closed)
    except CommandExecutionError as exc:
        ret["result"] = False
        ret["comment"] = str(exc)
        return ret
    if left["stuck"]:
        ret["result"] = False
        ret["comment"] = ". ".join(left["stuck"])
    elif not left["changes"]:
        shut = f"; closed: {', '.join(map(str, closed))}" if closed else ""
        told = "".join(f" {remark}." for remark in left["remarks"])
        ret["comment"] = f"The firewall is on; open: {', '.join(['ssh', *map(str, allow)])}{shut}.{told}"
    elif __opts__["test"]:
        ret["result"] = None
        ret["comment"] = f"The firewall would be changed: {_named(left['changes'])}."
    else:
        ret["result"] = False
        ret["comment"] = f"The firewall still differs: {_named(left['changes'])}. Try: ufw status verbose"
    return ret


def _apply(drift):
    if drift["reload"]:
        __salt__["ufw.enable"](drift["allow"], drift["delete"])
        return
    # Open before closing: no step may shut out the ssh session that takes it.
    for port in drift["allow"]:
        __salt__["ufw.allow"](port)
    for rule in drift["delete"]:
        __salt__["ufw.delete"](rule)


def _named(changes):
    return "; ".join(f"{what}: {change['old']} -> {change['new']}" for what, change in changes.items())
