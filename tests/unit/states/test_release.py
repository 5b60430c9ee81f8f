"""The states over releases: what they answer, and that a dry run changes nothing."""

import pytest
from salt.exceptions import CommandExecutionError

SLUG = "acme-kitchens"
DONE = {
    "release": "new", "before": "old", "ref": "v2", "sha": "1a2b3c4d" + "0" * 32, "environment": "built",
    "migrations": [], "dump": None, "seconds": 12.3, "steps": {"fetch": 0.1}, "notes": ["a remark"], "moved": [],
}  # fmt: skip


class World:
    """The state module; what the execution module answers is set by each test."""

    def __init__(self, load, site):
        self.calls = []
        self.site = site
        self.state = load("_states/release.py", pillar={"sites": {SLUG: site}})
        for name, answer in (("deploy", DONE), ("rollback", DONE), ("settle", []), ("unsettled", [])):
            self.answers(name, answer)

    def answers(self, name, answer):
        def function(*args):
            self.calls.append((name, *args))
            if isinstance(answer, Exception):
                raise answer
            return answer

        self.state.__salt__[f"release.{name}"] = function


@pytest.fixture
def world(load, site):
    return World(load, site)


def test_deployed(world):
    ret = world.state.deployed(SLUG, "v2", "somebody", 5)
    assert world.calls == [("deploy", SLUG, world.site, "v2", "somebody", 5, None)]
    assert ret["result"] is True
    assert ret["changes"]["release"] == {"old": "old", "new": "new"}
    assert ret["comment"] == f"v2 (1a2b3c4d) is live on {SLUG} after 12.3 s\na remark"


def test_rolled_back(world):
    ret = world.state.rolled_back(SLUG, "x")
    # What it passes on may grow.
    assert [call[:6] for call in world.calls] == [("rollback", SLUG, world.site, "x", "unknown", 0)]
    assert (ret["result"], ret["changes"]["release"]) == (True, {"old": "old", "new": "new"})
    assert ret["comment"].splitlines()[0].endswith("the database has not moved since")


def test_rolled_back_tells_how_far_the_database_has_moved(world):
    world.answers("rollback", {**DONE, "moved": ["pages.0002", "pages.0003"]})
    assert "by 2 migrations: pages.0002, pages.0003" in world.state.rolled_back(SLUG)["comment"]


@pytest.mark.parametrize(
    ("function", "comment"),
    [("deployed", "v1.4.2 would be released"), ("rolled_back", "would go back to its last good release")],
)
def test_test_true_changes_nothing(world, function, comment):
    world.state.__opts__["test"] = True
    ret = getattr(world.state, function)(SLUG)
    assert (ret["result"], ret["changes"]) == (None, {})
    assert comment in ret["comment"]
    assert world.calls == []


@pytest.mark.parametrize(
    ("function", "module"),
    [("deployed", "deploy"), ("rolled_back", "rollback"), ("live", "settle"), ("mod_watch", "settle")],
)
def test_a_failure_is_one_sentence(world, function, module):
    world.answers(module, CommandExecutionError("The deploy failed. Try: x"))
    ret = getattr(world.state, function)(SLUG)
    # For `live`: Salt would call mod_watch next, whose result takes the place of this one.
    assert ret.pop("skip_watch", function != "live") is True
    assert ret == {"name": SLUG, "result": False, "changes": {}, "comment": "The deploy failed. Try: x"}


@pytest.mark.parametrize("function", ["deployed", "rolled_back", "live", "mod_watch"])
@pytest.mark.parametrize("pillar", [{}, {"sites": {}}, {"sites": {"other": {}}}])
def test_an_unknown_site(world, function, pillar):
    world.state.__pillar__ = pillar
    ret = getattr(world.state, function)(SLUG)
    assert (ret["result"], ret["changes"]) == (False, {})
    assert ret["comment"] == f"web1 has no site {SLUG}. Try: name it under `sites:` in pillar/hosts"
    assert world.calls == []


@pytest.mark.parametrize("test", [True, False])
def test_live_with_nothing_to_do(world, test):
    world.state.__opts__["test"] = test
    assert world.state.live(SLUG) == {
        "name": SLUG, "result": True, "changes": {}, "comment": f"The live release of {SLUG} is up",
    }  # fmt: skip
    assert world.calls == [("unsettled", SLUG, world.site) if test else ("settle", SLUG, world.site, False)]


def test_live_settles(world):
    world.answers("unsettled", ["start a"])
    world.answers("settle", ["start a"])
    world.state.__opts__["test"] = True
    assert (world.state.live(SLUG)["result"], world.calls[-1][0]) == (None, "unsettled")
    world.state.__opts__["test"] = False
    ret = world.state.live(SLUG)
    assert (ret["result"], ret["changes"], world.calls[-1][0]) == (True, {SLUG: ["start a"]}, "settle")


def test_a_watched_file_restarts(world):
    world.answers("settle", ["restart a"])
    ret = world.state.mod_watch(SLUG, sfun="live", __reqs__={})
    assert world.calls == [("settle", SLUG, world.site, True)]
    assert ret["changes"] == {SLUG: ["restart a"]}


@pytest.mark.parametrize("test", [True, False])
def test_retired(world, test):
    retired = []
    world.state.__opts__ = {"test": test}
    world.state.__salt__["release.strangers"] = lambda sites: ["old"] if sites == [SLUG] else []
    world.state.__salt__["release.retire"] = lambda slug: retired.append(slug) or ["a.service"]
    ret = world.state.retired("sites", [SLUG])
    assert (ret["result"], list(ret["changes"]), retired) == ((None, ["old"], []) if test else (True, ["old"], ["old"]))
    assert "/srv/sum/old and the database sum-old stay" in ret["comment"]
    assert world.state.retired("sites", [])["changes"] == {}
