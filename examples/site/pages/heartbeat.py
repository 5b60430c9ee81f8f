"""
Whether a Celery worker is alive, without asking it.

The worker writes the time into its row every few seconds, from the event loop that fetches tasks: one that
has stopped, lost its broker or hangs writes nothing. Tasks run in other processes, so a long queue delays no
heartbeat. The row is in the database and not in Redis: clearing or filling the cache must not look like a
dead worker, and the answer must not wait for the broker.
"""

import logging

from celery import bootsteps

INTERVAL = 5
# Two missed beats. A deploy restarts the worker faster than that.
ALIVE = 15

log = logging.getLogger("pages.heartbeat")


def beat(name):
    """
    Write a worker's heartbeat. Nothing is raised: a database that is away is no reason to stop the worker.

    name (str)
        The worker's node name.
    """
    from django.conf import settings
    from django.db import Error, connection, transaction
    from django.utils import timezone

    from pages.models import Worker

    try:
        with transaction.atomic():
            if connection.vendor == "postgresql":
                with connection.cursor() as cursor:
                    # A table that a migration holds must not stop the loop that fetches tasks.
                    cursor.execute("SET LOCAL statement_timeout = '1s'")
            Worker.objects.update_or_create(name=name, defaults={"release": settings.RELEASE, "beat": timezone.now()})
    except Error as exc:
        log.warning("The heartbeat of %s was not written: %s", name, exc)
    finally:
        # The worker's children are forked from this process and must not share its connection.
        connection.close()


def alive():
    """
    The workers whose heartbeat is recent, newest first.

    Returns a query of workers.
    """
    from datetime import timedelta

    from django.utils import timezone

    from pages.models import Worker

    return Worker.objects.filter(beat__gte=timezone.now() - timedelta(seconds=ALIVE)).order_by("-beat")


class Heartbeat(bootsteps.StartStopStep):
    """The part of the worker that beats while its consumer fetches tasks."""

    requires = ("celery.worker.consumer.tasks:Tasks",)
    timer = None

    def start(self, consumer):
        """Beat now, and from now on."""
        beat(consumer.hostname)
        self.timer = consumer.timer.call_repeatedly(INTERVAL, beat, (consumer.hostname,))

    def stop(self, consumer):
        """Beat no more."""
        if self.timer:
            self.timer.cancel()
            self.timer = None

    shutdown = stop
