"""
What a site's own settings say before it serves: that it keeps what it must not lose in what stays and is backed up,
that nobody reads its insides, and that its static files are where they are asked for.
"""

import json
import os
import re

from .errors import Failed


def judged(site, release, output):
    """
    Judge the settings that ``run_manage.py`` told. output: all that it printed.

    Returns remarks. Raises Failed for data that would go with the release.
    """
    try:
        told = _told(output, "settings", {})
        databases, uploads = dict(told.get("databases", {})), list(told.get("uploads", []))
    except (ValueError, TypeError, AttributeError):
        return []
    _shown_to_nobody(site, told)
    _static(site, told)
    remarks = _remarks(site, told)
    for alias, known in sorted(databases.items()):
        engine, name = str(known.get("engine", "")), str(known.get("name", ""))
        if engine.endswith("sqlite3") and _goes(site, release, name):
            raise Failed(
                f"The database {alias!r} is SQLite at {name}, inside the release: the next deploy would begin with an "
                f"empty one. Try: read DATABASE_URL, or DJANGO_DB_NAME, DJANGO_DB_USER and DJANGO_DB_HOST, in "
                f"{site.facts['settings']}"
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


def pending(output):
    """What ``run_manage.py`` told of the pending migrations: a list of [migration, what, whether that is sure]."""
    try:
        return [[str(name), str(what), hard is True] for name, what, hard in _told(output, "pending", [])]
    except (ValueError, TypeError):
        return []


def _told(output, word, otherwise):
    """The last thing that ``run_manage.py`` told by this word. Raises ValueError for what is no JSON."""
    found = re.findall(rf"^::{word} (.*)$", output, re.MULTILINE)
    return json.loads(found[-1]) if found else otherwise


def _remarks(site, told):
    """What the tree's variables or paths do otherwise than the settings say. Raises Failed for what cannot work."""
    if told.get("no_redis_client"):
        raise Failed(
            "CACHES are in Redis, and the environment has no Redis client: the first page that is cached would fail. "
            "Try: dependencies: {add: [redis]} in the site's pillar"
        )
    remarks = []
    for name in told.get("overruled") or [] if site.celery["worker"] else []:
        remarks.append(
            f"{name} of the environment takes the place of what the settings say of it. "
            f"Where the settings are right: env: {{{name}: null}} in the site's pillar"
        )
    url = str(told.get("media_url", ""))
    if told.get("uploads") and url.strip("/") and "//" not in url and url.strip("/") != "media":
        remarks.append(f"MEDIA_URL is {url!r:.80}, and uploads are served below /media/")
    return remarks


def _shown_to_nobody(site, told):
    """Raise Failed where visitors could read the site's insides, or sign in its name."""
    names = site.facts["settings"]
    if told.get("debug"):
        raise Failed(
            f"DEBUG is on: whoever finds an error reads the site's settings and code. Try: DEBUG = False in {names}"
        )
    if told.get("public_key"):
        raise Failed(
            "SECRET_KEY is the one of django-admin startproject, which stands in the repository: whoever knows it "
            f'signs sessions in the site\'s name. Try: SECRET_KEY = os.environ["DJANGO_SECRET_KEY"] in {names}'
        )


def _static(site, told):
    """Raise Failed where every static file would be missing: Caddy serves them below one path."""
    url = str(told.get("static_url", ""))
    elsewhere = not url or "//" in url or told.get("whitenoise")
    if not elsewhere and url.strip("/") != "static":
        raise Failed(
            f"STATIC_URL is {url!r:.80}, and static files are served below /static/: every one of them would be "
            f'missing. Try: STATIC_URL = "static/" in {site.facts["settings"]}, or whitenoise in its MIDDLEWARE'
        )


def _goes(site, release, place):
    """Whether a path is in a folder that belongs to one release."""
    base = site.release(release, "src")
    whole = os.path.normpath(os.path.join(base, place))
    return whole.startswith((site.path("releases") + os.sep, os.path.realpath(base) + os.sep))
