"""What should live and does not is set right: the live release, and what belongs to it, is up."""

import os

from . import configure, history, host, journal, lock, units
from . import site as sites
from .errors import Failed
from .text import reason

# How long state.apply waits for a deploy that is under way.
WAIT = 60


def unsettled(site):
    """What ``settle`` would do: steps such as ``start sum-acme-celery.service``; none before the first release."""
    if not site.current:
        lost = history.last_live(site)
        return [f"point current at {lost}"] if lost else []
    owed = any(os.path.exists(site.path(name)) for name in (sites.OWED, sites.BEFORE))
    return (
        [_OWED] * owed
        + units.unsettled(site)
        + [f"remove {unit}" for unit in units.stray(site)]
        + [f"serve {name}" for name in site.unserved()]
    )


def settled(site):
    """Whether ``settle`` has nothing to do, as at most times: that is no work for a unit of its own."""
    return not os.path.exists(journal.path(site)) and not unsettled(site)


def settle(site, restart=False):
    """
    Bring up what should be up, and leave alone what is not live.

    restart: its environment or its units changed, which is a release. Returns what had to be done. Raises Failed; the
    release that served goes on serving as it was.
    """
    found = []
    if not site.current:
        lost = history.last_live(site)
        if not lost:
            return []
        # Somebody removed the link; the release that it named is there.
        site.point(lost)
        found = [f"point current at {lost}"]
    # First, and whatever else there is: Caddy's files rely on it.
    served = [f"serve {name}" for name in site.unserved()]
    site.serve()
    owed = site.path(sites.OWED)
    if restart or os.path.exists(site.path(sites.BEFORE)):
        # Until it is done: the next run does not see the change as one.
        with open(owed, "w", encoding="utf-8"):
            pass
    # Not beside a deploy, a rollback or a restore: these start and stop the same units.
    with lock.of_site(site, "state.apply", WAIT) as held:
        if os.path.exists(journal.path(site)):
            raise Failed(
                f"A restore of {site.slug} on {host.name()} was interrupted and is being put back. "
                "Try: systemctl status goldenpath-heal on the host, then again"
            )
        failed, done = None, []
        if os.path.exists(owed):
            try:
                done = [f"{_OWED}: {configure.configure(site, held)['release']}"]
            except Failed as exc:
                failed = exc
        steps = units.unsettled(site)
        try:
            _work(steps)
        except Failed:
            if not failed:
                raise
        if failed:
            raise failed
        gone = units.stray(site)
        units.remove(gone)
    return found + served + done + steps + [f"remove {unit}" for unit in gone]


_OWED = "make a release of what changed"


def _work(steps):
    for step in steps:
        verb, _, unit = step.partition(" ")
        told = units.systemctl(*verb.split("+"), unit)
        if told.code:
            raise Failed(f"systemctl {verb} {unit} failed: {reason(told.output)}. Try: journalctl -u {unit}")
