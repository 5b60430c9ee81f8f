"""Send tasks to the queue."""

import json
import time

from celery.exceptions import TimeoutError as ResultTimeout
from django.core.management.base import BaseCommand, CommandError

from pages import tasks


class Command(BaseCommand):
    """`manage.py enqueue 100 --seconds 0.5 --wait 30`"""

    help = "Send tasks to the queue, and with --wait read their results from the result backend."

    def add_arguments(self, parser):
        """Arguments of the command."""
        parser.add_argument("count", type=int, help="how many, 1 or more")
        parser.add_argument("--seconds", type=float, default=0, help=f"each takes this long, 0 to {tasks.LONGEST}")
        parser.add_argument("--wait", type=float, default=0, help="wait this many seconds for all results")

    def handle(self, *args, count, seconds, wait, **options):
        """Send them, and wait where that is asked for."""
        if count < 1 or not 0 <= seconds <= tasks.LONGEST:
            raise CommandError(f"count is 1 or more, --seconds 0 to {tasks.LONGEST}")
        try:
            sent = tasks.enqueue(count, seconds, ignore_result=not wait)
        except tasks.QueueError as exc:
            raise CommandError(str(exc)) from exc
        answer = {"enqueued": len(sent), "first": sent[0][0], "last": sent[-1][0]}
        if wait:
            answer["finished"] = self._finished(sent, time.monotonic() + wait)
        self.stdout.write(json.dumps(answer))
        if wait and answer["finished"] < count:
            raise CommandError(f"{count - answer['finished']} of {count} tasks did not end within {wait:g} s")

    def _finished(self, sent, end):
        finished = 0
        for n, result in sent:
            try:
                finished += result.get(timeout=max(0.01, end - time.monotonic())) == n
            except ResultTimeout:
                continue
        return finished
