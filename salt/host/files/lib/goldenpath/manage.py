"""manage.py of a site's release, run in the site's sandbox by the release's own interpreter."""

import json
import os
import re

from . import sandbox
from .errors import Failed, Refused
from .text import masked


def program(site, release, name, *argv, timeout, env=None, feed=None):
    """
    Run one of ``site_programs`` under a release's interpreter, with the site's variables; its output goes to the
    release's log as well. env: what comes on top of them. feed: as ``process.run`` has it. Returns ``Done``.
    """
    values = site.environment(release)
    return sandbox.run(
        site, [site.release(release, "venv/bin/python"), os.path.join(sandbox.PROGRAMS, name), *argv],
        cwd=values["APP_DIR"], env={**values, **(env or {})}, timeout=timeout,
        log=site.release(release, "deploy.log"), feed=feed,
    )  # fmt: skip


def run(site, release, commands, timeout=900, env=None):
    """
    Run commands in one process. commands: a list of ``[optional, name, argument, ...]``; where one fails that is not
    optional, the rest is not run.

    Returns the exit code of each by its name, and the whole output without secrets.
    """
    done = program(site, release, "run_manage.py", json.dumps(commands), timeout=timeout, env=env)
    codes = dict(line.split()[1:3] for line in done.output.splitlines() if line.startswith("::manage "))
    return {name: int(code) for name, code in codes.items()}, masked(done.output, site.secrets())


def attach(site, argv):
    """One command of the live release, for a person. Returns its exit status; raises Refused where none is live."""
    if not site.current:
        raise Refused(f"{site.slug} has no release yet. Try: deploy it first")
    values = site.environment(site.current)
    python = site.release(site.current, "venv/bin/python")
    return sandbox.attach(site, [python, "manage.py", *argv], values, values["APP_DIR"])


def attach_command(site, argv):
    """Any command, with the site's variables and in its folder, for a person. Returns its exit status."""
    site.provisioned()
    if not argv:
        raise Refused("there is no command. Try: goldenpath run SITE COMMAND …")
    env = site.environment(site.current)
    return sandbox.attach(site, ["/usr/bin/env", "--", *argv], env, site.root)


def against(site, release, database, argv, readonly=True):
    """
    Run one command against a database that is not the live one.

    readonly: whatever the site's code does on its start, it cannot write, to whichever database. Returns the exit code
    and the output without secrets. Raises Failed where the site would not let itself be pointed elsewhere.
    """
    env = {"DJANGO_DB_NAME": database, "PYTHONDONTWRITEBYTECODE": "1"}
    if readonly:
        env["PGOPTIONS"] = "-c default_transaction_read_only=on"
    done = program(site, release, "which_database.py", *argv, timeout=3600, env=env)
    used = re.search(r"^::database (.*)$", done.output, re.MULTILINE)
    if used and used[1] != database:
        raise Failed(
            f"the settings of {site.slug} name the database {used[1]} themselves. Try: read DJANGO_DB_NAME in them"
        )
    return done.code, masked(done.output, site.secrets())
