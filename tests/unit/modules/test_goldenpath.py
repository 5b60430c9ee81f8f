"""
goldenpath: the operator's door. What Redis is asked behind it is tried in test_redis_gate.py, and what a site is asked
in tests/unit/engine/test_health.py.
"""

import hashlib

import pytest
from salt.exceptions import CommandExecutionError


class Door:
    """The module over an engine that answers as a test says."""

    def __init__(self, load):
        self.asked, self.answer = [], {}
        self.module = load(
            "_modules/goldenpath.py", salt={"engine.call": self.call}, opts={"id": "web1", "file_client": "local"}
        )

    def call(self, *words, request=None):
        self.asked.append((words, request))
        if isinstance(self.answer, Exception):
            raise self.answer
        return dict(self.answer)

    @property
    def retcode(self):
        return self.module.__context__.get("retcode", 0)


@pytest.fixture
def door(load):
    return Door(load)


def test_health_for_a_person(door):
    door.answer = {"status": "degraded", "message": "/health/ answered 200, degraded", "hint": "x", "code": 200}
    answer = door.module.health("acme")
    assert answer["message"] == "acme on web1 is degraded: /health/ answered 200, degraded."
    assert door.retcode == 0 and "hint" not in answer
    door.answer = {"status": "unhealthy", "message": "no", "hint": "journalctl -u 'sum-acme-gunicorn*' -n 50"}
    answer = door.module.health("acme", path="/ready", via="front", timeout=2)
    assert answer["message"] == ("acme on web1 is unhealthy: no. Try: journalctl -u 'sum-acme-gunicorn*' -n 50")
    assert door.retcode == 1
    assert door.asked[-1] == (("call", "health", "acme"), {"front": True, "path": "/ready", "timeout": 2})


def test_a_host_that_cannot_be_asked_is_one_sentence(door):
    door.answer = CommandExecutionError("web1 has no site 'amce'. Known: acme. Try: one of them")
    answer = door.module.health("amce")
    assert (answer["status"], answer["message"]) == ("unreachable", str(door.answer))
    assert door.retcode == 1


def test_via_what(door):
    answer = door.module.health("acme", via="door")
    assert "via must be socket or front, not 'door'" in answer["message"] and door.asked == []
    assert door.retcode == 1


@pytest.mark.parametrize("mark", ["", "_"])
def test_the_modules_that_a_minion_uses(load, tmp_path, mark):
    """As it was sent them, and as a checkout has them."""
    for name in ("modules/goldenpath.py", "modules/own.py", "states/release.py"):
        place = tmp_path / f"{mark}{name}"
        place.parent.mkdir(exist_ok=True)
        place.write_text(name)
    module = load("_modules/goldenpath.py")
    module.__file__ = str(tmp_path / f"{mark}modules/goldenpath.py")
    assert module.synced() == {
        name: hashlib.sha256(name.encode()).hexdigest()
        for name in ("modules/goldenpath.py", "modules/own.py", "states/release.py")
    }
