"""
The host's clock is kept.
"""

from salt.exceptions import CommandExecutionError


def running(name):
    """
    The time daemon of the host, whichever it is, is enabled and runs; where its unit's own condition says that it
    cannot run, as in a container, it is enabled.

    name
        Any name; not used.

    .. code-block:: yaml

        base-clock:
          clock.running:
            - name: clock
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": ""}
    try:
        before = after = __salt__["clock.status"]()
        unit = before.get("unit", "systemd-timesyncd.service")
        if _kept(before):
            pass
        elif __opts__["test"]:
            ret.update(result=None, changes={unit: _change(before)}, comment=f"{unit} would be enabled and started")
            return ret
        else:
            __salt__["clock.start"]()
            after = __salt__["clock.status"]()
            ret["changes"] = {unit: _change(before)}
            if not _kept(after):
                ret.update(result=False, comment=f"{unit} does not stay up. Try: systemctl status {unit}")
                return ret
    except CommandExecutionError as exc:
        ret.update(result=False, comment=str(exc))
        return ret
    where = "is enabled; it cannot run on this host, whose clock is kept outside" if after["skipped"] else "runs"
    ret["comment"] = f"{unit} {where}"
    return ret


def _kept(status):
    return bool(status) and status["enabled"] and (status["running"] or status["skipped"])


def _change(status):
    words = {"enabled": status.get("enabled"), "running": status.get("running")}
    return {"old": ", ".join(f"{'' if on else 'not '}{word}" for word, on in words.items()), "new": "enabled, running"}
