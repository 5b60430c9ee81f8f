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
from goldenpath import process
from goldenpath.errors import Failed


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A program run for the site's user, who is nobody here: becoming another one needs root."""
    monkeypatch.setattr(process, "identity", lambda user: {})

    def run(argv, **options):
        return process.run(argv, user="sum-acme", cwd=options.pop("cwd", str(tmp_path)), **options)

    return run


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
def test_the_user_changes_before_the_program_begins():
    done = process.run(["/usr/bin/id", "-un"], user="nobody", env={"LD_PRELOAD": "/nonexistent"})
    assert done.output.splitlines()[-1] == "nobody"
    # What root itself starts sees none of it.
    assert process.run(["/usr/bin/env"]).output.splitlines() == [
        "LANG=C.UTF-8", "TMPDIR=/var/tmp", "HOME=/root", "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
    ]  # fmt: skip


def test_an_unknown_user():
    with pytest.raises(Failed, match=r"^there is no user sum-nobody\. Try: state\.apply$"):
        process.run(["/usr/bin/true"], user="sum-nobody")


def test_no_shell(run, tmp_path):
    done = run(["echo", "$HOME; touch evil", "`id`", "--"])
    assert done.output == "$HOME; touch evil `id` --\n"
    assert not (tmp_path / "evil").exists()


def test_the_environment_is_its_own(run, monkeypatch):
    monkeypatch.setenv("SALT_SECRET", "of the controller")
    lines = run(["env"], env={"TOKEN": "s3cr3t"}).output.splitlines()
    assert dict(line.split("=", 1) for line in lines) == {
        "HOME": "/", "LANG": "C.UTF-8", "PATH": "/usr/local/bin:/usr/bin:/bin", "TOKEN": "s3cr3t",
        "TMPDIR": "/var/tmp",
    }  # fmt: skip


def test_secrets_are_in_no_argument_and_no_log(run, tmp_path):
    shown = run(["cat", "/proc/self/cmdline"], env={"TOKEN": "s3cr3t"}, log=str(tmp_path / "log")).output
    assert "s3cr3t" not in shown + (tmp_path / "log").read_text()


@pytest.mark.parametrize("umask", [0o077, 0o027, 0o000])
def test_no_mode_is_left_to_the_hosts_umask(run, tmp_path, umask):
    before = os.umask(umask)
    try:
        run(["sh", "-c", "echo > made; mkdir folder"])
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "made").stat().st_mode) == 0o644
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o755


def test_output_and_exit_status(run, tmp_path):
    done = run(["sh", "-c", "echo out; echo err >&2; exit 3"], log=str(tmp_path / "log"))
    assert done == (3, "out\nerr\n", "")
    run(["echo", "again"], log=str(tmp_path / "log"))
    assert (tmp_path / "log").read_text() == "$ sh -c echo out; echo err >&2; exit 3\nout\nerr\n$ echo again\nagain\n"


def test_bytes_that_are_no_text(run):
    assert run(["printf", "a\\377b"]).output == "a\ufffdb"


def test_it_reads_nothing_by_default(run):
    assert run(["cat"], timeout=5) == (0, "", "")


def test_folder(run, tmp_path):
    (tmp_path / "x").mkdir()
    assert run(["pwd", "-P"], cwd=str(tmp_path / "x")).output.strip() == str((tmp_path / "x").resolve())


def test_files_that_root_opens(run, tmp_path):
    """A dump that the site's user could not write itself, of mode 0600 whatever was there."""
    target = tmp_path / "dump"
    target.write_text("old")
    target.unlink()
    before = os.umask(0)
    try:
        done = run(["sh", "-c", "echo data; echo why >&2; exit 1"], stdout=str(target))
    finally:
        os.umask(before)
    assert done == (1, "why\n", "why\n")
    assert target.read_text() == "data\n"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert run(["cat"], stdin=str(target)) == (0, "data\n", "")


def test_a_timeout_ends_the_children_too(run, tmp_path):
    began = time.monotonic()
    done = run(["sh", "-c", "echo begun; sleep 61 & echo $! > child; sleep 62"], timeout=1)
    assert time.monotonic() - began < 10
    assert done == (124, "begun\n\nkilled after 1 s", "")
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
    program = f"""
import sys
sys.path.insert(0, {os.path.dirname(os.path.dirname(process.__file__))!r})
from goldenpath import process
line = "echo $$ > pid.new; mv pid.new pid; exec sleep 63"
process.run(["/bin/sh", "-c", line], cwd={str(tmp_path)!r})
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


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
def test_a_program_of_another_user_is_taken_along_too():
    """A change of user takes the leash off a process (prctl(2)): it is put on after that."""
    program = f"""
import sys
sys.path.insert(0, {os.path.dirname(os.path.dirname(process.__file__))!r})
from goldenpath import process
program = process.start(["/usr/bin/sleep", "64"], user="nobody")
print(program.pid, flush=True)
program.wait()
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as deploy:
        pid = int(deploy.stdout.readline())
        assert not ended_now(pid)
        deploy.send_signal(signal.SIGKILL)
    assert ended(pid)


def ended_now(pid):
    return not pathlib.Path(f"/proc/{pid}").exists()


def test_what_cannot_be_started(run, tmp_path):
    with pytest.raises(Failed) as told:
        run(["echo"], cwd=str(tmp_path / "gone"))
    assert str(told.value) == f"echo cannot be started in {tmp_path}/gone: No such file or directory"


def test_an_unknown_program(run):
    with pytest.raises(Failed, match=r"^no-such-program cannot be started in .*: No such file or directory$"):
        run(["no-such-program"])


def test_an_answer_and_its_noise_are_two_texts(run):
    done = run(["sh", "-c", "echo 42; echo 'WARNING: collation version mismatch' >&2"], apart=True)
    assert done == (0, "42\n", "WARNING: collation version mismatch\n")
