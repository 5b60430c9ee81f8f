"""
What on this host is somebody else's: looked for before the first change, so that nothing of others is run over.

A host, and each site on it, is marked as ours when it was found to be; one that has the mark is not looked at again.
One without it is ours where files of this tree are there, as on hosts from before there was a mark.
"""

import contextlib
import glob
import hashlib
import json
import os
import pwd
import re
import subprocess

MARK = "/var/lib/goldenpath/mark.json"
MANAGED = "Managed by Golden Path"
# Whose they are on a host of this tree: the program, and its unit.
PORTS = {80: "caddy", 443: "caddy", 5432: "postgres", 6379: "redis-server"}
# Who else decides what comes in. ufw asks no other, and each of these would be there beside it.
FIREWALLS = ("firewalld", "nftables", "netfilter-persistent", "shorewall", "csf")
SRV, ETC, UNITS, CADDY = "/srv/sum", "/etc/goldenpath", "/etc/systemd/system", "/etc/caddy"
REDIS, PROC = "/etc/redis/goldenpath.conf", "/proc"


def _read(path):
    with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as stream:
        return stream.read()
    return None


def _marked():
    with contextlib.suppress(ValueError):
        return json.loads(_read(MARK) or "{}")
    return {}


def _said(*argv):
    """What a program prints; an empty text where it is not there or fails."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(
            argv, capture_output=True, text=True, errors="replace", check=False, timeout=15, cwd="/",
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"},
        )  # fmt: skip
        return done.stdout.strip() if not done.returncode else ""
    return ""


def findings(sites):
    """
    What stands in the way of making this host ours.

    sites (list)
        The pillar's sites.

    Returns a list of sentences, each with a way out; empty where there is nothing. Raises nothing.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 foreign.findings '["acme-kitchens"]'
    """
    mark = _marked()
    found = [] if mark or _ours() else _host()
    for slug in sites:
        if slug not in mark.get("sites", ()):
            found += _site(slug)
    return found


def unmarked(sites):
    """
    Sites without our mark, and ``host`` where this host has none.

    sites (list)
        The pillar's sites.

    Returns a list of words.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 foreign.unmarked '["acme-kitchens"]'
    """
    mark = _marked()
    return ([] if mark else ["host"]) + [slug for slug in sites if slug not in mark.get("sites", ())]


def mark(sites):
    """
    Write down that this host and these sites are ours, next to those that were before.

    sites (list)
        The pillar's sites.

    Returns ``True``. Raises ``OSError`` where it cannot be written.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 foreign.mark '["acme-kitchens"]'
    """
    known = sorted({*_marked().get("sites", ()), *sites})
    os.makedirs(os.path.dirname(MARK), mode=0o755, exist_ok=True)
    with open(f"{MARK}.new", "w", encoding="utf-8") as stream:
        json.dump({"sites": known}, stream)
        stream.flush()
        os.fsync(stream.fileno())
    os.rename(f"{MARK}.new", MARK)
    return True


def _ours():
    """Whether files are there that only a provisioning of this tree writes."""
    if glob.glob(f"{ETC}/sites/*.json") or os.path.exists(f"{ETC}/alert.json"):
        return True
    return any(MANAGED in (_read(path) or "") for path in (REDIS, f"{CADDY}/Caddyfile"))


# The host


def _host():
    return [*_listeners(), *_caddy(), *_redis(), *_postgres(), *_firewalls(), *_containers()]


def _listening():
    """Ports that somebody listens on, each with the inodes of the sockets (proc(5))."""
    found = {}
    for name in ("tcp", "tcp6"):
        for line in (_read(f"{PROC}/net/{name}") or "").splitlines()[1:]:
            words = line.split()
            if len(words) > 9 and words[3] == "0A":
                found.setdefault(int(words[1].rpartition(":")[2], 16), set()).add(words[9])
    return found


def _holders(inodes):
    """The processes of sockets: pairs of a program's name and its unit."""
    found = set()
    for path in glob.glob(f"{PROC}/[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if os.readlink(path)[8:-1] in inodes and os.readlink(path).startswith("socket:"):
                folder = path.rpartition("/fd/")[0]
                unit = re.findall(r"[^/\n]+\.(?:service|scope)", _read(f"{folder}/cgroup") or "")
                found.add(((_read(f"{folder}/comm") or "?").strip(), unit[-1] if unit else ""))
    return found


def _listeners():
    listening = _listening()
    for port, program in PORTS.items():
        for name, unit in sorted(_holders(listening.get(port, set()))):
            if name != program:
                held = f"{name} ({unit})" if unit else name
                stop = f"systemctl disable --now {unit}" if unit.endswith(".service") else f"ss -ltnp 'sport = :{port}'"
                yield f"Port {port} is held by {held}, and {program} would need it. Try: {stop}, or another host"


def _caddy():
    path = f"{CADDY}/Caddyfile"
    text = _read(path)
    if text is None or MANAGED in text:
        return
    packaged = re.search(rf"{re.escape(path)} ([0-9a-f]{{32}})", _said("dpkg-query", "-W", "-f=${Conffiles}", "caddy"))
    if not packaged or hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() != packaged[1]:
        yield f"{path} is somebody's and would be overwritten. Try: move it away, where nobody needs its sites"


def _redis():
    if 6379 not in _listening():
        return
    try:
        (told,) = __salt__["redis_gate.ask"](("INFO", "keyspace"))
    except ConnectionError as fault:
        yield f"Redis on port 6379 cannot be asked what is in it: {fault.reason}. Try: redis-cli info, or another host"
        return
    keys = sum(map(int, re.findall(r"keys=(\d+)", told)))
    if keys:
        yield (
            f"Redis holds {keys} keys of somebody, under rules that would change. "
            "Try: redis-cli flushall where nobody needs them, or another host"
        )


def _postgres():
    for line in _said("pg_lsclusters", "--no-header").splitlines():
        version, name, port, *_ = [*line.split(), "", "", ""]
        if (name, port) != ("main", "5432"):
            yield (
                f"There is a Postgres cluster {version}/{name} on port {port}; this tree's is the one on 5432. "
                f"Try: pg_dropcluster --stop {version} {name} where nobody needs it, or another host"
            )
    ask = "SELECT string_agg(datname, ', ') FROM pg_database WHERE NOT datistemplate AND datname <> 'postgres'"
    names = _said("runuser", "-u", "postgres", "--", "psql", "-XqAtc", ask)
    if names:
        yield (
            f"Postgres has databases of somebody ({names[:200]}), who may reach it in ways that would be closed. "
            "Try: dump them, and dropdb where nobody needs them, or another host"
        )


def _firewalls():
    shown = _said("systemctl", "list-unit-files", "--no-legend", *(f"{name}.service" for name in FIREWALLS))
    for line in shown.splitlines():
        unit, state, *_ = [*line.split(), "", ""]
        if state.startswith("enabled"):
            yield (
                f"{unit} decides what comes in, beside which ufw would decide as well. "
                f"Try: systemctl disable --now {unit}, and a reboot, or another host"
            )


def _containers():
    names = _said("docker", "ps", "--format", "{{.Names}}").split()
    if names:
        yield (
            f"Docker runs {', '.join(names[:5])}: what it publishes passes by the firewall. "
            "Try: docker stop, and systemctl disable --now docker, or another host"
        )


# A site


def _owner(path):
    return os.stat(path).st_uid


def _site(slug):
    """What contradicts that a site of this name is ours: a part that this tree never makes so."""
    root, user = f"{SRV}/{slug}", f"sum-{slug}"
    aside = f"mv {root} /root/{slug}.before"
    if os.path.lexists(root):
        if os.path.islink(root) or not os.path.isdir(root):
            yield f"{root} is no folder. Try: {aside}, or another slug"
        elif _owner(root) != 0:
            yield f"{root} is somebody's: it does not belong to root. Try: {aside}, or another slug"
        elif strange := sorted(set(os.listdir(root)) & {"app", "venv", ".git", "manage.py"}):
            yield f"{root} is somebody's: it has {', '.join(strange)}. Try: {aside}, or another slug"
        elif os.path.exists(f"{root}/current") and not os.path.islink(f"{root}/current"):
            yield f"{root}/current is a folder, and no link of ours. Try: {aside}, or another slug"
        if MANAGED not in (_read(f"{root}/.env") or MANAGED):
            yield f"{root}/.env is somebody's and would be overwritten. Try: {aside}, or another slug"
    with contextlib.suppress(KeyError):
        known = pwd.getpwnam(user)
        if known.pw_dir != root or not known.pw_shell.endswith(("nologin", "false")):
            yield f"There is a user {user} of somebody ({known.pw_dir}, {known.pw_shell}). Try: another slug"
    # Of a longer slug that begins with this one are others.
    own = re.compile(rf"{re.escape(user)}(-(gunicorn|celery|celerybeat)@?)?\.service")
    units = sorted(path for path in glob.glob(f"{UNITS}/{user}*.service") if own.fullmatch(os.path.basename(path)))
    for path in [*units, f"{CADDY}/sites/{slug}.caddy"]:
        if MANAGED not in (_read(path) or MANAGED):
            yield f"{path} is somebody's and would be overwritten. Try: move it away, or another slug"
