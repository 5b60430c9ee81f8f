# Managed by Golden Path: local changes are overwritten.
"""
Runs manage.py commands in one process, because each start of Django costs most of a second.

It runs under a site's own interpreter and imports nothing of the engine. Its argument is a JSON list of commands, each
``[optional, name, argument, ...]``; it tells how each ended, and stops where one that is not optional fails. manage.py
itself is run, because sites prepare sys.path in it.
"""

import json
import runpy
import sys

# As it is where Python runs manage.py: the folder that is worked in, and not this program's.
sys.path[0] = ""

for optional, *argv in json.loads(sys.argv[1]):
    print("$ manage.py", *argv, flush=True)
    sys.argv = ["manage.py", *argv]
    code = 0
    try:
        runpy.run_path("manage.py", run_name="__main__")
    except SystemExit as exc:
        code = exc.code if isinstance(exc.code, int) else int(bool(exc.code))
        if isinstance(exc.code, str):
            print(exc.code)
    print("::manage", argv[0], code or 0, flush=True)
    if code and not optional:
        sys.exit(1)
