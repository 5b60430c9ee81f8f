"""What a host must be for Salt to work on it, asked of this machine by an ssh that is played."""

import os
import runpy

import pytest

from tests.conftest import ROOT

REACH = runpy.run_path(str(ROOT / "_controller/reach.py"))


@pytest.fixture
def host(tmp_path):
    """A folder for the thin, and an ssh that runs what it is given here. env: what the host's PATH has."""
    thin = tmp_path / "thin"
    thin.mkdir()
    (thin / "version").touch()
    ssh = tmp_path / "ssh"

    def ask(before="", instead=None, thin=thin, **options):
        line = instead or f'{before}\nfor last; do :; done\nexec sh -c "$last"'
        ssh.write_text(f"#!/bin/sh\n{line}\n")
        ssh.chmod(0o755)
        argv = [str(ssh), "-o", "BatchMode=yes", "-o", "User=root", "-o", "Port=2222", "-i", "key", "web1.example"]
        return REACH["fault"]("web1", argv, str(thin), **options)

    return ask


def test_a_host_that_is_well(host, tmp_path):
    assert host() == "" and sorted(os.listdir(tmp_path / "thin")) == ["version"]
    assert host(thin=tmp_path / "not/there/yet") == "" and not (tmp_path / "not").exists()


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("echo 'root@web1: Permission denied (publickey).' >&2; exit 255",
         "web1 cannot be reached: root@web1: Permission denied (publickey). Try: ssh -p 2222 -i key root@web1.example"),
        ("echo 'Host key verification failed.' >&2; exit 255", "web1 shows a host key that nobody here knows. Try: "),
        ("echo '@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.' >&2; exit 255",
         "(REMOTE HOST IDENTIFICATION HAS CHANGED). Try: the provider's console, whether it was reinstalled; only then "
         "ssh-keygen -R web1.example"),
        ("exit 255", "web1 cannot be reached: ssh gave no reason."),
        ("echo only uptime", "web1 lets ssh in and runs no command of ours: only uptime. Try: ssh -p 2222"),
        ("echo This account is currently not available.; exit 1", "runs no command of ours: This account is currently"),
        ("printf 'no\\033[2Jsuch\\n'; exit 1", "no?[2Jsuch"),
    ],
)  # fmt: skip
def test_a_host_that_runs_nothing(host, line, sentence):
    assert sentence in host(instead=line)


def test_a_noisy_login(host):
    assert host(before="echo hello") == (
        "web1 greets every command with 'hello', which file copies take for an answer. Try: move it out of .bashrc and "
        "its like on the host, behind: case $- in *i*) … esac"
    )


def test_a_silent_host(host, monkeypatch):
    assert "answers nothing for 1 s. Try: ssh -p 2222 -i key root@web1.example uptime" in host(
        before="sleep 5", seconds=-19
    )


def programs(tmp_path, **others):
    """A PATH with what the question needs, and with programs of a test's own."""
    folder = tmp_path / "bin"
    folder.mkdir(exist_ok=True)
    for name in ("sh", "cp", "rm", "dirname", "grep", "mkdir", "python3"):
        if name not in others:
            target = next(f"/{where}/{name}" for where in ("bin", "usr/bin") if os.path.exists(f"/{where}/{name}"))
            (folder / name).symlink_to(target)
    for name, text in others.items():
        if text is not None:
            (folder / name).write_text(f"#!/bin/sh\n{text}\n")
            (folder / name).chmod(0o755)
    return f"PATH={folder}; export PATH"


@pytest.mark.parametrize(
    ("others", "sentence"),
    [
        (
            {"python3": None},
            "web1 has no python3. Try: ssh -p 2222 -i key root@web1.example apt-get install -y python3",
        ),
        (
            {"python3": "echo Python 3.7.3"},
            "web1 has a python3 that Salt cannot use (Python 3.7.3): it needs 3.",
        ),
        ({"python3": "echo ImportError; exit 1"}, "web1 has a python3 that Salt cannot use (ImportError)"),
        ({"cp": "echo \"cp: error writing 'x': No space left on device\" >&2; exit 1"}, "web1 has no room in "),
        ({"cp": "echo \"cp: cannot create 'x': Disk quota exceeded\" >&2; exit 1"}, "web1 has no room in "),
        ({"cp": "echo \"cp: cannot create 'x': Read-only file system\" >&2; exit 1"}, "on a read-only filesystem"),
        ({"cp": "echo \"cp: cannot create 'x': Permission denied\" >&2; exit 1"}, "does not let Salt write in "),
    ],
)
def test_a_host_that_lacks_what_salt_needs(host, tmp_path, others, sentence):
    assert sentence in host(before=programs(tmp_path, **others))


@pytest.mark.parametrize(
    ("subsystem", "thin", "told"), [("", "new", True), ("subsystem sftp x", "new", False), ("", "thin", False)]
)
def test_an_sshd_without_sftp_matters_where_the_thin_is_yet_to_be_sent(host, tmp_path, subsystem, thin, told):
    found = host(before=programs(tmp_path, sshd=f"echo port 22; echo '{subsystem}'"), thin=tmp_path / thin)
    assert ("has an sshd without sftp" in found) is told


def test_sudo_with_a_password_is_left_to_salt(host):
    assert host(instead="echo 'sudo: a password is required' >&2; exit 1", sudo=True) == ""
