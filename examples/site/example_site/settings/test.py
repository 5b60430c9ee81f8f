"""For `manage.py test` on any machine: SQLite, a cache in memory, tasks that run where they are sent."""

import tempfile

from .base import *  # noqa: F403

SECRET_KEY = "for tests alone"
ALLOWED_HOSTS = ["testserver"]
SITE_DOMAIN = "testserver"
GIT_SHA = "0123456789abcdef0123456789abcdef01234567"
RELEASE = "test"

DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
MEDIA_ROOT = tempfile.mkdtemp(prefix="example-site-media-")

CELERY_TASK_ALWAYS_EAGER = True
CELERY_BROKER_URL = "memory://"
CELERY_RESULT_BACKEND = "cache+memory://"
