"""A restore, and the exchange of a rollback."""

import os

import pytest
from goldenpath import drill, env, files, heal, journal, manage, media, pgdump, postgres, repository, restore
from goldenpath.errors import Failed

from .backups import CONFIG, acme


def test_an_exchange_keeps_the_old_environment_and_makes_missing_media(host, monkeypatch, owner):
    folder = host / "srv/sum/acme"
    (folder / "restored/media").mkdir(parents=True)
    (folder / "restored/media/theirs").write_text("")
    (folder / ".env").write_text('DJANGO_SECRET_KEY="old"\n')
    monkeypatch.setattr(postgres, "swap", lambda site: None)
    done = {"notes": []}
    restore._exchange(acme(), str(folder / "restored"), {"DJANGO_SECRET_KEY": "new"}, False, done)
    assert os.listdir(folder / "media") == ["theirs"] and os.listdir(folder / "backups/media.old") == []
    assert (folder / "backups/env.old").read_text() == 'DJANGO_SECRET_KEY="old"\n'
    assert (folder / ".env").read_text() == 'DJANGO_SECRET_KEY="new"\n'
    # Root's, and readable for the site alone.
    assert (folder / ".env").stat().st_mode & 0o777 == 0o640
    assert owner == [(0, 4712)] * 2 and (folder / "backups/env.old").stat().st_mode & 0o777 == 0o640


def test_every_release_gets_the_key_and_loses_it_again(steps, owner):
    """A release that is gone back to later signs as what was restored; and where it is put back, as before."""
    folder = steps[0]
    texts = {".env": "of the pillar", "releases/a/site.env": "of a", "releases/b/site.env": "new"}
    for name, key in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f'A="1"\nDJANGO_SECRET_KEY="{key}"\n')
    before = {name: (folder / name).read_text() for name in texts}
    assert restore._key(acme(), "new") is True and restore._key(acme(), "new") is False
    assert {env.read(folder / name)["DJANGO_SECRET_KEY"] for name in texts} == {"new"}
    files.write_json(journal.path(acme()), {"phase": "stopped", "release": None})
    heal.heal(acme())
    assert {name: (folder / name).read_text() for name in texts} == before
    # Once it is proven, nothing of the old keys is left.
    restore._key(acme(), "new")
    files.write_json(journal.path(acme()), {"phase": "proven"})
    heal.heal(acme())
    assert {env.read(folder / name)["DJANGO_SECRET_KEY"] for name in texts} == {"new"}
    assert sorted(path.name for path in folder.rglob("*.old")) == []


@pytest.fixture
def exchange(steps, monkeypatch):
    """A site with a dump to go back to; what is done, in order."""
    folder, databases, done = steps
    databases.add("sum-acme")
    os.symlink("releases/r", folder / "current")
    dump = folder / "backups/x.dump"
    dump.write_bytes(b"1234")
    monkeypatch.setattr(pgdump, "restore", lambda site, path, name: (databases.add(name), done.append("restore"))[1])
    monkeypatch.setattr(pgdump, "counts", lambda *_: {"t": 1})
    for name, value in (("data_directory", str(folder)), ("size_of", 1000), ("unsaved", ["x"])):
        monkeypatch.setattr(postgres, name, lambda *_, value=value: value)
    monkeypatch.setattr(postgres, "alone", lambda site: done.append("alone"))
    monkeypatch.setattr(pgdump, "verify", lambda *_: None)

    def dumped(site, path, wait=None):
        done.append("dump")
        with open(path, "w"):
            pass
        return {"tables": {}, "members": []}

    monkeypatch.setattr(pgdump, "dump", dumped)
    monkeypatch.setattr(files, "rooms", lambda needs, *_: done.append(sum(size for _, size in needs)))
    return str(dump), databases, done


def test_an_exchange(exchange):
    dump, _, done = exchange
    answer = restore.exchange(acme(), dump)
    assert done == [2000, "restore", "halt", "alone", "dump", "swap back=False"]
    assert os.path.exists(answer["safety"]) and "x are not in a dump" in answer["notes"][0]
    assert os.path.exists(journal.path(acme()))
    assert restore.settle(acme())["state"] == "The restored site serves"
    assert not os.path.exists(journal.path(acme()))


def test_what_cannot_be_tidied_up_undoes_no_exchange(exchange, monkeypatch):
    """Proven is proven: a rollback that took this for a failure would go back with the release alone."""
    dump, _, _ = exchange
    restore.exchange(acme(), dump)
    monkeypatch.setattr(postgres, "drop", lambda *_: (_ for _ in ()).throw(Failed("no server. Try: x")))
    assert "goldenpath-heal.service goes on trying" in restore.settle(acme())["state"]
    assert files.read_json(journal.path(acme()))["phase"] == "proven"


def test_no_exchange_without_a_safety_dump(exchange, monkeypatch):
    """`settle` drops the database of before: without its dump nothing of it would be left."""
    dump, databases, done = exchange
    monkeypatch.setattr(pgdump, "dump", lambda *_: (_ for _ in ()).throw(Failed("pg_dump: no. Try: x")))
    with pytest.raises(Failed, match="cannot be dumped .*are back as they were before, and the site serves"):
        restore.exchange(acme(), dump)
    assert "swap back=False" not in done and databases == {"sum-acme"} and "resume" in done
    assert not os.path.exists(journal.path(acme()))


def test_no_exchange_without_room(exchange, monkeypatch):
    dump, _, done = exchange
    monkeypatch.setattr(files, "rooms", lambda *_: (_ for _ in ()).throw(Failed("/x has 1 left. Try: df")))
    with pytest.raises(Failed, match="has 1 left.*not touched"):
        restore.exchange(acme(), dump)
    assert done == ["drop sum-acme.new"]


def test_what_cannot_be_put_back_now_is_said(exchange, monkeypatch):
    dump, _, _ = exchange
    monkeypatch.setattr(postgres, "swap", lambda *_, **__: (_ for _ in ()).throw(Failed("gone. Try: x")))
    monkeypatch.setattr(heal, "_put_back", lambda *_: (_ for _ in ()).throw(Failed("Postgres is gone")))
    with pytest.raises(Failed, match=r"gone\. Try: x\. It is not put back yet \(Postgres is gone\)"):
        restore.exchange(acme(), dump)
    assert os.path.exists(journal.path(acme()))


@pytest.mark.parametrize("most", [200, 0])
def test_a_dump_brings_the_media_that_are_missing_from_the_night_before(host, monkeypatch, most):
    monkeypatch.setattr(restore, "NAMED", most)
    path, found = host / "dump", host / "night"
    (found / "media").mkdir(parents=True)
    path.mkdir()
    for name in ("lost", "kept"):
        (found / "media" / name).write_text(name)
    listed = media.listing(found / "media")
    files.write_json(f"{found}/media.json", listed)
    (host / "srv/sum/acme/media").mkdir()
    (host / "srv/sum/acme/media/kept").write_text("")
    asked = []
    full = {"id": "a" * 8, "time": "then", "path": "/p"}
    monkeypatch.setattr(repository, "full_before", lambda *_: full)
    monkeypatch.setattr(repository, "fetch", lambda *_, include: asked.append(include) or str(found))
    monkeypatch.setattr(files, "rooms", lambda *_: None)
    done = {"notes": []}
    assert restore._missing(acme(), CONFIG, {"host": "web1", "age": 1}, str(path), done) == {"lost": listed["lost"]}
    assert os.listdir(path / "media") == ["lost"]
    assert asked == [["/p/media.json"], ["/p/media/lost"] if most else ["/p/media"]]
    assert done["notes"] == [
        "a dump has no media: 1 that were missing are those of snapshot aaaaaaaa, then, the others are as they were"
    ]
    monkeypatch.setattr(repository, "full_before", lambda *_: None)
    assert restore._missing(acme(), CONFIG, {}, str(path), done) == {}


@pytest.mark.parametrize("wrong", [0, 2, 6])
def test_a_few_files_that_differ_are_notes_and_many_a_refusal(host, monkeypatch, wrong):
    path = host / "fetched"
    (path / "media").mkdir(parents=True)
    for number in range(10):
        (path / f"media/f{number}").write_text("x")
    listed = media.listing(path / "media")
    for number in range(wrong):
        listed[f"f{number}"][2] = "another"
    files.write_json(f"{path}/media.json", listed)
    manifest = {"tables": {"t": 1}, "at": "then", "release": "r"}
    for module, name, value in (
        (postgres, "exists", False),
        (postgres, "size_of", 1),
        (postgres, "data_directory", str(host)),
        (postgres, "unsaved", []),
        (repository, "fetch", str(path)),
        (drill, "load", manifest),
        (drill, "secrets", {}),
        (manage, "against", (0, "")),
        (files, "rooms", None),
        (media, "own", None),
    ):
        monkeypatch.setattr(module, name, lambda *_, value=value, **__: value)
    done = {"notes": []}
    if wrong > restore.FEW:
        with pytest.raises(Failed, match="f0 differs, f1 differs, f2 differs and 3 more"):
            restore._prepare(acme(), CONFIG, {"dump": 1, "bytes": 1, "kind": "full"}, "r", done)
    else:
        restore._prepare(acme(), CONFIG, {"dump": 1, "bytes": 1, "kind": "full"}, "r", done)
        expected = ["2 media files are not what was listed with them: f0 differs, f1 differs"] if wrong else []
        assert done["notes"] == expected
