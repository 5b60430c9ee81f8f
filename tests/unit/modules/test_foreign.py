"""What is somebody else's on a host: each finding, and that nothing of ours is one."""

import hashlib
import json
import os
import pathlib
import pwd
from types import SimpleNamespace

import pytest

from tests.conftest import load_module

SLUG = "acme"
MANAGED = "# Managed by Golden Path: local changes are overwritten.\n"
TCP = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"


class Host:
    def __init__(self, folder, monkeypatch):
        self.folder, self.says, self.users = folder, {}, {}
        self.redis = {"keys": ""}
        self.module = load_module("_modules/foreign.py", salt={"redis_gate.ask": self.ask_redis})
        for name, path in (
            ("MARK", "var/mark.json"), ("SRV", "srv"), ("ETC", "etc/goldenpath"), ("UNITS", "units"),
            ("CADDY", "caddy"), ("REDIS", "redis.conf"), ("PROC", "proc"),
        ):  # fmt: skip
            monkeypatch.setattr(self.module, name, str(folder / path))
        for path in ("units", "caddy/sites", "proc/net", "srv"):
            (folder / path).mkdir(parents=True)
        monkeypatch.setattr(self.module, "_said", lambda *argv: self.says.get(argv[0], ""))
        monkeypatch.setattr(self.module.pwd, "getpwnam", lambda name: self.users[name])
        # Who owns a folder is what a test says.
        self.owner = 0
        monkeypatch.setattr(self.module, "_owner", lambda path: self.owner)

    def ask_redis(self, *_):
        if isinstance(self.redis["keys"], Exception):
            raise self.redis["keys"]
        return [self.redis["keys"]]

    def listens(self, port, program, unit):
        inode = str(port)
        line = f" 0: 00000000:{port:04X} 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 {inode} 1\n"
        path = self.folder / "proc/net/tcp"
        path.write_text((path.read_text() if path.exists() else TCP) + line)
        process = self.folder / f"proc/{port}"
        (process / "fd").mkdir(parents=True)
        (process / "fd/3").symlink_to(f"socket:[{inode}]")
        (process / "comm").write_text(f"{program}\n")
        (process / "cgroup").write_text(f"0::/system.slice/{unit}\n")

    def writes(self, path, text=""):
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def found(self, *slugs):
        return self.module.findings(list(slugs or [SLUG]))


@pytest.fixture
def host(tmp_path, monkeypatch):
    return Host(tmp_path, monkeypatch)


def test_a_bare_host(host):
    assert host.found() == [] and host.module.unmarked([SLUG]) == ["host", SLUG]
    assert host.module.mark([SLUG]) and host.module.unmarked([SLUG, "beta"]) == ["beta"]
    assert host.module.mark(["beta"])
    assert json.loads(pathlib.Path(host.module.MARK).read_text())["sites"] == [SLUG, "beta"]


def test_a_host_with_the_distributions_packages_alone(host):
    """As a cloud image has them, or a first run of ours that was killed."""
    text = ":80 {\n}\n"
    host.writes("caddy/Caddyfile", text)
    digest = hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
    host.says["dpkg-query"] = f"\n {host.module.CADDY}/Caddyfile {digest}"
    host.says["pg_lsclusters"] = "17 main 5432 online postgres /var/lib/postgresql/17/main /var/log/x"
    for port, program in host.module.PORTS.items():
        host.listens(port, program, f"{program}.service")
    assert host.found() == []


@pytest.mark.parametrize("port", [80, 443, 5432, 6379])
def test_a_port_that_somebody_holds(host, port):
    host.listens(port, "nginx", "nginx.service")
    assert f"Port {port} is held by nginx (nginx.service)" in host.found()[0]
    assert "Try: systemctl disable --now nginx.service" in host.found()[0]


def test_other_ports_are_nobodys_affair(host):
    host.listens(8080, "java", "jenkins.service")
    assert host.found() == []


FINDINGS = {
    "caddy": (lambda host: host.writes("caddy/Caddyfile", "shop.example {\n}\n"), "Caddyfile is somebody's"),
    "redis": (
        lambda host: (host.listens(6379, "redis-server", "redis-server.service"),
                      host.redis.update(keys="# Keyspace\r\ndb0:keys=40,expires=1\r\ndb3:keys=2,expires=0")),
        "Redis holds 42 keys of somebody",
    ),
    "cluster": (
        lambda host: host.says.update(pg_lsclusters="15 main 5433 down postgres /x /y"),
        "There is a Postgres cluster 15/main on port 5433",
    ),
    "database": (lambda host: host.says.update(runuser="shop, crm"), "Postgres has databases of somebody (shop, crm)"),
    "firewall": (
        lambda host: host.says.update(systemctl="nftables.service enabled enabled\nfirewalld.service disabled enabled"),
        "nftables.service decides what comes in",
    ),
    "containers": (lambda host: host.says.update(docker="web\ndb"), "Docker runs web, db: what it publishes passes"),
}  # fmt: skip


@pytest.mark.parametrize("name", FINDINGS)
def test_a_host_of_somebody(host, name):
    make, sentence = FINDINGS[name]
    make(host)
    (found,) = host.found()
    assert sentence in found and ". Try: " in found
    # Marked, or with files that only this tree writes, nobody asks.
    host.module.mark([SLUG])
    assert host.found() == []
    os.unlink(host.module.MARK)
    host.writes("redis.conf", MANAGED)
    assert host.found() == []


def test_all_of_them_at_once(host):
    for make, _ in FINDINGS.values():
        make(host)
    assert len(host.found()) == len(FINDINGS)


def test_a_redis_that_does_not_answer(host):
    host.listens(6379, "redis-server", "redis-server.service")
    fault = ConnectionError("x")
    fault.reason = "it asks for a password"
    host.redis["keys"] = fault
    assert "Redis on port 6379 cannot be asked what is in it: it asks for a password" in host.found()[0]


SITES = {
    "owner": (lambda host: (host.writes("srv/acme/x"), setattr(host, "owner", 1000)), "does not belong to root"),
    "app": (lambda host: host.writes("srv/acme/app/manage.py"), "is somebody's: it has app"),
    "file": (lambda host: host.writes("srv/acme"), "is no folder"),
    "current": (lambda host: host.writes("srv/acme/current/x"), "current is a folder, and no link of ours"),
    "environment": (lambda host: host.writes("srv/acme/.env", "A=1\n"), ".env is somebody's and would be overwritten"),
    "user": (
        lambda host: host.users.update({"sum-acme": SimpleNamespace(pw_dir="/home/x", pw_shell="/bin/bash")}),
        "There is a user sum-acme of somebody (/home/x, /bin/bash)",
    ),
    "unit": (
        lambda host: host.writes("units/sum-acme-gunicorn.service", "[Service]\n"),
        "gunicorn.service is somebody's",
    ),
    "plain unit": (lambda host: host.writes("units/sum-acme.service", "[Service]\n"), "sum-acme.service is somebody's"),
    "caddy": (lambda host: host.writes("caddy/sites/acme.caddy", "x {\n}\n"), "acme.caddy is somebody's"),
}


@pytest.mark.parametrize("name", SITES)
@pytest.mark.parametrize("ours", [False, True])
def test_a_site_of_somebody(host, name, ours):
    """Also on a host that is ours."""
    if ours:
        host.module.mark(["other"])
    make, sentence = SITES[name]
    make(host)
    (found,) = host.found()
    assert sentence in found and ". Try: " in found
    host.module.mark([SLUG])
    assert host.found() == []


def test_a_site_of_ours_from_before_there_was_a_mark(host):
    root = host.folder / "srv/acme"
    host.users["sum-acme"] = SimpleNamespace(pw_dir=str(root), pw_shell="/usr/sbin/nologin")
    host.writes("srv/acme/.env", MANAGED + 'A="1"\n')
    host.writes("units/sum-acme-gunicorn.service", MANAGED)
    host.writes("units/sum-acme-shop-gunicorn.service", "of the site acme-shop, whoever's that is\n")
    host.writes("caddy/sites/acme.caddy", MANAGED)
    (root / "releases").mkdir()
    (root / "current").symlink_to("releases/r1")
    host.writes("etc/goldenpath/sites/acme.json", "{}")
    assert host.found() == []


def test_this_machine(monkeypatch):
    """Whatever it is, the questions are answered."""
    module = load_module("_modules/foreign.py", salt={"redis_gate.ask": lambda *_: [""]})
    monkeypatch.setattr(module, "MARK", "/nonexistent/mark")
    assert all(". Try: " in each for each in module.findings(["nobody"])) and pwd
