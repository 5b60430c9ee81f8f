"""
A restore for real: prepared and proven beside the live site, swapped in by renames, proven again.

A journal says how far it is. Whoever finds one without its writer heals: before the restored site was proven
everything is put back, after it the rest is tidied up.
"""

import contextlib
import glob
import http.client
import json
import os
import shutil
import socket
import ssl
import time

from . import backup, common, database, drill, repository
from .common import Failed

# How long a site may take to answer well, and how often in a row it must.
PROVE_SECONDS = 60
GOOD_ANSWERS = 3
# So many media files may differ from the list that was made with the snapshot: a site that wrote to them just then.
FEW = 5


def _note(slug, **facts):
    common.write(common.journal(slug), {**common.read(common.journal(slug)), **facts})


def plan(slug, wanted=None):
    """
    What a restore would do. Returns facts about the snapshot and what has changed in the site since it.
    """
    config = common.config()
    snapshot = repository.chosen(config, slug, wanted)
    target = common.fresh(f"{common.root(slug)}/backups/plan")
    try:
        staged = repository.escaped(snapshot["path"])
        path = repository.fetch(config, snapshot, target, include=[f"{staged}/manifest.json", f"{staged}/media.json"])
        manifest = drill.manifest_of(slug, path)
        listed = common.read(f"{path}/media.json")
    finally:
        shutil.rmtree(target, ignore_errors=True)
    now = database.counts(slug, database.live(slug)) if database.exists(database.live(slug)) else {}
    files = {}
    for base, _, names in os.walk(f"{common.root(slug)}/media"):
        for name in names:
            with contextlib.suppress(OSError):
                facts = os.lstat(f"{base}/{name}")
                files[os.path.relpath(f"{base}/{name}", f"{common.root(slug)}/media")] = [
                    facts.st_size,
                    facts.st_mtime_ns,
                ]
    changed = [f"{table}: {rows} rows now, {manifest['tables'].get(table, 'not')} then"
               for table, rows in sorted(now.items()) if manifest["tables"].get(table) != rows]  # fmt: skip
    changed += [
        f"{table}: missing now, {rows} rows then"
        for table, rows in sorted(manifest["tables"].items())
        if table not in now
    ]
    added = sum(1 for name, item in files.items() if listed.get(name, [])[:2] != item)
    missing = sum(1 for name in listed if name not in files)
    return {
        "site": slug, "snapshot": snapshot["id"], "time": snapshot["time"], "age": snapshot["age"],
        "from": manifest["host"],
        "release": manifest["release"], "sha": manifest["sha"], "live": common.live(slug),
        "dump": snapshot["dump"],
        "rows": sum(manifest["tables"].values()), "files": len(listed), "bytes": snapshot["bytes"],
        "changed_tables": changed, "added_files": added, "missing_files": missing,
    }  # fmt: skip


def told(facts):
    """A plan in words."""
    changed = facts["changed_tables"]
    lost = "; ".join(changed[:6]) + (f"; {len(changed) - 6} more tables" if len(changed) > 6 else "")
    return (
        f"{facts['site']} would become what it was at {facts['time']}, {common.told(facts['age'])} ago: snapshot "
        f"{facts['snapshot']} of {facts['from']}, {facts['rows']} rows "
        f"({common.size(facts['dump'])}) and {facts['files']} media files ({common.size(facts['bytes'])}). "
        f"What came since is lost: {lost or 'no table has another number of rows'}; "
        f"{facts['added_files']} media files that are newer and {facts['missing_files']} that are missing now"
    )


def run(slug, wanted=None, keep_secret_key=False):
    """
    Restore a site's database, media and DJANGO_SECRET_KEY. Returns what was done; raises Failed, and then
    the site is as it was before.

    keep_secret_key: the pillar names the key, so the snapshot's is not wanted.
    """
    began = time.time()
    config = common.config()
    root = common.root(slug)
    heal(slug)
    release = common.live(slug)
    if not release:
        raise Failed(f"{slug} on {common.host()} has no release that could serve what is restored. Try: deploy first")
    if os.path.ismount(f"{root}/media"):
        raise Failed(
            f"{root}/media is a mount point and cannot be exchanged. Try: unmount it, restore, copy the files over"
        )
    snapshot = repository.chosen(config, slug, wanted)
    done = {
        "site": slug,
        "snapshot": snapshot["id"],
        "time": snapshot["time"],
        "age": snapshot["age"],
        "notes": [],
    }
    _note(slug, phase="prepare", snapshot=snapshot["id"], at=common.now())
    try:
        path = _prepare(slug, config, snapshot, release, done)
        _note(slug, phase="stopped", release=release)
        stopped = time.time()
        _stop(slug)
        _safety(slug, done)
        _exchange(slug, path, drill.secrets(path), keep_secret_key, done)
        _start(slug, release)
        _prove(slug)
        _maintenance(slug, False)
        _prove(slug, front=True)
        done["stopped"] = round(time.time() - stopped, 1)
        os.sync()
        _note(slug, phase="proven", keep=bool(done.get("kept_database")))
    except BaseException as exc:
        if not isinstance(exc, Exception):
            raise  # killed: who started this heals
        sentence = str(exc) if isinstance(exc, (Failed, OSError)) else f"{type(exc).__name__}: {exc}"
        state = _healed(slug)
        raise Failed(f"The restore of {slug} on {common.host()} failed: {sentence.rstrip('.')}. {state}.") from None
    heal(slug)
    done["seconds"] = round(time.time() - began, 1)
    common.record(
        slug, restored={key: done[key] for key in ("snapshot", "time", "seconds", "safety")} | {"at": common.now()}
    )
    return done


def exchange(slug, dump):
    """
    For a rollback, which holds the site's lock: the database of a dump takes the place of the live one. The
    site is stopped behind the maintenance page until ``settle`` or ``heal``, which puts everything back.
    """
    heal(slug)
    release, name = common.live(slug), database.live(slug)
    done = {"site": slug, "dump": dump, "notes": []}
    if database.exists(name + database.OLD):
        raise Failed(
            f"the database {name}{database.OLD} of an earlier restore is still there. "
            f"Try: runuser -u postgres -- dropdb {name}{database.OLD}, when nobody misses it"
        )
    _note(slug, phase="prepare", at=common.now())
    try:
        # A deploy's dump is compressed: what returns is taken to be as large as what is there.
        aside, size = f"{common.root(slug)}/backups", database.bytes_of(name)
        needed = max(os.path.getsize(dump) * 2, size)
        common.rooms([(database.data_directory(), needed), (aside, size)], "the exchange")
        done["notes"] += [f"{word} are not in a dump: set them again" for word in database.unsaved(slug)]
        database.restore(slug, dump, name + database.NEW)
        _note(slug, phase="stopped", release=release)
        _stop(slug)
        _safety(slug, done)
        if done.get("kept_database"):
            # Nothing asks for it later: a rollback that is proven drops the database of before.
            raise Failed(f"the database of before cannot be dumped ({done['kept_database']}). Try: df -h {aside}")
        database.swap(slug)
    except (Failed, OSError) as exc:
        raise Failed(f"the dump {dump} was not restored: {str(exc).rstrip('.')}. {_healed(slug)}") from None
    return done


def _healed(slug):
    """How it stands after a failure, in words; what cannot be healed now is by the unit that goes on trying."""
    try:
        return heal(slug)
    except (Failed, OSError) as exc:
        return f"It is not put back yet ({str(exc).rstrip('.')}), goldenpath-heal.service goes on trying"


def settle(slug):
    """The exchanged database is proven: what was kept for going back is tidied up."""
    _note(slug, phase="proven", keep=False)
    # From here on there is no way back: what cannot be tidied up now, goldenpath-heal.service does.
    return {"site": slug, "state": _healed(slug)}


def _prepare(slug, config, snapshot, release, done):
    """Everything that can be proven while the site still serves."""
    target = common.fresh(f"{common.root(slug)}/backups/restore")
    name = database.live(slug) + database.NEW
    if database.exists(database.live(slug) + database.OLD):
        raise Failed(
            f"the database {database.live(slug)}{database.OLD} of an earlier restore is still there. "
            f"Try: runuser -u postgres -- dropdb {database.live(slug)}{database.OLD}, when nobody misses it"
        )
    # The fetched files, the database from them, and the safety dump.
    needs = [(target, snapshot["dump"] + snapshot["bytes"] + database.bytes_of(database.live(slug))),
             (database.data_directory(), snapshot["dump"] * 2)]  # fmt: skip
    common.rooms(needs, "a restore")
    done["notes"] += [f"{word} are not in a backup: set them again" for word in database.unsaved(slug)]
    path = repository.fetch(config, snapshot, target)
    manifest = drill.load(slug, path, name)
    listed = common.read(f"{path}/media.json")
    os.makedirs(f"{path}/media", exist_ok=True)
    wrong = drill.media_differences(listed, backup.media_list(f"{path}/media"))
    if len(wrong) > max(FEW, len(listed) // 100):
        raise Failed(f"the media are not what was backed up: {drill.few(wrong)}. Try: another snapshot")
    if wrong:
        done["notes"].append(f"{len(wrong)} media files are not what was listed with them: {drill.few(wrong)}")
    drill.secrets(path)
    code, _ = common.manage(slug, release, name, ["migrate", "--check", "--verbosity", "0"])
    if code:
        # The snapshot is older than the release: what it lacks is run on the copy, where nothing can break.
        code, output = common.manage(slug, release, name, ["migrate", "--noinput"], readonly=False)
        if code:
            raise Failed(
                f"the release {release} cannot work with this snapshot: manage.py migrate says "
                f"{common.reason(output)}. Try: roll back to {manifest['release']}, then restore"
            )
        done["notes"].append(f"migrations that came after the snapshot were run, as the release {release} needs them")
    own(slug, f"{path}/media")
    done.update(
        rows=sum(manifest["tables"].values()),
        tables=len(manifest["tables"]),
        files=len(listed),
        manifest=manifest["at"],
    )
    return path


def own(slug, folder):
    """Media belong to the site's user, whose number differs from host to host."""
    owner = common.owner(slug)
    for base, folders, files in os.walk(folder):
        for name in [".", *folders, *files]:
            os.lchown(f"{base}/{name}", *owner)
    os.chmod(folder, 0o755)  # noqa: S103  Caddy reads them


def _maintenance(slug, on):
    """Our own page; one that the operator put up stays up whatever a restore does."""
    path = f"{common.root(slug)}/maintenance"
    with contextlib.suppress(FileNotFoundError), open(path, encoding="utf-8") as stream:
        if stream.read() == "operator":
            return
    if on:
        with open(path, "w", encoding="utf-8"):
            pass
        os.chmod(path, 0o644)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _systemctl(*argv):
    return common.run(["systemctl", *argv], timeout=900)


def _stop(slug):
    """The maintenance page, and nothing of the site that could write."""
    _maintenance(slug, True)
    units = [f"sum-{slug}-celerybeat.service", f"sum-{slug}-celery.service", f"sum-{slug}-gunicorn.service",
             f"sum-{slug}-gunicorn@*.socket", f"sum-{slug}-gunicorn@*.service"]  # fmt: skip
    _, output = _systemctl("stop", *units)
    left = _systemctl("list-units", "--plain", "--no-legend", "--state=active,activating,deactivating,reloading",
                      f"sum-{slug}-gunicorn@*.service", f"sum-{slug}-celery*")[1].strip()  # fmt: skip
    if left:
        raise Failed(
            f"{left.split()[0]} does not stop: {common.reason(output)}. Try: systemctl status {left.split()[0]}"
        )


def _start(slug, release):
    """The live release and what runs beside it."""
    celery = common.facts(slug)["celery"]
    units = [
        f"sum-{slug}-gunicorn@{release}.socket",
        f"sum-{slug}-gunicorn@{release}.service",
        f"sum-{slug}-gunicorn.service",
    ]
    units += [
        f"sum-{slug}-{name}.service" for name, key in (("celery", "worker"), ("celerybeat", "beat")) if celery[key]
    ]
    _systemctl("reset-failed", *units)
    code, output = _systemctl("start", *units)
    if code:
        raise Failed(
            f"the site does not start: {common.reason(output)}. Try: journalctl -u sum-{slug}-gunicorn@{release}"
        )


def _safety(slug, done):
    """
    The database as it is now, as a dump that can be read; where it cannot be dumped, it is kept as it is.
    """
    done["safety"] = None
    name = database.live(slug)
    database.alone(slug)
    if not database.exists(name) or not database.counts(slug, name):
        done["notes"].append("there was nothing in the database before")
        return
    path = f"{common.root(slug)}/backups/before-restore-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}.dump"
    try:
        held = database.dump(slug, path + ".partial")
        database.verify(slug, path + ".partial", held)
        os.rename(path + ".partial", path)
        done["safety"] = path
        _note(slug, safety=path)
    except Failed as exc:
        done["kept_database"] = str(exc).rstrip(".")
        done["notes"].append(f"the database of before could not be dumped ({exc}), it is kept as {name}{database.OLD}")
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path + ".partial")


def _exchange(slug, path, secrets, keep_secret_key, done):
    """Database, media and key of the snapshot take the places of the live ones, which lie beside them."""
    root, aside = common.root(slug), f"{common.root(slug)}/backups"
    database.swap(slug)
    shutil.rmtree(f"{aside}/media.old", ignore_errors=True)
    os.makedirs(f"{root}/media", exist_ok=True)
    os.rename(f"{root}/media", f"{aside}/media.old")
    os.rename(f"{path}/media", f"{root}/media")
    values = common.environment_file(f"{root}/.env")
    if not keep_secret_key and values.get("DJANGO_SECRET_KEY") != secrets["DJANGO_SECRET_KEY"]:
        with open(f"{root}/.env", encoding="utf-8") as stream:
            common.replace(f"{aside}/env.old", stream.read(), belongs=common.owner(slug))
        _set_key(slug, f"{root}/.env", secrets["DJANGO_SECRET_KEY"])
        done["notes"].append("the DJANGO_SECRET_KEY of the snapshot is in place")


def _set_key(slug, path, key):
    """Replace one line of an environment file, which is the site's user's alone."""
    with open(path, encoding="utf-8") as stream:
        lines = stream.read().split("\n")
    quoted = "".join("\\" + letter if letter in '"\\$`' else letter for letter in key)
    lines = [f'DJANGO_SECRET_KEY="{quoted}"' if line.startswith("DJANGO_SECRET_KEY=") else line for line in lines]
    common.replace(path, "\n".join(lines), belongs=common.owner(slug))


def heal(slug):
    """
    Finish what a restore left: put everything back where the restored site was not proven, tidy up where it was.

    Returns what was found, as part of a sentence.
    """
    found = common.read(common.journal(slug))
    if not found:
        if os.path.exists(common.journal(slug)):
            raise Failed(
                f"{common.journal(slug)} cannot be read. Try: look at the databases and media of {slug}, "
                "then remove the file"
            )
        return "There was nothing to heal"
    root, aside, name = common.root(slug), f"{common.root(slug)}/backups", database.live(slug)
    if found["phase"] == "proven":
        state = "The restored site serves"
        _maintenance(slug, False)
        if not found.get("keep"):
            database.drop(name + database.OLD)
        with contextlib.suppress(FileNotFoundError):
            os.rename(f"{aside}/media.old", f"{aside}/media-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}")
        _forget_old(slug)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{aside}/env.old")
    elif found["phase"] == "stopped":
        state = _put_back(slug, found, root, aside, name)
    else:
        state = "The site was not touched and goes on serving"
    database.drop(name + database.NEW)
    shutil.rmtree(f"{aside}/restore", ignore_errors=True)
    for path in glob.glob(f"{aside}/before-restore-*.partial"):
        os.unlink(path)
    for path in glob.glob(f"{aside}/env.old.new"):
        os.unlink(path)
    os.unlink(common.journal(slug))
    common.settled(common.RECORDS)
    return state


def _put_back(slug, found, root, aside, name):
    _stop(slug)
    if database.exists(name + database.OLD):
        database.drop(name + database.NEW)
        database.swap(slug, back=True)
    if os.path.isdir(f"{aside}/media.old"):
        shutil.rmtree(f"{aside}/restore/media.undone", ignore_errors=True)
        if os.path.isdir(f"{root}/media"):
            os.makedirs(f"{aside}/restore", exist_ok=True)
            os.rename(f"{root}/media", f"{aside}/restore/media.undone")
        os.rename(f"{aside}/media.old", f"{root}/media")
    if os.path.exists(f"{aside}/env.old"):
        os.rename(f"{aside}/env.old", f"{root}/.env")
    if not found["release"]:
        _maintenance(slug, False)
        return "Database and media are back as they were before, and there is no live release"
    # A rollback may have switched to the release that it wanted.
    common.link(f"releases/{found['release']}", f"{root}/current")
    _start(slug, found["release"])
    with contextlib.suppress(Failed):
        _prove(slug)
    _maintenance(slug, False)
    try:
        _prove(slug, front=True)
    except Failed as exc:
        return f"Database and media are back as they were before, but {exc}"
    return "Database and media are back as they were before, and the site serves"


def _forget_old(slug):
    """Media of before a restore, and safety dumps: the last two of each stay."""
    aside = f"{common.root(slug)}/backups"
    for path in sorted(glob.glob(f"{aside}/media-2*"))[:-2]:
        shutil.rmtree(path, ignore_errors=True)
    for path in sorted(glob.glob(f"{aside}/before-restore-*.dump"))[:-2]:
        os.unlink(path)


class _Socket(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=10)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class _Front(http.client.HTTPConnection):
    def __init__(self, name):
        super().__init__(name, timeout=10)

    def connect(self):
        context = ssl.create_default_context()
        # On this very host, by whichever certificate: it is the site that is asked, not its name.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        plain = socket.create_connection(("127.0.0.1", 443), timeout=self.timeout)
        self.sock = context.wrap_socket(plain, server_hostname=self.host)


def _ask(slug, front):
    known = common.facts(slug)
    name = known["domains"][0]
    connection = _Front(name) if front else _Socket(f"{common.root(slug)}/current/gunicorn.sock")
    try:
        connection.request("GET", known["health"], headers={"Host": name, "X-Forwarded-Proto": "https"})
        answer = connection.getresponse()
        return answer.status, answer.read(1 << 16).decode(errors="replace")
    finally:
        connection.close()


def healthy(status, body):
    """The contract of `goldenpath.health`: any 2xx, and of a site that says its status 200 with ok or degraded."""
    said = None
    with contextlib.suppress(ValueError, AttributeError):
        said = json.loads(body).get("status")
    if isinstance(said, str):
        return status == 200 and said in ("ok", "degraded")
    return 200 <= status < 300


def _prove(slug, front=False):
    """Good answers in a row, as a visitor would ask: from the release's socket, or through Caddy."""
    end = time.monotonic() + PROVE_SECONDS
    good, last = 0, "no answer"
    while time.monotonic() < end:
        try:
            status, body = _ask(slug, front)
            last = f"it answered {status} {body[:100]!r}"
            good = good + 1 if healthy(status, body) else 0
        except (OSError, http.client.HTTPException) as exc:
            last, good = str(exc), 0
        if good >= (1 if front else GOOD_ANSWERS):
            return
        time.sleep(0.3)
    where = f"https://{common.facts(slug)['domains'][0]}" if front else "the site"
    raise Failed(f"{where} is not healthy: {last}. Try: journalctl -u 'sum-{slug}-gunicorn@*'")
