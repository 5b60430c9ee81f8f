"""
The jobs of a host's backups, as timers and people call them: each returns a dictionary, or raises Failed with a
sentence for each fault.
"""

import os
import time

from . import alert, backup, drill, heal, host, journal, launch, lock, progress, repository, restore, text
from . import site as sites
from .errors import Busy, Ended, Failed

# Longest that a job waits for another one.
BUSY = 3600
# How long a heal tries before somebody hears of it; and how long the end of a restore waits for one.
PATIENCE = 600
HEAL_WAIT = 1500


def back_up(slug, accept_smaller=False, wait=BUSY):
    """Back up one site. accept_smaller: see ``backup.run``. wait: seconds."""
    (site,) = sites.backed_up(slug)
    with lock.of_backups("backup", wait):
        return backup.run(site, accept_smaller)


def dump(slug, wait=BUSY):
    """Dump the database of one site into the repository, between the nights. wait: seconds."""
    (site,) = sites.backed_up(slug)
    with lock.of_backups("dump", wait):
        return backup.run(site, between=True)


def prove(slug, snapshot=None, wait=BUSY):
    """Drill one site. snapshot: another than the newest. wait: seconds."""
    (site,) = sites.backed_up(slug)
    with lock.of_backups("drill", wait):
        return drill.run(site, snapshot)


def each(verb, slug, request):
    """
    ``backup``, ``dump`` or ``drill`` of one site, or of every site of the host: a unit for each, with a limit of its
    own. What one of them meets does not keep the others from their turn.
    """
    results, faults = {}, []
    for site in sites.backed_up(slug):
        if slug is None and not site.current:
            # Not deployed yet, or on a host that replaces a lost one not restored yet.
            results[site.slug] = {"skipped": "it has no live release"}
            continue
        try:
            results[site.slug] = launch.run(verb, site.slug, request, request["wait"])
        except Failed as exc:
            faults.append(str(exc))
    if faults:
        raise Failed("\n".join(faults))
    if slug is None:
        _beat(verb)
    return results


def check(wait=BUSY):
    """Prune the repository and read it over. wait: seconds."""
    with lock.of_backups("check", wait):
        try:
            result = backup.prune()
        except Failed as exc:
            journal.record("_check", at=text.now(), verdict="bad", reason=str(exc))
            raise Failed(f"The check of the backups of {host.name()} failed: {exc}") from None
    journal.record("_check", at=text.now(), verdict="good", reason=None)
    _beat("check")
    return result


def listing(slug=None):
    """The snapshots of one site, or of all, the last backup and the last drill."""
    config = host.backup()
    answer = {"repository": repository.shown(config), "sites": {}, "check": journal.recorded("_check")}
    for site in sites.backed_up(slug):
        known = journal.recorded(site.slug)
        answer["sites"][site.slug] = {
            "snapshots": [{key: value for key, value in item.items() if key != "path"}
                          for item in repository.snapshots(config, site)],
            "backup": known.get("good"), "dumped": known.get("dumped"), "failed": known.get("failed"),
            "drill": known.get("drill"),
        }  # fmt: skip
    return answer


def plan(slug, snapshot=None, wait=0):
    """What a restore would do; ``told`` has it in words. wait: seconds."""
    (site,) = sites.backed_up(slug)
    with lock.of_backups("look", wait):
        facts = restore.plan(site, snapshot)
    return {**facts, "told": restore.told(facts)}


def _beat(job):
    url = host.backup()["heartbeat"].get(job)
    if url:
        alert.beat(url, job)


def restored(slug, snapshot=None, keep_secret_key=False, wait=0):
    """
    Inside its unit: restore one site. snapshot: another than the newest. keep_secret_key: whatever the snapshot has.
    wait: seconds.
    """
    (site,) = sites.backed_up(slug)
    with lock.of_backups("restore", wait), lock.of_site(site, "restore", wait), progress.shown(slug) as told:
        done = restore.run(site, snapshot, keep_secret_key)
        told.said = (
            f"{slug} is what it was at {done['time']} and serves, after {done['seconds']} s of which "
            f"{done['stopped']} s behind the maintenance page"
            + (f"; what it was before is in {done['safety']}" if done["safety"] else "")
        )
        told.notes += done["notes"]
        return done


def restore_beside(slug, request):
    """Restore a site in its unit; where that is ended, it tells what became of the site. request: ``restored``'s."""
    began = time.time()
    try:
        return launch.run("restore", slug, request, request.get("wait") or 0)
    except Ended:
        # By the unit's own end, or by goldenpath-heal.service if it was first.
        healed = journal.recorded(slug).get("healed") or {}
        state = healed["state"] if healed.get("time", 0) >= began else "There was nothing to heal"
        raise Ended(
            f"The restore of {slug} on {host.name()} was ended before it was done. {state}. "
            f"Try: journalctl -u {launch.unit('restore', slug)}"
        ) from None


def end_of_restore(slug):
    """However a restore ended, the site is healed."""
    site = sites.load(slug)
    if os.path.exists(journal.path(site)):
        with lock.of_site(site, "heal", HEAL_WAIT):
            if os.path.exists(journal.path(site)):
                return {slug: _healed(site)}
    return {slug: None}


def heal_all():
    """Heal what nobody works on any more, as the lock of the site tells, and go on until nothing is left."""
    began, found, faults, failing = time.monotonic(), {}, {}, None
    while interrupted := journal.interrupted():
        for slug in interrupted:
            site = sites.load(slug)
            try:
                with lock.of_site(site, "heal"):
                    # Whoever had the lock may have healed it, or come to its end.
                    if os.path.exists(journal.path(site)):
                        found[slug] = _healed(site)
                        faults.pop(slug, None)
            except Busy:
                faults.pop(slug, None)
            except (Failed, OSError) as exc:
                faults[slug] = f"The interrupted restore of {slug} on {host.name()} is not healed: {exc}"
        now = time.monotonic()
        failing = (failing or now) if faults else None
        if faults and now - failing > PATIENCE:
            raise Failed("\n".join(faults.values()))
        if now - began > BUSY:
            break  # under way still: the path unit starts this again
        time.sleep(5 if faults else 1)
    return found


def _healed(site):
    state = heal.heal(site)
    journal.record(site.slug, healed={"at": text.now(), "time": time.time(), "state": state})
    return state


# A rollback with its database, which holds the site's lock already.


def exchange(slug, dump):
    """The database of a dump takes the place of the live one, until it is settled or put back."""
    (site,) = sites.backed_up(slug)
    return restore.exchange(site, dump)


def settle(slug):
    """The exchanged database stays."""
    return restore.settle(sites.load(slug))


def put_back(slug):
    """Everything is put back as it was."""
    return {"site": slug, "state": heal.heal(sites.load(slug))}
