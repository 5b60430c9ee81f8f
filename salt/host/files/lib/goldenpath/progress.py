"""What is being done right now: steps as lines of ``/run/goldenpath/<slug>.progress``, which the controller follows."""

import contextlib
import json
import os
import sys
import threading
import types

from . import host
from .errors import Failed, Refused


def _path(slug):
    return f"{host.RUN}/{slug}.progress"


def tell(slug, step, event, seconds=None, why=None, notes=(), said=""):
    """
    Note a step. Nothing fails where it cannot be noted.

    event: ``begun``, ``done`` or ``failed``; ``end`` when no more comes. seconds: how long it took. why: the sentence
    of a command that failed. said: how one ended that did not. notes: what an operator should know all the same.
    """
    line = {"host": host.name(), "site": slug, "step": step, "event": event}
    if why:
        line["why"] = why
    if said:
        line["said"] = said
    if notes:
        line["notes"] = [str(note) for note in notes]
    if seconds is not None:
        line["seconds"] = round(seconds, 2)
    with contextlib.suppress(OSError):
        os.makedirs(host.RUN, mode=0o755, exist_ok=True)
        with open(_path(slug), "a", encoding="utf-8") as stream:
            # The controller's other session may be no root's.
            os.fchmod(stream.fileno(), 0o644)
            stream.write(json.dumps(line) + "\n")


def clear(slug):
    """Forget what was noted before."""
    with contextlib.suppress(OSError), open(_path(slug), "w", encoding="utf-8") as stream:
        os.fchmod(stream.fileno(), 0o644)


@contextlib.contextmanager
def shown(slug):
    """
    What is told in here is a command's own, and the last of it is ``end``. Yields what that says: ``said``, a sentence,
    and ``notes``, a list.
    """
    clear(slug)
    why, told = None, types.SimpleNamespace(said="", notes=[])
    try:
        yield told
    except (Failed, Refused) as exc:
        why = str(exc).partition("\n")[0]
        raise
    finally:
        tell(slug, "", "end", why=why, notes=told.notes, said=told.said)


@contextlib.contextmanager
def printed(slug):
    """The steps of what runs meanwhile, on standard error, a line each as it ends."""
    done = threading.Event()
    # What is there is another command's: the file is emptied by the one that begins.
    thread = threading.Thread(target=_print, args=(slug, len(_lines(slug)), done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(2)


def _lines(slug):
    try:
        with open(_path(slug), encoding="utf-8") as stream:
            return stream.read().splitlines()
    except OSError:
        return []


def _print(slug, seen, done):
    last = False
    while not last:
        last = done.wait(0.1)
        lines = _lines(slug)
        for line in lines[seen if len(lines) >= seen else 0 :]:
            with contextlib.suppress(ValueError, KeyError):
                note = json.loads(line)
                if note["event"] in ("done", "failed"):
                    took = f"{note.get('seconds', 0):.1f} s" if note["event"] == "done" else "FAILED"
                    print(f"{note['step']} {took}", file=sys.stderr, flush=True)
        seen = len(lines)
