"""What must survive a power cut, whatever the umask is."""

import json
import os
import pathlib

import pytest
from goldenpath import files
from goldenpath.errors import Failed


@pytest.fixture(params=[0o022, 0o077, 0o000])
def umask(request):
    before = os.umask(request.param)
    yield
    os.umask(before)


def mode(path):
    return os.stat(path).st_mode & 0o777


@pytest.mark.usefixtures("umask")
def test_a_replaced_file_has_its_mode_from_nobody_else(tmp_path):
    path = tmp_path / "file"
    path.write_text("before")
    files.replace(str(path), "now", mode=0o644)
    assert (path.read_text(), mode(path)) == ("now", 0o644)
    files.append(str(tmp_path / "log"), "one")
    assert mode(tmp_path / "log") == 0o644


def test_a_file_that_cannot_be_written_leaves_the_one_of_before(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_text("before")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.replace(str(path), "now")
    assert path.read_text() == "before"


def test_contents_reach_the_disk_before_the_name_and_the_name_after(tmp_path, monkeypatch):
    told = []
    fsync, rename = os.fsync, os.rename
    monkeypatch.setattr(
        os, "fsync", lambda fd: (told.append("folder" if os.path.isdir(f"/proc/self/fd/{fd}") else "file"), fsync(fd))
    )
    monkeypatch.setattr(os, "rename", lambda *paths: (told.append("rename"), rename(*paths)))
    files.replace(str(tmp_path / "file"), "now")
    files.link("target", str(tmp_path / "link"))
    assert told == ["file", "rename", "folder", "rename", "folder"]


def test_a_link_is_never_missing(tmp_path):
    path = str(tmp_path / "current")
    files.link("releases/a", path)
    (tmp_path / "current.new").symlink_to("left by a kill")
    files.link("releases/b", path)
    assert files.linked(path) == "b"
    assert os.listdir(tmp_path) == ["current"]


def test_a_line_behind_half_a_line(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b'{"a": 1}\n{"half')
    files.append(str(path), json.dumps({"b": 2}))
    assert path.read_text().splitlines() == ['{"a": 1}', '{"half', '{"b": 2}']


def test_what_cannot_be_read_as_json_is_empty(tmp_path):
    path = tmp_path / "file"
    for content in (None, "", "{", "[1]", '"text"'):
        if content is not None:
            path.write_text(content)
        assert files.read_json(str(path)) == {}


def test_a_fresh_folder_is_empty_and_ours(tmp_path):
    folder = tmp_path / "staging"
    folder.mkdir()
    (folder / "old").write_text("")
    files.fresh(str(folder))
    assert os.listdir(folder) == [] and mode(folder) == 0o700


def test_what_would_fill_a_disk_is_refused(tmp_path):
    files.rooms([(str(tmp_path), 0)], "a drill", "web1")
    free = files.spare(str(tmp_path))
    half = free // 2 + (64 << 20)
    with pytest.raises(Failed, match=r"on web1 has .* left, a drill needs .*Try: df -h"):
        # One filesystem: the two add up, also where a folder is yet to be made.
        files.rooms([(str(tmp_path), half), (str(pathlib.Path(tmp_path, "not", "there")), half)], "a drill", "web1")
