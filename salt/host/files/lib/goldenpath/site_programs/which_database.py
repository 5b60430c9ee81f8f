# Managed by Golden Path: local changes are overwritten.
"""
Runs one manage.py command, its arguments being this program's, and tells which database it really used.

It runs under a site's own interpreter and imports nothing of the engine.
"""

import runpy
import sys

sys.argv[0] = "manage.py"
# As it is where Python runs manage.py: the folder that is worked in, and not this program's.
sys.path[0] = ""
code = 0
try:
    runpy.run_path("manage.py", run_name="__main__")
except SystemExit as exc:
    code = exc.code if isinstance(exc.code, int) else int(bool(exc.code))
    if isinstance(exc.code, str):
        print(exc.code)

from django.db import connection  # noqa: E402  when manage.py has set the site up

print("::database", connection.settings_dict["NAME"], flush=True)
sys.exit(code or 0)
