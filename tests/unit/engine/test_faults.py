"""A deploy and a rollback that fail, or are killed, at each of their steps: who serves, what is told, what is left."""

import contextlib
import json
import os

import pytest
from goldenpath import lock, preflight
from goldenpath import run as runs
from goldenpath.errors import Failed

from .test_release import SECRET, SLUG, host  # noqa: F401  host is the fixture

BUILDING = ["preflight", "clean", "fetch", "environment", "static", "dump", "migrate"]
SERVING = ["start", "prove", "switch", "front door", "celery", "drain"]
STEPS = [*BUILDING, *SERVING]
# What is done before anything is begun has no record and nothing to undo.
ASKING = ("preflight", "clean")


class Killed(BaseException):
    """The end of a process, of which the code of a deploy catches nothing."""


@pytest.fixture
def ready(host):  # noqa: F811
    """A host with one good release; the next one has migrations."""
    host.deploy("v1")
    host.pending = True
    return host


def at(host, monkeypatch, name, when, fault):  # noqa: F811
    """Let a fault happen in a step: before what it does, or after."""
    real = runs.Run.step

    @contextlib.contextmanager
    def step(run, called):
        with real(run, called):
            if (called, when) == (name, "before"):
                raise fault
            yield
            if (called, when) == (name, "after"):
                raise fault

    monkeypatch.setattr(runs.Run, "step", step)


def healthy(host):  # noqa: F811
    """What holds on each host after the next good deploy, whatever happened before."""
    assert host.up == {host.live}
    told = {record["release"] for record in host.history}
    assert set(host.releases) <= told, "every release that is there is in the history"
    assert not list(host.folder.glob("releases/*/.unfinished"))
    dumps = {str(path) for path in host.folder.glob("backups/*")}
    assert dumps <= {record["dump"] for record in host.history}
    with lock.of_site(host.it, "the test"):
        pass


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", STEPS)
def test_a_deploy_that_fails_in_each_step(ready, monkeypatch, name, when):
    old = ready.live
    with monkeypatch.context() as patched:
        at(ready, patched, name, when, Failed("it broke. Try: this", "a line of a log"))
        with pytest.raises(Failed) as told:
            ready.deploy("v2")
    assert (ready.live, ready.up) == (old, {old})
    if name in ASKING:
        assert str(told.value) == "it broke. Try: this" and len(ready.history) == 1
    else:
        switched = name in SERVING[3:] or (name, when) == ("switch", "after")
        stands = f"Release {old} {'serves again' if switched else 'goes on serving'}"
        assert f"failed at step {name}: it broke. Try: this. {stands}" in str(told.value)
        tail, _, kept = told.value.tail.partition("\nThe whole log: ")
        assert tail == "a line of a log" and (not kept or os.path.exists(kept))
        record = ready.history[-1]
        assert (record["outcome"], record["step"]) == ("bad" if switched else "failed", name)
        # Once migrations have begun, the way back stays, and is told.
        began = STEPS.index(name) >= STEPS.index("migrate")
        assert (
            began
            == (record.get("migrating") is True)
            == (f"the dump from before is {record['dump']}" in str(told.value))
        )
        assert len(list(ready.folder.glob("backups/*"))) == began
    ready.pending = False
    ready.deploy("v3")
    healthy(ready)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", [*STEPS, "prune"])
def test_a_deploy_that_is_killed_in_each_step(ready, monkeypatch, name, when):
    old = ready.live
    with monkeypatch.context() as patched:
        at(ready, patched, name, when, Killed())
        with pytest.raises(Killed):
            ready.deploy("v2")
    switched = name in [*SERVING[3:], "prune"] or (name, when) == ("switch", "after")
    assert (ready.live != old) == switched
    assert ready.live in ready.up, "visitors are served"
    ready.pending = False
    killed = ready.live if switched else None
    third = ready.deploy("v3")["release"]
    healthy(ready)
    assert ready.good()[-1] == third and old in ready.good()
    assert killed is None or killed in ready.good(), "it was proven before it was switched to"
    # What it did to the database is known, and the way back is there: from the dump on that was named.
    moved = [record for record in ready.history if record.get("migrations")]
    assert bool(moved) == ("pages.0002_more" in ready.migrations)
    assert all(ready.folder.joinpath(record["dump"]).exists() for record in moved)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", ["clean", *SERVING])
def test_a_rollback_that_fails_in_each_step(ready, monkeypatch, name, when):
    first, second = ready.live, ready.deploy("v2")["release"]
    with monkeypatch.context() as patched:
        at(ready, patched, name, when, Failed("it broke"))
        told = ready.refused(ready.rollback)
    assert (ready.live, ready.up) == (second, {second})
    assert ready.good() == [first, second], "nothing of it is bad"
    if name != "clean":
        switched = name in SERVING[3:] or (name, when) == ("switch", "after")
        stands = f"Release {second} {'serves again' if switched else 'goes on serving'}."
        assert told == f"The rollback of {SLUG} on web1 to {first} failed at step {name}: it broke. {stands}"
    assert ready.rollback()["release"] == first
    healthy(ready)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", ["clean", *SERVING])
def test_a_rollback_that_is_killed_in_each_step(ready, monkeypatch, name, when):
    first, second = ready.live, ready.deploy("v2")["release"]
    with monkeypatch.context() as patched:
        at(ready, patched, name, when, Killed())
        with pytest.raises(Killed):
            ready.rollback()
    switched = name in SERVING[3:] or (name, when) == ("switch", "after")
    assert ready.live == (first if switched else second) and ready.live in ready.up
    assert (second in ready.good()) != switched, "what was left is not chosen again"
    third = ready.deploy("v3")["release"]
    healthy(ready)
    assert ready.rollback()["release"] == (first if switched else second) < third


@pytest.mark.parametrize("name", ["restore database", *SERVING])
def test_a_rollback_with_its_database_that_fails_in_each_step(ready, monkeypatch, name):
    ready.deploy("v2")
    with monkeypatch.context() as patched:
        at(ready, patched, name, "after", Failed("it broke"))
        told = ready.refused(ready.rollback, restore_database=True)
    assert told.endswith(". The database is back.")
    ended = [event[1] for event in ready.events if event[0] == "exchange"][-1]
    assert ended == "back" and ready.good()[-1] == ready.live


def test_what_nobody_expected_is_one_sentence_and_the_rest_stands_below(ready, monkeypatch):
    at(ready, monkeypatch, "static", "before", ValueError(f"not this\nbut {SECRET} that"))
    with pytest.raises(Failed) as told:
        ready.deploy("v2")
    assert str(told.value).endswith(f"at step static: ValueError: not this. Release {ready.live} goes on serving.")
    assert told.value.tail.splitlines()[0] == "but ********** that"
    assert ready.history[-1]["reason"] == "ValueError: not this"


# The gate comes before everything that a deploy touches.


def test_a_deploy_asks_redis_before_anything_else(ready):
    def refuse(slug):
        raise Failed("Redis on web1 did not answer PONG: connection refused. Try: systemctl status redis-server")

    before = json.dumps(ready.history), list(ready.events), sorted(ready.folder.iterdir())
    ready.patch(preflight, "gate", refuse)
    assert "did not answer PONG" in ready.refused(ready.deploy, "v2")
    assert before == (json.dumps(ready.history), ready.events, sorted(ready.folder.iterdir()))
