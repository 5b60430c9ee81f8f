"""The pure parts of the program that hosts run: what a dump holds, what differs, what a fault means."""

import io
import json
import os
import pathlib
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "salt/backup/files/lib"))

from goldenpath_backup import backup, cli, common, database, drill, repository, restore  # noqa: E402

CANARY = "s3cr3t-canary"
CONFIG = {
    "host": "web1",
    "sites": ["acme"],
    "repository": "/var/backups/goldenpath/restic",
    "env": {"AWS_SECRET_ACCESS_KEY": CANARY},
    "keep": {"daily": 7, "weekly": 4, "monthly": 6},
    "heartbeat": {},
    "warn_after": {"backup": 36, "drill": 216},
    "refuse_after": {},
    "known_hosts": False,
}


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A host's files under a temporary folder."""
    for name, path in (("CONFIG", "backup.json"), ("SITES", "sites"), ("RECORDS", "records"), ("LOCK", "lock")):
        monkeypatch.setattr(common, name, str(tmp_path / path))
    monkeypatch.setattr(common, "root", lambda slug: str(tmp_path / "srv" / slug))
    monkeypatch.setattr(repository, "KNOWN", str(tmp_path / "records/repository.state"))
    monkeypatch.setattr(repository, "CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(repository, "WAIT", 0)
    (tmp_path / "sites").mkdir()
    (tmp_path / "sites/acme.json").write_text('{"slug": "acme"}')
    (tmp_path / "srv/acme/backups").mkdir(parents=True)
    (tmp_path / "backup.json").write_text(json.dumps(CONFIG))
    return tmp_path


# --- dumps

STREAM = b"""SET x = 1;
CREATE TABLE public.a (id integer);
COPY public.a (id, "COPY") FROM stdin;
1\tCOPY public.b (id) FROM stdin;
2\t\\\\.
\\N\t3
\\.
COPY public."Od""d. (x)" (id) FROM stdin;
\\.
COPY public.b (id) FROM stdin;
1
"""


def test_rows_are_counted_as_pg_restore_prints_them():
    assert database.copied(io.BytesIO(STREAM)) == {"public.a": 3, 'public."Od""d. (x)"': 0}


@pytest.mark.parametrize("cut", [20, 60, 90, len(STREAM)])
def test_a_table_that_ends_too_early_is_not_counted(cut):
    assert "public.b" not in database.copied(io.BytesIO(STREAM[:cut]))


def test_differences_in_words():
    expected = {"a": 1, "b": 2, "c": 3}
    assert database.difference(expected, dict(expected)) == ""
    assert database.difference(expected, {"a": 1, "b": 2}) == "c is missing"
    assert database.difference(expected, {**expected, "d": 1}) == "d is not of this backup"
    assert database.difference(expected, {**expected, "b": 9}) == "b has 9 rows and not 2"
    assert database.difference(expected, {"x": 1, "y": 1}).endswith("and 2 more")


def test_no_live_database_is_ever_dropped(monkeypatch):
    monkeypatch.setattr(database, "sql", lambda *_: pytest.fail("asked Postgres"))
    with pytest.raises(common.Failed, match="is a live database"):
        database.drop("sum-acme")


def test_working_copies_have_names_that_no_site_can_have():
    # acme-drill is a slug, so sum-acme-drill would be its live database.
    assert all("." in suffix for suffix in (database.DRILL, database.NEW, database.OLD))


# --- media


def test_media_list_sees_every_change(tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/x.bin").write_bytes(b"1")
    (tmp_path / "y").write_bytes(b"2")
    (tmp_path / "link").symlink_to("y")
    listed = backup.media_list(tmp_path)
    assert set(listed) == {"a/b/x.bin", "y", "link"} and listed["link"][2] == "-> y"
    assert drill.media_difference(tmp_path, listed, backup.media_list(tmp_path)) == ""
    (tmp_path / "y").write_bytes(b"3")
    (tmp_path / "a/b/x.bin").unlink()
    (tmp_path / "new").write_bytes(b"")
    words = drill.media_difference(tmp_path, listed, backup.media_list(tmp_path))
    assert words == "a/b/x.bin is missing, y differs, new is not of this backup"


def test_frozen_media_stay_as_they_were(tmp_path):
    source, target = tmp_path / "media", tmp_path / "frozen"
    source.mkdir()
    (source / "kept").write_bytes(b"1")
    (source / "replaced").write_bytes(b"old")
    (source / "dangling").symlink_to("nowhere")
    backup.freeze(str(source), str(target))
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
    common.record("acme", good={"dump": 10 << 20, "tables": 10, "files": 100})
    if refused:
        with pytest.raises(common.Failed, match="less than half"):
            backup.shrunk("acme", *now)
    else:
        backup.shrunk("acme", *now)


def test_small_sites_may_shrink(host):
    backup.shrunk("acme", 1, 1, 1)
    common.record("acme", good={"dump": 1000, "tables": 1, "files": 3})
    backup.shrunk("acme", 10, 1, 0)


# --- the repository


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("Fatal: wrong password or no key found", "does not open the repository"),
        ("Fatal: unable to open config file: stat: no such file\nIs there a repository at the following location?",
         "is missing. Try: bring it back"),
        ("Fatal: write /x: no space left on device", "has no space left"),
        ("subprocess ssh: Permission denied (publickey).", "cannot be reached"),
        ("ciphertext verification failed", "is damaged"),
        ("something new " + CANARY, "restic failed with"),
    ],
)  # fmt: skip
def test_what_restic_says_becomes_a_sentence(said, sentence):
    told = repository._explained(CONFIG, said)
    assert sentence in told and "Try: " in told and CANARY not in told


def test_no_address_is_told_with_its_password():
    config = {**CONFIG, "repository": "rest:https://user:pass@vault.example/"}
    assert repository.shown(config) == "rest:https://***@vault.example/"


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("/var/x", None),
        ("s3:s3.example/x", None),
        ("sftp:b@vault:/srv/x", "b@vault -s sftp"),
        ("sftp:vault:x", "vault -s sftp"),
        ("sftp://b@vault:2222//srv/x", "-p 2222 b@vault -s sftp"),
    ],
)
def test_ssh_asks_no_questions(place, words):
    options = repository._options({**CONFIG, "repository": place})
    if words is None:
        assert options == []
    else:
        assert options[1].endswith(words) and "BatchMode=yes" in options[1] and "accept-new" in options[1]
        assert (
            "StrictHostKeyChecking=yes" in repository._options({**CONFIG, "repository": place, "known_hosts": True})[1]
        )


def fake_restic(monkeypatch, *answers):
    calls, left = [], list(answers)

    def run(argv, env=None, **_):
        calls.append(argv)
        assert CANARY not in " ".join(argv) and env["RESTIC_PASSWORD_FILE"]
        return left.pop(0) if left else (0, "")

    monkeypatch.setattr(repository, "run", run)
    monkeypatch.setattr(repository.time, "sleep", lambda _: None)
    return calls


MISSING = (10, "Is there a repository at the following location?")


def test_a_repository_is_made_once_and_never_again(host, monkeypatch):
    config = {**CONFIG, "repository": str(host / "restic")}
    calls = fake_restic(monkeypatch, MISSING, (0, ""), (0, "fine"), MISSING)
    assert repository.restic(config, "backup", make=True) == "fine"
    assert [call[2] for call in calls] == ["backup", "init", "backup"]
    with pytest.raises(common.Failed, match="is missing"):
        repository.restic(config, "backup", make=True)
    assert len(calls) == 4


def test_a_lock_of_the_dead_is_removed(host, monkeypatch):
    monkeypatch.setattr(repository, "WAIT", 60)
    calls = fake_restic(monkeypatch, (11, "unable to create lock in backend"), (0, ""), (0, "fine"))
    assert repository.restic(CONFIG, "prune") == "fine"
    assert calls[1][-1] == "unlock"


def test_own_snapshots_come_first(host, monkeypatch):
    def snapshot(name, owner, when):
        return {"id": name * 8, "time": when, "hostname": owner, "paths": ["/p"], "tags": ["site=acme", "dump=7"]}

    theirs = snapshot("a", "old", "2026-11-20T01:02:03.456789Z")
    ours = [snapshot("b", "web1", "2026-11-19T01:02:03Z"), snapshot("c", "web1", "2026-11-18T01:02:03+01:00")]
    fake_restic(monkeypatch, (0, json.dumps([theirs, *ours])), (0, json.dumps([theirs])), (0, "[]"))
    assert [item["id"][0] for item in repository.snapshots(CONFIG, "acme")] == ["c", "b"]
    assert repository.chosen(CONFIG, "acme")["host"] == "old"
    with pytest.raises(common.Failed, match="has no snapshot of acme"):
        repository.chosen(CONFIG, "acme")


@pytest.mark.parametrize("wanted", ["--help", "; rm", "abc", "ABCDEF12", "g" * 8, ""])
def test_a_snapshot_is_an_id(host, monkeypatch, wanted):
    answer = [{"id": "a" * 64, "time": "2026-11-20T01:02:03Z", "hostname": "web1", "paths": ["/p"]}]
    fake_restic(monkeypatch, (0, json.dumps(answer)))
    with pytest.raises(common.Failed, match="is no snapshot's id"):
        repository.chosen(CONFIG, "acme", wanted)


# --- what is overdue


def ago(hours):
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - hours * 3600))


@pytest.mark.parametrize(
    ("backup_", "drill_", "since", "expected"),
    [
        (1, 1, 999, []),
        (40, 1, 999, [("backup", False)]),
        (40, 300, 999, [("backup", False), ("drill", False)]),
        (101, 1, 999, [("backup", True)]),
        (None, None, 1, []),
        (None, None, 50, [("backup", False)]),
    ],
)
def test_what_is_overdue(host, backup_, drill_, since, expected):
    common.write(f"{common.RECORDS}/since.state", {"at": ago(since)})
    if backup_:
        common.record("acme", good={"at": ago(backup_)}, drilled={"at": ago(drill_)})
    found = list(cli._overdue({**CONFIG, "refuse_after": {"backup": 100}}, "acme"))
    assert [("drill" if "drill of" in text else "backup", refused) for text, refused in found] == expected
    assert all("Try: salt-ssh web1 goldenpath." in text for text, _ in found)


def test_unknown_sites_are_named(host):
    with pytest.raises(common.Failed, match=r"web1 has no site 'nobody'\. Known: acme"):
        common.sites("nobody")


def test_one_at_a_time(host):
    busy = pytest.raises(common.Failed, match="web1 is busy with a backup since")
    with common.only_one("backup", 0), busy, common.only_one("drill", 0):
        pytest.fail("two at once")
    with common.only_one("drill", 0):
        pass


# --- the restore's key


def test_the_secret_key_is_one_line_of_the_environment(tmp_path):
    path = tmp_path / ".env"
    path.write_text('A="1"\nDJANGO_SECRET_KEY="old"\nB="x\ny"\n')
    path.chmod(0o600)
    restore._set_key(str(path), 'a"b$c`d\\e')
    assert common.environment_file(path) == {"A": "1", "DJANGO_SECRET_KEY": 'a"b$c`d\\e', "B": "x\ny"}
    assert path.stat().st_mode & 0o777 == 0o600


# --- healing


@pytest.fixture
def steps(host, monkeypatch):
    """What a heal does to Postgres and systemd, in order; databases are a set of names."""
    done, databases = [], set()
    monkeypatch.setattr(database, "exists", lambda name: name in databases)
    monkeypatch.setattr(database, "drop", lambda name: (databases.discard(name), done.append(f"drop {name}"))[1])
    monkeypatch.setattr(database, "swap", lambda slug, back=False: done.append(f"swap back={back}"))
    for name in ("_stop", "_start", "_prove"):
        monkeypatch.setattr(restore, name, lambda *_, name=name, **__: done.append(name))
    (host / "srv/acme/media").mkdir()
    return host / "srv/acme", databases, done


def test_nothing_to_heal(steps):
    assert restore.heal("acme") == "There was nothing to heal" and steps[2] == []


def test_a_restore_that_touched_nothing_is_tidied_up(steps):
    folder, databases, done = steps
    databases.add("sum-acme.new")
    (folder / "backups/restore").mkdir()
    common.write(restore.journal("acme"), {"phase": "prepare"})
    assert "not touched" in restore.heal("acme")
    assert done == ["drop sum-acme.new"] and not os.path.exists(restore.journal("acme"))
    assert os.listdir(folder / "backups") == []


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("media", ["there", "away", "exchanged"])
def test_an_interrupted_exchange_is_put_back(steps, swapped, media):
    folder, databases, done = steps
    (folder / "media/mine").write_text("live")
    if swapped:
        databases |= {"sum-acme", "sum-acme.old"}
    if media != "there":
        os.rename(folder / "media", folder / "backups/media.old")
    if media == "exchanged":
        (folder / "media").mkdir()
        (folder / "media/theirs").write_text("restored")
    (folder / "maintenance").write_text("")
    common.write(restore.journal("acme"), {"phase": "stopped", "release": "r"})
    assert "as they were before, and the site serves" in restore.heal("acme")
    assert os.listdir(folder / "media") == ["mine"] and not (folder / "maintenance").exists()
    assert ("swap back=True" in done) is swapped
    assert done[0] == "_stop" and "_start" in done and os.listdir(folder / "backups") == []


def test_a_proven_restore_is_finished(steps):
    folder, databases, done = steps
    databases |= {"sum-acme", "sum-acme.old"}
    (folder / "backups/media.old").mkdir()
    common.write(restore.journal("acme"), {"phase": "proven"})
    assert restore.heal("acme") == "The restored site serves"
    assert "drop sum-acme.old" in done and "_stop" not in done
    assert [name[:7] for name in os.listdir(folder / "backups")] == ["media-2"]
