"""The one atomic write and link of the engine, in folders that only root writes to."""

import contextlib
import json
import os

from . import process
from .errors import Failed
from .text import size

RM = "/usr/bin/rm"
# What is left free whatever happens: Postgres and Redis stop writing on a full disk.
SPARE = 200 << 20


def replace(path, text, mode=0o600, owner=None):
    """Replace a file in one step that survives a power cut; owner: the numbers of its user and group."""
    temporary = f"{path}.new"
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w", encoding="utf-8") as stream:
        # Whatever the umask is.
        os.fchmod(stream.fileno(), mode)
        if owner:
            os.fchown(stream.fileno(), *owner)
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.rename(temporary, path)
    settle(os.path.dirname(path))


def link(target, path):
    """Point a symbolic link elsewhere in one step that survives a power cut."""
    temporary = f"{path}.new"
    remove(temporary)
    os.symlink(target, temporary)
    os.rename(temporary, path)
    settle(os.path.dirname(path))


def settle(folder):
    """Names in a folder are on the disk."""
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def append(path, line, mode=0o644):
    """Add a line that survives a power cut, also behind half a line that one left."""
    with open(path, "a+b") as stream:
        os.fchmod(stream.fileno(), mode)
        if stream.tell():
            stream.seek(-1, os.SEEK_END)
            if stream.read(1) != b"\n":
                stream.write(b"\n")
        stream.write(line.encode() + b"\n")
        stream.flush()
        os.fsync(stream.fileno())


def write_json(path, data, mode=0o600):
    """Replace a JSON file in one step that survives a power cut."""
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    replace(path, json.dumps(data, indent=1), mode)


def read_json(path):
    """A JSON file, an empty dictionary where there is none, or none that can be read."""
    with contextlib.suppress(OSError, ValueError), open(path, encoding="utf-8") as stream:
        found = json.load(stream)
        return found if isinstance(found, dict) else {}
    return {}


def read(path):
    """A file's text, or None where there is none."""
    with contextlib.suppress(FileNotFoundError), open(path, encoding="utf-8") as stream:
        return stream.read()
    return None


def remove(path):
    """Remove a file or a link; nothing happens where there is none."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def remove_tree(path):
    """
    Remove a folder with all that is in it, as far as that is possible. rm goes by directory descriptors, follows no
    link, and has no depth at which it ends.
    """
    if os.path.lexists(path):
        process.run([RM, "-rf", "--one-file-system", "--", path], timeout=1800)


def fresh(path):
    """An empty folder of mode 0700."""
    remove_tree(path)
    os.makedirs(path, mode=0o700)
    return path


def target(path):
    """What a link points to, or None where there is none."""
    with contextlib.suppress(OSError):
        return os.readlink(path)
    return None


def linked(path):
    """The last part of what a link points to, or None where there is none."""
    found = target(path)
    return found and os.path.basename(found)


def spare(path):
    """The bytes that may be written below a path: what is left, without what stays free whatever happens."""
    disk = os.statvfs(path)
    return max(0, disk.f_bavail * disk.f_frsize - SPARE)


def rooms(needs, what, host):
    """
    Refuse to begin what would fill a disk.

    needs: (path, bytes) each; those on one filesystem add up. what: who needs it, for the sentence.
    """
    together = {}
    for path, needed in needs:
        while not os.path.isdir(path):
            path = os.path.dirname(path.rstrip("/")) or "/"
        device = os.stat(path).st_dev
        first, before = together.get(device, (path, 0))
        together[device] = (first, before + needed)
    for path, needed in together.values():
        disk = os.statvfs(path)
        free = disk.f_bavail * disk.f_frsize
        if free < needed + SPARE:
            raise Failed(
                f"{path} on {host} has {size(free)} left, {what} needs {size(needed + SPARE)}. Try: df -h {path}"
            )
