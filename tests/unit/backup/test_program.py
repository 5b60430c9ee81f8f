"""The pure parts of the program that hosts run: what a dump holds, what differs, what a fault means."""

import io
import json
import os
import pathlib
import sys
import tempfile
import threading
import time
from types import SimpleNamespace

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


def test_rows_of_an_extension_are_not_compared(tmp_path, monkeypatch):
    (tmp_path / "dump").write_bytes(STREAM + b"\\.\n")
    monkeypatch.setattr(database, "command", lambda argv, user: ["cat"])
    held = {"tables": {"public.b": 1, 'public."Od""d. (x)"': 0}, "members": ["public.a", "public.of_no_rows"]}
    database.verify("acme", str(tmp_path / "dump"), held)
    with pytest.raises(common.Failed, match="public.a is not of this backup"):
        database.verify("acme", str(tmp_path / "dump"), {**held, "members": []})


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
    assert drill.media_differences(listed, backup.media_list(tmp_path)) == []
    (tmp_path / "y").write_bytes(b"3")
    (tmp_path / "a/b/x.bin").unlink()
    (tmp_path / "new").write_bytes(b"")
    words = drill.media_differences(listed, backup.media_list(tmp_path))
    assert words == ["a/b/x.bin is missing", "y differs", "new is not of this backup"]
    assert drill.few(words * 2) == "a/b/x.bin is missing, y differs, new is not of this backup and 3 more"


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
    last = {"dump": 10 << 20, "tables": 10, "files": 100}
    if refused:
        with pytest.raises(common.Failed, match="less than half"):
            backup.shrunk("acme", last, *now)
    else:
        backup.shrunk("acme", last, *now)


def test_small_sites_may_shrink():
    backup.shrunk("acme", {}, 1, 1, 1)
    backup.shrunk("acme", {"dump": 1000, "tables": 1, "files": 3}, 10, 1, 0)


def test_a_host_without_a_record_asks_the_snapshots(host, monkeypatch):
    """A host that replaces a lost one, and one that has a repository of yet no snapshot."""
    tags = ["site=acme", "dump=99", "tables=7", "files=40"]
    item = {"id": "a" * 64, "time": "2026-11-20T01:02:03Z", "hostname": "web1", "paths": ["/p"], "tags": tags}
    fake_restic(monkeypatch, (0, json.dumps([item])), MISSING, (0, ""), (0, "[]"))
    found = backup.held_before("acme", CONFIG)
    assert (found["dump"], found["tables"], found["files"]) == (99, 7, 40)
    os.unlink(repository.KNOWN)
    assert backup.held_before("acme", {**CONFIG, "repository": str(host / "restic")}) == {}
    common.record("acme", good={"files": 1})
    assert backup.held_before("acme", CONFIG) == {"files": 1}


def test_a_site_without_a_release_is_not_backed_up(host, monkeypatch, capsys):
    """A host that was provisioned anew must not make an empty site the newest snapshot."""
    monkeypatch.setattr(repository, "restic", lambda *_, **__: pytest.fail("asked restic"))
    with pytest.raises(common.Failed, match="has no live release"):
        backup.run("acme")
    assert cli.main(["run"]) == 0
    assert json.loads(capsys.readouterr().out) == {"acme": {"skipped": "it has no live release"}}


@pytest.fixture
def staged(host, monkeypatch):
    """Media with links to them in the staging folder, and a restic that keeps what it reads."""
    media, staging = host / "srv/acme/media", host / "srv/acme/backups/staging"
    media.mkdir()
    (media / "log").write_text("one")
    (media / "quiet").write_text("q")
    backup.freeze(str(media), str(staging / "media"))
    stored, forgotten = [], []

    def store(slug, config, folder, manifest, files):
        stored.append((dict(files), (staging / "media/log").read_text()))
        return str(len(stored))

    monkeypatch.setattr(backup, "_stored", store)
    monkeypatch.setattr(repository, "restic", lambda config, *argv: forgotten.append(argv))
    return media, staging, stored, forgotten


def test_media_written_to_while_they_are_read_are_taken_again(staged, monkeypatch):
    media, staging, stored, forgotten = staged
    real = backup._stored

    def store(*args):
        (media / "log").write_text("one and more")
        return real(*args)

    monkeypatch.setattr(backup, "_stored", store)
    files = backup.media_list(staging / "media")
    snapshot, listed = backup._still("acme", CONFIG, str(staging), {}, files)
    assert snapshot == "2" and forgotten == [("forget", "1")]
    assert listed == backup.media_list(staging / "media") == stored[1][0] and stored[1][1] == "one and more"
    # It is no link any more: what comes now does not reach it.
    (media / "log").write_text("later")
    assert (staging / "media/log").read_text() == "one and more"
    assert os.stat(staging / "media/quiet").st_nlink == 2


def test_media_that_never_rest_are_told(staged, monkeypatch):
    media, staging, stored, forgotten = staged
    names = iter(["a", "b", "c", "d"])

    def store(*_):
        # Another one each time.
        (staging / "media" / next(names)).write_text("x")
        return "0"

    monkeypatch.setattr(backup, "_stored", store)
    for name in "abcd":
        (staging / "media" / name).write_text("")
    with pytest.raises(common.Failed, match=r"1 media files changed in each of 3 tries, as c\. Try: "):
        backup._still("acme", CONFIG, str(staging), {}, backup.media_list(staging / "media"))
    assert len(forgotten) == 3


def test_a_sample_has_limits():
    listed = {f"f{n}": [10 << 20, n, "x"] for n in range(200)}
    chosen = drill.choice(listed)
    assert len(chosen) == 25 and chosen[0] == "f199"
    small = {name: [1, *rest] for name, (_, *rest) in listed.items()}
    assert len(set(drill.choice(small))) == drill.SAMPLE
    assert drill.choice({"film": [9 << 30, 1, "x"], "page": [1, 0, "x"]}) == ["page"]
    assert drill.choice({}) == []


# --- the repository


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("Fatal: wrong password or no key found", "does not open the repository"),
        ("Fatal: unable to open config file: stat: no such file\nIs there a repository at the following location?",
         "is missing. Try: bring it back"),
        ('Fatal: unable to open config file: Head "http://vault/config": dial tcp: connection refused\n'
         "Is there a repository at the following location?", "cannot be reached"),
        ("Fatal: unable to open config file: Access Denied.\nIs there a repository at the following location?",
         "cannot be reached"),
        ("Fatal: config cannot be loaded: unsupported repository version 9", "made by a newer restic"),
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
    assert all(call[1] == "--quiet" for call in calls)
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
    # One that is named is found whoever made it.
    fake_restic(monkeypatch, *[(0, json.dumps([theirs, *ours]))] * 2)
    assert repository.chosen(CONFIG, "acme", "a" * 8)["host"] == "old"
    assert repository.chosen(CONFIG, "acme", "latest")["id"][0] == "b"


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


@pytest.fixture
def owner(monkeypatch):
    """The numbers of the site's user, and to whom files were given."""
    given = []
    monkeypatch.setattr(common.pwd, "getpwnam", lambda name: SimpleNamespace(pw_uid=4711, pw_gid=4712))
    monkeypatch.setattr(common.os, "fchown", lambda fd, *numbers: given.append(numbers))
    return given


def test_the_secret_key_is_one_line_of_the_environment(tmp_path, owner):
    path = tmp_path / ".env"
    path.write_text('A="1"\nDJANGO_SECRET_KEY="old"\nB="x\ny"\n')
    path.chmod(0o600)
    restore._set_key("acme", str(path), 'a"b$c`d\\e')
    assert common.environment_file(path) == {"A": "1", "DJANGO_SECRET_KEY": 'a"b$c`d\\e', "B": "x\ny"}
    assert path.stat().st_mode & 0o777 == 0o600
    # The site's user, whoever owns the file that is replaced.
    assert owner == [(4711, 4712)]


def test_an_exchange_keeps_the_old_environment_and_makes_missing_media(host, monkeypatch, owner):
    folder = host / "srv/acme"
    (folder / "restored/media").mkdir(parents=True)
    (folder / "restored/media/theirs").write_text("")
    (folder / ".env").write_text('DJANGO_SECRET_KEY="old"\n')
    monkeypatch.setattr(database, "swap", lambda slug: None)
    done = {"notes": []}
    restore._exchange("acme", str(folder / "restored"), {"DJANGO_SECRET_KEY": "new"}, False, done)
    assert os.listdir(folder / "media") == ["theirs"] and os.listdir(folder / "backups/media.old") == []
    assert (folder / "backups/env.old").read_text() == 'DJANGO_SECRET_KEY="old"\n'
    assert (folder / ".env").read_text() == 'DJANGO_SECRET_KEY="new"\n'
    assert owner == [(4711, 4712)] * 2 and (folder / "backups/env.old").stat().st_mode & 0o777 == 0o600


# --- space


def test_needs_on_one_disk_add_up(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(common, "room", lambda path, needed, what: asked.append((path, needed)))
    common.rooms([(str(tmp_path), 1), (str(tmp_path / "not/yet/there"), 2), ("/proc", 4)], "a test")
    assert asked == [(str(tmp_path), 3), ("/proc", 4)]


def test_media_of_another_disk_are_counted_as_copies(host):
    folder = host / "srv/acme"
    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
        if os.stat(elsewhere).st_dev == os.stat(folder).st_dev:
            pytest.skip("one filesystem only")
        (pathlib.Path(elsewhere) / "film").write_bytes(b"x" * 1000)
        os.symlink(elsewhere, folder / "media")
        staging = str(folder / "backups")
        remote = {**CONFIG, "repository": "sftp:b@vault:/x"}
        assert backup._needs("acme", remote, staging, 50, 0) == [(staging, 50), (staging, 1000)]
        assert backup._needs("acme", CONFIG, staging, 50, 400)[-1] == (CONFIG["repository"], 650)
        os.unlink(folder / "media")
        (folder / "media").mkdir()
        assert backup._needs("acme", remote, staging, 50, 0) == [(staging, 50)]


@pytest.mark.parametrize(("size", "needed"), [({"size": 77}, 77), ({}, 8)])
def test_a_restored_database_needs_room_where_postgres_keeps_it(host, monkeypatch, size, needed):
    (host / "database.dump").write_bytes(b"dump")
    dump = {"bytes": 4, "sha256": backup.checksum(host / "database.dump")}
    common.write(f"{host}/manifest.json", {"site": "acme", "dump": dump, "tables": {}, **size})
    monkeypatch.setattr(database, "data_directory", lambda: "/pg")
    monkeypatch.setattr(database, "counts", lambda *_: {})
    asked = []
    monkeypatch.setattr(common, "rooms", lambda needs, what: asked.append(needs))
    monkeypatch.setattr(database, "restore", lambda *_: asked.append("restore"))
    drill.load("acme", str(host), "sum-acme.drill")
    assert asked == [[("/pg", needed)], "restore"]


def test_a_program_cannot_fill_a_disk(tmp_path):
    code, _ = common.run(["head", "-c", "1000000", "/dev/zero"], stdout=str(tmp_path / "out"), most=100_000)
    assert code and (tmp_path / "out").stat().st_size == 100_000
    assert common.run(["head", "-c", "1000", "/dev/zero"], stdout=str(tmp_path / "out"), most=100_000)[0] == 0


def test_what_a_dump_lists():
    lines = [
        "3; 3079 16385 EXTENSION - hstore ",
        "5; 2615 2200 SCHEMA - gis sum-acme",
        "3360; 0 16390 TABLE DATA public spatial_ref_sys postgres",
        "3361; 0 16391 TABLE DATA public a table sum-acme",
        "215; 1259 16390 TABLE public spatial_ref_sys postgres",
    ]
    found = [match.groups() if (match := database._ENTRY.match(line)) else None for line in lines]
    assert found == [
        ("EXTENSION", "-", "hstore"),
        ("SCHEMA", "-", "gis"),
        ("TABLE DATA", "public", "spatial_ref_sys"),
        ("TABLE DATA", "public", "a table"),
        None,
    ]


# --- services that start again and again


@pytest.fixture
def services(host, monkeypatch):
    """What systemd counts."""
    (host / "records").mkdir()
    counts, state = {}, {"heal": "inactive"}

    def run(argv, **_):
        if "ActiveState" in argv[2]:
            return 0, state["heal"] + "\n"
        assert "postgresql@*.service" in argv and "goldenpath-heal.service" in argv
        blocks = [f"Id={unit}\nNRestarts={count}\n" for unit, count in counts.items()]
        return 0, "\n".join(["Id=caddy.service\nNRestarts=0\n", *blocks])

    monkeypatch.setattr(common, "run", run)
    return counts, state


def watched(capsys):
    status = cli.main(["watch"])
    said = capsys.readouterr()
    return said.err.strip().splitlines() if status else []


def test_a_rise_of_restarts_is_told_once(services, capsys):
    counts, _ = services
    assert watched(capsys) == []
    counts["redis-server.service"] = 3
    (told,) = watched(capsys)
    assert told.startswith("redis-server.service on web1 failed and was started again, 3 times") and "Try: " in told
    assert watched(capsys) == []
    counts["redis-server.service"] = 4
    assert "1 times" in watched(capsys)[0]
    # Started by hand, and failing again.
    counts["redis-server.service"] = 2
    assert "2 times" in watched(capsys)[0]
    counts.clear()
    assert watched(capsys) == []


def test_what_is_overdue_is_told_every_six_hours(services, host, capsys, monkeypatch):
    os.symlink("releases/r", host / "srv/acme/current")
    common.write(f"{common.RECORDS}/since.state", {"at": ago(50)})
    assert "has never been, in 2 days" in watched(capsys)[0]
    assert watched(capsys) == []
    now = time.time()
    monkeypatch.setattr(cli.time, "time", lambda: now + cli.AGAIN + 60)
    assert "The last good backup" in watched(capsys)[0]


def test_a_restore_that_nobody_heals_is_told(services, capsys):
    common.write(common.journal("acme"), {"phase": "stopped"})
    services[1]["heal"] = "activating"
    assert watched(capsys) == []
    services[1]["heal"] = "failed"
    assert "A restore of acme on web1 was interrupted and is not healed" in watched(capsys)[0]


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


def test_a_journal_that_cannot_be_read_is_told(steps):
    os.makedirs(common.RECORDS)
    with open(common.journal("acme"), "w"):
        pass
    with pytest.raises(common.Failed, match="cannot be read. Try: "):
        restore.heal("acme")


def test_nothing_to_heal(steps):
    assert restore.heal("acme") == "There was nothing to heal" and steps[2] == []


def test_a_restore_that_touched_nothing_is_tidied_up(steps):
    folder, databases, done = steps
    databases.add("sum-acme.new")
    (folder / "backups/restore").mkdir()
    common.write(common.journal("acme"), {"phase": "prepare"})
    assert "not touched" in restore.heal("acme")
    assert done == ["drop sum-acme.new"] and not os.path.exists(common.journal("acme"))
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
    # A rollback had switched already.
    os.symlink("releases/wanted", folder / "current")
    common.write(common.journal("acme"), {"phase": "stopped", "release": "r"})
    assert "as they were before, and the site serves" in restore.heal("acme")
    assert os.listdir(folder / "media") == ["mine"] and not (folder / "maintenance").exists()
    assert ("swap back=True" in done) is swapped
    assert os.readlink(folder / "current") == "releases/r"
    assert done[0] == "_stop" and "_start" in done and os.listdir(folder / "backups") == []


@pytest.mark.parametrize("phase", ["stopped", "proven"])
def test_the_operators_own_maintenance_page_outlives_a_restore(steps, phase):
    folder = steps[0]
    (folder / "maintenance").write_text("operator")
    restore._maintenance("acme", True)
    common.write(common.journal("acme"), {"phase": phase, "release": "r"})
    restore.heal("acme")
    assert (folder / "maintenance").read_text() == "operator"


@pytest.mark.parametrize(
    ("status", "body", "good"),
    [
        (200, '{"status": "ok"}', True),
        (200, '{"status": "degraded"}', True),
        (204, "", True),
        (200, "<html>", True),
        (200, "[]", True),
        (200, '{"status": "unhealthy"}', False),
        (503, '{"status": "unhealthy"}', False),
        (503, '{"status": "ok"}', False),
        (204, '{"status": "ok"}', False),
        (302, "", False),
        (500, "", False),
    ],
)
def test_one_health_contract_for_a_restore_as_for_a_deploy(load, status, body, good):
    assert restore.healthy(status, body) is good
    judge = load("_modules/goldenpath.py")._judge
    told = judge(status, {"Location": ""}, body.encode(), "/health/", "acme.example")[0]
    assert (told in ("ok", "degraded")) is good


def test_a_proven_restore_is_finished(steps):
    folder, databases, done = steps
    databases |= {"sum-acme", "sum-acme.old"}
    (folder / "backups/media.old").mkdir()
    (folder / "maintenance").write_text("")
    common.write(common.journal("acme"), {"phase": "proven"})
    assert restore.heal("acme") == "The restored site serves" and not (folder / "maintenance").exists()
    assert "drop sum-acme.old" in done and "_stop" not in done
    assert [name[:7] for name in os.listdir(folder / "backups")] == ["media-2"]


# --- who heals, and when


@pytest.fixture
def healed(host, monkeypatch):
    """A site with a journal, and the slugs that were healed."""
    done = []

    def heal(slug):
        done.append(slug)
        os.unlink(common.journal(slug))
        return "All is well"

    monkeypatch.setattr(restore, "heal", heal)
    monkeypatch.setattr(cli.time, "sleep", lambda _, real=time.sleep: real(0.02))
    common.write(common.journal("acme"), {"phase": "stopped"})
    return done


def heal_beside():
    """`heal` as the unit runs it, in a thread. Returns the thread and what it answers."""
    answer = []
    thread = threading.Thread(target=lambda: answer.append(cli._heal(SimpleNamespace(site=None))))
    thread.start()
    return thread, answer


def test_a_heal_waits_for_the_lock_and_then_looks_again(healed):
    with common.undisturbed("acme", "restore", 0):
        thread, answer = heal_beside()
        time.sleep(0.2)
        assert healed == [] and thread.is_alive()
        os.unlink(common.journal("acme"))
    thread.join(5)
    assert answer == [{}] and healed == []


def test_what_the_holder_finished_just_then_is_left_alone(healed, monkeypatch):
    os.unlink(common.journal("acme"))
    seen = iter([["acme"], []])
    monkeypatch.setattr(cli, "_interrupted", lambda: next(seen))
    assert cli._heal(SimpleNamespace(site=None)) == {} and healed == []


def test_a_holder_that_died_is_healed_after(healed):
    with common.undisturbed("acme", "restore", 0):
        thread, answer = heal_beside()
        time.sleep(0.1)
    thread.join(5)
    assert answer == [{"acme": "All is well"}] and healed == ["acme"]


def test_one_site_does_not_wait_for_another(healed):
    common.write(common.journal("other"), {"phase": "stopped"})
    os.makedirs(common.root("other"))
    with common.undisturbed("acme", "restore", 0):
        thread, _ = heal_beside()
        time.sleep(0.2)
        assert healed == ["other"]
    thread.join(5)
    assert healed == ["other", "acme"]


def test_what_is_under_way_for_long_is_no_fault(healed, monkeypatch):
    monkeypatch.setattr(cli, "BUSY", 0.1)
    monkeypatch.setattr(cli, "PATIENCE", 0)
    with common.undisturbed("acme", "restore", 0):
        assert cli._heal(SimpleNamespace(site=None)) == {} and healed == []


def test_what_cannot_be_healed_is_tried_again_and_then_told(healed, monkeypatch):
    def refuse(slug):
        healed.append(slug)
        raise common.Failed("Postgres refused: no. Try: x")

    monkeypatch.setattr(restore, "heal", refuse)
    monkeypatch.setattr(cli, "PATIENCE", 0.1)
    with pytest.raises(common.Failed, match="The interrupted restore of acme on web1 is not healed: Postgres refused"):
        cli._heal(SimpleNamespace(site=None))
    assert len(healed) > 1


def test_the_end_of_a_restore_is_answered_whoever_healed(healed, host, monkeypatch):
    written, real, real_read = {}, common.write, common.read

    def write(path, data, **options):
        if path.endswith(".answer"):
            written[path] = data
        else:
            real(path, data, **options)

    monkeypatch.setattr(common, "write", write)
    assert cli._end_of_restore("acme") == {"acme": "All is well"}
    assert cli._end_of_restore("acme") == {"acme": "All is well"} and healed == ["acme"]
    answer = "/run/goldenpath/restore-acme.answer"
    assert "was ended before it was done. All is well." in written[answer]["error"]
    # That was before another restore, which ended before it began.
    asked = {"at": time.time() + 1}
    monkeypatch.setattr(common, "read", lambda path, real=real_read: asked if "request" in path else real(path))
    cli._end_of_restore("acme")
    assert "There was nothing to heal" in written[answer]["error"]


def test_a_backup_heals_first(host, monkeypatch):
    os.symlink("releases/r", host / "srv/acme/current")
    order = []
    monkeypatch.setattr(restore, "heal", lambda slug: order.append("heal"))
    monkeypatch.setattr(database, "bytes_of", lambda name: order.append("dump") or 0)
    with pytest.raises(common.Failed, match="there is no database"):
        backup.run("acme")
    assert order == ["heal", "dump"]


# --- the exchange of a rollback


@pytest.fixture
def exchange(steps, monkeypatch):
    """A site with a dump to go back to; what is done, in order."""
    folder, databases, done = steps
    databases.add("sum-acme")
    os.symlink("releases/r", folder / "current")
    dump = folder / "backups/x.dump"
    dump.write_bytes(b"1234")
    monkeypatch.setattr(database, "restore", lambda slug, path, name: (databases.add(name), done.append("restore"))[1])
    for name, value in (("data_directory", str(folder)), ("bytes_of", 1000), ("counts", {"t": 1}), ("unsaved", ["x"])):
        monkeypatch.setattr(database, name, lambda *_, value=value: value)
    monkeypatch.setattr(database, "alone", lambda slug: done.append("alone"))
    monkeypatch.setattr(database, "verify", lambda *_: None)

    def dumped(slug, path):
        done.append("dump")
        with open(path, "w"):
            pass
        return {"tables": {}, "members": []}

    monkeypatch.setattr(database, "dump", dumped)
    monkeypatch.setattr(common, "rooms", lambda needs, what: done.append(sum(size for _, size in needs)))
    return str(dump), databases, done


def test_an_exchange(exchange):
    dump, _, done = exchange
    answer = restore.exchange("acme", dump)
    assert done == [2000, "restore", "_stop", "alone", "dump", "swap back=False"]
    assert os.path.exists(answer["safety"]) and "x are not in a dump" in answer["notes"][0]
    assert os.path.exists(common.journal("acme"))
    assert restore.settle("acme")["state"] == "The restored site serves"
    assert not os.path.exists(common.journal("acme"))


def test_what_cannot_be_tidied_up_undoes_no_exchange(exchange, monkeypatch):
    """Proven is proven: a rollback that took this for a failure would go back with the release alone."""
    dump, _, _ = exchange
    restore.exchange("acme", dump)
    monkeypatch.setattr(database, "drop", lambda *_: (_ for _ in ()).throw(common.Failed("no server. Try: x")))
    assert "goldenpath-heal.service goes on trying" in restore.settle("acme")["state"]
    assert common.read(common.journal("acme"))["phase"] == "proven"


def test_no_exchange_without_a_safety_dump(exchange, monkeypatch):
    """`settle` drops the database of before: without its dump nothing of it would be left."""
    dump, databases, done = exchange
    monkeypatch.setattr(database, "dump", lambda *_: (_ for _ in ()).throw(common.Failed("pg_dump: no. Try: x")))
    with pytest.raises(common.Failed, match="cannot be dumped .*are back as they were before, and the site serves"):
        restore.exchange("acme", dump)
    assert "swap back=False" not in done and databases == {"sum-acme"} and "_start" in done
    assert not os.path.exists(common.journal("acme"))


def test_no_exchange_without_room(exchange, monkeypatch):
    dump, _, done = exchange
    monkeypatch.setattr(common, "rooms", lambda *_: (_ for _ in ()).throw(common.Failed("/x has 1 left. Try: df")))
    with pytest.raises(common.Failed, match="has 1 left.*not touched"):
        restore.exchange("acme", dump)
    assert done == ["drop sum-acme.new"]


def test_what_cannot_be_put_back_now_is_said(exchange, monkeypatch):
    dump, _, _ = exchange
    monkeypatch.setattr(database, "swap", lambda *_, **__: (_ for _ in ()).throw(common.Failed("gone. Try: x")))
    monkeypatch.setattr(restore, "_put_back", lambda *_: (_ for _ in ()).throw(common.Failed("Postgres is gone")))
    with pytest.raises(common.Failed, match=r"gone\. Try: x\. It is not put back yet \(Postgres is gone\)"):
        restore.exchange("acme", dump)
    assert os.path.exists(common.journal("acme"))


# --- media of a restore


@pytest.mark.parametrize("wrong", [0, 2, 6])
def test_a_few_files_that_differ_are_notes_and_many_a_refusal(host, monkeypatch, wrong):
    path = host / "fetched"
    (path / "media").mkdir(parents=True)
    for number in range(10):
        (path / f"media/f{number}").write_text("x")
    listed = backup.media_list(path / "media")
    for number in range(wrong):
        listed[f"f{number}"][2] = "another"
    common.write(f"{path}/media.json", listed)
    manifest = {"tables": {"t": 1}, "at": "then", "release": "r"}
    for module, name, value in (
        (database, "exists", False),
        (database, "bytes_of", 1),
        (database, "data_directory", str(host)),
        (database, "unsaved", []),
        (repository, "fetch", str(path)),
        (drill, "load", manifest),
        (drill, "secrets", {}),
        (common, "manage", (0, "")),
        (common, "rooms", None),
        (restore, "own", None),
    ):
        monkeypatch.setattr(module, name, lambda *_, value=value, **__: value)
    done = {"notes": []}
    if wrong > restore.FEW:
        with pytest.raises(common.Failed, match="f0 differs, f1 differs, f2 differs and 3 more"):
            restore._prepare("acme", CONFIG, {"dump": 1, "bytes": 1}, "r", done)
    else:
        restore._prepare("acme", CONFIG, {"dump": 1, "bytes": 1}, "r", done)
        expected = ["2 media files are not what was listed with them: f0 differs, f1 differs"] if wrong else []
        assert done["notes"] == expected
