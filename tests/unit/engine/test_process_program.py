"""What becomes a process of a site: its command as the host knows it, in the release's folder, by its own programs."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
from goldenpath import sandbox

PROGRAM = f"{sandbox.PROGRAMS}/process.py"


@pytest.fixture
def become(tmp_path):
    """Run the program for a command. Returns how it ended."""
    app, bin_ = tmp_path / "app", tmp_path / "venv/bin"
    app.mkdir()
    bin_.mkdir(parents=True)
    (bin_ / "python").symlink_to(sys.executable)
    (app / "manage.py").write_text("import os, sys\nprint(sys.argv[1:], os.getcwd())\n")
    source = pathlib.Path(PROGRAM).read_text(encoding="utf-8").replace("/etc/goldenpath/sites", str(tmp_path))
    (tmp_path / "process.py").write_text(source)

    def become(command, kind="processes", name="rq"):
        (tmp_path / "acme.json").write_text(json.dumps({kind: {"rq": {"command": command}}}))
        return subprocess.run(
            [sys.executable, "-I", tmp_path / "process.py", "acme", name], capture_output=True, text=True, check=False,
            env={"APP_DIR": str(app), "VENV": str(tmp_path / "venv"), "PATH": f"{bin_}:{os.environ['PATH']}"},
        )  # fmt: skip

    become.app = app
    return become


@pytest.mark.parametrize("kind", ["processes", "schedules"])
def test_manage_py_is_the_releases_own(become, kind):
    done = become("manage.py rqworker 'two words' $HOME", kind)
    assert (done.returncode, done.stdout) == (0, f"['rqworker', 'two words', '$HOME'] {become.app}\n")


def test_any_other_program(become):
    assert become("sh -c 'exit 7'").returncode == 7


def test_what_is_not_there(become):
    done = become("no-such-program")
    assert done.returncode == 127 and done.stderr == "no-such-program cannot be run: No such file or directory\n"
    done = become("true", name="gone")
    assert done.returncode == 78 and done.stderr == "acme has no process gone. Try: state.apply\n"
