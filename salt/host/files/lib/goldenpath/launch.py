"""
A verb that changes a site is a transient systemd unit ``goldenpath-VERB-SLUG``, with limits and a weight of its own.

Who starts it (Salt's façade, a person) waits for its result, and does not take it along when killed; stopping the unit
does. The request goes in by a file that only root reads, and that is gone once it is read.
"""

import os
import sys
import time
import traceback

from . import files, host, lock, process, units
from . import site as sites
from .errors import Busy, Ended, Failed, Refused

COMMAND = "/opt/goldenpath/goldenpath"
# A build that is killed for its memory fails by itself and is told; the deploy that began it undoes what it did.
_EVERY = ("OOMPolicy=continue", "TimeoutStopSec=30s", "LimitCORE=0:infinity", "UMask=0077")
_SERVING = ("CPUWeight=50", "IOWeight=50", "RuntimeMaxSec=4h")
# Visitors come first, and what hangs for so long does not come back: other sites have their turn.
_BESIDE = (
    "CPUWeight=20", "IOWeight=20", "Nice=19", "IOSchedulingClass=idle", "PrivateTmp=yes", "NoNewPrivileges=yes",
    "ProtectHome=yes", "RuntimeMaxSec=6h",
)  # fmt: skip
# However a restore ends, what it left half done is put back, and that it failed is heard.
_RESTORING = (
    "RuntimeMaxSec=24h", "TimeoutStopSec=30min", "PrivateTmp=yes", f"ExecStopPost={COMMAND} heal {{slug}}",
    "OnFailure=goldenpath-alert@goldenpath-restore-{slug}.service.service",
)  # fmt: skip
_LIMITS = {
    "deploy": _SERVING, "rollback": _SERVING, "settle": _SERVING, "backup": _BESIDE, "dump": _BESIDE, "drill": _BESIDE,
    "restore": _RESTORING,
}  # fmt: skip


def unit(verb, slug):
    """The name of a verb's unit."""
    return f"goldenpath-{verb}-{slug}"


def run(verb, slug, request, wait=0):
    """
    Run a verb as its unit, and wait until it ends.

    request: JSON for the verb; it may hold secrets. wait: seconds to wait for another one of that name. Returns the
    verb's answer. Raises Failed, Refused or Busy, as the verb did; Ended where it was ended before it told anything.
    """
    end = time.monotonic() + wait
    base = f"{host.RUN}/{unit(verb, slug)}.{os.getpid()}"
    asked, told = f"{base}.request", f"{base}.result"
    try:
        while True:
            files.remove(told)
            files.write_json(asked, request)
            done = process.run(_argv(verb, slug, asked, told))
            answer = files.read_json(told)
            if answer:
                return _outcome(answer)
            if not _exists(done):
                raise Ended(_ended(verb, slug, done))
            if time.monotonic() >= end:
                raise _busy(slug, verb)
            time.sleep(0.3)
    finally:
        files.remove(asked)
        files.remove(told)


def _argv(verb, slug, asked, told):
    properties = [each.format(slug=slug) for each in (*_EVERY, *_LIMITS[verb])]
    return [
        *units.transient(unit(verb, slug), f"Golden Path: {verb} of {slug}", properties),
        COMMAND, "perform", verb, slug, "--request", asked, "--result", told,
    ]  # fmt: skip


def _exists(done):
    """systemd-run's words for a unit that is there already: it has no exit status of its own for that."""
    return "already loaded" in done.output or "already exists" in done.output


def _busy(slug, verb):
    name = unit(verb, slug)
    sentence = lock.of_process(sites.load(slug), units.main_pid(f"{name}.service"))
    return Busy(
        sentence or f"{name} runs on {host.name()} already. Try: wait for it, or end it with: systemctl stop {name}"
    )


def _ended(verb, slug, done):
    name = unit(verb, slug)
    said = _last_words(units.journal(name, time.time() - 3600, 5)) or _last_words(done.output)
    return (
        f"The {verb} of {slug} on {host.name()} was ended before it was done{said}: what it left is tidied up by the "
        f"next one. Try: journalctl -u {name}"
    )


def _last_words(output):
    lines = [line for line in output.splitlines() if line.strip()]
    return f" ({lines[-1].strip().rstrip('.')[:200]})" if lines else ""


def _outcome(answer):
    if "error" in answer:
        kind = Refused if answer.get("refused") else Failed
        raise kind(answer["error"], answer.get("tail", ""))
    return answer["answer"]


def _sentence(exc):
    if isinstance(exc, Failed):
        return str(exc)
    if isinstance(exc, OSError):
        return f"{exc}. Try: df -h"
    # A fault of ours: where it is stands in the journal.
    traceback.print_exc()
    return f"{type(exc).__name__}: {exc}. Try: journalctl -u 'goldenpath-*' -n 50"


def perform(work, asked, told):
    """
    Inside the unit: read the request, work, and leave the result. Returns an exit status.

    work: called with the request. asked, told: the files of both.
    """
    request = files.read_json(asked)
    files.remove(asked)
    try:
        files.write_json(told, {"answer": work(request)})
    except Exception as exc:
        sentence = _sentence(exc)
        refused, tail = isinstance(exc, Refused), getattr(exc, "tail", "")
        files.write_json(told, {"error": sentence, "tail": tail, "refused": refused})
        print(sentence, file=sys.stderr)
        return 1
    return 0
