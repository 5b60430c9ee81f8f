"""What restic says, and how it is asked."""

import json

import pytest
from goldenpath import repository
from goldenpath.errors import Failed

from .backups import CANARY, CONFIG, MISSING, acme, fake_restic


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
    told = str(repository._failure(CONFIG, said))
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


def test_a_repository_is_made_once_and_never_again(host, monkeypatch):
    config = {**CONFIG, "repository": str(host / "restic")}
    calls = fake_restic(monkeypatch, MISSING, (0, ""), (0, "fine"), MISSING)
    assert repository.restic(config, "backup", make=True) == "fine"
    assert [call[2] for call in calls] == ["backup", "init", "backup"]
    assert all(call[1] == "--quiet" for call in calls)
    with pytest.raises(Failed, match="is missing"):
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
    assert [item["id"][0] for item in repository.snapshots(CONFIG, acme())] == ["c", "b"]
    assert repository.chosen(CONFIG, acme())["host"] == "old"
    with pytest.raises(Failed, match="has no snapshot of acme"):
        repository.chosen(CONFIG, acme())
    # One that is named is found whoever made it.
    fake_restic(monkeypatch, *[(0, json.dumps([theirs, *ours]))] * 2)
    assert repository.chosen(CONFIG, acme(), "a" * 8)["host"] == "old"
    assert repository.chosen(CONFIG, acme(), "latest")["id"][0] == "b"


def test_dumps_between_the_nights_are_told_from_snapshots_with_everything(host, monkeypatch):
    def snapshot(name, when, tag="site", owner="web1"):
        return {"id": name * 8, "time": f"2026-11-{when}Z", "hostname": owner, "paths": ["/p"], "tags": [f"{tag}=acme"]}

    every = [
        snapshot("a", "18T02:00:00"), snapshot("b", "18T03:00:00", "between"), snapshot("c", "19T02:00:00"),
        snapshot("d", "19T03:00:00", "between"), snapshot("e", "20T02:00:00", owner="other"),
    ]  # fmt: skip
    calls = fake_restic(monkeypatch, *[(0, json.dumps(every))] * 8)
    found = repository.snapshots(CONFIG, acme())
    assert [(item["id"][0], item["kind"]) for item in found] == [
        ("a", "full"), ("b", "dump"), ("c", "full"), ("d", "dump"),
    ]  # fmt: skip
    assert [word for word in calls[0] if "=acme" in word] == ["site=acme", "between=acme"]
    assert repository.chosen(CONFIG, acme())["id"][0] == "d"
    assert repository.chosen(CONFIG, acme(), full=True)["id"][0] == "c"
    assert repository.chosen(CONFIG, acme(), "b" * 8, full=True)["id"][0] == "b"
    # The media of a dump are those of the night before it.
    for dump, night in (("b", "a"), ("d", "c")):
        (taken,) = (item for item in found if item["id"][0] == dump)
        assert repository.full_before(CONFIG, acme(), taken)["id"][0] == night
    fake_restic(monkeypatch, (0, json.dumps(every[1:])), (0, json.dumps(every[1:2])))
    assert repository.full_before(CONFIG, acme(), found[1])["id"][0] == "c", "the oldest, where there is none before"
    assert repository.full_before(CONFIG, acme(), found[1]) is None


@pytest.mark.parametrize("wanted", ["--help", "; rm", "abc", "ABCDEF12", "g" * 8, ""])
def test_a_snapshot_is_an_id(host, monkeypatch, wanted):
    answer = [{"id": "a" * 64, "time": "2026-11-20T01:02:03Z", "hostname": "web1", "paths": ["/p"]}]
    fake_restic(monkeypatch, (0, json.dumps(answer)))
    with pytest.raises(Failed, match="is no snapshot's id"):
        repository.chosen(CONFIG, acme(), wanted)
