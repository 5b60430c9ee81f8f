"""What the site keeps in its database."""

from django.db import models


class Counter(models.Model):
    """How often something was asked for."""

    name = models.CharField(max_length=50, unique=True)
    value = models.PositiveBigIntegerField(default=0)

    def __str__(self):
        return f"{self.name}: {self.value}"


class Note(models.Model):
    """A row of content; `manage.py fill` makes many."""

    title = models.CharField(max_length=100)
    body = models.TextField()

    def __str__(self):
        return self.title


class Job(models.Model):
    """A task that was sent to the queue."""

    sent = models.DateTimeField(auto_now_add=True)

    def __str__(self):
        return f"job {self.pk}"


class Run(models.Model):
    """
    One run of a task. A job without a run waits or was lost, one with several ran more than once; no foreign
    key, so that a run is written down whatever became of its job.
    """

    job = models.BigIntegerField(db_index=True)
    task = models.CharField(max_length=100)
    release = models.CharField(max_length=100)
    finished = models.DateTimeField(auto_now_add=True)

    def __str__(self):
        return f"job {self.job} by {self.release}"


class Worker(models.Model):
    """A Celery worker and its last heartbeat."""

    name = models.CharField(max_length=255, unique=True)
    release = models.CharField(max_length=100)
    beat = models.DateTimeField()

    def __str__(self):
        return self.name
