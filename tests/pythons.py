"""
The engine's tests under the Pythons of hosts that this machine has: ``python -m tests.pythons``.

Hosts have 3.10 (Ubuntu 22.04) to 3.14 (Ubuntu 26.04), and the controller one of them. Salt is not needed for these
tests and not installed for them; the example's pillar comes as a file.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

from tests.conftest import ROOT, example_pillar
from tests.interpreters import interpreter

VERSIONS = ("3.10", "3.11", "3.12", "3.13")
# Half a minute of a real Postgres, which no Python changes: under the newest of hosts', and under the controller's.
SLOW, SLOW_UNDER = "tests/unit/engine/test_real_postgres.py", "3.13"
HOME = ROOT / ".salt/pythons"
NEEDS = ("pytest", "pytest-timeout")


def equipped(version, python):
    """A virtual environment with pytest for this Python, made once. Returns its interpreter."""
    folder = HOME / version
    if not (folder / ".complete").exists():
        subprocess.run([python, "-m", "venv", "--clear", folder], check=True)
        argv = [
            sys.executable,
            ROOT / "config/install.py",
            folder / "bin/python",
            "-c",
            ROOT / "constraints.txt",
            *NEEDS,
        ]
        subprocess.run(argv, check=True)
        (folder / ".complete").touch()
    return folder / "bin/python"


def main(tests=("tests/unit/engine",)):
    """Run the tests under every other Python, and say which there is none of. Returns an exit status."""
    own = ".".join(map(str, sys.version_info[:2]))
    failed, absent = [], []
    with tempfile.TemporaryDirectory(prefix="gp-") as folder:
        example = pathlib.Path(folder, "example.json")
        example.write_text(json.dumps(example_pillar()))
        for version in VERSIONS:
            python = None if version == own else interpreter(version)
            if python is None:
                absent += [version] if version != own else []
                continue
            print(f"The engine under Python {version}", flush=True)
            argv = [equipped(version, python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "--confcutdir", tests[0]]
            more = [] if version == SLOW_UNDER else ["--ignore", SLOW]
            done = subprocess.run(
                [*argv, *more, *tests], cwd=ROOT, env={**os.environ, "GOLDENPATH_EXAMPLE": str(example)}, check=False
            )
            failed += [version] if done.returncode else []
    if absent:
        print(f"The engine's tests were not run under Python {', '.join(absent)}: this machine has none.")
    if failed:
        print(f"The engine's tests fail under Python {', '.join(failed)}.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
