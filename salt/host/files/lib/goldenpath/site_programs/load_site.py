# Managed by Golden Path: local changes are overwritten.
"""
Loads what gunicorn and Celery load of a site, and ends: the application, and the project where the site has a worker.

It runs under a site's own interpreter and imports nothing of the engine.
"""

import importlib
import sys

# The folder that is worked in, and not this program's.
sys.path[0] = ""

application, *project = sys.argv[1:]
module, _, name = application.partition(":")
found = getattr(importlib.import_module(module), name.removesuffix("()"))
assert callable(found() if name.endswith("()") else found)
if project:
    from celery.app.utils import find_app

    find_app(*project)
