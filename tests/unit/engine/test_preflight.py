"""What a deploy and a rollback ask of Redis before they begin; its answers are played."""

import json
import pathlib

import pytest
from goldenpath import host, preflight, redis_gate
from goldenpath.errors import Refused


def play(monkeypatch, answer="PONG", **failed):
    """Redis answers so; failed: checks by name, each with its sentence. Returns the commands that it would name."""
    commands = []

    def answers(host_id, again, slug):
        commands.append(again())
        assert host_id == "web1"
        return answer

    def checks(host_id, again, site):
        commands.append(again("firewall"))
        return [
            {"check": "pong", "ok": True, "message": "PONG"},
            {"check": "listeners", "ok": None, "message": "-"},
        ] + [{"check": name, "ok": False, "message": message} for name, message in failed.items()]

    monkeypatch.setattr(redis_gate, "answer", answers)
    monkeypatch.setattr(redis_gate, "checks", checks)
    return commands


def test_a_redis_that_can_be_used(site, monkeypatch):
    play(monkeypatch)
    preflight.pong("acme")
    preflight.gate("acme")


def test_every_reason_of_redis_at_once(site, monkeypatch):
    play(monkeypatch, memory="It is full. Try: a", policy="It evicts. Try: b")
    with pytest.raises(Refused, match=r"\AIt is full\. Try: a\nIt evicts\. Try: b\Z"):
        preflight.gate("acme")


def test_without_pong_nothing_is_begun(site, monkeypatch):
    play(monkeypatch, answer="Redis on web1 did not answer PONG: connection refused. Try: x")
    with pytest.raises(Refused, match=r"\ARedis on web1 did not answer PONG: connection refused\. Try: x\Z"):
        preflight.pong("acme")


@pytest.mark.parametrize("salt", ["salt-ssh", "salt"])
def test_the_command_is_of_this_hosts_controller(site, monkeypatch, salt):
    pathlib.Path(host.HOST).write_text(json.dumps({"host": "web1", "salt": salt}))
    commands = play(monkeypatch)
    preflight.pong("acme")
    preflight.gate("acme")
    assert commands == [f"{salt} web1 state.apply redis", f"{salt} web1 state.apply firewall"]


def test_a_site_with_a_redis_of_its_own_needs_both(site, monkeypatch):
    asked = []
    monkeypatch.setattr(redis_gate, "own", lambda: ["acme"])
    monkeypatch.setattr(redis_gate, "answer", lambda *_, slug=None, **__: asked.append(slug) or answers[slug])
    answers = {None: "PONG", "acme": "PONG"}
    preflight.pong("acme")
    assert asked == [None, "acme"]
    answers["acme"] = "Redis of acme on web1 did not answer PONG: no. Try: x"
    with pytest.raises(Refused, match=r"^Redis of acme on web1 did not answer PONG"):
        preflight.pong("acme")
    # Another site's is nobody else's affair.
    preflight.pong("beta")
