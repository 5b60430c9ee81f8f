"""The systemd units of a site's releases: what systemctl is asked, and what its answers mean."""

import os
import pathlib
import socket
import tempfile
import threading
import time

import pytest
from goldenpath import host as hosts
from goldenpath import process
from goldenpath import units as module
from goldenpath.errors import Failed
from goldenpath.site import Site

SLUG = "acme"
RELEASE = "20261123T221500-1a2b3c4d"
SOCKET = f"sum-acme-gunicorn@{RELEASE}.socket"
SERVICE = f"sum-acme-gunicorn@{RELEASE}.service"
BOTH = {"worker": True, "beat": True, "concurrency": 2}
OFF = {"worker": False, "beat": False, "concurrency": 2}


class Systemd:
    """systemctl and journalctl, answered by the verb."""

    def __init__(self):
        self.calls = []
        self.fails = set()
        self.answers = {"show": "4242\n"}

    def run(self, argv, **_):
        if argv[0] == module.JOURNALCTL:
            self.calls.append(argv)
            return process.Done(0, "last line\n", "")
        assert argv[0] == module.SYSTEMCTL
        self.calls.append(argv[1:])
        failed = argv[1] in self.fails
        return process.Done(int(failed), "No.\n" if failed else self.answers.get(argv[1], ""), "")

    @property
    def verbs(self):
        return [call[0] for call in self.calls]


@pytest.fixture
def systemd(monkeypatch):
    systemd = Systemd()
    monkeypatch.setattr(process, "run", systemd.run)
    return systemd


@pytest.fixture
def units(systemd):
    return module


def acme(celery=None):
    """The site, with what it has of Celery."""
    return Site(SLUG, {"celery": celery or {}})


def test_names(units):
    assert units.names(acme(), RELEASE) == (SOCKET, SERVICE)


def test_start(units, systemd):
    units.start(acme(), RELEASE)
    assert systemd.calls == [["start", SOCKET, SERVICE]]


def test_a_release_that_does_not_start(units, systemd):
    systemd.fails.add("start")
    with pytest.raises(Failed) as told:
        units.start(acme(), RELEASE)
    assert str(told.value) == f"gunicorn does not start on the new release. Try: journalctl -u {SERVICE}"
    assert told.value.tail == "last line"


def test_journal(units, systemd):
    units.journal(SERVICE, 1234.9, 7)
    synced, call = systemd.calls
    assert synced[1:] == ["--sync"], "what was not written yet is not missed"
    assert call[1:7] == ["--unit", SERVICE, "--since", "@1234", "--lines", "7"]


def test_running(units, systemd):
    systemd.answers["list-units"] = (
        f"{SOCKET}  loaded active   running acme: socket\n"
        f"{SERVICE} loaded active   running acme: gunicorn\n"
        "sum-acme-gunicorn@20260101T000000-deadbeef.service loaded failed failed acme\n"
        "\n0 loaded units listed.\n"
    )
    assert units.running(acme()) == ["20260101T000000-deadbeef", RELEASE]
    # Of this site alone: acme-2 begins with the same letters.
    assert systemd.calls[0][-1] == "sum-acme-gunicorn@*"


def test_nothing_runs(units, systemd):
    assert units.running(acme()) == []


def test_stop(units, systemd):
    units.stop(acme(), [RELEASE])
    assert systemd.verbs == ["stop", "reset-failed"]
    assert set(systemd.calls[0][1:]) == {SOCKET, SERVICE}
    units.stop(acme(), [])
    assert len(systemd.calls) == 2, "stop without a unit would be an error"


def test_enable_asks_first(units, systemd):
    systemd.answers["is-enabled"] = "enabled\nenabled\n"
    units.enable(["a.service", "b.service"])
    assert systemd.verbs == ["is-enabled"]
    systemd.calls.clear()
    # It ends well where one of them is enabled.
    systemd.answers["is-enabled"] = "enabled\ndisabled\n"
    units.enable(["a.service", "b.service"])
    assert systemd.verbs == ["is-enabled", "enable"]
    systemd.calls.clear()
    systemd.answers["is-enabled"] = "disabled\n"
    units.enable(["a.service"])
    assert systemd.verbs == ["is-enabled", "enable"]
    systemd.fails.add("enable")
    with pytest.raises(Failed, match=r"^a\.service cannot be enabled: No\. Try: "):
        units.enable(["a.service"])


@pytest.mark.parametrize(
    ("celery", "names"),
    [
        (OFF, []),
        ({"worker": True, "beat": False}, ["sum-acme-celery.service"]),
        (BOTH, ["sum-acme-celery.service", "sum-acme-celerybeat.service"]),
    ],
)
def test_background(units, celery, names):
    assert units.background(acme(celery)) == names


FURTHER = {
    "celery": OFF,
    "processes": {"rq": {"command": "manage.py rqworker", "stop": 60}},
    "schedules": {"nightly": {"command": "manage.py clearsessions", "at": "daily", "limit": 60}},
}


@pytest.fixture
def further(units, paths):
    """A site with a daemon and a schedule, and what others have left."""
    pathlib.Path(module.UNITS).mkdir(parents=True)
    for name in ("sum-acme-rq.service", "sum-acme-nightly.service", "sum-acme-nightly.timer", "sum-acme-old.service",
                 "sum-acme-rq.timer", "sum-acme-gunicorn.service", "sum-acme-celery.service",
                 "sum-acme-two-rq.service", "sum-acme.slice"):  # fmt: skip
        pathlib.Path(module.UNITS, name).write_text("")
    return Site(SLUG, FURTHER)


def test_daemons_and_timers_run_beside_celery(units, further):
    assert units.background(further) == ["sum-acme-rq.service", "sum-acme-nightly.timer"]
    # Those of a pillar that was not applied yet have no unit.
    os.unlink(f"{module.UNITS}/sum-acme-rq.service")
    assert units.background(further) == ["sum-acme-nightly.timer"]


def test_what_the_pillar_names_no_more_goes(units, systemd, further):
    assert units.stray(further) == ["sum-acme-old.service", "sum-acme-rq.timer"]
    units.remove(units.stray(further))
    assert units.stray(further) == [] and "daemon-reload" in systemd.verbs
    assert ["disable", "--now", "--quiet", "sum-acme-old.service", "sum-acme-rq.timer"] in systemd.calls
    assert len(os.listdir(module.UNITS)) == 7


def test_what_a_schedule_runs_is_stopped_and_never_started(units, systemd, further):
    assert "sum-acme-nightly.service" in units.every_background(further)
    units.restart_background(further)
    units.await_background(further, 1.0)
    started = {unit for call in systemd.calls if call[0] in ("restart", "start", "enable") for unit in call[1:]}
    assert "sum-acme-nightly.service" not in started and "sum-acme-nightly.timer" in started


def test_a_daemon_gets_a_moment_to_fail(units, systemd, further, monkeypatch):
    slept = []
    monkeypatch.setattr(module.time, "sleep", slept.append)
    systemd.answers["show"] = "ActiveState=active\nNRestarts=0\n"
    units.steady_background(further, module.time.time())
    assert len(slept) == 1 and 0 < slept[0] <= module.STEADY
    systemd.answers["show"] = "ActiveState=activating\nNRestarts=1\n"
    with pytest.raises(Failed, match="sum-acme-rq.service does not stay up on the new release"):
        units.steady_background(further, module.time.time())


def test_restart_does_not_wait(units, systemd):
    since = units.restart_background(acme(BOTH))
    assert since > 0
    (restart,) = [call for call in systemd.calls if call[0] == "restart"]
    assert restart == ["restart", "--no-block", "sum-acme-celery.service", "sum-acme-celerybeat.service"]
    units.await_background(acme(BOTH), since)


def test_a_site_without_celery_asks_nothing(units, systemd):
    units.await_background(acme(OFF), units.restart_background(acme(OFF)))
    assert systemd.calls == []


@pytest.mark.parametrize("how", ["fails to start", "ends at once"])
def test_celery_that_does_not_start(units, systemd, how):
    systemd.fails = {"start"} if how == "fails to start" else set()
    systemd.answers["show"] = "4242\n" if systemd.fails else "0\n"
    with pytest.raises(Failed) as told:
        units.await_background(acme(BOTH), 1.0)
    assert str(told.value) == (
        "sum-acme-celery.service does not start on the new release. Try: journalctl -u sum-acme-celery.service"
    )
    assert told.value.tail == "last line"


def test_main_pid(units, systemd):
    assert units.main_pid(SERVICE) == 4242
    systemd.answers["show"] = ""
    assert units.main_pid(SERVICE) == 0


@pytest.mark.parametrize(
    ("path", "text", "used"),
    [
        ("memory.stat", "anon 52428800\nfile 2147483648\n", 52428800),
        ("../memory/sum.slice/memory.stat", "cache 2147483648\nrss 1048576\n", 1048576),
        ("memory.stat", "nothing\n", 0),
        (None, "", 0),
    ],
)
def test_memory_is_what_the_kernel_cannot_take_back(units, systemd, tmp_path, monkeypatch, path, text, used):
    monkeypatch.setattr(units, "CGROUPS", str(tmp_path))
    systemd.answers["show"] = "/sum.slice\n"
    if path:
        place = (tmp_path / "sum.slice" / path).resolve()
        place.parent.mkdir(parents=True)
        place.write_text(text)
    assert units.memory(acme(), RELEASE) == used


def test_memory_of_what_does_not_run(units, systemd):
    systemd.answers["show"] = "\n"
    assert units.memory(acme(), RELEASE) == 0


@pytest.mark.parametrize("shown", ["ActiveState=active\nNRestarts=1\n", "ActiveState=activating\nNRestarts=0\n"])
def test_a_beat_that_does_not_stay_up(units, systemd, shown):
    systemd.answers["show"] = "ActiveState=active\nNRestarts=0\n"
    units.steady_background(acme(BOTH), 1.0)
    systemd.answers["show"] = shown
    with pytest.raises(Failed, match="does not stay up on the new release"):
        units.steady_background(acme(BOTH), 1.0)


def test_disable(units, systemd):
    units.disable([])
    units.disable(["a.service"])
    assert systemd.calls == [["disable", "--now", "--quiet", "a.service"]]


@pytest.fixture
def retired(units, paths):
    """A host with two sites, whose names begin alike."""
    pathlib.Path(hosts.SITES).mkdir()
    pathlib.Path(module.UNITS).mkdir(parents=True)
    for name in ("acme.json", "acme-two.json"):
        pathlib.Path(hosts.SITES, name).write_text("{}")
    for name in ("sum-acme-gunicorn@.service", "sum-acme-gunicorn@.socket", "sum-acme-gunicorn.service",
                 "sum-acme-celery.service", "sum-acme-celerybeat.service", "sum-acme-two-celery.service",
                 "other.service"):  # fmt: skip
        pathlib.Path(module.UNITS, name).write_text("")


def test_retire(units, systemd, retired):
    assert len(units.retire(acme())) == 5
    assert sorted(os.listdir(module.UNITS)) == ["other.service", "sum-acme-two-celery.service"]
    assert os.listdir(hosts.SITES) == ["acme-two.json"]
    assert ["disable", "--now", "--quiet", "sum-acme-celery.service", "sum-acme-celerybeat.service",
            "sum-acme-gunicorn.service"] in systemd.calls  # fmt: skip
    assert "daemon-reload" in systemd.verbs


@pytest.fixture
def short(monkeypatch):
    """A folder whose path a Unix socket's may begin with (unix(7): 108 bytes)."""
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setattr(module, "RUN", folder)
        (pathlib.Path(folder) / "sum-acme").mkdir()
        yield pathlib.Path(folder)


def test_connections_of_a_release_get_their_time(units, systemd, short):
    systemd.answers["show"] = "0\n"  # as where nginx does not run: this very process tells
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as browser:
        listener.bind(str(short / f"sum-acme/{RELEASE}.sock"))
        listener.listen()
        began = time.time()
        units.await_connections(acme(), [RELEASE], 5)
        assert time.time() - began < 1, "nobody is connected"
        browser.connect(listener.getsockname())
        accepted = listener.accept()[0]
        began = time.time()
        units.await_connections(acme(), ["20260101T000000-00000000"], 5)
        assert time.time() - began < 1, "to another release"
        units.await_connections(acme(), [RELEASE], 1)
        assert time.time() - began >= 1
        threading.Timer(0.4, lambda: (browser.close(), accepted.close())).start()
        began = time.time()
        units.await_connections(acme(), [RELEASE], 20)
        assert 0.3 < time.time() - began < 10
