"""What every part needs: the configuration, locks, records, and programs run as the right user."""

import contextlib
import datetime
import fcntl
import json
import os
import pwd
import re
import shutil
import signal
import subprocess
import time

CONFIG = "/etc/goldenpath/backup.json"
SITES = "/etc/goldenpath/sites"
RECORDS = "/var/lib/goldenpath/backup"
LOCK = "/run/goldenpath-backup.lock"
# What is left free whatever happens: Postgres and Redis stop writing on a full disk.
SPARE = 200 << 20


class Failed(Exception):
    """One sentence for the operator."""


class Busy(Failed):
    """Somebody else is at it."""


def now():
    """The time, UTC, as records write it."""
    return f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%dT%H:%M:%SZ}"


def age(when):
    """Seconds since a time that ``now`` wrote, or restic did."""
    text = re.sub(r"\.\d+", "", when.replace("Z", "+00:00"))
    return time.time() - datetime.datetime.fromisoformat(text).timestamp()


def told(seconds):
    """Seconds, for people."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{int(seconds // length)} {unit}"
    return f"{int(seconds)} seconds"


def size(number):
    """Bytes, for people."""
    return f"{number / (1 << 20):.1f} MiB" if number >= 100 << 10 else f"{number} bytes"


def config():
    """The host's configuration: it holds secrets, and is root's alone."""
    try:
        with open(CONFIG, encoding="utf-8") as stream:
            return json.load(stream)
    except (OSError, ValueError) as exc:
        raise Failed(f"{CONFIG} cannot be read: {exc}. Try: salt-ssh HOST state.apply backup") from None


def facts(slug):
    """What provisioning wrote down about a site."""
    with open(f"{SITES}/{slug}.json", encoding="utf-8") as stream:
        return json.load(stream)


def sites(wanted=None):
    """The slugs to work on: the one that is asked for, or all of the host."""
    known = [slug for slug in config()["sites"] if os.path.exists(f"{SITES}/{slug}.json")]
    if wanted is None:
        return known
    if wanted not in known:
        raise Failed(
            f"{host()} has no site {wanted!r:.80}. Known: {', '.join(known) or 'none'}. "
            "Try: one of them, or none for all"
        )
    return [wanted]


def host():
    """The host's id in the roster."""
    return config()["host"]


def root(slug):
    """A site's folder."""
    return f"/srv/sum/{slug}"


def fresh(path):
    """An empty folder of mode 0700."""
    shutil.rmtree(path, ignore_errors=True)
    os.makedirs(path, mode=0o700)
    return path


def journal(slug):
    """Where a restore, or a rollback with its database, writes down how far it is."""
    return f"{RECORDS}/{slug}.restore"


def owner(slug):
    """The numbers of a site's user and group, which differ from host to host."""
    found = pwd.getpwnam(f"sum-{slug}")
    return found.pw_uid, found.pw_gid


def live(slug):
    """The live release's id, or None."""
    with contextlib.suppress(OSError):
        return os.path.basename(os.readlink(f"{root(slug)}/current"))


def write(path, data, mode=0o600):
    """Replace a JSON file in one step that survives a power cut."""
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    replace(path, json.dumps(data, indent=1), mode)


def replace(path, text, mode=0o600, belongs=None):
    """Replace a file in one step that survives a power cut; belongs: the numbers of its user and group."""
    temporary = f"{path}.new"
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w", encoding="utf-8") as stream:
        os.fchmod(stream.fileno(), mode)
        if belongs:
            os.fchown(stream.fileno(), *belongs)
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.rename(temporary, path)
    settled(os.path.dirname(path))


def link(target, path):
    """Point a symbolic link elsewhere in one step that survives a power cut."""
    temporary = f"{path}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    os.symlink(target, temporary)
    os.rename(temporary, path)
    settled(os.path.dirname(path))


def settled(folder):
    """Names in a folder are on the disk."""
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def read(path):
    """A JSON file, an empty dictionary where there is none."""
    with contextlib.suppress(OSError, ValueError), open(path, encoding="utf-8") as stream:
        return json.load(stream)
    return {}


def record(slug, **changes):
    """Change a site's record: the last backup, the last good one, the last drill. No secrets: all may read it."""
    path = f"{RECORDS}/{slug}.json"
    write(path, {**read(path), **changes}, mode=0o644)


def recorded(slug):
    """A site's record."""
    return read(f"{RECORDS}/{slug}.json")


@contextlib.contextmanager
def _locked(path, wait, tell, refuse):
    with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+", encoding="utf-8") as stream:
        end = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() < end:
                    time.sleep(0.5)
                    continue
                stream.seek(0)
                held = {}
                with contextlib.suppress(ValueError):
                    held = json.loads(stream.read())
                raise Busy(
                    refuse.format(
                        who=held.get("who", "somebody"),
                        since=held.get("since", "a moment"),
                        step=held.get("step", "start"),
                        pid=held.get("pid", "PID"),
                    )
                ) from None
        stream.seek(0)
        stream.truncate()
        json.dump({"who": tell, "since": now(), "step": tell, "pid": os.getpid()}, stream)
        stream.flush()
        yield


def only_one(what, wait):
    """Backup, drill, check and restore of a host: one at a time. The lock dies with its process."""
    return _locked(
        LOCK,
        wait,
        what,
        f"{host()} is busy with a {{who}} since {{since}} (process {{pid}}). Try: again when it is done",
    )


def undisturbed(slug, what, wait):
    """Not during a release: the lock is the deploy's own."""
    return _locked(
        f"{root(slug)}/deploy.lock", wait, what,
        f"{slug} on {host()} is held by {{who}} since {{since}}, at step {{step}}. "
        "Try: again when it is done, or end it with: kill {pid}",
    )  # fmt: skip


def command(argv, user):
    """argv as another user; it dies with this process."""
    words = ["setpriv", "--pdeathsig=KILL"]
    if user:
        words = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--pdeathsig=KILL"]
    return [*words, "--", *argv]


def environment(extra=None):
    """What programs see: nothing of root's own environment."""
    return {
        "PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "HOME": "/root",
        **(extra or {}),
    }


def run(argv, user=None, env=None, stdin=None, stdout=None, cwd="/", timeout=6 * 3600, text=None, most=None):
    """
    Run a program. No secret goes into argv: whoever lists processes reads it.

    stdin, stdout: paths that root opens; text: what to write to its standard input; most: the bytes that a file
    which it writes may have, more kills it.
    Returns (exit status, output); what went to a file is not in the output.
    """
    if most is not None:
        argv = ["prlimit", f"--fsize={most}", "--", *argv]
    with contextlib.ExitStack() as files:
        source = files.enter_context(open(stdin, "rb")) if stdin else subprocess.DEVNULL
        target = subprocess.PIPE
        if stdout:
            target = files.enter_context(open(os.open(stdout, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb"))
        process = subprocess.Popen(
            command(argv, user), cwd=cwd, env=environment(env), stdin=subprocess.PIPE if text else source,
            stdout=target, stderr=subprocess.PIPE if stdout else subprocess.STDOUT, text=True, errors="replace",
            start_new_session=True,
        )  # fmt: skip
        try:
            output = "".join(part or "" for part in process.communicate(input=text, timeout=timeout))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output = "".join(part or "" for part in process.communicate()) + f"\nkilled after {timeout} s"
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
        if stdout and not process.returncode:
            os.fsync(target.fileno())
    return process.returncode, output


def reason(output):
    """The line of a program's output that says why."""
    lines = [line.strip() for line in output.splitlines() if line.strip() and not line.startswith("::")]
    telling = [line for line in lines if re.search(r"error|fatal|no space|denied|refused", line, re.IGNORECASE)]
    chosen = (telling or lines or ["it said nothing"])[0] if "Traceback" not in output else lines[-1]
    return chosen.rstrip(".")[:300]


def spare(path):
    """The bytes that may be written below a path: what is left, without what stays free whatever happens."""
    disk = os.statvfs(path)
    return max(0, disk.f_bavail * disk.f_frsize - SPARE)


def rooms(needs, what):
    """Refuse to begin what would fill a disk. needs: (path, bytes) each; those on one filesystem add up."""
    together = {}
    for path, needed in needs:
        while not os.path.isdir(path):
            path = os.path.dirname(path.rstrip("/")) or "/"
        device = os.stat(path).st_dev
        together[device] = (together.get(device, (path,))[0], together.get(device, ("", 0))[1] + needed)
    for path, needed in together.values():
        room(path, needed, what)


def room(path, needed, what):
    """Refuse to begin what would fill the disk."""
    disk = os.statvfs(path)
    free = disk.f_bavail * disk.f_frsize
    if free < needed + SPARE:
        raise Failed(
            f"{path} on {host()} has {size(free)} left, {what} needs {size(needed + SPARE)}. Try: df -h {path}"
        )


def environment_file(path):
    """An environment file that ``site_env`` wrote."""
    line = re.compile(r'^([A-Za-z_][A-Za-z0-9_]*)="((?:[^"\\]|\\.)*)"$', re.MULTILINE | re.DOTALL)
    with open(path, encoding="utf-8") as stream:
        return {name: re.sub(r'\\(["\\$`])', r"\1", value) for name, value in line.findall(stream.read())}


# manage.py itself is run, because sites prepare sys.path in it; then it tells which database it really used.
_MANAGE = """
import runpy, sys
sys.argv[0] = "manage.py"
code = 0
try:
    runpy.run_path("manage.py", run_name="__main__")
except SystemExit as exc:
    code = exc.code if isinstance(exc.code, int) else int(bool(exc.code))
    if isinstance(exc.code, str):
        print(exc.code)
from django.db import connection
print("::database", connection.settings_dict["NAME"], flush=True)
sys.exit(code or 0)
"""


def manage(slug, release, database, argv, readonly=True):
    """
    Run manage.py of a release against a database that is not the live one, as the site's user.

    Returns (exit status, output). Raises Failed where the site would not let itself be pointed elsewhere.
    """
    folder_ = f"{root(slug)}/releases/{release}"
    values = {**environment_file(f"{root(slug)}/.env"), **environment_file(f"{folder_}/release.env")}
    values.update(DJANGO_DB_NAME=database, HOME=f"{root(slug)}/cache", PYTHONDONTWRITEBYTECODE="1")
    if readonly:
        # Whatever the site's code does on start: it cannot write, to whichever database.
        values["PGOPTIONS"] = "-c default_transaction_read_only=on"
    code, output = run(
        [f"{folder_}/venv/bin/python", "-c", _MANAGE, *argv], user=f"sum-{slug}", env=values,
        cwd=values["APP_DIR"], timeout=3600,
    )  # fmt: skip
    used = re.search(r"^::database (.*)$", output, re.MULTILINE)
    if used and used[1] != database:
        raise Failed(f"the settings of {slug} name the database {used[1]} themselves. Try: read DJANGO_DB_NAME in them")
    return code, output
