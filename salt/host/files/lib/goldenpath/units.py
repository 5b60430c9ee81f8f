"""The systemd units that run a site: one gunicorn instance per release, one Celery worker and one beat per site."""

import contextlib
import glob
import os
import re
import time

from . import files, host, process
from .errors import Failed
from .text import reason

SYSTEMCTL, JOURNALCTL, SYSTEMD_RUN = "/usr/bin/systemctl", "/usr/bin/journalctl", "/usr/bin/systemd-run"
UNITS = "/etc/systemd/system"
RUN = "/run"
CGROUPS = "/sys/fs/cgroup"
# Longer than the longest stop time-out of a site's unit.
PATIENCE = 700
# Seconds after which a daemon that is still there has begun its work.
STEADY = 3
_UP = ("active", "activating", "reloading")


def systemctl(*argv, timeout=PATIENCE):
    """Run systemctl; returns how it ended."""
    return process.run([SYSTEMCTL, *argv], timeout=timeout)


def show(unit, name):
    """One property of a unit, empty where there is none."""
    return systemctl("show", f"--property={name}", "--value", unit).output.strip()


def facts(names, *units):
    """Properties of units: a dictionary for each, in the order of systemd."""
    shown = systemctl("show", f"--property={','.join(names)}", *units).output
    blocks = [block for block in shown.strip().split("\n\n") if block]
    return [dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in blocks]


def journal(unit, since, lines=20):
    """The last lines that a unit wrote. since: seconds since the epoch."""
    return journalled("--unit", unit, "--since", f"@{int(since)}", lines=lines)


def journalled(*which, lines):
    """The last lines of the journal that match, once journald has written what it was given. which: its options."""
    process.run([JOURNALCTL, "--sync"], timeout=60)
    wanted = [*which, "--lines", str(lines), "--output", "cat", "--no-pager", "--quiet"]
    return process.run([JOURNALCTL, *wanted], timeout=60).output.strip()


def own():
    """The unit of ours in which this process runs; empty where a person or Salt runs it."""
    with contextlib.suppress(OSError), open("/proc/self/cgroup", encoding="ascii") as stream:
        paths = [line.rstrip().split(":", 2)[2] for line in stream if line.split(":", 2)[1] in ("", "name=systemd")]
        names = [part for path in paths for part in path.split("/") if re.fullmatch(r"goldenpath-.*\.service", part)]
        return names[0] if names else ""
    return ""


def transient(unit, description, properties):
    """The words that begin a unit of ours, wait for it and leave nothing of it. properties: ``Name=value``."""
    return [
        SYSTEMD_RUN, "--quiet", "--wait", "--collect", f"--unit={unit}", f"--description={description}",
        *(word for each in properties for word in ("-p", each)), *bound(),
    ]  # fmt: skip


def bound():
    """For systemd-run, inside a unit of ours: what is begun ends with that one, whatever ends it."""
    unit = own()
    # Without After=: a job of a timer is starting as long as it works, and each would wait for the other.
    return ["-p", f"BindsTo={unit}"] if unit else []


# gunicorn, an instance per release.


def names(site, release):
    """The socket and the service of one release."""
    unit = f"{site.name}-gunicorn@{release}"
    return f"{unit}.socket", f"{unit}.service"


def start(site, release):
    """Start the gunicorn instance of a release, and wait until it says that it is ready. Raises Failed."""
    since = time.time()
    socket, service = names(site, release)
    if systemctl("start", socket, service).code:
        raise Failed(
            f"gunicorn does not start on the new release. Try: journalctl -u {service}", journal(service, since)
        )


def running(site):
    """The releases whose gunicorn socket or service is up, coming up or failed."""
    prefix = f"{site.name}-gunicorn@"
    listing = systemctl(
        "list-units", "--plain", "--no-legend", "--full", "--all",
        "--state=active,activating,reloading,deactivating,failed", prefix + "*",
    ).output  # fmt: skip
    found = [line.split()[0] for line in listing.splitlines() if line.startswith(prefix)]
    return sorted({unit[len(prefix) :].rpartition(".")[0] for unit in found})


def stop(site, releases):
    """Stop the gunicorn instances of releases; each finishes the requests that it has begun."""
    found = [unit for release in releases for unit in names(site, release)]
    if found:
        # In one transaction: a socket that stayed would start its service again for the next connection.
        systemctl("stop", *found)
        systemctl("reset-failed", *found)


def await_connections(site, releases, seconds):
    """
    Give what is connected to releases, such as WebSockets, some time to end by itself. New ones go to the live release.
    """
    # A connection is listed where it comes from: nginx has a network of its own, and no other knows it.
    listed = f"/proc/{main_pid('goldenpath-buffer.service') or 'self'}/net/unix"
    places = {f"{RUN}/{site.name}/{release}.sock" for release in releases}
    end = time.time() + seconds
    while places and time.time() < end:
        with contextlib.suppress(OSError), open(listed, encoding="utf-8", errors="replace") as stream:
            rows = [line.split() for line in stream]
            # Num, RefCount, Protocol, Flags, Type, St (3: connected), Inode, Path
            if not any(row[5] == "03" and row[-1] in places for row in rows[1:]):
                return
        time.sleep(0.2)


def serves(site, release):
    """Whether a release's socket takes requests."""
    return systemctl("is-active", "--quiet", names(site, release)[0]).code == 0


def restarts(site, release):
    """How often systemd had to start a release again: one that cannot import its project ends at once, each time."""
    shown = show(names(site, release)[1], "NRestarts")
    return int(shown) if shown.isdigit() else 0


def memory(site, release):
    """Bytes of a release's processes, without the files that the kernel caches for them; 0 where nobody counts."""
    group = show(names(site, release)[1], "ControlGroup")
    # cgroup v2, and v1 beside it; docs.kernel.org/admin-guide/cgroup-v2.html: anon.
    for path, key in ((f"{CGROUPS}{group}/memory.stat", "anon"), (f"{CGROUPS}/memory{group}/memory.stat", "rss")):
        with contextlib.suppress(OSError, ValueError), open(path, encoding="ascii") as stream:
            return int(dict(line.split() for line in stream)[key]) if group else 0
    return 0


# What runs beside gunicorn, one of each per site.


def boot(site):
    """The unit that starts the live release at boot."""
    return f"{site.name}-gunicorn.service"


def worker(site):
    """Celery's worker."""
    return f"{site.name}-celery.service"


def background(site):
    """
    Celery's units, daemons and timers that the site has, in the order in which they are started. Those of a pillar that
    was not applied yet are not there.
    """
    return celery(site) + further(site)


def celery(site):
    """Celery's units that the site has."""
    wanted = site.celery
    return [
        f"{site.name}-{unit}.service" for unit, key in (("celery", "worker"), ("celerybeat", "beat")) if wanted[key]
    ]


def further(site):
    """Its other daemons, and its timers."""
    return [unit for unit in _further(site) if os.path.exists(f"{UNITS}/{unit}")]


def _further(site):
    daemons = [f"{site.name}-{name}.service" for name in sorted(site.facts.get("processes", {}))]
    return daemons + [f"{site.name}-{name}.timer" for name in sorted(site.facts.get("schedules", {}))]


def every_background(site):
    """The same, whether the site has them or not, and what its schedules run."""
    found = [worker(site), f"{site.name}-celerybeat.service", *_further(site), *stray(site)]
    runs = [unit.replace(".timer", ".service") for unit in found if unit.endswith(".timer")]
    return list(dict.fromkeys([*found, *runs]))


def stray(site):
    """Units of daemons and schedules that the pillar names no more."""
    further = _further(site)
    known = {*further, *(unit.replace(".timer", ".service") for unit in further)}
    # Not those of a longer slug that begins with this one: these have one more hyphen.
    own = re.compile(rf"({re.escape(site.name)}-(?!gunicorn|celery|celerybeat)[a-z][a-z0-9]*)\.(service|timer)")
    there = map(own.fullmatch, sorted(map(os.path.basename, glob.glob(f"{UNITS}/{site.name}-*"))))
    return [found[0] for found in there if found and found[0] not in known]


def remove(found):
    """Stop units for good: their files go."""
    if found:
        disable(found)
        for unit in found:
            files.remove(f"{UNITS}/{unit}")
        systemctl("daemon-reload")


def main_pid(unit):
    """The main process of a unit, 0 where it does not run."""
    return int(show(unit, "MainPID") or 0)


def enable(found):
    """Let units start at boot. Raises Failed when systemd refuses."""
    # Asking is cheap; enabling makes systemd read every unit again. The exit status tells of one of them only.
    told = systemctl("is-enabled", *found).output.split()
    if told != ["enabled"] * len(found):
        done = systemctl("enable", "--quiet", *found)
        if done.code:
            raise Failed(
                f"{' '.join(found)} cannot be enabled: {reason(done.output)}. Try: systemctl status {found[0]}"
            )


def disable(found):
    """Stop units and let them start at boot no more."""
    if found:
        systemctl("disable", "--now", "--quiet", *found)


def restart_background(site):
    """Begin to stop Celery warmly and to start it on the live release. Returns when it began, for what follows."""
    since = time.time()
    found = background(site)
    if found:
        enable(found)
        systemctl("reset-failed", *found)
        systemctl("restart", "--no-block", *found)
    return since


def await_background(site, since, found=None):
    """
    Wait until what runs beside gunicorn is up; the old ones may take until their stop time-out. Raises Failed.

    found: these units alone.
    """
    for unit in background(site) if found is None else found:
        if unit.endswith(".timer"):
            continue
        # Joins the job that restart_background queued, and waits for it.
        if systemctl("start", unit).code or main_pid(unit) == 0:
            raise Failed(f"{unit} does not start on the new release. Try: journalctl -u {unit}", journal(unit, since))


def steady_background(site, since, found=None):
    """
    All is still up: a beat that cannot read its schedule ends a moment after its start. Raises Failed.

    found: these units alone.
    """
    found = background(site) if found is None else found
    if any(unit in found for unit in further(site) if unit.endswith(".service")):
        # Nobody asks a daemon whether it works: what cannot work mostly ends by itself.
        time.sleep(max(0.0, since + STEADY - time.time()))
    for unit in found:
        (shown,) = facts(("ActiveState", "NRestarts"), unit)
        if shown.get("ActiveState") != "active" or shown.get("NRestarts", "0") != "0":
            raise Failed(f"{unit} does not stay up on the new release. Try: journalctl -u {unit}", journal(unit, since))


def run_schedule(site, name):
    """Run what a schedule runs, now, and wait for it. Returns how it went; raises Failed with its last words."""
    unit, since = f"{site.name}-{name}.service", time.time()
    if show(unit, "ActiveState") in _UP:
        raise Failed(f"{name} of {site.slug} is running already. Try: goldenpath logs {site.slug} {name} -f")
    done = systemctl("start", unit)
    if done.code:
        raise Failed(f"{name} of {site.slug} failed. Try: goldenpath logs {site.slug} {name}", journal(unit, since))
    return f"{name} of {site.slug} is done, after {time.time() - since:.1f} s"


# All of a site.


def halt(site):
    """Stop everything of a site that could write. Raises Failed where something does not stop."""
    done = systemctl(
        "stop", *reversed(every_background(site)), boot(site), f"{site.name}-gunicorn@*.socket",
        f"{site.name}-gunicorn@*.service",
    )  # fmt: skip
    left = systemctl(
        "list-units", "--plain", "--no-legend", "--state=active,activating,deactivating,reloading",
        f"{site.name}-gunicorn@*.service", *every_background(site),
    ).output.split()  # fmt: skip
    if left:
        raise Failed(f"{left[0]} does not stop: {reason(done.output)}. Try: systemctl status {left[0]}")


def resume(site, release):
    """Start a release, and what runs beside it. Raises Failed."""
    found = [*names(site, release), boot(site), *background(site)]
    systemctl("reset-failed", *found)
    done = systemctl("start", *found)
    if done.code:
        raise Failed(f"the site does not start: {reason(done.output)}. Try: journalctl -u {names(site, release)[1]}")


def unsettled(site):
    """What a live site lacks of running: steps such as ``start sum-acme-celery.service``."""
    wanted = dict.fromkeys([boot(site), *names(site, site.current), *background(site)], True)
    runs = {f"{site.name}-{name}.service" for name in site.facts.get("schedules", {})}
    # What a schedule runs may run or not.
    for unit in set(every_background(site)) - runs - set(stray(site)):
        wanted.setdefault(unit, False)
    steps = []
    for known in facts(("Id", "ActiveState", "UnitFileState"), *wanted):
        unit, up, file = known["Id"], known["ActiveState"] in _UP, known.get("UnitFileState", "")
        if file.startswith("masked") and wanted[unit]:
            steps.append(f"unmask {unit}")
        if wanted[unit] and "@" not in unit and file != "enabled":
            steps.append(f"enable {unit}")
        if wanted[unit] and not up:
            steps.append(f"start {unit}")
        if not wanted[unit] and (up or file == "enabled"):
            steps.append(f"disable+--now {unit}")
    return steps


def retire(site, forget=True):
    """
    Stop a site for good: its units go, also at boot. Its folder, database and backups stay. Returns the units.

    forget: what is known of it without a pillar goes, too (bool).
    """
    stop(site, running(site))
    # Not those of a longer slug that begins with this one.
    own = re.compile(rf"{re.escape(site.name)}-[a-z][a-z0-9]*@?\.(service|socket|timer)")
    found = sorted(name for name in map(os.path.basename, glob.glob(f"{UNITS}/{site.name}-*")) if own.fullmatch(name))
    disable([name for name in found if "@" not in name])
    # Its own Redis; what was in it stays.
    disable([f"redis-server@{site.slug}.service"] if (site.facts.get("redis") or {}).get("own") else [])
    for name in found:
        os.unlink(f"{UNITS}/{name}")
    files.remove(f"{UNITS}/{site.slice}")
    systemctl("daemon-reload")
    if forget:
        files.remove(f"{host.SITES}/{site.slug}.json")
    return found
