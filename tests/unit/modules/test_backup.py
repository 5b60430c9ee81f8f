"""The thin module over the host's program: sentences, exit status, files that hold secrets."""

import json
import os
import pathlib
import stat

import pytest
from salt.exceptions import CommandExecutionError

from _modules import backup
from _pillar import goldenpath as pillar_

ROOT = pathlib.Path(__file__).resolve().parents[3]
CANARY = "s3cr3t-canary"
PILLAR = {
    "sites": {
        "acme": {
            "domains": ["acme.example"],
            "repo": "https://git.example/acme.git",
            "ref": "v1",
            "project": "acme",
            "redis": {"cache": 0, "broker": 1},
            "secrets": {"API_KEY": f"{CANARY}-site"},
        }
    },
    "backup": {"heartbeat": {"drill": f"https://heartbeat.example/{CANARY}"}},
    "alerts": {"webhook": f"https://hooks.example/{CANARY}"},
}


@pytest.fixture
def host(load, tmp_path, monkeypatch):
    """The module on a host whose program does what a test writes."""
    for name, value in (
        ("__grains__", {"id": "web1"}),
        ("__context__", {}),
        ("__salt__", {"goldenpath.command": lambda *words: " ".join(["salt-ssh web1", *words])}),
    ):
        monkeypatch.setattr(backup, name, value, raising=False)
    engine = load("_modules/engine.py", salt=backup.__salt__)
    monkeypatch.setattr(engine, "COMMAND", str(tmp_path / "program"))
    backup.__salt__["engine.call"] = engine.call
    monkeypatch.setattr(backup, "CONFIG", str(tmp_path / "config"))
    (tmp_path / "config").write_text("{}")
    monkeypatch.setattr(backup, "FOLDER", str(tmp_path))
    monkeypatch.setattr(backup, "SINCE", str(tmp_path / "since.state"))

    def program(text):
        (tmp_path / "program").write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "program").chmod(0o755)

    program("""shift; printf '{"told": "%s"}' "$*" """)
    return tmp_path, program


def pillar(**backup_):
    data = {**PILLAR, "backup": {**PILLAR["backup"], **backup_}}
    assert pillar_.validate(data) == []
    return pillar_.normalise(data)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: backup.run(), "backup"),
        (lambda: backup.run("acme", accept_smaller=True), "backup --accept-smaller -- acme"),
        (lambda: backup.drill("acme", "1a2b3c4d"), "drill --snapshot=1a2b3c4d -- acme"),
        (lambda: backup.snapshots(), "list"),
        (lambda: backup.plan("acme"), "plan -- acme"),
        (lambda: backup.plan("acme", "1a2b3c4d", 60), "plan --snapshot=1a2b3c4d --wait=60 -- acme"),
        (lambda: backup.freshness("acme"), "fresh -- acme"),
    ],
)
def test_what_the_program_is_asked(host, call, words):
    assert call() == {"told": words} and backup.__context__ == {}


def test_a_failure_is_one_sentence_and_a_status(host):
    host[1]("echo 'The backup of acme on web1 failed: x. Try: y' >&2; exit 1")
    for call in (backup.run, backup.drill, backup.snapshots):
        backup.__context__.clear()
        assert call("acme") == "The backup of acme on web1 failed: x. Try: y"
        assert backup.__context__ == {"retcode": 1}
    with pytest.raises(CommandExecutionError, match=r"failed: x\. Try: y"):
        backup.plan("acme")
    assert backup.freshness("acme") == {
        "warnings": ["The backup of acme on web1 failed: x. Try: y"],
        "refusals": [],
    }


def test_a_traceback_is_not_shown(host):
    host[1]("printf 'Traceback (most recent call last):\\n  File\\nKeyError: 1\\n' >&2; exit 1")
    assert "File" not in backup.run() and "KeyError: 1. Try: " in backup.run()


def test_a_host_without_backups(host):
    os.unlink(host[0] / "program")
    os.unlink(host[0] / "config")
    assert backup.freshness("acme") == {"warnings": [], "refusals": []}
    assert "web1 has no engine yet" in backup.run() and backup.__context__ == {"retcode": 1}


def test_alerts_by_mail_need_a_sendmail(host, monkeypatch):
    by_mail = pillar()
    by_mail["alerts"] = {"mail": "ops@acme.example"}
    monkeypatch.setattr(backup, "SENDMAIL", str(host[0] / "sendmail"))
    with pytest.raises(CommandExecutionError, match=r"`alerts:mail` cannot be told from web1: .* Try: "):
        backup.difference("alert", by_mail)
    assert backup.difference("backup", by_mail) and backup.difference("alert", pillar())
    (host[0] / "sendmail").write_text("")
    assert list(backup.configure("alert", by_mail).values()) == ["written"]


def test_files_are_written_once_and_are_roots_alone(host):
    folder = host[0]
    changes = backup.difference("backup", pillar())
    assert changes == {
        f"{folder}/backup.json": "written",
        f"{folder}/restic-password": "made on this host",
        f"{folder}/since.state": "written",
    }
    assert CANARY not in json.dumps(changes)
    assert backup.configure("backup", pillar()) == changes
    made = (folder / "restic-password").read_text()
    assert len(made.strip()) > 40
    for path in changes:
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert backup.difference("backup", pillar()) == {}
    (folder / "backup.json").chmod(0o644)
    assert backup.difference("backup", pillar()) == {f"{folder}/backup.json": "mode 0600"}
    backup.configure("backup", pillar())
    assert backup.difference("backup", pillar()) == {} and (folder / "restic-password").read_text() == made


def test_a_password_of_the_pillar_is_taken(host):
    backup.configure("backup", pillar())
    given = pillar(password="a-password-of-my-own")
    assert backup.configure("backup", given) == {f"{host[0]}/restic-password": "changed"}
    assert (host[0] / "restic-password").read_text() == "a-password-of-my-own\n"


def test_sftp_gets_a_key(host):
    remote = pillar(repository="sftp:b@vault.example:/restic", known_hosts="vault.example ssh-ed25519 AAAA")
    backup.configure("backup", remote)
    assert (host[0] / "backup-ssh").read_text().startswith("-----BEGIN OPENSSH PRIVATE KEY-----")
    assert (host[0] / "backup-ssh.pub").read_text().strip().endswith("goldenpath@web1")
    assert (host[0] / "backup-known-hosts").read_text() == "vault.example ssh-ed25519 AAAA\n"
    assert backup.difference("backup", remote) == {}


def test_the_alert_knows_what_to_hide(host):
    backup.configure("alert", pillar(password=f"{CANARY}-password"))
    config = json.loads((host[0] / "alert.json").read_text())
    assert config["webhook"] == f"https://hooks.example/{CANARY}" and config["host"] == "web1"
    assert {f"{CANARY}-site", f"{CANARY}-password", f"https://heartbeat.example/{CANARY}"} <= set(config["secrets"])


def test_what_cannot_be_written_is_told(host, monkeypatch):
    monkeypatch.setattr(backup, "FOLDER", "/proc/nowhere")
    with pytest.raises(CommandExecutionError, match=r"backup\.json on web1 cannot be written: .* Try: df"):
        backup.configure("backup", pillar())
