"""What a deploy needs, asked before anything is touched: all faults at once."""

import os

from . import front, host, postgres, redis_gate, units, watch
from .errors import Failed, Refused

# What a release, its environment and the journal may need before a deploy begins.
FREE_BYTES = 300 << 20
SPARE_MEMORY = 32 << 20
_MEMORY = "/proc/meminfo"


def pong(slug):
    """Raise Refused unless Redis answers PONG, the site's own too: without it no release would be healthy."""
    for each in (None, *([slug] if slug in redis_gate.own() else [])):
        answer = redis_gate.answer(host.name(), again=host.apply_again, slug=each)
        if answer != "PONG":
            raise Refused(answer)


def gate(slug):
    """Raise Refused with every reason for which Redis cannot carry this site."""
    failed = redis_gate.failed(redis_gate.checks(host.name(), again=host.apply_again, site=slug))
    if failed:
        raise Refused("\n".join(failed))


def look(run):
    """Raise Refused with a sentence for each reason not to begin; what is only worth a word becomes a note."""
    site, faults = run.site, []
    for path in (site.path(".env"), site.path("repo.git")):
        if not os.path.exists(path):
            raise Refused(
                f"{site.slug} is not provisioned on {host.name()}: there is no {path}. "
                f"Try: {host.command('state.apply')}"
            )
    needed = FREE_BYTES
    try:
        # Migrations are preceded by a dump, which is never larger than the database.
        needed += postgres.size(site)
    except Failed as exc:
        faults.append(str(exc))
    disk = os.statvfs(site.root)
    free = disk.f_bavail * disk.f_frsize
    if free < needed:
        faults.append(
            f"{site.root} on {host.name()} has {free >> 20} MiB left, a release and its dump need {needed >> 20}. "
            "Try: df -h /srv"
        )
    faults += _memory(site) + front.faults(site.domain)
    fresh = _freshness(site)
    faults += fresh["refusals"]
    run.notes += fresh["warnings"]
    if faults:
        raise Refused("\n".join(faults))


def _memory(site):
    live = site.current
    needed = units.memory(site, live) if live else 0
    with open(_MEMORY, encoding="ascii") as stream:
        available = next(int(line.split()[1]) << 10 for line in stream if line.startswith("MemAvailable"))
    if not live or available >= needed + SPARE_MEMORY:
        return []
    return [
        f"{host.name()} has {available >> 20} MiB of memory left, the new release beside the old one needs "
        f"about {needed >> 20}. Try: free -m, or fewer workers"
    ]


def _freshness(site):
    if not os.path.exists(host.BACKUP):
        # Its backups are yet to be provisioned.
        return {"warnings": [], "refusals": []}
    return watch.freshness([site])
