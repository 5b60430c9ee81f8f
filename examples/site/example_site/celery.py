"""Celery's app: settings with the prefix CELERY_, tasks from every app's tasks.py, the worker's heartbeat."""

import os

from celery import Celery
from pages.heartbeat import Heartbeat

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "example_site.settings.production")

app = Celery("example_site")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
app.steps["consumer"].add(Heartbeat)
