"""The Pythons of this machine. Imports nothing but Python's own: tests run under Pythons that have no more."""

import glob
import os
import shutil
import subprocess


def interpreter(version):
    """A Python of this version that starts, or None: one on the PATH, or one of pyenv's."""
    pyenv = os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv"))
    found = [shutil.which(f"python{version}"), *sorted(glob.glob(f"{pyenv}/versions/{version}.*/bin/python"))]
    for each in filter(None, found):
        if subprocess.run([each, "-c", ""], capture_output=True, check=False).returncode == 0:
            return each
    return None
