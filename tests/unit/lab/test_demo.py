"""The demo without its host: what its words mean, and what it leaves."""

import re
import typing

import pytest

from lab import demo
from tests.conftest import ROOT


class Lab:
    """Remembers what is asked of it; its host does not boot."""

    asked: typing.ClassVar = []

    def __init__(self, say=None):
        pass

    def up(self, name, release):
        self.asked.append((name, release))
        assert demo.FOLDER.parent.is_dir()
        raise KeyboardInterrupt

    def hosts(self):
        return []


@pytest.fixture(autouse=True)
def lab(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "FOLDER", tmp_path / ".lab/demo")
    monkeypatch.setattr(demo, "Lab", Lab)
    monkeypatch.setattr(demo, "unwind_on_signals", lambda: None)
    Lab.asked = []


@pytest.mark.parametrize(("words", "release"), [([], "trixie"), (["bookworm"], "bookworm"), (["12"], "bookworm")])
def test_release(words, release, tmp_path):
    assert demo.main(["up", *words]) == 130
    assert Lab.asked == [("demo", release)]
    assert list(tmp_path.iterdir()) == []


def test_unknown_release(capsys):
    assert demo.main(["up", "sid"]) == 1
    assert "Release sid is not known" in capsys.readouterr().err and Lab.asked == []


@pytest.mark.parametrize("words", [[], ["sideways"], ["down", "trixie"], ["up", "trixie", "more"]])
def test_usage(words, capsys):
    assert demo.main(words) == 2
    assert capsys.readouterr().err.startswith("Usage: python -m lab.demo up [bookworm|trixie]")


def test_down_leaves_what_belongs_to_others(tmp_path):
    (tmp_path / ".lab/demo").mkdir(parents=True)
    (tmp_path / ".lab/mine").mkdir()
    assert demo.main(["down"]) == 0
    assert [path.name for path in (tmp_path / ".lab").iterdir()] == ["mine"]
    (tmp_path / ".lab/mine").rmdir()
    assert demo.main(["down"]) == 0
    assert list(tmp_path.iterdir()) == []


def test_signals_are_taken(monkeypatch):
    taken = []
    monkeypatch.setattr(demo, "unwind_on_signals", lambda: taken.append(True))
    demo.main(["down"])
    assert taken == [True]


def test_root_leaves_no_file_of_its_own_in_the_checkout():
    text = (ROOT / "Makefile").read_text()
    assert re.search(r"^ROOT := \$\(SUDO\) env PYTHONDONTWRITEBYTECODE=1 ", text, re.MULTILINE)
    assert "$(SUDO) $(BIN)" not in text
    for line in text.splitlines():
        if "$(ROOT)/pytest" in line:
            assert "-p no:cacheprovider" in line
