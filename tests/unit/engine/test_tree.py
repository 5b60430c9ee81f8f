"""A folder that a site can write, walked by root: what is exchanged in mid-walk leads nowhere."""

import os
import pathlib
import stat

import pytest
from goldenpath import files, media, tree
from goldenpath.errors import Failed

SECRET = "of root's"


@pytest.fixture
def folder(tmp_path):
    """A site's media, with root's secret beside them."""
    (tmp_path / "root").mkdir()
    (tmp_path / "root/secret").write_text(SECRET)
    for name in ("a", "b", "c"):
        (tmp_path / f"media/{name}").mkdir(parents=True)
        (tmp_path / f"media/{name}/file").write_text(name)
    yield tmp_path / "media"
    # pytest itself ends at a thousand folders.
    for name in os.listdir(tmp_path):
        files.remove_tree(str(tmp_path / name))


def names(folder):
    return [path for path, *_ in tree.walk(folder)]


def test_each_folder_before_what_is_in_it(folder):
    (folder / "a/deeper").mkdir()
    (folder / "link").symlink_to("/etc")
    assert names(folder) == ["a", "a/deeper", "a/file", "b", "b/file", "c", "c/file", "link"]


@pytest.mark.parametrize("target", ["../root", "/", ".."])
def test_a_folder_that_becomes_a_link_is_not_entered(folder, target):
    found = []
    for path, *_ in tree.walk(folder):
        found.append(path)
        if path == "b":
            (folder / "b/file").unlink()
            (folder / "b").rmdir()
            (folder / "b").symlink_to(target)
    assert found == ["a", "a/file", "b", "c", "c/file"]


def test_a_folder_that_is_moved_away_is_finished_where_it_is(folder):
    found = []
    for path, *_ in tree.walk(folder):
        found.append(path)
        if path == "b":
            (folder / "b").rename(folder / "a/b")
            (folder / "b").symlink_to("../root")
    assert found[:3] == ["a", "a/file", "b"] and "b/secret" not in found


def test_a_frozen_copy_holds_no_secret_of_roots(folder, tmp_path, monkeypatch):
    """At each moment at which the walk looks, a folder or a file is exchanged for a link."""
    real = os.stat
    for at in range(6):
        moments = iter(range(1000))

        def stat_(path, *args, at=at, moments=moments, **options):
            found = real(path, *args, **options)
            if options.get("dir_fd") is not None and next(moments) == at:
                for name in ("a", "b", "c"):
                    os.rename(folder / name, folder.parent / f"away-{at}-{name}")
                    os.symlink("../root", folder / name)
            return found

        with monkeypatch.context() as patch:
            patch.setattr(tree.os, "stat", stat_)
            media.freeze(str(folder), str(tmp_path / f"frozen-{at}"))
        for path in (tmp_path / f"frozen-{at}").rglob("*"):
            assert path.is_symlink() or path.is_dir() or path.read_text() != SECRET, path
        for name in ("a", "b", "c"):
            os.unlink(folder / name)
            os.rename(folder.parent / f"away-{at}-{name}", folder / name)


def test_a_file_that_becomes_a_link_is_not_read(folder):
    descriptor = os.open(folder, os.O_RDONLY)
    (folder / "file").symlink_to("../root/secret")
    os.mkfifo(folder / "pipe")
    try:
        assert tree.open_file("file", descriptor) is None
        # Nobody writes there, and nobody waits for that.
        assert tree.open_file("pipe", descriptor) is None
        assert tree.open_file("a", descriptor) is None
    finally:
        os.close(descriptor)


def test_what_is_no_file_is_left_out(folder, tmp_path):
    os.mkfifo(folder / "pipe")
    (folder / "link").symlink_to("/nowhere")
    media.freeze(str(folder), str(tmp_path / "frozen"))
    assert sorted(os.listdir(tmp_path / "frozen")) == ["a", "b", "c", "link"]
    assert media.listing(tmp_path / "frozen")["link"] == [0, 0, "-> /nowhere"]
    assert os.stat(tmp_path / "frozen/a/file").st_ino == os.stat(folder / "a/file").st_ino


def test_modes_and_times_of_folders_stay(folder, tmp_path):
    (folder / "a").chmod(0o555)
    os.utime(folder / "a", (1, 1))
    media.freeze(str(folder), str(tmp_path / "frozen"))
    found = os.stat(tmp_path / "frozen/a")
    assert (stat.S_IMODE(found.st_mode), found.st_mtime) == (0o555, 1)


def deep(folder, levels):
    descriptor = os.open(folder, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=descriptor)
        below = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)


def test_fifteen_hundred_folders_deep(folder, tmp_path):
    deep(folder / "a", 1500)
    assert len(names(folder)) == 1506
    media.freeze(str(folder), str(tmp_path / "frozen"))
    files.remove_tree(str(tmp_path / "frozen"))
    assert not (tmp_path / "frozen").exists()


def test_deeper_is_one_sentence(folder):
    deep(folder / "a", 3000)
    with pytest.raises(Failed, match=r"holds folders that lie too deep, as 'a/d/d/d.*Try: remove them"):
        names(folder)
    files.remove_tree(str(folder))
    assert not folder.exists()


def test_descriptors_are_given_back(folder):
    before = len(os.listdir("/proc/self/fd"))
    names(folder)
    walk = tree.walk(folder)
    next(walk)
    walk.close()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("name", ["new\nline", "\x1b[2J", os.fsdecode(b"\xff\xfe"), "-rf", "a b", "$(id)"])
def test_odd_names(folder, tmp_path, name):
    pathlib.Path(folder, name).write_text("x")
    assert name in names(folder)
    media.freeze(str(folder), str(tmp_path / "frozen"))
    assert name in media.listing(tmp_path / "frozen")
