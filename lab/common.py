"""What every part of the lab shares: paths, the one error, commands, locks and process identities."""

import contextlib
import fcntl
import json
import os
import pathlib
import shutil
import signal
import subprocess
import time

STATE = pathlib.Path("/var/lib/goldenpath-lab")
CACHE = pathlib.Path("/var/cache/goldenpath-lab")
HOSTS = STATE / "hosts"
KEY = STATE / "id_ed25519"
KNOWN_HOSTS = STATE / "known_hosts"


class LabError(Exception):
    """An operating fault, told in one sentence that names what is wrong and what to try."""


def run(*argv, check=True, input=None, timeout=None, **options):
    """Run a command of the machine and return its CompletedProcess (text).

    argv
        the command's words (str)
    check
        raise when the command fails (bool)
    input
        text for its standard input (str or None)
    timeout
        seconds until it is given up (float or None)

    Raises LabError with the command's last line when it fails.
    """
    words = [str(word) for word in argv]
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL if input is None else None,
            input=input,
            capture_output=True,
            text=True,
            timeout=timeout,
            **options,
        )
    except FileNotFoundError:
        raise LabError(f"{words[0]} is not installed on this machine. Try: python -m lab setup") from None
    if check and done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise LabError(f"`{' '.join(words)}` failed ({done.returncode}): {said[-1] if said else 'no output'}.")
    return done


def install(needed, files, say):
    """Install what this machine lacks.

    needed
        the package of each command (dict of str)
    files
        the package of each file (dict of str)
    say
        what is told of it (function of a str)

    Returns the packages that were missing (list of str). Raises LabError when apt fails.
    """
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
    missing = [package for command, package in needed.items() if not shutil.which(command, path=path)]
    missing += [package for each, package in files.items() if not pathlib.Path(each).exists()]
    if missing:
        say(f"Installing {', '.join(missing)} ...")
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        run("apt-get", "update", "-q", env=environment)
        run("apt-get", "install", "-q", "-y", "--no-install-recommends", *missing, env=environment)
    return missing


def unwind_on_signals(children=lambda: ()):
    """Let SIGTERM and SIGHUP end this process as Ctrl-C does, through its `with` and `finally`, hosts included.

    The first one decides: a second must not cut the tidying short. What nohup ignores stays ignored.

    children
        tells the processes that are to do the same (function that returns numbers)
    """
    signals = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) is not signal.SIG_IGN]

    def unwind(*_):
        for each in signals:
            signal.signal(each, signal.SIG_IGN)
        for child in children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGTERM)
        raise KeyboardInterrupt

    for each in signals:
        signal.signal(each, unwind)


@contextlib.contextmanager
def locked(path):
    """Hold an exclusive kernel lock on a file; it dies with the process.

    path
        the lock's file, made when missing (pathlib.Path)
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def state_lock():
    """The lock over addresses, names, the bridge and known_hosts. Held for moments only."""
    return locked(STATE / "lock")


def is_locked(path):
    """Whether another process holds the lock on a file.

    path
        the lock's file (pathlib.Path)
    """
    try:
        with open(path) as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def write(path, content, mode=0o644):
    """Write a file in one step: to a temporary name, then renamed.

    path
        the file (pathlib.Path)
    content
        its text (str)
    mode
        its permissions (int)
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with open(descriptor, "w") as handle:
        os.fchmod(handle.fileno(), mode)
        handle.write(content)
    os.replace(temporary, path)


def read_json(path):
    """The data of a JSON file, or {} when it is missing or cut short.

    path
        the file (pathlib.Path)
    """
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}


def boot_id():
    """The id of the machine's running kernel: another one means that the machine was restarted."""
    return pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def start_time(pid):
    """When a process was started, in clock ticks since boot, or None when there is no such process.

    pid
        the process (int)
    """
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def identity(pid):
    """A process's identity that outlives the reuse of its number.

    pid
        the process (int)

    Returns a dict with pid, start and boot_id.
    """
    return {"pid": pid, "start": start_time(pid), "boot_id": boot_id()}


def alive(process):
    """Whether the process of an identity still runs.

    process
        what identity() returned, or None (dict)
    """
    return bool(
        process
        and process["start"] is not None
        and process["boot_id"] == boot_id()
        and start_time(process["pid"]) == process["start"]
    )


def kill(process, timeout=10.0):
    """SIGKILL the process of an identity, and no other, and wait until it is gone.

    process
        what identity() returned, or None (dict)
    timeout
        seconds to wait (float)

    Raises LabError when the process does not end.
    """
    if not process:
        return
    try:
        handle = os.pidfd_open(process["pid"])
    except ProcessLookupError:
        return
    try:
        if not alive(process):
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, signal.SIGKILL)
    finally:
        os.close(handle)
    if not wait_for(lambda: not alive(process), timeout):
        raise LabError(f"Process {process['pid']} does not end. Try: ps -o pid,stat,cmd -p {process['pid']}")


def wait_for(condition, timeout, pause=0.01):
    """Poll until a condition holds.

    condition
        a function without parameters
    timeout
        seconds until it is given up (float)
    pause
        seconds between two tries (float)

    Returns the condition's first true value, or its last one.
    """
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value or time.monotonic() > end:
            return value
        time.sleep(pause)


def filesystem(path):
    """The type of the filesystem below a path (such as ext2/ext3, overlayfs, tmpfs, cgroup2).

    path
        an existing path (str or pathlib.Path)
    """
    return run("stat", "-f", "-c", "%T", path).stdout.strip().replace("cgroup2fs", "cgroup2")
