"""The site's one app."""

from django.apps import AppConfig


class PagesConfig(AppConfig):
    """Pages, tasks and health."""

    name = "pages"
