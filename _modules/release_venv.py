"""
A release's virtual environment, built by uv from the site's requirements and shared by every release whose
requirements are the same.
"""

import configparser
import hashlib
import os
import re
import shutil

from salt.exceptions import CommandExecutionError

_INCLUDE = re.compile(r"^\s*(?:-[rc][\s=]*|--(?:requirement|constraint)[\s=]+)(\S+)")
# What surrounds a path in a requirement: pip.pypa.io/en/stable/reference/requirements-file-format.
_AROUND = re.compile(r"^[^@/]*@\s*|\s+#.*$|\s*;.*$|\[[^\]]*\]\s*$|^\s+|\s+$")


def _is_local(line):
    """
    Whether a requirement installs the checkout itself, or something in it.
    """
    if line.lstrip().startswith("#") or _INCLUDE.match(line) or ("://" in line and "file:" not in line):
        return False
    if re.match(r"\s*(-e|--editable)\b", line):
        return True
    words = line
    while (less := _AROUND.sub("", words)) != words:
        words = less
    return bool(re.match(r"\.|/|file:", words) or re.fullmatch(r"[\w./+-]*/[\w./+-]*", words))


def _requirements(path, seen=None):
    """
    All lines of a requirements file and the files that it names, in order.
    """
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


def find(source, directory, requirements):
    """
    Where a site's requirements file lies: beside manage.py, or else at the top of the repository.

    source (str)
        The checkout.
    directory (str)
        The pillar's ``directory``, relative to the checkout.
    requirements (str)
        The pillar's ``requirements``.

    Returns a pair: the folder against which paths in the file are resolved, and the file. Raises
    ``CommandExecutionError`` where there is none, or where a link leads out of the checkout.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 release_venv.find /srv/sum/acme/current/src . requirements.txt
    """
    for base in (os.path.join(source, directory), source):
        path = os.path.normpath(os.path.join(base, requirements))
        if os.path.isfile(path):
            if not os.path.realpath(path).startswith(os.path.realpath(source) + os.sep):
                raise CommandExecutionError(f"{requirements} is a link that leads out of the repository")
            return os.path.normpath(base), path
    raise CommandExecutionError(
        f"The repository has no {requirements}. Try: name the file under `requirements:` in the site's pillar"
    )


def key(path, python, release):
    """
    The name under which an environment is kept: equal requirements, equal name.

    path (str)
        The requirements file.
    python (str)
        The interpreter's version.
    release (str)
        The release's id; part of the name only where the requirements install the checkout itself.

    Returns 16 hexadecimal digits.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 release_venv.key /srv/sum/acme/current/src/requirements.txt 3.11.2 x
    """
    lines = _requirements(path)
    parts = [python, os.path.basename(path), *lines]
    # A pyproject.toml may name folders in more ways than are worth knowing.
    if path.endswith(".toml") or any(map(_is_local, lines)):
        parts.append(release)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _pip_settings():
    """
    The host's pip configuration, which uv does not read: a company's index and trust store stand there.
    """
    pip = configparser.ConfigParser(interpolation=None)
    pip.read(["/etc/pip.conf"])
    settings = pip["global"] if pip.has_section("global") else {}
    env = {}
    for option, name in (("index-url", "UV_DEFAULT_INDEX"), ("extra-index-url", "UV_INDEX"),
                         ("cert", "SSL_CERT_FILE")):  # fmt: skip
        if settings.get(option):
            env[name] = " ".join(settings[option].split())
    return env


def build(slug, source, directory, requirements, release, uv, log=None):
    """
    The virtual environment for a checkout: an existing one of the same requirements, or a new one.

    slug (str)
        The site.
    source (str)
        The checkout.
    directory (str)
        The pillar's ``directory``.
    requirements (str)
        The pillar's ``requirements``.
    release (str)
        The release's id.
    uv (str)
        The uv program.
    log (str)
        File to which uv's output is appended.

    Returns ``{"path": str, "reused": bool}``. Raises ``CommandExecutionError`` with one sentence when
    something cannot be installed; a half-built environment is never used again.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 state.apply release
    """
    base, path = find(source, directory, requirements)
    version = __salt__["cmd.run"](["/usr/bin/python3", "-V"], python_shell=False)
    venv = f"/srv/sum/{slug}/venvs/{key(path, version, release)}"
    complete = f"{venv}/.complete"
    if os.path.exists(complete):
        return {"path": venv, "reused": True}
    shutil.rmtree(venv, ignore_errors=True)
    env = {
        "UV_CACHE_DIR": f"/srv/sum/{slug}/cache/uv",
        "UV_NO_PROGRESS": "1",
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_SYSTEM_CERTS": "1",
        "SSL_CERT_FILE": "/etc/ssl/certs/ca-certificates.crt",
        "VIRTUAL_ENV": venv,
        **_pip_settings(),
    }
    for argv in (
        [uv, "venv", "--quiet", "--python", "/usr/bin/python3", venv],
        [uv, "pip", "install", "--quiet", "-r", path],
        ["touch", complete],
    ):
        if argv[0] == "touch":
            # A power cut must not leave the mark and not what it stands for.
            os.sync()
        done = __salt__["site_process.run"](slug, argv, base, env=env, timeout=1200, log=log)
        if done["retcode"]:
            reason = re.sub(r"\s+", " ", re.sub(r"[^\x00-\x7f]", " ", done["output"])).strip()
            raise CommandExecutionError(
                f"The requirements in {requirements} cannot be installed: {reason[:300].rstrip('.')}. "
                f"Try: the same file in an empty virtual environment on {__grains__['id']}"
            )
    return {"path": venv, "reused": False}
