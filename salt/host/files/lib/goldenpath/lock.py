"""One at a time: a site's lock and the host's. They are the kernel's, and die with their process."""

import contextlib
import fcntl
import json
import os
import time

from . import files, host
from . import site as sites
from .errors import Busy
from .text import now

BACKUPS = "/run/goldenpath-backup.lock"
_SENTENCE = (
    "{slug} on {host} is held by {who} since {since}, at step {step}. "
    "Try: wait for it, give wait (seconds), or end it with: kill {pid}"
)
_BUSY = "{host} is busy with a {who} since {since} (process {pid}). Try: again when it is done"


class Held:
    """A lock that this process has; ``step`` tells others how far it is."""

    def __init__(self, stream, who):
        self._stream, self._who, self._since = stream, who, now()
        self.step("start")

    def step(self, name):
        """Write down what is being done."""
        self._stream.seek(0)
        self._stream.truncate()
        json.dump({"who": self._who, "since": self._since, "step": name, "pid": os.getpid()}, self._stream)
        self._stream.flush()


@contextlib.contextmanager
def _locked(path, who, wait, what, sentence):
    _ours(path)
    with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+", encoding="utf-8") as stream:
        end = time.monotonic() + wait
        while not _taken(stream):
            if time.monotonic() >= end:
                raise Busy(sentence.format(host=host.name(), **what, **_holder(stream)))
            time.sleep(0.2)
        yield Held(stream, who)


def _ours(path):
    """
    Nobody but root opens a lock: who can read a file can hold it (flock(2)). One of before could be read, and whoever
    holds that and is not root holds a file that is no lock any more.
    """
    with contextlib.suppress(FileNotFoundError):
        found = os.stat(path)
        if found.st_mode & 0o077:
            os.chmod(path, 0o600)
            if any(not _root(pid) for pid in _holders(found)):
                os.unlink(path)


def _holders(found):
    """The processes that hold a file by flock, as the kernel lists them (proc(5), /proc/locks)."""
    device = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    with open("/proc/locks", encoding="ascii") as lines:
        return [int(line.split()[4]) for line in lines if " FLOCK " in line and device in line.split()]


def _root(pid):
    try:
        return os.stat(f"/proc/{pid}").st_uid == 0
    except OSError:
        return False


def _taken(stream):
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _holder(stream):
    stream.seek(0)
    held = {}
    with contextlib.suppress(ValueError):
        held = json.loads(stream.read())
    return {"who": "somebody", "since": "a moment", "step": "start", "pid": "PID", **held}


def of_process(site, pid):
    """Who holds a site's lock, as a sentence, where it is this process; else an empty string. Takes nothing."""
    held = files.read_json(site.path(sites.LOCK))
    return _SENTENCE.format(slug=site.slug, host=host.name(), **held) if held.get("pid") == pid else ""


def of_site(site, who, wait=0):
    """
    The lock of a site: deploy, rollback, backup, restore and state.apply take turns.

    who: who holds it, for those who wait. wait: seconds. Yields ``Held``; raises Busy.
    """
    return _locked(site.path(sites.LOCK), who, wait, {"slug": site.slug}, _SENTENCE)


def held(site):
    """Whether somebody works on a site just now. Takes nothing."""
    with contextlib.suppress(OSError):
        return bool(_holders(os.stat(site.path(sites.LOCK))))
    return False


def of_backups(what, wait=0):
    """The lock of the host's backups: backup, drill, check and restore, one at a time."""
    return _locked(BACKUPS, what, wait, {}, _BUSY)
