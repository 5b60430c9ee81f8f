"""
What a site's programs and its visitors wrote into the journal, as a person reads it: a line each, under the process's
own name, also over a deploy; without secrets and without what a terminal would obey.
"""

import contextlib
import datetime
import glob
import json
import os
import re
import subprocess

from . import process, text, units
from .errors import Failed, Refused

REQUESTS, DEPLOY, ERRORS = "requests", "deploy", "errors"
CADDY = "caddy.service"
# How far back a look for exceptions goes.
MOST_LINES = 20000
_NAMES = {"gunicorn": "web", "celery": "worker", "celerybeat": "beat"}
_FIELDS = "MESSAGE,_SYSTEMD_UNIT,_PID"
# The watch, and deploys.
_OURSELVES = ("127.0.0.1", "::1")
_CHAINED = ("During handling of the above exception", "The above exception was the direct cause")


def show(site, what=None, lines=100, follow=False, since=None):
    """
    Print what was written, the last lines first found.

    what: ``web``, ``worker``, ``beat``, the name of a process or a schedule, ``requests``, ``deploy``, ``errors``; all
    of the site's programs where it is left out. lines: how many, of ``errors`` how many exceptions. follow: go on until
    it is interrupted. since: as journalctl has it, such as ``1 hour ago``. Raises Refused for a name that the site does
    not have.
    """
    if what == DEPLOY:
        return _deploy(site, lines)
    known = ["web", *(_name(site, unit) for unit in units.every_background(site)), REQUESTS, DEPLOY, ERRORS]
    if what is not None and what not in known:
        raise Refused(f"{site.slug} has no {what!r:.60}. Try one of: {', '.join(sorted(set(known)))}")
    secrets = site.secrets()
    if what == ERRORS:
        found = _exceptions(_entries(_matches(site, None), MOST_LINES, since or "7 days ago"), site)
        for each in found[-lines:]:
            print(text.printable(text.masked(each, secrets)), flush=True)
        if not found:
            print(f"No exception of {site.slug} is in the journal{'' if since else ' of the last seven days'}.")
        return None
    told = 0
    for line in _lines(site, what, lines, follow, since):
        print(text.printable(text.masked(line, secrets)), flush=True)
        told += 1
    if not told and not follow:
        print(f"Nothing of {what or site.slug} is in the journal. Try: journalctl --disk-usage")
    return None


def _lines(site, what, lines, follow, since):
    """What was written, then what is written from now on."""
    wanted = (lambda entry: _request(site, entry)) if what == REQUESTS else (lambda entry: _line(site, what, entry))
    # Newest first, and no further than needed: other sites' requests lie between this one's.
    found, cursor = [], None
    for entry in _entries(_matches(site, what), None, since, newest_first=True):
        cursor = cursor or entry.get("__CURSOR")
        if len(found) >= lines:
            break
        if line := wanted(entry):
            found.append(line)
    yield from reversed(found)
    if follow:
        start = ["--after-cursor", cursor] if cursor else ["--since", "now"]
        # By slice and not by unit: those of the next release are not there yet.
        matches = ["--unit", CADDY] if what == REQUESTS else [f"_SYSTEMD_SLICE={site.slice}"]
        for entry in _read(["--follow", "--no-tail", *start, *matches]):
            if line := wanted(entry):
                yield line


def _matches(site, what):
    if what == REQUESTS:
        return ["--unit", CADDY]
    return ["--unit", f"{site.name}-*"]


def _entries(matches, lines, since, newest_first=False):
    options = [*(["--lines", str(lines)] if lines else []), *(["--since", since] if since else [])]
    return _read([*options, *(["--reverse"] if newest_first else []), *matches])


def _read(options):
    """Entries of the journal, as dictionaries, as they come."""
    argv = [units.JOURNALCTL, "--quiet", "--no-pager", "--output=json", f"--output-fields={_FIELDS}", *options]
    running = process.start(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    finished = False
    try:
        for line in running.stdout:
            with contextlib.suppress(ValueError):
                entry = json.loads(line)
                message = entry.get("MESSAGE")
                # What is no UTF-8 comes as numbers.
                entry["MESSAGE"] = (
                    bytes(message).decode(errors="replace") if isinstance(message, list) else message or ""
                )
                yield entry
        finished = True
    finally:
        running.kill()
        said = running.stderr.read().decode(errors="replace").strip()
        running.stdout.close()
        running.stderr.close()
        code = running.wait()
        if finished and code > 0 and said:
            raise Failed(f"journalctl: {text.reason(said)}. Try: --since '1 hour ago'")


def _name(site, unit):
    """How a person calls what runs in a unit; empty for what is not the site's."""
    found = re.fullmatch(rf"{re.escape(site.name)}-([a-z][a-z0-9]*)(@[^.]*|-[0-9-]+)?\.\w+", unit or "")
    return _NAMES.get(found[1], found[1]) if found else ""


def _when(entry):
    at = datetime.datetime.fromtimestamp(int(entry["__REALTIME_TIMESTAMP"]) / 1e6)
    return f"{at:%m-%d %H:%M:%S}"


def _line(site, what, entry):
    name = _name(site, entry.get("_SYSTEMD_UNIT"))
    if not name or (what and name != what):
        return ""
    return f"{_when(entry)} {name:<8} {entry['MESSAGE']}"


def _request(site, entry):
    """A line of Caddy's about one of the site's requests; empty for any other."""
    try:
        told = json.loads(entry["MESSAGE"])
        request = told["request"]
        host, visitor = request["host"], request.get("remote_ip") or request["remote_addr"]
        # A port, where a visitor named one.
        if re.sub(r":\d+$", "", host) not in site.facts["domains"] or visitor in _OURSELVES:
            return ""
        return (
            f"{_when(entry)} {told['status']} {request['method']:<4} {host}{request['uri']} "
            f"{told['duration'] * 1000:.0f} ms {text.size(told.get('size', 0))} {visitor}"
        )
    except (ValueError, KeyError, TypeError):
        return ""


def _deploy(site, lines):
    """The log of the newest deploy, failed or not."""
    found = [*glob.glob(site.path("releases/*/deploy.log")), *glob.glob(site.path("failed/*.log"))]
    if not found:
        raise Refused(f"{site.slug} was not deployed yet. Try: deploy it first")
    newest = max(found, key=os.path.getmtime)
    with open(newest, encoding="utf-8", errors="replace") as stream:
        log = text.masked(stream.read(), site.secrets())
    # Two colons begin what programs of ours tell each other.
    said = [text.printable(line) for line in log.splitlines() if not line.startswith("::")]
    print("\n".join([f"{newest}:", *said[-lines:]]))


def _exceptions(entries, site):
    """Tracebacks, each with when and where it was and the line before it, which names the request."""
    found, running = [], {}
    for entry in entries:
        name = _name(site, entry.get("_SYSTEMD_UNIT"))
        if not name:
            continue
        key, line = (entry.get("_SYSTEMD_UNIT"), entry.get("_PID")), entry["MESSAGE"]
        state = running.setdefault(key, {"before": "", "block": None, "ended": False, "chained": False})
        block = state["block"]
        if line.lstrip().startswith("Traceback (most recent call last)"):
            if block is None or (state["ended"] and not state["chained"]):
                block = state["block"] = [f"{_when(entry)} {name}", *filter(None, [state["before"]])]
                found.append(block)
            block.append(line)
            state.update(ended=False, chained=False)
        elif block is not None and line.startswith(_CHAINED):
            block += ["", line]
            state.update(ended=True, chained=True)
        elif block is not None and not state["ended"]:
            block.append(line)
            # A line that is not indented names the exception, and is the last.
            state["ended"] = bool(line) and not line[0].isspace() and line[0] not in "|+"
        elif line.strip():
            state.update(before=line, block=None)
    return ["\n".join(block) + "\n" for block in found]
