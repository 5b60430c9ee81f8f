"""The state over the engine: told, installed, and then nothing to do."""

import pytest
from salt.exceptions import CommandExecutionError

CHANGES = {"engine": {"old": "", "new": "abc"}}


class World:
    def __init__(self, load):
        self.there, self.fails = False, False
        self.state = load(
            "_states/engine.py", salt={"engine.difference": self.difference, "engine.install": self.install}
        )

    def difference(self, source):
        assert source == "salt://x"
        return {} if self.there else dict(CHANGES)

    def install(self, source):
        if self.fails:
            raise CommandExecutionError("The engine cannot be installed on web1: no. Try: df -h")
        self.there = True

    def apply(self, test=False):
        self.state.__opts__["test"] = test
        ret = self.state.installed("engine", "salt://x")
        return ret["result"], ret["changes"], ret["comment"]


@pytest.fixture
def world(load):
    return World(load)


def test_four_steps(world):
    assert world.apply(test=True) == (None, CHANGES, "The engine would be installed")
    assert world.there is False
    assert world.apply() == (True, CHANGES, "The engine was installed")
    assert world.apply() == world.apply(test=True) == (True, {}, "The engine is as it should be")


def test_failure(world):
    world.fails = True
    assert world.apply() == (False, {}, "The engine cannot be installed on web1: no. Try: df -h")
