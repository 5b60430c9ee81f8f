"""The roster: a target that is nobody is an error, and a connection that has ended costs no time."""

import os
import time

import pytest
import salt.utils.vt
from salt.exceptions import SaltClientError


@pytest.fixture
def roster(load, tmp_path, monkeypatch):
    monkeypatch.setattr(salt.utils.vt.Terminal, "close", salt.utils.vt.Terminal.close)
    (tmp_path / "roster").write_text("web1: {host: 203.0.113.10}\nweb2: {host: 203.0.113.11}\n")
    return load(
        "_roster/goldenpath.py",
        opts={"roster_file": str(tmp_path / "roster"), "roster_defaults": {}, "rosters": [], "renderer": "yaml",
              "renderer_blacklist": [], "renderer_whitelist": [], "cachedir": str(tmp_path), "extension_modules": "",
              "optimization_order": [0], "grains": {}, "__role": "master"},
    )  # fmt: skip


def test_targets(roster):
    assert sorted(roster.targets("web*")) == ["web1", "web2"]
    assert roster.targets(["web2"], "list")["web2"]["host"] == "203.0.113.11"


def test_a_target_that_is_nobody(roster):
    with pytest.raises(
        SaltClientError, match=r"^No host matches 'db1'\. Known: web1, web2\. Try: name it in .*roster$"
    ):
        roster.targets("db1")


def test_a_connection_that_has_ended_is_closed_at_once(roster):
    roster.targets("web1")
    roster.targets("web1")  # wrapped once
    terminal = salt.utils.vt.Terminal(["sh", "-c", "exit 3"], stream_stdout=False, stream_stderr=False)
    while terminal.has_unread_data:
        terminal.recv()
    descriptors = [each for each in (terminal.child_fd, terminal.child_fde) if each is not None]
    began = time.monotonic()
    terminal.close(terminate=True, kill=True)
    assert time.monotonic() - began < 0.15
    assert (terminal.exitstatus, terminal.closed) == (3, True)
    for descriptor in descriptors:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)
    terminal.close()


def test_one_that_runs_is_ended_as_before(roster):
    roster.targets("web1")
    terminal = salt.utils.vt.Terminal(["sleep", "60"], stream_stdout=False, stream_stderr=False)
    pid = terminal.pid
    terminal.close(terminate=True, kill=True)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
