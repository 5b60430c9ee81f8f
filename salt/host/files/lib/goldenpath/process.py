"""
Programs, run as root or as a site's user, with nothing of root's own environment and no shell.

The user changes before the program begins: no program of root's ever sees a site's variables or its PATH.
A program dies with the engine that started it (prctl(2), PR_SET_PDEATHSIG).
"""

import contextlib
import ctypes
import os
import pwd
import signal
import subprocess
import sys
import typing

from .errors import Failed
from .text import printable

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)
ROOT_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
SITE_PATH = "/usr/local/bin:/usr/bin:/bin"
TIMED_OUT = 124
# On disk: /tmp may be a small one in memory, which somebody filled.
TEMPORARY = "/var/tmp"  # noqa: S108


class Done(typing.NamedTuple):
    """How a program ended: its exit status, what it printed, and its errors where these were kept apart."""

    code: int
    output: str
    errors: str


def _die_with_parent():
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def environment(user=None, extra=None):
    """What a program sees: a fixed PATH, locale and home, and what is given."""
    home = {"HOME": "/root", "PATH": ROOT_PATH} if user is None else {"HOME": "/", "PATH": SITE_PATH}
    return {"LANG": "C.UTF-8", "TMPDIR": TEMPORARY, **home, **(extra or {})}


def known(user):
    """Whether this host has such a user."""
    with contextlib.suppress(KeyError):
        return bool(pwd.getpwnam(user))
    return False


def identity(user):
    """What Popen needs to become a user: nothing for None, and nothing for who that is already."""
    if user is None:
        return {}
    try:
        found = pwd.getpwnam(user)
    except KeyError:
        raise Failed(f"there is no user {user}. Try: state.apply") from None
    if os.geteuid() == found.pw_uid:
        return {}
    return {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": os.getgrouplist(user, found.pw_gid)}


def start(argv, user=None, env=None, cwd="/", **options):
    """A program that runs beside this one and dies with it: a ``subprocess.Popen``; options are its own."""
    try:
        return subprocess.Popen(
            argv, cwd=cwd, env=environment(user, env), start_new_session=True, preexec_fn=_die_with_parent,
            # What a site's programs make is read by Caddy, whatever the host's umask is; what root's make, by nobody.
            umask=0o022 if user else 0o077,
            **identity(user), **options,
        )  # fmt: skip
    except OSError as exc:
        raise Failed(f"{argv[0]} cannot be started in {cwd}: {exc.strerror}") from exc


def run(argv, user=None, env=None, cwd="/", timeout=6 * 3600, stdin=None, stdout=None, text=None, feed=None, most=None,
        apart=False, log=None):  # fmt: skip
    """
    Run a program and wait for it. No secret goes into argv: whoever lists processes reads it.

    user: whose program it is, root's by default. env: what it sees next to the fixed few. timeout: seconds, after
    which it is killed with all its children. stdin, stdout: paths that root opens. text: what is written to its
    standard input; feed: called while it starts, returns that text. most: the bytes that a file which it writes may
    have. apart: errors are not mixed into the output. log: a file to which its output is appended.

    Returns ``Done``; a timeout has the code 124. Raises Failed where it cannot be started.
    """
    words = ["/usr/bin/prlimit", f"--fsize={most}", "--", *argv] if most is not None else argv
    with contextlib.ExitStack() as files:
        source = files.enter_context(open(stdin, "rb")) if stdin else subprocess.DEVNULL
        target = subprocess.PIPE
        if stdout:
            target = files.enter_context(open(os.open(stdout, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb"))
        program = start(
            words, user, env, cwd, stdin=subprocess.PIPE if text is not None or feed else source, stdout=target,
            stderr=subprocess.PIPE if stdout or apart else subprocess.STDOUT, text=True, errors="replace",
        )  # fmt: skip
        timed_out = ""
        try:
            given = feed() if feed else text
            output, errors = program.communicate(given, timeout=timeout)
        except subprocess.TimeoutExpired:
            kill(program)
            output, errors = program.communicate()
            timed_out = f"\nkilled after {timeout} s"
        except BaseException:
            kill(program)
            program.communicate()
            raise
        if stdout and not program.returncode:
            os.fsync(target.fileno())
    code = TIMED_OUT if timed_out else program.returncode
    # Where the output went to a file, what is left is the errors.
    output = (output or "") + ("" if apart else errors or "") + timed_out
    if log:
        note(log, argv, output)
    return Done(code, output, errors or "")


def note(log, argv, output):
    """Append a command and its output to a log."""
    with open(log, "a", encoding="utf-8") as stream:
        stream.write(printable(f"$ {' '.join(argv)}\n{output}"))


def attached(argv, env=None):
    """Run a program of root's with this one's own terminal or pipes. Returns its exit status."""
    return subprocess.run(argv, env=environment(None, env), cwd="/", check=False).returncode


def kill(program):
    """End a program that ``start`` began, with all its children."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(program.pid, signal.SIGKILL)


def unheard():
    """Nobody reads our output any more: what is left is not flushed into a pipe that is closed."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
