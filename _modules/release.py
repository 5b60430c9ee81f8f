"""
Releases of a site: deploy, rollback, history. Used on the host by the deploy orchestration.

A release is a folder of its own. ``current`` is the one switch: Caddy's upstream, the static files and the
units that start at boot are all reached through it, so one atomic rename moves a site from release to release.
The new release's gunicorn runs, and is proven, beside the old one before that.
"""

import contextlib
import datetime
import fcntl
import glob
import json
import logging
import os
import shutil
import time

from salt.exceptions import CommandExecutionError

log = logging.getLogger(__name__)

# Good releases that stay on the host next to current and previous.
KEEP = 5
# Answers in a row that prove a release, and how long it may take to give them.
GOOD_ANSWERS = 3
BAD_ANSWERS = 4
PROVE_SECONDS = 60
ANSWER_SECONDS = 5
WORKER_SECONDS = 30
# A shorter value is a word that stands in many a sentence.
SHORTEST_SECRET = 4
# How long state.apply waits for a deploy that is under way, and the mark of a restart that could not be done.
SETTLE_WAIT = 60
OWED = "restart.owed"
# The version that provisioning chose, and beside it the others.
UV = "/opt/goldenpath/uv"
# What a release, its environment and the journal may need before a deploy begins.
FREE_BYTES = 300 * 1024 * 1024

# Several manage.py commands in one process: each start of Django costs most of a second. manage.py
# itself is run, because sites prepare sys.path in it.
_MANAGE = """
import json, runpy, sys
for optional, *argv in json.loads(sys.argv[1]):
    print("$ manage.py", *argv, flush=True)
    sys.argv = ["manage.py", *argv]
    code = 0
    try:
        runpy.run_path("manage.py", run_name="__main__")
    except SystemExit as exc:
        code = exc.code if isinstance(exc.code, int) else int(bool(exc.code))
        if isinstance(exc.code, str):
            print(exc.code)
    print("::manage", argv[0], code or 0, flush=True)
    if code and not optional:
        sys.exit(1)
"""


# Asks the worker (by its process, so that it is the new one) to read a queue of its own for a moment, and
# sends one of Celery's built-in tasks there: what waits in the site's queues does not come first. A worker
# that is busy with the site's own tasks has proven the same.
_WORKER = """
import socket, sys, time, uuid
from celery.app.utils import find_app
project, slug, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
app = find_app(project)
node, queue = f"{slug}@{socket.gethostname()}", f"proof-{uuid.uuid4().hex}"
ask = app.control.inspect(destination=[node], timeout=0.2, limit=1)
pid = int(sys.stdin.read())
end, asked = time.monotonic() + seconds, False
why = "it does not answer"
while time.monotonic() < end:
    stats = (ask.stats() or {}).get(node)
    if stats and stats["pid"] == pid:
        if stats["total"]:
            break
        why = "it takes none"
        if not asked:
            app.control.add_consumer(queue, destination=[node], reply=True, timeout=2, limit=1)
            app.send_task("celery.accumulate", args=[1], queue=queue, expires=60, ignore_result=True)
            asked = True
    time.sleep(0.05)
else:
    sys.exit(why)
if asked:
    app.control.cancel_consumer(queue, destination=[node], reply=True, timeout=2, limit=1)
"""


class _Refused(CommandExecutionError):
    """
    Nothing was begun.
    """


def root(slug):
    """
    A site's folder.

    slug (str)
        The site.

    Returns the absolute path.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 release.root acme-kitchens
    """
    return f"/srv/sum/{slug}"


def _apply():
    return __salt__["goldenpath.command"]("state.apply")


def _now():
    return datetime.datetime.now(datetime.timezone.utc)


def _link(target, path):
    """
    Point a symbolic link elsewhere in one atomic step that survives a power cut.
    """
    temporary = path + ".new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    os.symlink(target, temporary)
    os.rename(temporary, path)
    folder = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _named(slug, link):
    try:
        return os.path.basename(os.readlink(f"{root(slug)}/{link}"))
    except FileNotFoundError:
        return None


def report(limit=10):
    """
    What is live on this host, and how it came to be.

    limit (int)
        The last so many records of each site.

    Returns a dictionary of sites, each with ``live`` (release id or ``None``), ``good`` (release ids) and
    ``history``.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 release.report
    """
    slugs = sorted(os.path.basename(os.path.dirname(path)) for path in glob.glob(root("*") + "/.env"))
    return {
        slug: {
            "live": _named(slug, "current"),
            "good": __salt__["release_history.good"](slug),
            "history": __salt__["release_history.read"](slug, int(limit)),
        }
        for slug in slugs
    }


@contextlib.contextmanager
def _locked(slug, wait, holder):
    """
    One deploy per site. The kernel's lock dies with its process: there is no stale one.
    """
    path = f"{root(slug)}/deploy.lock"
    with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+", encoding="utf-8") as stream:
        end = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() < end:
                    time.sleep(0.5)
                    continue
                stream.seek(0)
                try:
                    held = json.loads(stream.read())
                except ValueError:
                    held = {}
                raise _Refused(
                    f"{slug} on {__grains__['id']} is being released by {held.get('who', 'somebody')} since "
                    f"{held.get('since', 'a moment')}, at step {held.get('step', 'start')}. Try: wait for it, "
                    f"give wait (seconds), or end it with: kill {held.get('pid', 'PID')}"
                ) from None

        def tell(step):
            stream.seek(0)
            stream.truncate()
            json.dump({**holder, "pid": os.getpid(), "step": step}, stream)
            stream.flush()

        tell("start")
        __salt__["progress.clear"](slug)
        try:
            yield tell
        finally:
            __salt__["progress.tell"](slug, "", "end")


class _Run:
    """
    One deploy or rollback of one site: its steps, its log, and what it has to undo.
    """

    def __init__(self, slug, site, who):
        self.slug, self.site, self.who = slug, site, who
        self.root = root(slug)
        self.host = __grains__["id"]
        self.began = time.time()
        self.steps = {}
        self.step_name = "start"
        self.tell = lambda step: None
        self.notes = []
        # The migrations from before ours; None until ours begin.
        self.had = None

    def folder(self, release):
        return f"{self.root}/releases/{release}"

    @contextlib.contextmanager
    def step(self, name):
        self.step_name = name
        self.tell(name)
        __salt__["progress.tell"](self.slug, name, "begun")
        began = time.monotonic()
        try:
            yield
        except BaseException:
            __salt__["progress.tell"](self.slug, name, "failed", time.monotonic() - began)
            raise
        self.steps[name] = round(time.monotonic() - began, 2)
        __salt__["progress.tell"](self.slug, name, "done", self.steps[name])

    def masked(self, text):
        """
        What the site's own programs print may hold what the pillar calls secret.
        """
        for name, value in __salt__["site_env.read"](self.slug).items():
            if len(value) >= SHORTEST_SECRET and (name == "DJANGO_SECRET_KEY" or name in self.site["secrets"]):
                text = text.replace(value, "**********")
        return text

    def environment(self, release):
        values = __salt__["site_env.read"](self.slug)
        with open(f"{self.folder(release)}/release.env", encoding="utf-8") as stream:
            values.update(__salt__["site_env.load"](stream.read()))
        return values

    def site_run(self, release, argv, timeout, env=None, feed=None):
        values = self.environment(release)
        return __salt__["site_process.run"](
            self.slug, argv, values["APP_DIR"], env={**values, **(env or {})}, timeout=timeout,
            log=f"{self.folder(release)}/deploy.log", feed=feed,
        )  # fmt: skip

    def psql(self, query):
        result = __salt__["site_process.run"](
            self.slug, ["psql", "--no-psqlrc", "-qAtc", query, f"sum-{self.slug}"], "/", timeout=15
        )
        if result["retcode"]:
            raise CommandExecutionError(
                f"Postgres does not let {self.slug} in: {_reason(result['output'])}. "
                "Try: systemctl status 'postgresql@*'"
            )
        return result["output"].strip()

    def migrations(self):
        """
        The migrations that the database has.
        """
        if self.psql("SELECT to_regclass('django_migrations')") == "":
            return []
        return self.psql("SELECT app || '.' || name FROM django_migrations ORDER BY id").splitlines()


def _reason(output):
    """
    The line of a program's output that says why: of a Python traceback its last.
    """
    lines = [line.strip() for line in output.splitlines() if line.strip() and not line.startswith("::manage")]
    return lines[-1].rstrip(".")[:300] if lines else "it said nothing"


def _tail(text, lines=12):
    return "\n".join(line for line in text.splitlines()[-lines:] if not line.startswith("::manage"))


# The steps of a deploy, in order.


def _preflight(run):
    """
    What a deploy needs next to Redis, asked before anything is touched. All faults at once.
    """
    faults = []
    for path in (f"{run.root}/.env", f"{run.root}/repo.git"):
        if not os.path.exists(path):
            raise _Refused(f"{run.slug} is not provisioned on {run.host}: there is no {path}. Try: {_apply()}")
    needed = FREE_BYTES
    try:
        # Migrations are preceded by a dump, which is never larger than the database.
        needed += int(run.psql(f"SELECT pg_database_size('sum-{run.slug}')"))
    except CommandExecutionError as exc:
        faults.append(str(exc))
    disk = os.statvfs(run.root)
    free = disk.f_bavail * disk.f_frsize
    if free < needed:
        faults.append(
            f"{run.root} on {run.host} has {free >> 20} MiB left, a release and its dump need {needed >> 20}. "
            "Try: df -h /srv"
        )
    faults += _memory_faults(run) + __salt__["site_front.faults"](run.site["domains"][0])
    fresh = __salt__["backup.freshness"](run.slug)
    faults += fresh["refusals"]
    run.notes += fresh["warnings"]
    if faults:
        raise _Refused("\n".join(faults))


def _memory_faults(run):
    live = _named(run.slug, "current")
    needed = __salt__["release_units.memory"](run.slug, live) if live else 0
    with open("/proc/meminfo", encoding="ascii") as stream:
        available = next(int(line.split()[1]) << 10 for line in stream if line.startswith("MemAvailable"))
    if not live or available >= needed + (32 << 20):
        return []
    return [
        f"{run.host} has {available >> 20} MiB of memory left, the new release beside the old one needs "
        f"about {needed >> 20}. Try: free -m, or fewer workers"
    ]


def _clean(run):
    """
    What a deploy or rollback that was killed left behind: a database half exchanged, instances that are not
    live, releases that never were.
    """
    healed = __salt__["backup.heal"](run.slug)
    if healed:
        run.notes.append(healed)
    live = _named(run.slug, "current")
    __salt__["release_units.stop"](
        run.slug, [release for release in __salt__["release_units.running"](run.slug) if release != live]
    )
    for folder in glob.glob(f"{run.root}/releases/*/"):
        release = os.path.basename(folder.rstrip("/"))
        marker = f"{run.folder(release)}/.unfinished"
        if os.path.exists(marker) and release not in (live, _named(run.slug, "previous")):
            _finish(run, release, marker, "failed", "it was killed")
            shutil.rmtree(folder, ignore_errors=True)
        elif os.path.exists(marker) and release == live:
            # Proven and switched to; only its record is missing.
            _finish(run, release, marker, "live", "it was interrupted after the switch")
        elif os.path.exists(marker):
            # `previous`: it was switched to, failed, and was killed while it was undone.
            _finish(run, release, marker, "bad", "it was killed while it was undone")
        elif release != live and not os.path.exists(f"{run.folder(release)}/release.env"):
            # Killed while it was fetched, before the marker.
            shutil.rmtree(folder, ignore_errors=True)
    told = [
        record
        for record in __salt__["release_history.read"](run.slug)
        if record["release"] == live and record["outcome"] in ("live", "bad")
    ]
    if told and told[-1]["outcome"] == "bad":
        # A rollback from it was killed after its switch, and its database put back.
        reason = "the rollback from it was interrupted and put back"
        __salt__["release_history.add"](run.slug, {**told[-1], "outcome": "live", "reason": reason})
    belongs = {record.get("dump") for record in __salt__["release_history.read"](run.slug)}
    for dump in _dumps(run, "*.dump*"):
        if dump not in belongs:
            os.unlink(dump)


def _dumps(run, pattern):
    """
    The dumps that deploys made, oldest first; those of restores have their own keeper.
    """
    return sorted(
        path
        for path in glob.glob(f"{run.root}/backups/{pattern}")
        if not os.path.basename(path).startswith("before-restore-")
    )


def _unfinished(run, record):
    """
    What a deploy that is killed leaves in its release's folder: enough to finish its record.
    """
    path = f"{run.folder(record['release'])}/.unfinished"
    with open(path + ".new", "w", encoding="utf-8") as stream:
        json.dump({**record, "had": run.had}, stream)
        stream.flush()
        os.fsync(stream.fileno())
    os.rename(path + ".new", path)


def _finish(run, release, marker, outcome, reason):
    """
    Write the record that a killed deploy could not write: its dump and what it did to the database count.
    """
    try:
        with open(marker, encoding="utf-8") as stream:
            record = json.load(stream)
    except ValueError:
        record = {"release": release, "action": "deploy", "ref": "?", "sha": None, "who": "?",
                  "when": f"{_now():%Y-%m-%dT%H:%M:%SZ}", "migrations": [], "dump": None}  # fmt: skip
    had = record.pop("had", None)
    if had is not None:
        record.update(migrating=True, migrations=[name for name in run.migrations() if name not in had])
    if not any(each["release"] == release for each in __salt__["release_history.read"](run.slug)):
        __salt__["release_history.add"](run.slug, {**record, "outcome": outcome, "reason": reason})
    os.unlink(marker)


def _fetch(run, ref):
    sha = __salt__["release_source.fetch"](run.slug, run.site["repo"], ref)
    release = f"{_now():%Y%m%dT%H%M%S}-{sha[:8]}"
    folder = run.folder(release)
    os.mkdir(folder, 0o755)
    with open(os.open(f"{folder}/deploy.log", os.O_WRONLY | os.O_CREAT, 0o640), "w", encoding="utf-8"):
        pass
    uid = __salt__["file.user_to_uid"](f"sum-{run.slug}")
    gid = __salt__["file.group_to_gid"](f"sum-{run.slug}")
    for name, mode in (("src", 0o750), ("static", 0o755)):
        os.mkdir(f"{folder}/{name}")
        os.chmod(f"{folder}/{name}", mode)
        os.chown(f"{folder}/{name}", uid, gid)
    os.symlink(f"/run/sum-{run.slug}/{release}.sock", f"{folder}/gunicorn.sock")
    return release, sha


def _environment(run, release, ref, sha):
    site, folder = run.site, run.folder(release)
    source = f"{folder}/src"
    __salt__["release_source.checkout"](run.slug, site["repo"], sha, source, log=f"{folder}/deploy.log")
    app = os.path.normpath(f"{source}/{site['directory']}")
    if not os.path.realpath(app).startswith(os.path.realpath(source)) or not os.path.isfile(f"{app}/manage.py"):
        raise CommandExecutionError(
            f"{ref} has no manage.py in the folder {site['directory']!r}. "
            "Try: set `directory:` in the site's pillar to the folder that holds manage.py"
        )
    venv = __salt__["release_venv.build"](
        run.slug, source, site["directory"], site["requirements"], release,
        __salt__["release.uv"](), log=f"{folder}/deploy.log",
    )  # fmt: skip
    path = venv["path"]
    os.symlink(path, f"{folder}/venv")
    needs = ["gunicorn"] + (["celery"] if site["celery"]["worker"] else [])
    missing = [name for name in needs if not os.path.exists(f"{path}/bin/{name}")]
    if not glob.glob(f"{path}/lib/python3*/site-packages/redis/__init__.py"):
        missing.append("redis")
    if missing:
        raise CommandExecutionError(
            f"{site['requirements']} of {ref} installs no {' and no '.join(missing)}, and the site cannot run "
            "without. Try: add it to the file and deploy that commit"
        )
    values = {
        "RELEASE": release,
        "GIT_SHA": sha,
        "PROJECT": site["project"],
        "APP_DIR": app,
        "VENV": path,
        "VIRTUAL_ENV": path,
        "PATH": f"{path}/bin:/usr/local/bin:/usr/bin:/bin",
        # A src/ layout keeps the project's package one folder below manage.py.
        "PYTHONPATH": f"{app}:{app}/src" if os.path.isdir(f"{app}/src") else app,
        "DJANGO_STATIC_ROOT": f"{folder}/static",
    }
    with open(f"{folder}/release.env", "w", encoding="utf-8") as stream:
        stream.write(__salt__["site_env.dump"](values))
    return venv["reused"]


def uv():
    """
    The uv program that provisioning installed.

    Returns its path. Raises ``CommandExecutionError`` when there is none.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 release.uv
    """
    if os.path.exists(f"{UV}/bin/uv"):
        return f"{UV}/bin/uv"
    # A host of before a version was chosen: the one that came last.
    found = sorted(glob.glob(f"{UV}-*/bin/uv"), key=os.path.getmtime)
    if not found:
        raise CommandExecutionError(f"uv is missing on {__grains__['id']}. Try: {_apply()}")
    return found[-1]


def _manage(run, release, commands, timeout=900, env=None):
    """
    Run manage.py commands. Returns the exit code of each and the whole output.
    """
    result = run.site_run(
        release, [f"{run.folder(release)}/venv/bin/python", "-c", _MANAGE, json.dumps(commands)], timeout, env
    )
    codes = dict(line.split()[1:3] for line in result["output"].splitlines() if line.startswith("::manage "))
    return {name: int(code) for name, code in codes.items()}, run.masked(result["output"])


def _static(run, release):
    """
    check --deploy for show, static files, and whether migrations are pending.
    """
    codes, output = _manage(
        run, release,
        [[True, "check", "--deploy"], [False, "collectstatic", "--noinput", "--verbosity", "0"],
         [True, "migrate", "--check", "--verbosity", "0"]],
    )  # fmt: skip
    if codes.get("collectstatic") != 0 and "Unknown command: 'collectstatic'" in output:
        codes, output = _manage(run, release, [[True, "migrate", "--check", "--verbosity", "0"]])
    elif codes.get("collectstatic") != 0:
        raise CommandExecutionError(f"manage.py collectstatic failed: {_reason(output)}\n{_tail(output)}")
    if "migrate" not in codes:
        raise CommandExecutionError(f"manage.py migrate --check failed: {_reason(output)}\n{_tail(output)}")
    checks = [line for line in output.splitlines() if line.startswith("?: (") or "(security." in line]
    if checks:
        run.notes.append(f"manage.py check --deploy has {len(checks)} remarks, the first: {checks[0][:200]}")
    return codes["migrate"] != 0


def _dump(run, release):
    """
    The database before a release's migrations, proven readable, under its final name only then.
    """
    path = f"{run.root}/backups/{release}.dump"
    partial = path + ".partial"
    size = int(run.psql(f"SELECT pg_database_size('sum-{run.slug}')"))
    disk = os.statvfs(f"{run.root}/backups")
    if disk.f_bavail * disk.f_frsize < size + FREE_BYTES:
        raise CommandExecutionError(
            f"{run.root}/backups has no room for a dump of {size >> 20} MiB. Try: df -h {run.root}"
        )
    try:
        for argv, options in (
            (["pg_dump", "--format=custom", "--lock-wait-timeout=10s", f"sum-{run.slug}"], {"write": partial}),
            (["pg_restore", "--file=/dev/null"], {"read": partial}),
        ):
            done = __salt__["site_process.run"](run.slug, argv, "/", timeout=3600, **options)
            if done["retcode"]:
                errors = [line for line in done["output"].splitlines() if "error:" in line]
                raise CommandExecutionError(f"{argv[0]} failed: {_reason(errors[0] if errors else done['output'])}")
        os.rename(partial, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial)
    return path


def _migrate(run, release):
    """
    Run the pending migrations. They wait for locks a few seconds and not for ever, so that a busy table
    holds up the deploy and not the site; three tries.
    """
    for attempt in range(3):
        codes, output = _manage(
            run, release, [[False, "migrate", "--noinput"]], timeout=3600,
            env={"PGOPTIONS": "-c lock_timeout=5s"},
        )  # fmt: skip
        if codes.get("migrate") == 0:
            return
        if "lock timeout" not in output or attempt == 2:
            raise CommandExecutionError(f"manage.py migrate failed: {_reason(output)}\n{_tail(output)}")
        time.sleep(2)


def _ask(run, release):
    return __salt__["goldenpath.site_health"](
        run.slug, run.site, socket=f"{run.folder(release)}/gunicorn.sock", timeout=ANSWER_SECONDS
    )


def _prove(run, release, which="The new release"):
    """
    Several good answers in a row from the instance's own socket, as a visitor would ask.
    """
    end = time.time() + PROVE_SECONDS
    service = __salt__["release_units.names"](run.slug, release)[1]
    good_answers = bad_answers = 0
    while time.time() < end and bad_answers < BAD_ANSWERS:
        asked = time.time()
        answer = _ask(run, release)
        if answer["status"] in ("ok", "degraded"):
            good_answers += 1
            if good_answers == GOOD_ANSWERS:
                return
        else:
            # It flaps, or was never well: a good answer before does not count any more.
            good_answers = 0
            # Refused while it starts is one thing; no answer at all, or a process that ends, is another.
            bad_answers += answer["status"] != "unreachable" or time.time() - asked > ANSWER_SECONDS * 0.9
            if __salt__["release_units.restarts"](run.slug, release) > 1:
                break
        time.sleep(0.1)
    raise CommandExecutionError(
        f"{which} is not healthy: {answer['message']}. Try: journalctl -u {service}\n"
        + run.masked(__salt__["release_units.journal"](service, run.began))
    )


def _celery(run, release):
    """
    Celery on the release that was just switched to: restarted warmly, and a task is really run by the new worker.
    """
    since = __salt__["release_units.restart_background"](run.slug, run.site["celery"])
    unit = f"sum-{run.slug}-celery.service"

    def restarted():
        __salt__["release_units.await_background"](run.slug, run.site["celery"], since)
        return str(__salt__["release_units.main_pid"](unit))

    if not run.site["celery"]["worker"]:
        return
    # What asks the worker is imported while the old one ends its tasks.
    result = run.site_run(
        release,
        [f"{run.folder(release)}/venv/bin/python", "-c", _WORKER, run.site["project"], run.slug, str(WORKER_SECONDS)],
        timeout=WORKER_SECONDS + 20, feed=restarted,
    )  # fmt: skip
    if result["retcode"]:
        raise CommandExecutionError(
            f"The new Celery worker runs no task: {_reason(run.masked(result['output']))}. "
            f"Try: journalctl -u {unit}\n" + run.masked(__salt__["release_units.journal"](unit, since))
        )
    __salt__["release_units.steady_background"](run.slug, run.site["celery"], since)


def _front(run, sha):
    """
    The front door serves the release that was just switched to, for sites whose health names it.
    """
    answer = None
    for attempt in range(10):
        answer = __salt__["goldenpath.site_health"](run.slug, run.site, via="front", timeout=10)
        if answer["status"] in ("ok", "degraded") and answer.get("git_sha") in (None, "", sha):
            return
        time.sleep(0.1 * attempt)
    if answer["status"] in ("ok", "degraded"):
        raise CommandExecutionError(
            f"https://{run.site['domains'][0]} still serves {answer['git_sha'][:8]} and not {sha[:8]}"
        )
    raise CommandExecutionError(
        f"https://{run.site['domains'][0]}{run.site['health']} is not healthy: {answer['message']}. "
        "Try: journalctl -u caddy"
    )


def _switch(run, release):
    """
    One atomic rename moves the site; the release before stays one link away.
    """
    before = _named(run.slug, "current")
    if before and before != release:
        _link(f"releases/{before}", f"{run.root}/previous")
    _link(f"releases/{release}", f"{run.root}/current")


def _switch_back(run, before, release):
    """
    Pointing at the old instance again is all that visitors need.
    """
    background = __salt__["release_units.background"](run.slug, run.site["celery"])
    if before is None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{run.root}/current")
        __salt__["release_units.disable"](background)
        __salt__["release_units.stop"](run.slug, [release])
        maintenance(run.slug, True, "deploy")
        return "There is no older release to go back to: visitors see the maintenance page"
    # Where it was drained already it is started first; where it still runs this does nothing.
    with contextlib.suppress(CommandExecutionError):
        __salt__["release_units.start"](run.slug, before)
    # Pages of the release that is left may still be open: its static files stay until the next deploy.
    _link(f"releases/{release}", f"{run.root}/previous")
    _link(f"releases/{before}", f"{run.root}/current")
    with contextlib.suppress(CommandExecutionError):
        since = __salt__["release_units.restart_background"](run.slug, run.site["celery"])
        __salt__["release_units.await_background"](run.slug, run.site["celery"], since)
    end = time.time() + ANSWER_SECONDS
    while (answer := _ask(run, before))["status"] == "unreachable" and time.time() < end:
        time.sleep(0.2)
    if answer["status"] == "unreachable":
        maintenance(run.slug, True, "deploy")
        return f"Release {before} does not come back ({answer['message']}): visitors see the maintenance page"
    return f"Release {before} serves again"


def _activate(run, release, sha, before, switched=lambda: None):
    """
    From a built release to the only one that serves. ``switched`` is called right after the switch.
    """
    with run.step("start"):
        # What starts the live release at boot: it finds the release through `current`.
        __salt__["release_units.enable"]([f"sum-{run.slug}-gunicorn.service"])
        __salt__["release_units.start"](run.slug, release)
    with run.step("prove"):
        _prove(run, release)
    with run.step("switch"):
        # A power cut must not leave a live release of empty files.
        os.sync()
        _switch(run, release)
        switched()
    with run.step("front door"):
        _front(run, sha)
    with run.step("celery"):
        __salt__["service.start"](f"sum-{run.slug}-gunicorn")
        _celery(run, release)
    # Last: until here going back is one rename.
    with run.step("drain"):
        __salt__["release_units.stop"](
            run.slug, [other for other in __salt__["release_units.running"](run.slug) if other != release]
        )
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{run.root}/{OWED}")


def _prune(run):
    """
    Keep the newest good releases, current and previous, the dumps that lead back to them, the newest dumps, and
    the releases that these belong to.
    """
    good = __salt__["release_history.good"](run.slug)
    keep = {*good[-KEEP:], _named(run.slug, "current"), _named(run.slug, "previous")}
    keep |= set(__salt__["release_units.running"](run.slug))
    dumps = set(_dumps(run, "*.dump")[-KEEP:])
    dumps |= {__salt__["release_history.dump_before"](run.slug, release)[1] for release in keep & set(good)}
    for dump in _dumps(run, "*.dump"):
        if dump not in dumps:
            os.unlink(dump)
    keep |= {release for release in good if f"{run.root}/backups/{release}.dump" in dumps}
    for folder in glob.glob(f"{run.root}/releases/*/"):
        release = os.path.basename(folder.rstrip("/"))
        if release not in keep:
            shutil.rmtree(folder, ignore_errors=True)
    used = {os.path.realpath(link) for link in glob.glob(f"{run.root}/releases/*/venv")}
    for venv in glob.glob(f"{run.root}/venvs/*"):
        if os.path.realpath(venv) not in used:
            shutil.rmtree(venv, ignore_errors=True)


def deploy(slug, site, ref=None, who="unknown", wait=0):
    """
    Release one ref of a site: fetch, build, prove beside the old release, switch, prove again, drain.

    slug (str)
        The site.
    site (dict)
        Its pillar, with the defaults filled in.
    ref (str)
        Tag, branch or commit; the pillar's ``ref`` where it is left out.
    who (str)
        Who asked for it, for the history.
    wait (int)
        Seconds to wait for another deploy of this site.

    Returns the record that went into the history. Raises ``CommandExecutionError`` with one sentence (and the
    last lines of the log) when it failed; the old release is serving then.

    CLI Example:

    .. code-block:: bash

        salt-run state.orchestrate deploy pillar='{"site": "acme-kitchens", "ref": "v1.5.0"}'
    """
    ref = site["ref"] if ref is None else ref
    run = _Run(slug, site, who)
    if not __salt__["release_source.valid_ref"](ref):
        raise _Refused(f"{ref!r:.80} is no tag, branch or commit. Try: git ls-remote on the site's repository")
    if not os.path.isdir(run.root):
        raise _Refused(f"{slug} is not provisioned on {run.host}: there is no {run.root}. Try: {_apply()}")
    record = {"release": None, "action": "deploy", "ref": ref, "sha": None, "who": who,
              "when": f"{_now():%Y-%m-%dT%H:%M:%SZ}", "migrations": [], "dump": None}  # fmt: skip
    with _locked(slug, int(wait), {"who": who, "since": record["when"]}) as run.tell:
        with run.step("preflight"):
            _preflight(run)
        with run.step("clean"):
            _clean(run)
        before = _named(slug, "current")
        release = None
        try:
            with run.step("fetch"):
                release, sha = _fetch(run, ref)
                record.update(release=release, sha=sha)
                _unfinished(run, record)
            with run.step("environment"):
                record["environment"] = "reused" if _environment(run, release, ref, sha) else "built"
            with run.step("static"):
                pending = _static(run, release)
            if pending:
                _migrations(run, release, record)
            _activate(run, release, sha, before)
        except Exception as exc:
            reason = str(exc) if isinstance(exc, CommandExecutionError) else f"{type(exc).__name__}: {exc}"
            if not isinstance(exc, CommandExecutionError):
                log.debug("deploy of %s failed", slug, exc_info=True)
            raise _failed(run, record, release, before, reason) from exc
        if maintenance(slug) == "deploy":
            maintenance(slug, False)
        record.update(outcome="live", seconds=round(time.time() - run.began, 2), steps=run.steps)
        __salt__["release_history.add"](slug, record)
        os.unlink(f"{run.folder(release)}/.unfinished")
        with run.step("prune"):
            _prune(run)
    return {**record, "steps": run.steps, "notes": run.notes, "before": before}


def _migrations(run, release, record):
    """
    A verified dump that belongs to this release, then its migrations.
    """
    had = run.migrations()
    if had:
        with run.step("dump"):
            record["dump"] = _dump(run, release)
    run.had = had
    record["migrating"] = True
    _unfinished(run, record)
    try:
        with run.step("migrate"):
            _migrate(run, release)
    finally:
        with contextlib.suppress(CommandExecutionError):
            record["migrations"] = [name for name in run.migrations() if name not in had]


def _moved(record):
    """
    What a failed deploy did to the database, as the end of a sentence. A migration that is not atomic, or that
    nobody can ask about, may have done half of its work: the dump stays all the same.
    """
    if not record.get("migrating"):
        return ""
    done = len(record["migrations"])
    what = f"{done} migrations stay in the database" if done else "no migration was finished"
    return f"; {what}, the dump from before is {record['dump'] or 'none: it was empty'}"


def _failed(run, record, release, before, reason):
    """
    Undo what a failed deploy did, record it, and say it in one sentence.
    """
    step = run.step_name
    bad = release is not None and _named(run.slug, "current") == release
    if bad:
        state = _switch_back(run, before, release)
    elif before:
        state = f"Release {before} goes on serving"
    else:
        state = "The site has no release yet"
    state += _moved(record)
    sentence, _, tail = run.masked(reason).partition("\n")
    record.update(
        release=release, outcome="bad" if bad else "failed", reason=sentence, step=step,
        seconds=round(time.time() - run.began, 2), steps=run.steps,
    )  # fmt: skip
    with contextlib.suppress(OSError):
        __salt__["release_history.add"](run.slug, record)
    if release:
        __salt__["release_units.stop"](run.slug, [release])
        if record["dump"] and not record.get("migrating"):
            with contextlib.suppress(OSError):
                os.unlink(record["dump"])
        if bad:
            # Its folder is `previous` until the next deploy: its static files may still be asked for.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{run.folder(release)}/.unfinished")
        else:
            shutil.rmtree(run.folder(release), ignore_errors=True)
    message = (
        f"The deploy of {record['ref']} to {run.slug} on {run.host} failed at step {step}: "
        f"{sentence.rstrip('.')}. {state}."
    )
    return CommandExecutionError(message + (f"\n{tail}" if tail.strip() else ""))


def maintenance(slug, on=None, why="operator"):
    """
    The maintenance page: visitors read it with status 503 and ``Retry-After``, the health path is still the
    site's own.

    slug (str)
        The site.
    on (bool)
        Switch it on or off; only ask where it is left out.
    why (str)
        Who switched it on.

    Returns who switched it on, or an empty string where it is off.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 release.maintenance acme-kitchens True
    """
    flag = f"{root(slug)}/maintenance"
    if on and not (why != "operator" and maintenance(slug) == "operator"):
        with open(flag, "w", encoding="utf-8") as stream:
            stream.write(why)
    elif on is False:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(flag)
    try:
        with open(flag, encoding="utf-8") as stream:
            return stream.read()
    except FileNotFoundError:
        return ""


def rollback(slug, site, release=None, who="unknown", wait=0, restore_database=False):
    """
    Go back to a release that was good: no rebuild, proven before visitors reach it, as in a deploy.

    slug (str)
        The site.
    site (dict)
        Its pillar, with the defaults filled in.
    release (str)
        The id of the release; the last good one before the live one where it is left out.
    who (str)
        Who asked for it, for the history.
    wait (int)
        Seconds to wait for a deploy of this site.
    restore_database (bool)
        Go back to the dump that was made before the first migration since that release, too: what visitors
        wrote since is lost, the database of now is kept as a dump.

    Returns the record that went into the history; ``moved`` lists the migrations that the database has had
    since that release. The release that was left is marked bad and never chosen again. Raises
    ``CommandExecutionError`` with one sentence.

    CLI Example:

    .. code-block:: bash

        salt-run state.orchestrate rollback pillar='{"target": "web1", "site": "acme-kitchens"}'
    """
    run = _Run(slug, site, who)
    when = f"{_now():%Y-%m-%dT%H:%M:%SZ}"
    if not os.path.isdir(run.root):
        raise _Refused(f"{slug} is not provisioned on {run.host}. Try: {_apply()}")
    with _locked(slug, int(wait), {"who": who, "since": when}) as run.tell:
        with run.step("clean"):
            _clean(run)
        before = _named(slug, "current")
        target = _rollback_target(run, before, release)
        built = __salt__["release_history.built"](slug, target)
        later = __salt__["release_history.since"](slug, target)
        moved = [name for item in later for name in item.get("migrations", [])]
        dump = _rollback_dump(run, target) if restore_database else None
        record = {"release": target, "action": "rollback", "ref": built["ref"], "sha": built["sha"], "who": who,
                  "when": when, "migrations": [], "dump": None, "from": before}  # fmt: skip
        left = {**record, "release": before, "outcome": "bad", "reason": f"rolled back by {who}"}
        exchanged = False
        try:
            if dump:
                with run.step("restore database"):
                    done = __salt__["backup.exchange"](slug, dump)
                    exchanged = True
                    run.notes += [
                        *done["notes"],
                        f"the database is that of {dump}, the one of before is {done['safety']}",
                    ]
            # From the switch on, also where this is killed: the release that is left is not chosen again.
            _activate(run, target, built["sha"], before, lambda: __salt__["release_history.add"](slug, left))
            if exchanged:
                __salt__["backup.exchange"](slug, settle=True)
        except Exception as exc:
            raise _rollback_failed(run, record, exc, exchanged) from exc
        if maintenance(slug) == "deploy":
            maintenance(slug, False)
        record.update(outcome="live", seconds=round(time.time() - run.began, 2), steps=run.steps)
        __salt__["release_history.add"](slug, record)
    return {**record, "moved": [] if exchanged else moved, "notes": run.notes, "before": before}


def _rollback_target(run, before, release):
    choices = [known for known in __salt__["release_history.good"](run.slug) if known != before]
    # Ids begin with the time: back is never forward.
    earlier = [known for known in choices if before is None or known < before]
    if release is None:
        if not earlier:
            raise _Refused(f"{run.slug} on {run.host} has no good release to go back to. Try: deploy an earlier ref")
        return max(earlier)
    if release == before:
        raise _Refused(f"{release} is the live release of {run.slug} on {run.host} already")
    if release not in choices:
        known = ", ".join(choices) or "none"
        raise _Refused(f"{release!r:.80} is no good release of {run.slug} on {run.host}. Try one of: {known}")
    return release


def _rollback_dump(run, target):
    moved, dump = __salt__["release_history.dump_before"](run.slug, target)
    if moved and not (dump and os.path.exists(dump)):
        raise _Refused(
            f"The dump from before the migrations since then is not on {run.host} any more: "
            f"{dump or 'there was none'}. Try: salt-run state.orchestrate restore"
        )
    return dump


def _rollback_failed(run, record, exc, exchanged):
    """
    Undo a rollback that failed, record it, and say it in one sentence.
    """
    before, target, step = record["from"], record["release"], run.step_name
    reason = str(exc) if isinstance(exc, CommandExecutionError) else f"{type(exc).__name__}: {exc}"
    switched = _named(run.slug, "current") == target
    state = _switch_back(run, before, target) if switched else f"Release {before} goes on serving"
    __salt__["release_units.stop"](run.slug, [target])
    if exchanged:
        with contextlib.suppress(CommandExecutionError):
            state += f". {__salt__['backup.exchange'](run.slug)['state']}"
    sentence, _, tail = run.masked(reason).partition("\n")
    record.update(outcome="failed", reason=sentence, step=step, seconds=round(time.time() - run.began, 2),
                  steps=run.steps)  # fmt: skip
    with contextlib.suppress(OSError):
        __salt__["release_history.add"](run.slug, record)
        if switched:
            # It was marked bad at the switch, and serves again.
            __salt__["release_history.add"](run.slug, {**record, "release": before, "outcome": "live"})
    return CommandExecutionError(
        f"The rollback of {run.slug} on {run.host} to {target} failed at step {step}: "
        f"{sentence.rstrip('.')}. {state}." + (f"\n{tail}" if tail else "")
    )


def settle(slug, site, restart=False):
    """
    The live release, and what belongs to it, is up; what is not live is left alone.

    slug (str)
        The site.
    site (dict)
        Its pillar, with the defaults filled in.
    restart (bool)
        Restart it too, because its environment or its units changed.

    Returns a list of what had to be done, empty where nothing had. Nothing is done before the first release.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 state.apply site
    """
    if not _named(slug, "current"):
        return []
    # Until it is done: the next run does not see the change as one.
    owed = f"{root(slug)}/{OWED}"
    if restart:
        with open(owed, "w", encoding="utf-8"):
            pass
    run = _Run(slug, site, "state.apply")
    # Not beside a deploy, a rollback or a restore: these start and stop the same units.
    with _locked(slug, SETTLE_WAIT, {"who": run.who, "since": f"{_now():%Y-%m-%dT%H:%M:%SZ}"}):
        if __salt__["backup.interrupted"](slug):
            raise CommandExecutionError(
                f"A restore of {slug} on {run.host} was interrupted and is being put back. "
                f"Try: systemctl status goldenpath-heal on the host, then again"
            )
        live = _named(slug, "current")
        done = unsettled(slug, site)
        for step in done:
            verb, _, unit = step.partition(" ")
            again = f"{unit} does not start again"
            _systemctl(verb.split("+"), unit, again if verb == "restart" else f"systemctl {verb} {unit} failed")
        if os.path.exists(owed):
            # gunicorn is ready before its workers have imported the site.
            _prove(run, live, f"Release {live} of {slug}, restarted with what changed,")
            os.unlink(owed)
    return done


def _systemctl(verbs, unit, sentence):
    result = __salt__["cmd.run_all"](["systemctl", *verbs, unit], python_shell=False, ignore_retcode=True, timeout=700)
    if result["retcode"]:
        raise CommandExecutionError(f"{sentence}: {_reason(result['stderr'])}. Try: journalctl -u {unit}")


def unsettled(slug, site):
    """
    What ``settle`` would do.

    slug (str)
        The site.
    site (dict)
        Its pillar, with the defaults filled in.

    Returns a list such as ``["start sum-acme-celery.service"]``.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 state.apply site test=True
    """
    live = _named(slug, "current")
    if not live:
        return []
    background = __salt__["release_units.background"](slug, site["celery"])
    names = __salt__["release_units.names"](slug, live)
    wanted = dict.fromkeys([f"sum-{slug}-gunicorn.service", *names, *background], True)
    for unit in __salt__["release_units.background"](slug, {"worker": True, "beat": True}):
        wanted.setdefault(unit, False)
    shown = __salt__["cmd.run_stdout"](
        ["systemctl", "show", "--property=Id,ActiveState,UnitFileState", *wanted], python_shell=False
    )
    steps = []
    for block in shown.strip().split("\n\n"):
        facts = dict(line.split("=", 1) for line in block.splitlines())
        unit, up = facts["Id"], facts["ActiveState"] in ("active", "activating", "reloading")
        enabled = facts.get("UnitFileState") == "enabled"
        instance = "@" in unit
        if facts.get("UnitFileState", "").startswith("masked") and wanted[unit]:
            steps.append(f"unmask {unit}")
        if wanted[unit] and not instance and not enabled:
            steps.append(f"enable {unit}")
        if wanted[unit] and not up:
            steps.append(f"start {unit}")
        if not wanted[unit] and (up or enabled):
            steps.append(f"disable+--now {unit}")
    if os.path.exists(f"{root(slug)}/{OWED}"):
        # The socket stays and holds what comes in meanwhile: visitors wait, none is refused.
        steps += [f"restart {unit}" for unit in [names[1], *background]]
    return steps
