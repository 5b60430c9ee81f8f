"""One backup of a site: dump, media, environment, put into the repository and written down."""

import contextlib
import hashlib
import json
import os
import shutil
import time

from . import common, database, repository, restore
from .common import Failed

# Below this a database's size says nothing.
SMALL = 1 << 20
DEPLOY_WAIT = 1800
# How often media that change while restic reads them are taken again.
ROUNDS = 3


def media_list(folder, known=None):
    """
    Every file below a folder: {path: [size, mtime_ns, sha256]}; a link has its target for a checksum.

    known: such a list from before; what has the same size and time is not read again.
    """
    found = {}
    for base, folders, files in os.walk(folder):
        for name in sorted(files + [item for item in folders if os.path.islink(f"{base}/{item}")]):
            path = f"{base}/{name}"
            relative = os.path.relpath(path, folder)
            facts = os.lstat(path)
            if os.path.islink(path):
                found[relative] = [0, 0, "-> " + os.readlink(path)]
                continue
            if not os.path.isfile(path):
                continue
            before = (known or {}).get(relative)
            if before and before[:2] == [facts.st_size, facts.st_mtime_ns]:
                found[relative] = before
            else:
                found[relative] = [facts.st_size, facts.st_mtime_ns, checksum(path)]
    return found


def checksum(path):
    """A file's sha256."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def freeze(source, target):
    """
    The media as they are now, in a folder of links: what is replaced or deleted from here on does not matter.

    Media on a filesystem of their own cannot be linked to, and are copied.
    """

    def copy(one, other, **_):
        with contextlib.suppress(FileNotFoundError):
            try:
                os.link(one, other, follow_symlinks=False)
            except OSError:
                shutil.copy2(one, other, follow_symlinks=False)
        return other

    try:
        shutil.copytree(source, target, symlinks=True, copy_function=copy)
    except shutil.Error as exc:
        # A file that was deleted while it was looked at is not there; everything else is a fault.
        lost = [text for path, _, text in exc.args[0] if os.path.lexists(path)]
        if lost:
            raise Failed(f"the media in {source} cannot be read: {lost[0]}. Try: df -h {source}") from None


def media_size(slug):
    """The bytes of a site's media."""
    total = 0
    for base, _, files in os.walk(f"{common.root(slug)}/media"):
        for name in files:
            with contextlib.suppress(OSError):
                total += os.lstat(f"{base}/{name}").st_size
    return total


def held_before(slug, config):
    """What the last backup held; a host that replaces a lost one has no record, but there are the snapshots."""
    known = common.recorded(slug).get("good")
    if known:
        return known
    return (repository.snapshots(config, slug, make=True) or [{}])[-1]


def shrunk(slug, last, dump, tables, files):
    """What is less than half of what it was: more likely a loss than a tidy-up."""
    for what, before, after, least in (
        ("the dump has", last.get("dump", 0), dump, SMALL),
        ("the tables are", last.get("tables", 0), tables, 2),
        ("the media files are", last.get("files", 0), files, 20),
    ):
        if before >= least and after * 2 < before:
            figures = (
                f"{common.size(before)} and now {common.size(after)}" if "dump" in what else f"{before} and now {after}"
            )
            raise Failed(
                f"{what} less than half of what was there at the last backup ({figures}). "
                f"Try: look at the site; where this is right, goldenpath.backup {slug} accept_smaller=True"
            )


def run(slug, accept_smaller=False):
    """
    Back up one site. Returns its record; raises Failed, and then the repository is as it was.
    """
    config = common.config()
    began = time.time()
    staging = f"{common.root(slug)}/backups/staging"
    try:
        summary = _run(slug, config, staging, accept_smaller)
    except (Failed, OSError) as exc:
        sentence = str(exc) if isinstance(exc, Failed) else f"{exc}. Try: df -h {common.root(slug)}"
        sentence = f"The backup of {slug} on {common.host()} failed: {sentence}"
        with contextlib.suppress(OSError):
            common.record(slug, failed={"at": common.now(), "reason": sentence})
        raise Failed(sentence) from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    summary["seconds"] = round(time.time() - began, 1)
    common.record(slug, good=summary, failed=None)
    return summary


def _run(slug, config, staging, accept_smaller):
    if not os.path.isdir(f"{common.root(slug)}/backups"):
        raise Failed(f"there is no {common.root(slug)}/backups. Try: salt-ssh {common.host()} state.apply")
    if not common.live(slug):
        # An empty site would become the newest snapshot, and a restore would take it.
        raise Failed("it has no live release. Try: deploy it, or restore it")
    common.fresh(staging)
    last = common.recorded(slug).get("good", {})
    dump = f"{staging}/database.dump"
    with common.undisturbed(slug, "backup", DEPLOY_WAIT):
        # What a killed restore left between two states is no backup.
        restore.heal(slug)
        space = database.bytes_of(database.live(slug))
        if not space:
            raise Failed(f"there is no database sum-{slug}. Try: salt-ssh {common.host()} state.apply")
        common.rooms(_needs(slug, config, staging, space, last.get("bytes", 0)), "a backup")
        began = common.now()
        held = database.dump(slug, dump + ".partial")
        shutil.copy2(f"{common.root(slug)}/.env", f"{staging}/env")
        # After the rows: a file that a row names is there before the row is.
        freeze(f"{common.root(slug)}/media", f"{staging}/media")
        release = common.live(slug)
    database.verify(slug, dump + ".partial", held)
    files = media_list(f"{staging}/media", common.read(f"{common.RECORDS}/{slug}.media"))
    if not accept_smaller:
        shrunk(slug, held_before(slug, config), os.path.getsize(dump + ".partial"), len(held["tables"]), len(files))
    os.rename(dump + ".partial", dump)
    sha = None
    with contextlib.suppress(OSError):
        sha = common.environment_file(f"{common.root(slug)}/releases/{release}/release.env").get("GIT_SHA")
    manifest = {
        "site": slug, "host": common.host(), "at": began, "release": release, "sha": sha,
        "ref": _ref(slug, release),
        "dump": {"bytes": os.path.getsize(dump), "sha256": checksum(dump)}, **held,
    }  # fmt: skip
    common.write(f"{staging}/manifest.json", manifest)
    snapshot, files = _still(slug, config, staging, manifest, files)
    common.write(f"{common.RECORDS}/{slug}.media", files)
    return {
        "at": began, "snapshot": snapshot[:8], "release": release, "dump": manifest["dump"]["bytes"],
        "tables": len(held["tables"]), "rows": sum(held["tables"].values()), "files": len(files),
        "bytes": sum(item[0] for item in files.values()),
    }  # fmt: skip


def _needs(slug, config, staging, space, before):
    """The bytes that a backup takes, by folder. space: of the database; before: of the last backup's media."""
    needs, media, size = [(staging, space)], f"{common.root(slug)}/media", media_size(slug)
    if os.path.isdir(media) and os.stat(media).st_dev != os.stat(staging).st_dev:
        needs.append((staging, size))  # no links across filesystems: copies
    if repository.is_local(config):
        needs.append((config["repository"], space + max(0, size - before)))
    return needs


def _still(slug, config, staging, manifest, files):
    """
    A snapshot whose media are those of its list. Returns its id and the list.

    A link follows a file that is written to in place: such a file is copied, and everything stored again.
    """
    for _ in range(ROUNDS):
        snapshot = _stored(slug, config, staging, manifest, files)
        again = media_list(f"{staging}/media", files)
        moved = [name for name in files if again.get(name) != files[name]]
        if not moved:
            return snapshot, files
        # The snapshot may hold neither what was nor what is.
        repository.restic(config, "forget", snapshot)
        _detached(f"{staging}/media", moved)
        files = media_list(f"{staging}/media", again)
    raise Failed(
        f"{len(moved)} media files changed in each of {ROUNDS} tries, as {moved[0]}. "
        "Try: again when whatever writes them is done"
    )


def _detached(folder, names):
    """Copies in the place of links to files that somebody still writes to."""
    common.rooms([(folder, sum(os.lstat(f"{folder}/{name}").st_size for name in names))], "a backup")
    for name in names:
        shutil.copy2(f"{folder}/{name}", f"{folder}/{name}.goldenpath", follow_symlinks=False)
        os.rename(f"{folder}/{name}.goldenpath", f"{folder}/{name}")


def _stored(slug, config, staging, manifest, files):
    """Put the staged files into the repository. Returns the snapshot's id."""
    common.write(f"{staging}/media.json", files)
    tags = {
        "site": slug, "release": manifest["release"], "sha": manifest["sha"], "dump": manifest["dump"]["bytes"],
        "tables": len(manifest["tables"]), "files": len(files), "bytes": sum(item[0] for item in files.values()),
    }  # fmt: skip
    # The links have changed the files' ctime, and nothing else.
    output = repository.restic(
        config, "backup", "--json", "--host", common.host(), "--ignore-ctime",
        *(word for key, value in tags.items() for word in ("--tag", f"{key}={value}")), staging,
        make=True, allow=(0, 3),
    )  # fmt: skip
    snapshot = (repository.parsed(output) or {}).get("snapshot_id")
    if not snapshot:
        raise Failed(f"restic names no snapshot: {common.reason(output)}. Try: again")
    unread = [line for line in output.splitlines() if '"message_type":"error"' in line]
    if unread:
        repository.restic(config, "forget", snapshot)
        raise Failed(f"restic could not read everything: {unread[0][:200]}. Try: df -h {staging}")
    return snapshot


def _ref(slug, release):
    """What the history calls a release."""
    ref = None
    with contextlib.suppress(OSError), open(f"{common.root(slug)}/releases.jsonl", encoding="utf-8") as lines:
        for line in lines:
            with contextlib.suppress(ValueError):
                item = json.loads(line)
                if item.get("release") == release:
                    ref = item.get("ref", ref)
    return ref


def prune():
    """Keep what the pillar says of each site, drop the rest, and read the repository over. Raises Failed."""
    config = common.config()
    keep = config["keep"]
    for slug in common.sites():
        repository.restic(
            config, "forget", "--tag", f"site={slug}", "--host", common.host(), "--group-by", "host",
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
