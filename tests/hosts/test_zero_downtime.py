"""Releases under visitors: none of them notices a deploy, a rollback, a failed deploy or a killed one."""

import json
import os
import signal
import subprocess
import threading
import time

import pytest

from lab.controller import REPOSITORY
from lab.load import Load

from .conftest import DOMAIN, ROOT, SLUG

# Where a deploy is killed: each of its steps.
POINTS = [
    "preflight", "clean", "fetch", "environment", "static", "dump", "migrate", "start", "prove", "switch",
    "front door", "celery", "drain", "prune",
]  # fmt: skip

# Waits on the host until a deploy notes a step, then kills it and all that it started, at once.
KILLER = """
import json, os, signal, sys, time
slug, step = sys.argv[1:3]
path = f"/run/goldenpath/{slug}.progress"
end = time.monotonic() + 120
def family(pid):
    children = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                parent = int(open(f"/proc/{entry}/stat").read().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found
os.makedirs("/run/goldenpath", exist_ok=True)
open(path, "w").close()
while time.monotonic() < end:
    for line in open(path):
        note = json.loads(line) if line.endswith("\\n") else {}
        if note.get("step") == step and note.get("event") == "begun":
            try:
                pid = json.load(open(f"/srv/sum/{slug}/deploy.lock"))["pid"]
                os.kill(pid, 0)
            except (ValueError, ProcessLookupError):
                break  # half written, or of who held it before: read it again
            for one in family(pid):
                try:
                    os.kill(one, signal.SIGKILL)
                except ProcessLookupError:
                    pass  # it ended by itself, or with its parent
            sys.exit(0)
    time.sleep(0.001)
sys.exit("the step did not come")
"""


# The same, and kills nobody.
WATCHER = KILLER.replace("os.kill(one, signal.SIGKILL)", "pass")


def _migration(world, number):
    """A commit with one more migration, so that a deploy dumps and migrates."""
    before = world.sh(f"cat {ROOT}/current/src/pages/migrations/LAST 2>/dev/null || echo 0001_initial")
    name = f"{number:04}_step"
    world.repository.commit(
        name,
        {
            "pages/migrations/LAST": name,
            f"pages/migrations/{name}.py": (
                "from django.db import migrations\n\n\nclass Migration(migrations.Migration):\n"
                f"    dependencies = [('pages', '{world.last_migration or before}')]\n"
                "    operations = [migrations.RunSQL('SELECT pg_sleep(0.2)', migrations.RunSQL.noop)]\n"
            ),
        },
        tag="next",
    )
    world.last_migration = name
    world.repository.publish(world.host)


def _nothing_left(world):
    """Only the live release runs, and nothing is half done."""
    live = world.live()
    units = world.sh(f"systemctl list-units --plain --no-legend 'sum-{SLUG}-gunicorn@*.service'").splitlines()
    assert [line.split()[0] for line in units] == [f"sum-{SLUG}-gunicorn@{live}.service"]
    assert world.sh(f"ls -d {ROOT}/releases/*/.unfinished {ROOT}/backups/*.partial 2>/dev/null", check=False) == ""
    assert world.health() == (200, "ok")
    assert json.loads(world.ask()[1])["release"] == live


def test_ten_deploys_under_load(bookworm):
    with Load(bookworm.host, DOMAIN) as load:
        for number in range(10):
            status, output = bookworm.deploy()
            assert status == 0, f"deploy {number}: {output}"
    # Nor is a connection lost: no deploy reloads Caddy.
    assert (load.failed, load.reopened, load.requests > 500) == (0, 0, True), load.failures[:5]


def test_the_load_sees_a_restart_in_place(bookworm):
    live = bookworm.live()
    with Load(bookworm.host, DOMAIN) as load:
        time.sleep(1)
        bookworm.sh(f"systemctl stop 'sum-{SLUG}-gunicorn@{live}.socket' 'sum-{SLUG}-gunicorn@{live}.service'")
        time.sleep(6)
        bookworm.sh(f"systemctl start 'sum-{SLUG}-gunicorn@{live}.socket' 'sum-{SLUG}-gunicorn@{live}.service'")
    assert load.failed > 0
    assert bookworm.apply()


def test_rollback_under_load(bookworm):
    bookworm.repository.reset("v1.0.0")
    bookworm.repository.commit("to be left", tag="later")
    bookworm.repository.publish(bookworm.host)
    before = bookworm.live()
    assert bookworm.deploy(ref="later")[0] == 0
    left = bookworm.live()
    with Load(bookworm.host, DOMAIN) as load:
        status, output = bookworm.deploy("rollback", target=bookworm.name, site=SLUG)
    assert status == 0, output
    assert "the database has not moved since" in output
    assert (load.failed, load.reopened, bookworm.live()) == (0, 0, before), load.failures[:5]
    status, output = bookworm.deploy("rollback", release=left)
    assert status != 0 and "is no good release" in output
    assert bookworm.live() == before


def test_a_deploy_that_fails_after_the_switch_goes_back_under_load(bookworm):
    bookworm.repository.reset("v1.0.0")
    # Its worker cannot start; its pages can.
    celery = (bookworm.repository.folder / "example_site/celery.py").read_text()
    celery += "\nimport sys\nif 'worker' in sys.argv:\n    raise SystemExit('no worker today')\n"
    bookworm.repository.commit("worker", {"example_site/celery.py": celery}, tag="worker")
    bookworm.repository.publish(bookworm.host)
    before = bookworm.live()
    with Load(bookworm.host, DOMAIN) as load:
        status, output = bookworm.deploy(ref="worker")
    assert status != 0 and f"Release {before} serves again" in output and "celery" in output
    assert (load.failed, load.reopened, bookworm.live()) == (0, 0, before), load.failures[:5]
    bookworm.repository.reset("v1.0.0")
    _nothing_left(bookworm)


def test_a_deploy_killed_at_each_step(bookworm):
    bookworm.repository.reset("v1.0.0")
    bookworm.last_migration = None
    with Load(bookworm.host, DOMAIN, clients=3, seconds=900) as load:
        for number, point in enumerate(POINTS, 900):
            _migration(bookworm, number)
            killer = subprocess.Popen(
                bookworm.host.enter_command(["python3", "-c", KILLER, SLUG, point]),
                stderr=subprocess.PIPE,
                text=True,
            )
            status, output = bookworm.deploy(ref="next")
            assert killer.wait(130) == 0, (point, killer.stderr.read(), output)
            assert status != 0, point
            assert bookworm.health()[0] == 200, point
        status, output = bookworm.deploy(ref="next")
    assert status == 0, output
    assert load.failed == 0, load.failures[:5]
    _nothing_left(bookworm)


def test_the_controller_killed_at_each_step(bookworm):
    """The host goes on by itself: the next deploy waits for it, needs no help, and is killed one step later."""
    bookworm.last_migration = bookworm.sh(f"cat {ROOT}/current/src/pages/migrations/LAST 2>/dev/null || true") or None
    with Load(bookworm.host, DOMAIN, clients=3, seconds=900) as load:
        for number, point in enumerate(POINTS, 920):
            _migration(bookworm, number)
            watcher = subprocess.Popen(bookworm.host.enter_command(["python3", "-c", WATCHER, SLUG, point]))
            words = ["state.orchestrate", "deploy", 'pillar={"ref": "next", "wait": 120}']
            run = subprocess.Popen(
                bookworm.controller.command("salt-run", *words), cwd=REPOSITORY, stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
            )  # fmt: skip
            assert watcher.wait(130) == 0, point
            os.killpg(run.pid, signal.SIGKILL)
            assert run.wait(120) == -signal.SIGKILL, (point, run.stderr.read())
            assert bookworm.health()[0] == 200, point
        status, output = bookworm.deploy(ref="next", wait=120)
    assert status == 0, output
    assert load.failed == 0, load.failures[:5]
    _nothing_left(bookworm)


@pytest.mark.parametrize("point", ["migrate", "prove", "drain"])
def test_power_off_in_a_deploy(bookworm, point):
    bookworm.last_migration = bookworm.sh(f"cat {ROOT}/current/src/pages/migrations/LAST 2>/dev/null || true")
    bookworm.last_migration = bookworm.last_migration or None
    _migration(bookworm, {"migrate": 950, "prove": 951, "drain": 952}[point])
    command = bookworm.host.enter_command(["python3", "-c", WATCHER, SLUG, point])
    watcher = subprocess.Popen(command)
    deploy = threading.Thread(target=bookworm.deploy, kwargs={"ref": "next"})
    deploy.start()
    assert watcher.wait(130) == 0
    bookworm.host.poweroff()
    bookworm.host.start()
    deploy.join(120)
    end = time.monotonic() + 60
    while bookworm.health() != (200, "ok") and time.monotonic() < end:
        time.sleep(0.5)
    assert bookworm.health() == (200, "ok")
    status, output = bookworm.deploy(ref="next")
    assert status == 0, output
    _nothing_left(bookworm)


def test_no_task_is_lost_across_deploys(bookworm):
    """500 tasks queued and running while five releases come: each runs at least once."""
    manage = (
        f"cd {ROOT}/current/src && set -a && . {ROOT}/.env && . {ROOT}/current/release.env && set +a && "
        f"setpriv --reuid=sum-{SLUG} --regid=sum-{SLUG} --init-groups {ROOT}/current/venv/bin/python manage.py"
    )
    before = json.loads(bookworm.sh(f"{manage} task_counts"))
    bookworm.sh(f"{manage} enqueue 500")
    for _ in range(5):
        status, output = bookworm.deploy()
        assert status == 0, output
    end = time.monotonic() + 120
    while time.monotonic() < end:
        counts = json.loads(bookworm.sh(f"{manage} task_counts"))
        if counts["ran"] - before["ran"] >= 500:
            break
        time.sleep(1)
    assert counts["ran"] - before["ran"] == 500
    print(f"{counts['repeated'] - before['repeated']} of 500 tasks ran twice")


def test_rollback_with_the_database(bookworm):
    """Back to before a migration: its table is gone again, and what is not asked for is not restored."""
    bookworm.repository.reset("v1.0.0")
    bookworm.repository.commit("before", tag="before")
    bookworm.repository.publish(bookworm.host)
    assert bookworm.deploy(ref="before")[0] == 0
    before = bookworm.live()
    bookworm.repository.commit(
        "table",
        {
            "pages/migrations/0990_table.py": (
                "from django.db import migrations\n\n\nclass Migration(migrations.Migration):\n"
                "    dependencies = [('pages', '0001_initial')]\n"
                "    operations = [migrations.RunSQL('CREATE TABLE added_later (n int)')]\n"
            )
        },
        tag="table",
    )
    bookworm.repository.publish(bookworm.host)
    status, output = bookworm.deploy(ref="table")
    assert status == 0, output
    count = f"runuser -u sum-{SLUG} -- psql -qAtc \"SELECT count(*) FROM pg_tables WHERE tablename = 'added_later'\""
    assert bookworm.sh(count) == "1"
    status, output = bookworm.deploy("rollback", site=SLUG, restore_database=True)
    assert status == 0, output
    assert (bookworm.live(), bookworm.sh(count)) == (before, "0")
    assert bookworm.sh(f"ls {ROOT}/maintenance 2>/dev/null", check=False) == ""
    _nothing_left(bookworm)
