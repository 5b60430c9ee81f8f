"""Colleagues and machines: a key that deploys its sites and opens nothing else (docs/day.md)."""

import json
import re
import subprocess
import time

import pytest

from lab.common import wait_for

from .conftest import ROOT, SLUG


class Colleague:
    """Somebody with a key and an ssh client."""

    def __init__(self, world, folder, name):
        self.world, self.name, self.key = world, name, folder / name
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"{name}@laptop", "-f", str(self.key)], check=True
        )
        self.public = self.key.with_suffix(".pub").read_text().strip()

    def argv(self, *options, program="ssh"):
        return [
            program, "-F", "/dev/null", "-i", str(self.key), "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes",
            "-o", f"UserKnownHostsFile={self.world.host.known_hosts}", "-o", "GlobalKnownHostsFile=/dev/null",
            *options,
        ]  # fmt: skip

    def ssh(self, *words, options=(), **more):
        return subprocess.run(
            [*self.argv(*options), f"goldenpath@{self.world.host.address}", *words], capture_output=True, text=True,
            timeout=200, check=False, **{"stdin": subprocess.DEVNULL, **more},
        )  # fmt: skip


@pytest.fixture(scope="module")
def people(trixie, tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    ada, bob = (Colleague(trixie, folder, name) for name in ("ada", "bob"))
    trixie.pillar["operators"] = {
        "ada": {"key": ada.public, "sites": [SLUG]},
        "bob": {"key": bob.public, "sites": [SLUG], "until": "2020-01-31"},
    }
    trixie.repository.reset("v1.0.0")
    trixie.repository.commit("news", {"NEWS": "by ada\n"}, tag="by-ada")
    trixie.repository.publish(trixie.host)
    trixie.write_pillar()
    failed = {key: state for key, state in trixie.apply().items() if state[0] is not True}
    assert failed == {}
    yield ada, bob
    trixie.pillar.pop("operators")
    trixie.write_pillar()
    trixie.apply()
    trixie.deploy(ref="v1.0.0")


def test_a_deploy_by_key_alone(people):
    ada, _ = people
    world = ada.world
    began = time.monotonic()
    done = ada.ssh("deploy", SLUG, "by-ada")
    assert done.returncode == 0, done.stdout + done.stderr
    assert time.monotonic() - began < 60
    assert re.search(r"^switch \d", done.stdout, re.MULTILINE) and f"is live on {SLUG} after" in done.stdout
    record = json.loads(world.sh(f"tail -n 1 {ROOT}/releases.jsonl"))
    assert record["ref"] == "by-ada" and re.fullmatch(r"ada from [0-9.]+", record["who"])
    assert world.health() == (200, "ok")
    assert "by-ada" in ada.ssh("releases", SLUG).stdout
    assert ada.ssh("health", SLUG).returncode == 0
    assert "web" in ada.ssh("logs", SLUG, "web", "3").stdout
    back = ada.ssh("rollback", SLUG)
    assert back.returncode == 0 and json.loads(world.sh(f"tail -n 1 {ROOT}/releases.jsonl"))["who"].startswith("ada ")


def test_without_redis_nothing_is_touched(people):
    ada, _ = people
    before = ada.world.state()
    ada.world.sh("systemctl stop redis-server")
    try:
        done = ada.ssh("deploy", SLUG, "by-ada")
        assert done.returncode == 3 and "Redis on" in done.stdout + done.stderr
        assert ada.world.state() == before
    finally:
        ada.world.sh("systemctl start redis-server")
    assert wait_for(lambda: ada.world.health() == (200, "ok"), 30, 0.5)


@pytest.mark.parametrize(
    "words",
    [
        (), ("sh",), ("id",), ("manage", SLUG, "shell"), ("deploy", "another"), ("deploy", SLUG, "--wait=1"),
        ("deploy", SLUG, "'v1.0.0\nid'"), ("export", SLUG), ("door",), ("deploy", SLUG, "v1.0.0;", "id"),
    ],
)  # fmt: skip
def test_nothing_else(people, words):
    ada, _ = people
    done = ada.ssh(*words)
    assert done.returncode == 3 and "uid=" not in done.stdout + done.stderr
    assert f"with a site of yours ({SLUG})" in done.stderr


def test_no_way_around_the_door(people, tmp_path):
    ada, bob = people
    world, target = ada.world, f"goldenpath@{ada.world.host.address}"
    (tmp_path / "x").write_text("x")
    for argv in (
        [*ada.argv(program="sftp"), "-b", "/dev/null", target],
        [*ada.argv(program="scp"), str(tmp_path / "x"), f"{target}:x"],
        [*ada.argv(program="scp"), "-O", str(tmp_path / "x"), f"{target}:/tmp/x"],
    ):  # fmt: skip
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, check=False)
        assert done.returncode != 0, argv
    # No port of the host's own, no agent, no terminal, no variable.
    forward = ada.ssh("health", SLUG, options=["-L", "16379:127.0.0.1:6379", "-o", "ExitOnForwardFailure=yes"])
    assert "redis" not in forward.stdout.lower() or forward.returncode == 0
    tunnel = subprocess.run(
        [*ada.argv("-W", "127.0.0.1:6379"), target],
        input="PING\r\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "PONG" not in tunnel.stdout and "prohibited" in tunnel.stderr
    done = ada.ssh("health", SLUG, options=["-t", "-t", "-o", "SetEnv=GOLDENPATH_WHO=root", "-A"])
    assert "PTY allocation request failed" in done.stderr
    # Who is let in by the name of another one, or until yesterday, is not.
    assert bob.ssh("health", SLUG).returncode == 255
    assert subprocess.run(
        [*ada.argv(), f"root@{world.host.address}", "id"], capture_output=True, stdin=subprocess.DEVNULL, check=False
    ).returncode == 255  # fmt: skip
    # The socket is for the door's user alone, and a site is nobody there.
    met = world.sh(
        f"runuser -u sum-{SLUG} -- python3 -c 'import socket; "
        'socket.socket(socket.AF_UNIX).connect("/run/goldenpath-door.sock")\' 2>&1',
        check=False,
    )
    assert "PermissionError" in met
    assert world.sh("stat -c '%U %a' /var/lib/goldenpath-door/.ssh/authorized_keys /etc/goldenpath/operators.json") == (
        "root 644\nroot 600"
    )
    assert "ada from" in world.sh("journalctl -u 'goldenpath-door@*' -o cat")


def test_a_key_that_is_gone_closes_what_is_open(people):
    ada, _ = people
    world = ada.world
    following = subprocess.Popen(
        [*ada.argv(), f"goldenpath@{world.host.address}", "deploy", SLUG, "by-ada"], stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    active = f"systemctl is-active goldenpath-deploy-{SLUG}"
    assert wait_for(lambda: world.sh(active, check=False) in ("active", "activating"), 20, 0.05)
    held = world.pillar["operators"].pop("ada")
    try:
        world.write_pillar()
        world.apply("operators")
        assert following.wait(30) != 0, "her connection is closed"
        assert ada.ssh("health", SLUG).returncode == 255
        # What she began is the host's by now, and ends well.
        ended = lambda: json.loads(world.sh(f"tail -n 1 {ROOT}/releases.jsonl"))  # noqa: E731
        assert wait_for(lambda: ended()["ref"] == "by-ada" and ended()["outcome"] == "live", 60, 0.5)
    finally:
        following.kill()
        following.communicate()
        world.pillar["operators"]["ada"] = held
        world.write_pillar()
        world.apply("operators")
    assert ada.ssh("health", SLUG).returncode == 0
