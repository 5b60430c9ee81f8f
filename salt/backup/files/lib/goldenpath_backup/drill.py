"""The drill: the newest snapshot, fetched and restored beside the live site, judged, timed and dropped."""

import contextlib
import os
import random
import shutil
import time

from . import backup, common, database, repository
from .common import Failed, read

SAMPLE = 50
# No sample fills the disk: what is larger is left to restic's own check.
SAMPLE_BYTES = 256 << 20


def manifest_of(slug, path):
    """What the snapshot says of itself, when it is this site's."""
    manifest = read(f"{path}/manifest.json")
    if not manifest:
        raise Failed("the snapshot has no manifest. Try: another snapshot")
    if manifest["site"] != slug:
        raise Failed(f"the snapshot is of {manifest['site']} and not of {slug}. Try: another snapshot")
    return manifest


def load(slug, path, name):
    """
    Check a fetched snapshot's dump and restore it into a new database beside the live one.

    Returns the manifest. Raises Failed where the dump, a table or a row is not what was backed up.
    """
    manifest = manifest_of(slug, path)
    dump = f"{path}/database.dump"
    if not os.path.isfile(dump):
        raise Failed("the snapshot has no dump. Try: another snapshot")
    if backup.checksum(dump) != manifest["dump"]["sha256"]:
        raise Failed("the dump is not the one that was backed up: its checksum differs. Try: another snapshot")
    needed = manifest.get("size") or manifest["dump"]["bytes"] * 2
    common.rooms([(database.data_directory(), needed)], "the restored database")
    database.restore(slug, dump, name)
    wrong = database.difference(manifest["tables"], database.counts(slug, name))
    if wrong:
        raise Failed(f"the restored database is not what was backed up: {wrong}. Try: another snapshot")
    return manifest


def media_differences(wanted, found):
    """How fetched media differ from the list that was made with the backup: a few words for each file."""
    words = [f"{name} is missing" for name in wanted if name not in found]
    words += [f"{name} differs" for name in wanted if name in found and found[name][2] != wanted[name][2]]
    return words + [f"{name} is not of this backup" for name in found if name not in wanted]


def few(words):
    """The first of many, and how many more there are."""
    return ", ".join(words[:3]) + (f" and {len(words) - 3} more" if len(words) > 3 else "")


def secrets(path):
    """The environment file of a fetched snapshot."""
    try:
        values = common.environment_file(f"{path}/env")
    except OSError:
        values = {}
    if not values.get("DJANGO_SECRET_KEY"):
        raise Failed("the snapshot's environment file has no DJANGO_SECRET_KEY. Try: another snapshot")
    return values


def clean(slug):
    """What a drill leaves, also one that was killed: its database and its folder."""
    shutil.rmtree(f"{common.root(slug)}/backups/drill", ignore_errors=True)
    database.drop(database.live(slug) + database.DRILL)


def run(slug, snapshot=None):
    """
    Prove that a site's newest snapshot can be restored. Never touches the live database or media.

    Returns the record, with ``verdict`` good; raises Failed with what is wrong, written down as well.
    """
    config = common.config()
    began = time.time()
    result = {"at": common.now(), "verdict": "bad"}
    try:
        clean(slug)
        result.update(_run(slug, config, repository.chosen(config, slug, snapshot)), verdict="good")
    except (Failed, OSError, KeyError, ValueError) as exc:
        result["reason"] = (
            str(exc) if isinstance(exc, Failed) else f"{type(exc).__name__}: {exc}. Try: another snapshot"
        )
    finally:
        with contextlib.suppress(Failed):
            clean(slug)
    result["seconds"] = round(time.time() - began, 1)
    good = {"drilled": result} if result["verdict"] == "good" else {}
    common.record(slug, drill=result, **good)
    if not good:
        raise Failed(f"The restore drill of {slug} on {common.host()} is red: {result['reason']}")
    return result


def _run(slug, config, snapshot):
    target = common.fresh(f"{common.root(slug)}/backups/drill")
    name = database.live(slug) + database.DRILL
    sample = min(SAMPLE_BYTES, snapshot["bytes"])
    needs = [(target, snapshot["dump"] + sample), (database.data_directory(), snapshot["dump"] * 2)]
    common.rooms(needs, "a drill")
    staged = repository.escaped(snapshot["path"])
    path = repository.fetch(config, snapshot, target, exclude=[f"{staged}/media"])
    manifest = load(slug, path, name)
    secrets(path)
    migrations = check_migrations(slug, manifest["release"], name)
    files = _sample(config, snapshot, target, path)
    return {
        "snapshot": snapshot["id"], "age": snapshot["age"], "from": manifest["host"],
        "tables": len(manifest["tables"]),
        "rows": sum(manifest["tables"].values()), "files": files, "migrations": migrations,
    }  # fmt: skip


def check_migrations(slug, release, name):
    """The release that the backup belongs to finds every migration in the restored database."""
    if not release or not os.path.isdir(f"{common.root(slug)}/releases/{release}/venv/bin"):
        return f"not asked: the release {release} is not on this host any more"
    code, output = common.manage(slug, release, name, ["migrate", "--check", "--verbosity", "0"])
    if code:
        raise Failed(
            f"manage.py migrate --check of {release} is not content with the restored database: "
            f"{common.reason(output)}. Try: another snapshot"
        )
    return "complete"


def _sample(config, snapshot, target, path):
    """Some media files, the newest and others by chance, against their checksums."""
    listed = read(f"{path}/media.json")
    chosen = choice(listed)
    if not chosen:
        return 0
    folder = f"{snapshot['path']}/media"
    fetched = repository.fetch(
        config, snapshot, target, include=[repository.escaped(f"{folder}/{name}") for name in chosen]
    )
    found = backup.media_list(f"{fetched}/media")
    wrong = media_differences({name: listed[name] for name in chosen}, found)
    if wrong:
        raise Failed(f"the media are not what was backed up: {few(wrong)}. Try: another snapshot")
    return len(chosen)


def choice(listed):
    """The names of a sample: half of it the newest, the rest by chance, and together no more than fits."""
    newest = sorted(listed, key=lambda item: listed[item][1], reverse=True)[: SAMPLE // 2]
    rest = sorted(set(listed) - set(newest))
    chosen, left = [], SAMPLE_BYTES
    for name in newest + random.sample(rest, min(len(rest), SAMPLE - len(newest))):
        if listed[name][0] <= left:
            left -= listed[name][0]
            chosen.append(name)
    return chosen
