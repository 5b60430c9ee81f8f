"""What a person reads of the journal. What journald gives is looked at on hosts (tests/hosts/test_operator.py)."""

import json
import os
import pathlib

import pytest
from goldenpath import env, logs, units
from goldenpath import site as sites
from goldenpath.errors import Failed, Refused

RELEASE = "20261123T221500-1a2b3c4d"
WEB = f"sum-acme-gunicorn@{RELEASE}.service"
WORKER = "sum-acme-celery.service"


@pytest.fixture
def acme(paths):
    facts = {
        "domains": ["acme.example", "www.acme.example"],
        "secrets": ["MAIL_PASSWORD"],
        "processes": {"rq": {"command": "x"}},
        "schedules": {"nightly": {"command": "x", "at": "daily"}},
    }
    site = sites.Site("acme", facts)
    pathlib.Path(site.root).mkdir(parents=True)
    pathlib.Path(site.path(".env")).write_text(env.dump({"MAIL_PASSWORD": "correct horse"}))
    return site


@pytest.fixture
def journal(tmp_path, monkeypatch):
    """journalctl, which gives these entries, the newest first where it is asked so; what it was asked is kept."""
    place = tmp_path / "journal"
    program = tmp_path / "journalctl"
    program.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\ncase " $* " in *\' --follow \'*) exec cat {place}.new;; '
        f"*' --reverse '*) exec tac {place};; *) exec cat {place};; esac\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr(units, "JOURNALCTL", str(program))

    class Journal:
        asked = property(lambda self: (tmp_path / "asked").read_text())

        def write(self, *entries, new=()):
            for path, each in ((place, entries), (f"{place}.new", new)):
                lines = [
                    json.dumps({"_SYSTEMD_UNIT": unit, "_PID": "7", "MESSAGE": message, "__CURSOR": f"c{at}",
                                "__REALTIME_TIMESTAMP": str(1_764_360_000_000_000 + at * 1_000_000)})
                    for at, (unit, message) in enumerate(each)
                ]  # fmt: skip
                pathlib.Path(path).write_text("".join(line + "\n" for line in lines))

    return Journal()


def request(host="acme.example", uri="/", ip="192.0.2.7", status=200):
    return "caddy.service", json.dumps(
        {"request": {"host": host, "uri": uri, "remote_ip": ip, "method": "GET"}, "status": status, "duration": 0.0312,
         "size": 345}
    )  # fmt: skip


def shown(capsys, *arguments, **options):
    logs.show(*arguments, **options)
    return [line[15:] for line in capsys.readouterr().out.splitlines()]


def test_all_programs_under_their_own_names(acme, journal, capsys):
    journal.write(
        (WEB, "Booting"), (WORKER, "ready"), ("sum-acme-celerybeat.service", "tick"), ("sum-acme-rq.service", "job"),
        ("sum-acme-run-77-1.service", "migrated"), ("sum-acme-shop-celery.service", "of another site"),
        ("sum-acme-nightly.service", [104, 255, 105]), (None, "of nobody"),
    )  # fmt: skip
    assert shown(capsys, acme) == [
        "web      Booting", "worker   ready", "beat     tick", "rq       job", "run      migrated", "nightly  h�i",
    ]  # fmt: skip
    assert shown(capsys, acme, "worker") == ["worker   ready"]
    assert shown(capsys, acme, lines=2) == ["run      migrated", "nightly  h�i"]
    assert "--unit sum-acme-*" in journal.asked


def test_no_secret_and_nothing_that_a_terminal_obeys(acme, journal, capsys):
    journal.write((WEB, "\x1b]0;owned\x07 with correct horse at postgres://me:word@db.example/x"))
    assert shown(capsys, acme) == ["web      ?]0;owned? with ********** at postgres://me:**********@db.example/x"]


def test_what_comes_is_found_by_slice_for_the_next_release_has_another_unit(acme, journal, capsys):
    journal.write((WEB, "old"), new=[(WEB.replace("22", "23"), "new"), (WORKER, "not asked for")])
    assert shown(capsys, acme, "web", follow=True) == ["web      old", "web      new"]
    assert "--after-cursor c0 _SYSTEMD_SLICE=sum-acme.slice" in journal.asked
    journal.write(new=[(WEB, "first")])
    assert shown(capsys, acme, follow=True, since="today") == ["web      first"]
    assert "--since now" in journal.asked and "--since today" in journal.asked


def test_requests_as_a_person_reads_them(acme, journal, capsys):
    journal.write(
        request(uri="/shop?x=1"), request("other.example"), request(ip="127.0.0.1"), request(ip="::1"),
        ("caddy.service", "{no json"), ("caddy.service", '{"level": "info"}'),
        request("www.acme.example:443", "/a\u001b[2J", "2001:db8::7", 502),
    )  # fmt: skip
    assert shown(capsys, acme, "requests") == [
        "200 GET  acme.example/shop?x=1 31 ms 345 bytes 192.0.2.7",
        "502 GET  www.acme.example:443/a?[2J 31 ms 345 bytes 2001:db8::7",
    ]


TRACEBACK = (
    "Traceback (most recent call last):", '  File "x.py", line 1, in <module>', "    1 / 0",
    "ZeroDivisionError: division by zero",
)  # fmt: skip


def test_exceptions_with_their_request(acme, journal, capsys):
    chained = ("", "During handling of the above exception, another exception occurred:", "", *TRACEBACK[:3],
               "KeyError: 'x'")  # fmt: skip
    journal.write(
        (WEB, "Listening"), (WEB, "GET Internal Server Error: /boom"), *((WEB, line) for line in TRACEBACK[:2]),
        (WORKER, "in between"), *((WEB, line) for line in (*TRACEBACK[2:], *chained)), (WEB, "GET fine"),
        (WORKER, "Task failed"), *((WORKER, line) for line in TRACEBACK), (WORKER, "goes on"),
    )  # fmt: skip
    logs.show(acme, "errors", lines=5)
    first, second = capsys.readouterr().out.strip().split("\n\n11-")
    assert first.splitlines()[0].endswith(" web") and first.splitlines()[1] == "GET Internal Server Error: /boom"
    assert "in between" not in first and "GET fine" not in first and first.endswith("KeyError: 'x'")
    assert second.splitlines()[0].endswith(" worker") and second.splitlines()[1] == "Task failed"
    assert second.endswith("ZeroDivisionError: division by zero")
    logs.show(acme, "errors", lines=1)
    assert "KeyError" not in capsys.readouterr().out


def test_nothing_is_said_as_such(acme, journal, capsys):
    journal.write()
    for what, said in (("errors", "No exception of acme"), ("web", "Nothing of web"), (None, "Nothing of acme")):
        logs.show(acme, what)
        assert capsys.readouterr().out.startswith(said)


def test_a_journal_that_cannot_be_read(acme, journal, tmp_path):
    (tmp_path / "journalctl").write_text("#!/bin/sh\necho 'Failed to parse timestamp: yesterdy' >&2; exit 1\n")
    with pytest.raises(Failed, match="journalctl: Failed to parse timestamp: yesterdy. Try: --since '1 hour ago'"):
        logs.show(acme, since="yesterdy")


def test_names_that_the_site_does_not_have(acme, journal):
    with pytest.raises(Refused) as told:
        logs.show(acme, "wbe")
    assert str(told.value) == (
        "acme has no 'wbe'. Try one of: beat, deploy, errors, nightly, requests, rq, web, worker"
    )


def test_the_newest_deploy_failed_or_not(acme, capsys):
    with pytest.raises(Refused, match="was not deployed yet"):
        logs.show(acme, "deploy")
    for at, (name, said) in enumerate(
        (("releases/r1/deploy.log", "fine\n"), ("failed/r2.log", "::told x\na\ncorrect horse\n"))
    ):
        path = pathlib.Path(acme.path(name))
        path.parent.mkdir(parents=True)
        path.write_text(said)
        os.utime(path, (at, at))
    logs.show(acme, "deploy", lines=2)
    assert capsys.readouterr().out == f"{acme.path('failed/r2.log')}:\na\n**********\n"
