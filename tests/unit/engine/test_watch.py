"""What is overdue, and what starts again and again."""

import json
import os
import pathlib
import time

import pytest
from goldenpath import alert, cli, files, journal, lock, process, signs, watch
from goldenpath import host as hosts
from goldenpath import site as sites
from goldenpath.errors import Failed

from .backups import CONFIG, acme, ago


@pytest.mark.parametrize(
    ("backup_", "drill_", "since", "expected"),
    [
        (1, 1, 999, []),
        (40, 1, 999, [("backup", False)]),
        (40, 300, 999, [("backup", False), ("drill", False)]),
        (101, 1, 999, [("backup", True)]),
        (None, None, 1, []),
        (None, None, 50, [("backup", False)]),
    ],
)
def test_what_is_overdue(host, backup_, drill_, since, expected):
    files.write_json(f"{journal.folder()}/since.state", {"at": ago(since)})
    if backup_:
        journal.record("acme", good={"at": ago(backup_)}, drilled={"at": ago(drill_)})
    pathlib.Path(hosts.BACKUP).write_text(json.dumps({**CONFIG, "refuse_after": {"backup": 100}}))
    found = list(watch._overdue(acme()))
    assert [("drill" if "drill of" in text else "backup", refused) for text, refused in found] == expected
    assert all("Try: salt-ssh web1 goldenpath." in text for text, _ in found)
    # It is a backup that a loss would go back to.
    assert all(("A loss now would cost" in text) == ("backup of" in text and bool(backup_)) for text, _ in found)


def test_a_dump_that_is_late_is_told_with_what_a_loss_would_cost(host):
    files.write_json(f"{journal.folder()}/since.state", {"at": ago(999)})
    journal.record("acme", good={"at": ago(10)}, drilled={"at": ago(1)})
    path = pathlib.Path(hosts.BACKUP)
    path.write_text(json.dumps({**CONFIG, "every": "1h"}))
    # The pillar wants them since now.
    assert list(watch._overdue(acme())) == []
    os.utime(path, (time.time() - 9 * 3600,) * 2)
    (told,) = watch._overdue(acme())
    assert told == (
        "The last dump of acme on web1 between the nights is 540 minutes old, and the pillar has one every 1h. "
        "A loss now would cost 600 minutes. Try: journalctl -u goldenpath-dump -n 20",
        False,
    )
    journal.record("acme", dumped={"at": ago(2.5)})
    assert list(watch._overdue(acme())) == []
    journal.record("acme", dumped={"at": ago(3.5)}, good={"at": ago(40)})
    assert [sentence.partition(" of acme")[0] for sentence, _ in watch._overdue(acme())] == [
        "The last good backup", "The last dump",
    ]  # fmt: skip
    assert all("A loss now would cost 210 minutes. Try: " in sentence for sentence, _ in watch._overdue(acme()))
    path.write_text(json.dumps({**CONFIG, "every": "15m"}))
    os.utime(path, (0, 0))
    journal.record("acme", dumped={"at": ago(0.8)}, good={"at": ago(1)})
    assert len(list(watch._overdue(acme()))) == 1


def test_unknown_sites_are_named(host):
    with pytest.raises(Failed, match=r"web1 has no site 'nobody'\. Known: acme"):
        sites.backed_up("nobody")


def test_one_at_a_time(host):
    busy = pytest.raises(Failed, match="web1 is busy with a backup since")
    with lock.of_backups("backup", 0), busy, lock.of_backups("drill", 0):
        pytest.fail("two at once")
    with lock.of_backups("drill", 0):
        pass


@pytest.fixture
def services(host, monkeypatch):
    """What systemd counts."""
    (host / "var/lib/goldenpath/backup").mkdir(parents=True)
    counts, state = {}, {"heal": "inactive"}

    def run(argv, **_):
        if "--property=ActiveState" in argv:
            return process.Done(0, state["heal"] + "\n", "")
        assert "postgresql@*.service" in argv and "goldenpath-heal.service" in argv
        blocks = [f"Id={unit}\nNRestarts={count}\n" for unit, count in counts.items()]
        return process.Done(0, "\n".join(["Id=caddy.service\nNRestarts=0\n", *blocks]), "")

    monkeypatch.setattr(process, "run", run)
    for name in ("now", "slow", "standing"):
        monkeypatch.setattr(signs, name, lambda *_, name=name: list(state.get(name, [])))
    return counts, state


def test_a_service_that_notices_silence_hears_of_good_minutes_alone(services, monkeypatch, capsys):
    _, state = services
    heard = []
    monkeypatch.setattr(alert, "beat", lambda url, what: heard.append((url, what)))
    files.write_json(f"{hosts.ETC}/alert.json", {"host": "web1", "heartbeat": "https://beat.example/1"})
    watched(capsys)
    assert heard == [("https://beat.example/1", "web1")]
    # What waits for a person is no trouble; what was told before and goes on is.
    state["standing"] = ["web1 has waited 3 days for a reboot. Try: systemctl reboot"]
    watched(capsys)
    watched(capsys)
    assert len(heard) == 2, "told now, known then"
    state["now"] = ["acme is down. Try: this"]
    watched(capsys)
    watched(capsys)
    assert len(heard) == 2
    state["now"] = []
    watched(capsys)  # tells that it is over
    watched(capsys)
    assert len(heard) == 3


def watched(capsys):
    status = cli.main(["watch"])
    said = capsys.readouterr()
    return said.err.strip().splitlines() if status else []


def test_a_rise_of_restarts_is_told_once(services, capsys):
    counts, _ = services
    assert watched(capsys) == []
    counts["redis-server.service"] = 3
    (told,) = watched(capsys)
    assert told.startswith("redis-server.service on web1 failed and was started again, 3 times") and "Try: " in told
    assert watched(capsys) == []
    counts["redis-server.service"] = 4
    assert "1 times" in watched(capsys)[0]
    # Started by hand, and failing again.
    counts["redis-server.service"] = 2
    assert "2 times" in watched(capsys)[0]
    counts.clear()
    assert watched(capsys) == []


def test_what_is_overdue_is_told_every_six_hours(services, host, capsys, monkeypatch):
    os.symlink("releases/r", host / "srv/sum/acme/current")
    files.write_json(f"{journal.folder()}/since.state", {"at": ago(50)})
    assert "has never been, in 2 days" in watched(capsys)[0]
    assert watched(capsys) == []
    now = time.time()
    monkeypatch.setattr(watch.time, "time", lambda: now + watch.AGAIN + 60)
    assert "The last good backup" in watched(capsys)[0]


def test_trouble_is_told_once_reminded_of_and_taken_back(services, capsys, monkeypatch):
    state = services[1]
    state["now"] = [
        "acme on web1 is unreachable for visitors: no answer within 5 s. Try: goldenpath health acme --front"
    ]
    assert watched(capsys) == state["now"] and watched(capsys) == []
    # Another figure in it is no other trouble.
    state["now"] = [state["now"][0].replace("5 s", "6 s")]
    assert watched(capsys) == []
    now = time.time()
    monkeypatch.setattr(watch.time, "time", lambda: now + watch.AGAIN + 60)
    assert watched(capsys) == state["now"]
    state["now"] = []
    assert watched(capsys) == [
        "It is over: acme on web1 is unreachable for visitors: no answer within 6 s. Try: goldenpath ps"
    ]
    assert watched(capsys) == []


def test_what_waits_for_a_person_is_told_rarely(services, capsys, monkeypatch):
    services[1]["standing"] = ["web1 has waited 2 days for a reboot, after updates. Try: systemctl reboot"]
    assert watched(capsys) == services[1]["standing"]
    now = time.time()
    monkeypatch.setattr(watch.time, "time", lambda: now + watch.AGAIN + 60)
    assert watched(capsys) == []
    monkeypatch.setattr(watch.time, "time", lambda: now + watch.RARELY + 60)
    assert watched(capsys) == services[1]["standing"]


def test_what_comes_in_days_is_looked_at_now_and_then(services, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(signs, "slow", lambda *_: asked.append(1) or ["The certificate has 9 days left. Try: x"])
    assert watched(capsys) == ["The certificate has 9 days left. Try: x"]
    # In between it counts as it was, and is not over.
    assert watched(capsys) == [] and asked == [1]


def test_the_memory_of_an_earlier_version(services, capsys):
    state = services[1]
    state["now"] = ["It is down. Try: x"]
    key = state["now"][0]
    files.write_json(f"{journal.folder()}/watch.state", {"told": {key: time.time(), "gone": time.time()}})
    assert watched(capsys) == []


def test_a_restore_that_nobody_heals_is_told(services, capsys):
    files.write_json(journal.path(acme()), {"phase": "stopped"})
    services[1]["heal"] = "activating"
    assert watched(capsys) == []
    services[1]["heal"] = "failed"
    assert "A restore of acme on web1 was interrupted and is not healed" in watched(capsys)[0]
