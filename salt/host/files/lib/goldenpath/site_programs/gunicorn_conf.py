# Managed by Golden Path: local changes are overwritten.
"""
gunicorn's configuration for every site: Django sees the visitor's address as ``REMOTE_ADDR``, as behind any web server.

gunicorn answers on a Unix socket, whose peer has no address. Caddy says whose request it is in the last word of
``X-Forwarded-For``: it takes none from outside, so nobody forges it. Without that header it is this host that asks. A
``gunicorn.conf.py`` of the site's own, in the folder of its manage.py, is read first.

It runs under a site's own interpreter and imports nothing of the engine.
"""

import os
import runpy

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


def post_worker_init(worker):
    if _theirs:
        _theirs(worker)
    worker.wsgi = addressed(worker.wsgi)
