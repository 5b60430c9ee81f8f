"""The states over the backup module: what they tell, change, and refuse."""

import pytest
from salt.exceptions import CommandExecutionError

from _states import backup

SITE = {"ref": "v1.0.0", "secrets": {}}
PLAN = {"told": "acme would become what it was", "sha": "f" * 40, "snapshot": "1a2b3c4d"}
DONE = {
    "snapshot": "1a2b3c4d",
    "time": "then",
    "rows": 3,
    "files": 2,
    "safety": "/x.dump",
    "seconds": 9,
    "stopped": 4,
    "notes": ["a note"],
}


@pytest.fixture
def host(monkeypatch):
    """A host with the site acme, live; what is called is kept."""
    calls = []

    def answer(name, value):
        def call(*args, **_):
            calls.append((name, *args))
            if isinstance(value, Exception):
                raise value
            return value

        return call

    salt = {
        "backup.plan": answer("plan", PLAN),
        "backup.restore": answer("restore", DONE),
        "backup.difference": answer("difference", {"/etc/x": "changed"}),
        "backup.configure": answer("configure", {"/etc/x": "changed"}),
        "release.live": answer("live", "r1"),
        "release.deploy": answer("deploy", {"release": "r2"}),
    }
    given = {"salt": salt, "pillar": {"sites": {"acme": SITE}}, "opts": {"test": False}, "grains": {"id": "web1"}}
    for name, value in given.items():
        monkeypatch.setattr(backup, f"__{name}__", value, raising=False)
    return salt, calls


@pytest.mark.parametrize("confirm", [None, "", "yes", "acme ", "ACME"])
def test_without_the_slug_nothing_happens(host, confirm):
    ret = backup.restored("acme", confirm=confirm)
    assert ret["result"] is False and ret["changes"] == {}
    assert PLAN["told"] in ret["comment"] and '"confirm": "acme"' in ret["comment"]
    assert [call[0] for call in host[1]] == ["plan", "live"]


def test_a_dry_run_tells(host, monkeypatch):
    monkeypatch.setitem(backup.__opts__, "test", True)
    ret = backup.restored("acme", confirm="acme")
    assert ret["result"] is None and ret["changes"] == {} and "restore" not in [call[0] for call in host[1]]


def test_a_restore(host):
    ret = backup.restored("acme", confirm="acme", wait=5)
    assert ret["result"] is True and ret["changes"]["acme"]["rows"] == 3
    assert "a note" in ret["comment"] and "/x.dump" in ret["comment"]
    assert host[1][0] == ("plan", "acme", None, 5) and host[1][-1] == ("restore", "acme", "1a2b3c4d", False, 5)


def test_a_key_of_the_pillar_stays(host, monkeypatch):
    monkeypatch.setitem(backup.__pillar__, "sites", {"acme": {**SITE, "secrets": {"DJANGO_SECRET_KEY": "x"}}})
    backup.restored("acme", confirm="acme")
    assert host[1][-1][3] is True


def test_a_fresh_host_gets_the_code_first(host):
    salt, calls = host
    salt["release.live"] = lambda _: None
    ret = backup.restored("acme", confirm="acme")
    assert [call[0] for call in calls] == ["plan", "deploy", "restore"]
    assert calls[1][3] == PLAN["sha"] and ret["changes"]["release"] == {"old": None, "new": "r2"}


def test_a_failure_is_its_sentence(host):
    salt, _ = host

    def refuse(*_):
        raise CommandExecutionError("one sentence. Try: this")

    salt["backup.restore"] = refuse
    ret = backup.restored("acme", confirm="acme")
    assert ret["result"] is False and ret["comment"] == "one sentence. Try: this"
    assert "has no site nobody" in backup.restored("nobody", confirm="nobody")["comment"]


def test_configured(host, monkeypatch):
    salt, calls = host
    assert backup.configured("backup")["changes"] == {"/etc/x": "changed"}
    assert calls[-1][0] == "configure"
    calls.clear()
    monkeypatch.setitem(backup.__opts__, "test", True)
    assert backup.configured("backup")["result"] is None and calls[-1][0] == "difference"
    salt["backup.difference"] = lambda *_: {}
    assert backup.configured("backup")["result"] is True
