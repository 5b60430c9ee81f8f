"""
A release's virtual environment, built by uv from the site's requirements and shared by every release whose
requirements are the same.
"""

import configparser
import glob
import json
import os
import re

from . import files, host, process, sandbox, text
from .errors import Failed

# The version that provisioning chose, and beside it the others.
UV = "/opt/goldenpath/uv"
PIP_CONFIG = "/etc/pip.conf"


def uv():
    """The uv program: of the version that provisioning chose, else the newest that is there. Raises Failed."""
    if os.path.exists(f"{UV}/bin/uv"):
        return f"{UV}/bin/uv"
    # A host of before a version was chosen: the one that came last.
    found = sorted(glob.glob(f"{UV}-*/bin/uv"), key=os.path.getmtime)
    if not found:
        raise Failed(f"uv is missing on {host.name()}. Try: {host.command('state.apply')}")
    return found[-1]


def build(site, source, release, log=None):
    """
    The virtual environment for a checkout: an existing one of the same requirements, or a new one.

    log: a file to which uv's output is appended. Returns its path, and whether it was there. Raises Failed when
    something cannot be installed; a half-built environment is never used again.
    """
    requirements = site.facts["requirements"]
    base, path, name = _look(site, source, release, log)
    venv = site.path("venvs", name)
    complete = f"{venv}/.complete"
    if os.path.exists(complete):
        return venv, True
    files.remove_tree(venv)
    program = uv()
    env = {
        "UV_CACHE_DIR": site.path("cache/uv"),
        "UV_NO_PROGRESS": "1",
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_SYSTEM_CERTS": "1",
        "SSL_CERT_FILE": "/etc/ssl/certs/ca-certificates.crt",
        "VIRTUAL_ENV": venv,
        **_pip_settings(),
    }
    commands = [
        [program, "venv", "--quiet", "--python", sandbox.PYTHON, venv],
        [program, "pip", "install", "--quiet", "-r", path],
        # A power cut must not leave the mark and not what it stands for.
        ["/usr/bin/sync", "--file-system", venv],
        ["/usr/bin/touch", complete],
    ]
    last = sandbox.run_all(site, [(argv, base, False) for argv in commands], env, timeout=1800, log=log)[-1]
    if last.code:
        raise Failed(
            f"The requirements in {requirements} cannot be installed: {_why(last.output)}", text.tail(last.output)
        )
    return venv, False


def _why(output):
    """What an installation failed of, whole, and what to type."""
    if packages := text.lacks(output):
        line = next((each for each in text.lines_of(output) if text.lacks(each)), text.lines_of(output)[-1])
        why = text.printable(line).strip(" .")[:300]
        return f"{why}. Try: packages: [{packages}] in the site's pillar, then {host.command('state.apply site')}"
    # uv draws a tree; what matters is its words.
    words = re.sub(r"\s+", " ", re.sub(r"[^\x00-\x7f]", " ", output)).strip()
    return f"{words[:300].rstrip('.')}. Try: the same file in an empty virtual environment on {host.name()}"


def _look(site, source, release, log):
    """
    Where the requirements lie, and the name of their environment. Asked in the sandbox: what root opened there could
    be a link to anything, or a pipe that nobody ends.
    """
    words = [source, site.facts["directory"], site.facts["requirements"], release]
    done = sandbox.run(site, [sandbox.PYTHON, "-I", f"{sandbox.PROGRAMS}/requirements.py", *words], timeout=60)
    try:
        told = json.loads(done.output.splitlines()[-1])
    except (ValueError, IndexError):
        raise Failed(f"The requirements cannot be read: {text.reason(done.output)}. Try: journalctl -n 20") from None
    if "error" in told:
        raise Failed(str(told["error"]))
    if log:
        process.note(log, ["requirements", *words[1:3]], f"{told['path']}: {told['key']}\n")
    if not re.fullmatch(r"[0-9a-f]{16}", told["key"]):
        raise Failed(f"{told['key']!r:.80} is no environment's name")
    return told["base"], told["path"], told["key"]


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
