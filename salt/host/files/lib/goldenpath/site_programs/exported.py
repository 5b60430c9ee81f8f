# Managed by Golden Path: local changes are overwritten.
"""
Writes what a program prints into a file: FILE PROGRAM ARGUMENT…, and ends as the program does.

It runs as the site's user, in its sandbox, and imports nothing of the engine.
"""

import subprocess
import sys

with open(sys.argv[1], "wb") as out:
    done = subprocess.run(sys.argv[2:], stdout=out, stdin=subprocess.DEVNULL, check=False)
sys.exit(done.returncode if done.returncode >= 0 else 128 - done.returncode)
