"""A deploy: one ref of a site is fetched, built, proven beside the old release, switched to, and proven again."""

import contextlib
import glob
import os
import shutil

from . import (
    activate,
    files,
    history,
    host,
    lock,
    maintenance,
    preflight,
    progress,
    run,
    source,
    steps,
    text,
    units,
    venv,
)
from . import site as sites
from .errors import Failed, Refused

# Good releases that stay on the host next to current and previous.
KEEP = 5
# Logs of deploys that failed.
FAILED = 10


def deploy(site, ref=None, who="unknown", wait=0):
    """
    Release one ref of a site. The steps, in order:

    gate, preflight, clean, fetch, environment, build (where the pillar has commands), static, dump and migrate (where
    migrations are pending), release (as build), start, prove, switch, front door, celery, drain, prune.

    ref: tag, branch or commit; the pillar's where it is left out. who: who asked for it, for the history. wait:
    seconds to wait for another deploy of this site. Returns the record that went into the history. Raises Failed; the
    old release is serving then.
    """
    ref = site.facts["ref"] if ref is None else ref
    if not source.valid_ref(ref):
        raise Refused(f"{ref!r:.80} is no tag, branch or commit. Try: git ls-remote on the site's repository")
    site.provisioned()
    record = {"release": None, "action": "deploy", "ref": ref, "sha": None, "who": who, "when": text.now(),
              "migrations": [], "dump": None}  # fmt: skip
    preflight.gate(site.slug)
    with lock.of_site(site, who, wait) as held, progress.shown(site.slug) as told:
        this = run.Run(site, who, held, told.notes)
        this.notes += filter(None, [site.unprovisioned()])
        with this.step("preflight"):
            preflight.look(this)
        if site.maintenance() == sites.OPERATOR:
            this.notes.append(
                f"visitors read the maintenance page, also after this{_until(site)}. "
                f"Try: goldenpath maintenance {site.slug} off"
            )
        with this.step("clean"):
            steps.clean(this)
        before, release = site.current, None
        try:
            with this.step("fetch"):
                release, sha = steps.fetch(this, ref)
                record.update(release=release, sha=sha)
                this.unfinished(record)
            with this.step("environment"):
                record["environment"] = "reused" if steps.environment(this, release, ref, sha) else "built"
            if site.facts.get("build"):
                with this.step("build"):
                    steps.commands(this, release, "build")
            with this.step("static"):
                pending = steps.static(this, release)
            if pending:
                steps.migrations(this, release, record)
            if site.facts.get("release"):
                with this.step("release"):
                    steps.commands(this, release, "release")
            activate.activate(this, release, sha, before)
        except Exception as exc:
            raise failed(this, record, before, exc) from exc
        finished(this, record)
        told.said = f"{lives(site.slug, record)}, environment {record['environment']}"
    return {**record, "steps": this.steps, "notes": this.notes, "before": before}


def finished(this, record):
    """A release that is live and was made just now goes into the history; what is older than is kept goes."""
    this.site.maintenance_off(sites.OURS)
    record.update(outcome="live", seconds=this.seconds(), steps=this.steps)
    history.add(this.site, record)
    os.unlink(this.site.release(record["release"], ".unfinished"))
    with this.step("prune"):
        prune(this.site)


def _until(site):
    when = maintenance.until(site)
    return f", until {maintenance.shown(when)}" if when else ""


def lives(slug, record):
    """How a deploy ended that did not fail, as the beginning of a sentence."""
    return f"{record['ref']} ({record['sha'][:8]}) is live on {slug} after {record['seconds']} s"


def failed(this, record, before, exc):
    """Undo what a failed deploy, or a failed change of the environment, did, record it, and say it in one sentence."""
    site, release, step = this.site, record["release"], this.step_name
    bad = release is not None and site.current == release
    if bad:
        state = activate.switch_back(this, before, release)
    elif before:
        state = f"Release {before} goes on serving"
        if record["action"] == "configure":
            state += ", with the variables that it had"
    else:
        state = "The site has no release yet"
    if before and not bad:
        # It was up for migrations that the serving release was not to meet.
        site.maintenance_off(sites.OURS)
    sentence, below = this.why(exc)
    record.update(
        outcome="bad" if bad else "failed", reason=sentence, step=step, seconds=this.seconds(), steps=this.steps
    )
    run.remember(site, record)
    if release:
        below = f"{below}\nThe whole log: {_kept_log(site, release)}".strip()
        _forget(site, record, bad)
    what = f"The deploy of {record['ref']} to" if record["action"] == "deploy" else "What changed for"
    return Failed(
        f"{what} {site.slug} on {host.name()} failed at step {step}: {sentence.rstrip('.')}. {state}{_moved(record)}.",
        below,
    )


def _moved(record):
    """
    What a failed deploy did to the database, as the end of a sentence. A migration that is not atomic, or that nobody
    can ask about, may have done half of its work: the dump stays all the same.
    """
    if not record.get("migrating"):
        return ""
    done = len(record["migrations"])
    what = f"{done} migrations stay in the database" if done else "no migration was finished"
    return f"; {what}, the dump from before is {record['dump'] or 'none: it was empty'}"


def _kept_log(site, release):
    """The log of a failed deploy stays when its release goes; the last few do."""
    folder = site.path("failed")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    kept = f"{folder}/{release}.log"
    with contextlib.suppress(OSError):
        shutil.copyfile(site.release(release, "deploy.log"), kept)
    for path in sorted(glob.glob(f"{folder}/*.log"))[:-FAILED]:
        files.remove(path)
    return kept


def _forget(site, record, bad):
    release = record["release"]
    units.stop(site, [release])
    if record["dump"] and not record.get("migrating"):
        files.remove(record["dump"])
    if bad:
        # Its folder is `previous` until the next deploy: its static files may still be asked for.
        files.remove(site.release(release, ".unfinished"))
    else:
        files.remove_tree(site.release(release))


def prune(site):
    """
    Keep the newest good releases, also where these are of few commits, current and previous, the dumps that lead back
    to them, the newest dumps, and the releases that these belong to. With the others go the secrets of then.
    """
    good = history.good(site)
    newest = {}
    for release in good:
        commit = release.rpartition("-")[2]
        newest.pop(commit, None)
        newest[commit] = release
    keep = {*good[-KEEP:], *list(newest.values())[-KEEP:], site.current, site.previous, *units.running(site)}
    dumps = set(steps.dumps(site, "*.dump")[-KEEP:])
    dumps |= {history.dump_before(site, release)[1] for release in keep & set(good)}
    for dump in steps.dumps(site, "*.dump"):
        if dump not in dumps:
            os.unlink(dump)
    keep |= {release for release in good if site.path("backups", f"{release}.dump") in dumps}
    lenders = {site.lender(release) for release in keep if release}
    for folder in glob.glob(site.path("releases/*/")):
        release = os.path.basename(folder.rstrip("/"))
        lent = {"src"} if release in lenders else set()
        if release not in keep:
            for name in set(os.listdir(folder)) - lent:
                files.remove_tree(os.path.join(folder, name))
            if not lent:
                files.remove_tree(folder)
    used = {os.path.realpath(link) for link in glob.glob(site.path("releases/*/venv"))}
    for path in glob.glob(site.path("venvs/*")):
        if os.path.realpath(path) not in used:
            files.remove_tree(path)
    venv.forget_pythons(sites.ever())


def report(site, limit=10):
    """What is live, what was good, and how it came to be. limit: the last so many records."""
    return {"live": site.current, "good": history.good(site), "history": history.read(site, limit)}
