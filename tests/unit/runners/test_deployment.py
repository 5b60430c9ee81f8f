"""What an orchestration is about to do: the plan, from a roster and pillars, and every reason to refuse."""

import getpass
import hashlib
import pathlib
import re
import socket

import pytest
import salt.config
import salt.fileclient
import salt.fileserver
import salt.loader.lazy
import salt.pillar
import salt.utils.path
import salt.version

from tests.conftest import ROOT
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


def named(host, number):
    """A pillar's text that says whose it is in every way that Jinja has, and one by which a value could stay."""
    return f"""
redis: {{maxmemory: {100 + number}mb}}
sites:
  {host}:
    domains: ["{{{{ opts['id'] }}}}.example", "{{{{ grains['id'] }}}}.example.net"]
    repo: /srv/git/{{{{ salt['grains.get']('id') }}}}.git
    ref: main
    project: acme
    redis: {{cache: 0, broker: 1}}
    env: {{SEEN: "{{{{ pillar.get('sites', {{}}).keys() | join }}}}"}}
    secrets: {{TOKEN: s3cr3t-of-{host}}}
"""


def test_pillars_of_several_hosts_stay_apart(planner):
    """Differing, failing and secret ones in turn: each as by itself, and nothing of another host in it."""
    hosts = {f"w{number}": named(f"w{number}", number) for number in range(4)}
    hosts["w1"] = hosts["w1"].replace("ref: main", "ref: -f")
    # It does not render, and breaks after half of it.
    hosts["w2"] += "{{ nothing.at.all }}"
    hosts["w4"] = ""
    module = planner(hosts)
    order = ["w0", "w1", "w2", "w3", "w4", "w0"]
    alone = {host: module._pillar(host) for host in hosts}
    together = module._pillars(order)
    assert together == alone
    assert [host for host in hosts if "_errors" in together[host]] == ["w1", "w2", "w4"]
    for host, pillar in together.items():
        assert not [other for other in hosts if other != host and re.search(rf"\b{other}\b", repr(pillar))], pillar
    site = together["w3"]["sites"]["w3"]
    assert site["domains"] == ["w3.example", "w3.example.net"] and site["repo"] == "/srv/git/w3.git"
    assert site["env"] == {"SEEN": ""} and site["secrets"] == {"TOKEN": "s3cr3t-of-w3"}
    assert together["w3"]["goldenpath_secrets"] == ["s3cr3t-of-w3"]
    # What one host's pillar is changed by reaches no other.
    together["w0"]["sites"].clear()
    assert together["w3"]["sites"] and module._pillars(["w0"])["w0"] == alone["w0"]


def test_names_of_files_are_looked_up_once_for_all_hosts_and_anew_for_the_next_plan(planner, monkeypatch):
    module = planner({f"w{number}": named(f"w{number}", number) for number in range(3)})
    walked, served = [], []
    walk, serve = salt.utils.path.os_walk, salt.fileserver.FSChan.__init__
    monkeypatch.setattr(salt.utils.path, "os_walk", lambda *args, **more: walked.append(args) or walk(*args, **more))
    monkeypatch.setattr(salt.fileserver.FSChan, "__init__", lambda *args: served.append(args) or serve(*args))
    before = [salt.fileclient.get_file_client, salt.loader.lazy.LazyLoader._refresh_file_mapping,
              salt.pillar.Pillar._Pillar__gather_avail]  # fmt: skip
    module._pillars(["w0", "w1", "w2"])
    assert (len(walked), len(served)) == (1, 0)
    module._pillars(["w0"])
    assert len(walked) == 2
    # Where Salt begins to do that by itself, _controller/plan_3008.py can go.
    module._pillar("w0"), module._pillar("w1")
    assert (len(walked), len(served)) == (4, 2)
    assert before == [salt.fileclient.get_file_client, salt.loader.lazy.LazyLoader._refresh_file_mapping,
                      salt.pillar.Pillar._Pillar__gather_avail]  # fmt: skip


def test_another_salt_plans_in_its_own_way(planner, monkeypatch):
    module = planner({"w0": named("w0", 0)})
    monkeypatch.setattr(salt.version, "__version__", "3009.0")
    served = []
    serve = salt.fileserver.FSChan.__init__
    monkeypatch.setattr(salt.fileserver.FSChan, "__init__", lambda *args: served.append(args) or serve(*args))
    assert "_errors" not in module._pillars(["w0"])["w0"] and len(served) == 1


def test_a_pillar_that_asks_for_a_file_gets_it(planner):
    """The client that no pillar asks for comes to be where one does."""
    text = named("w0", 0) + "\n{% set _ = salt['cp.list_master']() %}\n"
    module = planner({"w0": text, "w1": named("w1", 1)})
    assert module._pillars(["w0", "w1"]) == {host: module._pillar(host) for host in ("w0", "w1")}


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
    module._unfit = lambda hosts, seconds: [f"{host} does not answer. Try: salt {host} test.ping" for host in silent]
    plan = module.plan("deploy", {})
    # Those that were accepted, and no others.
    assert (plan["errors"], plan["hosts"], plan["ssh"]) == ([], {"web1": ["acme-kitchens"]}, False)
    assert module.plan("deploy", {"target": "web2*"})["errors"] == [
        "No host matches 'web2*'. Known: web1. Try: salt-key --list-all"
    ]
    silent.append("web1")
    plan = module.plan("deploy", {})
    assert (plan["errors"], plan["hosts"]) == (["web1 does not answer. Try: salt web1 test.ping"], {})


class Minions:
    """Minions as the master's client sees them: what each answers, and what it has been sent."""

    def __init__(self, shipped, have, deaf=()):
        self.shipped, self.have, self.deaf, self.asked = shipped, have, deaf, []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def cmd(self, hosts, function, arg=(), **options):
        self.asked.append((function, sorted(hosts)))
        if isinstance(function, list):
            return {
                host: {"test.ping": True, "goldenpath.synced": self.have[host]} for host in hosts if host in self.have
            }
        if function == "saltutil.sync_all":
            self.have.update({host: dict(self.shipped) for host in hosts if host not in self.deaf})
        return {}


def unfit(planner, monkeypatch, have, hosts=("web1",), deaf=()):
    module = planner(transport="minion")
    minions = Minions(module._shipped(), have, deaf)
    monkeypatch.setattr(module.salt.client, "get_local_client", lambda **_: minions)
    return module._unfit(hosts, 10), [function for function, _ in minions.asked]


def test_a_minion_with_these_modules_is_asked_once(planner, monkeypatch):
    shipped = {
        f"{path.parent.name[1:]}/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest()
        for kind in ("_modules", "_states") for path in (ROOT / kind).glob("*.py")
    }  # fmt: skip
    have = {"web1": {**shipped, "modules/own.py": "somebody's"}}
    assert unfit(planner, monkeypatch, have) == ([], [["test.ping", "goldenpath.synced"]])


@pytest.mark.parametrize("old", ["'goldenpath.synced' is not available.", {}, {"modules/goldenpath.py": "another"}])
def test_a_minion_with_other_modules_is_sent_these_first(planner, monkeypatch, old):
    found, asked = unfit(planner, monkeypatch, {"web1": old})
    assert found == [] and asked[1:3] == ["saltutil.sync_all", "saltutil.refresh_modules"]


def test_a_minion_that_does_not_take_them_is_named(planner, monkeypatch):
    found, _ = unfit(planner, monkeypatch, {"web1": {}}, ("web1", "web2"), deaf=("web1",))
    assert found == [
        "web2 does not answer. Try: salt web2 test.ping",
        "web1 has the modules of another checkout, and does not take these. Try: salt web1 saltutil.sync_all",
    ]


def test_only_on_a_controller(load):
    assert load("_modules/deployment.py", opts={"ext_pillar": []}).__virtual__() is True
    assert load("_modules/deployment.py", opts={"id": "web1"}).__virtual__()[0] is False


def test_what_a_deploy_may_say_of_migrations(planner):
    module = planner()
    for word in ("refuse", "maintenance", "accept"):
        assert module.plan("deploy", {"migrations": word})["errors"] == []
    assert module.plan("deploy", {"migrations": "ignore"})["errors"] == [
        "migrations: is none of refuse, maintenance, accept. Try: one of them, or leave the key out"
    ]
