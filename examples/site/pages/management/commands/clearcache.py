"""Empty the site's cache."""

from django.core.cache import cache
from django.core.management.base import BaseCommand


class Command(BaseCommand):
    """`manage.py clearcache`"""

    help = "Empty the site's cache. The queue is in another Redis database and stays."

    def handle(self, *args, **options):
        """Empty it."""
        cache.clear()
        self.stdout.write("The cache is empty.")
