# Managed by Golden Path: local changes are overwritten.
"""
gunicorn's configuration for every site: Django sees the visitor's address as ``REMOTE_ADDR``, as behind any web server.

gunicorn answers on a Unix socket, whose peer has no address. Caddy says whose request it is in the last word of
``X-Forwarded-For``: it takes none from outside, so nobody forges it. Without that header it is this host that asks. A
``gunicorn.conf.py`` of the site's own, in the folder of its manage.py, is read first. Of an ASGI site uvicorn's worker
serves the application, and its ``client`` is the visitor.

It runs under a site's own interpreter and imports nothing of the engine.
"""

import logging
import os
import runpy
import sys

OWN = "gunicorn.conf.py"
if os.path.exists(OWN):
    globals().update({name: value for name, value in runpy.run_path(OWN).items() if not name.startswith("__")})
_theirs = globals().get("post_worker_init")


def addressed(application):
    """A WSGI application that sees the visitor's address."""

    def called(environ, start_response):
        said = environ.get("HTTP_X_FORWARDED_FOR", "").rpartition(",")[2].strip()
        environ["REMOTE_ADDR"] = said or "127.0.0.1"
        return application(environ, start_response)

    return called


def addressed_asgi(application):
    """The same for an ASGI application."""

    async def called(scope, receive, send):
        if scope["type"] in ("http", "websocket"):
            said = [value for name, value in scope["headers"] if name == b"x-forwarded-for"]
            address = said[-1].decode("latin-1").rpartition(",")[2].strip() if said else ""
            scope = {**scope, "client": (address or "127.0.0.1", 0)}
        await application(scope, receive, send)

    return called


def _writes(handler):
    """Whether a handler writes an error anywhere: Django's own mails it to nobody, or waits for DEBUG."""
    if type(handler).__name__ in ("AdminEmailHandler", "NullHandler"):
        return False
    return not any(type(each).__name__ == "RequireDebugTrue" for each in handler.filters)


class _Request(logging.Formatter):
    """The method beside the path, which is all that Django writes."""

    def format(self, record):
        method = getattr(getattr(record, "request", None), "method", None)
        return (f"{method} " if method else "") + super().format(record)


def heard():
    """The exceptions of a site that says nothing of logging reach the journal, with their request."""
    logger = logging.getLogger("django.request") if "django" in sys.modules else None
    while logger:
        if any(map(_writes, logger.handlers)):
            return
        logger = logger.parent if logger.propagate else None
    if "django" in sys.modules:
        handler = logging.StreamHandler()
        handler.setLevel(logging.ERROR)
        handler.setFormatter(_Request("%(message)s"))
        logging.getLogger("django.request").addHandler(handler)


def post_worker_init(worker):
    if _theirs:
        _theirs(worker)
    heard()
    asgi = os.environ.get("WEB_WORKER", "").startswith("uvicorn")
    worker.wsgi = addressed_asgi(worker.wsgi) if asgi else addressed(worker.wsgi)
