"""gunicorn's configuration: the visitor's address, with and without a configuration of the site's own."""

import asyncio
import logging
import runpy
import sys
from types import ModuleType, SimpleNamespace

import pytest
from goldenpath import sandbox

CONF = f"{sandbox.PROGRAMS}/gunicorn_conf.py"


def seen(conf, **environ):
    worker = SimpleNamespace(wsgi=lambda environ, _: environ)
    conf["post_worker_init"](worker)
    return worker.wsgi({"REMOTE_ADDR": "", **environ}, None)["REMOTE_ADDR"]


@pytest.fixture
def conf(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda: runpy.run_path(CONF)


@pytest.mark.parametrize(
    ("said", "address"),
    [
        ("192.0.2.7", "192.0.2.7"), ("2001:db8::7", "2001:db8::7"), ("10.9.9.9, 192.0.2.7", "192.0.2.7"),
        ("", "127.0.0.1"), (" , ", "127.0.0.1"),
    ],
)  # fmt: skip
def test_the_visitors_address(conf, said, address):
    assert seen(conf(), HTTP_X_FORWARDED_FOR=said) == address


def test_nobody_but_the_host_asks_without_it(conf):
    assert seen(conf()) == "127.0.0.1"


def test_a_configuration_of_the_sites_own_is_read(conf, tmp_path):
    own = "max_requests = 7\ndef post_worker_init(worker):\n    worker.mine = True\n"
    (tmp_path / "gunicorn.conf.py").write_text(own)
    found, worker = conf(), SimpleNamespace(wsgi=lambda environ, _: environ)
    found["post_worker_init"](worker)
    assert found["max_requests"] == 7 and worker.mine and seen(found, HTTP_X_FORWARDED_FOR="192.0.2.7") == "192.0.2.7"


def met(conf, kind, *headers):
    """The client that an ASGI application meets."""
    met = {}

    async def application(scope, receive, send):
        met.update(scope)

    worker = SimpleNamespace(wsgi=application)
    conf["post_worker_init"](worker)
    asyncio.run(worker.wsgi({"type": kind, "headers": list(headers), "client": None}, None, None))
    return met["client"]


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_an_asgi_application_meets_the_visitor(conf, monkeypatch, kind):
    monkeypatch.setenv("WEB_WORKER", "uvicorn_worker.UvicornWorker")
    forwarded = (b"x-forwarded-for", b"10.9.9.9, 192.0.2.7")
    assert met(conf(), kind, (b"host", b"acme.example"), forwarded) == ("192.0.2.7", 0)
    assert met(conf(), kind) == ("127.0.0.1", 0)


def test_what_is_no_request_is_left_alone(conf, monkeypatch):
    monkeypatch.setenv("WEB_WORKER", "uvicorn_worker.UvicornWorker")
    assert met(conf(), "lifespan") is None


class AdminEmailHandler(logging.Handler):
    """By the name of Django's own, which mails to nobody."""


class RequireDebugTrue(logging.Filter):
    """By the name of Django's own."""

    def filter(self, record):
        return False


@pytest.fixture
def django(monkeypatch):
    """Loggers as Django's own defaults leave them."""
    monkeypatch.setitem(sys.modules, "django", ModuleType("django"))
    loggers = [logging.getLogger(name) for name in ("django", "django.request")]
    console, mail = logging.StreamHandler(), AdminEmailHandler()
    console.addFilter(RequireDebugTrue())
    monkeypatch.setattr(loggers[0], "handlers", [console, mail])
    monkeypatch.setattr(loggers[1], "handlers", [])
    return loggers


def begin(conf, monkeypatch, *root):
    """A worker begins, with these handlers at the root: pytest has some of its own there."""
    monkeypatch.setattr(logging.getLogger(), "handlers", list(root))
    conf()["post_worker_init"](SimpleNamespace(wsgi=None))


def test_exceptions_are_heard_where_nobody_writes_them(conf, django, monkeypatch):
    begin(conf, monkeypatch)
    # Plain ones: Salt's own loggers, which a test run has, make others.
    record = logging.LogRecord("django.request", logging.ERROR, "x", 1, "Internal Server Error: %s", ("/boom",), None)
    record.request = SimpleNamespace(method="POST")
    (handler,) = django[1].handlers
    assert handler.format(record) == "POST Internal Server Error: /boom"
    assert handler.level == logging.ERROR


@pytest.mark.parametrize("at", [0, 1])
def test_a_site_that_logs_itself_is_left_alone(conf, django, monkeypatch, at):
    django[at].handlers = [*django[at].handlers, logging.StreamHandler()]
    before = list(django[1].handlers)
    begin(conf, monkeypatch)
    assert django[1].handlers == before


def test_what_does_not_propagate_has_no_parent(conf, django, monkeypatch):
    begin(conf, monkeypatch, logging.StreamHandler())
    assert django[1].handlers == []
    monkeypatch.setattr(django[0], "propagate", False)
    begin(conf, monkeypatch, logging.StreamHandler())
    assert len(django[1].handlers) == 1
