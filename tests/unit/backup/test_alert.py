"""What an alert holds and what it does not, and how often it is sent."""

import importlib.util
import json
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]
CANARY = "s3cr3t-canary"


@pytest.fixture
def alert(tmp_path, monkeypatch):
    """The program, with its files under a temporary folder and a host that says what a test wants."""
    spec = importlib.util.spec_from_file_location("alert", ROOT / "salt/alert/files/alert.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "CONFIG", str(tmp_path / "alert.json"))
    monkeypatch.setattr(module, "STATE", str(tmp_path / "alerts"))
    module.sent = []
    monkeypatch.setattr(module, "post", lambda url, body: module.sent.append((url, body)))
    monkeypatch.setattr(module, "mail", lambda address, body: module.sent.append((address, body)))
    module.said = {
        "systemctl": "Description=Golden Path: backup\nResult=exit-code\nExecMainStatus=1\n",
        "journalctl": "",
    }
    monkeypatch.setattr(module, "shown", lambda *argv: module.said[argv[0]])

    def configure(**more):
        (tmp_path / "alert.json").write_text(json.dumps({"host": "web1", "secrets": [CANARY], **more}))

    module.configure = configure
    configure(webhook="https://hooks.example/a")
    return module


def test_an_alert_says_what_failed_and_hides_secrets(alert):
    alert.said["journalctl"] = (
        f"begun with {CANARY}\nhttps://user:pa55@x.example\nThe backup failed: disk. Try: df -h\nend\n"
    )
    assert alert.main("goldenpath-backup.service") == 0
    ((url, body),) = alert.sent
    assert url == "https://hooks.example/a"
    assert body["host"] == "web1" and body["unit"] == "goldenpath-backup.service" and body["repeated"] == 0
    assert body["what"] == "The backup failed: disk. Try: df -h"
    assert CANARY not in json.dumps(body) and "pa55" not in json.dumps(body)
    assert body["lines"][0] == "begun with **********"


def test_a_unit_that_says_nothing_is_told_by_its_result(alert):
    alert.main("caddy.service")
    assert alert.sent[0][1]["what"] == "Golden Path: backup failed (exit-code, status 1)"


def test_once_an_hour_and_for_each_unit(alert, monkeypatch):
    for _ in range(3):
        alert.main("a.service")
    alert.main("b.service")
    assert [body["unit"] for _, body in alert.sent] == ["a.service", "b.service"]
    now = alert.time.time()
    monkeypatch.setattr(alert.time, "time", lambda: now + alert.QUIET + 1)
    alert.main("a.service")
    assert alert.sent[-1][1]["repeated"] == 2
    monkeypatch.setattr(alert.time, "time", lambda: now - 7200)
    alert.main("a.service")
    assert len(alert.sent) == 4


def test_what_was_not_taken_is_told_next_time(alert, monkeypatch, capsys):
    monkeypatch.setattr(alert, "post", lambda *_: "the webhook took no alert: HTTPError 500")
    assert alert.main("a.service") == 1
    assert "the webhook took no alert" in capsys.readouterr().err
    monkeypatch.setattr(alert, "post", lambda url, body: alert.sent.append((url, body)))
    assert alert.main("a.service") == 0 and len(alert.sent) == 1


def test_targets(alert):
    alert.configure()
    assert alert.main("a.service") == 0 and alert.sent == []
    alert.configure(webhook="https://hooks.example/a", mail="ops@acme.example")
    alert.main("b.service")
    assert [target for target, _ in alert.sent] == ["https://hooks.example/a", "ops@acme.example"]
