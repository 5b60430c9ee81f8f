"""The orchestrations, compiled by Salt with the checkout's configuration, a roster and pillars."""

import json

import pytest

from tests.render.compiler import PILLARS, compile_orchestration, orchestrations, sls_name

HOSTS = {"web1": PILLARS["example"], "web2.example.net": PILLARS["two-sites"], "web3": PILLARS["no-sites"]}
NAMES = [sls_name(path) for path in orchestrations()]


def states(compiled):
    assert compiled.chunks, compiled.faults
    return {chunk["__id__"]: chunk for chunk in compiled.chunks}


@pytest.mark.parametrize("transport", ["ssh", "minion"])
@pytest.mark.parametrize("sls", NAMES)
def test_compiles(sls, transport):
    request = {"target": "web1", "site": "acme-kitchens"}
    compiled = compile_orchestration(sls, request, HOSTS, transport)
    assert compiled.faults == []
    # No minion is accepted here: that it is refused is what compiles then.
    assert (f"{sls}-refused" in compiled.high) == (transport == "minion")


def test_deploy():
    steps = states(compile_orchestration("deploy", {}, HOSTS))
    assert list(steps) == ["deploy-redis-ping", "deploy-release"]
    first, second = steps.values()
    assert (first["state"], first["fun"], first["name"]) == ("salt", "function", "goldenpath.redis_ping")
    assert first["kwarg"] == {"ready": True, "timeout": 1.5, "site": None}
    # web3 has no site: it is not asked.
    assert first["tgt"] == second["tgt"] == ["web1", "web2.example.net"]
    assert (first["ssh"], first["tgt_type"]) == (second["ssh"], second["tgt_type"]) == (True, "list")
    assert second["sls"] == "release"
    assert [dict(each) for each in second["require"]] == [{"salt": "deploy-redis-ping"}]
    assert second["pillar"]["goldenpath_deploy"].keys() == {"who"}


def test_deploy_of_one_site():
    request = {"target": "web*", "site": "b-2", "ref": "v1.5.0", "wait": 5}
    steps = states(compile_orchestration("deploy", request, HOSTS))
    assert steps["deploy-redis-ping"]["tgt"] == steps["deploy-release"]["tgt"] == ["web2.example.net"]
    asked = steps["deploy-release"]["pillar"]["goldenpath_deploy"]
    assert asked.items() >= request.items()


def test_rollback():
    steps = states(compile_orchestration("rollback", {"site": "acme-kitchens", "release": "x"}, HOSTS))
    assert list(steps) == ["rollback-release"]
    step = steps["rollback-release"]
    assert (step["fun"], step["sls"], step["tgt"], step["ssh"]) == ("state", "release.back", ["web1"], True)
    assert step["pillar"]["goldenpath_deploy"]["release"] == "x"


WRONG = {
    '{"targt": "web1"}': "targt: {sls} knows no such key",
    '{"site": 7}': "site: 7 is not text, in quotes",
    '{"site": " "}': "site: is empty",
    '{"wait": true}': "wait: True is not a whole number",
    '{"target": "db*"}': "No host matches 'db*'. Known: web1, web2.example.net, web3. Try: config/roster",
    '{"site": "gone"}': "No host that matches '*' has the site gone. Known: acme, acme-kitchens, b-2.",
    '{"target": "web3"}': "No host that matches 'web3' has a site. Known: none.",
}


def test_a_rollback_is_for_one_site():
    (step,) = states(compile_orchestration("rollback", {}, HOSTS)).values()
    assert step["comment"] == (
        "A rollback is for one site, and this one would be for web1: acme-kitchens; web2.example.net: acme, b-2. "
        "Try: name it by `target` and `site`"
    )


@pytest.mark.parametrize(("sls", "request_"), [*(("deploy", each) for each in WRONG), ("rollback", '{"ref": "v1"}')])
def test_refused(sls, request_):
    steps = states(compile_orchestration(sls, json.loads(request_), HOSTS))
    assert list(steps) == [f"{sls}-refused"]
    (step,) = steps.values()
    assert (step["state"], step["fun"]) == ("test", "fail_without_changes")
    assert step["comment"].startswith(WRONG.get(request_, "ref: rollback knows no such key").format(sls=sls))
    assert "\n" not in step["comment"]


@pytest.mark.parametrize("sls", ["deploy", "rollback"])
def test_a_wrong_pillar_is_refused_with_every_fault(sls):
    hosts = {**HOSTS, "web1": {"redis": {"enabled": False}, "sites": {}, "color": "red"}, "web4": ""}
    (step,) = states(compile_orchestration(sls, {}, hosts)).values()
    assert step["fun"] == "fail_without_changes"
    faults = step["comment"].splitlines()
    assert [": ".join(fault.split(": ")[:2]).split(":redis")[0] for fault in faults][:1] == ["web1: color"]
    assert [fault.split(":")[0] for fault in faults] == ["web1", "web1", "web4 has no pillar"]
    assert "required" in faults[1]
