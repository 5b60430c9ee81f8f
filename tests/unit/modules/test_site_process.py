"""
A program run as a site's user. setpriv itself needs root, so a stand-in notes what it was asked and runs the
program; the real one is used on every deploy of the host tests.
"""

import os
import pathlib
import signal
import stat
import subprocess
import sys
import time

import pytest
from salt.exceptions import CommandExecutionError

from tests.conftest import ROOT

SETPRIV = """#!/bin/sh
printf '%s\\n' "$@" > "{note}"
while [ "$1" != -- ]; do shift; done
shift
exec "$@"
"""


@pytest.fixture
def process(load, tmp_path, monkeypatch):
    folder = tmp_path / "bin"
    folder.mkdir()
    note = tmp_path / "setpriv.argv"
    (folder / "setpriv").write_text(SETPRIV.format(note=note))
    (folder / "setpriv").chmod(0o755)
    module = load("_modules/site_process.py")
    path = f"{folder}:/usr/local/bin:/usr/bin:/bin"

    def run(argv, **options):
        options["env"] = {"PATH": path, **options.get("env", {})}
        return module.run("acme", argv, options.pop("cwd", str(tmp_path)), **options)

    run.note, run.module, run.path = note, module, path
    return run


def test_the_user_and_the_leash(process):
    assert process(["echo", "hello"]) == {"retcode": 0, "output": "hello\n"}
    argv = process.note.read_text().splitlines()
    assert argv == [
        "--reuid=sum-acme", "--regid=sum-acme", "--init-groups", "--pdeathsig=KILL", "--", "echo", "hello",
    ]  # fmt: skip


def test_no_shell(process, tmp_path):
    done = process(["echo", "$HOME; touch evil", "`id`", "--"])
    assert done["output"] == "$HOME; touch evil `id` --\n"
    assert not (tmp_path / "evil").exists()


def test_the_environment_is_its_own(process, monkeypatch):
    monkeypatch.setenv("SALT_SECRET", "of the controller")
    lines = process(["env"], env={"TOKEN": "s3cr3t"})["output"].splitlines()
    shown = dict(line.split("=", 1) for line in lines)
    del shown["PATH"], shown["PWD"]
    shown.pop("_", None)
    assert shown == {"HOME": "/srv/sum/acme/cache", "LANG": "C.UTF-8", "TOKEN": "s3cr3t"}


def test_secrets_are_in_no_argument_and_no_log(process, tmp_path):
    process(["true"], env={"TOKEN": "s3cr3t"}, log=str(tmp_path / "log"))
    assert "s3cr3t" not in process.note.read_text() + (tmp_path / "log").read_text()


def test_output_and_exit_status(process, tmp_path):
    done = process(["sh", "-c", "echo out; echo err >&2; exit 3"], log=str(tmp_path / "log"))
    assert done == {"retcode": 3, "output": "out\nerr\n"}
    process(["echo", "again"], log=str(tmp_path / "log"))
    assert (tmp_path / "log").read_text() == "$ sh -c echo out; echo err >&2; exit 3\nout\nerr\n$ echo again\nagain\n"


def test_bytes_that_are_no_text(process):
    assert process(["printf", "a\\377b"])["output"] == "a\ufffdb"


def test_it_reads_nothing_by_default(process):
    assert process(["cat"], timeout=5) == {"retcode": 0, "output": ""}


def test_folder(process, tmp_path):
    (tmp_path / "x").mkdir()
    assert process(["pwd", "-P"], cwd=str(tmp_path / "x"))["output"].strip() == str((tmp_path / "x").resolve())


def test_files_that_root_opens(process, tmp_path):
    """A dump that the site's user could not write itself, of mode 0600 whatever was there."""
    target = tmp_path / "dump"
    target.write_text("old")
    target.unlink()
    before = os.umask(0)
    try:
        done = process(["sh", "-c", "echo data; echo why >&2; exit 1"], write=str(target))
    finally:
        os.umask(before)
    assert done == {"retcode": 1, "output": "why\n"}
    assert target.read_text() == "data\n"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert process(["cat"], read=str(target)) == {"retcode": 0, "output": "data\n"}


def test_a_timeout_ends_the_children_too(process, tmp_path):
    began = time.monotonic()
    done = process(["sh", "-c", "echo begun; sleep 61 & echo $! > child; sleep 62"], timeout=1)
    assert time.monotonic() - began < 10
    assert done == {"retcode": 124, "output": "begun\n\nkilled after 1 s"}
    assert ended(int((tmp_path / "child").read_text()))


def ended(pid):
    for _ in range(100):
        try:
            # A zombie has ended; who reaps it does not matter.
            if pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.05)
    return False


def test_a_killed_deploy_takes_its_program_along(tmp_path):
    """setpriv --pdeathsig as this module uses it, but for the user: that needs root."""
    words = subprocess.run(["setpriv", "--help"], capture_output=True, text=True, check=True).stdout
    assert "--pdeathsig" in words
    program = f"""
import subprocess, sys
sys.path.insert(0, {str(ROOT / "_modules")!r})
import site_process
real = subprocess.Popen
def popen(command, **options):
    return real(["setpriv", "--pdeathsig=KILL", "--", *command[command.index("--") + 1:]], **options)
subprocess.Popen = popen
line = "echo $$ > pid.new; mv pid.new pid; exec sleep 63"
site_process.run("acme", ["sh", "-c", line], {str(tmp_path)!r})
"""
    with subprocess.Popen([sys.executable, "-c", program]) as deploy:
        for _ in range(200):
            if (tmp_path / "pid").exists():
                break
            time.sleep(0.05)
        pid = int((tmp_path / "pid").read_text())
        assert not ended_now(pid)
        deploy.send_signal(signal.SIGKILL)
    assert ended(pid)


def ended_now(pid):
    return not pathlib.Path(f"/proc/{pid}").exists()


def test_what_cannot_be_started(process, tmp_path):
    with pytest.raises(CommandExecutionError) as told:
        process(["echo"], cwd=str(tmp_path / "gone"))
    assert str(told.value) == f"echo cannot be started in {tmp_path}/gone: No such file or directory"


def test_an_unknown_program(process):
    done = process(["no-such-program"])
    assert done["retcode"] == 127
    assert "no-such-program" in done["output"]
