"""The engine's installation, and how it is called: real files, a real Python, and a command that a test writes."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest
from salt.exceptions import CommandExecutionError

from tests.conftest import ROOT

SOURCE = "salt://host/files/lib/goldenpath"
PACKAGE = ROOT / "salt/host/files/lib/goldenpath"


class World:
    """A host that is sent a copy of the package; `files` is that copy."""

    def __init__(self, load, folder):
        self.folder, self.events = folder, []
        self.files = folder / "cache/host/files/lib/goldenpath"
        shutil.copytree(PACKAGE, self.files, ignore=shutil.ignore_patterns("__pycache__"))
        self.module = load(
            "_modules/engine.py",
            salt={
                "cp.cache_dir": lambda source, **_: [str(path) for path in self.files.rglob("*") if path.is_file()],
                "goldenpath.command": lambda *words: " ".join(["salt-ssh web1", *words]),
                "event.send": lambda tag, data: self.events.append((tag, data)),
            },
            opts={"file_client": "local"},
        )
        self.module.FOLDER = str(folder / "engine")
        self.module.HOST = str(folder / "etc/host.json")
        self.module.COMMAND = str(folder / "goldenpath")
        self.module.PROGRESS = str(folder)

    def install(self):
        return self.module.install(SOURCE)

    def installed(self):
        return sorted(name for name in os.listdir(self.folder / "engine") if name != "current")

    def version(self, number):
        path = self.files / "__init__.py"
        lines = [f'VERSION = "{number}"' if line[:9] == "VERSION =" else line for line in path.read_text().splitlines()]
        path.write_text("\n".join(lines) + "\n")

    def command(self, text):
        path = self.folder / "goldenpath"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)


@pytest.fixture
def world(load, tmp_path):
    return World(load, tmp_path)


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_four_steps(world, umask):
    before = os.umask(umask)
    try:
        told = world.module.difference(SOURCE)
        assert not (world.folder / "engine").exists()
        assert world.install() == told and set(told) == {"engine", world.module.HOST}
        assert world.module.difference(SOURCE) == world.install() == {}
    finally:
        os.umask(before)
    current = world.folder / "engine/current"
    assert os.readlink(current) == told["engine"]["new"] == world.module.current()["digest"]
    assert json.loads((world.folder / "etc/host.json").read_text()) == {"host": "web1", "salt": "salt-ssh"}
    # A site's own user reads what runs under its interpreter.
    for path in [current.resolve(), *current.resolve().rglob("*.py")]:
        assert path.stat().st_mode & 0o005, path
    assert list(current.resolve().rglob("*.pyc")), "compiled where it is"


def test_it_runs_from_there(world):
    world.install()
    where = os.path.realpath(world.folder / "engine/current")
    shown = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {where!r}); from goldenpath.cli import main; "
         "sys.exit(main(['--version']))"], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert shown.stdout.startswith("goldenpath 0.") and not shown.stderr


def test_the_link_in_the_tree_arrives_as_a_file(world):
    world.install()
    assert (world.folder / "engine/current/goldenpath/redis_gate.py").is_file()
    assert not (world.folder / "engine/current/goldenpath/redis_gate.py").is_symlink()


def test_what_runs_keeps_its_engine_and_the_last_two_stay(world):
    digests = []
    for number in range(4):
        (world.files / "text.py").write_text(f"# {number}\n")
        digests.append(world.install()["engine"]["new"])
        os.utime(world.folder / "engine" / digests[-1], (number, number))
    assert world.installed() == sorted(digests[-2:])


def test_an_older_checkout_leaves_a_newer_engine(world):
    world.version("9.10.0")
    new = world.install()["engine"]["new"]
    world.version("9.9.0")
    assert world.module.difference(SOURCE) == world.install() == {}
    assert world.module.current() == {"digest": new, "version": "9.10.0"}
    # Of one version the checkout is right: that is a day's work.
    world.version("9.10.0")
    (world.files / "text.py").write_text("# another\n")
    assert "engine" in world.install()


def test_killed_at_every_file(world, monkeypatch):
    """Whatever an installation that is killed leaves, the engine that was there is used, and the next one is whole."""
    old = world.install()["engine"]["new"]
    (world.files / "text.py").write_text("# another\n")
    write, count = world.module._write, len(list(world.files.rglob("*.py")))
    for last in range(count):
        seen = []

        def killed(path, data, last=last, seen=seen):
            seen.append(path)
            if len(seen) > last:
                raise KeyboardInterrupt
            write(path, data)

        monkeypatch.setattr(world.module, "_write", killed)
        with pytest.raises(KeyboardInterrupt):
            world.install()
        assert world.module.current()["digest"] == old
    monkeypatch.setattr(world.module, "_write", write)
    new = world.install()["engine"]["new"]
    assert world.installed() == sorted([old, new])
    assert len(list((world.folder / "engine/current/goldenpath").rglob("*.py"))) == count


def test_a_full_disk_is_one_sentence(world, monkeypatch):
    old = world.install()["engine"]["new"]
    (world.files / "text.py").write_text("# another\n")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(world.module, "_write", full)
    with pytest.raises(CommandExecutionError, match=r"^The engine cannot be installed on web1: .*No space.*Try: df -h"):
        world.install()
    assert world.module.current()["digest"] == old


def test_a_package_that_did_not_arrive(world):
    shutil.rmtree(world.files)
    with pytest.raises(CommandExecutionError, match=r"^The engine did not reach web1\. Try: again$"):
        world.install()


# How it is called


def test_the_request_goes_in_by_standard_input(world):
    world.command("""printf '{"words": "%s", "asked": %s}' "$*" "$(cat)" """)
    done = world.module.call("call", "deploy", "acme", request={"pillar": {"secrets": {"A": "s3cr3t"}}})
    assert done == {"words": "--protocol=1 call deploy acme", "asked": {"pillar": {"secrets": {"A": "s3cr3t"}}}}


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("echo 'The deploy failed: x. Try: y' >&2; exit 1", "The deploy failed: x. Try: y"),
        (
            "printf 'Traceback (most recent call last):\\n  File\\nKeyError: 1\\n' >&2; exit 1",
            "broke: KeyError: 1. Try: goldenpath list on the host",
        ),
        (
            "echo 'usage: goldenpath [-h]' >&2; exit 2",
            "The engine of web1 is of another version than this checkout. Try: salt-ssh web1 state.apply host",
        ),
        ("exit 7", "ended with 7"),
        (
            "printf 'The deploy failed: x. Try: y\\nTraceback (most recent call last):\\nValueError: 1\\n' >&2; exit 1",
            "The deploy failed: x. Try: y\nTraceback",
        ),
    ],
)
def test_a_failure_is_one_sentence(world, line, sentence):
    world.command(line)
    with pytest.raises(CommandExecutionError) as told:
        world.module.call("list")
    assert sentence in str(told.value) and "File" not in str(told.value)


def test_a_host_without_an_engine(world):
    with pytest.raises(CommandExecutionError, match=r"^web1 has no engine yet: .*\. Try: salt-ssh web1 state\.apply$"):
        world.module.call("list")


def test_another_protocol_is_refused_with_the_command_that_mends_it(world):
    world.install()
    where = os.path.realpath(world.folder / "engine/current")
    world.command(f"exec {sys.executable} -I -c 'import sys; sys.path.insert(0, \"{where}\"); "
                  "from goldenpath.cli import main; sys.exit(main(sys.argv[1:]))' \"$@\"")  # fmt: skip
    world.module.PROTOCOL = 2
    with pytest.raises(CommandExecutionError, match=r"^protocol 2 is asked for, .* speaks 1\. Try: salt"):
        world.module.call("list")


def test_a_minion_tells_the_steps_as_events(world):
    lines = [{"host": "web1", "site": "acme", "step": step, "event": "begun"} for step in ("fetch", "static")]
    pathlib.Path(world.folder, "acme.progress").write_text("")
    steps = "; ".join(f"echo '{json.dumps(line)}' >> {world.folder}/acme.progress; sleep 0.3" for line in lines)
    world.command(f"{steps}; echo '{{}}'")
    world.module.call("call", "deploy", "acme", follow="acme")
    assert world.events == [], "over ssh the controller reads the file itself"
    world.module.__opts__["file_client"] = "remote"
    pathlib.Path(world.folder, "acme.progress").write_text("")
    world.module.call("call", "deploy", "acme", follow="acme")
    assert world.events == [("goldenpath/progress/acme", line) for line in lines]


def test_going_back_and_forth_touches_no_engine_that_is_there(world):
    first = world.install()["engine"]["new"]
    before = (world.folder / "engine" / first).stat().st_ino
    text = (world.files / "text.py").read_text()
    (world.files / "text.py").write_text(f"{text}# another\n")
    world.install()
    (world.files / "text.py").write_text(text)
    assert world.install()["engine"]["new"] == first
    assert (world.folder / "engine" / first).stat().st_ino == before, "what runs from it goes on"
    # Half of one is made anew.
    (world.files / "text.py").write_text(f"{text}# another\n")
    world.install()
    (world.folder / "engine" / first / "goldenpath/cli.py").unlink()
    (world.files / "text.py").write_text(text)
    world.install()
    assert (world.folder / "engine/current/goldenpath/cli.py").exists()


def test_a_host_that_is_reached_both_ways_is_not_changed_each_time(world):
    world.install()
    world.module.__opts__["file_client"] = "remote"
    assert world.module.difference(SOURCE) == {}


def test_a_minion_is_told_its_own_command(world):
    world.module.__salt__["goldenpath.command"] = lambda *words: " ".join(["salt web1", *words])
    world.command("echo 'It is old. Try: salt-ssh web1 goldenpath.backup; not web10: salt-ssh web10 x' >&2; exit 1")
    with pytest.raises(CommandExecutionError) as told:
        world.module.call("list")
    assert str(told.value) == "It is old. Try: salt web1 goldenpath.backup; not web10: salt-ssh web10 x"
