"""What the pages answer."""

import hashlib
import io
from unittest import mock

from django.conf import settings
from django.core.files.storage import default_storage
from django.test import TestCase

from pages import heartbeat
from pages.models import Run


class HomeTest(TestCase):
    def test_what_it_used(self):
        Run.objects.create(job=7, task="touch", release="r1")
        heartbeat.beat("worker@here")
        self.client.get("/")
        response = self.client.get("/")
        for part in (
            'id="visits">2<',
            'id="task">touch 7<',
            "worker@here",
            settings.GIT_SHA,
            'id="release">test<',
        ):
            self.assertContains(response, part)

    def test_an_empty_site(self):
        self.assertContains(self.client.get("/"), "No worker at work")

    def test_an_error_needs_no_database(self):
        self.client.raise_request_exception = False
        with (
            mock.patch("pages.views._visits", side_effect=RuntimeError),
            self.assertLogs("django.request", "ERROR"),
        ):
            response = self.client.get("/")
        self.assertContains(response, "try again", status_code=500)


class SlowTest(TestCase):
    def test_seconds(self):
        for text, seconds in (("3", 3), ("0.5", 0.5), ("99", 10)):
            with self.subTest(text), mock.patch("time.sleep") as sleep:
                self.assertEqual(self.client.get(f"/slow/?seconds={text}").json()["seconds"], seconds)
                sleep.assert_called_once_with(seconds)

    def test_what_is_no_number(self):
        for text in ("x", "-1", "nan", "inf", ""):
            with self.subTest(text), self.assertLogs("django.request", "WARNING"):
                self.assertEqual(self.client.get("/slow/", {"seconds": text}).status_code, 400)


class UploadTest(TestCase):
    def send(self, content, name="../a.html"):
        return self.client.post("/upload/", {"file": io.BytesIO(content), "name": name})

    def test_kept(self):
        response = self.send(b"hello")
        self.assertEqual(response.status_code, 201)
        answer = response.json()
        self.assertEqual(answer["sha256"], hashlib.sha256(b"hello").hexdigest())
        self.assertRegex(answer["url"], r"^/media/uploads/\w{20}\.bin$")
        with default_storage.open(answer["url"].removeprefix("/media/")) as kept:
            self.assertEqual(kept.read(), b"hello")

    def test_the_bound(self):
        with mock.patch("pages.views.LARGEST_UPLOAD", 10):
            self.assertEqual(self.send(b"x" * 10).status_code, 201)
            with self.assertLogs("django.request", "WARNING"):
                self.assertEqual(self.send(b"x" * 11).status_code, 413)
                self.assertEqual(self.send(b"x" * 9000).status_code, 413)

    def test_no_file(self):
        with self.assertLogs("django.request", "WARNING"):
            self.assertEqual(self.client.post("/upload/").status_code, 400)
