"""Background tasks: each leaves a row, so that lost runs and double runs can be counted."""

import time

from celery import shared_task
from django.conf import settings
from django.db import InterfaceError, OperationalError
from django.db.models import Count, Exists, OuterRef
from kombu.exceptions import OperationalError as BrokerError

from pages.models import Job, Run

LONGEST = 60

# A task that finds no database comes again until there is one: a restart of Postgres must lose nothing.
PATIENT = {
    "autoretry_for": (OperationalError, InterfaceError),
    "max_retries": None,
    "retry_backoff": True,
    "retry_backoff_max": 15,
}


class QueueError(Exception):
    """The broker did not take a task."""


@shared_task(**PATIENT)
def touch(n):
    """
    Write down that job n ran.

    n (int)
        The job.

    Returns n.
    """
    Run.objects.create(job=n, task="touch", release=settings.RELEASE)
    return n


@shared_task(**PATIENT)
def slow(n, seconds):
    """
    Take some time, then write down that job n ran.

    n (int)
        The job.
    seconds (float)
        How long it takes, at most 60.

    Returns n.
    """
    time.sleep(max(0, min(seconds, LONGEST)))
    Run.objects.create(job=n, task="slow", release=settings.RELEASE)
    return n


def enqueue(count, seconds=0, ignore_result=True):
    """
    Send tasks to the queue.

    count (int)
        How many.
    seconds (float)
        How long each takes; 0 for the quick one.
    ignore_result (bool)
        Whether nobody will ask for the results. Sending a task whose result is wanted subscribes to it: right
        for a command that waits, and a leak in a web process that does not.

    Returns a list of pairs: the job's number, the task's result. Raises ``QueueError`` when the broker takes
    no more; jobs that were not sent are not kept.
    """
    jobs = Job.objects.bulk_create([Job() for _ in range(count)])
    sent = []
    try:
        for job in jobs:
            if seconds:
                result = slow.apply_async((job.pk, seconds), ignore_result=ignore_result)
            else:
                result = touch.apply_async((job.pk,), ignore_result=ignore_result)
            sent.append((job.pk, result))
    except (BrokerError, RuntimeError) as exc:  # the second is what a result backend that is away raises
        Job.objects.filter(pk__in=[job.pk for job in jobs[len(sent) :]]).delete()
        raise QueueError(f"The queue took {len(sent)} of {count} tasks: {' '.join(str(exc).split())}") from exc
    return sent


def counts():
    """
    What became of all jobs so far.

    Returns a dictionary: `jobs` sent, `ran` at least once, `waiting` (or lost), `repeated` (ran more than
    once), `runs` in all, and `releases`, the runs by the release that did them.
    """
    ran = Job.objects.filter(Exists(Run.objects.filter(job=OuterRef("pk")))).count()
    jobs = Job.objects.count()
    runs = Run.objects.order_by()
    return {
        "jobs": jobs,
        "ran": ran,
        "waiting": jobs - ran,
        "repeated": runs.values("job").annotate(times=Count("pk")).filter(times__gt=1).count(),
        "runs": runs.count(),
        "releases": dict(runs.values_list("release").annotate(Count("pk"))),
    }
