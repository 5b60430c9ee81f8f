"""
A release's virtual environment, built by uv from what the site says it needs, and shared by every release whose needs
are the same.
"""

import configparser
import glob
import json
import os
import re
import shutil
import sys
import time

from . import files, host, process, sandbox, text
from .errors import Failed

# The version that provisioning chose, and beside it the others.
UV = "/opt/goldenpath/uv"
PIP_CONFIG = "/etc/pip.conf"
# Those that the distribution has not.
PYTHONS = "/opt/goldenpath/python"
NEW_SECONDS = 3600
# What a site need not bring itself, as it is where the site has none.
BROUGHT = {
    "gunicorn": "27.0.1",
    "redis": "6.4.0",
    "uvicorn": "0.54.0",
    "uvicorn_worker": "0.4.0",
    "websockets": "15.0.1",
}
# Who reads these locks, when no one else does: each by its own authors, in an environment of its own.
_EXPORTERS = {
    "poetry": ["--from", "poetry==2.5.1", "--with", "poetry-plugin-export==1.10.1"],
    "pipenv": ["--from", "pipenv==2026.10.3"],
}


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
    found = _look(site, source, release, log)
    if "wants" in found:
        _bring_python(site, str(found["wants"]), log)
        found = _look(site, source, release, log)
    if not re.fullmatch(r"[0-9a-f]{16}", str(found.get("key"))):
        raise Failed(f"{found.get('key')!r:.80} is no environment's name")
    venv = site.path("venvs", found["key"])
    complete = f"{venv}/.complete"
    program, reused = uv(), os.path.exists(complete)
    env = {
        # `${TOKEN}` in a requirements file, and addresses of private indexes, are variables of the site's.
        **site.environment(),
        "UV_CACHE_DIR": site.path("cache/uv"),
        "UV_TOOL_DIR": site.path("cache/tools"),
        "UV_NO_PROGRESS": "1",
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_SYSTEM_CERTS": "1",
        "SSL_CERT_FILE": "/etc/ssl/certs/ca-certificates.crt",
        "VIRTUAL_ENV": venv,
        **_pip_settings(),
    }

    def install(*commands):
        done = sandbox.run_all(site, [(argv, found["base"], False) for argv in commands], env, timeout=1800, log=log)
        if done[-1].code:
            raise Failed(
                f"The requirements in {os.path.relpath(found['path'], source)} cannot be installed: "
                f"{_why(done[-1].output)}",
                text.tail(done[-1].output),
            )

    if not reused:
        files.remove_tree(venv)
        make = [program, "venv", "--quiet", "--python", found["python"], venv]
        install(make, *_installation(site, found, program, venv))
    # Also into one that is there: Celery may have been switched on since.
    brought = [f"{name}=={version}" for name, version in BROUGHT.items() if _brings(site, venv, name)]
    if brought or not reused:
        install(
            *([[program, "pip", "install", "--quiet", *brought]] if brought else []),
            # A power cut must not leave the mark and not what it stands for.
            ["/usr/bin/sync", "--file-system", venv],
            ["/usr/bin/touch", complete],
        )
    return venv, reused


def _brings(site, venv, name):
    if name == "gunicorn":
        return not os.path.exists(f"{venv}/bin/gunicorn")
    # Celery speaks to its broker by it; whatever else needs it says so itself.
    wanted = site.celery["worker"] if name == "redis" else site.facts.get("asgi")
    return wanted and not glob.glob(f"{venv}/lib/python3*/site-packages/{name}/__init__.py")


def _installation(site, found, program, venv):
    """The commands that install what a checkout says it needs, in whichever form it says so."""
    asked = site.facts.get("dependencies", {})
    extras = [word for name in asked.get("extras", []) for word in ("--extra", name)]
    groups = [word for name in asked.get("groups", []) for word in ("--group", name)]
    listed, form = f"{venv}/requirements.txt", found["form"]
    exported = [sandbox.PYTHON, "-I", f"{sandbox.PROGRAMS}/exported.py", listed]
    install = [program, "pip", "install", "--quiet"]
    if form == "uv":
        # A lock names the places of its files: listed again, an index of the host's own is asked.
        export = [*exported, program, "export", "--quiet", "--frozen", "--no-dev", "--no-emit-project", "--no-header",
                  "--python", found["python"], *extras, *groups]  # fmt: skip
        commands = [export, [*install, "-r", listed]]
    elif form == "poetry":
        extras = [word for name in asked.get("extras", []) for word in ("--extras", name)]
        groups = [word for name in asked.get("groups", []) for word in ("--with", name)]
        tool = [program, "tool", "run", "--quiet", "--python", sandbox.PYTHON, *_EXPORTERS["poetry"]]
        commands = [[*exported, *tool, "poetry", "export", *extras, *groups], [*install, "-r", listed]]
    elif form == "pipenv":
        groups = ["--categories", " ".join(["packages", *asked["groups"]])] if groups else []
        tool = [program, "tool", "run", "--quiet", "--python", sandbox.PYTHON, *_EXPORTERS["pipenv"]]
        commands = [[*exported, *tool, "pipenv", "requirements", "--hash", *groups], [*install, "-r", listed]]
    elif form == "project":
        commands = [[*install, "-r", found["path"], *extras, *groups]]
    else:
        commands = [[*install, "-r", found["path"]]]
    return [*commands, [*install, *asked["add"]]] if asked.get("add") else commands


def _why(output):
    """What an installation failed of, whole, and what to type."""
    if packages := text.lacks(output):
        line = next((each for each in text.lines_of(output) if text.lacks(each)), text.lines_of(output)[-1])
        why = text.printable(line).strip(" .")[:300]
        return f"{why}. Try: packages: [{packages}] in the site's pillar, then {host.command('state.apply site')}"
    return f"{_words(output)}. Try: the same file in an empty virtual environment on {host.name()}"


def _words(output):
    """uv draws a tree; what matters is its words."""
    return text.printable(re.sub(r"\s+", " ", re.sub(r"[^\x00-\x7f]", " ", output)).strip()[:300].rstrip("."))


def _look(site, source, release, log):
    """
    Where the requirements lie, in which form, and the name of their environment. Asked in the sandbox: what root opened
    there could be a link to anything, or a pipe that nobody ends.
    """
    asked = {
        "source": source, "release": release, "directory": site.facts["directory"],
        "requirements": site.facts["requirements"], "dependencies": site.facts.get("dependencies", {}),
        "python": site.facts.get("python", "auto"), "uv": uv(),
    }  # fmt: skip
    program = f"{sandbox.PROGRAMS}/requirements.py"
    env = {"UV_PYTHON_INSTALL_DIR": PYTHONS, "UV_CACHE_DIR": site.path("cache/uv")}
    done = sandbox.run(site, [sandbox.PYTHON, "-I", program, json.dumps(asked)], env, timeout=60)
    try:
        told = json.loads(done.output.splitlines()[-1])
    except (ValueError, IndexError):
        raise Failed(f"The requirements cannot be read: {text.reason(done.output)}. Try: journalctl -n 20") from None
    if "error" in told:
        raise Failed(str(told["error"]))
    if log and "key" in told:
        process.note(
            log, ["requirements", asked["directory"], asked["requirements"]],
            f"{told['path']}: {told['key']} for {told['python']}\n",
        )  # fmt: skip
    return told


def _bring_python(site, wanted, log):
    """
    A Python that the distribution lacks: uv fetches it, checks its sum, and it is root's and all sites'. Raises Failed.

    wanted: a version, of the characters that ``requirements.py`` lets through.
    """
    if not re.fullmatch(r"[\d.,<>=!~* ]{1,100}", wanted):
        raise Failed(f"{wanted!r:.80} is no version of Python")
    os.makedirs(PYTHONS, mode=0o755, exist_ok=True)
    # A site's code runs on it: nobody but root writes there.
    os.chmod(PYTHONS, 0o755)  # noqa: S103
    argv = [uv(), "python", "install", "--quiet", "--no-bin", "--no-cache", "--install-dir", PYTHONS, wanted]
    done = process.run(argv, env={"UV_SYSTEM_CERTS": "1", "UV_NO_PROGRESS": "1"}, timeout=900)
    if log:
        process.note(log, argv, done.output)
    if done.code:
        own = ".".join(map(str, sys.version_info[:3]))
        raise Failed(
            f"The site wants Python {wanted}, {host.name()} has {own}, and uv does not bring it: "
            f"{_words(done.output)}. Try: `python-install-mirror` in /etc/uv/uv.toml on {host.name()}, or "
            "`python:` in the site's pillar"
        )


def forget_pythons(sites):
    """Remove the Pythons that uv brought and no environment uses any more. sites: all of this host."""
    used = set()
    for path in (path for site in sites for path in glob.glob(site.path("venvs/*/bin/python"))):
        used.add(os.path.realpath(path))
    for folder in glob.glob(f"{PYTHONS}/*/"):
        home = os.path.realpath(folder)
        # One that was just brought is for an environment that somebody is building.
        new = time.time() - os.stat(folder).st_mtime < NEW_SECONDS
        if (
            not new
            and not os.path.islink(folder.rstrip("/"))
            and not any(path.startswith(home + os.sep) for path in used)
        ):
            shutil.rmtree(folder, ignore_errors=True)
    for link in glob.glob(f"{PYTHONS}/*"):
        if os.path.islink(link) and not os.path.exists(link):
            os.unlink(link)


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
