"""What became of the tasks that were sent."""

import json

from django.core.management.base import BaseCommand

from pages import tasks


class Command(BaseCommand):
    """`manage.py task_counts`"""

    help = "Count the tasks that were sent, ran, wait or ran more than once, as JSON."

    def handle(self, *args, **options):
        """Count them."""
        self.stdout.write(json.dumps(tasks.counts()))
