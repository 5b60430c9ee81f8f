"""
Production: everything that differs between hosts comes from the environment, as .env.example lists it.
"""

import os

from django.core.exceptions import ImproperlyConfigured

from .base import *  # noqa: F403


def env(name, default=None):
    """
    A value from the environment.

    name (str)
        The variable.
    default (str)
        What stands for an absent one; without it the variable must be there.

    Returns its text. Raises ``ImproperlyConfigured`` for an absent one.
    """
    value = os.environ.get(name, default)
    if value is None:
        raise ImproperlyConfigured(f"{name} is not in the environment. Try: see .env.example for what it holds")
    return value


DEBUG = False
SECRET_KEY = env("DJANGO_SECRET_KEY")

ALLOWED_HOSTS = [host.strip() for host in env("ALLOWED_HOSTS").split(",") if host.strip()]
SITE_DOMAIN = env("SITE_DOMAIN")
CSRF_TRUSTED_ORIGINS = [f"https://{'*' if host[0] == '.' else ''}{host}" for host in ALLOWED_HOSTS if host != "*"]

# The release, which the deploy writes; a shell of the operator's has none.
GIT_SHA = env("GIT_SHA", "unknown")
RELEASE = env("RELEASE", "unknown")

# The host is a Unix socket's folder, the user the process's own (peer authentication): no password exists.
# No "options" here: they would override PGOPTIONS, with which a deploy gives migrations their lock timeout.
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": env("DJANGO_DB_NAME"),
        "USER": env("DJANGO_DB_USER"),
        "PASSWORD": env("DJANGO_DB_PASSWORD", ""),
        "HOST": env("DJANGO_DB_HOST"),
        "PORT": env("DJANGO_DB_PORT", ""),
        "CONN_MAX_AGE": 60,
        "CONN_HEALTH_CHECKS": True,
        "OPTIONS": {"connect_timeout": 2},
    }
}

# A cache that hangs costs a request one second, not the visitor's patience.
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": env("REDIS_URL"),
        "OPTIONS": {"socket_connect_timeout": 1, "socket_timeout": 1},
    }
}

# Another Redis database than the cache's: clearing the cache empties the cache's whole database.
CELERY_BROKER_URL = env("CELERY_BROKER_URL")
CELERY_RESULT_BACKEND = env("CELERY_RESULT_BACKEND")
CELERY_BROKER_TRANSPORT_OPTIONS = {
    # After this many seconds the task of a worker that died without a word is given to another one.
    "visibility_timeout": int(env("CELERY_VISIBILITY_TIMEOUT", "300")),
    "socket_connect_timeout": 2,
    "socket_timeout": 5,
}
CELERY_REDIS_SOCKET_CONNECT_TIMEOUT = 2
CELERY_REDIS_SOCKET_TIMEOUT = 5
# A worker waits for Redis as long as it takes, and a web request for a moment only.
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_CONNECTION_MAX_RETRIES = None
# Celery 6 will turn this on. With a Redis that is down when the connection breaks it loses the running tasks:
# they are ended, and afterwards acknowledged as revoked.
CELERY_WORKER_CANCEL_LONG_RUNNING_TASKS_ON_CONNECTION_LOSS = False
CELERY_TASK_PUBLISH_RETRY_POLICY = {"max_retries": 1, "interval_start": 0, "interval_step": 0.2}

# Caddy serves both folders. The names carry a hash of the content, so browsers may keep them for ever.
STATIC_ROOT = env("DJANGO_STATIC_ROOT")
MEDIA_ROOT = env("DJANGO_MEDIA_ROOT")
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.ManifestStaticFilesStorage"},
}

# Caddy ends TLS and says so in this header, which it takes from no visitor.
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
SECURE_SSL_REDIRECT = True
SECURE_HSTS_SECONDS = 31536000
SESSION_COOKIE_SECURE = True
CSRF_COOKIE_SECURE = True
# HSTS for every name beneath the domain, and its preload list, are the domain owner's to decide: both reach
# hosts that this site knows nothing of, and preload cannot be taken back for months.
SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W021"]

# To the journal. Django's own default would send errors by mail alone.
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "{levelname} {name}: {message}", "style": "{"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "plain"}},
    "loggers": {
        "django": {"handlers": ["console"], "level": "INFO", "propagate": False},
        "pages": {"handlers": ["console"], "level": "INFO", "propagate": False},
    },
}
