"""What a person sees at a glance."""

import os
import pathlib

import pytest
from goldenpath import facts, files, history, host, journal, text, units
from goldenpath import site as sites

RELEASE = "20261123T221500-1a2b3c4d"


@pytest.fixture
def acme(request, monkeypatch):
    request.getfixturevalue("host")
    site = sites.load("acme")
    monkeypatch.setattr(units, "unsettled", lambda site: ["enable a.service", "start sum-acme-celery.service"])
    return site


def live(site):
    pathlib.Path(site.release(RELEASE)).mkdir(parents=True)
    files.link(f"releases/{RELEASE}", site.path("current"))
    record = {"release": RELEASE, "action": "deploy", "ref": "v1.4", "outcome": "live", "when": text.now()}
    history.add(site, record)


def test_before_the_first_release(acme):
    assert facts.gather()["acme"]["live"] is None
    assert facts.table(facts.gather()).splitlines()[1].endswith("not deployed yet")


def test_what_is_wrong_is_said_with_what_to_type(acme):
    live(acme)
    journal.record("acme", good={"at": text.now()}, drilled=None)
    acme.maintenance_on(sites.OPERATOR)
    files.write_json(journal.path(acme), {"phase": "stopped"})
    found = facts.gather()["acme"]
    assert (found["live"], found["ref"], found["down"]) == (RELEASE, "v1.4", ["sum-acme-celery.service"])
    head, line = facts.table({"acme": found}).splitlines()
    assert head.split()[:3] == ["SITE", "RELEASE", "REF"]
    for words in ("v1.4", "never", "systemctl start sum-acme-celery.service", "goldenpath maintenance acme off",
                  "systemctl status goldenpath-heal"):  # fmt: skip
        assert words in line


def test_all_is_well(acme, monkeypatch):
    live(acme)
    monkeypatch.setattr(units, "unsettled", lambda site: [])
    assert facts.table(facts.gather()).splitlines()[1].endswith("  up")
    assert os.path.isdir(host.SITES)
