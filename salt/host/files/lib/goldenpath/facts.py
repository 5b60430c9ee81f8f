"""What is to be known of this host's sites right now: gathered once, and only shown by others."""

import contextlib
import os
import time

from . import history, journal, maintenance, redis_gate, signs, text, units
from . import site as sites

# What Celery calls a queue where the site names none.
QUEUE = "celery"


def gather():
    """A dictionary for each site; times are as records write them, None where there is none."""
    return {site.slug: _site(site) for site in sites.every()}


def _site(site):
    live, known = site.current, journal.recorded(site.slug)
    built = history.built(site, live) if live else None
    down = [each for each in units.unsettled(site) if each.startswith("start ")] if live else []
    return {
        "live": live,
        "ref": built["ref"] if built else None,
        "since": _since(site, live),
        "down": [each.partition(" ")[2] for each in down],
        "maintenance": maintenance.told(site) or None,
        "backup": (known.get("good") or {}).get("at"),
        "drill": (known.get("drilled") or {}).get("at"),
        "loss": journal.loss(site.slug),
        "restoring": site.slug in journal.interrupted(),
        "memory": _memory(site),
        "queue": _queue(site) if live and site.celery["worker"] else None,
        "certificate": _certificate(site) if live else None,
        "schedules": {name: _schedule(site, name) for name in sorted(site.facts.get("schedules", {}))},
    }


def _memory(site):
    """Bytes of all that runs of a site; None where nobody counts."""
    shown = units.show(site.slice, "MemoryCurrent")
    return int(shown) if shown.isdigit() else None


def _queue(site):
    """Tasks that wait for Celery's worker; None where Redis does not tell."""
    number = site.facts.get("redis", {}).get("broker", 1)
    with contextlib.suppress(ConnectionError):
        return redis_gate.ask(
            ["SELECT", str(number)], ["LLEN", QUEUE], slug=site.slug if site.slug in redis_gate.own() else None
        )[1]
    return None


def _certificate(site):
    """Seconds that the certificate of the first domain has left; None where nobody shows one."""
    with contextlib.suppress(OSError, ValueError, IndexError, KeyError):
        return signs.life(site.domain)[1] - time.time()
    return None


def _schedule(site, name):
    """When a schedule was due, when it ended and how, and when it is due next; empty where it never was, or is off."""
    unit = f"{site.name}-{name}.timer"
    (shown,) = units.facts(("LastTriggerUSec", "NextElapseUSecRealtime"), unit) or [{}]
    (ended,) = units.facts(("Result", "ExecMainExitTimestamp"), f"{site.name}-{name}.service") or [{}]
    return {"last": shown.get("LastTriggerUSec", ""), "next": shown.get("NextElapseUSecRealtime", ""),
            "ended": ended.get("ExecMainExitTimestamp", ""), "result": ended.get("Result", "")}  # fmt: skip


def machine():
    """A line on the host itself."""
    disk, load = os.statvfs("/srv"), os.getloadavg()[0]
    with open("/proc/meminfo", encoding="ascii") as stream:
        memory = {line.split(":")[0]: int(line.split()[1]) << 10 for line in stream}
    used = 100 - 100 * disk.f_bavail // disk.f_blocks
    return (
        f"disk {used} % used, {text.size(disk.f_bavail * disk.f_frsize)} free; "
        f"memory {text.size(memory['MemAvailable'])} of {text.size(memory['MemTotal'])} free; load {load:.1f}"
    )


def _since(site, live):
    went = [each["when"] for each in history.read(site) if each["release"] == live and each["outcome"] == "live"]
    return went[-1] if went else None


def table(found):
    """Sites as lines for a person; what is wrong is in words, with what to type."""
    head = ("SITE", "RELEASE", "REF", "LIVE FOR", "MEMORY", "QUEUE", "TLS", "BACKUP", "DRILL", "LOSS", "STATE")
    lines = [head, *(_row(slug, each) for slug, each in sorted(found.items()))]
    widths = [max(len(line[at]) for line in lines) for at in range(len(head) - 1)]
    rows = [
        "  ".join([*(word.ljust(width) for word, width in zip(line, widths, strict=False)), line[-1]]) for line in lines
    ]
    times = [
        f"  {slug} {name}: {_ran(schedule)}, next {schedule['next'] or 'never: its timer is off'}"
        for slug, each in sorted(found.items())
        for name, schedule in each["schedules"].items()
    ]
    return "\n".join(rows + times)


def _ran(schedule):
    if schedule["ended"]:
        how = "" if schedule["result"] in ("success", "") else f", FAILED ({schedule['result']})"
        return f"ran {schedule['ended']}{how}"
    # A boot forgets how it went, and a timer that was just made counts as due.
    return f"has not run since the boot, last due {schedule['last'] or 'never'}"


def _row(slug, each):
    def ago(when):
        return text.duration(text.age(when)) if when else "never"

    state = [f"{unit} is down: systemctl start {unit}" for unit in each["down"]]
    if each["maintenance"]:
        state.append(f"maintenance page by {each['maintenance']}: goldenpath maintenance {slug} off")
    if each["restoring"]:
        state.append("a restore is under way, or was interrupted: systemctl status goldenpath-heal")
    if not each["live"]:
        state = ["not deployed yet"]
    return (
        slug, each["live"] or "-", each["ref"] or "-", ago(each["since"]) if each["since"] else "-",
        "-" if each["memory"] is None else text.size(each["memory"]),
        "-" if each["queue"] is None else str(each["queue"]),
        "-" if each["certificate"] is None else text.duration(max(0, each["certificate"])),
        ago(each["backup"]), ago(each["drill"]),
        "all" if each["loss"] is None else f"{each['loss']} min", "; ".join(state) or "up",
    )  # fmt: skip
