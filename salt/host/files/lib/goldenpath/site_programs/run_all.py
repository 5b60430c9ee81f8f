# Managed by Golden Path: local changes are overwritten.
"""
Runs commands one after another in a site's sandbox, which is made once for all of them.

It runs as the site's user and imports nothing of the engine. Standard input is a JSON list of ``{"argv", "cwd",
"optional"}``; for each it prints a line ``{"code", "output"}``, and stops where one fails that is not optional.
"""

import json
import subprocess
import sys

for each in json.load(sys.stdin):
    try:
        done = subprocess.run(
            each["argv"], cwd=each["cwd"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            check=False,
        )  # fmt: skip
        code, output = done.returncode, done.stdout.decode(errors="replace")
    except OSError as exc:
        code, output = 127, f"{each['argv'][0]}: {exc.strerror}"
    print(json.dumps({"code": code, "output": output}), flush=True)
    if code and not each["optional"]:
        sys.exit(1)
