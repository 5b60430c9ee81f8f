"""The systemd units of a site's releases: what systemctl is asked, and what its answers mean."""

import os

import pytest
from salt.exceptions import CommandExecutionError

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

    def run_all(self, argv, python_shell=None, ignore_retcode=None, timeout=None):
        assert (argv[0], python_shell, ignore_retcode) == ("systemctl", False, True)
        self.calls.append(argv[1:])
        failed = argv[1] in self.fails
        return {
            "retcode": int(failed),
            "stdout": self.answers.get(argv[1], ""),
            "stderr": "No.\n" if failed else "",
        }

    def run_stdout(self, argv, **_):
        assert argv[0] == "journalctl"
        self.calls.append(argv)
        return "last line"

    @property
    def verbs(self):
        return [call[0] for call in self.calls]


@pytest.fixture
def systemd():
    return Systemd()


@pytest.fixture
def units(load, systemd):
    return load(
        "_modules/release_units.py", salt={"cmd.run_all": systemd.run_all, "cmd.run_stdout": systemd.run_stdout}
    )


def test_names(units):
    assert units.names(SLUG, RELEASE) == (SOCKET, SERVICE)


def test_start(units, systemd):
    assert units.start(SLUG, RELEASE) is True
    assert systemd.calls == [["start", SOCKET, SERVICE]]


def test_a_release_that_does_not_start(units, systemd):
    systemd.fails.add("start")
    with pytest.raises(CommandExecutionError) as told:
        units.start(SLUG, RELEASE)
    sentence, tail = str(told.value).split("\n")
    assert sentence == f"gunicorn does not start on the new release. Try: journalctl -u {SERVICE}"
    assert tail == "last line"


def test_journal(units, systemd):
    units.journal(SERVICE, 1234.9, 7)
    (call,) = systemd.calls
    assert call[1:7] == ["--unit", SERVICE, "--since", "@1234", "--lines", "7"]


def test_running(units, systemd):
    systemd.answers["list-units"] = (
        f"{SOCKET}  loaded active   running acme: socket\n"
        f"{SERVICE} loaded active   running acme: gunicorn\n"
        "sum-acme-gunicorn@20260101T000000-deadbeef.service loaded failed failed acme\n"
        "\n0 loaded units listed.\n"
    )
    assert units.running(SLUG) == ["20260101T000000-deadbeef", RELEASE]
    # Of this site alone: acme-2 begins with the same letters.
    assert systemd.calls[0][-1] == "sum-acme-gunicorn@*"


def test_nothing_runs(units, systemd):
    assert units.running(SLUG) == []


def test_stop(units, systemd):
    assert units.stop(SLUG, [RELEASE]) is True
    assert systemd.verbs == ["stop", "reset-failed"]
    assert set(systemd.calls[0][1:]) == {SOCKET, SERVICE}
    assert units.stop(SLUG, []) is True
    assert len(systemd.calls) == 2, "stop without a unit would be an error"


def test_enable_asks_first(units, systemd):
    systemd.answers["is-enabled"] = "enabled\nenabled\n"
    assert units.enable(["a.service", "b.service"]) is True
    assert systemd.verbs == ["is-enabled"]
    systemd.calls.clear()
    # It ends well where one of them is enabled.
    systemd.answers["is-enabled"] = "enabled\ndisabled\n"
    assert units.enable(["a.service", "b.service"]) is True
    assert systemd.verbs == ["is-enabled", "enable"]
    systemd.calls.clear()
    systemd.answers["is-enabled"] = "disabled\n"
    assert units.enable(["a.service"]) is True
    assert systemd.verbs == ["is-enabled", "enable"]
    systemd.fails.add("enable")
    with pytest.raises(CommandExecutionError, match=r"^a\.service cannot be enabled: No\.$"):
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
    assert units.background(SLUG, celery) == names


def test_restart_does_not_wait(units, systemd):
    since = units.restart_background(SLUG, BOTH)
    assert since > 0
    (restart,) = [call for call in systemd.calls if call[0] == "restart"]
    assert restart == ["restart", "--no-block", "sum-acme-celery.service", "sum-acme-celerybeat.service"]
    assert units.await_background(SLUG, BOTH, since) is True


def test_a_site_without_celery_asks_nothing(units, systemd):
    units.await_background(SLUG, OFF, units.restart_background(SLUG, OFF))
    assert systemd.calls == []


@pytest.mark.parametrize("how", ["fails to start", "ends at once"])
def test_celery_that_does_not_start(units, systemd, how):
    systemd.fails = {"start"} if how == "fails to start" else set()
    systemd.answers["show"] = "4242\n" if systemd.fails else "0\n"
    with pytest.raises(CommandExecutionError) as told:
        units.await_background(SLUG, BOTH, 1.0)
    assert str(told.value) == (
        "sum-acme-celery.service does not start on the new release. "
        "Try: journalctl -u sum-acme-celery.service\nlast line"
    )


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
def test_memory_is_what_the_kernel_cannot_take_back(units, systemd, tmp_path, path, text, used):
    units.CGROUPS = str(tmp_path)
    systemd.answers["show"] = "/sum.slice\n"
    if path:
        place = (tmp_path / "sum.slice" / path).resolve()
        place.parent.mkdir(parents=True)
        place.write_text(text)
    assert units.memory(SLUG, RELEASE) == used


def test_memory_of_what_does_not_run(units, systemd):
    systemd.answers["show"] = "\n"
    assert units.memory(SLUG, RELEASE) == 0


@pytest.mark.parametrize("shown", ["ActiveState=active\nNRestarts=1\n", "ActiveState=activating\nNRestarts=0\n"])
def test_a_beat_that_does_not_stay_up(units, systemd, shown):
    systemd.answers["show"] = "ActiveState=active\nNRestarts=0\n"
    assert units.steady_background(SLUG, BOTH, 1.0) is True
    systemd.answers["show"] = shown
    with pytest.raises(CommandExecutionError, match="does not stay up on the new release"):
        units.steady_background(SLUG, BOTH, 1.0)


def test_disable(units, systemd):
    assert units.disable([]) is units.disable(["a.service"]) is True
    assert systemd.calls == [["disable", "--now", "--quiet", "a.service"]]


def test_live(units, monkeypatch):
    assert units.live("no-such-site") is None
    monkeypatch.setattr(os, "readlink", {"/srv/sum/acme/current": f"releases/{RELEASE}"}.__getitem__)
    assert units.live(SLUG) == RELEASE


@pytest.fixture
def host(units, tmp_path):
    units.SITES, units.UNITS = str(tmp_path / "sites"), str(tmp_path / "units")
    for name in ("sites/acme.json", "sites/acme-two.json", "units/sum-acme-gunicorn@.service",
                 "units/sum-acme-gunicorn@.socket", "units/sum-acme-gunicorn.service", "units/sum-acme-celery.service",
                 "units/sum-acme-celerybeat.service", "units/sum-acme-two-celery.service",
                 "units/other.service"):  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    return tmp_path


def test_strangers(units, host):
    assert units.strangers(["acme", "acme-two"]) == []
    assert units.strangers(["acme-two"]) == ["acme"]


def test_retire(units, systemd, host):
    assert len(units.retire("acme")) == 5
    assert sorted(os.listdir(host / "units")) == ["other.service", "sum-acme-two-celery.service"]
    assert os.listdir(host / "sites") == ["acme-two.json"]
    assert ["disable", "--now", "--quiet", "sum-acme-celery.service", "sum-acme-celerybeat.service",
            "sum-acme-gunicorn.service"] in systemd.calls  # fmt: skip
    assert "daemon-reload" in systemd.verbs
