"""The health contract: what is critical, what is not, and an answer in time."""

import threading
import time
from datetime import timedelta
from unittest import mock

from django.db import OperationalError
from django.test import TransactionTestCase
from django.utils import timezone

from pages import health, heartbeat
from pages.models import Worker


def failing():
    raise OperationalError("gone")


class HealthTest(TransactionTestCase):
    def answer(self, **checks):
        with mock.patch.dict(health.CHECKS, checks), self.assertLogs("pages.health", "WARNING"):
            response = self.client.get("/health/")
        return response.status_code, response.json()

    def test_ok(self):
        heartbeat.beat("worker@here")
        response = self.client.get("/health/")
        self.assertEqual(response.status_code, 200)
        self.assertEqual(
            response.json(),
            {
                "status": "ok",
                "checks": {"db": "ok", "cache": "ok", "celery": "ok"},
                "git_sha": "0123456789abcdef0123456789abcdef01234567",
                "release": "test",
            },
        )
        self.assertIn("no-store", response["Cache-Control"])

    def test_no_worker_is_degraded(self):
        self.assertEqual(self.answer()[0], 200)
        self.assertEqual(self.answer()[1]["status"], "degraded")

    def test_an_old_heartbeat_is_no_worker(self):
        heartbeat.beat("worker@here")
        Worker.objects.update(beat=timezone.now() - timedelta(seconds=heartbeat.ALIVE + 1))
        self.assertEqual(self.answer()[1]["checks"], {"db": "ok", "cache": "ok", "celery": "failed"})

    def test_critical_ones_make_it_unhealthy(self):
        heartbeat.beat("worker@here")
        for name in ("db", "cache"):
            with self.subTest(name):
                status, body = self.answer(**{name: failing})
                self.assertEqual((status, body["status"], body["checks"][name]), (503, "unhealthy", "failed"))

    def test_a_wrong_answer_is_no_answer(self):
        self.assertEqual(self.answer(cache=lambda: False)[0], 503)

    def test_what_hangs_is_given_up(self):
        release = threading.Event()
        self.addCleanup(release.set)
        start = time.monotonic()
        with mock.patch.object(health, "DEADLINE", 0.2):
            status, body = self.answer(db=lambda: release.wait(20), cache=lambda: release.wait(20))
        self.assertLess(time.monotonic() - start, 2)
        self.assertEqual((status, body["checks"]["db"], body["checks"]["cache"]), (503, "failed", "failed"))

    def test_reasons_stay_in_the_log(self):
        self.assertNotIn("gone", str(self.answer(db=failing)[1]))


class HeartbeatTest(TransactionTestCase):
    def test_beats_are_one_row(self):
        for _ in range(2):
            heartbeat.beat("worker@here")
        self.assertEqual([(worker.name, worker.release) for worker in heartbeat.alive()], [("worker@here", "test")])

    def test_no_database_stops_no_worker(self):
        with (
            mock.patch.object(Worker.objects, "update_or_create", side_effect=OperationalError("gone")),
            self.assertLogs("pages.heartbeat", "WARNING"),
        ):
            heartbeat.beat("worker@here")

    def test_step(self):
        consumer = mock.Mock(hostname="worker@here")
        step = heartbeat.Heartbeat(consumer)
        step.start(consumer)
        self.assertTrue(heartbeat.alive().exists())
        consumer.timer.call_repeatedly.assert_called_once_with(heartbeat.INTERVAL, heartbeat.beat, ("worker@here",))
        timer = step.timer
        step.stop(consumer)
        step.shutdown(consumer)
        timer.cancel.assert_called_once_with()

    def test_it_is_part_of_the_worker(self):
        from example_site.celery import app

        self.assertIn(heartbeat.Heartbeat, app.steps["consumer"])
