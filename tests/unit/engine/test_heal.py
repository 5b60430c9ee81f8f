"""What an interrupted restore leaves, and who heals it when."""

import os
import pathlib
import threading
import time

import pytest
from goldenpath import backup, files, heal, health, jobs, journal, lock, postgres
from goldenpath import host as hosts
from goldenpath import site as sites
from goldenpath.errors import Failed

from .backups import acme


def test_a_journal_that_cannot_be_read_is_told(steps):
    os.makedirs(journal.folder())
    with open(journal.path(acme()), "w"):
        pass
    with pytest.raises(Failed, match="cannot be read. Try: "):
        heal.heal(acme())


def test_nothing_to_heal(steps):
    assert heal.heal(acme()) == "There was nothing to heal" and steps[2] == []


def test_a_restore_that_touched_nothing_is_tidied_up(steps):
    folder, databases, done = steps
    databases.add("sum-acme.new")
    (folder / "backups/restore").mkdir()
    files.write_json(journal.path(acme()), {"phase": "prepare"})
    assert "not touched" in heal.heal(acme())
    assert done == ["drop sum-acme.new"] and not os.path.exists(journal.path(acme()))
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
    files.write_json(journal.path(acme()), {"phase": "stopped", "release": "r"})
    assert "as they were before, and the site serves" in heal.heal(acme())
    assert os.listdir(folder / "media") == ["mine"] and not (folder / "maintenance").exists()
    assert ("swap back=True" in done) is swapped
    assert os.readlink(folder / "current") == "releases/r"
    assert done[0] == "halt" and "resume" in done and os.listdir(folder / "backups") == []


@pytest.mark.parametrize("phase", ["stopped", "proven"])
def test_the_operators_own_maintenance_page_outlives_a_restore(steps, phase):
    folder = steps[0]
    (folder / "maintenance").write_text("operator")
    heal.stop(acme())
    files.write_json(journal.path(acme()), {"phase": phase, "release": "r"})
    heal.heal(acme())
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
def test_one_health_contract_for_a_restore_as_for_a_deploy(status, body, good):
    told = health.judge(status, {"Location": ""}, body.encode(), "/health/", "acme.example")[0]
    assert (told in health.GOOD) is good


def test_a_proven_restore_is_finished(steps):
    folder, databases, done = steps
    databases |= {"sum-acme", "sum-acme.old"}
    (folder / "backups/media.old").mkdir()
    (folder / "maintenance").write_text("")
    files.write_json(journal.path(acme()), {"phase": "proven"})
    assert heal.heal(acme()) == "The restored site serves" and not (folder / "maintenance").exists()
    assert "drop sum-acme.old" in done and "halt" not in done
    assert [name[:7] for name in os.listdir(folder / "backups")] == ["media-2"]


@pytest.fixture
def healed(host, monkeypatch):
    """A site with a journal, and the slugs that were healed."""
    done = []

    def healer(site):
        done.append(site.slug)
        os.unlink(journal.path(site))
        return "All is well"

    monkeypatch.setattr(heal, "heal", healer)
    monkeypatch.setattr(jobs.time, "sleep", lambda _, real=time.sleep: real(0.02))
    files.write_json(journal.path(acme()), {"phase": "stopped"})
    return done


def heal_beside():
    """`heal` as the unit runs it, in a thread. Returns the thread and what it answers."""
    answer = []
    thread = threading.Thread(target=lambda: answer.append(jobs.heal_all()))
    thread.start()
    return thread, answer


def test_a_heal_waits_for_the_lock_and_then_looks_again(healed):
    with lock.of_site(acme(), "restore"):
        thread, answer = heal_beside()
        time.sleep(0.2)
        assert healed == [] and thread.is_alive()
        os.unlink(journal.path(acme()))
    thread.join(5)
    assert answer == [{}] and healed == []


def test_what_the_holder_finished_just_then_is_left_alone(healed, monkeypatch):
    os.unlink(journal.path(acme()))
    seen = iter([["acme"], []])
    monkeypatch.setattr(journal, "interrupted", lambda: next(seen))
    assert jobs.heal_all() == {} and healed == []


def test_a_holder_that_died_is_healed_after(healed):
    with lock.of_site(acme(), "restore"):
        thread, answer = heal_beside()
        time.sleep(0.1)
    thread.join(5)
    assert answer == [{"acme": "All is well"}] and healed == ["acme"]


def test_one_site_does_not_wait_for_another(healed):
    pathlib.Path(hosts.SITES, "other.json").write_text('{"slug": "other"}')
    files.write_json(journal.path(sites.load("other")), {"phase": "stopped"})
    os.makedirs(sites.Site("other", {}).root)
    with lock.of_site(acme(), "restore"):
        thread, _ = heal_beside()
        time.sleep(0.2)
        assert healed == ["other"]
    thread.join(5)
    assert healed == ["other", "acme"]


def test_what_is_under_way_for_long_is_no_fault(healed, monkeypatch):
    monkeypatch.setattr(jobs, "BUSY", 0.1)
    monkeypatch.setattr(jobs, "PATIENCE", 0)
    with lock.of_site(acme(), "restore"):
        assert jobs.heal_all() == {} and healed == []


def test_what_cannot_be_healed_is_tried_again_and_then_told(healed, monkeypatch):
    def refuse(site):
        healed.append(site.slug)
        raise Failed("Postgres refused: no. Try: x")

    monkeypatch.setattr(heal, "heal", refuse)
    monkeypatch.setattr(jobs, "PATIENCE", 0.1)
    with pytest.raises(Failed, match="The interrupted restore of acme on web1 is not healed: Postgres refused"):
        jobs.heal_all()
    assert len(healed) > 1


def test_the_end_of_a_restore_heals_once(healed):
    assert jobs.end_of_restore("acme") == {"acme": "All is well"}
    assert jobs.end_of_restore("acme") == {"acme": None} and healed == ["acme"]
    assert journal.recorded("acme")["healed"]["state"] == "All is well"


def test_a_backup_heals_first(host, monkeypatch):
    os.symlink("releases/r", host / "srv/sum/acme/current")
    order = []
    monkeypatch.setattr(heal, "heal", lambda slug: order.append("heal"))
    monkeypatch.setattr(postgres, "size_of", lambda name: order.append("dump") or 0)
    with pytest.raises(Failed, match="there is no database"):
        backup.run(acme())
    assert order == ["heal", "dump"]
