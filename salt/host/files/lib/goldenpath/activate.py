"""From a built release to the only one that serves, and back again where that fails."""

import contextlib
import os
import re
import time

from . import env, files, health, manage, redis_move, text, units, visitor
from . import site as sites
from .errors import Failed

WORKER_SECONDS = 30


def activate(run, release, sha, before, switched=lambda: None, strict=True):
    """
    Start, prove, switch, prove again at the front door, bring Celery and the site's daemons along, drain.

    switched: called at once after the switch. strict: a daemon that does not stay up is a failure; an older release may
    not know it, and going back to one is not held up by that.
    """
    site = run.site
    with run.step("start"):
        # What starts the live release at boot: it finds the release through `current`.
        units.enable([units.boot(site)])
        units.start(site, release)
    with run.step("prove"):
        health.prove(site, release, since=run.began)
    with run.step("switch"):
        # A power cut must not leave a live release of empty files.
        os.sync()
        _switch(site, release)
        switched()
    with run.step("front door"):
        health.front(site, sha)
        if strict:
            run.notes += visitor.remarks(site)
    with run.step("celery"):
        units.systemctl("start", units.boot(site))
        if redis_move.moves(site, before, release):
            _bring_keys(site, [other for other in units.running(site) if other != release])
        _celery(run, release, strict)
    # Last: until here going back is one rename.
    with run.step("drain"):
        others = [other for other in units.running(site) if other != release]
        if site.facts.get("asgi"):
            units.await_connections(site, others, site.facts["drain"])
        units.stop(site, others)
    files.remove(site.path(sites.BEFORE))
    if env.read(site.path(".env")) == env.read(site.variables(release)):
        files.remove(site.path(sites.OWED))
    redis_move.leave(site)


def _bring_keys(site, others):
    """Nobody writes where the keys come from, and no task is taken before the older ones are there."""
    if found := units.background(site):
        units.systemctl("stop", *reversed(found))
    units.stop(site, others)
    redis_move.gather(site)


def _switch(site, release):
    """One atomic rename moves the site; the release before stays one link away."""
    before = site.current
    site.point(release, before if before != release else None)


def _celery(run, release, strict):
    """Celery on the release that was just switched to: restarted warmly, and a task is really run by the new worker."""
    site = run.site
    since = units.restart_background(site)
    found = units.background(site) if strict else units.celery(site)

    def restarted():
        units.await_background(site, since, found)
        return str(units.main_pid(units.worker(site)))

    if not strict and units.further(site):
        try:
            units.steady_background(site, since, units.further(site))
        except Failed as exc:
            run.notes.append(f"{exc}. Or this release does not know it: the pillar's `processes` are of a later one")
    if not site.celery["worker"]:
        units.await_background(site, since, found)
        units.steady_background(site, since, found)
        return
    # What asks the worker is imported while the old one ends its tasks.
    done = manage.program(
        site, release, "celery_proof.py", site.environment(release)["PROJECT"], str(WORKER_SECONDS),
        timeout=WORKER_SECONDS + 20, feed=restarted,
    )  # fmt: skip
    if done.code:
        unit = units.worker(site)
        why = (run.masked(done.output).strip().splitlines() or ["it said nothing"])[-1].rstrip(".")[:300]
        raise Failed(
            f"The new Celery worker runs no task: {why}. Try: journalctl -u {unit}",
            run.masked(units.journal(unit, since)),
        )
    if unproven := re.findall("^::unproven (.*)$", done.output, re.MULTILINE):
        run.notes.append(f"no task was sent to the new Celery worker: {text.printable(unproven[0])[:200]}")
    units.steady_background(site, since, found)


def switch_back(run, before, release):
    """Point at the old instance again, which is all that visitors need. Returns how it stands, in words."""
    site = run.site
    if before is None:
        files.remove(site.path("current"))
        units.disable(units.background(site))
        units.stop(site, [release])
        site.maintenance_on(sites.OURS)
        return "There is no older release to go back to: visitors see the maintenance page"
    # Where it was drained already it is started first; where it still runs this does nothing.
    with contextlib.suppress(Failed):
        units.start(site, before)
    # Pages of the release that is left may still be open: its static files stay until the next deploy.
    site.point(before, release)
    if redis_move.moves(site, before, release):
        with contextlib.suppress(Failed):
            _bring_keys(site, [release])
    with contextlib.suppress(Failed):
        units.await_background(site, units.restart_background(site))
    end = time.time() + health.ANSWER_SECONDS
    while (answer := health.ask(site, before))["status"] == "unreachable" and time.time() < end:
        time.sleep(0.2)
    if answer["status"] == "unreachable":
        site.maintenance_on(sites.OURS)
        return f"Release {before} does not come back ({answer['message']}): visitors see the maintenance page"
    site.maintenance_off(sites.OURS)
    return f"Release {before} serves again"
