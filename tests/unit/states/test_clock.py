"""The state over the clock: enabled and running where it can run, and quiet where it cannot."""

import pytest
from salt.exceptions import CommandExecutionError

KEPT = {"unit": "chrony.service", "enabled": True, "running": True, "skipped": False}


class World:
    def __init__(self, load):
        self.status, self.after, self.started = dict(KEPT), dict(KEPT), 0
        self.state = load("_states/clock.py", salt={"clock.status": lambda: self.status, "clock.start": self.start})

    def start(self):
        self.started += 1
        if self.after is None:
            raise CommandExecutionError("The clock cannot be kept: no. Try: systemctl status chrony.service")
        self.status = self.after

    def apply(self, test=False):
        self.state.__opts__["test"] = test
        ret = self.state.running("clock")
        return ret["result"], ret["changes"], ret["comment"]


@pytest.fixture
def world(load):
    return World(load)


def test_nothing_to_do(world):
    assert world.apply() == world.apply(test=True) == (True, {}, "chrony.service runs")
    assert world.started == 0


@pytest.mark.parametrize(
    ("drift", "old"),
    [
        ({"enabled": False}, "not enabled, running"),
        ({"running": False}, "enabled, not running"),
        ({"enabled": False, "running": False, "skipped": True}, "not enabled, not running"),
    ],
)
def test_drift_is_told_and_healed(world, drift, old):
    world.status.update(drift)
    change = {"chrony.service": {"old": old, "new": "enabled, running"}}
    assert world.apply(test=True) == (None, change, "chrony.service would be enabled and started")
    assert world.started == 0
    assert world.apply() == (True, change, "chrony.service runs")
    assert world.apply() == (True, {}, "chrony.service runs")
    assert world.started == 1


def test_where_it_cannot_run(world):
    world.status.update(running=False, skipped=True)
    told = "chrony.service is enabled; it cannot run on this host, whose clock is kept outside"
    assert world.apply() == world.apply(test=True) == (True, {}, told)
    assert world.started == 0


def test_a_host_that_has_none_yet(world):
    world.status = {}
    result, changes, _ = world.apply(test=True)
    assert result is None and list(changes) == ["systemd-timesyncd.service"]


def test_one_that_does_not_start(world):
    world.status.update(running=False)
    world.after = {**KEPT, "running": False}
    assert world.apply()[0] is False
    assert "does not stay up. Try: systemctl status chrony.service" in world.apply()[2]
    world.after = None
    assert world.apply()[::2] == (False, "The clock cannot be kept: no. Try: systemctl status chrony.service")
