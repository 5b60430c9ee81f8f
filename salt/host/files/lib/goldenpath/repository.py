"""The repository: restic, told everything through its environment and never through its arguments."""

import contextlib
import json
import os
import re
import shlex
import time

from . import files, host, process, text
from .errors import Failed

RESTIC, SSH = "/usr/bin/restic", "/usr/bin/ssh"
PASSWORD = "/etc/goldenpath/restic-password"  # noqa: S105  a path
KEY = "/etc/goldenpath/backup-ssh"
KNOWN_HOSTS = "/etc/goldenpath/backup-known-hosts"
CACHE = "/var/cache/goldenpath/restic"
# What the host knows of the repository that it has used before.
KNOWN = "/var/lib/goldenpath/backup/repository.state"
WAIT = 600
# What says whose a snapshot is: one with everything, or a dump between the nights, which nobody counts as one.
FULL, BETWEEN = "site", "between"


def _environment(config):
    return {
        "RESTIC_REPOSITORY": config["repository"],
        "RESTIC_PASSWORD_FILE": PASSWORD,
        "RESTIC_CACHE_DIR": CACHE,
        **config["env"],
    }


def shown(config):
    """The repository's address as a sentence may name it."""
    return (
        re.sub(r"//[^/@]*@", "//***@", config["repository"]) if "://" in config["repository"] else config["repository"]
    )


def is_local(config):
    """Whether the repository is a folder of this host."""
    return config["repository"].startswith("/")


def _options(config):
    """restic's own ssh would ask questions: here it has the host's key and no terminal."""
    found = re.fullmatch(r"sftp:(?://)?((?:[^@/:]+@)?[^:/]+)(?::(\d+)(?=/))?[:/].*", config["repository"])
    if not found:
        return []
    words = [SSH, "-i", KEY, "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "ConnectTimeout=20",
             "-o", f"UserKnownHostsFile={KNOWN_HOSTS}", "-o", "ServerAliveInterval=30",
             "-o", f"StrictHostKeyChecking={'yes' if config.get('known_hosts') else 'accept-new'}"]  # fmt: skip
    if found[2]:
        words += ["-p", found[2]]
    return ["--option", "sftp.command=" + shlex.join([*words, found[1], "-s", "sftp"])]


class RepositoryLocked(Failed):
    """Another restic is at it."""


class RepositoryMissing(Failed):
    """There is no repository at its address."""


# What restic says, as a regular expression; the kind of failure, and its sentence.
_MEANINGS = (
    ("wrong password|no key found", Failed,
     f"{PASSWORD} does not open {{where}}. Try: put back the password it was made with"),
    ("no space left|disk quota", Failed, "{where} has no space left. Try: df -h, or a smaller backup:keep"),
    ("already locked|unable to create lock", RepositoryLocked,
     "{where} is locked by another restic. Try: again later, or restic unlock"),
    ("unsupported repository version|unsupported version", Failed,
     "{where} was made by a newer restic than this host's. Try: a newer distribution here, or a repository of the "
     "host's own"),
    # Before the next: a place that cannot be looked at says that it finds nothing there as well.
    ("Permission denied|Access ?Denied|Forbidden|Unauthorized|InvalidAccessKeyId|SignatureDoesNotMatch"
     "|Could not resolve|no such host|Connection refused|timed out|i/o timeout|deadline exceeded|No route"
     "|network is unreachable|connection reset|Host key verification|x509|tls:|unable to start the sftp session",
     Failed,
     "{where} cannot be reached: {reason}. Try: the address, and whether the host's key is let in there"),
    ("Is there a repository at|repository does not exist|unable to open config file", RepositoryMissing,
     "{where} is missing. Try: bring it back, or point backup:repository elsewhere"),
    ("status code", Failed,
     "{where} cannot be reached: {reason}. Try: the address, and whether the host's key is let in there"),
    ("ciphertext verification|does not match|invalid data|corrupt|hash|checksum|unexpected EOF"
     "|not found in repository|is damaged", Failed,
     "{where} is damaged: {reason}. Try: another copy of it, then restic repair"),
)  # fmt: skip


def _failure(config, output):
    """restic's output as an exception with one sentence."""
    where = f"the repository {shown(config)}"
    secrets = [*config["env"].values(), *([config["repository"]] if "@" in config["repository"] else [])]
    why = text.masked(text.reason(output), secrets)
    for pattern, kind, sentence in _MEANINGS:
        if re.search(pattern, output, re.IGNORECASE):
            return kind(sentence.format(where=where, reason=why))
    return Failed(f"restic failed with {where}: {why}. Try: df -h")


def _run(config, *argv):
    # Also with --json, which else prints its progress several times a second.
    return process.run([RESTIC, "--quiet", *_options(config), *argv], env=_environment(config))


def restic(config, *argv, make=False, allow=(0,)):
    """
    Run restic. A lock that a dead restic left is removed; a living one's is waited for.

    make: whether a repository that was never used may be made. Returns its output; raises Failed.
    """
    end = time.monotonic() + WAIT
    os.makedirs(CACHE, mode=0o700, exist_ok=True)
    while True:
        done = _run(config, *argv)
        if done.code in allow:
            if files.read_json(KNOWN).get("repository") != config["repository"]:
                files.write_json(KNOWN, {"repository": config["repository"], "since": text.now()})
            return done.output
        failure = _failure(config, done.output)
        if isinstance(failure, RepositoryLocked) and time.monotonic() < end:
            _run(config, "unlock")
            time.sleep(2)
        elif (
            isinstance(failure, RepositoryMissing)
            and make
            # One that was there before and is not now took every backup with it: say so, make no new one.
            and files.read_json(KNOWN).get("repository") != config["repository"]
        ):
            _make(config)
            make = False
        else:
            raise failure


def _make(config):
    if is_local(config):
        os.makedirs(os.path.dirname(config["repository"].rstrip("/")) or "/", mode=0o700, exist_ok=True)
    done = _run(config, "init")
    if done.code:
        raise _failure(config, done.output)


def parsed(output):
    """The JSON in what restic printed; warnings may stand around it."""
    for line in reversed(output.splitlines()):
        with contextlib.suppress(ValueError):
            found = json.loads(line)
            if isinstance(found, (list, dict)):
                return found
    return []


def snapshots(config, site, everywhere=False, make=False):
    """
    A site's snapshots, newest last: this host's own, or where it has none, as after a disaster, any host's.

    everywhere: those of all hosts; make: see ``restic``.
    Each is a dictionary: ``id``, ``time``, ``host``, ``kind`` (``full``, or ``dump`` without media), ``age`` (seconds),
    ``release``, ``sha``, ``dump`` (bytes), ``files``, ``bytes`` of media.
    """
    found, which = [], [word for key in (FULL, BETWEEN) for word in ("--tag", f"{key}={site.slug}")]
    for item in parsed(restic(config, "snapshots", "--json", "--no-lock", *which, make=make)) or []:
        tags = dict(tag.split("=", 1) for tag in item.get("tags") or [] if "=" in tag)
        found.append(
            {
                "id": item["id"][:8],
                "time": re.sub(r"\.\d+", "", item["time"]),
                "age": round(text.age(item["time"])),
                "host": item["hostname"],
                "kind": "dump" if BETWEEN in tags else "full",
                "release": tags.get("release"),
                "sha": tags.get("sha"),
                "dump": int(tags.get("dump", 0)),
                "tables": int(tags.get("tables", 0)),
                "files": int(tags.get("files", 0)),
                "bytes": int(tags.get("bytes", 0)),
                "path": item["paths"][0],
            }
        )
    found.sort(key=lambda item: -item["age"])
    return [item for item in found if everywhere or item["host"] == host.name()] or found


def chosen(config, site, wanted=None, full=False):
    """
    One snapshot of a site: the newest, or the one that is named, whichever host made it. full: the newest with media.
    """
    newest = wanted in (None, "latest")
    known = snapshots(config, site, everywhere=not newest)
    known = [each for each in known if not (full and newest) or each["kind"] == "full"]
    if not known:
        raise Failed(
            f"the repository {shown(config)} has no snapshot of {site.slug}. "
            f"Try: {host.command()} goldenpath.backup {site.slug}"
        )
    if newest:
        return known[-1]
    if not re.fullmatch(r"[0-9a-f]{8,64}", str(wanted)):
        raise Failed(f"{wanted!r:.80} is no snapshot's id. Try: {host.command()} goldenpath.backups")
    for item in known:
        if item["id"] == wanted[:8]:
            return item
    last = ", ".join(item["id"] for item in known[-3:])
    raise Failed(
        f"{site.slug} has no snapshot {wanted}. The last ones: {last}. Try: {host.command()} goldenpath.backups"
    )


def full_before(config, site, dump):
    """The last snapshot with media that is no younger than a dump, of the dump's own host; the oldest one, or None."""
    known = [each for each in snapshots(config, site, everywhere=True) if each["kind"] == "full"]
    own = [each for each in known if each["host"] == dump["host"]] or known
    return ([each for each in own if each["age"] >= dump["age"]] or own[:1] or [None])[-1]


def fetch(config, snapshot, target, include=(), exclude=()):
    """Bring files of a snapshot into an empty folder. Returns where the snapshot's own folder lies in it."""
    argv = ["restore", snapshot["id"], "--target", target]
    for words, values in (("--include", include), ("--exclude", exclude)):
        for value in values:
            argv += [words, value]
    restic(config, *argv)
    path = target + snapshot["path"]
    if not os.path.isdir(path):
        raise Failed(f"the snapshot {snapshot['id']} is empty. Try: another snapshot")
    return path


def escaped(path):
    """A path as restic's patterns take it."""
    return re.sub(r"([\\*?\[\]$])", r"\\\1", path)
