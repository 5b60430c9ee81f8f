"""The history of releases: what survives a power cut, what counts as good, and which dump leads back."""

import pathlib

import pytest
from goldenpath import history as module
from goldenpath.site import Site


@pytest.fixture
def history(site):
    pathlib.Path(site.root, "releases").mkdir(parents=True)
    return module


@pytest.fixture
def tmp_path(site):
    return pathlib.Path(site.root)


def add(history, tmp_path, release, outcome, action="deploy", folder=True, **more):
    record = {"release": release, "outcome": outcome, "action": action, "ref": release, "sha": "1a2b3c4d", **more}
    history.add(acme(tmp_path), record)
    if folder:
        (tmp_path / "releases" / release).mkdir(exist_ok=True)
        (tmp_path / "releases" / release / "release.env").write_text("")
    return record


def acme(folder):
    return Site(folder.name, {})


def test_none_yet(history, tmp_path):
    assert history.read(acme(tmp_path)) == history.good(acme(tmp_path)) == history.since(acme(tmp_path), "a") == []
    assert history.built(acme(tmp_path), "a") is None
    assert history.dump_before(acme(tmp_path), "a") == (False, None)


def test_a_torn_line_is_all_that_is_lost(history, tmp_path):
    first = add(history, tmp_path, "a", "live")
    path = tmp_path / "releases.jsonl"
    with path.open("a") as file:
        file.write('{"release": "torn", "outc')
    assert history.read(acme(tmp_path)) == [first]
    second = add(history, tmp_path, "b", "live")
    assert history.read(acme(tmp_path)) == [first, second]
    assert history.read(acme(tmp_path), 1) == [second]
    assert path.stat().st_mode & 0o777 == 0o644


def test_good(history, tmp_path):
    for release, outcome in (("a", "live"), ("b", "failed"), ("c", "live"), ("e", "live"), ("e", "bad"), ("f", "bad")):
        add(history, tmp_path, release, outcome)
    add(history, tmp_path, "d", "live", folder=False)
    assert history.good(acme(tmp_path)) == ["a", "c"]
    # Live again: it counts as newer.
    add(history, tmp_path, "a", "live", "rollback")
    assert history.good(acme(tmp_path)) == ["c", "a"]
    add(history, tmp_path, "c", "failed")
    assert history.good(acme(tmp_path)) == ["c", "a"], "another try that failed says nothing of the one that was good"


def test_built(history, tmp_path):
    made = add(history, tmp_path, "a", "live")
    add(history, tmp_path, "a", "live", "rollback")
    assert history.built(acme(tmp_path), "a") == made


def test_the_dump_that_leads_back(history, tmp_path):
    add(history, tmp_path, "a", "live")
    add(history, tmp_path, "b", "live", migrations=[], dump=None)
    # Began and finished none: the database is as it was, and its dump leads nowhere.
    add(history, tmp_path, "c", "failed", migrations=[], migrating=True, dump="c.dump")
    assert history.dump_before(acme(tmp_path), "a") == (False, None)
    add(history, tmp_path, "d", "failed", migrations=["m.1"], dump="d.dump")
    add(history, tmp_path, "e", "live", migrations=["m.2"], dump="e.dump")
    assert history.dump_before(acme(tmp_path), "a") == history.dump_before(acme(tmp_path), "b") == (True, "d.dump")
    assert history.dump_before(acme(tmp_path), "e") == (False, None)
    # Live again for a while: from then on only what came later counts.
    add(history, tmp_path, "a", "live", "rollback")
    add(history, tmp_path, "f", "live", migrations=["m.3"], dump="f.dump")
    assert history.dump_before(acme(tmp_path), "a") == (True, "f.dump")
    assert [each["release"] for each in history.since(acme(tmp_path), "a")] == ["f"]
