"""What should live and does not is set right: the live release, and what belongs to it, is up."""

import os
import time

from . import files, health, history, host, journal, lock, manage, redis_move, text, units
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
    return (
        _steps(site) + [f"remove {unit}" for unit in units.stray(site)] + [f"serve {name}" for name in site.unserved()]
    )


def settled(site):
    """Whether ``settle`` has nothing to do, as at most times: that is no work for a unit of its own."""
    return not os.path.exists(journal.path(site)) and not unsettled(site)


def _steps(site):
    """What systemd has to do: its words for it."""
    steps = units.unsettled(site)
    if any(os.path.exists(site.path(name)) for name in (sites.OWED, sites.BEFORE)):
        # The socket stays and holds what comes in meanwhile: visitors wait, none is refused.
        web, behind = units.names(site, site.current)[1], units.background(site)
        if redis_move.two(site):
            # Nobody writes where the keys come from, and no task is taken before the older ones are there.
            starts = [f"start {unit}" for unit in behind]
            steps = [each for each in steps if each not in starts]
            steps += [*(f"stop {unit}" for unit in reversed(behind)), f"restart {web}", _MOVE, *starts]
        else:
            steps += [f"restart {unit}" for unit in [web, *behind]]
    return steps


def settle(site, restart=False):
    """
    Bring up what should be up, and leave alone what is not live.

    restart: restart it too, because its environment or its units changed. Returns what had to be done. Raises Failed.
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
    with lock.of_site(site, "state.apply", WAIT):
        if os.path.exists(journal.path(site)):
            raise Failed(
                f"A restore of {site.slug} on {host.name()} was interrupted and is being put back. "
                "Try: systemctl status goldenpath-heal on the host, then again"
            )
        live, done, began = site.current, _steps(site), time.time()
        if os.path.exists(owed):
            _rehearse(site, live)
        try:
            _work(site, live, done, began)
        except Failed as exc:
            if not _taken_back(site):
                raise
            # What ran before runs again; where it does not, the next run goes on trying.
            _work(site, live, _steps(site), time.time())
            raise Failed(f"{str(exc).partition('. Try: ')[0].rstrip('.')}. {_BACK}", exc.tail) from None
        files.remove(site.path(sites.BEFORE))
        redis_move.leave(site)
        gone = units.stray(site)
        units.remove(gone)
    return found + served + done + [f"remove {unit}" for unit in gone]


_MOVE = "move the site's keys"
_BACK = (
    "The environment of before is back, and the site serves. "
    "Try: the site's `env`, `secrets` and `settings` in the pillar"
)


def _rehearse(site, live):
    """
    A changed environment with which the live release could not even be loaded takes no site down. Raises Failed; the
    environment of before is back then, and nothing was restarted.
    """
    if not os.path.exists(site.path(sites.BEFORE)):
        return
    have = site.environment(live)
    words = [have.get("WEB_APPLICATION") or site.application()]
    words += [have.get("PROJECT", site.facts.get("project", ""))] * site.celery["worker"]
    done = manage.program(site, live, "load_site.py", *words, timeout=120)
    if done.code and _taken_back(site):
        files.remove(site.path(sites.OWED))
        why = text.masked(reason(done.output), site.secrets())
        raise Failed(f"Release {live} of {site.slug} does not load with its changed environment: {why}. {_BACK}")


def _taken_back(site):
    """Whether there was an environment of before, which is in its place again."""
    before = site.path(sites.BEFORE)
    if not os.path.exists(before):
        return False
    os.rename(before, site.path(".env"))
    site.secure()
    return True


def _work(site, live, steps, began):
    owed = site.path(sites.OWED)
    for step in steps:
        if step == _MOVE:
            redis_move.gather(site)
            continue
        verb, _, unit = step.partition(" ")
        told = units.systemctl(*verb.split("+"), unit)
        if told.code:
            what = f"{unit} does not start again" if verb == "restart" else f"systemctl {verb} {unit} failed"
            raise Failed(f"{what}: {reason(told.output)}. Try: journalctl -u {unit}")
    if os.path.exists(owed):
        # gunicorn is ready before its workers have imported the site.
        health.prove(site, live, f"Release {live} of {site.slug}, restarted with what changed,", began)
        files.remove(owed)
