"""What an orchestration is about to do: the plan, from a roster and pillars, and every reason to refuse."""

import getpass
import pathlib
import re
import socket

import pytest
import salt.config

from tests.render.compiler import PILLARS, configuration

HOSTS = {"web1": PILLARS["example"], "web2.example.net": PILLARS["two-sites"], "db1": PILLARS["no-sites"]}


@pytest.fixture
def planner(load, tmp_path):
    """The module with a controller's configuration."""

    def make(hosts=HOSTS, transport="ssh"):
        watched = []
        config = configuration(tmp_path / "controller", hosts, goldenpath={"transport": transport})
        module = load(
            "_modules/deployment.py",
            opts=salt.config.master_config(str(config)),
            salt={"screen.watch": lambda *words: watched.append(words)},
        )
        module.watched = watched
        return module

    (tmp_path / "controller").mkdir()
    return make


def test_everything(planner):
    module = planner()
    plan = module.plan("deploy", {})
    assert plan == {
        # A host without a site has nothing to release.
        "hosts": {"web1": ["acme-kitchens"], "web2.example.net": ["acme", "b-2"]},
        "errors": [],
        "ssh": True,
        "request": {"who": f"{getpass.getuser()}@{socket.gethostname()}"},
    }
    assert [list(hosts) for hosts, _ in module.watched] == [["web1", "web2.example.net"]]


@pytest.mark.parametrize(
    ("request_", "hosts"),
    [
        ({"target": "web1"}, {"web1": ["acme-kitchens"]}),
        ({"target": "web*"}, {"web1": ["acme-kitchens"], "web2.example.net": ["acme", "b-2"]}),
        ({"target": "*.example.net"}, {"web2.example.net": ["acme", "b-2"]}),
        ({"site": "b-2"}, {"web2.example.net": ["b-2"]}),
        ({"target": "web*", "site": "acme-kitchens"}, {"web1": ["acme-kitchens"]}),
    ],
)
def test_narrowed(planner, request_, hosts):
    plan = planner().plan("deploy", request_)
    assert (plan["hosts"], plan["errors"]) == (hosts, [])
    assert plan["request"].items() >= request_.items()


@pytest.mark.parametrize(
    ("action", "request_", "errors"),
    [
        ("deploy", {"targt": "web1"}, ["targt: deploy knows no such key. Try one of: "]),
        ("rollback", {"ref": "v1"}, ["ref: rollback knows no such key. Try one of: "]),
        ("deploy", {"ref": 1.10}, ["ref: 1.1 is not text, in quotes"]),
        ("deploy", {"site": ["a"]}, ["site: ['a'] is not text, in quotes"]),
        ("deploy", {"wait": "5"}, ["wait: '5' is not a whole number"]),
        ("deploy", {"wait": True}, ["wait: True is not a whole number"]),
        ("deploy", {"ref": ""}, ["ref: is empty. Try: name one, or leave the key out"]),
        ("deploy", {"ref": 1, "site": " ", "x": 1}, [
            "ref: 1 is not text, in quotes", "site: is empty. Try: name one, or leave the key out",
            "x: deploy knows no such key. Try one of: ",
        ]),
        ("deploy", {"target": "gone*"}, [
            "No host matches 'gone*'. Known: db1, web1, web2.example.net. Try: config/roster",
        ]),
        ("deploy", {"site": "gone"}, [
            "No host that matches '*' has the site gone. Known: acme, acme-kitchens, b-2. "
            "Try: name it under `sites:` in pillar/hosts",
        ]),
        ("deploy", {"target": "db1"}, [
            "No host that matches 'db1' has a site. Known: none. Try: name it under `sites:` in pillar/hosts",
        ]),
    ],
)  # fmt: skip
def test_refused(planner, action, request_, errors):
    module = planner()
    plan = module.plan(action, request_)
    # What else an action knows may grow.
    assert [re.sub(r"(?<=Try one of: ).*", "", error) for error in plan["errors"]] == errors
    assert plan["hosts"] == {}
    assert module.watched == []


def test_an_empty_roster(planner):
    assert planner({}).plan("deploy", {})["errors"] == ["No host matches '*'. Known: none. Try: config/roster"]


def test_one_wrong_pillar_refuses_all(planner):
    """Every fault of every host at once, also of hosts that the deploy is for only by the way."""
    hosts = {
        **HOSTS,
        "web1": {"redis": {"enabled": False}, "sites": {"A": {}}},
        "web2.example.net": "",
    }
    plan = planner(hosts).plan("deploy", {"site": "acme"})
    assert plan["hosts"] == {}
    text = "\n".join(plan["errors"])
    assert "redis:enabled" in text or "redis: " in text
    assert "web2.example.net has no pillar: pillar/hosts/web2_example_net.sls" in text
    assert len(plan["errors"]) >= 3


def test_a_wrong_pillar_of_another_host_is_none_of_its_business(planner):
    plan = planner({**HOSTS, "db1": ""}).plan("deploy", {"target": "web1"})
    assert (plan["errors"], plan["hosts"]) == ([], {"web1": ["acme-kitchens"]})


def test_secrets_are_not_in_the_plan(planner):
    assert "s3cr3t" not in repr(planner().plan("deploy", {}))


def test_minions(planner):
    module = planner(transport="minion")
    keys = pathlib.Path(module.__opts__["pki_dir"])
    for name, id_ in (("minions", "web1"), ("minions_pre", "web2.example.net")):
        (keys / name).mkdir(parents=True)
        (keys / name / id_).write_text("key")
    silent = []
    module._silent = lambda hosts, seconds: silent
    plan = module.plan("deploy", {})
    # Those that were accepted, and no others.
    assert (plan["errors"], plan["hosts"], plan["ssh"]) == ([], {"web1": ["acme-kitchens"]}, False)
    assert module.plan("deploy", {"target": "web2*"})["errors"] == [
        "No host matches 'web2*'. Known: web1. Try: salt-key --list-all"
    ]
    silent.append("web1")
    plan = module.plan("deploy", {})
    assert (plan["errors"], plan["hosts"]) == (["web1 does not answer. Try: salt web1 test.ping"], {})


def test_only_on_a_controller(load):
    assert load("_modules/deployment.py", opts={"ext_pillar": []}).__virtual__() is True
    assert load("_modules/deployment.py", opts={"id": "web1"}).__virtual__()[0] is False
