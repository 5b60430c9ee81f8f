"""Debian forky, which stands for Ubuntu 26.04: Python 3.14, Redis 8, Postgres 18, the newest Caddy and systemd.

One host goes through these tests in their order.
"""

import base64
import json
import os
import subprocess

import pytest

from lab.controller import REPOSITORY
from lab.demo import DOMAIN
from lab.load import Load
from tests.conftest import example_pillar
from tests.hosts.conftest import SLUG, World

PYTEST = "python3-pytest python3-pytest-timeout git"


@pytest.fixture(scope="module")
def world(lab, tmp_path_factory):
    world = World(lab, f"lb{os.getpid() % 100000}-fo", "forky", tmp_path_factory.mktemp("forky"))
    world.repository.publish(world.host)
    return world


def test_it_is_provisioned_and_stays(world):
    assert {key: state for key, state in world.apply().items() if state[0] is not True} == {}
    assert {key: state for key, state in world.apply().items() if state[0] is not True or state[1]} == {}


def test_it_serves(world):
    status, output = world.deploy()
    assert status == 0, output
    assert world.health() == (200, "ok")


def test_deploys_under_load(world):
    sha = world.repository.commit("next", {"NEWS": "next\n"}, tag="v1.1.0")
    world.repository.publish(world.host)
    with Load(world.host, DOMAIN, clients=4, seconds=120) as load:
        status, output = world.deploy(site=SLUG, ref="v1.1.0", target=world.name)
        assert status == 0, output
        status, output = world.deploy("rollback", target=world.name, site=SLUG)
        assert status == 0, output
    assert load.requests > 0 and load.failures == []
    assert json.loads(world.ask()[1])["git_sha"] != sha


def test_backup_and_drill(world):
    for name in ("backup", "drill", "check", "watch"):
        world.sh(f"systemctl start goldenpath-{name}.service")
    status, answer = world.salt("goldenpath.backups")
    assert status == 0 and answer["sites"][SLUG]["drill"]["verdict"] == "good", answer


def test_without_redis_nothing_is_touched(world):
    before = world.state()
    world.sh("systemctl stop redis-server")
    status, output = world.deploy()
    assert status != 0 and "Redis" in output and "Try: " in output, output
    assert world.state() == before
    world.sh("systemctl start redis-server")


def test_it_comes_back_after_a_reboot(world):
    world.host.reboot()
    assert world.sh("systemctl is-system-running --wait", check=False) in ("running", "degraded")
    assert world.sh("systemctl list-units --failed --plain --no-legend") == ""
    assert world.health() == (200, "ok")


def test_the_engine_under_its_python(world):
    """The engine's own tests, with the host's Python, git, Postgres and Redis."""
    git = ["git", "-C", str(REPOSITORY), "-c", "safe.directory=*"]
    names = subprocess.run(
        [*git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"], capture_output=True, check=True
    )
    tree = subprocess.run(
        ["tar", "-C", str(REPOSITORY), "--null", "--files-from=-", "-c"], input=names.stdout, capture_output=True,
        check=True,
    )  # fmt: skip
    world.sh("mkdir /root/tree")
    world.sh("base64 -d | tar -C /root/tree -x", input=base64.b64encode(tree.stdout).decode())
    world.host.write("/root/example.json", json.dumps(example_pillar()))
    world.sh(f"apt-get install -qq --no-install-recommends {PYTEST} </dev/null >/dev/null")
    assert world.sh("python3 -V").startswith("Python 3.14.")
    told = world.sh(
        "cd /root/tree && GOLDENPATH_EXAMPLE=/root/example.json python3 -m pytest -q -p no:cacheprovider "
        "--confcutdir tests/unit/engine tests/unit/engine </dev/null 2>&1 | tail -n 40",
        timeout=900,
    )
    assert " passed" in told.splitlines()[-1] and "failed" not in told.splitlines()[-1], told
