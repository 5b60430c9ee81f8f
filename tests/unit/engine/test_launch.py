"""A verb as a unit: how it is asked for, how it answers, and what is said where it was ended."""

import io
import json
import os
import pathlib

import pytest
from goldenpath import cli, files, host, jobs, journal, launch, process, settle, units
from goldenpath import host as hosts
from goldenpath import site as sites
from goldenpath.errors import Busy, Ended, Failed, Refused

CANARY = "s3cr3t-canary"


@pytest.fixture
def systemd(paths, monkeypatch):
    """systemd-run that does what a test says with the request and the place for the result."""
    os.makedirs(host.RUN)
    os.makedirs(host.SITES)
    with open(f"{host.SITES}/acme.json", "w") as stream:
        stream.write('{"slug": "acme"}')
    calls = []

    def run(argv, **_):
        assert argv[0] == units.SYSTEMD_RUN and CANARY not in " ".join(argv)
        asked, told = argv[argv.index("--request") + 1], argv[argv.index("--result") + 1]
        assert os.stat(asked).st_mode & 0o777 == 0o600
        calls.append(argv)
        return run.does(asked, told) or process.Done(0, "", "")

    monkeypatch.setattr(process, "run", run)
    monkeypatch.setattr(units, "journal", lambda *_: "one\nkilled by somebody.\n")
    monkeypatch.setattr(units, "main_pid", lambda unit: 4711)
    run.calls = calls
    return run


def answers(document):
    return lambda asked, told: files.write_json(told, document)


def test_the_answer_of_a_unit(systemd):
    systemd.does = answers({"answer": {"release": "r"}})
    assert launch.run("deploy", "acme", {"pillar": {"secrets": {"A": CANARY}}}) == {"release": "r"}
    assert "--unit=goldenpath-deploy-acme" in systemd.calls[0]
    assert os.listdir(host.RUN) == [], "neither the request nor the answer stays"


def test_a_failure_of_a_unit(systemd):
    systemd.does = answers({"error": "no. Try: x", "tail": "last lines", "refused": False})
    with pytest.raises(Failed, match=r"^no\. Try: x$") as told:
        launch.run("deploy", "acme", {})
    assert told.value.tail == "last lines" and not isinstance(told.value, Refused)
    systemd.does = answers({"error": "no. Try: x", "refused": True})
    with pytest.raises(Refused):
        launch.run("deploy", "acme", {})


def test_a_unit_that_was_ended_says_so(systemd):
    systemd.does = lambda asked, told: process.Done(1, "", "")
    with pytest.raises(Failed) as told:
        launch.run("deploy", "acme", {})
    assert str(told.value) == (
        "The deploy of acme on web1 was ended before it was done (killed by somebody): what it left is tidied up by "
        "the next one. Try: journalctl -u goldenpath-deploy-acme"
    )


def test_a_restore_that_was_ended_tells_what_became_of_the_site(systemd, monkeypatch):
    systemd.does = lambda asked, told: process.Done(1, "", "")
    healed = {}
    monkeypatch.setattr(jobs.journal, "recorded", lambda slug: {"healed": healed} if healed else {})
    with pytest.raises(Ended, match=r"was ended before it was done\. There was nothing to heal\. Try: journalctl"):
        jobs.restore_beside("acme", {})
    argv = systemd.calls[0]
    assert f"ExecStopPost={launch.COMMAND} heal acme" in argv
    assert "OnFailure=goldenpath-alert@goldenpath-restore-acme.service.service" in argv
    # What was healed before this restore is not its end.
    healed.update(time=1.0, state="The site serves")
    with pytest.raises(Ended, match="There was nothing to heal"):
        jobs.restore_beside("acme", {})
    systemd.does = lambda asked, told: healed.update(time=launch.time.time() + 1) or process.Done(1, "", "")
    with pytest.raises(Ended, match="The site serves"):
        jobs.restore_beside("acme", {})


THERE = process.Done(
    1, "Failed to start transient service unit: Unit x.service was already loaded or has a fragment file.", ""
)


def test_a_second_one_is_told_who_is_at_it(systemd, monkeypatch):
    systemd.does = lambda asked, told: THERE
    with pytest.raises(Busy, match=r"^goldenpath-deploy-acme runs on web1 already\. Try: wait for it"):
        launch.run("deploy", "acme", {})
    site = launch.sites.load("acme")
    os.makedirs(site.root)
    held = {"who": "anna@laptop", "since": "now", "step": "migrate", "pid": 4711}
    files.write_json(site.path("deploy.lock"), held)
    with pytest.raises(Busy, match=r"^acme on web1 is held by anna@laptop since now, at step migrate\."):
        launch.run("deploy", "acme", {})


def test_a_second_one_waits_its_turn(systemd, monkeypatch):
    monkeypatch.setattr(launch.time, "sleep", lambda _: None)
    turns = iter([lambda *_: THERE, lambda *_: THERE, answers({"answer": "done"})])
    systemd.does = lambda asked, told: next(turns)(asked, told)
    assert launch.run("deploy", "acme", {}, wait=60) == "done"
    assert len(systemd.calls) == 3


# Inside the unit


@pytest.fixture
def inside(paths):
    os.makedirs(host.RUN)
    asked, told = f"{host.RUN}/x.request", f"{host.RUN}/x.result"
    files.write_json(asked, {"ref": "v1"})
    return asked, told


def test_the_request_is_gone_once_it_is_read(inside):
    asked, told = inside

    def work(request):
        assert not os.path.exists(asked)
        return request["ref"]

    assert launch.perform(work, asked, told) == 0
    assert files.read_json(told) == {"answer": "v1"}
    assert os.stat(told).st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("exc", "error", "refused"),
    [
        (Failed("no. Try: x", "tail"), "no. Try: x", False),
        (Refused("not now. Try: x"), "not now. Try: x", True),
        (OSError(28, "No space left on device"), "[Errno 28] No space left on device. Try: df -h", False),
        (KeyError("x"), "KeyError: 'x'. Try: journalctl -u 'goldenpath-*' -n 50", False),
    ],
)
def test_whatever_happens_there_is_an_answer(inside, exc, error, refused, capsys):
    def work(request):
        raise exc

    assert launch.perform(work, *inside) == 1
    found = files.read_json(inside[1])
    assert (found["error"], found["refused"]) == (error, refused)
    assert error in capsys.readouterr().err


# Every site of a host


@pytest.fixture
def three(host, monkeypatch):
    """Three sites whose backups are made, of which one has no release; what is done for each is a test's."""
    for slug in ("acme", "beta", "new"):
        pathlib.Path(hosts.SITES, f"{slug}.json").write_text(json.dumps({"slug": slug}))
        os.makedirs(f"{sites.SRV}/{slug}", exist_ok=True)
        if slug != "new":
            os.symlink("releases/r", f"{sites.SRV}/{slug}/current")
    known = json.loads(pathlib.Path(hosts.BACKUP).read_text())
    pathlib.Path(hosts.BACKUP).write_text(json.dumps({**known, "sites": ["acme", "beta", "new"]}))
    beats = []
    monkeypatch.setattr(jobs, "_beat", beats.append)
    return beats


def test_each_site_is_a_unit_and_one_that_fails_keeps_no_other(three, monkeypatch):
    asked = []

    def run(verb, slug, request, wait):
        asked.append((verb, slug, request["accept_smaller"]))
        if slug == "acme":
            raise Failed("The backup of acme on web1 was ended before it was done (out of memory). Try: x")
        return {"snapshot": slug}

    monkeypatch.setattr(launch, "run", run)
    with pytest.raises(Failed, match="^The backup of acme on web1 was ended"):
        jobs.each("backup", None, {"accept_smaller": False, "wait": 1})
    assert asked == [("backup", "acme", False), ("backup", "beta", False)] and three == []
    monkeypatch.setattr(launch, "run", lambda verb, slug, *_: {"snapshot": slug})
    done = jobs.each("backup", None, {"accept_smaller": False, "wait": 1})
    assert done["beta"] == {"snapshot": "beta"} and "skipped" in done["new"] and three == ["backup"]
    # One by name says nothing of all.
    jobs.each("backup", "beta", {"accept_smaller": True, "wait": 1})
    assert three == ["backup"]


@pytest.mark.parametrize("verb", sorted(launch._LIMITS))
def test_no_verb_lasts_for_ever(systemd, verb):
    systemd.does = answers({"answer": {}})
    launch.run(verb, "acme", {})
    assert any(word.startswith("RuntimeMaxSec=") for word in systemd.calls[0])
    assert set(cli._PERFORMED) == set(launch._LIMITS)


def test_a_unit_that_a_timers_unit_began_ends_with_it(systemd, monkeypatch):
    systemd.does = answers({"answer": {}})
    monkeypatch.setattr(units, "own", lambda: "goldenpath-backup.service")
    launch.run("backup", "acme", {})
    assert "BindsTo=goldenpath-backup.service" in systemd.calls[0]


@pytest.mark.parametrize(("confirm", "done"), [(None, False), ("acme", True), ("beta", False)])
def test_a_restore_by_a_person_wants_the_name_once_more(host, monkeypatch, capsys, confirm, done):
    asked = []
    monkeypatch.setattr(jobs, "plan", lambda *_: {"told": "It would restore 1a2b", "snapshot": "1a2b"})
    monkeypatch.setattr(jobs, "restore_beside", lambda slug, request: asked.append((slug, request)) or {})
    status = cli.main(["restore", "acme", *(["--confirm", confirm] if confirm else [])])
    assert (status, bool(asked)) == ((cli.DONE, True) if done else (cli.REFUSED, False))
    if not done:
        said = capsys.readouterr().err
        assert "Nothing was changed. Try: goldenpath restore acme --snapshot 1a2b --confirm acme" in said


@pytest.mark.parametrize("named", [False, True])
def test_a_restore_keeps_the_key_that_the_pillar_names(host, monkeypatch, named):
    pathlib.Path(hosts.SITES, "acme.json").write_text(
        json.dumps({"slug": "acme", "secrets": ["DJANGO_SECRET_KEY"] if named else []})
    )
    asked = []
    monkeypatch.setattr(jobs, "restore_beside", lambda slug, request: asked.append(request) or {})
    assert cli.main(["restore", "acme", "--confirm", "acme"]) == cli.DONE
    assert asked[0]["keep_secret_key"] is named


@pytest.mark.parametrize(
    ("asked", "steps", "restoring", "units"),
    [
        ({}, [], False, []), ({"restart": True}, [], False, ["settle"]), ({}, ["start x"], False, ["settle"]),
        ({}, [], True, ["settle"]),
    ],
)  # fmt: skip
def test_a_site_that_is_settled_is_no_work_for_a_unit(systemd, monkeypatch, capsys, asked, steps, restoring, units):
    started = []
    monkeypatch.setattr(launch, "run", lambda verb, *_: started.append(verb) or ["done"])
    monkeypatch.setattr(settle, "unsettled", lambda site: list(steps))
    if restoring:
        files.write_json(journal.path(sites.load("acme")), {"phase": "stopped"})
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(asked)))
    assert cli.main(["call", "settle", "acme"]) == 0
    assert started == units and json.loads(capsys.readouterr().out) == (["done"] if units else [])
