"""The steps of a deploy until a release is built: clean, fetch, environment, static files, dump, migrations."""

import contextlib
import glob
import os
import re
import time

from . import env, files, heal, history, host, journal, keeping, manage, pgdump, postgres, source, text, units, venv
from . import site as sites
from .errors import Failed
from .preflight import FREE_BYTES

# How often a migration waits for a busy table, and for how long.
MIGRATE_TRIES = 3
LOCK_TIMEOUT = "5s"
# How long one command of a build or a release may take.
COMMAND_SECONDS = 1800
_PATIENT = {"PGOPTIONS": f"-c lock_timeout={LOCK_TIMEOUT}"}


def clean(run):
    """
    What a deploy or rollback that was killed left behind: a database half exchanged, instances that are not live,
    releases that never were.
    """
    site = run.site
    site.secure()
    if os.path.exists(journal.path(site)):
        run.notes.append(heal.heal(site))
    live, previous = site.current, site.previous
    if live and units.serves(site, live):
        # Up for the migrations of a deploy that was killed.
        site.maintenance_off(sites.OURS)
    units.stop(site, [release for release in units.running(site) if release != live])
    for folder in glob.glob(site.path("releases/*/")):
        release = os.path.basename(folder.rstrip("/"))
        unfinished = os.path.exists(site.release(release, ".unfinished"))
        if unfinished and release not in (live, previous):
            _finish(run, release, "failed", "it was killed")
            files.remove_tree(folder)
        elif unfinished and release == live:
            # Proven and switched to; only its record is missing.
            _finish(run, release, "live", "it was interrupted after the switch")
        elif unfinished:
            # `previous`: it was switched to, failed, and was killed while it was undone.
            _finish(run, release, "bad", "it was killed while it was undone")
        elif release not in (live, *lenders(site)) and not os.path.exists(site.release(release, "release.env")):
            # Killed while it was fetched, before the marker.
            files.remove_tree(folder)
    _forgive(site, live)
    belongs = {record.get("dump") for record in history.read(site)}
    for dump in dumps(site, "*.dump*"):
        if dump not in belongs:
            os.unlink(dump)


def _finish(run, release, outcome, reason):
    """Write the record that a killed deploy could not write: its dump and what it did to the database count."""
    marker = run.site.release(release, ".unfinished")
    record = files.read_json(marker) or {
        "release": release, "action": "deploy", "ref": "?", "sha": None, "who": "?", "when": text.now(),
        "migrations": [], "dump": None,
    }  # fmt: skip
    had = record.pop("had", None)
    if had is not None:
        done = [name for name in postgres.applied(run.site) if name not in had]
        record.update(migrating=True, migrations=done)
    if not any(each["release"] == release for each in history.read(run.site)):
        history.add(run.site, {**record, "outcome": outcome, "reason": reason})
    os.unlink(marker)


def _forgive(site, live):
    """A live release is not bad: a rollback from it was killed after its switch, and its database put back."""
    told = [each for each in history.read(site) if each["release"] == live and each["outcome"] in ("live", "bad")]
    if told and told[-1]["outcome"] == "bad":
        reason = "the rollback from it was interrupted and put back"
        history.add(site, {**told[-1], "outcome": "live", "reason": reason})


def lenders(site):
    """The releases in whose folders the checkouts of those that are there lie."""
    found = map(os.path.dirname, glob.glob(site.path("releases/*/release.env")))
    return {site.lender(os.path.basename(folder)) for folder in found}


def dumps(site, pattern):
    """The dumps that deploys made, oldest first; those of restores have their own keeper."""
    found = glob.glob(site.path("backups", pattern))
    return sorted(path for path in found if not os.path.basename(path).startswith("before-restore-"))


def fetch(run, ref):
    """Resolve a ref, and make the release's folder. Returns the release's id and the commit."""
    site = run.site
    sha = source.fetch(site, ref)
    release = f"{text.stamp()}-{sha[:8]}"
    folder = _folder(site, release)
    os.mkdir(f"{folder}/src", 0o750)
    os.chown(f"{folder}/src", *site.owner())
    return release, sha


def _folder(site, release):
    """A release's folder, with the variables of now. Returns its path."""
    folder = site.release(release)
    os.mkdir(folder)
    os.chmod(folder, 0o711)  # noqa: S103  whatever the umask is: Caddy and the site go through it
    with open(os.open(f"{folder}/deploy.log", os.O_WRONLY | os.O_CREAT, 0o640), "w", encoding="utf-8"):
        pass
    os.mkdir(f"{folder}/static", 0o750)
    site.show(f"{folder}/static")
    os.symlink(f"/run/{site.name}/{release}.sock", f"{folder}/gunicorn.sock")
    site.write_variables(f"{folder}/{sites.VARIABLES}", files.read(site.path(".env")) or "")
    return folder


def again(run, before):
    """
    A release of the commit of another one, with the variables of now. Source and virtual environment are that one's.

    Returns its id and the commit. Raises Failed.
    """
    site = run.site
    values = env.read(site.release(before, "release.env"))
    sha, path = values["GIT_SHA"], os.path.realpath(site.release(before, "venv"))
    release = f"{text.stamp()}-{sha[:8]}"
    _celery_is_there(site, path, before)
    folder = _folder(site, release)
    os.symlink(f"../{site.lender(before)}/src", f"{folder}/src")
    os.symlink(path, f"{folder}/venv")
    # What a build put there, and what collectstatic finds as it was.
    manage.share(site, release, site.release(before, "static"), f"{folder}/static")
    _own(site, release, values)
    return release, sha


def environment(run, release, ref, sha):
    """Check the commit out, and build or find its virtual environment. Returns whether that was there."""
    site = run.site
    folder, log = site.release(release, "src"), site.release(release, "deploy.log")
    source.checkout(site, sha, folder, log=log)
    app = os.path.normpath(os.path.join(folder, site.facts["directory"]))
    if not os.path.realpath(app).startswith(os.path.realpath(folder)) or not os.path.isfile(f"{app}/manage.py"):
        raise Failed(
            f"{ref} has no manage.py in the folder {site.facts['directory']!r}. "
            "Try: set `directory:` in the site's pillar to the folder that holds manage.py"
        )
    path, reused = venv.build(site, folder, release, log=log)
    os.symlink(path, site.release(release, "venv"))
    _celery_is_there(site, path, ref)
    values = {
        "GIT_SHA": sha,
        "PROJECT": site.facts["project"],
        "APP_DIR": app,
        "VENV": path,
        "VIRTUAL_ENV": path,
        "PATH": f"{path}/bin:/usr/local/bin:/usr/bin:/bin",
        # A src/ layout keeps the project's package one folder below manage.py.
        "PYTHONPATH": f"{app}:{app}/src" if os.path.isdir(f"{app}/src") else app,
        "WEB_APPLICATION": site.application(),
        "WEB_WORKER": "uvicorn_worker.UvicornWorker" if site.facts.get("asgi") else "gthread",
    }
    _own(site, release, values)
    return reused


def _celery_is_there(site, path, what):
    if site.celery["worker"] and not os.path.exists(f"{path}/bin/celery"):
        raise Failed(
            f"The environment of {what} has no celery, and the pillar asks for a worker. "
            "Try: dependencies: {add: [celery]} in the site's pillar and a deploy, or remove `celery:worker` there"
        )


def _own(site, release, values):
    """What a release is started with beside the site's variables. values: those that come from its commit."""
    own = {"RELEASE": release, "DJANGO_STATIC_ROOT": site.release(release, "static")}
    # So many as it was proven with, whatever its unit says later.
    numbers = {"WEB_PROCESSES": site.facts.get("workers"), "CELERY_PROCESSES": site.celery.get("concurrency")}
    own.update({name: str(number) for name, number in numbers.items() if number})
    head = "# Managed by Golden Path: local changes are overwritten.\n"
    files.replace(site.release(release, "release.env"), head + env.dump({**values, **own}), mode=0o644)


def commands(run, release, kind):
    """The site's own commands. kind: ``build``, or ``release``, on the database that is migrated by now."""
    for line in run.site.facts.get(kind, []):
        manage.command(run.site, release, line, COMMAND_SECONDS)


def static(run, release):
    """check --deploy for show, static files, and whether migrations are pending."""
    # What is squashed is written down by `migrate` alone: a site whose squashed migrations never are could not be
    # deployed any more, once those that they stand for are gone.
    pending = [[True, "migrate", "--check", "--verbosity", "0"], ["after", "migrate", "--noinput", "--verbosity", "0"]]
    collect = [False, "collectstatic", "--noinput", "--verbosity", "0"]
    codes, output = manage.run(run.site, release, [[True, "check", "--deploy"], collect, *pending], env=_PATIENT)
    if codes.get("collectstatic") != 0 and "Unknown command: 'collectstatic'" in output:
        codes, output = manage.run(run.site, release, pending, env=_PATIENT)
    elif codes.get("collectstatic") != 0:
        raise Failed(f"manage.py collectstatic failed: {_last(output)}", text.tail(output))
    if "migrate" not in codes:
        raise Failed(f"manage.py migrate --check failed: {_last(output)}", text.tail(output))
    run.notes += keeping.judged(run.site, release, output)
    run.operations = keeping.pending(output)
    checks = [line for line in output.splitlines() if line.startswith("?: (") or "(security." in line]
    if checks:
        run.notes.append(f"manage.py check --deploy has {len(checks)} remarks, the first: {checks[0][:200]}")
    return codes["migrate"] != 0


def migrations(run, release, record):
    """A verified dump that belongs to this release, then its migrations."""
    page = _bearable(run)
    had = postgres.applied(run.site)
    if had:
        with run.step("dump"):
            record["dump"] = _dump(run, release)
    run.had = had
    record["migrating"] = True
    run.unfinished(record)
    if page:
        run.site.maintenance_on(sites.OURS)
    try:
        with run.step("migrate"):
            _migrate(run, release)
    finally:
        with contextlib.suppress(Failed):
            record["migrations"] = run.migrations()


def _bearable(run):
    """
    Whether the maintenance page has to be up from the migrations to the switch. Raises Failed where the release that
    serves cannot live with them, unless the pillar or the request says what to do then.
    """
    hard = [f"{migration}: {what}" for migration, what, hard in run.operations if hard]
    soft = sorted({migration for migration, _, hard in run.operations if not hard})
    way = run.site.facts.get("migrations", "refuse")
    if not run.site.current or not run.had_visitors():
        return False
    if soft:
        run.notes.append(f"what {text.few(soft)} runs is the site's own: nobody knows whether the old release bears it")
    if not hard or way == "accept":
        return False
    if way == "maintenance":
        return True
    raise Failed(
        f"Release {run.site.current} serves until the switch, and cannot live with {text.few(hard)}. Try: "
        'pillar=\'{"migrations": "maintenance"}\', which shows the page meanwhile, or "accept"; or deploy in two '
        "steps: first the code that does without, then the migration"
    )


def _dump(run, release):
    site = run.site
    path = site.path("backups", f"{release}.dump")
    size = postgres.size(site)
    disk = os.statvfs(site.path("backups"))
    if disk.f_bavail * disk.f_frsize < size + FREE_BYTES:
        raise Failed(
            f"{site.path('backups')} has no room for a dump of {size >> 20} MiB on {host.name()}. "
            f"Try: df -h {site.root}"
        )
    pgdump.dumped(site, path, wait="10s")
    return path


def _migrate(run, release):
    """
    Run the pending migrations. They wait for locks a few seconds and not for ever, so that a busy table holds up the
    deploy and not the site.
    """
    for attempt in range(1, MIGRATE_TRIES + 1):
        codes, output = manage.run(
            run.site, release, [[False, "migrate", "--noinput"]], timeout=3600,
            env=_PATIENT,
        )  # fmt: skip
        if codes.get("migrate") == 0:
            return
        # What is not atomic leaves something behind, and would fail of it.
        left = postgres.invalid_indexes(run.site)
        if "lock timeout" not in output or attempt == MIGRATE_TRIES or left:
            raise Failed(f"manage.py migrate failed: {_cause(run, output, left)}", text.tail(output))
        time.sleep(2)


def _cause(run, output, left):
    """Why migrations failed, and what to type where that is known."""
    why = _last(re.sub(r"^\s*(HINT|DETAIL|CONTEXT):.*$", "", output, flags=re.MULTILINE))
    lacks = re.search(r'permission denied to create extension "([\w-]+)"', output)
    absent = re.search(r'extension "([\w-]+)" is not available', output)
    if lacks:
        return (
            f"{lacks[0]}. Try: postgres: {{extensions: [{lacks[1]}]}} in the site's pillar, "
            f"then {host.command('state.apply')}"
        )
    if absent:
        return (
            f"{absent[0]}: no package on {host.name()} brings it. Try: apt-cache search postgresql {absent[1]}; then "
            f"packages: and postgres: {{extensions: [{absent[1]}]}} in the site's pillar"
        )
    if left:
        drop = "; ".join(f"DROP INDEX CONCURRENTLY {name}" for name in left)
        return f"{why}. It left an index that is not valid. Try: goldenpath manage {run.site.slug} dbshell, and: {drop}"
    return why


def _last(output):
    """Django says why in its last line, also without a traceback."""
    return text.printable((text.lines_of(output) or ["it said nothing"])[-1]).rstrip(".")[:300]
