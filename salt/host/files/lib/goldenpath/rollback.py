"""Back to a release that was good: no rebuild, proven before visitors reach it, as in a deploy."""

import contextlib
import os

from . import (
    activate,
    env,
    heal,
    history,
    host,
    lock,
    preflight,
    progress,
    redis_move,
    restore,
    run,
    steps,
    text,
    units,
)
from . import site as sites
from .errors import Failed, Refused


def rollback(site, release=None, who="unknown", wait=0, restore_database=False):
    """
    Serve an older release again. The steps: clean, restore database (where it is asked for), start, prove, switch,
    front door, celery, drain.

    release: its id; the last good one before the live one where it is left out. who, wait: as in a deploy.
    restore_database: go back to the dump from before the first migration since then, too: what visitors wrote since is
    lost, the database of now is kept as a dump.

    Returns the record that went into the history; ``moved`` lists the migrations that the database has had since that
    release. The release that was left is marked bad and never chosen again. Raises Failed.
    """
    site.provisioned()
    preflight.pong(site.slug)
    when = text.now()
    with lock.of_site(site, who, wait) as held, progress.shown(site.slug) as told:
        this = run.Run(site, who, held, told.notes)
        this.notes += filter(None, [site.unprovisioned()])
        with this.step("clean"):
            steps.clean(this)
        before = site.current
        target = _target(site, before, release)
        built = history.built(site, target)
        if redis_move.lost(site, target):
            raise Refused(
                f"The variables of {target} name a Redis that {host.name()} has no more. "
                f"Try: goldenpath deploy {site.slug} {built['ref']}"
            )
        moved = [name for each in history.since(site, target) for name in each.get("migrations", [])]
        dump = _dump(site, target) if restore_database else None
        record = {"release": target, "action": "rollback", "ref": built["ref"], "sha": built["sha"], "who": who,
                  "when": when, "migrations": [], "dump": None, "from": before}  # fmt: skip
        left = {**record, "release": before, "outcome": "bad", "reason": f"rolled back by {who}"}
        exchanged = False
        try:
            if dump:
                with this.step("restore database"):
                    done = restore.exchange(site, dump)
                    exchanged = True
                    word = f"the database is that of {dump}, the one of before is {done['safety']}"
                    this.notes += [*done["notes"], word]
            # From the switch on, also where this is killed: the release that is left is not chosen again.
            activate.activate(this, target, built["sha"], before, lambda: history.add(site, left), strict=False)
            if exchanged:
                restore.settle(site)
        except Exception as exc:
            raise _failed(this, record, exc, exchanged) from exc
        site.maintenance_off(sites.OURS)
        record.update(outcome="live", seconds=this.seconds(), steps=this.steps)
        history.add(site, record)
        moved = [] if exchanged else moved
        this.notes += filter(None, [_others(site, target)])
        told.said = (
            f"{site.slug} serves {target} ({record['ref']}) again after {record['seconds']} s; the database has "
            + (f"moved since, by {len(moved)} migrations: {', '.join(moved)}" if moved else "not moved since")
        )
    return {**record, "moved": moved, "notes": this.notes, "before": before}


def _target(site, before, release):
    choices = [known for known in history.good(site) if known != before]
    # Ids begin with the time: back is never forward.
    earlier = [known for known in choices if before is None or known < before]
    where = f"{site.slug} on {host.name()}"
    if release is None:
        if not earlier:
            raise Refused(f"{where} has no good release to go back to. Try: deploy an earlier ref")
        return max(earlier)
    if release == before:
        raise Refused(f"{release} is the live release of {where} already")
    if release not in choices:
        known = ", ".join(choices) or "none"
        raise Refused(f"{release!r:.80} is no good release of {where}. Try one of: {known}")
    return release


def _others(site, target):
    """Which variables are not the pillar's: a remark, or an empty string."""
    now, then = env.read(site.path(".env")), env.read(site.variables(target))
    names = sorted(name for name in now.keys() | then.keys() if now.get(name) != then.get(name))
    return names and (
        f"it has the variables of then: what the pillar says of {text.few(names)} comes with the next deploy, or the "
        "next change there"
    )


def _dump(site, target):
    moved, dump = history.dump_before(site, target)
    if moved and not (dump and os.path.exists(dump)):
        raise Refused(
            f"The dump from before the migrations since then is not on {host.name()} any more: "
            f"{dump or 'there was none'}. Try: salt-run state.orchestrate restore"
        )
    return dump


def _failed(this, record, exc, exchanged):
    """Undo a rollback that failed, record it, and say it in one sentence."""
    site, before, target, step = this.site, record["from"], record["release"], this.step_name
    switched = site.current == target
    state = activate.switch_back(this, before, target) if switched else f"Release {before} goes on serving"
    units.stop(site, [target])
    if exchanged:
        with contextlib.suppress(Failed):
            state += f". {heal.heal(site)}"
    sentence, below = this.why(exc)
    record.update(outcome="failed", reason=sentence, step=step, seconds=this.seconds(), steps=this.steps)
    run.remember(site, record)
    if switched:
        # It was marked bad at the switch, and serves again.
        run.remember(site, {**record, "release": before, "outcome": "live"})
    return Failed(
        f"The rollback of {site.slug} on {host.name()} to {target} failed at step {step}: "
        f"{sentence.rstrip('.')}. {state}.",
        below,
    )
