"""
The operator's door: may this host serve or release a site? Redis answers PONG and can be used, and a site's health
path tells what it should.

Functions that a person calls (``redis_ping``, ``redis_ready``, ``health``) set the exit code of the command
themselves: over salt-ssh an exception of a bare function ends in ``KeyError: 'ret'`` and the reason is lost.
The functions that states and other modules call (``redis_checks``, ``redis_answer``) only return data.
"""

import glob
import hashlib
import os
import socket

from salt.exceptions import CommandExecutionError


def _host_id():
    return __grains__.get("id") or __opts__.get("id") or socket.gethostname()


def command(*words):
    """
    What an operator types on the controller about this host, over ssh or to its minion.

    words (str)
        The function and its arguments.

    Returns the command, such as ``salt-ssh web1 state.apply redis``.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 goldenpath.command state.apply redis
    """
    return " ".join(["salt-ssh" if __opts__.get("file_client") == "local" else "salt", _host_id(), *words])


def _apply_again(sls="redis"):
    """
    The command that mends what the tree owns.
    """
    return command("state.apply", sls)


def _seconds(value):
    """
    A time-out, or ``None`` for what makes no sense as one.
    """
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        return None
    return seconds if not isinstance(value, bool) and 0 < seconds <= 60 else None


def synced():
    """
    The modules that a minion uses, for a controller that looks whether they are its own.

    Returns ``{"modules/goldenpath.py": SHA-256, …}``, of the files beside this one and of the states.

    CLI Example:

    .. code-block:: bash

        salt web1 goldenpath.synced
    """
    here = os.path.dirname(os.path.abspath(__file__))
    # A checkout's own folders begin with an underscore.
    top, mark = os.path.dirname(here), "_" if os.path.basename(here).startswith("_") else ""
    found = {}
    for kind in ("modules", "states"):
        for path in sorted(glob.glob(os.path.join(top, mark + kind, "*.py"))):
            with open(path, "rb") as stream:
                found[f"{kind}/{os.path.basename(path)}"] = hashlib.sha256(stream.read()).hexdigest()
    return found


# --- Redis -------------------------------------------------------------------------------------------------


def redis_ping(timeout=2, ready=False, site=None):
    """
    Ask Redis for PONG. This is the first step of every deploy.

    timeout (float)
        Seconds for the whole exchange, up to 60.
    ready (bool)
        Right after it, ask all that ``redis_ready`` asks, as a deploy does.
    site (str)
        With it, of the instances that sites have of their own, this site's alone.

    Returns exactly ``PONG``. Otherwise one sentence for each fault, with the host, the reason and the next
    command, and the command exits non-zero. Raises nothing.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 goldenpath.redis_ping
    """
    seconds = _seconds(timeout)
    if seconds is None:
        why = f"timeout must be a number of seconds up to 60, not {timeout!r}"
        answer = f"Redis on {_host_id()} was not asked: {why}. Try: leave timeout out"
    elif ready:
        answer = "\n".join(__salt__["redis_gate.failed"](redis_checks(seconds, site))) or "PONG"
    else:
        answer = redis_answer(seconds)
    if answer != "PONG":
        __context__["retcode"] = 1
    return answer


def redis_answer(timeout=2, site=None):
    """
    Ask Redis for PONG, for states and other modules: the exit code of the command stays as it is.

    timeout (float)
        Seconds for the whole exchange.
    site (str)
        The site whose own instance is asked; left out, the shared one.

    Returns ``PONG``, or one sentence: the host, the reason and the next command. Raises nothing.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 goldenpath.redis_answer
    """
    return __salt__["redis_gate.answer"](_host_id(), timeout, _apply_again, site)


def redis_checks(timeout=2, site=None):
    """
    Everything that must be true of Redis before a deploy, for states and other modules.

    timeout (float)
        Seconds for the whole conversation with Redis.
    site (str)
        Of the instances that sites have of their own, this site's alone; left out, all of them.

    Returns what ``redis_gate.checks`` returns, the firewall among it. Raises nothing.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 goldenpath.redis_checks --out=json
    """
    # Where a function is called alone over salt-ssh the pillar is empty; the host's own files know the sites.
    sites = __pillar__.get("sites") or None
    return __salt__["redis_gate.checks"](_host_id(), sites, _apply_again, _firewall, timeout, site)


def _firewall(port):
    """
    Why the firewall lets a port in, and the next command; two empty texts where it does not.
    """
    mend = _apply_again("firewall")
    if "ufw.permits" not in __salt__:
        return "the ufw module did not reach the host", mend
    try:
        rules = __salt__["ufw.permits"](port)
    except CommandExecutionError as exc:
        return f"ufw could not be asked: {exc}", "ufw status verbose"
    if not rules:
        return "", ""
    told = [f"{rule['rule']} ({rule['source']})" for rule in rules]
    return f"the firewall lets {port} in: {', '.join(dict.fromkeys(told))}", mend


def redis_ready():
    """
    Tell whether Redis on this host can carry sites: a table with every check, for a person.

    Returns the table; when any check fails the command exits non-zero. Raises nothing.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 goldenpath.redis_ready
    """
    checks = redis_checks()
    failed = __salt__["redis_gate.failed"](checks)
    if failed:
        __context__["retcode"] = 1
    words, width = {True: "ok", False: "FAIL", None: "-"}, max(11, *(len(each["check"]) for each in checks))
    return "\n".join(
        [f"Redis on {_host_id()} is {'not ready' if failed else 'ready'}"]
        + [f"  {each['check']:<{width}} {words[each['ok']]:<4} {each['message']}" for each in checks]
    )


# --- Health of a site, and its backups: the engine's -------------------------------------------------------


def health(site, path=None, via="socket", timeout=5):
    """
    Ask a site for its health, for a person.

    site (str)
        The site's name on this host.
    path (str)
        Path to ask instead of the site's own health path.
    via (str)
        ``socket``: the live release's Unix socket. ``front``: HTTPS through Caddy on this host.
    timeout (float)
        Seconds for the whole exchange, up to 60.

    Returns a dictionary: ``site``, ``status`` (``ok``, ``degraded``, ``unhealthy``; ``broken`` for an answer
    against the contract, ``unreachable`` for none), ``code``, ``message`` (one sentence), ``body`` (parsed JSON of up
    to 4 KB) and, where the body has it, ``git_sha``. Unless the status is ``ok`` or ``degraded`` the command exits
    non-zero. Raises nothing.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 goldenpath.health acme-kitchens
    """
    request = {"front": via == "front", "path": path, "timeout": timeout}
    try:
        if via not in ("socket", "front"):
            raise CommandExecutionError(f"via must be socket or front, not {via!r}. Try: leave via out")
        ret = __salt__["engine.call"]("call", "health", str(site), request=request)
    except CommandExecutionError as exc:
        __context__["retcode"] = 1
        return {"site": site, "status": "unreachable", "code": None, "message": str(exc), "body": None}
    hint = ret.pop("hint")
    ret["message"] = f"{site} on {_host_id()} is {ret['status']}: {ret['message']}."
    if ret["status"] not in ("ok", "degraded"):
        __context__["retcode"] = 1
        ret["message"] += f" Try: {hint}"
    return ret


def backup(site=None, accept_smaller=False):
    """
    Back up now: one site, or every site of the host.

    site (str)
        The site's name on this host; all of them where it is left out.
    accept_smaller (bool)
        Take a backup that is less than half of the last one.

    Returns, for each site, the snapshot and what is in it; or one sentence, and the command exits non-zero.
    Raises nothing.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 goldenpath.backup acme-kitchens
    """
    return __salt__["backup.run"](site, accept_smaller)


def restore_drill(site=None, snapshot=None):
    """
    Prove that a backup can be restored, beside the live site, which is not touched.

    site (str)
        The site's name on this host; all of them where it is left out.
    snapshot (str)
        Another snapshot than the newest.

    Returns, for each site, age, duration, counts and verdict; or one sentence, and the command exits non-zero.
    Raises nothing.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 goldenpath.restore_drill acme-kitchens
    """
    return __salt__["backup.drill"](site, snapshot)


def backups(site=None):
    """
    Show the snapshots with their sizes and ages, the last backup and the last drill.

    site (str)
        The site's name on this host; all of them where it is left out.

    Returns a dictionary; or one sentence, and the command exits non-zero. Raises nothing.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 goldenpath.backups
    """
    return __salt__["backup.snapshots"](site)
