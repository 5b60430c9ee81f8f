"""The drill: the newest snapshot, fetched and restored beside the live site, judged, timed and dropped."""

import contextlib
import os
import time

from . import env, files, host, journal, manage, media, pgdump, postgres, repository, text
from .errors import Failed


def manifest_of(site, path):
    """What the snapshot says of itself, when it is this site's."""
    manifest = files.read_json(f"{path}/manifest.json")
    if not manifest:
        raise Failed("the snapshot has no manifest. Try: another snapshot")
    if manifest["site"] != site.slug:
        raise Failed(f"the snapshot is of {manifest['site']} and not of {site.slug}. Try: another snapshot")
    return manifest


def load(site, path, name):
    """
    Check a fetched snapshot's dump and restore it into a new database beside the live one.

    Returns the manifest. Raises Failed where the dump, a table or a row is not what was backed up.
    """
    manifest = manifest_of(site, path)
    dump = f"{path}/database.dump"
    if not os.path.isfile(dump):
        raise Failed("the snapshot has no dump. Try: another snapshot")
    if media.checksum(dump) != manifest["dump"]["sha256"]:
        raise Failed("the dump is not the one that was backed up: its checksum differs. Try: another snapshot")
    needed = manifest.get("size") or manifest["dump"]["bytes"] * 2
    files.rooms([(postgres.data_directory(), needed)], "the restored database", host.name())
    pgdump.restore(site, dump, name)
    wrong = pgdump.difference(manifest["tables"], pgdump.counts(site, name))
    if wrong:
        raise Failed(f"the restored database is not what was backed up: {wrong}. Try: another snapshot")
    return manifest


def secrets(path):
    """The environment file of a fetched snapshot."""
    try:
        values = env.read(f"{path}/env")
    except OSError:
        values = {}
    if not values.get("DJANGO_SECRET_KEY"):
        raise Failed("the snapshot's environment file has no DJANGO_SECRET_KEY. Try: another snapshot")
    return values


def clean(site):
    """What a drill leaves, also one that was killed: its database and its folder."""
    files.remove_tree(site.path("backups/drill"))
    postgres.drop(site.name + postgres.DRILL)


def run(site, snapshot=None):
    """
    Prove that a site's newest snapshot can be restored. Never touches the live database or media.

    Returns the record, with ``verdict`` good; raises Failed with what is wrong, written down as well.
    """
    config = host.backup()
    began = time.time()
    result = {"at": text.now(), "verdict": "bad"}
    try:
        clean(site)
        result.update(_run(site, config, repository.chosen(config, site, snapshot, full=True)), verdict="good")
    except (Failed, OSError, KeyError, ValueError) as exc:
        result["reason"] = (
            str(exc) if isinstance(exc, Failed) else f"{type(exc).__name__}: {exc}. Try: another snapshot"
        )
    finally:
        with contextlib.suppress(Failed):
            clean(site)
    result["seconds"] = round(time.time() - began, 1)
    good = {"drilled": result} if result["verdict"] == "good" else {}
    journal.record(site.slug, drill=result, **good)
    if not good:
        raise Failed(f"The restore drill of {site.slug} on {host.name()} is red: {result['reason']}")
    return result


def _run(site, config, snapshot):
    target = files.fresh(f"{site.root}/backups/drill")
    name = site.name + postgres.DRILL
    sample = min(media.SAMPLE_BYTES, snapshot["bytes"])
    needs = [(target, snapshot["dump"] + sample), (postgres.data_directory(), snapshot["dump"] * 2)]
    files.rooms(needs, "a drill", host.name())
    staged = repository.escaped(snapshot["path"])
    path = repository.fetch(config, snapshot, target, exclude=[f"{staged}/media"])
    manifest = load(site, path, name)
    secrets(path)
    migrations = check_migrations(site, manifest["release"], name)
    sampled = _sample(config, snapshot, target, path)
    return {
        "snapshot": snapshot["id"], "age": snapshot["age"], "from": manifest["host"],
        "tables": len(manifest["tables"]),
        "rows": sum(manifest["tables"].values()), "files": sampled, "migrations": migrations,
    }  # fmt: skip


def check_migrations(site, release, name):
    """The release that the backup belongs to finds every migration in the restored database."""
    if not release or not os.path.isdir(f"{site.root}/releases/{release}/venv/bin"):
        return f"not asked: the release {release} is not on this host any more"
    code, output = manage.against(site, release, name, ["migrate", "--check", "--verbosity", "0"])
    if code:
        raise Failed(
            f"manage.py migrate --check of {release} is not content with the restored database: "
            f"{text.reason(output)}. Try: another snapshot"
        )
    return "complete"


def _sample(config, snapshot, target, path):
    """Some media files, the newest and others by chance, against their checksums."""
    listed = files.read_json(f"{path}/media.json")
    chosen = media.choice(listed)
    if not chosen:
        return 0
    folder = f"{snapshot['path']}/media"
    fetched = repository.fetch(
        config, snapshot, target, include=[repository.escaped(f"{folder}/{name}") for name in chosen]
    )
    found = media.listing(f"{fetched}/media")
    wrong = media.differences({name: listed[name] for name in chosen}, found)
    if wrong:
        raise Failed(f"the media are not what was backed up: {text.few(wrong)}. Try: another snapshot")
    return len(chosen)
