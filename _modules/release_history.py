"""
The history of a site's releases: each deploy and rollback is a line of ``releases.jsonl``, and what went live
before, or turned out bad, is read from there.
"""

import contextlib
import json
import os


def _path(slug):
    return f"{__salt__['release.root'](slug)}/releases.jsonl"


def read(slug, limit=0):
    """
    Every deploy and rollback of a site, oldest first.

    slug (str)
        The site.
    limit (int)
        Only the last so many; 0 for all.

    Returns a list of dictionaries: ``release``, ``action``, ``ref``, ``sha``, ``who``, ``when`` (UTC),
    ``seconds``, ``steps`` (seconds of each), ``migrations``, ``migrating`` (whether any were begun), ``dump``,
    ``outcome`` (``live``, ``failed`` or ``bad``) and ``reason``.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 release_history.read acme-kitchens
    """
    records = []
    with contextlib.suppress(FileNotFoundError), open(_path(slug), encoding="utf-8") as lines:
        for line in lines:
            # A power cut can leave half a last line: it is the only thing lost.
            with contextlib.suppress(ValueError):
                records.append(json.loads(line))
    return records[-limit:] if limit else records


def add(slug, record):
    """
    Write a line that survives a power cut.

    slug (str)
        The site.
    record (dict)
        As ``read`` tells it.

    Returns ``True``.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 release_history.read acme-kitchens limit=1
    """
    with open(_path(slug), "a+b") as stream:
        os.fchmod(stream.fileno(), 0o644)
        if stream.tell():
            stream.seek(-1, os.SEEK_END)
            if stream.read(1) != b"\n":
                stream.write(b"\n")
        stream.write(json.dumps(record).encode() + b"\n")
        stream.flush()
        os.fsync(stream.fileno())
    return True


def good(slug):
    """
    The releases that went live, were not marked bad since, and are still on the host.

    slug (str)
        The site.

    Returns release ids, the one that went live last at the end.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 release_history.good acme-kitchens
    """
    outcome = {}
    for record in read(slug):
        if record["outcome"] in ("live", "bad"):
            outcome.pop(record["release"], None)
            outcome[record["release"]] = record["outcome"]
    folder = f"{__salt__['release.root'](slug)}/releases"
    return [release for release, last in outcome.items() if last == "live" and os.path.isdir(f"{folder}/{release}")]


def built(slug, release):
    """
    The deploy that made a release.

    slug (str)
        The site.
    release (str)
        The release's id.

    Returns its record, or ``None``.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 release_history.built acme-kitchens 20261123T221500-1a2b3c4d
    """
    made = [each for each in read(slug) if each["release"] == release and each["action"] == "deploy"]
    return made[-1] if made else None


def since(slug, release):
    """
    What happened since a release went live for the last time: the database may have moved.

    slug (str)
        The site.
    release (str)
        The release's id.

    Returns the later records, oldest first; all of them for a release that never went live.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 release_history.since acme-kitchens 20261123T221500-1a2b3c4d
    """
    past = read(slug)
    last = max(
        (at for at, each in enumerate(past) if each["release"] == release and each["outcome"] == "live"), default=-1
    )
    return past[last + 1 :]


def dump_before(slug, release):
    """
    The dump that leads back to a release: from before the first migration since it was live.

    slug (str)
        The site.
    release (str)
        The release's id.

    Returns a pair: whether the database has moved, and the dump's path or ``None``.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 release_history.dump_before acme-kitchens 20261123T221500-1a2b3c4d
    """
    moves = [each for each in since(slug, release) if each.get("migrations")]
    return bool(moves), moves[0].get("dump") if moves else None
