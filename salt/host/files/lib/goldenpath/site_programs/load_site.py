# Managed by Golden Path: local changes are overwritten.
"""
Loads what gunicorn and Celery load of a site, and ends: PROJECT, and `celery` where the site has a worker.

It runs under a site's own interpreter and imports nothing of the engine.
"""

import importlib
import sys

# The folder that is worked in, and not this program's.
sys.path[0] = ""

project, *more = sys.argv[1:]
assert callable(importlib.import_module(f"{project}.wsgi").application)
if "celery" in more:
    from celery.app.utils import find_app

    find_app(project)
