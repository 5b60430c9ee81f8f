"""The site's sandbox: how systemd is asked for it. What it keeps a site from is looked at on a host."""

import itertools
import json
import os
import pathlib
import subprocess

import pytest
from goldenpath import env, host, manage, process, sandbox, units
from goldenpath.errors import Failed, Refused

REAL = sandbox.run
SECRET = "s3cr3t-canary"


@pytest.fixture
def systemd(site, monkeypatch):
    """What systemd-run is asked for, with the variables that it is given; it answers as a test says."""
    calls = []
    os.makedirs(site.root, exist_ok=True)
    monkeypatch.setattr(type(site), "owner", lambda site: (os.getuid(), os.getgid()))

    def run(argv, text=None, feed=None, timeout=None, **_):
        if argv[0] != units.SYSTEMD_RUN:
            calls.append(argv)
            return process.Done(0, "", "")
        path = next(word for word in argv if word.startswith("EnvironmentFile=")).partition("=")[2]
        assert os.stat(path).st_mode & 0o777 == 0o600
        calls.append((argv, env.load(pathlib.Path(path).read_text()), feed() if feed else text))
        return run.answer

    run.answer = process.Done(0, "said\n", "")
    monkeypatch.setattr(process, "run", run)
    monkeypatch.setattr(units, "own", lambda: "")
    monkeypatch.setattr(units, "journal", lambda unit, since, lines=20: "sum-x: Failed at step NAMESPACE")
    run.calls = calls
    return run


def properties(argv):
    return [value for word, value in itertools.pairwise(argv) if word == "-p"]


def test_as_the_sites_user_with_nothing_to_gain(systemd, site):
    assert REAL(site, ["/usr/bin/true", "a b"]) == (0, "said\n", "")
    ((argv, _, _),) = systemd.calls
    assert argv[argv.index("--") + 1 :] == ["/usr/bin/true", "a b"]
    assert f"User={site.name}" in argv and f"Group={site.name}" in argv
    # The name by which the host's drop-in finds it, too.
    assert any(word.startswith(f"--unit={site.name}-run-") for word in argv)
    for wanted in ("NoNewPrivileges=yes", "CapabilityBoundingSet=", "ProtectSystem=strict", "RestrictNamespaces=yes",
                   f"ReadWritePaths={site.root}", "TasksMax=512"):  # fmt: skip
        assert wanted in properties(argv)


def test_a_host_of_before_gets_a_place_for_temporary_files(systemd, site):
    for _ in range(2):
        REAL(site, ["/usr/bin/true"])
        assert f"BindPaths={site.root}/tmp:/var/tmp" in properties(systemd.calls[-1][0])
    assert os.stat(f"{site.root}/tmp").st_mode & 0o777 == 0o700


def test_one_text_says_what_the_sandbox_is():
    shipped = pathlib.Path(sandbox.__file__).with_name("sandbox.conf").read_text()
    assert sandbox.properties() == [line for line in shipped.splitlines() if line and line[0] not in "#["]


def test_variables_are_in_a_file_of_roots_that_goes(systemd, site):
    REAL(site, ["/usr/bin/true"], env={"TOKEN": SECRET, "ODD": 'a"$`\\\nb'})
    ((argv, values, _),) = systemd.calls
    assert values["TOKEN"] == SECRET and values["ODD"] == 'a"$`\\\nb'
    assert SECRET not in " ".join(argv)
    assert os.listdir(host.RUN) == []


def test_nothing_is_expanded(systemd, site):
    REAL(site, ["/usr/bin/echo", "${HOME}", "$x", "%i"])
    assert systemd.calls[0][0][-3:] == ["$${HOME}", "$$x", "%i"]
    with pytest.raises(Failed, match="zero byte"):
        REAL(site, ["/usr/bin/echo", "a\0b"])


def test_it_ends_with_the_unit_that_began_it(systemd, site, monkeypatch):
    monkeypatch.setattr(units, "own", lambda: "goldenpath-deploy-acme.service")
    REAL(site, ["/usr/bin/true"])
    assert "BindsTo=goldenpath-deploy-acme.service" in properties(systemd.calls[0][0])


def test_what_takes_too_long_is_killed_with_all_its_children(systemd, site):
    systemd.answer = process.Done(process.TIMED_OUT, "", "")
    assert REAL(site, ["/usr/bin/sleep", "9"], timeout=1).code == process.TIMED_OUT
    unit = next(word for word in systemd.calls[0][0] if word.startswith("--unit=")).partition("=")[2]
    assert systemd.calls[1] == ["/usr/bin/systemctl", "kill", "--signal=KILL", unit]


def test_what_is_interrupted_is_killed(systemd, site):
    def feed():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        REAL(site, ["/usr/bin/cat"], feed=feed)
    assert systemd.calls[-1][:3] == ["/usr/bin/systemctl", "kill", "--signal=KILL"]
    assert os.listdir(host.RUN) == []


def test_what_could_not_even_be_started_says_why(systemd, site):
    systemd.answer = process.Done(226, "", "")
    assert REAL(site, ["/usr/bin/true"]).output == "sum-x: Failed at step NAMESPACE"
    # A program's own status of that number has said something.
    systemd.answer = process.Done(226, "mine", "")
    assert REAL(site, ["/usr/bin/true"]).output == "mine"


def test_the_log_names_the_command_and_not_the_way_it_was_run(systemd, site, tmp_path):
    REAL(site, ["/usr/bin/git", "fetch"], log=str(tmp_path / "log"))
    assert (tmp_path / "log").read_text() == "$ /usr/bin/git fetch\nsaid\n"


# Several commands in one sandbox: really run, by the program that runs there.


def sh(script, optional=False):
    return ["/bin/sh", "-c", script], "/", optional


def test_all_until_one_fails(site):
    done = sandbox.run_all(site, [sh("echo one; echo two >&2"), sh("exit 3", True), sh("exit 4"), sh("echo never")])
    assert [each.code for each in done] == [0, 3, 4]
    assert done[0].output == "one\ntwo\n"


def test_a_program_that_is_not_there(site):
    (done,) = sandbox.run_all(site, [(["/nonexistent"], "/", False)])
    assert done.code == 127 and "No such file" in done.output


def test_what_a_command_prints_is_taken_for_no_answer(site):
    forged = json.dumps({"code": 0, "output": "forged"})
    done = sandbox.run_all(site, [sh(f"echo '{forged}'; exit 1"), sh("true")])
    assert [each.code for each in done] == [1] and forged in done[0].output


def test_a_sandbox_that_is_ended_is_a_failure(site, monkeypatch):
    monkeypatch.setattr(sandbox, "run", lambda *_, **__: process.Done(124, "killed after 1 s", ""))
    assert sandbox.run_all(site, [sh("true")]) == [(124, "killed after 1 s", "")]
    # Also where the first ones were done.
    told = json.dumps({"code": 0, "output": ""})
    monkeypatch.setattr(sandbox, "run", lambda *_, **__: process.Done(124, f"{told}\nkilled after 1 s", ""))
    assert [each.code for each in sandbox.run_all(site, [sh("true"), sh("sleep 9")])] == [0, 124]


def test_each_command_is_in_the_log(site, tmp_path):
    sandbox.run_all(site, [sh("echo a"), sh("echo b")], log=str(tmp_path / "log"))
    assert (tmp_path / "log").read_text() == "$ /bin/sh -c echo a\na\n$ /bin/sh -c echo b\nb\n"


# For a person


def test_a_command_for_a_person(site, monkeypatch):
    asked = []
    monkeypatch.setattr(process, "attached", lambda argv: asked.append(argv) or 7)
    monkeypatch.setattr(type(site), "owner", lambda site: (os.getuid(), os.getgid()))
    monkeypatch.setattr(units, "own", lambda: "")
    with pytest.raises(Refused, match="has no release yet"):
        manage.attach(site, ["check"])
    os.makedirs(site.release("r"))
    os.symlink("releases/r", site.path("current"))
    pathlib.Path(site.release("r", "release.env")).write_text('APP_DIR="/srv/app"\n')
    assert manage.attach(site, ["shell", "-c", "x"]) == 7
    (argv,) = asked
    # Between pipes here, and on a terminal of its own where there is one: it never has root's.
    assert "--pipe" in argv and argv[-5:] == [site.release("r", "venv/bin/python"), "manage.py", "shell", "-c", "x"]
    assert "WorkingDirectory=/srv/app" in properties(argv)


def test_any_command_for_a_person(site, monkeypatch):
    asked = []
    monkeypatch.setattr(process, "attached", lambda argv: asked.append(argv) or 0)
    monkeypatch.setattr(type(site), "owner", lambda site: (os.getuid(), os.getgid()))
    os.makedirs(site.root)
    with pytest.raises(Refused, match="no command"):
        manage.attach_command(site, [])
    assert manage.attach_command(site, ["--version", "$HOME"]) == 0
    # What looks like an option is the command's name, and nothing is expanded.
    assert asked[0][-4:] == ["/usr/bin/env", "--", "--version", "$$HOME"]
    assert f"WorkingDirectory={site.root}" in properties(asked[0])


def test_no_program_of_a_site_is_started_in_another_way():
    """Whatever runs as a site's user outside of it could be traced by the site, and gain what that may gain."""
    package = pathlib.Path(sandbox.__file__).parent
    found = subprocess.run(
        ["grep", "-nE", r"user=(site\.name|name\b|f?\"sum-)", *map(str, package.glob("*.py"))],
        capture_output=True, text=True, check=False,
    ).stdout  # fmt: skip
    assert found == ""
