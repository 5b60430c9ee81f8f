"""Units that run: by one question where all is well, by Salt's own code where anything is not."""

import subprocess

import pytest

WELL = "ActiveState=active\nUnitFileState=enabled\nNeedDaemonReload=no\n"


@pytest.fixture
def unit(load, tmp_path, monkeypatch):
    """The state, beside a systemctl that says what a test wants; what went to Salt is kept."""
    module = load("_states/unit.py")
    module.asked = []
    module.__states__ = {
        "service.running": lambda name, **more: module.asked.append((name, more)) or {"result": "Salt's"},
        "service.mod_watch": lambda name, **more: module.asked.append(("watch", name, more)) or {"result": "Salt's"},
    }
    (tmp_path / "systemctl").write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/calls; cat {tmp_path}/says; exit $(cat {tmp_path}/ends)\n'
    )
    (tmp_path / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    def says(text, ends=0):
        (tmp_path / "says").write_text(text)
        (tmp_path / "ends").write_text(str(ends))

    module.says, module.calls = says, lambda: (tmp_path / "calls").read_text().splitlines()
    says(WELL)
    return module


@pytest.mark.parametrize("file", ["enabled", "enabled-runtime"])
def test_one_question_where_all_is_well(unit, file):
    unit.says(WELL.replace("=enabled", f"={file}"))
    ret = unit.running("caddy")
    assert (ret["result"], ret["changes"], ret["name"]) == (True, {}, "caddy") and unit.asked == []
    assert unit.calls() == ["show --property=ActiveState,UnitFileState,NeedDaemonReload -- caddy"]


@pytest.mark.parametrize(
    ("says", "ends"),
    [
        (WELL.replace("=active", "=activating"), 0), (WELL.replace("=active", "=failed"), 0),
        (WELL.replace("=active", "=inactive"), 0), (WELL.replace("=enabled", "=disabled"), 0),
        (WELL.replace("=enabled", "=masked"), 0), (WELL.replace("=enabled", "="), 0), (WELL.replace("=no", "=yes"), 0),
        (WELL, 1), ("", 0),
    ],
)  # fmt: skip
def test_salts_own_code_where_anything_is_not(unit, says, ends):
    unit.says(says, ends)
    assert unit.running("ufw", unmask=True) == {"result": "Salt's"}
    assert unit.asked == [("ufw", {"enable": True, "unmask": True})]


def test_without_systemd(unit, monkeypatch):
    def nobody(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(subprocess, "run", nobody)
    assert unit.running("caddy") == {"result": "Salt's"}


def test_what_watch_does_to_it(unit):
    assert unit.mod_watch("caddy", sfun="running", unmask=True, __reqs__={"watch": []}) == {"result": "Salt's"}
    assert unit.asked == [("watch", "caddy", {"sfun": "running", "enable": True})]


def test_what_nobody_asks_for_is_stopped(unit, tmp_path, monkeypatch):
    monkeypatch.setattr(unit, "UNITS", str(tmp_path / "units"))
    (tmp_path / "units").mkdir()
    # Nothing is asked of systemd where there is no such unit.
    assert unit.stopped("old.timer")["changes"] == {} and not (tmp_path / "calls").exists()
    (tmp_path / "units/old.timer").write_text("")
    unit.__opts__["test"] = True
    assert unit.stopped("old.timer")["result"] is None and not (tmp_path / "calls").exists()
    unit.__opts__["test"] = False
    ret = unit.stopped("old.timer")
    assert ret["result"] is True and ret["changes"] == {"old.timer": {"old": "on", "new": "off"}}
    assert unit.calls() == ["disable --now -- old.timer"]
    unit.says("", 1)
    assert (unit.stopped("old.timer")["result"], unit.stopped("old.timer")["changes"]) == (False, {})
