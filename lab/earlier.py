"""Another commit of this repository with its own `lab` package, beside this one in the same process."""

import importlib
import importlib.util
import subprocess
import sys
import types

from .common import LabError
from .controller import REPOSITORY

MODULES = ("controller", "demo", "master", "siterepo")


def checkout(commit, folder):
    """Lay a commit's tree out, and load what of its lab a host is operated with.

    commit
        what git finds it by (str)
    folder
        where the tree goes; it is there and empty (pathlib.Path)

    Returns its modules by name (SimpleNamespace). Raises LabError where the clone lacks the commit.
    """
    git = ["git", "-C", str(REPOSITORY), "-c", "safe.directory=*"]
    if subprocess.run([*git, "cat-file", "-e", f"{commit}^{{commit}}"], capture_output=True, check=False).returncode:
        raise LabError(f"This clone's history lacks the commit {commit}. Try: git fetch --unshallow")
    archive = subprocess.run([*git, "archive", commit], capture_output=True, check=True).stdout
    subprocess.run(["tar", "-C", str(folder), "-x"], input=archive, check=True)
    name = f"lab_of_{commit}"
    spec = importlib.util.spec_from_file_location(name, folder / "lab/__init__.py")
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
    return types.SimpleNamespace(**{each: importlib.import_module(f"{name}.{each}") for each in MODULES})
