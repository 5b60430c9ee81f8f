"""What every environment has in common."""

from pathlib import Path

BASE_DIR = Path(__file__).resolve().parents[2]

ROOT_URLCONF = "example_site.urls"
WSGI_APPLICATION = "example_site.wsgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

INSTALLED_APPS = [
    "django.contrib.staticfiles",
    "pages",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {"context_processors": ["django.template.context_processors.request"]},
    }
]

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True

STATIC_URL = "/static/"
MEDIA_URL = "/media/"

# A task is acknowledged when it is done: a worker that dies hands it back. It may run twice, but is not lost.
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_REJECT_ON_WORKER_LOST = True
# Without this, two workers' worth of tasks would wait behind a slow one.
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
# Longer than any task of this site, and shorter than the visibility timeout and the unit's stop timeout.
CELERY_TASK_TIME_LIMIT = 120
CELERY_RESULT_EXPIRES = 3600
CELERY_TIMEZONE = TIME_ZONE
