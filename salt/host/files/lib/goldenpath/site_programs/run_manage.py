# Managed by Golden Path: local changes are overwritten.
"""
Runs manage.py commands in one process, because each start of Django costs most of a second.

It runs under a site's own interpreter and imports nothing of the engine. Its argument is a JSON list of commands, each
``[optional, name, argument, ...]``; it tells how each ended, and stops where one that is not optional fails. One whose
first word is ``after`` is run where the one before it went well, and is optional. manage.py itself is run, because
sites prepare sys.path in it. At the end it tells the settings that are in force, as a line ``::settings`` of JSON, and
static files that the site collects elsewhere are brought to where they are served from.
"""

import contextlib
import importlib.util
import json
import os
import runpy
import shutil
import sys


def settings():
    """Where the site keeps what it must not lose, as its own process has it."""
    from django.apps import apps
    from django.conf import settings
    from django.core.files.storage import FileSystemStorage
    from django.db.models import FileField

    if not settings.configured or not apps.ready:
        return None
    keep_media(settings)
    fields = (
        field for model in apps.get_models() for field in model._meta.get_fields() if isinstance(field, FileField)
    )
    return {
        "databases": {
            alias: {"engine": str(known.get("ENGINE", "")), "name": str(known.get("NAME", ""))}
            for alias, known in settings.DATABASES.items()
        },
        "uploads": sorted({lasting(f.storage.location) for f in fields if isinstance(f.storage, FileSystemStorage)}),
        "media_url": str(settings.MEDIA_URL or ""),
        # Celery takes what stands in the environment, whatever the settings say.
        "overruled": [
            name
            for name in ("CELERY_BROKER_URL", "CELERY_RESULT_BACKEND")
            if os.environ.get(name) and getattr(settings, name, None) not in (None, os.environ[name])
        ],
        "no_redis_client": any("redis" in str(known.get("BACKEND", "")).lower() for known in settings.CACHES.values())
        and importlib.util.find_spec("redis") is None,
        "debug": bool(settings.DEBUG),
        # django-admin startproject writes such a one into the repository.
        "public_key": str(settings.SECRET_KEY).startswith("django-insecure-"),
        "static_url": str(settings.STATIC_URL or ""),
        "whitenoise": any("whitenoise" in str(name).lower() for name in settings.MIDDLEWARE),
    }


def keep_media(settings):
    """Uploads that the site wants beside its code go where they stay, and with them what the checkout brings there."""
    place, kept = str(settings.MEDIA_ROOT or ""), os.environ.get("DJANGO_MEDIA_ROOT", "")
    inside = place and os.path.realpath(place).startswith(os.path.realpath(os.getcwd()) + os.sep)
    if not inside or not kept:
        return
    place = place.rstrip("/")
    if os.path.isdir(place):
        # Never over what a visitor left under the same name.
        shutil.copytree(place, kept, dirs_exist_ok=True, copy_function=copy_new)
        os.rename(place, f"{place}.of-the-repository")
    os.makedirs(os.path.dirname(place), exist_ok=True)
    os.symlink(kept, place)
    print(f"{place} leads to {kept}", flush=True)


def copy_new(source, target):
    """As shutil.copy2, but for what is there already."""
    return target if os.path.lexists(target) else shutil.copy2(source, target)


def lasting(place):
    """Where files of a folder really lie, when it leads to the site's media."""
    kept, place = os.environ.get("DJANGO_MEDIA_ROOT", ""), str(place)
    if kept and (os.path.realpath(place) + os.sep).startswith(os.path.realpath(kept) + os.sep):
        return kept
    return place


def gather():
    """What collectstatic put where the site itself wants it is served from the release's folder as well."""
    from django.conf import settings

    place, served = str(settings.STATIC_ROOT or ""), os.environ["DJANGO_STATIC_ROOT"]
    if place and os.path.isdir(place) and os.path.realpath(place) != os.path.realpath(served):
        shutil.copytree(place, served, dirs_exist_ok=True)
        print(f"copied {place} to {served}", flush=True)


# As it is where Python runs manage.py: the folder that is worked in, and not this program's.
sys.path[0] = ""

code = 0
commands = json.loads(sys.argv[1])
for optional, *argv in commands:
    if optional == "after" and code:
        continue
    print("$ manage.py", *argv, flush=True)
    sys.argv = ["manage.py", *argv]
    code = 0
    try:
        runpy.run_path("manage.py", run_name="__main__")
    except SystemExit as exc:
        code = exc.code if isinstance(exc.code, int) else int(bool(exc.code))
        if isinstance(exc.code, str):
            print(exc.code)
    if argv[0] == "collectstatic" and not code:
        try:
            gather()
        except Exception as exc:
            print(f"the static files cannot be copied: {exc}")
            code = 1
    print("::manage", argv[0], code or 0, flush=True)
    if code and not optional:
        sys.exit(1)

# Of a site that is not set up by manage.py, or that breaks here, nothing is told.
with contextlib.suppress(Exception):
    if told := settings():
        print("::settings", json.dumps(told), flush=True)
    if any(argv[1:3] == ["migrate", "--check"] for argv in commands) and code:
        pending = runpy.run_path(os.path.join(os.path.dirname(os.path.abspath(__file__)), "pending.py"))["pending"]
        print("::pending", json.dumps(pending()), flush=True)
