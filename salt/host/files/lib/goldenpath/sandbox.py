"""
What runs of a site runs in the site's sandbox: a transient unit ``sum-SLUG-run-N``, as the site's user, with nothing to
gain, with limits, and with nothing that outlives it. No program of a site's user is started in any other way.
"""

import contextlib
import itertools
import json
import os
import re
import sys
import time

from . import env as environments
from . import files, host, process, units
from .errors import Failed

PYTHON = "/usr/bin/python3"
PROGRAMS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "site_programs")
# The units of every site read the very same file.
_PROPERTIES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "sandbox.conf")
# Where a build is large, too; a folder of the site's stands there.
TEMPORARY = process.TEMPORARY
# Visitors come first; what is left behind is ended at once.
_LIMITS = ("CPUWeight=20", "IOWeight=20", "TasksMax=512", "TimeoutStopSec=2s", "OOMPolicy=continue", "UMask=0022")
_COUNT = itertools.count(1)
# systemd.exec(5), "Process Exit Codes": what it ends with where a program could not even be started.
_SETUP = range(200, 246)


def properties():
    """The sandbox of a site's units, as lines ``Name=value``."""
    with open(_PROPERTIES, encoding="utf-8") as stream:
        return [line.strip() for line in stream if re.match(r"[A-Z]\w+=", line)]


def run(site, argv, env=None, cwd="/", timeout=900, text=None, feed=None, log=None, more=()):
    """
    Run a program of a site, and wait for it. No secret goes into argv.

    env: what it sees next to the fixed few; systemd reads it from a file of root's. timeout: seconds, after which it is
    killed with all that it started. text, feed, log: as ``process.run`` has them. more: further properties of the unit.
    Returns ``process.Done``.
    """
    unit = f"{site.name}-run-{os.getpid()}-{next(_COUNT)}.service"
    began, ended = time.time(), False
    with _environment(unit, _seen(site, env)) as path:
        try:
            done = process.run(
                [*_words(site, unit, path, cwd, more), "--pipe", "--", *map(_literal, argv)],
                timeout=timeout, text=text, feed=feed,
            )  # fmt: skip
            ended = done.code != process.TIMED_OUT
        finally:
            if not ended:
                units.systemctl("kill", "--signal=KILL", unit, timeout=30)
    if done.code in _SETUP and not done.output.strip():
        done = done._replace(output=units.journal(unit, began, 3))
    if log:
        process.note(log, argv, done.output)
    return done


def attach(site, argv, env=None, cwd="/"):
    """
    Run a program of a site on the terminal of who asked, or between pipes where there is none: it has a terminal of its
    own, and cannot type into root's. Returns its exit status.
    """
    unit = f"{site.name}-run-{os.getpid()}-{next(_COUNT)}.service"
    way = ["--pty"] if sys.stdin.isatty() and sys.stdout.isatty() else ["--pipe"]
    seen = _seen(site, {"TERM": os.environ.get("TERM", "dumb"), **(env or {})})
    with _environment(unit, seen) as path:
        return process.attached([*_words(site, unit, path, cwd), *way, "--", *map(_literal, argv)])


def run_all(site, commands, env=None, timeout=900, log=None, more=()):
    """
    Run commands in one sandbox, until one fails that is not optional.

    commands: a list of ``(argv, folder, optional)``; the rest as in ``run``. Returns a list of ``process.Done``, of
    those that were run.
    """
    asked = json.dumps([{"argv": argv, "cwd": cwd, "optional": optional} for argv, cwd, optional in commands])
    done = run(site, [PYTHON, "-I", f"{PROGRAMS}/run_all.py"], env, timeout=timeout, text=asked, more=more)
    told, other = [], []
    for line in done.output.splitlines():
        try:
            found = json.loads(line)
            told.append(process.Done(int(found["code"]), str(found["output"]), ""))
        except (ValueError, TypeError, KeyError):
            other.append(line)
    for (argv, _, _), each in zip(commands, told, strict=False):
        if log:
            process.note(log, argv, each.output)
    if not told or (done.code and not told[-1].code):
        # Ended from outside, or it never began.
        told.append(process.Done(done.code or 1, "\n".join(other), ""))
    return told


def _seen(site, env):
    return process.environment(site.name, {"HOME": site.path("cache"), **(env or {})})


@contextlib.contextmanager
def _environment(unit, values):
    """A file of root's with variables: on a command line, and on a unit, everybody reads them."""
    path = f"{host.RUN}/{unit}.env"
    os.makedirs(host.RUN, mode=0o755, exist_ok=True)
    try:
        files.replace(path, environments.dump(values))
        yield path
    finally:
        files.remove(path)


def _temporary(site):
    """Where the site's temporary files lie: a folder of its own, also on a host of before there was one."""
    place = site.path("tmp")
    with contextlib.suppress(FileExistsError):
        os.mkdir(place, 0o700)
        os.chown(place, *site.owner())
    return place


def _words(site, unit, environment, cwd, more=()):
    own = (
        f"User={site.name}", f"Group={site.name}", f"Slice={site.slice}", f"ReadWritePaths={site.root}",
        f"BindPaths={_temporary(site)}:{TEMPORARY}", f"EnvironmentFile={environment}", f"WorkingDirectory={cwd}",
    )  # fmt: skip
    about = f"{site.slug}: a command of a deploy or a person"
    return units.transient(unit, about, (*properties(), *_LIMITS, *more, *own))


def _literal(word):
    """A word in which systemd expands nothing (systemd.service(5), "Command lines")."""
    if "\0" in word:
        raise Failed(f"{word!r:.80} holds a zero byte")
    return word.replace("$", "$$")
