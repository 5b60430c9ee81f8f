"""
A restore for real: prepared and proven beside the live site, swapped in by renames, proven again.

A journal says how far it is. Whoever finds one without its writer heals: before the restored site was proven
everything is put back, after it the rest is tidied up.
"""

import os
import time

from . import drill, env, files, heal, health, host, journal, manage, media, pgdump, postgres, repository, text, units
from . import site as sites
from .errors import Failed

# So many media files may differ from the list that was made with the snapshot: a site that wrote to them just then.
FEW = 5
# So many files are asked for by name: more are too long for a command.
NAMED = 200


def plan(site, wanted=None):
    """
    What a restore would do. Returns facts about the snapshot and what has changed in the site since it.
    """
    config = host.backup()
    snapshot = repository.chosen(config, site, wanted)
    target = files.fresh(f"{site.root}/backups/plan")
    try:
        staged = repository.escaped(snapshot["path"])
        path = repository.fetch(config, snapshot, target, include=[f"{staged}/manifest.json", f"{staged}/media.json"])
        manifest = drill.manifest_of(site, path)
        listed = files.read_json(f"{path}/media.json")
        dump = snapshot["kind"] == "dump"
    finally:
        files.remove_tree(target)
    now = pgdump.counts(site, site.name) if postgres.exists(site.name) else {}
    there = {} if dump else media.stats(site)
    changed = [f"{table}: {rows} rows now, {manifest['tables'].get(table, 'not')} then"
               for table, rows in sorted(now.items()) if manifest["tables"].get(table) != rows]  # fmt: skip
    changed += [
        f"{table}: missing now, {rows} rows then"
        for table, rows in sorted(manifest["tables"].items())
        if table not in now
    ]
    added = sum(1 for name, item in there.items() if listed.get(name, [])[:2] != item)
    missing = sum(1 for name in listed if name not in there)
    return {
        "site": site.slug, "snapshot": snapshot["id"], "time": snapshot["time"], "age": snapshot["age"],
        "from": manifest["host"], "kind": snapshot["kind"],
        "release": manifest["release"], "sha": manifest["sha"], "live": site.current,
        "dump": snapshot["dump"],
        "rows": sum(manifest["tables"].values()), "files": len(listed), "bytes": snapshot["bytes"],
        "changed_tables": changed, "added_files": added, "missing_files": missing,
    }  # fmt: skip


def told(facts):
    """A plan in words."""
    changed = facts["changed_tables"]
    lost = "; ".join(changed[:6]) + (f"; {len(changed) - 6} more tables" if len(changed) > 6 else "")
    base = (
        f"{facts['site']} would become what it was at {facts['time']}, {text.duration(facts['age'])} ago: snapshot "
        f"{facts['snapshot']} of {facts['from']}, {facts['rows']} rows ({text.size(facts['dump'])})"
    )
    lost = f"What came since is lost: {lost or 'no table has another number of rows'}"
    if facts["kind"] == "dump":
        return (
            f"{base}, a dump between the nights. {lost}; media stay, and those that are missing come from the last "
            "snapshot before that has them"
        )
    return (
        f"{base} and {facts['files']} media files ({text.size(facts['bytes'])}). {lost}; "
        f"{facts['added_files']} media files that are newer and {facts['missing_files']} that are missing now"
    )


def run(site, wanted=None, keep_secret_key=False):
    """
    Restore a site's database, media and DJANGO_SECRET_KEY. Returns what was done; raises Failed, and then
    the site is as it was before.

    keep_secret_key: the pillar names the key, so the snapshot's is not wanted.
    """
    began = time.time()
    config = host.backup()
    root = site.root
    heal.heal(site)
    release = site.current
    if not release:
        raise Failed(
            f"{site.slug} on {host.name()} has no release that could serve what is restored. Try: deploy first"
        )
    if os.path.ismount(f"{root}/media"):
        raise Failed(
            f"{root}/media is a mount point and cannot be exchanged. Try: unmount it, restore, copy the files over"
        )
    snapshot = repository.chosen(config, site, wanted)
    done = {
        "site": site.slug,
        "snapshot": snapshot["id"],
        "time": snapshot["time"],
        "age": snapshot["age"],
        "notes": [],
    }
    journal.note(site, phase="prepare", snapshot=snapshot["id"], at=text.now())
    try:
        path = _prepare(site, config, snapshot, release, done)
        journal.note(site, phase="stopped", release=release)
        stopped = time.time()
        heal.stop(site)
        _safety(site, done)
        if snapshot["kind"] == "dump":
            media.completed(site, path)
        _exchange(site, path, drill.secrets(path), keep_secret_key, done)
        units.resume(site, release)
        health.prove(site, release, "The restored site", stopped)
        site.maintenance_off(sites.OURS)
        health.front(site, verify=False)
        done["stopped"] = round(time.time() - stopped, 1)
        os.sync()
        journal.note(site, phase="proven", keep=bool(done.get("kept_database")))
    except BaseException as exc:
        if not isinstance(exc, Exception):
            raise  # killed: who started this heals
        sentence = str(exc) if isinstance(exc, (Failed, OSError)) else f"{type(exc).__name__}: {exc}"
        state = heal.state_after(site)
        raise Failed(f"The restore of {site.slug} on {host.name()} failed: {sentence.rstrip('.')}. {state}.") from None
    heal.heal(site)
    done["seconds"] = round(time.time() - began, 1)
    journal.record(
        site.slug, restored={key: done[key] for key in ("snapshot", "time", "seconds", "safety")} | {"at": text.now()}
    )
    return done


def exchange(site, dump):
    """
    For a rollback, which holds the site's lock: the database of a dump takes the place of the live one. The
    site is stopped behind the maintenance page until ``settle`` or ``heal``, which puts everything back.
    """
    heal.heal(site)
    release, name = site.current, site.name
    done = {"site": site.slug, "dump": dump, "notes": []}
    _nothing_kept(site)
    journal.note(site, phase="prepare", at=text.now())
    try:
        # A deploy's dump is compressed: what returns is taken to be as large as what is there.
        aside, size = f"{site.root}/backups", postgres.size_of(name)
        needed = max(os.path.getsize(dump) * 2, size)
        files.rooms([(postgres.data_directory(), needed), (aside, size)], "the exchange", host.name())
        done["notes"] += [f"{word} are not in a dump: set them again" for word in postgres.unsaved(site)]
        pgdump.restore(site, dump, name + postgres.NEW)
        journal.note(site, phase="stopped", release=release)
        heal.stop(site)
        _safety(site, done)
        if done.get("kept_database"):
            # Nothing asks for it later: a rollback that is proven drops the database of before.
            raise Failed(f"the database of before cannot be dumped ({done['kept_database']}). Try: df -h {aside}")
        postgres.swap(site)
    except (Failed, OSError) as exc:
        raise Failed(f"the dump {dump} was not restored: {str(exc).rstrip('.')}. {heal.state_after(site)}") from None
    return done


def settle(site):
    """The exchanged database is proven: what was kept for going back is tidied up."""
    journal.note(site, phase="proven", keep=False)
    # From here on there is no way back: what cannot be tidied up now, goldenpath-heal.service does.
    return {"site": site.slug, "state": heal.state_after(site)}


def _nothing_kept(site):
    kept = site.name + postgres.OLD
    if postgres.exists(kept):
        raise Failed(
            f"the database {kept} of an earlier restore is still there. "
            f"Try: runuser -u postgres -- dropdb {kept}, when nobody misses it"
        )


def _prepare(site, config, snapshot, release, done):
    """Everything that can be proven while the site still serves."""
    target = files.fresh(f"{site.root}/backups/restore")
    name = site.name + postgres.NEW
    _nothing_kept(site)
    # The fetched files, the database from them, and the safety dump.
    needs = [(target, snapshot["dump"] + snapshot["bytes"] + postgres.size_of(site.name)),
             (postgres.data_directory(), snapshot["dump"] * 2)]  # fmt: skip
    files.rooms(needs, "a restore", host.name())
    done["notes"] += [f"{word} are not in a backup: set them again" for word in postgres.unsaved(site)]
    path = repository.fetch(config, snapshot, target)
    manifest = drill.load(site, path, name)
    if snapshot["kind"] == "dump":
        listed = _missing(site, config, snapshot, path, done)
    else:
        listed = files.read_json(f"{path}/media.json")
    os.makedirs(f"{path}/media", exist_ok=True)
    wrong = media.differences(listed, media.listing(f"{path}/media"))
    if len(wrong) > max(FEW, len(listed) // 100):
        raise Failed(f"the media are not what was backed up: {text.few(wrong)}. Try: another snapshot")
    if wrong:
        done["notes"].append(f"{len(wrong)} media files are not what was listed with them: {text.few(wrong)}")
    drill.secrets(path)
    code, _ = manage.against(site, release, name, ["migrate", "--check", "--verbosity", "0"])
    if code:
        # The snapshot is older than the release: what it lacks is run on the copy, where nothing can break.
        code, output = manage.against(site, release, name, ["migrate", "--noinput"], readonly=False)
        if code:
            raise Failed(
                f"the release {release} cannot work with this snapshot: manage.py migrate says "
                f"{text.reason(output)}. Try: roll back to {manifest['release']}, then restore"
            )
        done["notes"].append(f"migrations that came after the snapshot were run, as the release {release} needs them")
    media.own(site, f"{path}/media")
    done.update(
        rows=sum(manifest["tables"].values()),
        tables=len(manifest["tables"]),
        files=len(listed),
        manifest=manifest["at"],
    )
    return path


def _missing(site, config, dump, path, done):
    """
    Bring the media that are not there from the last snapshot before a dump that has media. Returns their list, as
    ``media.listing`` has it.
    """
    full = repository.full_before(config, site, dump)
    if not full:
        done["notes"].append("a dump has no media, and no snapshot of before has any: they are as they were")
        return {}
    staged, there = repository.escaped(full["path"]), media.stats(site)
    target = files.fresh(f"{site.root}/backups/restore/media.from")
    found = repository.fetch(config, full, target, include=[f"{staged}/media.json"])
    missing = {name: each for name, each in files.read_json(f"{found}/media.json").items() if name not in there}
    done["notes"].append(
        f"a dump has no media: {len(missing)} that were missing are those of snapshot {full['id']}, {full['time']}, "
        "the others are as they were"
    )
    if missing:
        needed = sum(each[0] for each in missing.values())
        files.rooms([(target, needed)], "a restore", host.name())
        names = [f"{staged}/media/{repository.escaped(name)}" for name in missing]
        repository.fetch(config, full, target, include=names if len(names) <= NAMED else [f"{staged}/media"])
        if os.path.isdir(f"{found}/media"):
            os.rename(f"{found}/media", f"{path}/media")
        for name in [name for name in media.listing(f"{path}/media") if name not in missing]:
            os.unlink(f"{path}/media/{name}")
    return missing


def _safety(site, done):
    """
    The database as it is now, as a dump that can be read; where it cannot be dumped, it is kept as it is.
    """
    done["safety"] = None
    name = site.name
    postgres.alone(site)
    if not postgres.exists(name) or not pgdump.counts(site, name):
        done["notes"].append("there was nothing in the database before")
        return
    path = site.path("backups", f"before-restore-{text.stamp()}.dump")
    try:
        pgdump.dumped(site, path)
        done["safety"] = path
        journal.note(site, safety=path)
    except Failed as exc:
        done["kept_database"] = str(exc).rstrip(".")
        done["notes"].append(f"the database of before could not be dumped ({exc}), it is kept as {name}{postgres.OLD}")


def _exchange(site, path, secrets, keep_secret_key, done):
    """Database, media and key of the snapshot take the places of the live ones, which lie beside them."""
    root, aside = site.root, f"{site.root}/backups"
    postgres.swap(site)
    files.remove_tree(f"{aside}/media.old")
    os.makedirs(f"{root}/media", exist_ok=True)
    os.rename(f"{root}/media", f"{aside}/media.old")
    os.rename(f"{path}/media", f"{root}/media")
    if not keep_secret_key and _key(site, secrets["DJANGO_SECRET_KEY"]):
        done["notes"].append("the DJANGO_SECRET_KEY of the snapshot is in place")


def _key(site, key):
    """The releases that could serve what is restored have the key of then. Returns whether they had another one."""
    changed = False
    for path in site.every_variables():
        written = files.read(path) or ""
        if env.load(written).get("DJANGO_SECRET_KEY") != key:
            site.write_variables(heal.kept(site, path), written)
            site.write_variables(path, env.with_value(written, "DJANGO_SECRET_KEY", key))
            changed = True
    return changed
