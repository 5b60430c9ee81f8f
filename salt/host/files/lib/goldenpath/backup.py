"""One backup of a site: dump, media, environment, put into the repository and written down."""

import contextlib
import os
import shutil
import time

from . import env, files, heal, history, host, journal, lock, media, pgdump, postgres, repository, text
from . import site as sites
from .errors import Failed

# Below this a database's size says nothing.
SMALL = 1 << 20
DEPLOY_WAIT = 1800
# How often media that change while restic reads them are taken again.
ROUNDS = 3
# How long dumps between the nights stay.
KEEP_DUMPS = "2d"


def held_before(site, config):
    """What the last backup held; a host that replaces a lost one has no record, but there are the snapshots."""
    known = journal.recorded(site.slug).get("good")
    if known:
        return known
    full = [each for each in repository.snapshots(config, site, make=True) if each["kind"] == "full"]
    return (full or [{}])[-1]


def shrunk(site, last, dump, tables, count):
    """What is less than half of what it was: more likely a loss than a tidy-up."""
    for what, before, after, least in (
        ("the dump has", last.get("dump", 0), dump, SMALL),
        ("the tables are", last.get("tables", 0), tables, 2),
        ("the media files are", last.get("files", 0), count, 20),
    ):
        if before >= least and after * 2 < before:
            figures = (
                f"{text.size(before)} and now {text.size(after)}" if "dump" in what else f"{before} and now {after}"
            )
            raise Failed(
                f"{what} less than half of what was there at the last backup ({figures}). "
                f"Try: look at the site; where this is right, goldenpath.backup {site.slug} accept_smaller=True"
            )


def run(site, accept_smaller=False, between=False):
    """
    Back up one site. Returns its record; raises Failed, and then the repository is as it was.

    between: the database alone, between the nights.
    """
    config = host.backup()
    began = time.time()
    staging = f"{site.root}/backups/staging"
    try:
        summary = _run(site, config, staging, accept_smaller, between)
        if between:
            _forget_dumps(config, site)
    except (Failed, OSError) as exc:
        sentence = str(exc) if isinstance(exc, Failed) else f"{exc}. Try: df -h {site.root}"
        what = "dump between the nights" if between else "backup"
        stake = journal.at_stake(site.slug)
        failed = f"failed, and {stake}" if stake else "failed"
        sentence = f"The {what} of {site.slug} on {host.name()} {failed}: {sentence}"
        with contextlib.suppress(OSError):
            journal.record(site.slug, failed={"at": text.now(), "reason": sentence})
        raise Failed(sentence) from None
    finally:
        files.remove_tree(staging)
    summary["seconds"] = round(time.time() - began, 1)
    journal.record(site.slug, **({"dumped": summary} if between else {"good": summary, "failed": None}))
    return summary


def _forget_dumps(config, site):
    """What is older than two days has its nights."""
    repository.restic(
        config, "forget", "--tag", f"{repository.BETWEEN}={site.slug}", "--host", host.name(), "--group-by", "host",
        "--keep-within", KEEP_DUMPS,
    )  # fmt: skip


def _run(site, config, staging, accept_smaller, between):
    if not os.path.isdir(f"{site.root}/backups"):
        raise Failed(f"there is no {site.root}/backups. Try: {host.command('state.apply')}")
    if not site.current:
        # An empty site would become the newest snapshot, and a restore would take it.
        raise Failed("it has no live release. Try: deploy it, or restore it")
    files.fresh(staging)
    last = journal.recorded(site.slug).get("good", {})
    dump = f"{staging}/database.dump"
    with lock.of_site(site, "backup", DEPLOY_WAIT):
        # What a killed restore left between two states is no backup.
        heal.heal(site)
        space = postgres.size_of(site.name)
        if not space:
            raise Failed(f"there is no database {site.name}. Try: {host.command('state.apply')}")
        files.rooms(_needs(site, config, staging, space, last.get("bytes", 0), between), "a backup", host.name())
        began = text.now()
        held = pgdump.dump(site, dump + ".partial")
        shutil.copy2(site.variables(site.current), f"{staging}/env")
        # After the rows: a file that a row names is there before the row is.
        if not between:
            media.freeze(f"{site.root}/media", f"{staging}/media")
        release = site.current
    pgdump.verify(site, dump + ".partial", held)
    listed = {} if between else media.listing(f"{staging}/media", files.read_json(journal.media(site)))
    if not accept_smaller:
        before = held_before(site, config)
        shrunk(
            site,
            {**before, "files": 0} if between else before,
            os.path.getsize(dump + ".partial"),
            len(held["tables"]),
            len(listed),
        )
    os.rename(dump + ".partial", dump)
    manifest = {
        "site": site.slug, "host": host.name(), "at": began, "release": release,
        "sha": env.read(site.release(release, "release.env")).get("GIT_SHA"), "ref": _ref(site, release),
        "dump": {"bytes": os.path.getsize(dump), "sha256": media.checksum(dump)}, **held,
    }  # fmt: skip
    files.write_json(f"{staging}/manifest.json", manifest)
    if between:
        snapshot = _stored(site, config, staging, manifest, listed, repository.BETWEEN)
    else:
        snapshot, listed = _still(site, config, staging, manifest, listed)
        files.write_json(journal.media(site), listed)
    return {
        "at": began, "snapshot": snapshot[:8], "release": release, "dump": manifest["dump"]["bytes"],
        "tables": len(held["tables"]), "rows": sum(held["tables"].values()), "files": len(listed),
        "bytes": sum(item[0] for item in listed.values()),
    }  # fmt: skip


def _needs(site, config, staging, space, before, between):
    """The bytes that a backup takes, by folder. space: of the database; before: of the last backup's media."""
    needs, folder, size = [(staging, space)], site.path("media"), 0 if between else media.size(site)
    if size and os.path.isdir(folder) and os.stat(folder).st_dev != os.stat(staging).st_dev:
        needs.append((staging, size))  # no links across filesystems: copies
    if repository.is_local(config):
        needs.append((config["repository"], space + max(0, size - before)))
    return needs


def _still(site, config, staging, manifest, listed):
    """
    A snapshot whose media are those of its list. Returns its id and the list.

    A link follows a file that is written to in place: such a file is copied, and everything stored again.
    """
    for _ in range(ROUNDS):
        snapshot = _stored(site, config, staging, manifest, listed)
        again = media.listing(f"{staging}/media", listed)
        moved = [name for name in listed if again.get(name) != listed[name]]
        if not moved:
            return snapshot, listed
        # The snapshot may hold neither what was nor what is.
        repository.restic(config, "forget", snapshot)
        _detached(f"{staging}/media", moved)
        listed = media.listing(f"{staging}/media", again)
    raise Failed(
        f"{len(moved)} media files changed in each of {ROUNDS} tries, as {moved[0]}. "
        "Try: again when whatever writes them is done"
    )


def _detached(folder, names):
    """Copies in the place of links to files that somebody still writes to."""
    files.rooms([(folder, sum(os.lstat(f"{folder}/{name}").st_size for name in names))], "a backup", host.name())
    for name in names:
        shutil.copy2(f"{folder}/{name}", f"{folder}/{name}.goldenpath", follow_symlinks=False)
        os.rename(f"{folder}/{name}.goldenpath", f"{folder}/{name}")


def _stored(site, config, staging, manifest, listed, kind=repository.FULL):
    """Put the staged files into the repository. kind: the tag that says whose it is. Returns the snapshot's id."""
    files.write_json(f"{staging}/media.json", listed)
    tags = {
        kind: site.slug, "release": manifest["release"], "sha": manifest["sha"], "dump": manifest["dump"]["bytes"],
        "tables": len(manifest["tables"]), "files": len(listed), "bytes": sum(item[0] for item in listed.values()),
    }  # fmt: skip
    # The links have changed the files' ctime, and nothing else.
    output = repository.restic(
        config, "backup", "--json", "--host", host.name(), "--ignore-ctime",
        *(word for key, value in tags.items() for word in ("--tag", f"{key}={value}")), staging,
        make=True, allow=(0, 3),
    )  # fmt: skip
    snapshot = (repository.parsed(output) or {}).get("snapshot_id")
    if not snapshot:
        raise Failed(f"restic names no snapshot: {text.reason(output)}. Try: again")
    unread = [line for line in output.splitlines() if '"message_type":"error"' in line]
    if unread:
        repository.restic(config, "forget", snapshot)
        raise Failed(f"restic could not read everything: {unread[0][:200]}. Try: df -h {staging}")
    return snapshot


def _ref(site, release):
    """What the history calls a release."""
    refs = [record["ref"] for record in history.read(site) if record.get("release") == release and record.get("ref")]
    return refs[-1] if refs else None


def prune():
    """Keep what the pillar says of each site, drop the rest, and read the repository over. Raises Failed."""
    config = host.backup()
    keep = config["keep"]
    for site in sites.backed_up():
        _forget_dumps(config, site)
        repository.restic(
            config, "forget", "--tag", f"{repository.FULL}={site.slug}", "--host", host.name(), "--group-by", "host",
            "--keep-daily", str(keep["daily"]), "--keep-weekly", str(keep["weekly"]),
            "--keep-monthly", str(keep["monthly"]), make=True,
        )  # fmt: skip
    repository.restic(config, "prune", "--max-unused", "10%")
    week = int(time.time() // (7 * 86400))
    small = False
    if repository.is_local(config):
        total = sum(
            os.lstat(f"{base}/{name}").st_size for base, _, names in os.walk(config["repository"]) for name in names
        )
        small = total < 5 << 30
    # What lies elsewhere, or is large, is read over in eight weeks.
    repository.restic(config, "check", "--read-data" if small else f"--read-data-subset={week % 8 + 1}/8")
    return {"repository": repository.shown(config), "read": "all of it" if small else "an eighth of it"}
