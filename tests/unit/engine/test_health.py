"""The health of a site: how it is asked, what each answer means, and what proves a release."""

import contextlib
import json
import os
import socket
import ssl
import subprocess
import time
from types import SimpleNamespace

import pytest
from goldenpath import health
from goldenpath.site import Site

from tests.unit.servers import Server, closes, drips, hangs, pours_a_page, says

SITE = {"domains": ["acme.example", "www.acme.example"], "health": "/health/", "tls": "internal"}
REQUESTS = []


def http(status, body="", *headers):
    lines = [f"HTTP/1.1 {status} Reason", *headers, "", ""]
    answer = "\r\n".join(lines).encode() + body.encode()

    def handler(connection, over):
        REQUESTS.append(connection.recv(65536).decode())
        connection.sendall(answer)
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_WR)

    return handler


def acme(folder, **facts):
    site = Site("acme", {**SITE, **facts})
    site.root = str(folder)
    return site


@pytest.fixture
def ask(tmp_path):
    """Ask a site whose Unix socket is served by the handler."""
    place = str(tmp_path / "releases/r/gunicorn.sock")
    os.makedirs(os.path.dirname(place))

    def asked(handler, **arguments):
        REQUESTS.clear()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(place)
        with Server(handler, place):
            return health.ask(acme(tmp_path), "r", **arguments)

    return asked


def test_health_asks_as_a_visitor_would(ask):
    answer = ask(http(200, '{"status": "ok", "git_sha": "abc"}'))
    assert answer["status"] == "ok"
    assert answer["code"] == 200
    assert answer["git_sha"] == "abc"
    assert answer["body"] == {"status": "ok", "git_sha": "abc"}
    (request,) = REQUESTS
    assert request.startswith("GET /health/ HTTP/1.1\r\nHost: acme.example\r\n")
    assert "\r\nX-Forwarded-Proto: https\r\n" in request
    assert "\r\nX-Forwarded-For: 127.0.0.1\r\n" in request


def test_another_path(ask):
    assert ask(http(204), path="/ready?x=1")["status"] == "ok"
    assert REQUESTS[0].startswith("GET /ready?x=1 ")
    answer = ask(http(200), path="/ HTTP/1.1\r\nX: y")
    assert answer["status"] == "unreachable"
    assert "is no path" in answer["message"]


@pytest.mark.parametrize(
    "code, body, status",
    [
        (200, '{"status": "ok"}', "ok"),
        (200, '{"status": "degraded", "celery": "down"}', "degraded"),
        (503, '{"status": "unhealthy"}', "unhealthy"),
        # every other pairing
        (503, '{"status": "ok"}', "broken"),
        (503, '{"status": "degraded"}', "broken"),
        (200, '{"status": "unhealthy"}', "broken"),
        (500, '{"status": "unhealthy"}', "broken"),
        (201, '{"status": "ok"}', "broken"),
        (404, '{"status": "ok"}', "broken"),
        (200, '{"status": "fine"}', "broken"),
        (200, '{"status": "OK"}', "broken"),
        # judged by the code alone
        (200, "OK", "ok"),
        (204, "", "ok"),
        (299, "<html>", "ok"),
        (200, '{"status": 1}', "ok"),
        (200, '{"healthy": true}', "ok"),
        (200, '["ok"]', "ok"),
        (503, "Service Unavailable", "unhealthy"),
        (500, "Traceback", "unhealthy"),
        (500, '{"status": null}', "unhealthy"),
        (400, "Bad Request", "broken"),
        (404, "not found", "broken"),
        (401, "", "broken"),
        (301, "", "broken"),
        (302, '{"status": "ok"}', "broken"),
    ],
)
def test_the_health_contract(ask, code, body, status):
    answer = ask(http(code, body))
    assert answer["status"] == status
    assert answer["code"] == code


@pytest.mark.parametrize(
    "place, why",
    [
        ("https://acme.example/health/", "SECURE_PROXY_SSL_HEADER"),
        ("/health//", "is the health path /health//?"),
        ("https://www.acme.example/", "must answer by itself"),
        ("http://acme.example/", "must answer by itself"),
        ("//evil.example/", "must answer by itself"),
        ("", "must answer by itself"),
    ],
)
def test_redirects_are_told_and_not_followed(ask, place, why):
    answer = ask(http(301, "", f"Location: {place}"))
    assert answer["status"] == "broken"
    assert "/health/ redirects (301) to" in answer["message"]
    assert why in answer["message"]
    assert len(REQUESTS) == 1


def test_a_site_that_imports_for_long_is_waited_for(tmp_path, monkeypatch):
    """Its workers answer nobody while they import: that is no bad answer, however often it is asked."""
    answers = iter(["unreachable"] * 8 + ["ok"] * health.GOOD_ANSWERS)
    clock = SimpleNamespace(now=0.0)
    clock.time = lambda: clock.now
    clock.sleep = lambda seconds: None

    def slow(site, release):
        clock.now += health.ANSWER_SECONDS
        return {"status": next(answers), "message": "no answer within 5 s"}

    monkeypatch.setattr(health, "time", clock)
    monkeypatch.setattr(health, "ask", slow)
    monkeypatch.setattr(health.units, "restarts", lambda site, release: 0)
    health.prove(acme(tmp_path), "r")
    assert next(answers, None) is None


@pytest.mark.parametrize("place", ["/login/?next=/health/", "/en-gb/", "https://acme.example/de/"])
def test_a_redirect_within_the_site_is_an_answer(ask, place):
    """As a front page that leads to a language, or to a login."""
    answer = ask(http(302, "", f"Location: {place}"))
    assert answer["status"] == "ok" and f"redirects (302) to {place!r}" in answer["message"]


def test_a_host_that_the_site_does_not_know(ask):
    assert "is acme.example in ALLOWED_HOSTS?" in ask(http(400, "Bad Request"))["message"]


@pytest.mark.parametrize(
    "handler, reason",
    [
        (hangs, "within 0.5 s"),
        (drips(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"), "within 0.5 s"),
        (closes, "closed the connection without an answer"),
        (says(b"+PONG\r\n"), "within 0.5 s"),
        (says(b"-ERR unknown command\r\n\r\n"), "within 0.5 s"),
        (says(b"SSH-2.0-x\r\n\r\n", stays=False), "did not answer in HTTP"),
        (says(b"HTTP/1.1 200 OK\r\nContent-", stays=False), "did not answer in HTTP"),
    ],
)
def test_unreachable(ask, handler, reason):
    began = time.monotonic()
    answer = ask(handler, timeout=0.5)
    assert time.monotonic() - began < 1
    assert answer["status"] == "unreachable"
    assert answer["code"] is None
    assert reason in answer["message"]


def test_missing_and_deserted_socket(tmp_path):
    (tmp_path / "releases/r").mkdir(parents=True)
    place = str(tmp_path / "releases/r/gunicorn.sock")
    assert health.ask(acme(tmp_path), "r")["message"] == f"there is no socket at {place}"
    with socket.socket(socket.AF_UNIX) as unused:
        unused.bind(place)
    assert "connection refused" in health.ask(acme(tmp_path), "r")["message"]
    assert f"{tmp_path}/current/gunicorn.sock" in health.ask(acme(tmp_path))["message"]


def test_server_that_keeps_the_connection(ask):
    began = time.monotonic()
    answer = ask(says(b'HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\n{"status": "ok"}'))
    assert answer["status"] == "ok"
    assert time.monotonic() - began < 1


def test_chunked_answer(ask):
    body = '10\r\n{"status": "ok"}\r\n0\r\n\r\n'
    assert ask(http(200, body, "Transfer-Encoding: chunked"))["body"] == {"status": "ok"}


@pytest.mark.parametrize("headers", [["Content-Length: 200000"], ["Transfer-Encoding: chunked"], []])
def test_long_answers_are_not_read_to_the_end(ask, headers):
    body = "x" * 200000
    if headers == ["Transfer-Encoding: chunked"]:
        body = f"{len(body):x}\r\n{body}\r\n0\r\n\r\n"
    answer = ask(http(200, body, *headers))
    assert answer["status"] == "ok"
    assert answer["body"] is None


def test_endless_page(ask):
    began = time.monotonic()
    assert ask(pours_a_page)["status"] == "ok"
    assert time.monotonic() - began < 1


def test_large_body_is_judged_and_not_returned(ask):
    answer = ask(http(200, json.dumps({"status": "degraded", "more": "x" * 5000})))
    assert answer["status"] == "degraded"
    assert answer["body"] is None


@pytest.fixture
def certificate(tmp_path):
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-keyout", tmp_path / "key", "-out", tmp_path / "crt", "-subj", "/CN=acme.example", "-days", "2"],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "crt", tmp_path / "key")
    context.names = []
    context.sni_callback = lambda connection, name, _: context.names.append(name)
    return context


def test_front_door(tmp_path, certificate, monkeypatch):
    with Server(http(200, '{"status": "ok"}'), context=certificate) as server:
        monkeypatch.setattr(health, "FRONT", ("127.0.0.1", server.port))
        REQUESTS.clear()
        assert health.ask(acme(tmp_path), front=True)["status"] == "ok"
        assert certificate.names == ["acme.example"]
        assert "Host: acme.example\r\n" in REQUESTS[0]
        assert "X-Forwarded" not in REQUESTS[0]
        answer = health.ask(acme(tmp_path, tls="acme"), front=True)
        assert answer["status"] == "unreachable"
        assert "certificate of https://acme.example is not valid" in answer["message"]
        # A restore asks the site, and not its name.
        assert health.ask(acme(tmp_path, tls="acme"), front=True, verify=False)["status"] == "ok"


def test_front_door_without_tls(tmp_path, monkeypatch):
    with Server(says(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as server:
        monkeypatch.setattr(health, "FRONT", ("127.0.0.1", server.port))
        answer = health.ask(acme(tmp_path), front=True)
    assert "TLS with https://acme.example failed" in answer["message"]
