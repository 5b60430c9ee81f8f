"""Real connections to listeners on this machine, with a roster or minions that name it."""

import errno
import fnmatch
import json
import pathlib
import socket
import subprocess
import sys
import threading
import time

import pytest
import salt.config

from _runners import goldenpath


@pytest.fixture
def listen():
    """Ports of 127.0.0.1: listen() answers, listen(False) refuses."""
    sockets = []

    def take(answers=True):
        taken = socket.create_server(("127.0.0.1", 0)) if answers else socket.socket()
        if not answers:
            taken.bind(("127.0.0.1", 0))
        sockets.append(taken)
        return taken.getsockname()[1]

    yield take
    for each in sockets:
        each.close()


@pytest.fixture
def roster(tmp_path):
    def write(**hosts):
        (tmp_path / "roster").write_text(json.dumps(hosts))

    write()
    return write


@pytest.fixture
def opts(tmp_path, roster):
    opts = salt.config.master_config(None)
    opts.update(root_dir=str(tmp_path), cachedir=str(tmp_path / "cache"), extension_modules=str(tmp_path / "ext"))
    return {**opts, "roster_file": str(tmp_path / "roster"), "goldenpath": {"transport": "ssh"}}


@pytest.fixture
def configure_loader_modules(opts):
    return {goldenpath: {"__opts__": opts, "__context__": {}}}


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(goldenpath, "TIMEOUT", 0.5)


def ports(monkeypatch, opened, closed):
    monkeypatch.setattr(goldenpath, "OPEN", opened)
    monkeypatch.setattr(goldenpath, "CLOSED", closed)


def test_nothing_exposed(monkeypatch, listen, roster):
    ssh, web, redis = listen(), listen(), listen(False)
    ports(monkeypatch, {web: "https"}, {redis: "redis"})
    roster(web1={"host": "127.0.0.1", "port": ssh})
    found = goldenpath.exposed()
    assert found["retcode"] == 0 and found["faults"] == []
    assert goldenpath.__context__["retcode"] == 0
    assert found["hosts"]["web1"]["addresses"] == ["127.0.0.1"]
    assert {each["port"]: (each["service"], each["state"], each["ok"]) for each in found["hosts"]["web1"]["ports"]} == {
        ssh: ("ssh", "open", True),
        web: ("https", "open", True),
        redis: ("redis", "refused", True),
    }


def test_redis_exposed_on_one_of_two_hosts(monkeypatch, listen, roster):
    ssh, redis = listen(), listen()
    ports(monkeypatch, {}, {redis: "redis"})
    roster(web1={"host": "127.0.0.1", "port": ssh}, web2={"host": "127.0.0.2", "port": ssh})
    found = goldenpath.exposed()
    assert found["retcode"] == 1 and goldenpath.__context__["retcode"] == 1
    assert found["faults"] == [
        f"web1 answers from outside on port {redis} (redis) of 127.0.0.1. Try: salt-ssh web1 state.apply firewall"
    ]


def test_target_narrows(monkeypatch, listen, roster):
    ssh, redis = listen(), listen()
    ports(monkeypatch, {}, {redis: "redis"})
    roster(web1={"host": "127.0.0.1", "port": ssh}, db1={"host": "127.0.0.2", "port": ssh})
    assert list(goldenpath.exposed("web*")["hosts"]) == ["web1"]


def test_ssh_port_of_the_roster_may_be_open(monkeypatch, listen, roster):
    ssh = listen()
    ports(monkeypatch, {}, {ssh: "app server"})
    roster(web1={"host": "127.0.0.1", "port": ssh})
    assert goldenpath.exposed()["retcode"] == 0


def test_closed_web_is_no_fault(monkeypatch, listen, roster):
    ssh, web = listen(), listen(False)
    ports(monkeypatch, {web: "https"}, {})
    roster(web1={"host": "127.0.0.1", "port": ssh})
    assert goldenpath.exposed()["retcode"] == 0


def test_host_that_cannot_be_resolved(monkeypatch, listen, roster, opts):
    ssh = listen()
    ports(monkeypatch, {}, {})
    roster(web1={"host": "no-such-host.invalid"}, web2={"host": "127.0.0.1", "port": ssh})
    found = goldenpath.exposed()
    assert found["retcode"] == 1
    assert len(found["faults"]) == 1
    assert found["faults"][0].startswith("web1 cannot be resolved: no-such-host.invalid: ")
    assert found["faults"][0].endswith(f"Try: cat {opts['roster_file']}")
    assert found["hosts"]["web2"]["ports"][0]["state"] == "open"


def test_host_that_answers_nowhere(monkeypatch, roster):
    async def connect(address, port):
        raise OSError(113, "No route to host") if port == 22 else TimeoutError

    ports(monkeypatch, {}, {6379: "redis"})
    monkeypatch.setattr(goldenpath.asyncio, "open_connection", connect)
    roster(web1={"host": "192.0.2.1"})
    found = goldenpath.exposed()
    assert found["retcode"] == 1
    assert found["faults"] == ["web1 answers on no port of 192.0.2.1. Try: salt-ssh web1 test.ping"]
    assert [each["state"] for each in found["hosts"]["web1"]["ports"]] == ["unreachable", "filtered"]


@pytest.mark.parametrize(
    ("hosts", "known"),
    [({"web1": {"host": "127.0.0.1"}, "web2": {"host": "127.0.0.1"}}, "web1, web2"), ({}, "none")],
)
def test_target_that_matches_nothing(roster, opts, hosts, known):
    roster(**hosts)
    found = goldenpath.exposed("db*")
    assert found == {
        "hosts": {},
        "remarks": [],
        "faults": [f"No host matches 'db*'. Known: {known}. Try: cat {opts['roster_file']}"],
        "retcode": 1,
    }


def test_roster_that_is_missing(opts, tmp_path):
    (tmp_path / "roster").unlink()
    assert goldenpath.exposed()["faults"] == [f"No host matches '*'. Known: none. Try: cat {opts['roster_file']}"]


def test_roster_with_a_bad_port(roster):
    roster(web1={"host": "127.0.0.1", "port": "ssh"})
    found = goldenpath.exposed()
    assert found["retcode"] == 1 and found["faults"][0].startswith("The hosts cannot be listed: ")


def test_all_connections_at_once(monkeypatch, roster):
    ports(monkeypatch, {}, dict.fromkeys(range(20000, 20040), "x"))
    monkeypatch.setattr(goldenpath, "TIMEOUT", 0.4)

    async def never(*_):
        await goldenpath.asyncio.sleep(60)

    monkeypatch.setattr(goldenpath.asyncio, "open_connection", never)
    roster(**{f"web{number}": {"host": f"127.0.0.{number}"} for number in range(1, 11)})
    started = time.monotonic()
    found = goldenpath.exposed()
    assert time.monotonic() - started < 3  # seconds; one after the other would be 160
    assert all(each["state"] == "filtered" for host in found["hosts"].values() for each in host["ports"])


# ---- what hosts tell over ssh of their further addresses


@pytest.fixture
def told(monkeypatch):
    """Hosts that answer to ssh, with what they tell."""
    told = {}

    async def there(hosts):
        return list(told)

    def ask(ids, function, arguments):
        assert (ids, function, arguments) == (list(told), "grains.item", ["ipv4", "ipv6"])
        return told

    monkeypatch.setattr(goldenpath, "_ssh_answers", there)
    monkeypatch.setattr(goldenpath, "_ask", ask)
    monkeypatch.setattr(goldenpath.salt.utils.network, "ip_addrs", lambda **_: ["172.17.0.1"])
    return told


@pytest.mark.parametrize(
    ("host", "grains", "tried"),
    [
        # A host behind its provider's address translation: its private address means nothing here.
        ("198.51.100.7", {"ipv4": ["10.0.0.5"], "ipv6": ["fe80::1"]}, ["198.51.100.7"]),
        (
            "198.51.100.7",
            {"ipv4": ["10.0.0.5", "93.184.216.34"], "ipv6": ["fe80::1", "2606:2800:220:1::1"]},
            ["198.51.100.7", "93.184.216.34", "2606:2800:220:1::1"],
        ),
        # A host on this machine's own network; its Docker has the same address as the one here.
        ("10.0.0.5", {"ipv4": ["127.0.0.1", "10.0.0.5", "172.17.0.1"], "ipv6": ["fd00::5"]}, ["10.0.0.5", "fd00::5"]),
        ("93.184.216.34", {"ipv4": ["93.184.216.34"], "ipv6": []}, ["93.184.216.34"]),
    ],
)
def test_hosts_are_asked_for_their_addresses(monkeypatch, roster, told, host, grains, tried):
    async def connect(address, port):
        raise ConnectionRefusedError

    ports(monkeypatch, {}, {6379: "redis"})
    monkeypatch.setattr(goldenpath.asyncio, "open_connection", connect)
    roster(web1={"host": host})
    told["web1"] = grains
    found = goldenpath.exposed()
    assert found["hosts"]["web1"]["addresses"] == tried
    assert found["retcode"] == 0, found["faults"]


@pytest.mark.parametrize("answer", [None, {"stderr": "Permission denied", "retcode": 255}, {"ipv4": []}])
def test_a_host_that_does_not_tell_its_addresses(monkeypatch, listen, roster, told, answer):
    ports(monkeypatch, {}, {})
    roster(web1={"host": "127.0.0.1", "port": listen()})
    told["web1"] = answer
    found = goldenpath.exposed()
    assert found["retcode"] == 1
    assert found["faults"] == [
        "web1 did not tell its addresses, and only 127.0.0.1 was tried. Try: salt-ssh web1 test.ping"
    ]


SILENT = (
    "2606:2800:220:1::1 of web1 answers on no port, so nothing is known of it: perhaps no way leads there from here."
)
NO_ROUTE = "2606:2800:220:1::1 of web1 was not tried: from here no route leads to IPv6."


@pytest.mark.parametrize(
    ("error", "state", "remark"),
    [
        (OSError(errno.ENETUNREACH, "no way"), "not tried", NO_ROUTE),
        (OSError(errno.EADDRNOTAVAIL, "no way"), "not tried", NO_ROUTE),
        (OSError(errno.EHOSTUNREACH, "no way"), "unreachable", SILENT),
        (TimeoutError(), "filtered", SILENT),
    ],
)
def test_no_way_to_ipv6_from_here(monkeypatch, roster, told, error, state, remark):
    async def connect(address, port):
        if ":" in address:
            raise error
        raise ConnectionRefusedError

    ports(monkeypatch, {}, {6379: "redis"})
    monkeypatch.setattr(goldenpath.asyncio, "open_connection", connect)
    roster(web1={"host": "93.184.216.34"})
    told["web1"] = {"ipv4": ["93.184.216.34"], "ipv6": ["2606:2800:220:1::1"]}
    found = goldenpath.exposed()
    states = [(each["address"], each["state"], each["ok"]) for each in found["hosts"]["web1"]["ports"]]
    assert states[0] == ("93.184.216.34", "refused", True)
    assert states[-1] == ("2606:2800:220:1::1", state, None)
    assert found["remarks"] == [remark]
    assert found["retcode"] == 0 and found["faults"] == []


def test_only_what_speaks_ssh_is_asked(listen):
    banner = socket.create_server(("127.0.0.1", 0))

    def serve():
        banner.accept()[0].send(b"SSH-2.0-x\r\n")

    threading.Thread(target=serve, daemon=True).start()
    names = {"ssh": banner.getsockname()[1], "silent": listen(), "closed": listen(False)}
    hosts = {name: (["127.0.0.1"], port) for name, port in names.items()}
    assert goldenpath.asyncio.run(goldenpath._ssh_answers(hosts)) == ["ssh"]
    banner.close()


# ---- minions


class Minions:
    def __init__(self, _):
        pass

    def check_minions(self, target, _):
        return {"minions": fnmatch.filter(["web1", "web2"], target)}


@pytest.fixture
def minions(monkeypatch, opts):
    monkeypatch.setitem(opts, "goldenpath", {"transport": "minion"})
    monkeypatch.setattr(goldenpath.salt.utils.minions, "CkMinions", Minions)
    cached = {}
    monkeypatch.setattr(
        goldenpath.salt.utils.minions, "get_minion_data", lambda host, _: (host, cached.get(host), None)
    )
    asked = {}

    class Client:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def cmd(self, hosts, function, names, tgt_type):
            assert (function, tgt_type) == ("grains.item", "list") and "ipv4" in names
            return {host: asked[host] for host in hosts if host in asked}

    monkeypatch.setattr(goldenpath.salt.client, "get_local_client", lambda **_: Client())
    return cached, asked


def test_minions_from_the_cache_and_by_asking(monkeypatch, listen, minions):
    redis = listen()
    ports(monkeypatch, {}, {redis: "redis"})
    monkeypatch.setattr(goldenpath, "_public", lambda grains: grains["ipv4"])
    minions[0]["web1"] = {"ipv4": ["127.0.0.1"]}
    minions[1]["web2"] = {"ipv4": ["127.0.0.2"]}
    found = goldenpath.exposed()
    assert {host: data["addresses"] for host, data in found["hosts"].items()} == {
        "web1": ["127.0.0.1"],
        "web2": ["127.0.0.2"],
    }
    assert "Try: salt web1 state.apply firewall" in found["faults"][0]


def test_minion_that_does_not_tell(minions):
    minions[1].update(web1="Minion did not return", web2=False)
    assert goldenpath.exposed()["faults"] == [
        "web1 cannot be resolved: it has told no address. Try: salt web1 network.ip_addrs",
        "web2 cannot be resolved: it has told no address. Try: salt web2 network.ip_addrs",
    ]


def test_no_minion_matches(minions):
    assert goldenpath.exposed("db*")["faults"] == ["No host matches 'db*'. Known: web1, web2. Try: salt-key --list-all"]


@pytest.mark.parametrize(
    ("grains", "addresses"),
    [
        (
            {
                "ipv4": ["127.0.0.1", "10.0.0.2", "93.184.216.34"],
                "ipv6": ["::1", "fe80::1", "2606:2800:220:1::1"],
            },
            ["93.184.216.34", "2606:2800:220:1::1"],
        ),
        ({"ipv4": ["127.0.0.1", "10.0.0.2"], "ipv6": ["::1", "fe80::1"]}, ["10.0.0.2"]),
        ({"ipv4": ["127.0.0.1"], "fqdn": "web1.example"}, ["web1.example"]),
        ({}, []),
    ],
)
def test_public_addresses(grains, addresses):
    assert goldenpath._public(grains) == addresses


# ---- what salt-run makes of it


@pytest.mark.parametrize(("out", "exposed"), [([], True), (["--out=json"], True), ([], False)])
def test_command_line(tmp_path, listen, roster, out, exposed):
    root = pathlib.Path(goldenpath.__file__).parents[1]
    ssh = listen()
    runners = tmp_path / "runners"
    runners.mkdir()
    source = (root / "_runners/goldenpath.py").read_text()
    # 2019 and its like may be in use here: ask for one port that is known.
    head, tail = source.split("CLOSED = {", 1)
    closed = f'CLOSED = {{{listen(exposed)}: "redis"}}' + tail.split("}", 1)[1]
    (runners / "goldenpath.py").write_text(head.replace("TIMEOUT = 3", "TIMEOUT = 0.5") + closed)
    roster(web1={"host": "127.0.0.1", "port": ssh})
    (tmp_path / "master").write_text(
        f"root_dir: {tmp_path}\nroster_file: {tmp_path}/roster\nrunner_dirs: [{runners}]\n"
        f"outputter_dirs: [{root}/_output]\n"
        "goldenpath: {transport: ssh}\npki_dir: pki\ncachedir: cache\nsock_dir: run\nlog_file: log\n"
        "key_logfile: key\nextension_modules: ext\n"
    )
    (tmp_path / "cache/proc").mkdir(parents=True)
    salt_run = str(pathlib.Path(sys.executable).parent / "salt-run")
    done = subprocess.run(
        [salt_run, "-c", str(tmp_path), "goldenpath.exposed", *out], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == (1 if exposed else 0), done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    if out:
        data = json.loads(done.stdout)
        assert data["retcode"] == 1 and data["hosts"]["web1"]["addresses"] == ["127.0.0.1"]
    else:
        assert f"web1  127.0.0.1  {ssh}" in done.stdout and "retcode" not in done.stdout
        assert ("MUST BE CLOSED" in done.stdout) is exposed
        assert ("web1  web1 answers from outside on port" in done.stdout) is exposed


# inspect


@pytest.fixture
def project(tmp_path):
    """Somebody's repository, with a hook that must not run."""
    folder = tmp_path / "Acme_Shop"
    (folder / "config").mkdir(parents=True)
    (folder / "manage.py").write_text('os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")\n')
    (folder / "config/settings.py").write_text("INSTALLED_APPS = []\n")
    (folder / "config/wsgi.py").write_text("")
    (folder / "requirements.txt").write_text("psycopg==3.3.9\n")
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@example"]
    for words in (["init", "--quiet", "--initial-branch=live"], ["add", "."], ["commit", "--quiet", "-m", "x"],
                  ["tag", "v1"]):  # fmt: skip
        subprocess.run([*git, *words], check=True, capture_output=True)
    return folder


def test_inspect_reads_a_folder_and_a_repository(project):
    assert goldenpath.inspect(str(project)).startswith("acme-shop:\n  domains: [acme-shop.example]\n  repo: CHOOSE\n")
    told = goldenpath.inspect(f"file://{project}", slug="shop", domain="shop.example")
    assert told.startswith(f"shop:\n  domains: [shop.example]\n  repo: file://{project}\n  ref: live\n")
    assert "  ref: v1\n" in goldenpath.inspect(f"file://{project}", "v1")


@pytest.mark.parametrize(
    ("repo", "ref", "said"),
    [
        ("file:///nonexistent.git", None, "cannot be read: fatal: "),
        ("file://{project}", "v9", "cannot be read: fatal: "),
        ("--upload-pack=touch {project}/ran", None, "is no repository"),
        ("file://{project}", "--upload-pack=touch {project}/ran", "is no repository"),
        ("ext::touch {project}/ran", None, "cannot be read: fatal: "),
        ("{project}/config", None, "has no manage.py. Try: "),
    ],
)
def test_inspect_says_why_not(project, repo, ref, said):
    found = goldenpath.inspect(repo.format(project=project), ref and ref.format(project=project))
    assert found["retcode"] == 1 and len(found["faults"]) == 1 and said in found["faults"][0]
    assert not (project / "ran").exists()
