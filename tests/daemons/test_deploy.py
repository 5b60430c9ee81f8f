"""The deploy orchestration by a real master and a real minion, with a real Redis that is up, and that is down."""

import json
import os
import re

import pytest

from tests.daemons.conftest import MINION, PILLAR, SLUG


def sentence(redis):
    return (
        f"Redis on {MINION} did not answer PONG: connection refused on 127.0.0.1:{redis.port}. "
        "Try: systemctl status redis-server"
    )


def steps(told):
    """The orchestration's steps by id, from its JSON."""
    (states,) = json.loads(told)["data"].values()
    return {state["__id__"]: state for state in states.values()}


def untouched():
    return not os.path.exists(f"/srv/sum/{SLUG}")


@pytest.fixture(autouse=True)
def _nothing_of_the_machine_changes():
    folder = os.path.exists("/srv/sum")
    yield
    assert untouched()
    assert os.path.exists("/srv/sum") == folder


# Redis down


def test_ping_of_a_redis_that_is_down(controller, redis_down):
    status, told = controller.salt("goldenpath.redis_ping")
    assert status != 0
    assert told.count(sentence(redis_down)) == 1


def test_deploy_stops_at_step_one(controller, redis_down):
    status, told = controller.orchestrate()
    assert status == 1
    assert told.count(sentence(redis_down)) == 1, told


def test_no_later_step_is_run(controller, redis_down):
    status, told = controller.orchestrate("--out=json")
    assert status == 1
    found = steps(told)
    assert list(found) == ["deploy-redis-ping", "deploy-release"]
    assert found["deploy-redis-ping"]["result"] is False
    assert (found["deploy-release"]["result"], found["deploy-release"]["__state_ran__"]) == (False, False)


def test_the_host_asks_again_itself(controller, redis_down):
    """`release` applied without the orchestration stops at Redis as well."""
    status, told = controller.salt("state.apply", "release", "--out=json")
    assert status != 0
    states = {state["__id__"]: state for state in json.loads(told)[MINION].values()}
    assert states["release-redis-ping"]["comment"] == sentence(redis_down)
    assert f"release-{SLUG}" not in states or not states[f"release-{SLUG}"]["__state_ran__"]


# Redis up


def test_pong(controller, redis_up):
    status, told = controller.salt("goldenpath.redis_ping", "--out=json")
    assert (status, json.loads(told)) == (0, {MINION: "PONG"})


def _told_by_a_bare_redis(comment):
    faults = comment.splitlines()
    assert f"Redis on {MINION}: it has no memory limit (maxmemory 0). Try: salt {MINION} state.apply redis" in faults
    assert all(re.match(rf"Redis on {re.escape(MINION)}: .*\. Try: ", fault) for fault in faults)


def test_a_redis_that_cannot_carry_sites_stops_step_one(controller, redis_up):
    """PONG is not enough: step one tells all that this machine's Redis lacks."""
    status, told = controller.orchestrate("--out=json")
    assert status == 1
    found = steps(told)
    assert found["deploy-redis-ping"]["result"] is False
    _told_by_a_bare_redis(found["deploy-redis-ping"]["changes"]["ret"][MINION])
    assert (found["deploy-release"]["result"], found["deploy-release"]["__state_ran__"]) == (False, False)


def test_the_host_asks_for_more_than_pong_itself(controller, redis_up):
    status, told = controller.salt("state.apply", "release", "--out=json")
    assert status != 0
    states = {state["__id__"]: state for state in json.loads(told)[MINION].values()}
    assert states["release-redis-ping"]["comment"] == "PONG"
    assert states["release-redis-ready"]["result"] is False
    _told_by_a_bare_redis(states["release-redis-ready"]["comment"])
    assert f"release-{SLUG}" not in states or not states[f"release-{SLUG}"]["__state_ran__"]


def test_a_site_that_is_not_provisioned(controller, redis_up):
    status, told = controller.salt("state.single", "release.deployed", f"name={SLUG}", "--out=json")
    assert status != 0
    (state,) = json.loads(told)[MINION].values()
    assert state["comment"] == (
        f"{MINION} has no engine yet: there is no /opt/goldenpath/goldenpath. Try: salt {MINION} state.apply"
    )
    assert (state["result"], state["changes"]) == (False, {})


# What is refused before the host is asked

WRONG = {
    '{"target": "gone*"}': f"No host matches 'gone*'. Known: {MINION}. Try: salt-key --list-all",
    '{"site": "gone"}': f"No host that matches '*' has the site gone. Known: {SLUG}.",
    '{"targt": "web1"}': "targt: deploy knows no such key. Try one of: ",
}


@pytest.mark.parametrize("request_", WRONG)
def test_a_wrong_request(controller, redis_down, request_):
    status, told = controller.orchestrate(f"pillar={request_}")
    assert status == 1
    assert told.count(WRONG[request_]) == 1, told
    assert "redis" not in told.lower(), "nobody was asked"


def test_a_wrong_pillar(controller, pillar, redis_up):
    pillar({**PILLAR, "redis": {"enabled": False}, "colour": "red"})
    status, told = controller.orchestrate()
    assert status == 1
    for fault in ("colour: ", "redis:enabled: "):
        assert len(re.findall(rf"(?<!\S){fault}", told)) == 1, told
    assert "required" in told


def test_a_wrong_pillar_on_the_host(controller, pillar, redis_up):
    """Salt refuses by itself, before it renders a state."""
    pillar({**PILLAR, "colour": "red"})
    status, told = controller.salt("state.apply", "release")
    assert status != 0
    assert told.count("colour: ") == 1, told
    assert "release-redis-ping" not in told


@pytest.mark.parametrize("text", ["", "redis: [\n"])
def test_a_pillar_that_says_nothing_or_is_no_yaml(controller, pillar, redis_up, text):
    pillar(text)
    status, told = controller.orchestrate()
    assert status == 1
    assert "web1_example_net" in told, told
