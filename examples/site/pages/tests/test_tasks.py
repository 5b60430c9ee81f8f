"""Tasks and how their runs are counted."""

import io
import json
from unittest import mock

from django.core.cache import cache
from django.core.files.storage import default_storage
from django.core.management import CommandError, call_command
from django.db import OperationalError
from django.test import TestCase
from kombu.exceptions import OperationalError as BrokerError

from pages import tasks
from pages.models import Job, Note, Run


def called(*words, **options):
    out = io.StringIO()
    call_command(*words, stdout=out, **options)
    return out.getvalue()


class TasksTest(TestCase):
    def test_sent_and_run(self):
        response = self.client.post("/tasks/", {"count": 3})
        self.assertEqual(response.status_code, 202)
        self.assertEqual(response.json()["enqueued"], 3)
        self.assertEqual(
            self.client.get("/tasks/").json(),
            {"jobs": 3, "ran": 3, "waiting": 0, "repeated": 0, "runs": 3, "releases": {"test": 3}},
        )

    def test_lost_and_repeated_ones_are_counted(self):
        jobs = [Job.objects.create().pk for _ in range(4)]
        for n in (jobs[0], jobs[1], jobs[1], jobs[1]):
            tasks.touch.delay(n)
        counts = tasks.counts()
        self.assertEqual(
            (counts["jobs"], counts["ran"], counts["waiting"], counts["repeated"], counts["runs"]),
            (4, 2, 2, 1, 4),
        )

    def test_bad_input(self):
        bad = (
            {"count": 0},
            {"count": 2001},
            {"count": 1.5},
            {"count": "x"},
            {"seconds": 61},
            {"seconds": "nan"},
        )
        for form in bad:
            with self.subTest(form), self.assertLogs("django.request", "WARNING"):
                self.assertEqual(self.client.post("/tasks/", form).status_code, 400)
        self.assertFalse(Job.objects.exists())

    def test_slow_ones(self):
        with mock.patch("time.sleep") as sleep:
            self.client.post("/tasks/", {"seconds": 2.5})
        sleep.assert_called_once_with(2.5)
        self.assertEqual(Run.objects.get().task, "slow")

    def test_jobs_that_the_broker_did_not_take_are_not_kept(self):
        taken = mock.Mock()
        with (
            mock.patch.object(tasks.touch, "apply_async", side_effect=[taken, BrokerError("refused")]),
            self.assertLogs("django.request", "ERROR"),
        ):
            response = self.client.post("/tasks/", {"count": 5})
        self.assertEqual(response.status_code, 503)
        self.assertEqual(response.json()["error"], "The queue took 1 of 5 tasks: refused")
        self.assertEqual(Job.objects.count(), 1)

    def test_without_a_database_it_comes_again(self):
        for task in (tasks.touch, tasks.slow):
            self.assertIn(OperationalError, task.autoretry_for)
            self.assertIsNone(task.max_retries)


class CommandsTest(TestCase):
    def test_enqueue_and_counts(self):
        self.assertEqual(json.loads(called("enqueue", "2"))["enqueued"], 2)
        self.assertEqual(json.loads(called("task_counts"))["ran"], 2)

    def test_enqueue_waits_for_results(self):
        self.assertEqual(json.loads(called("enqueue", "2", wait=5))["finished"], 2)

    def test_enqueue_refuses(self):
        for words in (("enqueue", "0"), ("enqueue", "1", "--seconds", "-1")):
            with self.assertRaises(CommandError):
                called(*words)

    def test_enqueue_tells_in_one_line_what_redis_did_not_take(self):
        for error in (BrokerError("refused"), RuntimeError("\nRetry limit\nexceeded.\n")):
            with (
                mock.patch.object(tasks.touch, "apply_async", side_effect=error),
                self.assertRaisesRegex(CommandError, r"^The queue took 0 of 1 tasks: .+$"),
            ):
                called("enqueue", "1", wait=1)
        self.assertFalse(Job.objects.exists())

    def test_clearcache(self):
        cache.set("a", 1)
        called("clearcache")
        self.assertIsNone(cache.get("a"))

    def test_fill(self):
        self.assertEqual(json.loads(called("fill", "5", "2", size=100)), {"rows": 5, "media": 2})
        self.assertEqual(json.loads(called("fill", "1", "1")), {"rows": 6, "media": 3})
        self.assertEqual(Note.objects.count(), 6)
        sizes = sorted(default_storage.size(f"fill/{name}") for name in default_storage.listdir("fill")[1])
        self.assertEqual(sizes, [100, 100, 4096])
