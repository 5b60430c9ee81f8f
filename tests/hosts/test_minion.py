"""The same tree by a Salt master and a minion in the host: provisioned, deployed, refused and rolled back."""

import contextlib
import json
import pathlib
import queue
import re
import signal
import subprocess
import threading
import time

import pytest

from lab import master

from .conftest import ROOT, SLUG

STEPS = ("preflight", "clean", "fetch", "environment", "static", "start", "prove", "switch", "front door", "celery",
         "drain", "prune")  # fmt: skip
REPOSITORY = pathlib.Path(__file__).parents[2]


class Fleet:
    """A master on this machine, and the shared host as its one minion."""

    def __init__(self, world, master):
        self.world, self.master, self.name = world, master, world.name

    def salt(self, *words):
        """One salt command. Returns (exit status, the minion's answer)."""
        # Not --static: with it `salt` exits 0 whatever the minion says.
        done = self.master.salt(self.name, *words, "--out=json")
        assert "Traceback" not in done.stdout + done.stderr
        return done.returncode, json.loads(done.stdout)[self.name]

    def deploy(self, sls="deploy", **request):
        """An orchestration. Returns (exit status, everything it printed)."""
        done = self.master.orchestrate(sls, request or None)
        assert "Traceback" not in done.stdout + done.stderr
        return done.returncode, done.stdout + done.stderr

    @contextlib.contextmanager
    def running(self, sls="deploy", **request):
        """An orchestration that goes on; gives a queue of (time, line) of its standard error, and the process."""
        words = self.master.command("salt-run", "state.orchestrate", sls, f"pillar={json.dumps(request)}")
        lines = queue.Queue()
        with subprocess.Popen(
            words, cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:

            def read():
                for line in process.stderr:
                    lines.put((time.monotonic(), line.rstrip()))
                lines.put(None)

            thread = threading.Thread(target=read)
            thread.start()
            try:
                yield lines, process
            finally:
                process.kill()
                thread.join()

    def idle(self):
        """Whether nobody holds the site's lock."""
        return self.world.host.exec(f"flock --nonblock {ROOT}/deploy.lock true", check=False).returncode == 0

    def served(self):
        """What the site says about itself to a visitor (dict)."""
        code, body = self.world.ask()
        assert code == 200, body
        return json.loads(body)


@pytest.fixture(scope="module")
def fleet(bookworm, tmp_path_factory):
    with master.Master(tmp_path_factory.mktemp("m")) as daemon:
        daemon.pillar(bookworm.name, bookworm.pillar)
        try:
            daemon.admit(bookworm.host, id=bookworm.name)
            fleet = Fleet(bookworm, daemon)
            status, fleet.synced = fleet.salt("saltutil.sync_all")
            assert status == 0, fleet.synced
            yield fleet
        finally:
            master.remove(bookworm.host)


@pytest.fixture
def redis_stopped(bookworm):
    bookworm.sh("systemctl stop redis-server")
    yield
    bookworm.sh("systemctl start redis-server")
    end = time.monotonic() + 60
    while bookworm.health() != (200, "ok") and time.monotonic() < end:
        time.sleep(0.5)
    assert bookworm.health() == (200, "ok")


def test_all_modules_reach_the_minion(fleet):
    for kind in ("modules", "states"):
        ours = {f"{kind}.{path.stem}" for path in (REPOSITORY / f"_{kind}").glob("*.py")}
        assert ours and ours <= set(fleet.synced[kind])


@pytest.mark.parametrize("words", [("test=True",), ()])
def test_apply_changes_nothing_on_a_host_that_salt_ssh_provisioned(fleet, words):
    status, states = fleet.salt("state.apply", *words)
    assert status == 0 and len(states) > 50
    changed = {key: state for key, state in states.items() if state["result"] is not True or state["changes"]}
    assert changed == {}


EXTMODS = "/var/cache/salt/minion/extmods"


def test_old_modules_are_never_used_in_silence(fleet):
    """A state.apply refuses them before it does anything, a deploy sends new ones; a run itself asks for none."""
    world, before = fleet.world, fleet.world.state()
    # It would be mended by a run that went on.
    world.sh(f"echo '# old' >> {EXTMODS}/modules/sshd.py; rm {EXTMODS}/states/uv.py; chmod 700 /etc/goldenpath/sites")
    status, states = fleet.salt("state.apply")
    (answer,) = states.values()
    assert status != 0 and answer["result"] is False
    assert answer["comment"] == (
        f"{fleet.name} has the modules of another checkout (modules/sshd.py and 1 more), and nothing was done. "
        f"Try: salt {fleet.name} saltutil.sync_all; then this again"
    )
    assert world.sh("stat -c %a /etc/goldenpath/sites") == "700" and world.state() == before
    assert world.sh(f"tail -n 1 {EXTMODS}/modules/sshd.py") == "# old"
    status, output = fleet.deploy(site=SLUG)
    assert status == 0, output
    assert world.sh(f"tail -n 1 {EXTMODS}/modules/sshd.py; ls {EXTMODS}/states/uv.py").splitlines()[0] != "# old"
    status, states = fleet.salt("state.apply")
    assert status == 0 and world.sh("stat -c %a /etc/goldenpath/sites") == "755"


def test_deploy_serves_the_new_commit_and_tells_each_step_while_it_runs(fleet):
    world = fleet.world
    sha = world.repository.commit("By a minion", {"NEWS": "minion\n"}, tag="v3.0.0")
    world.repository.publish(world.host)
    with fleet.running(site=SLUG, ref="v3.0.0", target=fleet.name) as (lines, process):
        output = process.stdout.read()
        status, ended = process.wait(), time.monotonic()
        told = list(iter(lambda: lines.get(timeout=10), None))
    assert status == 0, output + str(told)
    assert fleet.served()["git_sha"] == sha
    assert world.sh(f"cat {ROOT}/current/src/NEWS") == "minion"
    text = "\n".join(line for _, line in told)
    assert "Traceback" not in text, text
    done = {
        step: next(when for when, line in told if re.search(rf"^\S+ {fleet.name} {SLUG}: {step} \d+\.\d s$", line))
        for step in STEPS
    }
    assert list(done.values()) == sorted(done.values()), text
    # Not all at once, and not at the end: the worker's proof alone takes longer than this.
    assert ended - done["preflight"] > 2 and done["celery"] - done["preflight"] > 1
    assert re.search(rf"^{fleet.name} {SLUG}: v3.0.0 \({sha[:8]}\) is live on {SLUG} after ", text, re.M)
    assert re.search(rf"^{fleet.name} {SLUG}: preflight .*prune \d+\.\d s$", text, re.M), "the table at the end"


def test_redis_ping(fleet):
    assert fleet.salt("goldenpath.redis_ping") == (0, "PONG")


def test_redis_stopped_is_one_sentence_and_touches_nothing(fleet, redis_stopped):
    sentence = (
        f"Redis on {fleet.name} did not answer PONG: connection refused on 127.0.0.1:6379. "
        "Try: systemctl status redis-server"
    )
    status, told = fleet.salt("goldenpath.redis_ping")
    assert status != 0 and told == sentence
    before = fleet.world.state()
    began = time.monotonic()
    status, output = fleet.deploy()
    assert status != 0 and output.count(sentence) == 1, output
    assert "preflight" not in output and fleet.world.state() == before
    assert time.monotonic() - began < 15


def test_a_second_deploy_is_told_who_holds_the_first(fleet):
    live = fleet.world.live()
    with fleet.running(site=SLUG) as (lines, process):
        for _, line in iter(lambda: lines.get(timeout=60), None):
            if ": clean " in line:
                break
        status, output = fleet.deploy(site=SLUG)
        process.stdout.read()
        assert process.wait() == 0
    assert status != 0
    assert re.search(rf"{SLUG} on {fleet.name} is held by \S+@\S+ since \S+, at step \w", output), output
    assert fleet.world.live() != live and fleet.served()["release"] == fleet.world.live()


def test_a_deploy_outlives_the_command_that_began_it(fleet):
    live = fleet.world.live()
    with fleet.running(site=SLUG) as (lines, process):
        for _, line in iter(lambda: lines.get(timeout=60), None):
            if ": clean " in line:
                break
        process.send_signal(signal.SIGINT)
        assert process.wait(20) != 0
    end = time.monotonic() + 60
    while not fleet.idle() and time.monotonic() < end:
        time.sleep(0.5)
    assert fleet.world.live() != live and fleet.served()["release"] == fleet.world.live()


def test_rollback(fleet):
    live, before = fleet.world.live(), fleet.world.sh(f"basename $(readlink {ROOT}/previous)")
    status, output = fleet.deploy("rollback", site=SLUG, target=fleet.name)
    assert status == 0, output
    assert live != before and fleet.served()["release"] == before == fleet.world.live()


def test_releases_and_open_ports_are_asked_of_minions(fleet):
    done = fleet.master.salt_run("goldenpath.releases", "--out=json")
    assert done.returncode == 0, done.stdout + done.stderr
    site = json.loads(done.stdout)["hosts"][fleet.name][SLUG]
    assert site["live"] == fleet.world.live()
    assert site["history"][-1]["action"] == "rollback" and site["history"][-1]["outcome"] == "live"
    done = fleet.master.salt_run("goldenpath.exposed", "--out=json")
    assert done.returncode == 0, done.stdout + done.stderr
    ports = {
        (port["address"], port["port"]): port["state"] for port in json.loads(done.stdout)["hosts"][fleet.name]["ports"]
    }
    for address in (fleet.world.host.address, fleet.world.host.address6):
        assert ports[address, 443] == ports[address, 22] == "open"
        assert ports[address, 6379] != "open" and ports[address, 5432] != "open"


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        ({"target": "gone*"}, "No host matches 'gone*'. Known: "),
        ({"site": "gone"}, "has the site gone"),
        ({"ref": "v9.9.9"}, "has no tag, branch or commit v9.9.9"),
    ],
)
def test_bad_input_is_one_sentence(fleet, request_, sentence):
    before = fleet.world.state()
    status, output = fleet.deploy(**request_)
    assert status != 0 and output.count(sentence) in (1, 2), output
    assert fleet.world.state() == before


def test_a_minion_that_does_not_answer_is_named(fleet):
    before = fleet.world.state()
    fleet.world.sh("systemctl kill --signal=STOP salt-minion")
    try:
        status, output = fleet.deploy()
    finally:
        fleet.world.sh("systemctl kill --signal=CONT salt-minion")
    assert status != 0 and output.count(f"{fleet.name} does not answer. Try: salt {fleet.name} test.ping") == 1, output
    assert "Traceback" not in output and fleet.world.state() == before


def test_no_hint_of_salt_ssh(fleet):
    """A sentence that an operator reads over a minion names the command that reaches it."""
    fleet.world.sh(f"mv {ROOT}/repo.git {ROOT}/repo.away")
    try:
        status, output = fleet.deploy()
    finally:
        fleet.world.sh(f"mv {ROOT}/repo.away {ROOT}/repo.git")
    assert status != 0 and "is not provisioned" in output
    assert f"Try: salt {fleet.name} state.apply" in output
