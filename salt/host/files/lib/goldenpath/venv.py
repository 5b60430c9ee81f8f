"""
A release's virtual environment, built by uv from the site's requirements and shared by every release whose
requirements are the same.
"""

import configparser
import glob
import hashlib
import os
import re

from . import files, host, process
from .errors import Failed

PYTHON = "/usr/bin/python3"
# The version that provisioning chose, and beside it the others.
UV = "/opt/goldenpath/uv"
PIP_CONFIG = "/etc/pip.conf"
_INCLUDE = re.compile(r"^\s*(?:-[rc][\s=]*|--(?:requirement|constraint)[\s=]+)(\S+)")
# What surrounds a path in a requirement: pip.pypa.io/en/stable/reference/requirements-file-format.
_AROUND = re.compile(r"^[^@/]*@\s*|\s+#.*$|\s*;.*$|\[[^\]]*\]\s*$|^\s+|\s+$")


def uv():
    """The uv program: of the version that provisioning chose, else the newest that is there. Raises Failed."""
    if os.path.exists(f"{UV}/bin/uv"):
        return f"{UV}/bin/uv"
    # A host of before a version was chosen: the one that came last.
    found = sorted(glob.glob(f"{UV}-*/bin/uv"), key=os.path.getmtime)
    if not found:
        raise Failed(f"uv is missing on {host.name()}. Try: {host.command('state.apply')}")
    return found[-1]


def find(source, directory, requirements):
    """
    Where a site's requirements file lies: beside manage.py, or else at the top of the repository.

    Returns the folder against which paths in the file are resolved, and the file. Raises Failed where there is none,
    or where a link leads out of the checkout.
    """
    for base in (os.path.join(source, directory), source):
        path = os.path.normpath(os.path.join(base, requirements))
        if os.path.isfile(path):
            if not os.path.realpath(path).startswith(os.path.realpath(source) + os.sep):
                raise Failed(f"{requirements} is a link that leads out of the repository")
            return os.path.normpath(base), path
    raise Failed(f"The repository has no {requirements}. Try: name the file under `requirements:` in the site's pillar")


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


def build(site, source, release, log=None):
    """
    The virtual environment for a checkout: an existing one of the same requirements, or a new one.

    log: a file to which uv's output is appended. Returns its path, and whether it was there. Raises Failed when
    something cannot be installed; a half-built environment is never used again.
    """
    requirements = site.facts["requirements"]
    base, path = find(source, site.facts["directory"], requirements)
    version = process.run([PYTHON, "-V"]).output.strip()
    venv = site.path("venvs", key(path, version, release))
    complete = f"{venv}/.complete"
    if os.path.exists(complete):
        return venv, True
    files.remove_tree(venv)
    program = uv()
    env = {
        "HOME": site.path("cache"),
        "UV_CACHE_DIR": site.path("cache/uv"),
        "UV_NO_PROGRESS": "1",
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_SYSTEM_CERTS": "1",
        "SSL_CERT_FILE": "/etc/ssl/certs/ca-certificates.crt",
        "VIRTUAL_ENV": venv,
        **_pip_settings(),
    }
    for argv in (
        [program, "venv", "--quiet", "--python", PYTHON, venv],
        [program, "pip", "install", "--quiet", "-r", path],
        ["/usr/bin/touch", complete],
    ):
        if argv[-1] == complete:
            # A power cut must not leave the mark and not what it stands for.
            os.sync()
        done = process.run(argv, user=site.name, cwd=base, env=env, timeout=1200, log=log)
        if done.code:
            reason = re.sub(r"\s+", " ", re.sub(r"[^\x00-\x7f]", " ", done.output)).strip()
            raise Failed(
                f"The requirements in {requirements} cannot be installed: {reason[:300].rstrip('.')}. "
                f"Try: the same file in an empty virtual environment on {host.name()}"
            )
    return venv, False


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


def _pip_settings():
    """The host's pip configuration, which uv does not read: a company's index and trust store stand there."""
    pip = configparser.ConfigParser(interpolation=None)
    pip.read([PIP_CONFIG])
    settings = pip["global"] if pip.has_section("global") else {}
    env = {}
    for option, name in (("index-url", "UV_DEFAULT_INDEX"), ("extra-index-url", "UV_INDEX"),
                         ("cert", "SSL_CERT_FILE")):  # fmt: skip
        if settings.get(option):
            env[name] = " ".join(settings[option].split())
    return env
