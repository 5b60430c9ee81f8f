"""The roster: a target that is nobody is an error, and what Salt needs is there for every command over ssh."""

import sys

import pytest
import salt.utils.event
import salt.utils.resource_warnings
import salt.utils.vt
from salt.exceptions import SaltClientError


@pytest.fixture
def roster(load, tmp_path, monkeypatch):
    for owner, name in (
        (salt.utils.vt.Terminal, "close"),
        (salt.utils.event.SaltEvent, "connect_pull"),
        (salt.utils.resource_warnings, "warn_until_close"),
    ):
        monkeypatch.setattr(owner, name, getattr(owner, name))
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


def test_every_command_over_ssh_is_patched(roster, monkeypatch):
    monkeypatch.delitem(sys.modules, "goldenpath_salt_3008", raising=False)
    # Whatever patched it before in this process.
    slow = getattr(salt.utils.vt.Terminal.close, "__wrapped__", salt.utils.vt.Terminal.close)
    monkeypatch.setattr(salt.utils.vt.Terminal, "close", slow)
    roster.targets("web1")
    assert salt.utils.vt.Terminal.close is not slow
    assert salt.utils.vt.Terminal.close.__wrapped__ is slow
    once = salt.utils.vt.Terminal.close
    roster.targets("web2")
    assert salt.utils.vt.Terminal.close is once
