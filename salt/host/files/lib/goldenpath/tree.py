"""
A folder that a site can write, entered by root: each step relative to a directory descriptor, none through a link.

What a site exchanges for something else in mid-walk is then not there, or is what it is; it leads nowhere.
"""

import contextlib
import os
import resource
import stat

from .errors import Failed

# Of a path below the folder: what restic, rm and people can still name (PATH_MAX is 4096, limits.h).
LONGEST = 3500
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def walk(folder):
    """
    Everything below a folder, each folder before what is in it: ``(path below it, descriptor of its folder, name,
    os.stat_result)``. What is gone by the time it is looked at is left out; the descriptor is closed when the walk goes
    on. Raises Failed for what lies too deep, and OSError.
    """
    _many_descriptors()
    # The folder itself stands where only root writes, and may be a link of root's.
    levels = [_level("", os.open(folder, _DIRECTORY & ~os.O_NOFOLLOW))]
    try:
        while levels:
            base, descriptor, names = levels[-1]
            name = next(names, None)
            if name is None:
                os.close(levels.pop()[1])
                continue
            path = f"{base}{name}"
            if len(os.fsencode(path)) > LONGEST:
                raise Failed(f"{folder} holds folders that lie too deep, as {path[:60]!r}…. Try: remove them")
            with contextlib.suppress(FileNotFoundError):
                found = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                yield path, descriptor, name, found
                if stat.S_ISDIR(found.st_mode):
                    with contextlib.suppress(NotADirectoryError):
                        levels.append(_level(f"{path}/", os.open(name, _DIRECTORY, dir_fd=descriptor)))
    finally:
        for _, descriptor, _ in levels:
            os.close(descriptor)


def _level(base, descriptor):
    return base, descriptor, iter(sorted(os.listdir(descriptor)))


def open_file(name, descriptor):
    """A regular file for reading, or None for what is something else by now."""
    try:
        opened = os.open(name, _FILE, dir_fd=descriptor)
    except OSError:
        return None
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        os.close(opened)
        return None
    return open(opened, "rb")


def _many_descriptors():
    """Each level takes one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = LONGEST if hard == resource.RLIM_INFINITY else min(hard, LONGEST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
