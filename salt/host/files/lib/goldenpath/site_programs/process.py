# Managed by Golden Path: local changes are overwritten.
"""
Becomes a process, or a schedule's command, of a site: SLUG NAME. ``manage.py`` is the release's own.

It runs as the site's user, in its unit, and imports nothing of the engine.
"""

import json
import os
import shlex
import sys

SITES = "/etc/goldenpath/sites"


def main(slug, name):
    """Read the command, and become it. Exits with 78 (EX_CONFIG) where the host does not know it."""
    with open(f"{SITES}/{slug}.json", encoding="utf-8") as stream:
        site = json.load(stream)
    known = {**site.get("processes", {}), **site.get("schedules", {})}
    if name not in known:
        print(f"{slug} has no process {name}. Try: state.apply", file=sys.stderr)
        sys.exit(78)
    words = shlex.split(known[name]["command"])
    if words[0] == "manage.py":
        words[:1] = [os.path.join(os.environ["VENV"], "bin/python"), "manage.py"]
    os.chdir(os.environ["APP_DIR"])
    try:
        os.execvp(words[0], words)  # noqa: S606  that is its purpose
    except OSError as exc:
        print(f"{words[0]} cannot be run: {exc.strerror}", file=sys.stderr)
        sys.exit(127)


if __name__ == "__main__":
    main(*sys.argv[1:])
