"""The example site. Celery's app is loaded with it, so that tasks find their broker from every process."""

from .celery import app

__all__ = ["app"]
