"""
Releases on a folder in place of /srv/sum, with systemd, git, uv, Postgres and the site's own answers played by
one object. What is looked at is the folder, the links and the history that a deploy leaves.
"""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest
from goldenpath import (
    activate,
    env,
    files,
    front,
    heal,
    health,
    history,
    journal,
    lock,
    manage,
    pgdump,
    postgres,
    preflight,
    process,
    redis_move,
    release,
    restore,
    rollback,
    settle,
    source,
    steps,
    text,
    units,
    venv,
    visitor,
)
from goldenpath import run as runs
from goldenpath import site as sites
from goldenpath.errors import Failed

SLUG = "acme-kitchens"
SHA = "1a2b3c4d" + "0" * 32
SECRET = "s3cr3t-canary"
PROGRAMS = pathlib.Path(manage.__file__).parent / "site_programs"


class Host:
    """A provisioned host; attributes say what goes wrong on it."""

    def __init__(self, monkeypatch, site):
        self.it, self.site = site, site.facts
        self.folder = pathlib.Path(site.root)
        self.site["secrets"] = {"TOKEN": SECRET}
        for name in ("releases", "venvs", "backups", "repo.git", "cache"):
            (self.folder / name).mkdir(parents=True)
        values = {"TOKEN": SECRET, "DJANGO_SECRET_KEY": "django-key-canary", "EMAIL_HOST": "smtp.example"}
        (self.folder / ".env").write_text(env.dump(values))
        self.clock = 0
        self.fails = {}  # step's program: its output
        self.events = []
        self.up = set()
        self.health = {"status": "ok", "message": "ok", "git_sha": None}
        self.front = None
        self.caddy = True
        self.postgres = True
        self.pending, self.operations, self.daemons, self.remarks = False, [], [], []
        self.migrations = ["pages.0001_initial"]
        self.packages = ["bin/gunicorn", "bin/celery", "lib/python3.11/site-packages/redis/__init__.py"]
        self.checkout = ["manage.py"]
        self.patch = monkeypatch.setattr
        for (module, name), value in self.played().items():
            monkeypatch.setattr(module, name, value)

    def played(self):
        clock = Clock()
        return {
            (text, "stamp"): self.now,
            (health, "time"): clock, (activate, "time"): clock, (steps, "time"): clock,
            (health, "PROVE_SECONDS"): 2, (preflight, "FREE_BYTES"): 1, (steps, "FREE_BYTES"): 1,
            (health, "ask"): self.ask,
            (preflight, "gate"): lambda slug: None,
            (preflight, "pong"): lambda slug: None,
            (preflight, "_freshness"): lambda site: {"warnings": [], "refusals": []},
            (front, "faults"): lambda domain: [] if self.caddy else ["Caddy is down. Try: systemctl status caddy"],
            (sites.Site, "owner"): lambda site: (os.getuid(), os.getgid()),
            (sites.Site, "secure"): lambda site: None,
            (sites.Site, "show"): lambda site, folder: None,
            (source, "valid_ref"): lambda ref: ref != "bad ref",
            (source, "fetch"): self.fetch,
            (source, "checkout"): self.check_out,
            (venv, "build"): self.build,
            (visitor, "remarks"): lambda site: list(self.remarks),
            (manage, "run"): self.manage,
            (manage, "program"): self.program,
            (manage, "share"): lambda site, release, there, here: self.event("share", there, here),
            (postgres, "size"): self.size,
            (postgres, "applied"): lambda site: list(self.migrations),
            (postgres, "invalid_indexes"): lambda site: [],
            (pgdump, "dumped"): self.dumped,
            (restore, "exchange"): self.exchange,
            (restore, "settle"): lambda site: self.event("exchange", "settle"),
            (heal, "heal"): lambda site: self.event("exchange", "back") and "The database is back",
            (units, "names"): lambda site, release: (f"{release}.socket", f"{release}.service"),
            (units, "running"): lambda site: sorted(self.up),
            (units, "memory"): lambda site, release: 0,
            (units, "restarts"): lambda site, release: 0,
            (units, "start"): self.start,
            (units, "stop"): self.stop,
            (units, "enable"): lambda found: None,
            (units, "disable"): lambda found: self.event("disable", *found),
            (units, "background"): lambda site: [],
            (units, "further"): lambda site: self.daemons,
            (units, "restart_background"): self.celery,
            (units, "await_background"): lambda site, since, found=None: self.refuse("celery"),
            (units, "steady_background"): self.steady,
            (units, "main_pid"): lambda unit: 42,
            (units, "journal"): lambda unit, since, lines=20: f"journal of {unit} with {SECRET}",
            (units, "systemctl"): lambda *argv, **_: self.event("systemctl", *argv) and process.Done(0, "", ""),
        }  # fmt: skip

    def steady(self, site, since, found=None):
        self.refuse("daemon" if found and found == self.daemons else "beat")

    def now(self):
        self.clock += 1
        return f"20261123T2215{self.clock:02d}"

    def event(self, *words):
        self.events.append(words)
        return True

    def refuse(self, name):
        if name in self.fails:
            raise Failed(self.fails[name])

    def fetch(self, site, ref, log=None):
        self.event("fetch", ref)
        self.refuse("fetch")
        return SHA

    def check_out(self, site, sha, folder, log=None):
        self.refuse("checkout")
        for name in self.checkout:
            path = pathlib.Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("")
        return True

    def build(self, site, folder, release, log=None):
        self.refuse("build")
        venv = self.folder / "venvs" / "abc"
        reused = venv.exists()
        for name in self.packages:
            (venv / name).parent.mkdir(parents=True, exist_ok=True)
            (venv / name).write_text("")
        return str(venv), reused

    def program(self, site, release, name, *argv, timeout, env=None, feed=None):
        assert (
            name == "celery_proof.py"
            and argv == (site.facts["project"], str(activate.WORKER_SECONDS))
            and feed() == "42"
        )
        self.event("worker", release)
        return process.Done(int("worker" in self.fails), self.fails.get("worker", ""), "")

    def size(self, site):
        if not self.postgres:
            raise Failed(
                f"Postgres does not let {SLUG} in: psql: error: no server. Try: systemctl status 'postgresql@*'"
            )
        return 8000000

    def dumped(self, site, path, wait=None):
        assert wait == "10s"
        pathlib.Path(path).write_text("dump")
        for name in ("pg_dump", "pg_restore"):
            self.event(name)
            if name in self.fails:
                os.unlink(path)
                raise Failed(f"{name} failed: {text.reason(self.fails[name])}")

    def manage(self, site, release, commands, timeout=900, env=None):
        env = env or {}
        output, codes = "", {}
        for optional, name, *words in commands:
            if optional == "after" and codes.get("migrate"):
                continue
            key = "migrate --check" if "--check" in words else "migrate again" if optional == "after" else name
            self.event(key, env.get("PGOPTIONS"))
            code = int(self.pending) if key == "migrate --check" else 0
            if key in self.fails:
                output += self.fails[key] + "\n"
                code = 1
            elif key == "migrate":
                self.pending = False
                self.migrations.append("pages.0002_more")
            if name == "migrate" and code and self.operations:
                output += f"::pending {json.dumps(self.operations)}\n"
            codes[name] = code
            if code and not optional:
                break
        return codes, text.masked(output, site.secrets())

    def start(self, site, release):
        self.event("start", release)
        self.refuse("start")
        self.up.add(release)

    def stop(self, site, releases):
        self.event("stop", *releases)
        self.up -= set(releases)

    def celery(self, site):
        self.event("celery", self.live)
        return 1.0

    def exchange(self, site, dump):
        self.event("exchange", dump)
        return {"notes": [], "safety": "/safety.dump"}

    def ask(self, site, release=None, front=False, **_):
        answer = self.front if front and self.front else self.health
        self.event("ask", "front" if front else "socket")
        return dict(answer(self) if callable(answer) else answer)

    def clean(self):
        with lock.of_site(self.it, "somebody") as held:
            steps.clean(runs.Run(self.it, "somebody", held))

    def good(self):
        return history.good(self.it)

    @property
    def live(self):
        return self.it.current

    @property
    def releases(self):
        return sorted(path.name for path in (self.folder / "releases").iterdir())

    @property
    def history(self):
        return history.read(self.it)

    def deploy(self, ref=None, **options):
        return release.deploy(self.it, ref, **options)

    def rollback(self, release=None, **options):
        return rollback.rollback(self.it, release, who="somebody", **options)

    def refused(self, function, *args, **options):
        with pytest.raises(Failed) as told:
            function(*args, **options)
        return str(told.value)


class Clock:
    """time, in which sleeping takes none."""

    def __init__(self):
        self.slept = 0.0

    def sleep(self, seconds):
        self.slept += max(seconds, 0.01)

    def time(self):
        return time.time() + self.slept

    def monotonic(self):
        return time.monotonic() + self.slept


@pytest.fixture
def host(monkeypatch, site):
    return Host(monkeypatch, site)


# A deploy


def test_first_deploy(host):
    done = host.deploy(who="somebody@controller")
    assert (done["ref"], done["sha"], done["outcome"], done["before"]) == ("v1.4.2", SHA, "live", None)
    assert done["release"].endswith("-1a2b3c4d")
    assert host.live == done["release"]
    assert host.releases == [done["release"]]
    folder = host.folder / "releases" / done["release"]
    assert not (folder / ".unfinished").exists()
    assert os.readlink(folder / "gunicorn.sock") == f"/run/sum-{SLUG}/{done['release']}.sock"
    values = env.read(folder / "release.env")
    assert (values["RELEASE"], values["GIT_SHA"], values["PROJECT"]) == (done["release"], SHA, "acme_kitchens")
    assert values["APP_DIR"] == values["PYTHONPATH"] == f"{folder}/src"
    assert values["DJANGO_STATIC_ROOT"] == f"{folder}/static"
    (record,) = host.history
    assert record.items() >= {"who": "somebody@controller", "action": "deploy", "outcome": "live"}.items()
    assert not (host.folder / "previous").is_symlink()


def test_the_order_of_what_is_done(host):
    host.pending = True
    done = host.deploy()
    names = [event[0] for event in host.events if event[0] not in ("ask", "stop", "systemctl")]
    assert names == [
        "fetch", "check", "collectstatic", "migrate --check", "pg_dump", "pg_restore", "migrate", "start",
        "celery",
    ]  # fmt: skip
    # Proven before the switch by its own socket, and after it at the front door.
    assert [event[1] for event in host.events if event[0] == "ask"] == ["socket"] * 3 + ["front"]
    # Celery is started on the release that is live by then.
    assert ("celery", done["release"]) in host.events
    assert done["migrations"] == ["pages.0002_more"]
    assert done["dump"] == f"{host.folder}/backups/{done['release']}.dump"
    assert pathlib.Path(done["dump"]).read_text() == "dump"


def test_second_deploy(host):
    first = host.deploy()["release"]
    done = host.deploy("v2")
    assert done["before"] == first
    assert host.live == done["release"] != first
    assert os.readlink(host.folder / "previous") == f"releases/{first}"
    # The old one is drained; its folder stays for a rollback.
    assert host.up == {done["release"]}
    assert host.releases == [first, done["release"]]
    assert (done["environment"], host.history[0]["environment"]) == ("reused", "built")


REMOVED = [["pages.0002_more", "RemoveField page.subtitle", True]]


def test_a_migration_that_the_serving_release_cannot_live_with_is_refused(host):
    """Nothing is dumped or migrated, and the release before serves."""
    host.deploy()
    before = host.live
    host.pending, host.operations, host.events = True, REMOVED, []
    why = host.refused(host.deploy)
    assert f"Release {before} serves until the switch, and cannot live with pages.0002_more: Remove" in why
    assert '{"migrations": "maintenance"}' in why and host.live == before
    assert not {"pg_dump", "migrate"} & {event[0] for event in host.events}


@pytest.mark.parametrize("way", ["maintenance", "accept"])
def test_what_the_pillar_or_the_request_says_of_it(host, way, monkeypatch):
    host.deploy()
    host.pending, host.operations = True, REMOVED
    host.site["migrations"] = way
    seen = []
    migrate = steps._migrate
    monkeypatch.setattr(
        steps, "_migrate", lambda run, release: (seen.append(run.site.maintenance()), migrate(run, release))
    )
    assert host.deploy()["outcome"] == "live"
    assert seen == ["deploy" if way == "maintenance" else ""]
    assert not os.path.exists(host.folder / "maintenance")


def test_the_page_goes_when_the_deploy_fails_after_all(host):
    host.deploy()
    host.pending, host.operations = True, REMOVED
    host.site["migrations"] = "maintenance"
    host.health = {"status": "unhealthy", "message": "no"}
    host.refused(host.deploy)
    assert not os.path.exists(host.folder / "maintenance")


def test_nobody_is_there_to_be_hurt(host):
    """Before the first release, and behind an operator's maintenance page, it is no matter."""
    host.pending, host.operations = True, REMOVED
    assert host.deploy()["outcome"] == "live"
    (host.folder / "maintenance").write_text("operator")
    host.pending = True
    assert host.deploy()["outcome"] == "live"
    assert (host.folder / "maintenance").read_text() == "operator"


def test_what_nobody_can_judge_is_a_remark(host):
    host.deploy()
    host.pending, host.operations = True, [["pages.0002_more", "RunPython", False]]
    (note,) = [note for note in host.deploy()["notes"] if "pages.0002_more" in note]
    assert "is the site's own" in note


def test_without_pending_migrations_nothing_is_dumped(host):
    host.deploy()
    assert {"pg_dump", "migrate"} & {event[0] for event in host.events} == set()


def test_a_new_database_has_nothing_to_dump(host):
    host.migrations.clear()
    host.pending = True
    assert host.deploy()["dump"] is None


def test_migrations_do_not_wait_for_locks_for_ever(host):
    host.pending = True
    host.deploy()
    assert ("migrate", "-c lock_timeout=5s") in host.events


def test_a_busy_table_is_tried_three_times(host):
    host.pending = True
    host.fails["migrate"] = "canceling statement due to lock timeout"
    assert "failed at step migrate: manage.py migrate failed: canceling" in host.refused(host.deploy)
    assert len([event for event in host.events if event[0] == "migrate"]) == 3


def test_a_worker_is_proven_by_a_task(host):
    host.site["celery"] = {"worker": True, "beat": False, "concurrency": 2}
    done = host.deploy()
    assert ("worker", done["release"]) in host.events


def test_a_src_layout(host):
    host.checkout = ["manage.py", "src/acme_kitchens/wsgi.py"]
    folder = host.folder / "releases" / host.deploy()["release"]
    values = env.read(folder / "release.env")
    assert values["PYTHONPATH"] == f"{folder}/src:{folder}/src/src"


def test_a_project_in_a_subfolder(host):
    host.checkout = ["app/manage.py"]
    host.site["directory"] = "app"
    folder = host.folder / "releases" / host.deploy()["release"]
    assert env.read(folder / "release.env")["APP_DIR"] == f"{folder}/src/app"


# A deploy that fails

FAILURES = {
    "fetch": ("fetch", "The repository x cannot be read: no", {}),
    "checkout": ("environment", "Commit 1a2b3c4d cannot be checked out: no", {}),
    "build": ("environment", "The requirements in requirements.txt cannot be installed: no", {}),
    "collectstatic": ("static", "manage.py collectstatic failed: ImportError: no settings", {}),
    "pg_dump": ("dump", "pg_dump failed: no space", {"pending": True}),
    "pg_restore": ("dump", "pg_restore failed: no dump", {"pending": True}),
    "migrate": ("migrate", "manage.py migrate failed: django.db.utils.ProgrammingError: no", {"pending": True}),
    "start": ("start", "gunicorn does not start on the new release", {}),
}


@pytest.mark.parametrize("program", FAILURES)
def test_the_old_release_goes_on_serving(host, program):
    old = host.deploy()["release"]
    host.events.clear()
    step, sentence, state = FAILURES[program]
    for name, value in state.items():
        setattr(host, name, value)
    host.fails[program] = "Traceback:\n" + sentence.partition("failed: ")[2] if "failed: " in sentence else sentence
    told = host.refused(host.deploy, "v2")
    first, _, _ = told.partition("\n")
    kept = [f"{host.folder}/backups/{name}" for name in os.listdir(host.folder / "backups")]
    # A migration that is not atomic may have done half of its work, and is in no list.
    moved = f"; no migration was finished, the dump from before is {kept[0]}" if step == "migrate" else ""
    assert first == (
        f"The deploy of v2 to {SLUG} on web1 failed at step {step}: {sentence}. Release {old} goes on serving{moved}."
    )
    assert len(kept) == (step == "migrate")
    assert host.live == old
    assert host.up == {old}
    assert host.releases == [old], "what was begun is removed"
    record = host.history[-1]
    assert (record["outcome"], record["step"], record["reason"]) == ("failed", step, sentence)
    assert record["dump"] == (kept[0] if moved else record["dump"])
    # And the next one works.
    host.fails.clear()
    host.pending = False
    assert host.deploy("v3")["outcome"] == "live"


def test_a_first_deploy_that_fails(host):
    host.fails["build"] = "The requirements cannot be installed: no"
    assert host.refused(host.deploy).endswith("no. The site has no release yet.")
    assert host.live is None
    assert host.releases == []


def test_settings_that_do_not_import(host):
    host.fails.update(
        {"check": "x", "collectstatic": "Traceback:\nModuleNotFoundError: No module named 'acme.settings'"}
    )
    assert "failed: ModuleNotFoundError: No module named 'acme.settings'." in host.refused(host.deploy)


def test_what_visitors_meet_is_a_note(host):
    host.remarks = ["https://www.acme.example/health/ answered 400"]
    done = host.deploy()
    assert done["outcome"] == "live" and host.remarks[0] in done["notes"]


def test_a_site_without_staticfiles(host):
    host.fails["collectstatic"] = "Unknown command: 'collectstatic'"
    assert host.deploy()["outcome"] == "live"


def test_a_worker_without_celery(host):
    host.site["celery"] = {"worker": True, "beat": False, "concurrency": 2}
    host.packages = [name for name in host.packages if "celery" not in name]
    assert "The environment of v1.4.2 has no celery, and the pillar asks for a worker. Try: dependencies" in (
        host.refused(host.deploy)
    )


def test_celery_is_not_asked_for_where_it_is_off(host):
    host.packages = [name for name in host.packages if "celery" not in name]
    assert host.deploy()["outcome"] == "live"


@pytest.mark.parametrize("directory", ["gone", "../../../.."])
def test_no_manage_py(host, directory):
    host.site["directory"] = directory
    assert f"v1.4.2 has no manage.py in the folder {directory!r}." in host.refused(host.deploy)


def test_a_folder_that_leads_out_of_the_checkout(host, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/manage.py").write_text("")
    host.site["directory"] = "app"
    checked_out = host.check_out

    def linked(site, sha, folder, log=None):
        checked_out(site, sha, folder)
        os.symlink(tmp_path / "elsewhere", f"{folder}/app")

    host.patch(source, "checkout", linked)
    assert "has no manage.py in the folder 'app'" in host.refused(host.deploy)


def test_an_unhealthy_release_never_gets_visitors(host):
    old = host.deploy()["release"]
    host.health = {"status": "unhealthy", "message": "503 from /health/"}
    told = host.refused(host.deploy, "v2")
    assert "failed at step prove: The new release is not healthy: 503 from /health/. Try: journalctl" in told
    assert (host.live, host.up) == (old, {old})
    assert not (host.folder / "previous").is_symlink()


def test_good_answers_must_be_in_a_row(host):
    answers = iter(["ok", "ok", "unhealthy"] * 10)
    host.health = lambda _: {"status": next(answers), "message": "it flaps"}
    assert "is not healthy" in host.refused(host.deploy)


def test_a_release_that_never_answers_is_given_up(host):
    host.health = {"status": "unreachable", "message": "connection refused"}
    assert "is not healthy: connection refused" in host.refused(host.deploy)


def test_a_front_door_that_fails_is_switched_back(host):
    old = host.deploy()["release"]
    host.front = {"status": "unhealthy", "message": "502"}
    told = host.refused(host.deploy, "v2")
    assert "failed at step front door: https://acme.example/health/ is not healthy: 502." in told
    assert told.endswith(f"Release {old} serves again.")
    assert (host.live, host.up) == (old, {old})
    bad = host.history[-1]
    assert bad["outcome"] == "bad"
    assert host.good() == [old]
    # Pages of it may still be open: its static files are found until the next deploy.
    assert os.readlink(host.folder / "previous") == f"releases/{bad['release']}"
    assert host.releases == [old, bad["release"]]
    assert not (host.folder / "releases" / bad["release"] / ".unfinished").exists()
    host.front = None
    third = host.deploy("v3")["release"]
    assert host.releases == [old, third]
    assert [record["outcome"] for record in host.history if record["release"] == bad["release"]] == ["bad"]


def test_an_old_release_that_does_not_come_back_is_told(host):
    old = host.deploy()["release"]
    host.events.clear()
    host.front = {"status": "unhealthy", "message": "502"}

    def dead(_):
        return {"status": "unreachable" if ("ask", "front") in host.events else "ok", "message": "connection refused"}

    host.health = dead
    told = host.refused(host.deploy, "v2")
    assert told.endswith(f"Release {old} does not come back (connection refused): visitors see the maintenance page.")
    assert host.it.maintenance() == "deploy"


def test_a_front_door_that_serves_another_commit(host):
    host.front = {"status": "ok", "message": "ok", "git_sha": "f" * 40}
    told = host.refused(host.deploy)
    assert "https://acme.example still serves ffffffff and not 1a2b3c4d" in told
    assert "There is no older release to go back to: visitors see the maintenance page" in told
    assert host.live is None
    assert host.it.maintenance() == "deploy"
    assert "disable" in [event[0] for event in host.events], "nothing of it starts at boot"


def test_the_maintenance_page_of_a_failed_deploy_goes_with_the_next_good_one(host):
    host.front = {"status": "unhealthy", "message": "502"}
    host.refused(host.deploy)
    assert host.it.maintenance() == "deploy"
    host.front = None
    host.deploy()
    assert host.it.maintenance() == ""


@pytest.mark.parametrize("fails", [False, True])
def test_the_maintenance_page_of_an_operator_stays(host, fails):
    host.it.maintenance_on(sites.OPERATOR)
    if fails:
        host.front = {"status": "unhealthy", "message": "502"}
        host.refused(host.deploy)
    else:
        host.deploy()
    assert host.it.maintenance() == "operator"


@pytest.mark.parametrize("program", ["celery", "worker", "beat"])
def test_celery_that_does_not_start_is_switched_back(host, program):
    host.site["celery"] = {"worker": True, "beat": False, "concurrency": 2}
    old = host.deploy()["release"]
    host.fails[program] = "it imports nothing"
    told = host.refused(host.deploy, "v2")
    assert "failed at step celery" in told
    assert f"Release {old} serves again" in told
    assert (host.live, host.up) == (old, {old})


def test_migrations_that_stay_are_told(host):
    host.deploy()
    host.pending = True
    host.health = {"status": "unhealthy", "message": "503"}
    told = host.refused(host.deploy, "v2")
    record = host.history[-1]
    assert record["migrations"] == ["pages.0002_more"]
    assert f"1 migrations stay in the database, the dump from before is {record['dump']}" in told
    assert pathlib.Path(record["dump"]).exists()


def test_secrets_are_masked(host):
    host.fails["collectstatic"] = f"Traceback:\nRuntimeError: {SECRET} and django-key-canary at smtp.example"
    told = host.refused(host.deploy)
    assert "RuntimeError: ********** and ********** at smtp.example" in told
    for shown in (told, json.dumps(host.history)):
        assert "canary" not in shown


def test_what_is_no_sentence_becomes_one(host):
    host.patch(venv, "build", lambda *_, **__: 1 / 0)
    told = host.refused(host.deploy)
    assert "failed at step environment: ZeroDivisionError: division by zero. The site has no release yet." in told
    assert "\n" not in told


# What is refused before anything is touched


def untouched(host):
    return host.events == [] and host.releases == [] and host.history == []


def test_a_text_that_is_no_ref(host):
    assert "'bad ref' is no tag, branch or commit" in host.refused(host.deploy, "bad ref")
    assert untouched(host)


def test_a_site_that_is_not_provisioned(host, tmp_path):
    host.folder.rename(tmp_path / "away")
    assert host.refused(host.deploy) == (
        f"{SLUG} is not provisioned on web1: there is no {host.folder}. Try: salt-ssh web1 state.apply"
    )
    assert not host.folder.exists()
    assert f"{SLUG} is not provisioned on web1" in host.refused(host.rollback)


@pytest.mark.parametrize("name", [".env", "repo.git"])
def test_a_site_that_is_half_provisioned(host, name):
    (host.folder / name).rename(host.folder / "away")
    assert f"is not provisioned on web1: there is no {host.folder}/{name}." in host.refused(host.deploy)
    assert untouched(host)


def test_all_faults_at_once(host):
    host.postgres, host.caddy = False, False
    host.patch(preflight, "FREE_BYTES", 1 << 62)
    faults = host.refused(host.deploy).splitlines()
    assert [fault.split(" ")[0] for fault in faults] == ["Postgres", str(host.folder), "Caddy"]
    assert faults[0] == (
        f"Postgres does not let {SLUG} in: psql: error: no server. Try: systemctl status 'postgresql@*'"
    )
    assert all("Try: " in fault for fault in faults)
    assert untouched(host)


def test_memory_for_two_releases(host):
    host.deploy()
    host.patch(units, "memory", lambda site, release: 1 << 60)
    assert "MiB of memory left, the new release beside the old one needs about" in host.refused(host.deploy, "v2")


def killed(host, live=False, **more):
    """What a deploy leaves that is killed: its release's folder with the marker, live or not."""
    release = "20261201T000000-deadbeef"
    folder = host.folder / "releases" / release
    folder.mkdir()
    (folder / "release.env").write_text("")
    dump = host.folder / f"backups/{release}.dump"
    dump.write_text("dump")
    marker = {"release": release, "action": "deploy", "ref": "v2", "sha": SHA, "who": "somebody", "when": "now",
              "migrations": [], "dump": str(dump), "had": ["pages.0001_initial"], "migrating": True,
              **more}  # fmt: skip
    (folder / ".unfinished").write_text(json.dumps(marker))
    if live:
        files.link(f"releases/{release}", str(host.folder / "current"))
    return release, dump


@pytest.mark.parametrize("live", [False, True])
def test_the_dump_of_a_killed_deploy_stays(host, live):
    """Killed after its migrations: what it did to the database is in the history, and so is the way back."""
    first = host.deploy()["release"]
    release, dump = killed(host, live)
    host.migrations.append("pages.0002_more")
    host.clean()
    record = host.history[-1]
    assert (record["release"], record["dump"], record["migrations"]) == (release, str(dump), ["pages.0002_more"])
    assert record["outcome"] == ("live" if live else "failed") and "had" not in record
    assert dump.exists()
    assert host.releases == ([first, release] if live else [first])
    # Once is enough, and the database is known to have moved.
    host.clean()
    assert [each["release"] for each in host.history] == [first, release]
    host.deploy("v3")
    assert host.rollback(first)["moved"] == ["pages.0002_more"]


def test_killed_while_it_was_undone(host):
    """Switched to, failed, and killed before its record: it is `previous` by then."""
    first = host.deploy()["release"]
    release, dump = killed(host)
    files.link(f"releases/{release}", str(host.folder / "previous"))
    host.clean()
    assert (host.history[-1]["release"], host.history[-1]["outcome"]) == (release, "bad")
    assert dump.exists() and host.releases == [first, release]


def test_a_rollback_that_was_healed_leaves_a_good_release(host):
    first, second = host.deploy("v1")["release"], host.deploy("v2")["release"]
    # Killed after its switch, and put back from outside.
    record(host, second, "bad", "rollback")
    host.clean()
    assert host.good() == [first, second]


def test_a_deploy_pays_a_restart_that_is_owed(host):
    host.deploy()
    (host.folder / sites.OWED).write_text("")
    host.deploy("v2")
    assert not (host.folder / sites.OWED).exists()


def test_killed_between_record_and_marker(host):
    release = host.deploy()["release"]
    (host.folder / "releases" / release / ".unfinished").write_text(json.dumps({"release": release, "had": None}))
    host.clean()
    assert [each["outcome"] for each in host.history] == ["live"]


def test_the_marker_knows_the_dump_before_the_migrations_begin(host):
    host.deploy()
    host.pending = True
    seen = {}
    real = steps._migrate

    def look(run, release):
        seen.update(json.loads((host.folder / "releases" / release / ".unfinished").read_text()))
        return real(run, release)

    host.patch(steps, "_migrate", look)
    dump = host.deploy("v2")["dump"]
    assert (seen["dump"], seen["had"]) == (dump, ["pages.0001_initial"])


def test_a_database_half_exchanged_is_healed_first(host):
    files.write_json(journal.path(host.it), {"phase": "stopped"})
    host.patch(heal, "heal", lambda site: f"{site.slug} was put back")
    assert f"{SLUG} was put back" in host.deploy()["notes"]


@pytest.mark.parametrize(("who", "stays"), [("deploy", False), ("operator", True)])
def test_the_page_that_a_killed_deploy_left_up_goes(host, who, stays):
    host.deploy()
    (host.folder / "maintenance").write_text(who)
    host.clean()
    assert (host.folder / "maintenance").exists() is stays


def test_what_a_killed_deploy_left_is_removed(host):
    live = host.deploy()["release"]
    left = host.folder / "releases/20260101T000000-deadbeef"
    left.mkdir()
    (left / ".unfinished").write_text("")
    # A marker on what is live is a deploy that was killed just before its end.
    (host.folder / "releases" / live / ".unfinished").write_text("")
    host.up.add(left.name)
    host.clean()
    assert host.releases == [live]
    assert host.up == {live}


# History


def record(host, release, outcome, action="deploy", folder=True, **more):
    history.add(host.it, {"release": release, "outcome": outcome, "action": action, "ref": release, "sha": SHA, **more})
    if folder:
        (host.folder / "releases" / release).mkdir(exist_ok=True)
        (host.folder / "releases" / release / "release.env").write_text("")


# Links


def test_the_link_is_never_missing(host, monkeypatch):
    """At every call that changes a folder, `current` names the old release or the new one."""
    path = str(host.folder / "current")
    files.link("releases/a", path)
    inode = os.lstat(path).st_ino
    seen = []

    def watched(name):
        function = getattr(os, name)

        def call(*args, **options):
            seen.append(os.readlink(path))
            result = function(*args, **options)
            seen.append(os.readlink(path))
            return result

        monkeypatch.setattr(os, name, call)

    for name in ("symlink", "rename", "unlink"):
        watched(name)
    files.link("releases/b", path)
    assert set(seen) == {"releases/a", "releases/b"}
    assert os.lstat(path).st_ino != inode, "renamed over, and not removed and made"


# Pruning


def test_prune(host):
    host.patch(release, "KEEP", 2)
    for name in "abcdefgh":
        dump = host.folder / f"backups/{name}.dump"
        dump.write_text("")
        record(host, name, "bad" if name == "e" else "live", migrations=["m"], dump=str(dump))
        venv = host.folder / f"venvs/of-{name}"
        venv.mkdir()
        (host.folder / f"releases/{name}/venv").symlink_to(venv)
    (host.folder / "releases/stray").mkdir()
    (host.folder / "venvs/half").mkdir()
    files.link("releases/b", str(host.folder / "current"))
    files.link("releases/a", str(host.folder / "previous"))
    host.up = {"c"}
    release.prune(host.it)
    # Of a, b and c the dumps that lead back to them belong to b, c and d; g and h are the newest.
    assert sorted(os.listdir(host.folder / "backups")) == [f"{name}.dump" for name in "bcdgh"]
    assert host.releases == ["a", "b", "c", "d", "g", "h"]
    assert sorted(os.listdir(host.folder / "venvs")) == [f"of-{name}" for name in "abcdgh"]


def test_a_shared_environment_stays(host):
    host.patch(release, "KEEP", 1)
    for number in range(4):
        host.deploy(f"v{number}")
    assert os.listdir(host.folder / "venvs") == ["abc"]
    # Current and previous.
    assert len(host.releases) == 2


# Rollback


def test_rollback(host):
    first, second = host.deploy("v1")["release"], host.deploy("v2")["release"]
    host.events.clear()
    done = host.rollback()
    assert (done["release"], done["before"], done["ref"], done["from"]) == (first, second, "v1", second)
    assert (host.live, host.up) == (first, {first})
    # No rebuild, and proven as a deploy is.
    assert {event[0] for event in host.events} & {"fetch", "collectstatic", "migrate"} == set()
    assert [event[1] for event in host.events if event[0] == "ask"] == ["socket"] * 3 + ["front"]
    assert host.good() == [first]
    assert [(each["action"], each["outcome"]) for each in host.history[-2:]] == [
        ("rollback", "bad"),
        ("rollback", "live"),
    ]
    # What was left is never chosen again.
    assert "has no good release to go back to" in host.refused(host.rollback)


def test_a_daemon_that_an_older_release_does_not_know_holds_up_no_rollback(host):
    first, _ = host.deploy(), host.deploy()
    host.daemons = ["sum-acme-rq.service"]
    host.fails["daemon"] = "sum-acme-rq.service does not stay up"
    done = host.rollback()
    assert done["release"] == first["release"] == host.live
    (note,) = [note for note in done["notes"] if "does not stay up" in note]
    assert "the pillar's `processes` are of a later one" in note


def test_rollback_of_a_rollback_is_a_deploy(host):
    first, second = host.deploy("v1")["release"], host.deploy("v2")["release"]
    host.rollback()
    assert f"{second!r} is no good release of {SLUG} on web1. Try one of: none" in host.refused(host.rollback, second)
    third = host.deploy("v2")["release"]
    assert host.live == third
    assert host.rollback()["release"] == first


def test_rollback_to_a_named_release(host):
    first, second, third = (host.deploy(f"v{number}")["release"] for number in range(3))
    assert host.rollback(first)["release"] == first
    assert host.good() == [second, first]
    assert third in host.releases


def test_back_is_never_forward(host):
    first, second, _ = (host.deploy(f"v{number}")["release"] for number in range(3))
    host.rollback(first)
    assert "has no good release to go back to" in host.refused(host.rollback)
    assert (host.live, second in host.good()) == (first, True)


def test_the_release_that_is_left_is_bad_from_the_switch_on(host):
    first, second = host.deploy("v1")["release"], host.deploy("v2")["release"]
    real = health.front
    seen = []

    def look(site, sha):
        seen.append(host.good())
        return real(site, sha)

    host.patch(health, "front", look)
    host.rollback()
    assert seen == [[first]] and second not in host.good()


def test_rollback_with_the_database_of_the_last_time(host):
    """What was written while the release was live again is in the later dump, and not in the first."""
    first = host.deploy("v1")["release"]
    host.pending = True
    second = host.deploy("v2")
    host.rollback(restore_database=True)
    assert ("exchange", second["dump"]) in host.events
    host.migrations.remove("pages.0002_more")
    host.pending = True
    third = host.deploy("v3")
    host.events.clear()
    done = host.rollback(restore_database=True)
    assert (done["release"], done["moved"]) == (first, [])
    assert [event for event in host.events if event[0] == "exchange"] == [
        ("exchange", third["dump"]),
        ("exchange", "settle"),
    ]


def test_rollback_with_a_database_that_has_not_moved(host):
    host.deploy("v1")
    host.deploy("v2")
    host.rollback(restore_database=True)
    assert "exchange" not in [event[0] for event in host.events]


def test_rollback_without_the_dump(host):
    host.deploy("v1")
    host.pending = True
    dump = host.deploy("v2")["dump"]
    os.unlink(dump)
    assert f"The dump from before the migrations since then is not on web1 any more: {dump}" in host.refused(
        host.rollback, restore_database=True
    )


def test_a_failed_rollback_puts_the_database_back(host):
    host.deploy("v1")
    host.pending = True
    second = host.deploy("v2")["release"]
    host.front = {"status": "unhealthy", "message": "502"}
    told = host.refused(host.rollback, restore_database=True)
    assert told.endswith(f"Release {second} serves again. The database is back.")
    assert [event[1] for event in host.events if event[0] == "exchange"][-1] == "back"


def test_rollback_tells_how_far_the_database_has_moved(host):
    host.deploy("v1")
    host.pending = True
    host.deploy("v2")
    assert host.rollback()["moved"] == ["pages.0002_more"]


@pytest.mark.parametrize("release", ["gone", "../../etc", "failed"])
def test_rollback_to_what_was_never_good(host, release):
    first, second = host.deploy("v1")["release"], host.deploy("v2")["release"]
    record(host, "failed", "failed")
    assert host.refused(host.rollback, release) == (
        f"{release!r} is no good release of {SLUG} on web1. Try one of: {first}"
    )
    assert host.live == second


def test_rollback_to_the_live_release(host):
    host.deploy("v1")
    second = host.deploy("v2")["release"]
    assert f"{second} is the live release of {SLUG} on web1 already" in host.refused(host.rollback, second)


def test_rollback_without_history(host):
    assert "has no good release to go back to. Try: deploy an earlier ref" in host.refused(host.rollback)


@pytest.mark.parametrize("where", ["health", "front"])
def test_a_rollback_that_fails_leaves_the_live_release(host, where):
    first, second = host.deploy("v1")["release"], host.deploy("v2")["release"]
    setattr(host, where, {"status": "unhealthy", "message": "503"})
    told = host.refused(host.rollback)
    assert f"The rollback of {SLUG} on web1 to {first} failed at step " in told
    assert f"Release {second} " in told
    assert (host.live, host.up) == (second, {second})
    assert host.good() == [first, second]
    failed = next(record for record in host.history if record["outcome"] == "failed")
    assert (failed["release"], failed["action"]) == (first, "rollback") and failed["reason"] and failed["step"]


# One at a time

HOLD = """
import sys, time
sys.path.insert(0, sys.argv[1])
from goldenpath import lock, site
site.SRV = sys.argv[2]
with lock.of_site(site.Site("acme-kitchens", {}), "first@controller") as held:
    held.step("migrate")
    print("held", flush=True)
    time.sleep(float(sys.argv[3]))
"""


def holder(host, seconds):
    library = pathlib.Path(lock.__file__).parent.parent
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(library), str(host.folder.parent), str(seconds)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "held\n"
    return process


def test_the_second_is_told_who_holds_it(host):
    with holder(host, 60) as process:
        try:
            told = host.refused(host.deploy)
            assert re.fullmatch(
                rf"{SLUG} on web1 is held by first@controller since 20\S+Z, at step migrate\. "
                rf"Try: wait for it, give wait \(seconds\), or end it with: kill {process.pid}", told
            )  # fmt: skip
            assert host.refused(host.rollback) == told
            assert untouched(host)
            (host.folder / "current").symlink_to("releases/x")
            host.patch(settle, "WAIT", 0)
            assert host.refused(settle.settle, host.it) == told
            (host.folder / "current").unlink()
        finally:
            # The lock dies with its process: nothing to clean.
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert host.deploy()["outcome"] == "live"


def test_waiting_for_it(host):
    with holder(host, 1):
        assert host.deploy(wait=30)["outcome"] == "live"


def test_the_lock_is_given_back_after_a_failure(host):
    host.fails["fetch"] = "no"
    host.refused(host.deploy)
    host.fails.clear()
    assert host.deploy()["outcome"] == "live"


def test_a_lock_file_that_says_nothing(host):
    with holder(host, 60) as process:
        (host.folder / "deploy.lock").write_text("{")
        assert "is held by somebody since a moment, at step start" in host.refused(host.deploy)
        process.kill()


# What runs in the site's own interpreter


def run_manage(folder, source, *commands):
    (folder / "manage.py").write_text(source)
    return subprocess.run(
        [sys.executable, PROGRAMS / "run_manage.py", json.dumps(commands)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_manage_runs_commands_in_one_process(tmp_path):
    done = run_manage(tmp_path, "import os, sys; print(os.getpid(), sys.argv)", [False, "a", "--x"], [True, "b"])
    lines = done.stdout.splitlines()
    assert done.returncode == 0
    assert (lines[0], lines[2], lines[3], lines[5]) == (
        "$ manage.py a --x",
        "::manage a 0",
        "$ manage.py b",
        "::manage b 0",
    )
    assert lines[1].split()[0] == lines[4].split()[0]
    assert lines[1].endswith("['manage.py', 'a', '--x']")


@pytest.mark.parametrize(
    ("code", "status"),
    [("sys.exit(3)", "3"), ("sys.exit('why')", "1"), ("sys.exit()", "0"), ("sys.exit(None)", "0"), ("pass", "0")],
)
def test_manage_tells_how_each_ended(tmp_path, code, status):
    done = run_manage(tmp_path, f"import sys; {code}", [True, "a"], [True, "b"])
    assert [line for line in done.stdout.splitlines() if line.startswith("::")] == [
        f"::manage a {status}",
        f"::manage b {status}",
    ]
    assert done.returncode == 0
    assert ("why" in done.stdout) == ("why" in code)


def test_manage_stops_where_it_must(tmp_path):
    done = run_manage(
        tmp_path, "import sys; sys.exit(sys.argv[1] == 'bad')", [True, "bad"], [False, "bad"], [False, "never"]
    )
    assert done.returncode == 1
    assert "never" not in done.stdout


def test_an_exception_is_the_last_line(tmp_path):
    done = run_manage(tmp_path, "raise RuntimeError('why it failed')", [False, "a"])
    assert done.returncode == 1
    assert text.reason(done.stdout + done.stderr) == "RuntimeError: why it failed"


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("a\nb\n", "b"),
        ("Traceback (most recent call last):\n  File x\nValueError: bad.\n::manage migrate 1\n", "ValueError: bad"),
        ("", "it said nothing"),
        ("\n \n::manage a 1\n", "it said nothing"),
        ("x" * 400, "x" * 300),
    ],
)
def test_reason(output, reason):
    assert text.reason(output) == reason


# What provisioning keeps up


class Systemd:
    """systemctl show and the verbs, answered from a table of units."""

    def __init__(self, host):
        self.units = {}
        self.calls = []
        self.fails = None
        host.patch(
            units, "background",
            lambda site: [unit for unit, key in (("celery", "worker"), ("beat", "beat")) if site.celery[key]],
        )  # fmt: skip
        host.patch(units, "every_background", lambda site: ["celery", "beat"])
        host.patch(units, "systemctl", self.act)

    def act(self, verb, *argv, **_):
        if verb == "show":
            shown = [
                f"Id={unit}\nActiveState={active}\nUnitFileState={enabled}"
                for unit in argv[1:]
                for active, enabled in [self.units.get(unit, ("active", "enabled"))]
            ]
            return process.Done(0, "\n\n".join(shown), "")
        self.calls.append(["systemctl", verb, *argv])
        return process.Done(int(self.fails in argv), "Job failed.\n" if self.fails in argv else "", "")


def test_nothing_is_settled_before_the_first_release(host):
    assert settle.unsettled(host.it) == settle.settle(host.it, restart=True) == []


def test_settled(host):
    host.site["celery"] = {"worker": True, "beat": True, "concurrency": 2}
    host.deploy()
    systemd = Systemd(host)
    assert settle.unsettled(host.it) == settle.settle(host.it) == []
    assert systemd.calls == []


def test_a_link_that_somebody_removed_comes_back(host):
    host.site["celery"] = {"worker": True, "beat": True, "concurrency": 2}
    host.deploy()
    live = host.deploy()["release"]
    os.unlink(host.folder / "current")
    Systemd(host)
    assert settle.unsettled(host.it) == [f"point current at {live}"]
    assert settle.settle(host.it)[0] == f"point current at {live}"
    assert host.live == live and settle.settle(host.it) == []


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        ('psycopg.errors: permission denied to create extension "postgis"\nHINT:  Must be superuser to create this.\n',
         "Try: postgres: {extensions: [postgis]} in the site's pillar, then salt-ssh web1 state.apply"),
        ('django.db.utils.NotSupportedError: extension "vector" is not available\nDETAIL:  Could not open',
         "no package on web1 brings it. Try: apt-cache search postgresql vector"),
        ("django.db.utils.X: the cause\nHINT:  ask somebody", "migrate failed: django.db.utils.X: the cause."),
    ],
)  # fmt: skip
def test_why_a_migration_failed(host, output, sentence):
    host.pending, host.fails["migrate"] = True, output
    assert sentence in host.refused(host.deploy)


def test_a_migration_that_left_half_an_index_is_not_repeated(host):
    host.pending, host.fails["migrate"] = True, "canceling statement due to lock timeout\n"
    host.patch(postgres, "invalid_indexes", lambda site: ["public.by_name"])
    told = host.refused(host.deploy)
    assert "It left an index that is not valid. Try: goldenpath manage acme-kitchens dbshell, and: " in told
    assert "DROP INDEX CONCURRENTLY public.by_name" in told
    assert len([event for event in host.events if event[0] == "migrate"]) == 1


@pytest.fixture
def changed(host):
    """A live site whose environment was just written anew, and is not in service."""
    host.site["celery"] = {"worker": True, "beat": True, "concurrency": 2}
    live = host.deploy()["release"]
    systemd = Systemd(host)
    write(host, "evil.example")
    host.events.clear()
    return live, systemd


def write(host, value):
    """What provisioning does where the pillar has another value."""
    (host.folder / ".env").write_text((host.folder / ".env").read_text().replace("smtp.example", value))
    (host.folder / sites.OWED).write_text("")


def mail(host, release):
    return host.it.environment(release)["EMAIL_HOST"]


def test_a_changed_environment_is_a_release_of_the_same_commit(host, changed):
    live = changed[0]
    assert settle.unsettled(host.it) == ["make a release of what changed"]
    done = settle.settle(host.it)
    made = host.live
    assert done == [f"make a release of what changed: {made}"] and made != live
    assert (mail(host, live), mail(host, made)) == ("smtp.example", "evil.example")
    # Nothing is fetched, built or migrated; it is collected, proven, switched to and tried by a task, as in a deploy.
    assert {event[0] for event in host.events} & {"fetch", "migrate", "migrate again"} == {"migrate again"}
    assert ("share", host.it.release(live, "static"), host.it.release(made, "static")) in host.events
    assert [event[1] for event in host.events if event[0] == "ask"] == ["socket"] * 3 + ["front"]
    assert ("worker", made) in host.events and ("stop", live) in host.events and host.up == {made}
    assert os.path.realpath(host.it.release(made, "src")) == host.it.release(live, "src")
    assert os.path.realpath(host.it.release(made, "venv")) == os.path.realpath(host.it.release(live, "venv"))
    values = env.read(host.it.release(made, "release.env"))
    assert (values["RELEASE"], values["GIT_SHA"], values["APP_DIR"]) == (made, SHA, host.it.release(live, "src"))
    assert (values["WEB_PROCESSES"], values["CELERY_PROCESSES"]) == (str(host.site["workers"]), "2")
    record = host.history[-1]
    assert (record["action"], record["outcome"], record["who"], record["from"]) == (
        "configure", "live", "state.apply", live,
    )  # fmt: skip
    assert (record["ref"], record["sha"]) == (history.built(host.it, live)["ref"], SHA)
    assert settle.settle(host.it) == settle.unsettled(host.it) == []
    # Its own record is what made it, and back is to the variables of then.
    assert history.built(host.it, made) == record
    told = host.rollback()
    assert told["release"] == live and host.live == live
    assert told["notes"][-1].startswith("it has the variables of then: what the pillar says of EMAIL_HOST comes with")
    assert settle.settle(host.it) == []
    assert mail(host, host.deploy()["release"]) == "evil.example"


@pytest.mark.parametrize("step", ["static", "start", "prove", "front door", "celery"])
def test_a_changed_environment_that_fails_leaves_the_old_release_with_its_own(host, changed, step):
    live, good = changed[0], host.health
    bad = {"status": "unhealthy", "message": f"no mail with {SECRET}"}
    if step == "front door":
        host.front = lambda host: bad if host.live != live else good
    elif step == "prove":
        host.health = bad
    elif step == "static":
        host.fails["collectstatic"] = f"Traceback\nKeyError: 'EMAIL_HOST' and {SECRET}\n"
    else:
        host.fails[{"start": "start", "celery": "beat"}[step]] = f"it ends: {SECRET}"
    host.up = {live}
    for _ in range(2):
        told = host.refused(settle.settle, host.it)
        assert told.startswith(f"What changed for {SLUG} on web1 failed at step {step}: ") and SECRET not in told
        assert host.live == live and mail(host, live) == "smtp.example" and live in host.up
        assert host.history[-1]["action"] == "configure" and host.history[-1]["outcome"] in ("failed", "bad")
        # It is still what the pillar says, and still owed.
        assert settle.unsettled(host.it) == ["make a release of what changed"]
        if step in ("static", "start", "prove"):
            assert told.rstrip(".").endswith(f"Release {live} goes on serving, with the variables that it had")
            assert host.up == {live} and host.releases == [live]
    host.fails.clear()
    host.health, host.front = good, None
    assert settle.settle(host.it) and mail(host, host.live) == "evil.example"


def test_what_should_be_up_is_brought_up_also_where_the_change_fails(host, changed):
    live, systemd = changed
    host.fails["start"] = "it ends"
    systemd.units[f"{live}.service"] = ("failed", "static")
    host.refused(settle.settle, host.it)
    assert ["systemctl", "start", f"{live}.service"] in systemd.calls


def test_a_change_that_wants_migrations_wants_a_deploy(host, changed):
    host.pending = True
    assert f"migrations are pending with what changed. Try: goldenpath deploy {SLUG} v1.4.2" in host.refused(
        settle.settle, host.it
    )


def test_a_change_that_was_killed_is_tidied_up_and_done(host, changed):
    live = changed[0]

    def killed(site, release, since):
        raise KeyboardInterrupt

    proven = health.prove
    host.patch(health, "prove", killed)
    with pytest.raises(KeyboardInterrupt):
        settle.settle(host.it)
    assert len(host.releases) == 2 and host.live == live
    host.patch(health, "prove", proven)
    settle.settle(host.it)
    assert host.releases == sorted([live, host.live]) and host.up == {host.live}
    assert [each["outcome"] for each in host.history] == ["live", "failed", "live"]


def test_a_source_stays_as_long_as_a_release_has_it_and_old_secrets_do_not(host, changed):
    host.patch(release, "KEEP", 1)
    live = changed[0]
    for value in ("b.example", "c.example", "d.example"):
        (host.folder / sites.OWED).write_text("")
        (host.folder / ".env").write_text(env.dump({"EMAIL_HOST": value, "TOKEN": "rotated-canary"}))
        settle.settle(host.it)
    assert host.releases == sorted([live, host.it.previous, host.live])
    # Of the first one there is the checkout alone: it is no release any more, and a killed deploy's tidying leaves it.
    assert os.listdir(host.folder / "releases" / live) == ["src"] and live not in host.good()
    host.clean()
    assert pathlib.Path(host.it.release(host.live, "src/manage.py")).exists()
    assert not [path for path in host.it.every_variables() if SECRET in pathlib.Path(path).read_text()]
    for ref in ("v1", "v2"):
        host.deploy(ref)
    assert live not in host.releases


def test_many_changes_do_not_push_out_every_commit(host, changed):
    host.patch(release, "KEEP", 2)
    host.patch(source, "fetch", lambda site, ref: "9" * 40)
    before = host.deploy("v0")["release"]
    host.patch(source, "fetch", lambda site, ref: SHA)
    host.deploy("v1")
    for value in "bcd":
        write(host, value)
        settle.settle(host.it)
    assert before in host.good()


def test_a_release_of_before_reads_the_sites_variables(host, changed):
    os.unlink(host.it.release(changed[0], sites.VARIABLES))
    assert mail(host, changed[0]) == "evil.example" and host.it.variables(changed[0]) == host.it.path(".env")
    assert mail(host, None) == "evil.example"
    # What was not yet proven when the tree of before wrote it is owed, too.
    os.unlink(host.folder / sites.OWED)
    (host.folder / sites.BEFORE).write_text("")
    assert settle.unsettled(host.it) == ["make a release of what changed"] and settle.settle(host.it)
    assert not (host.folder / sites.BEFORE).exists() and settle.unsettled(host.it) == []


def test_secrets_of_every_release_are_secrets(host, changed):
    (host.folder / ".env").write_text(env.dump({"TOKEN": "rotated-canary"}))
    assert {"rotated-canary", SECRET} <= set(host.it.secrets())


def test_a_change_that_nobody_serves_stays_owed_over_a_rollback(host, changed):
    """What the pillar says is not in service, whichever release is gone back to."""
    host.deploy()
    write(host, "third.example")
    host.rollback(changed[0])
    assert mail(host, host.live) == "smtp.example" and settle.unsettled(host.it) == ["make a release of what changed"]


@pytest.fixture
def moving(host, changed):
    """The same, and the environment names another Redis."""
    moved = []
    (host.folder / ".env").write_text(
        (host.folder / ".env").read_text() + 'REDIS_URL="redis://:word@127.0.0.1:700/0"\n'
    )
    host.patch(redis_move, "two", lambda site: True)
    host.patch(redis_move, "gather", lambda site: moved.append((redis_move.here(site, site.current), set(host.up))))
    host.patch(redis_move, "leave", lambda site: None)
    return moved


def systemd_calls(systemd):
    return [" ".join(call[1:]) for call in systemd.calls]


def test_keys_move_when_nobody_writes_them_any_more_and_before_a_task_is_taken(host, changed, moving):
    settle.settle(host.it)
    assert moving == [(SLUG, {host.live})] and "stop beat celery" in systemd_calls(changed[1])
    stopped, taken = host.events.index(("stop", changed[0])), host.events.index(("celery", host.live))
    assert stopped < taken


def test_keys_go_back_with_the_release(host, changed, moving):
    host.fails["beat"] = "it ends"
    host.up = {changed[0]}
    host.refused(settle.settle, host.it)
    assert [place for place, _ in moving] == [SLUG, None] and moving[1][1] == {changed[0]}


def test_keys_that_do_not_move_leave_the_old_release(host, changed, moving):
    def gather(site):
        raise Failed("The keys do not reach it: OOM. Try: x")

    host.patch(redis_move, "gather", gather)
    told = host.refused(settle.settle, host.it)
    assert "failed at step celery: The keys do not reach it: OOM. Try: x" in told and host.live == changed[0]


def test_a_deploy_and_a_rollback_move_keys_too(host, changed, moving):
    host.deploy()
    assert [place for place, _ in moving] == [SLUG] and settle.unsettled(host.it) == []
    host.rollback()
    assert [place for place, _ in moving] == [SLUG, None]


def test_a_release_whose_redis_is_gone_is_not_gone_back_to(host, changed, moving):
    wanted = host.deploy()["release"]
    (host.folder / ".env").write_text(env.dump({}))
    live = host.deploy()["release"]
    host.patch(redis_move, "two", lambda site: False)
    assert f"The variables of {wanted} name a Redis that web1 has no more. Try: goldenpath deploy" in host.refused(
        host.rollback
    )
    assert host.live == live


def test_the_own_redis_stays_until_pillar_and_release_are_done_with_it(host, monkeypatch, tmp_path):
    live = host.deploy()["release"]
    done = []
    monkeypatch.setattr(redis_move, "two", lambda site: True)
    monkeypatch.setattr(files, "remove", done.append)
    own = 'REDIS_URL="redis://:word@127.0.0.1:700/0"\n'
    for place in (host.folder / ".env", pathlib.Path(host.it.release(live, sites.VARIABLES))):
        text_of = place.read_text()
        place.write_text(own)
        redis_move.leave(host.it)
        assert done == []
        place.write_text(text_of)
    redis_move.leave(host.it)
    assert len(done) == 1


def test_a_deploy_proves_a_changed_environment_too(host, changed):
    host.deploy()
    assert not (host.folder / sites.OWED).exists() and settle.unsettled(host.it) == []


def test_units_that_the_pillar_names_no_more_are_removed(host, monkeypatch):
    host.deploy()
    Systemd(host)
    gone = []
    monkeypatch.setattr(units, "stray", lambda site: [] if gone else ["sum-acme-old.service"])
    monkeypatch.setattr(units, "remove", gone.extend)
    assert "remove sum-acme-old.service" in settle.unsettled(host.it)
    assert "remove sum-acme-old.service" in settle.settle(host.it) and gone == ["sum-acme-old.service"]


def test_settle(host):
    host.site["celery"] = {"worker": True, "beat": False, "concurrency": 2}
    live = host.deploy()["release"]
    systemd = Systemd(host)
    gunicorn = f"sum-{SLUG}-gunicorn.service"
    systemd.units = {
        gunicorn: ("inactive", "disabled"),
        f"{live}.service": ("failed", "static"),
        "celery": ("active", "masked"),
        "beat": ("active", "enabled"),
    }
    steps = settle.unsettled(host.it)
    assert systemd.calls == []
    assert {
        f"enable {gunicorn}",
        f"start {gunicorn}",
        f"start {live}.service",
        "unmask celery",
        "disable+--now beat",
    } <= set(steps)
    assert settle.settle(host.it) == steps
    assert ["systemctl", "disable", "--now", "beat"] in systemd.calls
    systemd.calls.clear()
    systemd.units = {}
    systemd.units["beat"] = ("inactive", "disabled")
    # Not while a restore is half done.
    files.write_json(journal.path(host.it), {"phase": "stopped"})
    assert "was interrupted and is being put back" in host.refused(settle.settle, host.it)
    os.unlink(journal.path(host.it))
    # Changed units are a release; until it is well, that is not forgotten.
    host.health = {"status": "unhealthy", "message": "ImproperlyConfigured"}
    assert "failed at step prove: The new release is not healthy: ImproperlyConfigured" in host.refused(
        settle.settle, host.it, restart=True
    )
    host.health = {"status": "ok", "message": "ok", "git_sha": None}
    assert settle.unsettled(host.it) == ["make a release of what changed"]
    assert settle.settle(host.it) == [f"make a release of what changed: {host.live}"]
    assert settle.settle(host.it) == []
    systemd.units["celery"], systemd.fails = ("failed", "enabled"), "celery"
    assert host.refused(settle.settle, host.it) == (
        "systemctl start celery failed: Job failed. Try: journalctl -u celery"
    )
