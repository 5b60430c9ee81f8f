"""
The host's clock: whatever time daemon there is (systemd-timesyncd, chrony, ntpsec), enabled and running.
"""

from salt.exceptions import CommandExecutionError

SHOWN = ("ActiveState", "UnitFileState", "ConditionResult", "ConditionTimestampMonotonic")


def _systemctl(*words):
    return __salt__["cmd.run_all"](["systemctl", *words], python_shell=False, ignore_retcode=True, env={"LC_ALL": "C"})


def status():
    """
    Which unit keeps the clock, and how it is.

    :return: dict with ``unit``, ``enabled``, ``running``, and ``skipped``: systemd did not start it because a
        condition of the unit says that it cannot run here, as in a container, whose clock is the machine's.
        Empty where no time daemon is installed.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 clock.status
    """
    daemon = __salt__["packages.provider"]("time-daemon")
    if not daemon:
        return {}
    shown = _systemctl("show", f"{daemon}.service", f"--property={','.join(SHOWN)}")["stdout"]
    facts = dict(line.partition("=")[::2] for line in shown.splitlines())
    running = facts.get("ActiveState") in ("active", "activating", "reloading")
    asked = facts.get("ConditionTimestampMonotonic", "0") != "0"
    return {
        "unit": f"{daemon}.service",
        "enabled": facts.get("UnitFileState") in ("enabled", "static", "alias", "generated"),
        "running": running,
        "skipped": not running and asked and facts.get("ConditionResult") == "no",
    }


def start():
    """
    Enable and start the unit that keeps the clock.

    :return: True.
    :raises CommandExecutionError: if there is none, or systemd cannot.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 clock.start
    """
    unit = status().get("unit")
    if not unit:
        raise CommandExecutionError("No time daemon is installed. Try: apt-get install systemd-timesyncd")
    _systemctl("unmask", "--quiet", unit)
    done = _systemctl("enable", "--now", "--quiet", unit)
    if done["retcode"]:
        reason = (done["stderr"].strip().splitlines() or ["no reason given"])[0].rstrip(".")
        raise CommandExecutionError(f"The clock cannot be kept: {reason}. Try: systemctl status {unit}")
    return True
