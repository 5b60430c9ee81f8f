"""
Services, sockets, timers and mounts that run: one question to systemd, which asks it five; where anything is not as it
should be, Salt's own ``service.running`` does the rest.
"""

import os
import subprocess

UNITS = "/etc/systemd/system"
_ASKED = ("ActiveState", "UnitFileState", "NeedDaemonReload")


def _settled(name):
    """
    Whether a unit runs, is started at boot, and is as its file says: systemd(1) leaves no doubt about any of it.
    """
    argv = ["systemctl", "show", f"--property={','.join(_ASKED)}", "--", name]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return False
    told = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    return (
        done.returncode == 0
        and told.get("ActiveState") == "active"
        and told.get("UnitFileState") in ("enabled", "enabled-runtime")
        and told.get("NeedDaemonReload") == "no"
    )


def running(name, unmask=False):
    """
    A unit runs, and is started at boot.

    name (str)
        The unit; a service without its ending.
    unmask (bool)
        Also where somebody has masked it.

    .. code-block:: yaml

        caddy-service:
          unit.running:
            - name: caddy
            - watch:
                - file: caddy-unit
    """
    if _settled(name):
        return {"name": name, "result": True, "changes": {}, "comment": f"{name} runs, and is started at boot"}
    return __states__["service.running"](name, enable=True, unmask=unmask)


def stopped(name):
    """
    A unit does not run, and is not started at boot; one that is not there is neither.

    name (str)
        The unit, with its ending.

    .. code-block:: yaml

        backup-dump-stopped:
          unit.stopped:
            - name: goldenpath-dump.timer
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": f"{name} does not run"}
    if not os.path.exists(f"{UNITS}/{name}"):
        return ret
    ret["changes"] = {name: {"old": "on", "new": "off"}}
    if __opts__["test"]:
        ret.update(result=None, comment=f"{name} would be stopped")
        return ret
    argv = ["systemctl", "disable", "--now", "--", name]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        ret.update(result=False, changes={}, comment=f"{name} does not stop. Try: systemctl status {name}")
    return ret


def mod_watch(name, sfun="running", **_):
    """
    What ``watch`` does to it: a restart, as of ``service.running``.

    name (str)
        The unit.
    sfun (str)
        The function that watches; there is one.

    Salt hands over more, such as ``__reqs__``, which nobody here asks for.

    .. code-block:: yaml

        - watch:
            - file: caddy-unit
    """
    return __states__["service.mod_watch"](name, sfun=sfun, enable=True)
