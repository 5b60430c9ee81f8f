"""What an alert holds and what it does not, and how often it is sent."""

import json
import pathlib
import socket
import threading

import pytest
from goldenpath import alert as module
from goldenpath import host as hosts
from goldenpath import process

CANARY = "s3cr3t-canary"


@pytest.fixture
def alert(paths, monkeypatch):
    """The program, on a host that says what a test wants."""
    said = {"systemctl": "Description=Golden Path: backup\nResult=exit-code\nExecMainStatus=1\n", "journalctl": ""}
    asked = []

    def run(argv, **_):
        asked.append(tuple(argv))
        return process.Done(0, said[argv[0].rpartition("/")[2]], "")

    monkeypatch.setattr(process, "run", run)
    for name, value in (("sent", []), ("said", said), ("asked", asked)):
        monkeypatch.setattr(module, name, value, raising=False)
    monkeypatch.setattr(module, "post", lambda url, body: module.sent.append((url, body)))
    monkeypatch.setattr(module, "mail", lambda address, body, server=None: module.sent.append((address, body)))
    monkeypatch.delenv("MONITOR_INVOCATION_ID", raising=False)

    def configure(**more):
        pathlib.Path(hosts.ETC, "alert.json").write_text(json.dumps({"host": "web1", "secrets": [CANARY], **more}))

    monkeypatch.setattr(module, "configure", configure, raising=False)
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


def test_only_the_lines_of_the_run_that_failed(alert, monkeypatch):
    alert.main("a.service")
    assert "--unit" in alert.asked[-1]
    alert.said["systemctl"] += "InvocationID=aa11\n"
    alert.main("b.service")
    assert "_SYSTEMD_INVOCATION_ID=aa11" in alert.asked[-1] and "--unit" not in alert.asked[-1]
    monkeypatch.setenv("MONITOR_INVOCATION_ID", "bb22")
    alert.main("c.service")
    assert "_SYSTEMD_INVOCATION_ID=bb22" in alert.asked[-1]


def test_every_line_of_a_secret_is_hidden(alert, paths):
    key = "-----BEGIN KEY-----\nfirst-line-canary\nsecond-line-canary\n-----END KEY-----\n"
    folder = paths / "srv/sum/acme"
    folder.mkdir(parents=True)
    (folder / ".env").write_text('SIGNING="third-line-canary\nfourth-line-canary"\n')
    pathlib.Path(hosts.SITES).mkdir()
    pathlib.Path(hosts.SITES, "acme.json").write_text('{"slug": "acme"}')
    alert.configure(webhook="https://hooks.example/a", secrets=[key])
    alert.said["journalctl"] = "".join(f"{word}-line-canary\n" for word in ("first", "second", "third", "fourth"))
    alert.main("a.service")
    assert "canary" not in json.dumps(alert.sent) and "**********" in json.dumps(alert.sent)


def test_a_terminal_or_a_chat_is_told_nothing_by_a_log(alert):
    alert.said["journalctl"] = "\x1b[2Jcleared\n"
    alert.main("a.service")
    assert alert.sent[0][1]["lines"] == ["?[2Jcleared"]


def test_every_sentence_of_a_run_is_told(alert):
    alert.said["journalctl"] = "one failed. Try: x\none failed. Try: x\ntwo failed. Try: y\n"
    alert.main("a.service")
    assert alert.sent[0][1]["what"] == "one failed. Try: x\ntwo failed. Try: y"


def test_another_sentence_is_told_at_once(alert):
    for sentence in (
        "disk has 9 left. Try: x",
        "disk has 8 left. Try: x",
        "redis failed. Try: y",
        "disk has 7. Try: x",
    ):
        alert.said["journalctl"] = sentence
        alert.main("a.service")
    assert [body["what"][:5] for _, body in alert.sent] == ["disk ", "redis", "disk "]
    assert "7" in alert.sent[2][1]["what"]


def test_what_an_earlier_version_wrote_silences_nothing(alert, paths):
    folder = paths / "var/lib/goldenpath/alerts"
    folder.mkdir(parents=True)
    (folder / "a.service.json").write_text(json.dumps({"told": 1700000000.5, "repeated": 2}))
    assert alert.main("a.service") == 0
    assert len(alert.sent) == 1


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


def test_a_target_that_was_told_is_not_told_again_for_another(alert, monkeypatch):
    """The webhook is down for hours: the unit of this program starts it again, the mail has gone out long ago."""
    alert.configure(webhook="https://hooks.example/a", mail="ops@acme.example")
    alert.said.update(systemctl="Result=exit-code\nInvocationID=aa11\n", journalctl="The backup failed. Try: df")
    down = []
    monkeypatch.setattr(alert, "post", lambda *_: down.append(1) or "the webhook took no alert: TimeoutError")
    now = alert.time.time()
    for hours in range(4):
        monkeypatch.setattr(alert.time, "time", lambda hours=hours: now + hours * 3600)
        assert alert.main("a.service") == 1
    assert [target for target, _ in alert.sent] == ["ops@acme.example"] and len(down) == 4
    # By then the unit runs again, and is well.
    alert.said.update(systemctl="Result=success\nInvocationID=bb22\n", journalctl="")
    monkeypatch.setattr(alert, "post", lambda url, body: alert.sent.append((url, body)))
    assert alert.main("a.service") == 0
    assert alert.sent[-1][0] == "https://hooks.example/a" and alert.sent[-1][1]["what"] == "The backup failed. Try: df"
    assert len(alert.sent) == 2


def test_what_is_yet_to_be_told_survives_a_kill(alert, monkeypatch):
    def killed(*_):
        raise SystemExit(143)

    monkeypatch.setattr(alert, "post", killed)
    alert.said.update(systemctl="Result=exit-code\nInvocationID=aa11\n", journalctl="It failed. Try: x")
    with pytest.raises(SystemExit):
        alert.main("a.service")
    # The unit is well by then.
    alert.said.update(systemctl="Result=success\nInvocationID=bb22\n", journalctl="")
    monkeypatch.setattr(alert, "post", lambda url, body: alert.sent.append((url, body)))
    assert alert.main("a.service") == 0
    assert [body["what"] for _, body in alert.sent] == ["It failed. Try: x"]


def test_targets(alert):
    alert.configure()
    assert alert.main("a.service") == 0 and alert.sent == []
    alert.configure(webhook="https://hooks.example/a", mail="ops@acme.example")
    alert.main("b.service")
    assert [target for target, _ in alert.sent] == ["https://hooks.example/a", "ops@acme.example"]


def test_who_would_be_told_is_not_known(alert, capsys):
    pathlib.Path(hosts.ETC, "alert.json").unlink()
    assert alert.main("a.service") == 1
    assert "alert.json cannot be read. Try: salt-ssh web1 state.apply alert" in capsys.readouterr().err


def test_a_part_of_the_webhook_is_hidden_too(alert):
    alert.configure(webhook="https://hooks.example/T01/B02-canary?token=x-canary")
    alert.said["journalctl"] = "POST /T01/B02-canary took none\nwith token=x-canary\n"
    alert.main("a.service")
    assert "canary" not in json.dumps([body for _, body in alert.sent])


def test_the_secrets_of_a_site_that_left_the_pillar_are_hidden_too(alert, paths):
    folder = paths / "srv/sum/old"
    folder.mkdir(parents=True)
    (folder / ".env").write_text('SIGNING="left-canary"\n')
    alert.said["journalctl"] = "signed by left-canary\n"
    alert.main("a.service")
    assert "canary" not in json.dumps(alert.sent)


# What chats and mail servers take


def test_chats_find_a_text_and_slack_nothing_else(alert):
    alert.said["journalctl"] = "fine\n<!channel> ``` & x\nThe backup failed: disk. Try: df -h\n"
    alert.main("a.service")
    body = alert.sent[-1][1]
    assert body["text"].startswith("*web1*: a.service\nThe backup failed: disk. Try: df -h\n```\n")
    assert "&lt;!channel&gt; ` ` ` &amp; x" in body["text"] and body["text"].count("```") == 2
    alert.configure(webhook="https://hooks.example/a", format="slack")
    alert.main("b.service")
    assert alert.sent[-1][1].keys() == {"text"}


class MailServer(threading.Thread):
    """A mail server that keeps what it is told, by the lines of RFC 5321."""

    def __init__(self, *offers):
        super().__init__(daemon=True)
        self.offers, self.told, self.listener = offers, [], socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.start()

    def run(self):
        connection, _ = self.listener.accept()
        with connection, connection.makefile("rw", newline="\r\n") as lines:
            say = lambda text: (lines.write(text + "\n"), lines.flush())  # noqa: E731
            say("220 mail.example")
            data = False
            for line in lines:
                line = line.rstrip("\r\n")
                self.told.append(line)
                if data:
                    data = line != "."
                    if not data:
                        say("250 taken")
                elif line.upper().startswith("EHLO"):
                    say("\n".join(["250-mail.example", *(f"250-{each}" for each in self.offers), "250 OK"]))
                elif line.upper() == "DATA":
                    data = True
                    say("354 go on")
                elif line.upper() == "QUIT":
                    return say("221 bye")
                else:
                    say("250 OK")
        return None


BODY = {"host": "web1", "unit": "a.service", "what": "It failed. Try: this", "since": "now", "lines": ["one", "two"]}


def test_mail_without_a_server_of_the_hosts_own(monkeypatch):
    server = MailServer()
    told = {"host": "127.0.0.1", "port": server.port, "from": "alerts@acme.example"}
    assert module.mail("ops@acme.example", BODY, told) is None
    server.join(10)
    assert "rcpt to:<ops@acme.example>" in [line.lower() for line in server.told]
    assert "Subject: web1: a.service failed" in server.told and "It failed. Try: this" in server.told
    assert "From: alerts@acme.example" in server.told


def test_a_password_never_goes_in_the_clear(monkeypatch):
    server = MailServer("AUTH PLAIN LOGIN")
    told = {"host": "127.0.0.1", "port": server.port, "user": "alerts", "password": CANARY}
    fault = module.mail("ops@acme.example", BODY, told)
    assert fault.startswith("127.0.0.1 took no mail: SMTPNotSupportedError") and CANARY not in fault
    server.listener.close()
    assert not any("AUTH" in line for line in server.told)


def test_a_mail_server_that_is_not_there():
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        told = {"host": "127.0.0.1", "port": nobody.getsockname()[1]}
        assert module.mail("ops@acme.example", BODY, told) == "127.0.0.1 took no mail: ConnectionRefusedError"
