"""
The engine that operates a host's sites: a Python package of ours, in a folder named by its digest.

``/opt/goldenpath/engine/current`` names the one that is used, and is switched by one rename; what runs keeps its own.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import threading

from salt.exceptions import CommandExecutionError

FOLDER = "/opt/goldenpath/engine"
COMMAND = "/opt/goldenpath/goldenpath"
HOST = "/etc/goldenpath/host.json"
PROGRESS = "/run/goldenpath"
# What the façades of this checkout speak; goldenpath/__init__.py has the engine's.
PROTOCOL = 1
PACKAGE = "goldenpath"
KEEP = 2
_VERSION = re.compile(r'^VERSION = "([0-9.]+)"$', re.MULTILINE)


def _shipped(source):
    """
    The package's files as they came with this checkout: {name: bytes}.
    """
    marker = source.removeprefix("salt://") + "/"
    found = {}
    for path in __salt__["cp.cache_dir"](source, exclude_pat="E@__pycache__") or []:
        if marker in path:
            with open(path, "rb") as stream:
                found[path.rpartition(marker)[2]] = stream.read()
    if "__init__.py" not in found:
        raise CommandExecutionError(f"The engine did not reach {__grains__['id']}. Try: again")
    return found


def _digest(files):
    whole = hashlib.sha256()
    for name in sorted(files):
        whole.update(f"{name}\n{len(files[name])}\n".encode() + files[name])
    return whole.hexdigest()[:16]


def _version(init):
    found = _VERSION.search(init)
    return [int(part) for part in found[1].split(".")] if found else []


def current():
    """
    The engine that this host uses.

    Returns ``{"digest": str, "version": str}``, both empty where there is none.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 engine.current
    """
    try:
        digest = os.path.basename(os.readlink(f"{FOLDER}/current"))
        with open(f"{FOLDER}/{digest}/{PACKAGE}/__init__.py", encoding="utf-8") as stream:
            return {"digest": digest, "version": ".".join(map(str, _version(stream.read())))}
    except OSError:
        return {"digest": "", "version": ""}


def difference(source):
    """
    What ``install`` would change.

    source (str)
        The package's folder, as ``salt://host/files/lib/goldenpath``.

    Returns changes, empty where there are none: also where the host has a newer engine, which an older checkout
    leaves alone. Raises ``CommandExecutionError`` when the package did not reach the host.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 state.apply host test=True
    """
    return _difference(_shipped(source))


def _difference(files):
    there, digest = current(), _digest(files)
    changes = {}
    newer = there["version"] and [int(part) for part in there["version"].split(".")] > _version(
        files["__init__.py"].decode()
    )
    if there["digest"] != digest and not newer:
        changes["engine"] = {"old": there["digest"], "new": digest}
    try:
        with open(HOST, encoding="utf-8") as stream:
            known = json.load(stream)
    except (OSError, ValueError):
        known = {}
    # A host that is reached both ways stays with the first: each façade names its own command all the same.
    if known.get("host") != __grains__["id"] or known.get("salt") not in ("salt", "salt-ssh"):
        changes[HOST] = "written"
    return changes


def _facts():
    over_ssh = __opts__.get("file_client") == "local"
    return {"host": __grains__["id"], "salt": "salt-ssh" if over_ssh else "salt"}


def install(source):
    """
    Install the engine of this checkout beside the one that is there, and switch to it in one rename.

    source (str)
        The package's folder, as ``salt://host/files/lib/goldenpath``.

    Returns what ``difference`` told. Raises ``CommandExecutionError`` with one sentence; the engine that was there is
    used then as before.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 state.apply host
    """
    files = _shipped(source)
    changes = _difference(files)
    try:
        if "engine" in changes:
            _install(files, changes["engine"]["new"])
        if HOST in changes:
            os.makedirs(os.path.dirname(HOST), mode=0o755, exist_ok=True)
            _write(HOST, json.dumps(_facts()).encode())
    except (OSError, subprocess.CalledProcessError) as exc:
        raise CommandExecutionError(
            f"The engine cannot be installed on {__grains__['id']}: {exc}. Try: df -h {os.path.dirname(FOLDER)}"
        ) from exc
    return changes


def _write(path, data):
    with open(path + ".new", "wb") as stream:
        # Whatever the umask is: site users read what runs under their own interpreter.
        os.fchmod(stream.fileno(), 0o644)
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    os.rename(path + ".new", path)


def _folder(path):
    os.makedirs(path, exist_ok=True)
    os.chmod(path, 0o755)  # noqa: S103  as above


def _install(files, digest):
    _folder(FOLDER)
    home = f"{FOLDER}/{digest}"
    # One that is there already may be in use.
    if not _whole(home, digest):
        _make(files, home)
    link = f"{FOLDER}/current"
    if os.path.lexists(link + ".new"):
        os.unlink(link + ".new")
    os.symlink(digest, link + ".new")
    before = current()["digest"]
    os.rename(link + ".new", link)
    _tidy({digest, before})


def _whole(home, digest):
    found = {}
    for folder, _, names in os.walk(f"{home}/{PACKAGE}"):
        for name in names if os.path.basename(folder) != "__pycache__" else ():
            with open(f"{folder}/{name}", "rb") as stream:
                found[os.path.relpath(stream.name, f"{home}/{PACKAGE}")] = stream.read()
    return _digest(found) == digest


def _make(files, home):
    making = f"{home}.new"
    shutil.rmtree(making, ignore_errors=True)
    _folder(making)
    for name, data in files.items():
        parts = os.path.dirname(f"{PACKAGE}/{name}").split("/")
        for at in range(len(parts)):
            _folder(f"{making}/{'/'.join(parts[: at + 1])}")
        _write(f"{making}/{PACKAGE}/{name}", data)
    subprocess.run(["/usr/bin/python3", "-I", "-m", "compileall", "-q", making], check=True, capture_output=True)
    for folder, _, _ in os.walk(making):
        os.chmod(folder, 0o755)  # noqa: S103  as above
    os.sync()
    # Half a folder of an installation that was killed is not taken for one.
    shutil.rmtree(home, ignore_errors=True)
    os.rename(making, home)


def _tidy(keep):
    others = [name for name in os.listdir(FOLDER) if name not in keep and re.fullmatch(r"[0-9a-f]{16}(\.new)?", name)]
    others.sort(key=lambda name: os.stat(f"{FOLDER}/{name}").st_mtime, reverse=True)
    for name in others[max(0, KEEP - len(keep - {""})) :]:
        shutil.rmtree(f"{FOLDER}/{name}", ignore_errors=True)


def call(*argv, request=None, follow=None):
    """
    Run a verb of the host's engine.

    argv (str)
        The verb and its arguments; no secret belongs there.
    request (dict)
        What goes to its standard input as JSON; it may hold secrets.
    follow (str)
        A site whose progress a minion tells its master while it waits.

    Returns its answer. Raises ``CommandExecutionError`` with its sentence, also where the host has no engine or one of
    another protocol.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 engine.call list
    """
    if not os.path.exists(COMMAND):
        raise CommandExecutionError(
            f"{__grains__['id']} has no engine yet: there is no {COMMAND}. "
            f"Try: {__salt__['goldenpath.command']('state.apply')}"
        )
    with tempfile.TemporaryFile("w+") as asked:
        json.dump(request, asked)
        asked.seek(0)
        with _told(follow):
            done = subprocess.run(
                [COMMAND, f"--protocol={PROTOCOL}", *argv], stdin=asked, capture_output=True, text=True,
                errors="replace", check=False,
            )  # fmt: skip
    if done.returncode:
        raise CommandExecutionError(_sentence(done.stderr.strip(), done.returncode, argv))
    return json.loads(done.stdout)


def _sentence(said, code, argv):
    # Not one of the site's own, which the tail of a log may hold.
    if said.startswith("Traceback"):
        return f"{COMMAND} {argv[0]} broke: {said.splitlines()[-1]}. Try: goldenpath {' '.join(argv)} on the host"
    if said.startswith("usage:"):
        return (
            f"The engine of {__grains__['id']} is of another version than this checkout. "
            f"Try: {__salt__['goldenpath.command']('state.apply', 'host')}"
        )
    # The engine names the command by which it was provisioned, and not that of who asks now.
    ours = __salt__["goldenpath.command"]()
    said = re.sub(rf"(?<!\w)salt(-ssh)? {re.escape(__grains__['id'])}(?![\w.-])", lambda _: ours, said)
    return said or f"{COMMAND} ended with {code}"


@contextlib.contextmanager
def _told(slug):
    """
    On a minion the steps of a site are told as events; over ssh the controller reads their file itself.
    """
    if not slug or __opts__.get("file_client") == "local":
        yield
        return
    done = threading.Event()
    thread = threading.Thread(target=_tell, args=(slug, done, __salt__["event.send"]), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _tell(slug, done, send):
    path, seen, last = f"{PROGRESS}/{slug}.progress", 0, False
    # What is there is another command's: the file is emptied by the one that begins.
    with contextlib.suppress(OSError), open(path, encoding="utf-8") as stream:
        seen = len(stream.read().splitlines())
    while not last:
        # Once more when it is done: what came last is told as well.
        last = done.wait(0.2)
        with contextlib.suppress(OSError), open(path, encoding="utf-8") as stream:
            lines = stream.read().splitlines()
            if len(lines) < seen:
                seen = 0
            for line in lines[seen:]:
                with contextlib.suppress(ValueError):
                    send(f"goldenpath/progress/{slug}", json.loads(line))
            seen = len(lines)
