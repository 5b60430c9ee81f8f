"""Where a site keeps what it must not lose, as its own settings have it: in what stays, and in what is backed up."""

import json
import os
import re

from .errors import Failed


def judged(site, release, output):
    """
    Judge the settings that ``run_manage.py`` told. output: all that it printed.

    Returns remarks. Raises Failed for data that would go with the release.
    """
    found = re.findall(r"^::settings (.*)$", output, re.MULTILINE)
    try:
        told = json.loads(found[-1]) if found else {}
        databases, uploads = dict(told.get("databases", {})), list(told.get("uploads", []))
    except (ValueError, TypeError, AttributeError):
        return []
    remarks = []
    for alias, known in sorted(databases.items()):
        engine, name = str(known.get("engine", "")), str(known.get("name", ""))
        if engine.endswith("sqlite3") and _goes(site, release, name):
            raise Failed(
                f"The database {alias!r} is SQLite at {name}, inside the release: the next deploy would begin with an "
                f"empty one. Try: read DJANGO_DB_NAME, DJANGO_DB_USER and DJANGO_DB_HOST in {site.facts['settings']}"
            )
        if engine.endswith("sqlite3") or (alias == "default" and name != site.name):
            remarks.append(f"the database {alias!r} ({engine.rpartition('.')[2]}, {name}) is in no backup of this host")
    for place in sorted(map(str, uploads)):
        if _goes(site, release, place):
            raise Failed(
                f"Uploads are kept in {place}, inside the release: they would be gone with it, and are in no backup. "
                f'Try: MEDIA_ROOT = os.environ["DJANGO_MEDIA_ROOT"] in {site.facts["settings"]}'
            )
        if os.path.normpath(place) != site.path("media") and not place.startswith(site.path("media") + os.sep):
            remarks.append(f"uploads are kept in {place} and not in {site.path('media')}: they are in no backup")
    return remarks


def _goes(site, release, place):
    """Whether a path is in a folder that belongs to one release."""
    base = site.release(release, "src")
    whole = os.path.normpath(os.path.join(base, place))
    return whole.startswith((site.path("releases") + os.sep, os.path.realpath(base) + os.sep))
