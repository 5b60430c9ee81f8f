"""For `manage.py test` on any machine: everything in memory, and tasks run where they are sent."""

from .base import *  # noqa: F403

SECRET_KEY = "for tests alone"
ALLOWED_HOSTS = ["testserver"]
SITE_DOMAIN = "testserver"
GIT_SHA = "0123456789abcdef0123456789abcdef01234567"
RELEASE = "test"

DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.InMemoryStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
}

CELERY_TASK_ALWAYS_EAGER = True
CELERY_BROKER_URL = "memory://"
CELERY_RESULT_BACKEND = "cache+memory://"
