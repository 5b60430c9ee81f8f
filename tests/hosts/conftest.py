"""Real hosts for the tests: one per Debian release, provisioned once in a session; each worker has a clone of it."""

import json
import os
import pathlib

import pytest
import yaml

from lab import Lab, unwind_on_signals
from lab.common import is_locked, locked, read_json, wait_for, write
from lab.controller import Controller
from lab.demo import DOMAIN, PILLAR, ask
from lab.siterepo import SiteRepository

SLUG = "acme-kitchens"
ROOT = f"/srv/sum/{SLUG}"
RELEASES = ("bookworm", "trixie")


class World:
    """One host, its controller and its site's repository.

    It may be a clone of a host that is off: by then it has that one's id, for a host that is provisioned keeps it.
    """

    def __init__(self, lab, name, release, folder, source=None, commits=None):
        self.lab, self.name, self.release = lab, source.name if source else name, release
        self.host = lab.clone(source, name) if source else lab.up(name, release=release)
        self.controller = Controller(folder / "controller")
        self.controller.add(self.host, id=self.name)
        self.repository = SiteRepository(folder / "site", origin=commits)
        self.pillar = yaml.safe_load(yaml.safe_dump(PILLAR))
        self.pillar["redis"]["maxmemory"] = "64mb"  # a test fills it
        self.write_pillar()

    def write_pillar(self, **changes):
        """Give the host its pillar, with changes to its site."""
        self.pillar["sites"][SLUG].update(changes)
        self.controller.pillar(self.name, self.pillar)

    def sh(self, line, check=True, **options):
        """Run a line of shell on the host; returns its output."""
        return self.host.exec(line, check=check, **options).stdout.strip()

    def salt(self, *words, host=None):
        """One salt-ssh command. Returns (exit status, the host's answer)."""
        host = host or self.name
        done = self.controller.salt_ssh(host, *words, "--out=json", "--static")
        try:
            data = json.loads(done.stdout[done.stdout.index("{") :])
        except ValueError:
            return done.returncode, done.stdout + done.stderr
        return done.returncode, data.get(host, data)

    def apply(self, *words):
        """state.apply. Returns the states by id, as (result, changes, comment)."""
        _, states = self.salt("state.apply", *words)
        assert isinstance(states, dict), states
        return {
            f"{state['__id__']}|{state['name']}": (state["result"], state["changes"], state["comment"])
            for state in states.values()
        }

    def deploy(self, sls="deploy", **request):
        """An orchestration. Returns (exit status, everything it printed)."""
        done = self.controller.orchestrate(sls, request or None)
        return done.returncode, done.stdout + done.stderr

    def ask(self, path="/health/", **options):
        """What a visitor gets: (status, body)."""
        return ask(self.host, path, **options)

    def health(self):
        """The site's health: (status code, its `status`)."""
        code, body = self.ask()
        try:
            return code, json.loads(body)["status"]
        except ValueError:
            return code, None

    def state(self):
        """What a refused deploy may not change: releases, links, database, units and when they started."""
        return self.sh(
            f"ls {ROOT}/releases; readlink {ROOT}/current {ROOT}/previous; ls {ROOT}/venvs; "
            f"runuser -u sum-{SLUG} -- psql -qAtc 'SELECT count(*) FROM django_migrations'; "
            "systemctl show -p Id,ActiveEnterTimestampMonotonic 'sum-*'",
            check=False,
        )

    def live(self):
        """The live release's id."""
        return os.path.basename(self.sh(f"readlink {ROOT}/current"))


def _workers():
    """xdist gives its workers ten seconds, and does not tell them; it is they who have the hosts."""
    lists = pathlib.Path("/proc/self/task").glob("*/children")
    return [int(pid) for path in lists for pid in path.read_text().split()]


def pytest_configure(config):
    # A test run that is ended from outside takes its hosts along, as one that ends by itself.
    if hasattr(config, "workerinput"):
        unwind_on_signals()
    else:
        unwind_on_signals(_workers)


@pytest.fixture(scope="session")
def lab():
    with Lab() as lab:
        yield lab


@pytest.fixture(scope="session", autouse=True)
def shared(tmp_path_factory):
    """A folder that all workers of a session have in common. The last of them to end takes their sources down."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    users = folder / "users.json"
    me = str(os.getpid())
    with locked(folder / "users.lock"):
        write(users, json.dumps({**read_json(users), me: True}))
    yield folder
    with locked(folder / "users.lock"):
        left = {user: True for user in read_json(users) if user != me}
        write(users, json.dumps(left))
        for made in () if left else folder.glob("*.source"):
            Lab().down(made.read_text())
            made.unlink()


def _provisioned(lab, release, shared):
    """The session's host of a release, with the site live on v1.0.0 and powered off."""
    made = shared / f"{release}.source"
    if not made.exists() and is_locked(shared / f"{release}.lock"):
        for other in set(RELEASES) - {release}:
            _provision(lab, other, shared)  # who would only wait makes what is asked for next
    _provision(lab, release, shared)
    return lab.get(made.read_text())


def _provision(lab, release, shared):
    """Make the session's host of a release, when nobody has."""
    made = shared / f"{release}.source"
    with locked(shared / f"{release}.lock"):
        if not made.exists():
            name = f"t{os.getpid() % 100000}s-{release[:2]}"
            try:
                world = World(Lab(), name, release, shared / release)
                world.repository.publish(world.host)
                failed = {key: state for key, state in world.apply().items() if state[0] is not True}
                assert not failed, failed
                status, output = world.deploy()
                assert status == 0, output
                # Every minute it would tell what a test breaks; the tests start it themselves.
                world.sh(
                    "mkdir -p /etc/systemd/system/goldenpath-watch.timer.d; printf '[Timer]\\nOnCalendar=\\n"
                    "OnCalendar=yearly\\n' > /etc/systemd/system/goldenpath-watch.timer.d/tests.conf; "
                    "systemctl daemon-reload; systemctl restart goldenpath-watch.timer"
                )
                # What Salt knows of the host it believes for a while, its addresses included.
                world.sh("rm -r /var/lib/goldenpath/thin/running_data/var/cache")
                world.host.shutdown()
                write(made, name)
            except BaseException:
                if name in [host.name for host in lab.hosts()]:
                    lab.down(name)
                raise


def _world(lab, release, shared, folder):
    name = f"t{os.getpid() % 100000}-{release[:2]}"
    try:
        source = _provisioned(lab, release, shared)
        world = World(lab, name, release, folder, source, shared / release / "site")
        # Its workers say that they are there some seconds after the boot.
        assert wait_for(lambda: world.health() == (200, "ok"), 60, pause=0.2), world.ask()
        yield world
    finally:
        if name in [host.name for host in lab.hosts()]:
            lab.down(name)


@pytest.fixture(scope="session")
def bookworm(lab, shared, tmp_path_factory):
    yield from _world(lab, "bookworm", shared, tmp_path_factory.mktemp("bookworm"))


@pytest.fixture(scope="session")
def trixie(lab, shared, tmp_path_factory):
    yield from _world(lab, "trixie", shared, tmp_path_factory.mktemp("trixie"))


@pytest.fixture(params=RELEASES)
def world(request):
    """Each of the two Debian releases, with the site live on v1.0.0."""
    return request.getfixturevalue(request.param)


def turns(fixture, names):
    """Parametrise a test by names, each on one of the two Debian releases in turn.

    fixture
        the fixture that takes the release as its parameter (str)
    names
        the test's parameter `name` (iterable of str)
    """
    pairs = [(RELEASES[at % 2], name) for at, name in enumerate(names)]
    return pytest.mark.parametrize((fixture, "name"), pairs, indirect=[fixture])


# Files run side by side: the longest begin first, so that none is left alone at the end.
LONGEST_FIRST = ("test_zero_downtime", "test_redis", "test_backup", "test_deploy", "test_firewall", "test_site")


def pytest_collection_modifyitems(items):
    order = {name: at for at, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


__all__ = ["DOMAIN", "ROOT", "SLUG", "World"]
