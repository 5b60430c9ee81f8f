"""manage.py of a site's release, run in the site's sandbox by the release's own interpreter."""

import json
import os
import re
import shlex

from . import process, sandbox, text
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


def attach_psql(site, argv):
    """psql on the site's database, as the site's own role and in its sandbox. Returns its exit status."""
    site.provisioned()
    words = ["/usr/bin/psql", *([] if "-d" in argv or "--dbname" in argv else [f"--dbname={site.name}"]), *argv]
    # Settings that the site's folder may hold are nobody's here.
    env = {**site.environment(site.current), "PSQLRC": "/dev/null", "PAGER": "/usr/bin/less", "LESSSECURE": "1"}
    return sandbox.attach(site, words, env)


def against(site, release, database, argv, readonly=True):
    """
    Run one command against a database that is not the live one.

    readonly: whatever the site's code does on its start, it cannot write, to whichever database. Returns the exit code
    and the output without secrets. Raises Failed where the site would not let itself be pointed elsewhere.
    """
    env = {**_elsewhere(site, release, database), "PYTHONDONTWRITEBYTECODE": "1"}
    if readonly:
        env["PGOPTIONS"] = "-c default_transaction_read_only=on"
    done = program(site, release, "which_database.py", *argv, timeout=3600, env=env)
    used = re.search(r"^::database (.*)$", done.output, re.MULTILINE)
    if used and used[1] != database:
        raise Failed(
            f"the settings of {site.slug} name the database {used[1]} themselves. "
            "Try: read DATABASE_URL or DJANGO_DB_NAME in them"
        )
    return done.code, masked(done.output, site.secrets())


def _elsewhere(site, release, database):
    """The variables that name a site's database, under all names that it may be read by, with another one."""
    values = site.environment(release)
    also = site.facts.get("env_names", {})
    env = {"DJANGO_DB_NAME": database}
    env.update({name: database for name, source in also.items() if source == "DJANGO_DB_NAME"})
    for name in ("DATABASE_URL", *(name for name, source in also.items() if source == "DATABASE_URL")):
        head, found, rest = values.get(name, "").partition(f"/{site.name}?")
        if found:
            env[name] = f"{head}/{database}?{rest}"
    return env


def share(site, release, there, here):
    """Links to all files of one of the site's folders, in another one: as the site, which owns both. Raises Failed."""
    argv = ["/usr/bin/cp", "--archive", "--link", "--", f"{there}/.", here]
    done = sandbox.run(site, argv, {}, site.root, timeout=600, log=site.release(release, "deploy.log"))
    if done.code:
        raise Failed(f"{there} cannot be shared: {text.reason(done.output)}. Try: ls -l {there}")


def command(site, release, line, timeout):
    """
    Run one command of a build or a release, as the pillar has it. ``manage.py`` is the release's own.

    timeout: seconds. Raises Failed with its last words.
    """
    values = site.environment(release)
    words = shlex.split(line)
    if words[0] == "manage.py":
        words[:1] = [site.release(release, "venv/bin/python"), "manage.py"]
    env = {**values, "npm_config_cache": site.path("cache/npm"), "npm_config_update_notifier": "false"}
    done = sandbox.run(
        site, ["/usr/bin/env", "--", *words], env, values["APP_DIR"], timeout=timeout,
        log=site.release(release, "deploy.log"),
    )  # fmt: skip
    if done.code:
        output = masked(done.output, site.secrets())
        raise Failed(f"`{line}` {_ended(done, timeout, output, words[0])}", text.tail(output))


def _ended(done, timeout, output, program):
    """How a command ended that failed, and why, as the rest of a sentence."""
    if done.code == process.TIMED_OUT:
        return f"did not end within {timeout} s"
    if done.code == 127 and "No such file" in output:
        where = "packages: [npm]" if program in ("npm", "npx", "node") else "packages: […]"
        return f"failed: there is no {program} on the host. Try: {where} in the site's pillar, then state.apply"
    packages = text.lacks(output)
    ending = f". Try: packages: [{packages}] in the site's pillar, then state.apply" if packages else ""
    return f"failed with {done.code}: {text.reason(output)}{ending}"
