"""What a backup holds: media, room on the disk, and no less than the one before."""

import json
import os
import pathlib
import shutil
import tempfile

import pytest
from goldenpath import backup, cli, drill, files, heal, journal, media, pgdump, postgres, process, repository, text
from goldenpath.errors import Failed

from .backups import CONFIG, MISSING, acme, ago, fake_restic


def test_media_list_sees_every_change(tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/x.bin").write_bytes(b"1")
    (tmp_path / "y").write_bytes(b"2")
    (tmp_path / "link").symlink_to("y")
    listed = media.listing(tmp_path)
    assert set(listed) == {"a/b/x.bin", "y", "link"} and listed["link"][2] == "-> y"
    assert media.differences(listed, media.listing(tmp_path)) == []
    (tmp_path / "y").write_bytes(b"3")
    (tmp_path / "a/b/x.bin").unlink()
    (tmp_path / "new").write_bytes(b"")
    words = media.differences(listed, media.listing(tmp_path))
    assert words == ["a/b/x.bin is missing", "y differs", "new is not of this backup"]
    assert text.few(words * 2) == "a/b/x.bin is missing, y differs, new is not of this backup and 3 more"


def test_frozen_media_stay_as_they_were(tmp_path):
    source, target = tmp_path / "media", tmp_path / "frozen"
    source.mkdir()
    (source / "kept").write_bytes(b"1")
    (source / "replaced").write_bytes(b"old")
    (source / "dangling").symlink_to("nowhere")
    media.freeze(str(source), str(target))
    (source / "kept").unlink()
    (source / "other").write_bytes(b"new")
    os.replace(source / "other", source / "replaced")
    assert (target / "kept").read_bytes() == b"1" and (target / "replaced").read_bytes() == b"old"
    assert os.path.islink(target / "dangling")


@pytest.mark.parametrize(
    ("now", "refused"),
    [
        ((10 << 20, 10, 100), False),
        ((5 << 20, 5, 50), False),
        ((4 << 20, 10, 100), True),
        ((10 << 20, 4, 100), True),
        ((10 << 20, 10, 49), True),
    ],
)
def test_less_than_half_is_refused(host, now, refused):
    last = {"dump": 10 << 20, "tables": 10, "files": 100}
    if refused:
        with pytest.raises(Failed, match="less than half"):
            backup.shrunk(acme(), last, *now)
    else:
        backup.shrunk(acme(), last, *now)


def test_small_sites_may_shrink(host):
    backup.shrunk(acme(), {}, 1, 1, 1)
    backup.shrunk(acme(), {"dump": 1000, "tables": 1, "files": 3}, 10, 1, 0)


def test_a_host_without_a_record_asks_the_snapshots(host, monkeypatch):
    """A host that replaces a lost one, and one that has a repository of yet no snapshot."""
    tags = ["site=acme", "dump=99", "tables=7", "files=40"]
    item = {"id": "a" * 64, "time": "2026-11-20T01:02:03Z", "hostname": "web1", "paths": ["/p"], "tags": tags}
    fake_restic(monkeypatch, (0, json.dumps([item])), MISSING, (0, ""), (0, "[]"))
    found = backup.held_before(acme(), CONFIG)
    assert (found["dump"], found["tables"], found["files"]) == (99, 7, 40)
    os.unlink(repository.KNOWN)
    assert backup.held_before(acme(), {**CONFIG, "repository": str(host / "restic")}) == {}
    journal.record("acme", good={"files": 1})
    assert backup.held_before(acme(), CONFIG) == {"files": 1}


def test_a_site_without_a_release_is_not_backed_up(host, monkeypatch, capsys):
    """A host that was provisioned anew must not make an empty site the newest snapshot."""
    monkeypatch.setattr(repository, "restic", lambda *_, **__: pytest.fail("asked restic"))
    with pytest.raises(Failed, match="has no live release"):
        backup.run(acme())
    assert cli.main(["backup"]) == 0
    assert json.loads(capsys.readouterr().out) == {"acme": {"skipped": "it has no live release"}}


def test_a_dump_between_the_nights_is_the_database_alone(host, monkeypatch):
    folder = host / "srv/sum/acme"
    os.symlink("releases/r", folder / "current")
    (folder / ".env").write_text('DJANGO_SECRET_KEY="of the pillar"\n')
    (folder / "releases/r").mkdir(parents=True)
    (folder / "releases/r/site.env").write_text('DJANGO_SECRET_KEY="of what serves"\n')
    kept = []
    monkeypatch.setattr(shutil, "copy2", lambda source, _: kept.append(pathlib.Path(source).read_text()))
    for module, name, value in (
        (heal, "heal", None), (postgres, "size_of", 1), (files, "rooms", None), (pgdump, "verify", None),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, lambda *_, value=value, **__: value)
    monkeypatch.setattr(files, "remove_tree", lambda path: shutil.rmtree(path, ignore_errors=True))
    monkeypatch.setattr(media, "freeze", lambda *_: pytest.fail("media"))
    tables = {"t": 5, "u": 2}
    monkeypatch.setattr(
        pgdump, "dump", lambda site, path: pathlib.Path(path).write_bytes(b"d") and {"tables": dict(tables)}
    )
    journal.record("acme", good={"at": ago(1.1), "files": 900, "tables": 2}, failed={"at": ago(1), "reason": "x"})
    calls = fake_restic(monkeypatch, (0, json.dumps({"snapshot_id": "ab" * 32})))
    done = backup.run(acme(), between=True)
    assert (done["snapshot"], done["rows"], done["files"]) == ("ab" * 4, 7, 0)
    stored, forgotten = calls
    assert "of what serves" in kept[0]
    assert "between=acme" in stored and "site=acme" not in stored
    # Those of the last two days stay, and no night is counted among them.
    assert forgotten[forgotten.index("forget") :] == [
        "forget", "--tag", "between=acme", "--host", "web1", "--group-by", "host", "--keep-within", "2d",
    ]  # fmt: skip
    known = journal.recorded("acme")
    assert (
        known["dumped"]["snapshot"] == "ab" * 4 and known["good"]["files"] == 900 and known["failed"]["reason"] == "x"
    )
    assert journal.loss("acme") == 0
    # Far less than there was is refused as at night, and heard with what a loss would cost.
    del tables["u"], tables["t"]
    journal.record("acme", dumped={"at": ago(0.51)})
    with pytest.raises(Failed) as fault:
        backup.run(acme(), between=True)
    assert str(fault.value).startswith(
        "The dump between the nights of acme on web1 failed, and a loss now would cost 30 minutes: the tables are less"
    )


def test_what_a_loss_would_cost(host):
    assert journal.loss("acme") is None
    journal.record("acme", good={"at": ago(5)})
    assert journal.loss("acme") == 300
    journal.record("acme", dumped={"at": ago(0.5)})
    assert journal.loss("acme") == 30


def test_media_that_are_missing_come_back_and_the_others_stay(host, monkeypatch):
    folder, fetched = host / "srv/sum/acme/media", host / "fetched"
    monkeypatch.setattr(media, "own", lambda *_: None)
    (folder / "a").mkdir(parents=True)
    (folder / "a/kept").write_text("of now")
    outside = host / "outside"
    outside.mkdir()
    (folder / "link").symlink_to(outside)
    (folder / "file").write_text("")
    for name in ("a/kept", "a/lost", "new/deep/lost", "link/planted", "file/below"):
        path = fetched / "media" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("of then")
    media.completed(acme(), str(fetched))
    whole = fetched / "media"
    assert (whole / "a/kept").read_text() == "of now" and (whole / "a/lost").read_text() == "of then"
    assert (whole / "new/deep/lost").read_text() == "of then"
    assert list(outside.iterdir()) == [] and (whole / "link").is_symlink() and (whole / "file").read_text() == ""
    assert sorted(path.name for path in folder.rglob("*")) == ["a", "file", "kept", "link"]


@pytest.fixture
def staged(host, monkeypatch):
    """Media with links to them in the staging folder, and a restic that keeps what it reads."""
    folder, staging = host / "srv/sum/acme/media", host / "srv/sum/acme/backups/staging"
    folder.mkdir()
    (folder / "log").write_text("one")
    (folder / "quiet").write_text("q")
    media.freeze(str(folder), str(staging / "media"))
    stored, forgotten = [], []

    def store(site, config, folder, manifest, listed):
        stored.append((dict(listed), (staging / "media/log").read_text()))
        return str(len(stored))

    monkeypatch.setattr(backup, "_stored", store)
    monkeypatch.setattr(repository, "restic", lambda config, *argv: forgotten.append(argv))
    return folder, staging, stored, forgotten


def test_media_written_to_while_they_are_read_are_taken_again(staged, monkeypatch):
    folder, staging, stored, forgotten = staged
    real = backup._stored

    def store(*args):
        (folder / "log").write_text("one and more")
        return real(*args)

    monkeypatch.setattr(backup, "_stored", store)
    before = media.listing(staging / "media")
    snapshot, listed = backup._still(acme(), CONFIG, str(staging), {}, before)
    assert snapshot == "2" and forgotten == [("forget", "1")]
    assert listed == media.listing(staging / "media") == stored[1][0] and stored[1][1] == "one and more"
    # It is no link any more: what comes now does not reach it.
    (folder / "log").write_text("later")
    assert (staging / "media/log").read_text() == "one and more"
    assert os.stat(staging / "media/quiet").st_nlink == 2


def test_media_that_never_rest_are_told(staged, monkeypatch):
    folder, staging, stored, forgotten = staged
    names = iter(["a", "b", "c", "d"])

    def store(*_):
        # Another one each time.
        (staging / "media" / next(names)).write_text("x")
        return "0"

    monkeypatch.setattr(backup, "_stored", store)
    for name in "abcd":
        (staging / "media" / name).write_text("")
    with pytest.raises(Failed, match=r"1 media files changed in each of 3 tries, as c\. Try: "):
        backup._still(acme(), CONFIG, str(staging), {}, media.listing(staging / "media"))
    assert len(forgotten) == 3


def test_a_sample_has_limits():
    listed = {f"f{n}": [10 << 20, n, "x"] for n in range(200)}
    chosen = media.choice(listed)
    assert len(chosen) == 25 and chosen[0] == "f199"
    small = {name: [1, *rest] for name, (_, *rest) in listed.items()}
    assert len(set(media.choice(small))) == media.SAMPLE
    assert media.choice({"film": [9 << 30, 1, "x"], "page": [1, 0, "x"]}) == ["page"]
    assert media.choice({}) == []


def test_media_of_another_disk_are_counted_as_copies(host):
    folder = host / "srv/sum/acme"
    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
        if os.stat(elsewhere).st_dev == os.stat(folder).st_dev:
            pytest.skip("one filesystem only")
        (pathlib.Path(elsewhere) / "film").write_bytes(b"x" * 1000)
        os.symlink(elsewhere, folder / "media")
        staging = str(folder / "backups")
        remote = {**CONFIG, "repository": "sftp:b@vault:/x"}
        assert backup._needs(acme(), remote, staging, 50, 0, False) == [(staging, 50), (staging, 1000)]
        assert backup._needs(acme(), CONFIG, staging, 50, 400, False)[-1] == (CONFIG["repository"], 650)
        assert backup._needs(acme(), remote, staging, 50, 0, True) == [(staging, 50)]
        os.unlink(folder / "media")
        (folder / "media").mkdir()
        assert backup._needs(acme(), remote, staging, 50, 0, False) == [(staging, 50)]


@pytest.mark.parametrize(("size", "needed"), [({"size": 77}, 77), ({}, 8)])
def test_a_restored_database_needs_room_where_postgres_keeps_it(host, monkeypatch, size, needed):
    (host / "database.dump").write_bytes(b"dump")
    dump = {"bytes": 4, "sha256": media.checksum(host / "database.dump")}
    files.write_json(f"{host}/manifest.json", {"site": "acme", "dump": dump, "tables": {}, **size})
    monkeypatch.setattr(postgres, "data_directory", lambda: "/pg")
    monkeypatch.setattr(pgdump, "counts", lambda *_: {})
    asked = []
    monkeypatch.setattr(files, "rooms", lambda needs, *_: asked.append(needs))
    monkeypatch.setattr(pgdump, "restore", lambda *_: asked.append("restore"))
    drill.load(acme(), str(host), "sum-acme.drill")
    assert asked == [[("/pg", needed)], "restore"]


def test_a_program_cannot_fill_a_disk(tmp_path):
    code, *_ = process.run(["/usr/bin/head", "-c", "1000000", "/dev/zero"], stdout=str(tmp_path / "out"), most=100_000)
    assert code and (tmp_path / "out").stat().st_size == 100_000
    assert (
        process.run(["/usr/bin/head", "-c", "1000", "/dev/zero"], stdout=str(tmp_path / "out"), most=100_000).code == 0
    )


def test_what_a_dump_lists():
    lines = [
        "3; 3079 16385 EXTENSION - hstore ",
        "5; 2615 2200 SCHEMA - gis sum-acme",
        "3360; 0 16390 TABLE DATA public spatial_ref_sys postgres",
        "3361; 0 16391 TABLE DATA public a table sum-acme",
        "215; 1259 16390 TABLE public spatial_ref_sys postgres",
    ]
    found = [match.groups() if (match := pgdump._ENTRY.match(line)) else None for line in lines]
    assert found == [
        ("EXTENSION", "-", "hstore"),
        ("SCHEMA", "-", "gis"),
        ("TABLE DATA", "public", "spatial_ref_sys"),
        ("TABLE DATA", "public", "a table"),
        None,
    ]
