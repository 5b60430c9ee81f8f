"""Releases on real hosts: what is asked for is served, and what cannot be leaves the old release serving."""

import json
import os
import subprocess

import pytest

from lab.demo import PILLAR

from .conftest import ROOT, SLUG

HEALTH = """
import time
from django.core.cache import cache
from django.http import JsonResponse
from django.urls import path
urlpatterns = [path("health/", lambda request: answer())]
"""
UNHEALTHY = 'answer = lambda: JsonResponse({"status": "unhealthy"}, status=503)\n'
FLAPPING = """
def answer():
    cache.add("flap", 0)
    well = cache.incr("flap") % 2
    return JsonResponse({"status": "ok" if well else "unhealthy"}, status=200 if well else 503)
"""
HANGING = "answer = lambda: time.sleep(50)\n"
OLD_SHA = 'answer = lambda: JsonResponse({"status": "ok", "git_sha": "deadbeef" * 5})\n'

BROKEN = {
    "requirements": (
        {"requirements.txt": "no-such-distribution-anywhere==1.0\n"},
        "The requirements in requirements.txt cannot be installed",
    ),
    "no-celery": ({"requirements.txt": "django\npsycopg[binary]\n"}, "has no celery, and the pillar asks for a worker"),
    "no-driver": ({"requirements.txt": "django\nredis\ncelery\n"}, "Error loading psycopg2 or psycopg module"),
    "settings": (
        {"example_site/settings/production.py": "import nothing_of_that_name\n"},
        "No module named 'nothing_of_that_name'",
    ),
    "migration": (
        {
            "pages/migrations/0900_broken.py": (
                "from django.db import migrations\n\n\nclass Migration(migrations.Migration):\n"
                "    dependencies = [('pages', '0001_initial')]\n"
                "    operations = [migrations.RunSQL('SELECT no_such_function()')]\n"
            )
        },
        "manage.py migrate failed",
    ),
    "wsgi": ({"example_site/wsgi.py": "raise RuntimeError('this release cannot start')\n"}, "not healthy"),
    "unhealthy": ({"example_site/urls.py": HEALTH + UNHEALTHY}, "The new release is not healthy"),
    "flapping": ({"example_site/urls.py": HEALTH + FLAPPING}, "The new release is not healthy"),
    "hanging": ({"example_site/urls.py": HEALTH + HANGING}, "The new release is not healthy"),
    "old-sha": ({"example_site/urls.py": HEALTH + OLD_SHA}, "still serves deadbeef and not"),
    "manage": ({"manage.py": None}, "has no manage.py in the folder '.'"),
}


@pytest.fixture
def healthy(bookworm):
    """The site on its first tag before, and serving the same release after, each of these tests."""
    yield bookworm
    bookworm.repository.reset("v1.0.0")
    assert bookworm.health() == (200, "ok")


def test_a_new_ref_is_released_and_served(world):
    sha = world.repository.commit("Second", {"NEWS": "two\n"}, tag="v1.1.0")
    world.repository.publish(world.host)
    status, output = world.deploy(site=SLUG, ref="v1.1.0", target=world.name)
    assert status == 0, output
    assert json.loads(world.ask()[1])["git_sha"] == sha
    assert world.sh(f"cat {ROOT}/current/src/NEWS") == "two"
    world.repository.reset("v1.0.0")


def test_unchanged_requirements_install_nothing(world):
    before = world.sh(f"ls {ROOT}/venvs")
    status, output = world.deploy()
    assert status == 0, output
    assert "reused" in output
    assert world.sh(f"ls {ROOT}/venvs") == before


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_release_leaves_the_old_one_serving(healthy, name):
    changes, reason = BROKEN[name]
    healthy.repository.commit(name, changes, tag="broken")
    healthy.repository.publish(healthy.host)
    live = healthy.live()
    status, output = healthy.deploy(ref="broken")
    assert status != 0
    serves = "serves again" if name == "old-sha" else "goes on serving"
    assert reason in output and f"Release {live} {serves}" in output
    assert json.loads(healthy.ask()[1])["release"] == live
    assert 'Traceback (most recent call last):\n  File "/' not in output.split("Release")[0]
    assert healthy.sh(f"ls {ROOT}/releases | wc -l") == healthy.sh(f"ls -d {ROOT}/releases/*/src | wc -l")


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        ({"ref": "v9.9.9"}, "has no tag, branch or commit v9.9.9"),
        ({"ref": "--help"}, "is no tag, branch or commit"),
        ({"ref": "v1; rm -rf /"}, "is no tag, branch or commit"),
        ({"ref": ""}, "ref: is empty"),
        ({"ref": "a" * 1000}, "is no tag, branch or commit"),
        ({"site": "nobody"}, "has the site nobody"),
        ({"target": "web9*"}, "No host matches 'web9*'"),
        ({"sit": "acme-kitchens"}, "sit: deploy knows no such key"),
    ],
)
def test_bad_input_is_one_sentence_and_changes_nothing(healthy, request_, sentence):
    before = healthy.state()
    status, output = healthy.deploy(**request_)
    assert status != 0
    # Where it failed; and what a host refuses in the middle is the last line, too.
    assert output.count(sentence) in (1, 2)
    assert "Traceback" not in output
    assert healthy.state() == before


def test_a_migration_that_waits_on_a_locked_table_gives_up(healthy):
    healthy.repository.commit(
        "alter",
        {
            "pages/migrations/0800_alter.py": (
                "from django.db import migrations\n\n\nclass Migration(migrations.Migration):\n"
                "    dependencies = [('pages', '0001_initial')]\n"
                "    operations = [migrations.RunSQL('ALTER TABLE pages_note ADD COLUMN extra int')]\n"
            )
        },
        tag="alter",
    )
    healthy.repository.publish(healthy.host)
    live = healthy.live()
    holder = subprocess.Popen(
        healthy.host.enter_command(
            # What a writer holds: the dump may read, the migration must wait.
            f"runuser -u sum-{SLUG} -- "
            "psql -qc 'BEGIN; LOCK TABLE pages_note IN ROW EXCLUSIVE MODE; SELECT pg_sleep(60)'"
        )
    )
    try:
        status, output = healthy.deploy(ref="alter")
    finally:
        healthy.sh(f"pkill -u sum-{SLUG} psql", check=False)
        holder.wait(70)
    assert status != 0 and "lock timeout" in output and f"Release {live} goes on serving" in output
    assert healthy.sh(f"ls {ROOT}/backups", check=False).count("alter") == 0


def test_a_full_disk_while_fetching(healthy):
    live = healthy.live()
    healthy.repository.commit("large", {"large.bin": os.urandom(3_000_000).hex()}, tag="large")
    healthy.repository.publish(healthy.host)
    healthy.sh(f"mount -t tmpfs -o size=1m,uid=$(id -u sum-{SLUG}),mode=0700 none {ROOT}/repo.git")
    try:
        status, output = healthy.deploy(ref="large")
    finally:
        healthy.sh(f"umount {ROOT}/repo.git")
    assert status != 0 and "failed at step fetch" in output and f"Release {live} goes on serving" in output
    assert output.count("Try:") == 2 and "Try:" in output.splitlines()[-1]


def test_a_second_deploy_is_told_who_holds_the_first(healthy):
    code = (
        "import fcntl, json, time\n"
        f"f = open('{ROOT}/deploy.lock', 'w')\n"
        "fcntl.flock(f, fcntl.LOCK_EX)\n"
        "json.dump({'who': 'ada@desk', 'since': '2026-01-01T00:00:00Z', 'step': 'migrate', 'pid': 4242}, f)\n"
        "f.flush()\n"
        "print('held', flush=True)\n"
        "time.sleep({seconds})\n"
    )
    command = healthy.host.enter_command(["python3", "-c", code.replace("{seconds}", "60")])
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        before = healthy.state()
        status, output = healthy.deploy()
        healthy.sh("pkill -f 'deploy.loc[k]'", check=False)
    assert status != 0 and "is held by ada@desk since 2026-01-01T00:00:00Z, at step migrate" in output
    assert healthy.state() == before
    command = healthy.host.enter_command(["python3", "-c", code.replace("{seconds}", "12")])
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        status, output = healthy.deploy(wait=60)
    assert status == 0, output


def test_history_tells_every_deploy(healthy):
    done = healthy.controller.salt_run("goldenpath.releases", healthy.name, "limit=100", "--out=json")
    assert done.returncode == 0, done.stdout + done.stderr
    site = json.loads(done.stdout)["hosts"][healthy.name][SLUG]
    assert site["live"] == healthy.live()
    last = [record for record in site["history"] if record["outcome"] == "live"][-1]
    assert (
        last["release"] == site["live"] and last["seconds"] > 0 and set(last["steps"]) >= {"fetch", "prove", "switch"}
    )


def test_hosts_that_are_not_there(healthy):
    done = healthy.controller.salt_ssh("web9", "state.apply")
    assert done.returncode != 0 and "No host matches 'web9'" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    roster = healthy.controller.config_dir / "roster"
    before = roster.read_text()
    # A port that its firewall drops.
    entry = dict(healthy.controller.hosts[healthy.name], port=9, timeout=3)
    try:
        roster.write_text(json.dumps({**healthy.controller.hosts, "gone": entry}))
        healthy.controller.pillar("gone", healthy.pillar)
        done = healthy.controller.salt_ssh("gone", "state.apply")
        assert done.returncode != 0 and "gone" in done.stdout + done.stderr
        assert "Traceback" not in done.stdout + done.stderr
        status, output = healthy.deploy(target="gone")
        assert status != 0 and output.count("gone cannot be reached: ") == 1 and "Traceback" not in output
    finally:
        roster.write_text(before)


@pytest.mark.parametrize(
    ("pillar", "sentence"),
    [
        ("", "has no pillar"),
        ({"color": "red", "redis": {}, "sites": {}}, "color"),
        ({"redis": {"enabled": False}, "sites": {}}, "Redis is required"),
        (
            {
                "redis": {},
                "sites": {
                    name: {
                        **PILLAR["sites"][SLUG],
                        "domains": [f"{name}.example"],
                        "redis": {"cache": 0, "broker": broker},
                    }
                    for name, broker in (("one", 1), ("two", 2))
                },
            },
            "sites:two:redis:cache",
        ),
    ],
)
def test_a_wrong_pillar_touches_nothing(healthy, pillar, sentence):
    before = healthy.state()
    healthy.controller.pillar(healthy.name, pillar)
    try:
        done = healthy.controller.salt_ssh(healthy.name, "state.apply")
        status, output = healthy.deploy()
    finally:
        healthy.write_pillar()
    for code, text in ((done.returncode, done.stdout + done.stderr), (status, output)):
        assert code != 0 and sentence in text and "Traceback" not in text
    assert healthy.state() == before


def test_a_repository_that_cannot_be_read(healthy):
    before = healthy.state()
    healthy.write_pillar(repo="/srv/git/nothing.git")
    try:
        status, output = healthy.deploy()
    finally:
        healthy.write_pillar(repo=healthy.repository.path)
    assert status != 0
    assert "The repository /srv/git/nothing.git cannot be read" in output
    assert healthy.state() == before
