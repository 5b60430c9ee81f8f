# Managed by Golden Path: local changes are overwritten.
"""
Finds a site's requirements, and names the environment that they need: SOURCE DIRECTORY REQUIREMENTS RELEASE.

It runs as the site's user, in its sandbox, and imports nothing of the engine. It prints one line of JSON: ``base``,
``path`` and ``key``, or ``error``.
"""

import hashlib
import json
import os
import platform
import re
import sys

_INCLUDE = re.compile(r"^\s*(?:-[rc][\s=]*|--(?:requirement|constraint)[\s=]+)(\S+)")
# What surrounds a path in a requirement: pip.pypa.io/en/stable/reference/requirements-file-format.
_AROUND = re.compile(r"^[^@/]*@\s*|\s+#.*$|\s*;.*$|\[[^\]]*\]\s*$|^\s+|\s+$")


class Wrong(Exception):
    """The checkout has no requirements that could be installed: one sentence."""


def find(source, directory, requirements):
    """
    Where a site's requirements file lies: beside manage.py, or else at the top of the repository.

    Returns the folder against which paths in the file are resolved, and the file. Raises Wrong where there is none,
    or where a link leads out of the checkout.
    """
    for base in (os.path.join(source, directory), source):
        path = os.path.normpath(os.path.join(base, requirements))
        if os.path.isfile(path):
            if not os.path.realpath(path).startswith(os.path.realpath(source) + os.sep):
                raise Wrong(f"{requirements} is a link that leads out of the repository")
            return os.path.normpath(base), path
    raise Wrong(f"The repository has no {requirements}. Try: name the file under `requirements:` in the site's pillar")


def key(path, python, release):
    """
    The name under which an environment is kept: equal requirements, equal name.

    python: the interpreter's version. release: part of the name only where the requirements install the checkout
    itself. Returns 16 hexadecimal digits.
    """
    lines = _requirements(path)
    parts = [python, os.path.basename(path), *lines]
    # A pyproject.toml may name folders in more ways than are worth knowing.
    if path.endswith(".toml") or any(map(_is_local, lines)):
        parts.append(release)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _is_local(line):
    """Whether a requirement installs the checkout itself, or something in it."""
    if line.lstrip().startswith("#") or _INCLUDE.match(line) or ("://" in line and "file:" not in line):
        return False
    if re.match(r"\s*(-e|--editable)\b", line):
        return True
    words = line
    while (less := _AROUND.sub("", words)) != words:
        words = less
    return bool(re.match(r"\.|/|file:", words) or re.fullmatch(r"[\w./+-]*/[\w./+-]*", words))


def _requirements(path, seen=None):
    """All lines of a requirements file and the files that it names, in order."""
    seen = set() if seen is None else seen
    if os.path.realpath(path) in seen:
        return []
    seen.add(os.path.realpath(path))
    lines = []
    with open(path, encoding="utf-8", errors="replace") as stream:
        for line in stream:
            lines.append(line.rstrip("\n"))
            included = _INCLUDE.match(line)
            if included and "://" not in included[1]:
                nested = os.path.join(os.path.dirname(path), included[1])
                if os.path.isfile(nested):
                    lines += _requirements(nested, seen)
    return lines


def main(source, directory, requirements, release):
    """Print what was found."""
    try:
        base, path = find(source, directory, requirements)
        found = {"base": base, "path": path, "key": key(path, f"Python {platform.python_version()}", release)}
    except (Wrong, OSError) as exc:
        found = {"error": str(exc)}
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
