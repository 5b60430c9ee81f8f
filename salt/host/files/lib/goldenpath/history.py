"""
The history of a site's releases: each deploy, change of its environment and rollback is a line of ``releases.jsonl``.

A record has ``release``, ``action`` (``deploy``, ``configure`` or ``rollback``), ``ref``, ``sha``, ``who``, ``when``
(UTC), ``seconds``, ``steps`` (seconds of each), ``migrations``, ``migrating`` (whether any were begun), ``dump``,
``outcome`` (``live``, ``failed`` or ``bad``) and ``reason``.
"""

import contextlib
import json
import os

from . import files
from . import site as sites


def read(site, limit=0):
    """Every record, oldest first; limit: only the last so many."""
    records = []
    with contextlib.suppress(FileNotFoundError), open(site.path(sites.HISTORY), encoding="utf-8") as lines:
        for line in lines:
            # A power cut can leave half a last line: it is the only thing lost.
            with contextlib.suppress(ValueError):
                records.append(json.loads(line))
    return records[-limit:] if limit else records


def add(site, record):
    """Write a record that survives a power cut."""
    files.append(site.path(sites.HISTORY), json.dumps(record))


def good(site):
    """The releases that went live, were not marked bad since, and are still there; the last one at the end."""
    outcome = {}
    for record in read(site):
        if record["outcome"] in ("live", "bad"):
            outcome.pop(record["release"], None)
            outcome[record["release"]] = record["outcome"]
    return [release for release, last in outcome.items() if last == "live" and there(site, release)]


def there(site, release):
    """Whether a release is still there, and not only its checkout for another one."""
    return os.path.isfile(site.release(release, "release.env"))


def last_live(site):
    """The release that went live last and is still there, or None: what a lost ``current`` named."""
    told = [each["release"] for each in read(site) if each["outcome"] == "live"]
    return told[-1] if told and there(site, told[-1]) else None


def built(site, release):
    """The record of what made a release, or None."""
    made = [each for each in read(site) if each["release"] == release and each["action"] != "rollback"]
    return made[-1] if made else None


def since(site, release):
    """The records since a release went live for the last time; all of them for one that never did."""
    past = read(site)
    last = max(
        (at for at, each in enumerate(past) if each["release"] == release and each["outcome"] == "live"), default=-1
    )
    return past[last + 1 :]


def dump_before(site, release):
    """Whether the database has moved since a release was live, and the dump from before that, or None."""
    moves = [each for each in since(site, release) if each.get("migrations")]
    return bool(moves), moves[0].get("dump") if moves else None
