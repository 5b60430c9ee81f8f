"""The state over uv: told, installed, and then nothing to do."""

import pytest
from salt.exceptions import CommandExecutionError


class World:
    def __init__(self, load):
        self.there, self.fails, self.chosen = False, False, None
        functions = {
            "uv.path": lambda _: self.there, "uv.install": self.install,
            "uv.current": lambda: self.chosen, "uv.choose": lambda version: setattr(self, "chosen", version),
        }  # fmt: skip
        self.state = load("_states/uv.py", salt=functions)

    def install(self, version):
        assert version == "1.2.3"
        if self.fails:
            raise CommandExecutionError("uv 1.2.3 cannot be installed: no. Try: curl")
        self.there = True

    def apply(self, test=False):
        self.state.__opts__["test"] = test
        ret = self.state.installed("uv", "1.2.3")
        return ret["result"], ret["changes"], ret["comment"]


@pytest.fixture
def world(load):
    return World(load)


def test_four_steps(world):
    changes = {"uv": {"old": "", "new": "1.2.3"}}
    assert world.apply(test=True) == (None, changes, "uv 1.2.3 would be installed")
    assert world.there is False
    assert world.apply() == (True, changes, "uv 1.2.3 is installed")
    assert world.there is True
    assert world.chosen == "1.2.3"
    assert world.apply() == world.apply(test=True) == (True, {}, "uv 1.2.3 is installed")


def test_uv_pinned_back_is_uv_pinned_back(world):
    world.there, world.chosen = True, "1.3.0"
    assert world.apply() == (True, {"uv": {"old": "1.3.0", "new": "1.2.3"}}, "uv 1.2.3 is installed")
    assert world.chosen == "1.2.3"


def test_failure(world):
    world.fails = True
    assert world.apply() == (False, {}, "uv 1.2.3 cannot be installed: no. Try: curl")
