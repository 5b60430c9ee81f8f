"""The engine as a host has it: imported from the tree, with all its folders below one of the test's own."""

import json
import os
import pathlib
import sys

import pytest

LIBRARY = pathlib.Path(__file__).resolve().parents[3] / "salt/host/files/lib"
sys.path.insert(0, str(LIBRARY))

from goldenpath import host as hosts  # noqa: E402
from goldenpath import lock, units  # noqa: E402
from goldenpath import site as sites  # noqa: E402

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
        ("HOST", etc / "host.json"),
        ("BACKUP", etc / "backup.json"),
    ):
        monkeypatch.setattr(hosts, name, str(value))
    monkeypatch.setattr(sites, "SRV", str(top / "srv/sum"))
    monkeypatch.setattr(lock, "BACKUPS", str(top / "run/backup.lock"))
    monkeypatch.setattr(units, "UNITS", str(top / "etc/systemd"))
    (etc / "host.json").write_text('{"host": "web1", "salt": "salt-ssh"}')
    return top


@pytest.fixture
def site(paths):
    """The example site's facts, as a run with its pillar gives them; its folder is not there yet."""
    return sites.Site(SLUG, example_pillar()["sites"][SLUG])
