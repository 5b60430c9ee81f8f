"""A host that the commit BEFORE provisioned is taken over by this checkout, and no visitor notices.

One host goes through these tests in their order. A later change to what is kept on a host adds its step here.
"""

import contextlib
import copy
import json
import os
import shlex
import subprocess
import types

import pytest

from lab import LabError, earlier, master
from lab.common import wait_for
from lab.controller import REPOSITORY
from lab.load import Load
from tests.hosts.conftest import DOMAIN, ROOT, SLUG, World
from tests.hosts.test_backup import FINGERPRINT, PSQL, Listener, fill

BEFORE = "73fc9d5"
RELEASE = "trixie"
# Four visitors, and what Caddy is reloaded for in an upgrade: each time it closes what is idle.
REOPENED = 4 * 6
JOURNAL = f"/var/lib/goldenpath/backup/{SLUG}.restore"
GRANTED = "SELECT count(*) FROM pg_locks WHERE relation = to_regclass('public.held') AND granted"
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
RELEASED = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(600)%'"
LEFT = "runuser -u postgres -- psql -qAtc \"select datname from pg_database where datname ~ '[.]'\""
# What visitors add nothing to.
CONTENT = (
    f"cd {ROOT}/media/fill && find . -type f -exec sha256sum {{}} + | sort | sha256sum; {PSQL} -c "
    '"select count(*), md5(string_agg(t::text, chr(10) order by t::text)) from pages_note t"'
)
# A restore by that commit's own program, killed behind one of its functions while nothing heals.
KILLED = """#!/usr/bin/python3 -I
import os, signal, sys
sys.dont_write_bytecode = True
sys.path.insert(0, "/opt/goldenpath/lib")
from goldenpath_backup import cli, drill, restore
real = {module}.{name}
def killed(*words, **options):
    real(*words, **options)
    os.kill(os.getpid(), signal.SIGKILL)
{module}.{name} = killed
sys.exit(cli.main(["restore", "{slug}"]))
"""


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    """The checkout of BEFORE with its own `lab` package: its controller, its example site and its pillar."""
    try:
        return earlier.checkout(BEFORE, tmp_path_factory.mktemp("before"))
    except LabError as error:
        pytest.exit(f"This trial upgrades from commit {BEFORE}. {error}", 1)


class Upgraded(World):
    """The host, with a controller of either checkout. One pillar and one id: an upgrade changes neither."""

    def __init__(self, lab, name, before, folder, source=None, release=RELEASE):
        origin = before.siterepo.SiteRepository(folder / "example")
        super().__init__(lab, name, release, folder, source, commits=origin.folder)
        self.pillar = copy.deepcopy(before.demo.PILLAR)
        self.ours = self.controller
        self.theirs = before.controller.Controller(folder / "before")
        self.theirs.add(self.host, id=self.name)
        self.both_pillars()

    def both_pillars(self):
        for controller in (self.ours, self.theirs):
            controller.pillar(self.name, self.pillar)

    def release_to(self, tag):
        """Commit something, publish it under a tag and deploy it. Returns (status, output, commit)."""
        sha = self.repository.commit(tag, {"NEWS": f"{tag}\n"}, tag=tag)
        self.repository.publish(self.host)
        return (*self.deploy(site=SLUG, ref=tag, target=self.name), sha)

    def failed(self):
        """state.apply. Returns what failed (dict)."""
        return {key: state for key, state in self.apply().items() if state[0] is not True}

    def drift(self):
        """state.apply once more. Returns what failed or changed something (dict)."""
        return {key: state for key, state in self.apply().items() if state[0] is not True or state[1]}

    def history(self):
        """What the runner tells of the site's releases (dict)."""
        done = self.controller.salt_run("goldenpath.releases", self.name, "limit=100", "--out=json")
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)["hosts"][self.name][SLUG]

    def backups(self):
        """What the host tells of the site's backups (dict)."""
        status, answer = self.salt("goldenpath.backups")
        assert status == 0, answer
        return answer["sites"][SLUG]

    def interrupted(self, module, name):
        """A restore that is killed behind a function of BEFORE's program, on a host where nothing heals."""
        self.host.write("/root/killed", KILLED.format(module=module, name=name, slug=SLUG), mode=0o755)
        self.sh("systemctl stop goldenpath-heal.path")
        self.host.write(f"/run/goldenpath/restore-{SLUG}.request", json.dumps({"snapshot": None, "wait": 60}))
        self.sh("/root/killed; rm /root/killed", check=False)
        assert self.sh(f"ls {JOURNAL}")

    def healed(self):
        """Wait until nothing is left of a restore that was interrupted."""
        assert wait_for(lambda: not self.sh(f"ls {JOURNAL}", check=False), 60, pause=0.3), self.sh(
            "journalctl --no-pager -n 50 -u goldenpath-heal"
        )
        assert self.sh(LEFT) == "" and not self.sh(f"ls {ROOT}/maintenance", check=False)
        assert wait_for(lambda: self.health() == (200, "ok"), 60, pause=0.3), self.ask()

    def jobs_and_alerts(self):
        """The units as the timers start them: a backup, its drill, the watch, and one that fails and is heard."""
        for name in ("backup", "drill", "check", "watch"):
            self.sh(f"systemctl start goldenpath-{name}.service")
        assert self.backups()["drill"]["verdict"] == "good"
        self.listener.alerts.clear()
        self.sh("rm -rf /var/lib/goldenpath/alerts")
        self.sh("cd /etc/goldenpath && mv restic-password right && echo wrong > restic-password")
        try:
            self.sh("systemctl start goldenpath-backup.service", check=False)
            alert = self.listener.wait("goldenpath-backup.service")
        finally:
            self.sh("mv /etc/goldenpath/right /etc/goldenpath/restic-password; systemctl reset-failed")
        assert alert["host"] == self.name and "restic-password does not open the repository" in alert["what"]
        assert "Try: " in alert["what"]


@pytest.fixture(scope="module")
def world(lab, before, tmp_path_factory):
    """The host as BEFORE left it: two releases, alerts, a backup that was drilled. It is off, to be cloned."""
    world = Upgraded(lab, f"lb{os.getpid() % 100000}-up", before, tmp_path_factory.mktemp("upgraded"))
    world.listener = Listener(world.sh("ip -4 route show default | cut -d' ' -f3"))
    world.pillar["alerts"] = {"webhook": f"{world.listener.url}/hook"}
    world.pillar["backup"] = {"heartbeat": {"backup": f"{world.listener.url}/backup"}}
    world.both_pillars()
    world.controller = world.theirs
    world.repository.publish(world.host)
    assert not world.failed()
    status, output = world.deploy()
    assert status == 0, output
    status, output, _ = world.release_to("v1.1.0")
    assert status == 0, output
    fill(world, 500, 20)
    world.jobs_and_alerts()
    world.old_releases = [record["release"] for record in world.history()["history"]]
    assert len(world.old_releases) == 2
    world.sh("rm -r /var/lib/goldenpath/thin/running_data/var/cache")  # a clone's addresses are not this one's
    world.host.shutdown()
    world.before = before
    yield world
    world.listener.server.shutdown()


@pytest.fixture(scope="module")
def visited(world):
    """With visitors, from before the upgrade to its end."""
    world.host.start()
    assert wait_for(lambda: world.health() == (200, "ok"), 60, pause=0.2), world.ask()
    with Load(world.host, DOMAIN, clients=4, seconds=3000) as world.load:
        yield world


@pytest.fixture(autouse=True)
def nobody_noticed(request):
    """After each step: every visitor was answered well."""
    yield
    if "visited" in request.fixturenames:
        load = request.getfixturevalue("visited").load
        assert load.requests > 0 and load.failures == []


def test_a_restore_that_was_interrupted_in_its_middle_is_put_back(world, lab, tmp_path):
    """On a clone, whose visitors get the maintenance page: all is exchanged, nothing is proven, and it is upgraded."""
    clone = Upgraded(lab, f"{world.name}c", world.before, tmp_path, source=world.host)
    clone.pillar = world.pillar
    clone.both_pillars()
    with clone.host:
        assert wait_for(lambda: clone.health() == (200, "ok"), 60, pause=0.2), clone.ask()
        there = clone.sh(FINGERPRINT)
        clone.interrupted("restore", "_exchange")
        assert clone.ask("/")[0] == 503 and clone.sh(LEFT) != ""
        # What needs the site as it was may say so; whatever else there is goes on, and with it what heals.
        failed = {key: state for key, state in clone.apply().items() if state[0] is not True}
        assert all("was interrupted" in state[2] for state in failed.values()), failed
        clone.healed()
        assert clone.sh(FINGERPRINT) == there
        assert not clone.failed()
        assert not clone.drift()


def test_a_restore_is_interrupted(visited):
    """While it still prepares: nobody notices, and a journal and a second database are left."""
    visited.there = visited.sh(CONTENT)
    visited.interrupted("drill", "load")
    assert visited.sh(LEFT) != ""


def test_deploy_without_state_apply(visited):
    visited.known = visited.backups()
    visited.controller = visited.ours
    live = visited.live()
    status, output, sha = visited.release_to("v1.2.0")
    if status:
        # It may ask for the restore to be put back first: by whatever program is there.
        assert "was interrupted" in output and "Try: " in output and "Traceback" not in output, output
        assert visited.live() == live
        visited.sh("systemctl start goldenpath-heal.path")
        visited.healed()
        status, output = visited.deploy(site=SLUG, ref="v1.2.0", target=visited.name)
    assert status == 0, output
    assert json.loads(visited.ask()[1])["git_sha"] == sha


def test_jobs_and_alerts_before_state_apply(visited):
    visited.jobs_and_alerts()


def test_state_apply(visited):
    assert not visited.failed()
    assert not visited.drift()


def test_the_interrupted_restore_is_healed(visited):
    visited.healed()
    assert visited.sh(CONTENT) == visited.there


def test_releases_and_history(visited):
    told = visited.history()
    assert [record["release"] for record in told["history"]][:2] == visited.old_releases
    assert [record["outcome"] for record in told["history"]] == ["live"] * 4
    # New units are a release, of the same commit and with what it ran with.
    assert [record["action"] for record in told["history"]][-1] == "configure"
    assert told["live"] == visited.live() == told["history"][-1]["release"]


def test_backups_are_listed(visited):
    told = visited.backups()
    ids = {each["id"] for each in told["snapshots"]}
    assert {each["id"] for each in visited.known["snapshots"]} <= ids
    assert told["backup"]["rows"] > 500


def test_jobs_and_alerts(visited):
    visited.jobs_and_alerts()
    status, answer = visited.salt("goldenpath.backup", SLUG)
    assert status == 0, answer
    status, answer = visited.salt("goldenpath.restore_drill", SLUG)
    assert status == 0 and answer[SLUG]["verdict"] == "good", answer


def test_rollback_to_an_old_release(visited):
    for release in reversed(visited.old_releases):
        status, output = visited.deploy("rollback", target=visited.name, site=SLUG, release=release)
        assert status == 0, output
        assert visited.live() == release and json.loads(visited.ask()[1])["release"] == release


def test_deploy_by_the_old_checkout(visited):
    """It works, or it refuses in one sentence and leaves everything as it is."""
    live, visited.controller = visited.live(), visited.theirs
    try:
        status, output = visited.deploy(site=SLUG, ref="v1.1.0", target=visited.name)
    finally:
        visited.controller = visited.ours
    assert "Traceback" not in output
    assert (status == 0) == (visited.live() != live), output
    assert status == 0 or output.count("Try: ") == 1, output
    assert visited.health() == (200, "ok")


def test_deploy_and_state_apply_go_on(visited):
    status, output, sha = visited.release_to("v1.3.0")
    assert status == 0, output
    assert json.loads(visited.ask()[1])["git_sha"] == sha
    assert not visited.drift()
    assert visited.load.requests > 1000 and visited.load.reopened <= REOPENED


# Three sites of a minion. Salt of the lab's minions is the controller's own, whose Python is Debian 12's.

OTHERS = ("beta", "gamma")
SLUGS = (SLUG, *OTHERS)
TASKS = 100
# Its own table, so that no visitor waits: a backup that meets it waits until it is let go.
HELD = (
    "psql -qAt --no-psqlrc -d sum-{slug} -c 'CREATE TABLE IF NOT EXISTS held (id int)' -c BEGIN "
    "-c 'LOCK TABLE held IN ACCESS EXCLUSIVE MODE' -c \"SELECT pg_sleep(600)\""
)


class Fleet(Upgraded):
    """The minion's host, with a master of either checkout: one pillar, one key, one after the other."""

    def __init__(self, lab, name, before, folder):
        super().__init__(lab, name, before, folder, release="bookworm")
        site = self.pillar["sites"][SLUG]
        for number, slug in enumerate(OTHERS, 1):
            self.pillar["sites"][slug] = {
                **copy.deepcopy(site), "domains": [self.domain(slug)],
                "redis": {"cache": 2 * number, "broker": 2 * number + 1},
            }  # fmt: skip
        self.both_pillars()
        self.daemon = None

    @staticmethod
    def domain(slug):
        return DOMAIN if slug == SLUG else f"{slug}.example"

    def serve(self, daemon, admit=False):
        """This master is the minion's from now on."""
        if self.daemon:
            self.daemon.stop()
        self.daemon = daemon
        daemon.start()
        daemon.pillar(self.name, self.pillar)
        if admit:
            daemon.admit(self.host, id=self.name)
        assert wait_for(lambda: daemon.salt(self.name, "test.ping", "--timeout=10").returncode == 0, 90)

    def by_master(self, sls="deploy", **request):
        done = self.daemon.orchestrate(sls, request or None)
        return done.returncode, done.stdout + done.stderr

    def applied(self, *words):
        """state.apply by the master. Returns (exit status, the states)."""
        done = self.daemon.salt(self.name, "state.apply", *words, "--out=json", "--timeout=300")
        return done.returncode, json.loads(done.stdout)[self.name]

    def enqueue(self, count):
        for slug in SLUGS:
            self.sh(
                f"curl -sfk --max-time 60 --resolve {self.domain(slug)}:443:127.0.0.1 -d count={count} "
                f"https://{self.domain(slug)}/tasks/"
            )

    def tasks(self, slug):
        """What became of a site's tasks: (jobs, waiting, repeated)."""
        told = json.loads(self.ask("/tasks/", domain=self.domain(slug))[1])
        return told["jobs"], told["waiting"], told["repeated"]


@pytest.fixture(scope="module")
def fleet(lab, before, tmp_path_factory):
    """The host of three sites that a master of BEFORE made."""
    fleet = Fleet(lab, f"lb{os.getpid() % 100000}-fl", before, tmp_path_factory.mktemp("f"))
    folder = tmp_path_factory.mktemp("m")
    fleet.controller = fleet.theirs
    fleet.repository.publish(fleet.host)
    assert not fleet.failed()
    old = before.master.Master(folder)
    try:
        fleet.serve(old, admit=True)
        # As its docs/fleet.md has it; the later one does it by itself.
        assert old.salt(fleet.name, "saltutil.sync_all").returncode == 0
        for slug in SLUGS:
            status, output = fleet.by_master(site=slug, target=fleet.name)
            assert status == 0, output
        fleet.new = master.Master(folder, old.ports)
        yield fleet
    finally:
        if fleet.daemon:
            fleet.daemon.stop()


@pytest.fixture(scope="module")
def loads(fleet):
    """Visitors of all three sites, to the end."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Load(fleet.host, fleet.domain(slug), clients=2, seconds=2000)) for slug in SLUGS]


@pytest.fixture(scope="module")
def backup(fleet):
    """One that the old program began, and that waits for a table of the last site until it is let go."""
    words = ["runuser", "-u", f"sum-{SLUGS[-1]}", "--", "sh", "-c", HELD.format(slug=SLUGS[-1])]
    holder = subprocess.Popen(
        fleet.host.enter_command(words), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )

    def count(question):
        return int(fleet.sh(f"runuser -u postgres -- psql -qAt -d sum-{SLUGS[-1]} -c {shlex.quote(question)}"))

    def state(name):
        return fleet.sh(f"systemctl show -p {name} --value goldenpath-backup.service")

    def let_go():
        fleet.sh(f"runuser -u postgres -- psql -qAtc {shlex.quote(RELEASED)}")
        holder.wait(30)

    try:
        assert wait_for(lambda: count(GRANTED) == 1, 30)
        fleet.sh("systemctl start --no-block goldenpath-backup.service")
        assert wait_for(lambda: count(WAITING), 120), fleet.sh("journalctl --no-pager -n 30 -u goldenpath-backup")
        yield types.SimpleNamespace(state=state, let_go=let_go)
    finally:
        holder.kill()


def test_a_minion_is_taken_over_by_deploys(fleet, loads, backup):
    """One site after the other, without state.apply; the last one's backup goes on to its good end meanwhile."""
    fleet.enqueue(TASKS)
    fleet.serve(fleet.new)
    for slug in SLUGS[:-1]:
        status, output = fleet.by_master(site=slug, target=fleet.name)
        assert status == 0, output
    status, output = fleet.by_master(site=SLUGS[-1], target=fleet.name)
    assert status != 0 and f"{SLUGS[-1]} on {fleet.name} is held by backup since" in output, output
    assert backup.state("ActiveState") == "activating"
    backup.let_go()
    assert wait_for(lambda: backup.state("ActiveState") == "inactive", 120) and backup.state("Result") == "success"
    status, output = fleet.by_master(site=SLUGS[-1], target=fleet.name)
    assert status == 0, output
    assert [load.failures for load in loads] == [[], [], []]


def test_a_minion_is_taken_over_by_state_apply(fleet, loads):
    """With something in each site's queue."""
    fleet.enqueue(TASKS)
    status, states = fleet.applied()
    failed = {key: state for key, state in states.items() if state["result"] is not True}
    assert status == 0 and failed == {}
    status, states = fleet.applied()
    assert status == 0
    assert {key: state for key, state in states.items() if state["result"] is not True or state["changes"]} == {}


def test_each_site_of_the_minion_has_a_redis_of_its_own_and_lost_nothing(fleet, loads):
    for slug in SLUGS:
        assert fleet.sh(f"systemctl is-active redis-server@{slug}") == "active"
        assert wait_for(lambda slug=slug: fleet.tasks(slug)[1] == 0, 120, pause=1), fleet.tasks(slug)
        assert fleet.tasks(slug) == (2 * TASKS, 0, 0)
    assert [load.failures for load in loads] == [[], [], []]


def test_the_engine_changes_in_the_middle_of_another_sites_deploy(fleet, loads):
    """What runs keeps the folder that it began with, also when it imports late."""
    with subprocess.Popen(
        fleet.daemon.command("salt-run", "state.orchestrate", "deploy", f"pillar={json.dumps({'site': SLUG})}"),
        cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as deploy:  # fmt: skip
        assert wait_for(lambda: '"fetch"' in fleet.sh(f"cat /run/goldenpath/{SLUG}.progress", check=False), 60, 0.05)
        used = fleet.sh("readlink /opt/goldenpath/engine/current")
        # Another engine: what an upgrade brings differs by its digest.
        fleet.sh(
            f"cd /opt/goldenpath/engine && cp -a {used} 0123456789abcdef && ln -s 0123456789abcdef next && "
            "mv -T next current"
        )
        status, output = fleet.by_master(site=OTHERS[0], target=fleet.name)
        assert status == 0, output
        said = deploy.communicate(timeout=300)[0]
    assert deploy.returncode == 0, said
    assert fleet.sh("readlink /opt/goldenpath/engine/current") == used
    assert [load.failures for load in loads] == [[], [], []]
