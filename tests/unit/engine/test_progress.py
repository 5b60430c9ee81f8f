"""What a host notes of a deploy while it runs."""

import json
import os
import pathlib

import pytest
from goldenpath import host, progress
from goldenpath.errors import Failed


def notes():
    return pathlib.Path(host.RUN, "acme.progress")


def test_notes_are_lines_of_json():
    progress.tell("acme", "fetch", "begun")
    progress.tell("acme", "fetch", "done", 0.1234)
    lines = [json.loads(line) for line in notes().read_text().splitlines()]
    assert lines == [
        {"host": "web1", "site": "acme", "step": "fetch", "event": "begun"},
        {"host": "web1", "site": "acme", "step": "fetch", "event": "done", "seconds": 0.12},
    ]
    progress.clear("acme")
    assert notes().read_text() == ""


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_the_controllers_other_session_may_read_them(umask):
    before = os.umask(umask)
    try:
        progress.tell("acme", "fetch", "begun")
    finally:
        os.umask(before)
    assert notes().stat().st_mode & 0o777 == 0o644


def test_a_note_that_cannot_be_written_fails_nothing(paths):
    (paths / "run").mkdir()
    pathlib.Path(host.RUN).write_text("")
    progress.tell("acme", "fetch", "begun")
    progress.clear("acme")


def test_the_last_of_it_is_the_end_also_of_what_fails():
    progress.tell("acme", "of", "the one before")
    with pytest.raises(ValueError, match="it failed"), progress.shown("acme"):
        progress.tell("acme", "fetch", "begun")
        raise ValueError("it failed")
    assert [json.loads(line)["event"] for line in notes().read_text().splitlines()] == ["begun", "end"]


def test_why_it_failed_comes_with_the_end():
    with pytest.raises(Failed), progress.shown("acme"):
        raise Failed("It failed. Try: this\nand a log")
    assert json.loads(notes().read_text())["why"] == "It failed. Try: this"


def test_what_an_operator_should_know_comes_at_the_end():
    with progress.shown("acme") as found:
        progress.tell("acme", "fetch", "begun")
        found.notes.append("the backup is old")
        found.said = "v1 is live"
    last = json.loads(notes().read_text().splitlines()[-1])
    assert (last["event"], last["said"], last["notes"]) == ("end", "v1 is live", ["the backup is old"])
