"""The engine as a host has it: imported from the tree, with all its folders below one of the test's own."""

import json
import os
import pathlib
import sys
from types import SimpleNamespace

import pytest

LIBRARY = pathlib.Path(__file__).resolve().parents[3] / "salt/host/files/lib"
sys.path.insert(0, str(LIBRARY))

from goldenpath import files, health, lock, postgres, process, repository, sandbox, units  # noqa: E402
from goldenpath import host as hosts  # noqa: E402
from goldenpath import site as sites  # noqa: E402

from .backups import CONFIG  # noqa: E402

SLUG = "acme-kitchens"


def example_pillar():
    """The pillar that is shown to operators; under a Python without Salt it comes as a file (tests/pythons.py)."""
    if path := os.environ.get("GOLDENPATH_EXAMPLE"):
        return json.loads(pathlib.Path(path).read_text())
    from tests.conftest import example_pillar as compiled

    return compiled()


@pytest.fixture(autouse=True)
def paths(tmp_path_factory, monkeypatch):
    """Nothing of this machine is read or written."""
    top = tmp_path_factory.mktemp("host")
    etc = top / "etc/goldenpath"
    etc.mkdir(parents=True)
    for name, value in (
        ("ETC", etc),
        ("STATE", top / "var/lib/goldenpath"),
        ("RUN", top / "run/goldenpath"),
        ("SITES", etc / "sites"),
        ("REPOSITORIES", etc / "repositories"),
        ("HOST", etc / "host.json"),
        ("BACKUP", etc / "backup.json"),
    ):
        monkeypatch.setattr(hosts, name, str(value))
    monkeypatch.setattr(sites, "SRV", str(top / "srv/sum"))
    monkeypatch.setattr(lock, "BACKUPS", str(top / "run/backup.lock"))
    monkeypatch.setattr(units, "UNITS", str(top / "etc/systemd"))
    (etc / "host.json").write_text('{"host": "web1", "salt": "salt-ssh"}')
    return top


@pytest.fixture(autouse=True)
def unboxed(monkeypatch):
    """
    A site's programs run as the current user and in no unit: systemd makes the sandbox, which the host tests look at.
    """

    def run(site, argv, env=None, cwd="/", timeout=900, text=None, feed=None, log=None, more=()):
        done = process.run(argv, env=env, cwd=cwd, timeout=timeout, text=text, feed=feed)
        if log:
            process.note(log, argv, done.output)
        return done

    monkeypatch.setattr(sandbox, "run", run)


@pytest.fixture
def site(paths):
    """The example site's facts, as a run with its pillar gives them; its folder is not there yet."""
    return sites.Site(SLUG, example_pillar()["sites"][SLUG])


# Backups.


@pytest.fixture
def host(paths, monkeypatch):
    """A host with backups and one site, acme."""
    monkeypatch.setattr(repository, "KNOWN", str(paths / "var/lib/goldenpath/backup/repository.state"))
    monkeypatch.setattr(repository, "CACHE", str(paths / "cache"))
    monkeypatch.setattr(repository, "WAIT", 0)
    os.makedirs(hosts.SITES)
    pathlib.Path(hosts.SITES, "acme.json").write_text('{"slug": "acme", "domains": ["acme.example"]}')
    pathlib.Path(hosts.BACKUP).write_text(json.dumps(CONFIG))
    (paths / "srv/sum/acme/backups").mkdir(parents=True)
    (paths / "run").mkdir()
    return paths


@pytest.fixture
def owner(monkeypatch):
    """The numbers of the site's user, and to whom files were given."""
    given = []
    monkeypatch.setattr(sites.pwd, "getpwnam", lambda name: SimpleNamespace(pw_uid=4711, pw_gid=4712))
    monkeypatch.setattr(files.os, "fchown", lambda fd, *numbers: given.append(numbers))
    return given


@pytest.fixture
def steps(host, monkeypatch):
    """What a heal does to Postgres and systemd, in order; databases are a set of names."""
    done, databases = [], set()
    monkeypatch.setattr(postgres, "exists", lambda name: name in databases)
    monkeypatch.setattr(postgres, "drop", lambda name: (databases.discard(name), done.append(f"drop {name}"))[1])
    monkeypatch.setattr(postgres, "swap", lambda site, back=False: done.append(f"swap back={back}"))
    for module, name in ((units, "halt"), (units, "resume"), (health, "prove"), (health, "front")):
        monkeypatch.setattr(module, name, lambda *_, name=name, **__: done.append(name))
    (host / "srv/sum/acme/media").mkdir()
    return host / "srv/sum/acme", databases, done
