"""The state over packages: told, installed, and then nothing to do."""

import os

import pytest
from salt.exceptions import CommandExecutionError


class World:
    def __init__(self, load):
        self.there, self.installed = {"libc6"}, []
        self.state = load(
            "_states/packages.py", salt={"packages.missing": self.missing, "packages.install": self.install}
        )

    def missing(self, names):
        return [name for name in names if name not in self.there]

    def install(self, names):
        if "nosuch" in names:
            raise CommandExecutionError("nosuch cannot be installed: Unable to locate package nosuch. Try: apt")
        self.installed.append(names)
        self.there |= set(names)
        return {f"{name}t64": {"old": "", "new": "1"} for name in names}

    def apply(self, *names, test=False):
        self.state.__opts__["test"] = test
        ret = self.state.installed("acme", list(names))
        assert ret["name"] == "acme"
        return ret["result"], ret["changes"], ret["comment"]


@pytest.fixture
def world(load):
    return World(load)


def test_four_steps(world):
    told = world.apply("libc6", "libmagic1", test=True)
    assert told == (None, {"libmagic1": {"old": "", "new": "installed"}}, "Would be installed for acme: libmagic1")
    assert world.installed == []
    done = world.apply("libc6", "libmagic1")
    assert done == (True, {"libmagic1t64": {"old": "", "new": "1"}}, "Installed for acme: libmagic1")
    assert world.installed == [["libmagic1"]]
    for test in (False, True):
        assert world.apply("libmagic1", test=test) == (True, {}, "The packages of acme are installed")


def test_a_failure_is_one_sentence(world):
    assert world.apply("nosuch") == (
        False,
        {},
        "A package of acme is missing: nosuch cannot be installed: Unable to locate package nosuch. Try: apt",
    )


def test_a_service_that_is_about_to_come_stays_off(world, tmp_path):
    world.state.UNITS = str(tmp_path)
    program, link = tmp_path / "nginx", tmp_path / "nginx.service"

    def apply(test=False):
        world.state.__opts__["test"] = test
        ret = world.state.quiet("nginx.service", str(program))
        return ret["result"], ret["changes"]

    changes = {"nginx.service": {"old": "", "new": "masked"}}
    assert apply(test=True) == (None, changes) and not link.is_symlink()
    assert apply() == (True, changes) and os.readlink(link) == "/dev/null"
    assert apply() == apply(test=True) == (True, {})
    # One that was there before is somebody's.
    link.unlink()
    program.touch()
    assert apply() == (True, {}) and not link.is_symlink()
