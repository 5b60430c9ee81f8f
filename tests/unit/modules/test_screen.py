"""What an operator sees of a deploy while it runs."""

import json
import os
import threading
import time

import pytest


@pytest.fixture
def module(load, tmp_path):
    module = load("_modules/screen.py", opts={"id": "web1"})
    module._FOLDER = str(tmp_path)
    return module


def test_only_on_a_controller(load):
    assert load("_modules/screen.py", opts={"id": "web1"}).__virtual__()[0] is False
    assert load("_modules/screen.py", opts={"id": "web1", "ext_pillar": []}).__virtual__() is True


def test_the_screen_shows_only_what_was_asked_for(module, capsys):
    screen = module._Screen({"web1": ["acme"]})
    for site, step, event in (
        ("acme", "fetch", "begun"), ("acme", "fetch", "done"), ("other", "fetch", "begun"), ("acme", "prove", "failed"),
    ):  # fmt: skip
        screen.show(json.dumps({"host": "web1", "site": site, "step": step, "event": event, "seconds": 1.25}))
    screen.show("no json")
    screen.show('{"host": "web1"}')
    screen.table()
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert [line[9:] for line in lines[:2]] == ["web1 acme: fetch 1.2 s", "web1 acme: prove FAILED"]
    assert lines[2:] == ["web1 acme: fetch 1.2 s, prove FAILED"]


def test_what_takes_long_is_named_before_its_end(module, capsys):
    screen = module._Screen({"web1": ["acme"], "web2": ["shop"]}, slow=0.05)
    note = {"host": "web1", "site": "acme", "step": "environment"}
    screen.show(json.dumps({**note, "event": "begun"}))
    screen.show(json.dumps({**note, "host": "web2", "site": "shop", "event": "begun"}))
    screen.show(json.dumps({**note, "host": "web2", "site": "shop", "event": "done", "seconds": 0.0}))
    time.sleep(0.3)
    screen.show(json.dumps({**note, "event": "done", "seconds": 7.0}))
    assert [line[9:] for line in capsys.readouterr().err.splitlines()] == [
        "web2 shop: environment 0.0 s", "web1 acme: environment ...", "web1 acme: environment 7.0 s",
    ]  # fmt: skip


def test_notes_of_what_did_not_fail(module, capsys):
    screen = module._Screen({"web1": ["acme"]})
    note = {"host": "web1", "site": "acme", "step": "", "event": "end", "said": "v1 is live",
            "notes": ["one remark", "a\x1b[2Jb"]}  # fmt: skip
    screen.show(json.dumps(note))
    screen.table()
    assert capsys.readouterr().err.splitlines() == [
        "web1 acme: v1 is live", "web1 acme: note: one remark", "web1 acme: note: a?[2Jb",
    ]  # fmt: skip


def test_why_it_failed_is_the_last_line(module, capsys):
    screen = module._Screen({"web1": ["acme"]})
    note = {"host": "web1", "site": "acme", "step": "fetch", "event": "done", "seconds": 1.0}
    screen.show(json.dumps(note))
    screen.show(json.dumps({**note, "step": "", "event": "end", "why": "The deploy failed. Try: this"}))
    screen.table()
    assert capsys.readouterr().err.splitlines()[-1] == "web1 acme: The deploy failed. Try: this"


def test_quiet_shows_nothing(load):
    module = load("_modules/screen.py", opts={"id": "web1", "quiet": True})
    before = threading.active_count()
    assert module.watch({"web1": ["acme"]}, {}) is False
    assert threading.active_count() == before


def test_ssh_is_what_the_roster_says(module):
    entry = {"host": "203.0.113.10", "user": "admin", "port": 2222, "priv": "/k", "ssh_options": ["A=b"]}
    assert module._ssh(entry) == [
        "ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "A=b", "-p", "2222", "-i", "/k", "--",
        "admin@203.0.113.10",
    ]  # fmt: skip
    assert module._ssh({"host": "h"})[-1] == "root@h"


def test_following_a_host_reads_what_is_written(module, tmp_path):
    """The far end's command, run by a shell here: it shows new notes and ends when its input closes."""
    (tmp_path / "acme.progress").write_text('{"host": "web1", "site": "acme", "step": "old", "event": "begun"}\n')
    screen = module._Screen({"web1": ["acme"]})
    seen = threading.Event()
    shown = []
    screen.show = lambda line: (shown.append(json.loads(line)["step"]), seen.set())
    processes = []
    real = module.subprocess.Popen
    module.subprocess = type(
        "subprocess",
        (),
        {**vars(module.subprocess), "Popen": lambda *a, **k: processes.append(real(*a, **k)) or processes[-1]},
    )
    thread = threading.Thread(target=module._follow, args=(["sh", "-c"], ["acme"], screen), daemon=True)
    thread.start()
    for _ in range(100):
        with open(tmp_path / "acme.progress", "a") as notes:
            notes.write('{"host": "web1", "site": "acme", "step": "fetch", "event": "begun"}\n')
        if seen.wait(0.1):
            break
    assert shown and set(shown) == {"fetch"}
    processes[0].stdin.close()
    thread.join(10)
    assert not thread.is_alive()


def test_the_table_waits_for_the_last_line(module, capsys):
    screen = module._Screen({"web1": ["acme"]})
    note = {"host": "web1", "site": "acme", "step": "prune"}
    screen.show(json.dumps({**note, "event": "begun"}))
    rest = [json.dumps({**note, "event": event}) for event in ("done", "end")]
    threading.Timer(0.1, lambda: [screen.show(line) for line in rest]).start()
    screen.table()
    assert "web1 acme: prune 0.0 s" in capsys.readouterr().err
    assert screen.under_way == set()


def test_hosts_that_ssh_cannot_enter_are_told(module, tmp_path, monkeypatch):
    """All at once, in ssh's own words; those with a password are not asked."""
    there = 'for last; do :; done; exec sh -c "$last"'
    (tmp_path / "ssh").write_text(
        f'#!/bin/sh\ncase "$*" in *root@good*) {there};; esac\necho no route. >&2; exit 255\n'
    )
    (tmp_path / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    roster = {"web1": {"host": "good"}, "web2": {"host": "bad"}, "web3": {"host": "bad", "passwd": "x"}}
    module.__opts__["roster_defaults"] = {"thin_dir": str(tmp_path / "thin")}
    monkeypatch.delenv("GOLDENPATH_LOOKED", raising=False)
    assert module.unreachable(roster, 1) == {"web2": "web2 cannot be reached: no route. Try: ssh root@bad"}
    # The steps of the same command do not look again.
    assert os.environ["GOLDENPATH_LOOKED"].split() == ["web1", "web3"]
