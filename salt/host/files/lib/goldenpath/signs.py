"""
Signs of trouble on a host that nobody asks about: each is a sentence with what to type. The watch tells them, ``ps``
shows them; what they need is asked of the host itself.
"""

import contextlib
import glob
import os
import re
import socket
import ssl
import time

from . import health, host, lock, maintenance, postgres, process, redis_gate, text, units, visitor
from .errors import Failed
from .site import OURS

OPENSSL, DU = "/usr/bin/openssl", "/usr/bin/du"
# Longest that it is counted whose files they are.
COUNT_SECONDS = 20
REBOOT = "/run/reboot-required"
# What Caddy's and Postgres' units get from this tree beside what they had.
SANDBOX, PROC = "goldenpath-sandbox.conf", "/proc"
# Where what a host writes lies; each filesystem counts once.
PLACES = ("/", "/var", "/srv", "/var/lib/postgresql", "/var/lib/redis", "/var/log", "/tmp")  # noqa: S108
# Per cent in use.
FULL = 90
# Caddy renews when a third of a certificate's life is left; what has less was not renewed.
LIFE = 0.3
# One answer that is late is no trouble yet.
AGAIN_SECONDS = 5
# A page whose time has come goes down at once, but for who works on the site.
LATE = 120
# What systemd says of a unit that lost a process to the kernel: SD_MESSAGE_UNIT_OUT_OF_MEMORY (sd-messages(3)). It
# counts for so many seconds.
KILLED, KILLED_SECONDS = "MESSAGE_ID=fe6faa94e7774663a0da52717891d8ef", 3600
# Of a role's connections, in per cent; and how long one may keep others waiting, in seconds.
TAKEN, HELD_SECONDS = 90, 120
_TAKING = """
SELECT 'connections', rolname, count(*), rolconnlimit FROM pg_stat_activity JOIN pg_roles ON usename = rolname
WHERE rolconnlimit > 0 GROUP BY rolname, rolconnlimit HAVING count(*) * 100 >= rolconnlimit * {share};
SELECT DISTINCT 'lock', holder.usename, holder.pid, 0 FROM pg_stat_activity waiting
CROSS JOIN LATERAL unnest(pg_blocking_pids(waiting.pid)) AS blocking(pid)
JOIN pg_stat_activity holder ON holder.pid = blocking.pid
WHERE waiting.wait_event_type = 'Lock' AND now() - waiting.query_start > interval '{seconds} seconds';
"""


def now(sites):
    """What visitors feel, or would feel next: asked every minute. sites: those of this host."""
    live = [site for site in sites if site.current]
    found = [*_redis(live), *_postgres(live)]
    for site in live:
        found += _site(site)
    return [*found, *_memory(live), *_disks(sites)]


def slow(sites):
    """What comes in days: asked now and then."""
    return [sentence for site in sites if site.current for sentence in _certificates(site)]


def standing():
    """What waits for a person, and is told once in a while."""
    if not os.path.exists(REBOOT):
        return []
    days = text.duration(time.time() - os.stat(REBOOT).st_mtime)
    return [f"{host.name()} has waited {days} for a reboot, after updates. Try: systemctl reboot"]


def pending():
    """Services that run without the sandbox that their unit has by now: it takes effect when they start."""
    found = []
    for path in sorted(glob.glob(f"{units.UNITS}/*.service.d/{SANDBOX}")):
        unit = os.path.basename(os.path.dirname(path))[: -len(".service.d")]
        if _free(units.show(f"{unit}.service", "MainPID")):
            restart = "goldenpath restart-postgres" if unit.startswith("postgresql@") else "systemctl restart"
            found.append(
                f"{unit} on {host.name()} has a new sandbox, in which it will be after its next start, with a reboot "
                f"at the latest. Try: {restart} {unit}, in a quiet hour"
            )
    return found


def _free(pid):
    """Whether a process may still gain privileges, which in a sandbox nothing may; one that is gone may not."""
    with contextlib.suppress(OSError), open(f"{PROC}/{pid}/status", encoding="utf-8") as stream:
        return "NoNewPrivs:\t0\n" in stream.read()
    return False


def _redis(sites):
    own = redis_gate.own()
    for slug in (None, *(site.slug for site in sites if site.slug in own)):
        answer = redis_gate.answer(host.name(), again=host.apply_again, slug=slug)
        if answer != "PONG":
            yield answer


def _postgres(sites):
    if not sites:
        return
    try:
        rows = postgres.sql(_TAKING.format(share=TAKEN, seconds=HELD_SECONDS), timeout=10)
    except Failed as exc:
        yield f"On {host.name()} {str(exc)[:1].lower()}{str(exc)[1:]}"
        return
    names = {site.name: site.slug for site in sites}
    for row in rows.splitlines():
        what, role, number, most = row.split("|")
        slug = names.get(role)
        if slug and what == "connections":
            yield (
                f"{slug} on {host.name()} has {number} of the {most} connections to its database. "
                f"Try: goldenpath psql {slug} -c 'table pg_stat_activity'"
            )
        elif slug:
            yield (
                f"A session of {slug} on {host.name()} (process {number}) has kept others of it waiting for a lock, "
                f"for more than {HELD_SECONDS} seconds. "
                f"Try: goldenpath psql {slug} -c 'select pg_terminate_backend({number})'"
            )


def _site(site):
    # What stops for a moment in a deploy is no trouble.
    if lock.held(site):
        return
    if site.maintenance() == OURS:
        yield (
            f"The maintenance page of {site.slug} on {host.name()} is up, and no deploy works on it. "
            f"Try: the deploy again, or goldenpath maintenance {site.slug} off"
        )
    when = maintenance.until(site)
    if when and when.timestamp() + LATE < time.time():
        yield (
            f"The maintenance page of {site.slug} on {host.name()} was to go down at {maintenance.shown(when)} and is "
            f"up. Try: goldenpath maintenance {site.slug} off"
        )
    if site.maintenance():
        return
    down = [step.partition(" ")[2] for step in units.unsettled(site) if step.startswith("start ")]
    if down:
        yield f"{', '.join(down)} on {host.name()} should run and does not. Try: {host.command('state.apply site')}"
    for turn in range(2):
        answer = health.ask(site, front=True, verify=False)
        if answer["status"] in ("ok", "degraded"):
            break
        if not turn:
            time.sleep(AGAIN_SECONDS)
    if answer["status"] in ("ok", "degraded"):
        for sentence in visitor.names(site):
            yield f"On {host.name()}, {sentence}"
    if answer["status"] == "degraded":
        yield f"{site.slug} on {host.name()} is degraded: {answer['message']}. Try: goldenpath health {site.slug}"
    elif answer["status"] != "ok" and not site.maintenance() and not lock.held(site):
        yield (
            f"{site.slug} on {host.name()} is {answer['status']} for visitors: {answer['message']}. "
            f"Try: goldenpath health {site.slug} --front"
        )


def _memory(sites):
    """Sites of which the kernel had to end something, because all of a site together has its limit."""
    if not sites:
        return
    told = units.journalled("--since", f"@{int(time.time() - KILLED_SECONDS)}", KILLED, lines=1000)
    for site in sites:
        # Not those of a longer slug that begins with this one.
        mine = re.compile(rf"({re.escape(site.name)}-[a-z0-9]+(-\d+)*(@[^:]*)?\.service): ")
        found = [match[1] for match in map(mine.match, told.splitlines()) if match]
        if found:
            yield (
                f"{site.slug} on {host.name()} was beyond its memory in the last hour: the kernel ended {len(found)} "
                f"of its processes, the last one of {found[-1]}. Try: journalctl -u {found[-1]}, and "
                "`limits: memory` in its pillar"
            )


def _disks(sites):
    seen = set()
    for place in PLACES:
        with contextlib.suppress(OSError):
            device, disk = os.stat(place).st_dev, os.statvfs(place)
            if device in seen or not disk.f_blocks:
                continue
            seen.add(device)
            used = 100 - 100 * disk.f_bavail // disk.f_blocks
            if used >= FULL:
                left, below = text.size(disk.f_bavail * disk.f_frsize), place.rstrip("/")
                yield (
                    f"{place} on {host.name()} is full to {used} %, {left} are left{_most(sites, device)}. "
                    f"Try: du -xsh {below}/*"
                )
            if disk.f_files and 100 * disk.f_ffree < (100 - FULL) * disk.f_files:
                yield f"{place} on {host.name()} has {disk.f_ffree} inodes left for files. Try: du -x --inodes {place}"


def _most(sites, device):
    """Who has the most of a filesystem, as the end of a sentence; empty where nobody can tell in time."""
    sizes = counted([site.root for site in sites if os.stat(site.root).st_dev == device], COUNT_SECONDS)
    if not sizes:
        return ""
    root = max(sizes, key=sizes.get)
    return f", {text.size(sizes[root])} are of {os.path.basename(root)}"


def counted(folders, seconds):
    """The bytes below each folder: {folder: bytes}; empty where they cannot all be counted in time."""
    if not folders:
        return {}
    done = process.run([DU, "-sxB1", *folders], timeout=seconds)
    rows = [line.split("\t") for line in done.output.splitlines() if re.fullmatch(r"\d+\t/.*", line)]
    return {} if done.code else {root: int(size) for size, root in rows}


def _certificates(site):
    for domain in site.facts.get("domains", ()):
        try:
            begin, end = life(domain)
        except (OSError, ValueError, IndexError):
            # That nobody answers is told by the health of the site.
            continue
        left, whole = end - time.time(), end - begin
        if left < LIFE * whole:
            yield (
                f"The certificate of {domain} on {host.name()} has {text.duration(max(0, left))} left of "
                f"{text.duration(whole)} and was not renewed{_why(domain)}. Try: journalctl -u caddy"
            )


def life(domain):
    """From when until when the certificate that visitors of a domain get is valid: seconds since the epoch."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(health.FRONT, timeout=5) as plain,
        context.wrap_socket(plain, server_hostname=domain) as connection,
    ):
        data = connection.getpeercert(binary_form=True)
    said = process.run([OPENSSL, "x509", "-noout", "-startdate", "-enddate"], text=ssl.DER_cert_to_PEM_cert(data))
    times = dict(line.split("=", 1) for line in said.output.splitlines() if "=" in line)
    return tuple(ssl.cert_time_to_seconds(times[name]) for name in ("notBefore", "notAfter"))


def _why(domain):
    """Caddy's last words about a domain's certificate, as the end of a sentence."""
    said = units.journal("caddy.service", time.time() - 2 * 86400, 2000)
    lines = [line for line in said.splitlines() if domain in line and re.search("obtain|renew|challenge", line)]
    told = re.findall(r'"(?:error|detail)":"((?:[^"\\]|\\.)*)"', "\n".join(lines))
    return f": {text.printable(told[-1])[:200].rstrip('.')}" if told else ""
