"""One host of the lab, as code uses it."""

import contextlib
import fcntl
import os
import pathlib
import re
import shlex
import signal
import socket
import subprocess
import sys
import time

from . import keys, network, supervisor
from .common import (
    HOSTS,
    KEY,
    KNOWN_HOSTS,
    LabError,
    alive,
    is_locked,
    read_json,
    run,
    state_lock,
    wait_for,
)

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")
READY_SECONDS = 60
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "USER": "root",
    "LOGNAME": "root",
    "SHELL": "/bin/bash",
    "LANG": "C.UTF-8",
}
# Run by this machine's Python in another host's network namespace.
TRY_PORT = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), float(sys.argv[3])).close()
except OSError:
    sys.exit(1)
"""


class CommandFailed(LabError):
    """A command in a host failed. Has returncode, stdout and stderr."""

    def __init__(self, host, command, done):
        self.returncode, self.stdout, self.stderr = done.returncode, done.stdout, done.stderr
        said = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-12:]
        super().__init__("\n  ".join([f"{host}: `{_shown(command)}` failed ({done.returncode}):", *said]))


class Host:
    """One host. As a context manager it goes down at the end."""

    def __init__(self, name):
        self.name = name
        self._folder = HOSTS / name

    def __repr__(self):
        return f"Host({self.name!r})"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.down()

    @property
    def _record(self):
        record = read_json(self._folder / "host.json")
        if not record:
            raise LabError(f"Host {self.name} does not exist. Try: python -m lab list")
        return record

    @property
    def release(self):
        """The code name of its Debian release (str)."""
        return self._record["release"]

    @property
    def address(self):
        """Its IPv4 address (str)."""
        return self._record["address"]

    @property
    def address6(self):
        """Its IPv6 address (str)."""
        return self._record["address6"]

    @property
    def ssh_key(self):
        """The private key that root and admin let in (pathlib.Path)."""
        return KEY

    @property
    def known_hosts(self):
        """The file with all hosts' keys (pathlib.Path)."""
        return KNOWN_HOSTS

    @property
    def running(self):
        """Whether it is booted (bool)."""
        return alive(read_json(self._folder / "run.json").get("leader"))

    @property
    def pid(self):
        """Its PID 1, as the machine numbers it (int). Raises LabError when it is off."""
        leader = read_json(self._folder / "run.json").get("leader")
        if not alive(leader):
            self._record  # noqa: B018 an unknown host is told as such
            raise LabError(f"Host {self.name} is off. Try: python -m lab start {self.name}")
        return leader["pid"]

    @property
    def root(self):
        """Its root directory, as the machine sees it while it runs (pathlib.Path)."""
        return pathlib.Path(f"/proc/{self.pid}/root")

    def info(self):
        """All that a caller needs to reach it (dict)."""
        running = self.running
        held = is_locked(self._folder / "supervisor.lock")
        return {
            "name": self.name,
            "release": self.release,
            "state": "running" if running else "booting" if held else "off",
            "address": self.address,
            "address6": self.address6,
            "ssh_port": 22,
            "ssh_user": "root",
            "ssh_key": str(self.ssh_key),
            "known_hosts": str(self.known_hosts),
            "pid": self.pid if running else None,
            "root": str(self.root) if running else None,
        }

    def ssh_command(self, user="root"):
        """The ssh command that reaches it, without a remote command.

        user
            root or admin (str)

        Returns a list of words.
        """
        return ssh_words(f"{user}@{self.address}", 22)

    def enter_command(self, command):
        """The machine's command that runs a command in it as root, also when sshd or its network is down.

        command
            words (list), or a line for its shell (str)

        Returns a list of words.
        """
        words = ["/bin/sh", "-c", command] if isinstance(command, str) else [str(word) for word in command]
        variables = [f"{key}={value}" for key, value in ENVIRONMENT.items()]
        words = ["/usr/bin/env", "--chdir=/root", "-i", *variables, *words]
        spaces = ("--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wd")
        return ["nsenter", "--target", str(self.pid), *spaces, "--", *words]

    def exec(self, command, check=True, input=None, timeout=300.0):
        """Run a command in it as root.

        command
            words (list), or a line for its shell (str)
        check
            raise when it fails (bool)
        input
            text for its standard input (str or None)
        timeout
            seconds until it is killed (float or None)

        Returns a CompletedProcess (text). Raises CommandFailed, or LabError at the timeout.
        """
        words = self.enter_command(command)
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL if input is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        try:
            out, err = process.communicate(input, timeout)
        except BaseException as error:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            if isinstance(error, subprocess.TimeoutExpired):
                raise LabError(f"{self.name}: `{_shown(command)}` took longer than {timeout:g} s.") from None
            raise
        done = subprocess.CompletedProcess(command, process.returncode, out, err)
        if check and done.returncode:
            raise CommandFailed(self.name, command, done)
        return done

    def write(self, path, content, mode=0o644):
        """Write a file in it, owned by root, in one step; missing directories are made.

        path
            absolute path in the host (str)
        content
            its text (str)
        mode
            its permissions (int)
        """
        line = (
            'set -e; umask 077; t="$1.lab-write"; mkdir -p -m 0755 "$(dirname "$1")"; '
            'cat > "$t"; chmod "$2" "$t"; mv -T "$t" "$1"'
        )
        self.exec(["/bin/sh", "-c", line, "sh", path, f"{mode:o}"], input=content)

    def port_open(self, port, from_host=None, timeout=2.0, ipv6=False):
        """Whether a TCP connection to it is let in, tried for real from outside.

        port
            TCP port (int)
        from_host
            the host to try from (Host); without, this machine
        timeout
            seconds until it counts as closed (float)
        ipv6
            try its IPv6 address (bool)
        """
        target = self.address6 if ipv6 else self.address
        if from_host is None:
            return _connects(target, port, timeout)
        command = ["nsenter", "--target", from_host.pid, "--net", "--", sys.executable, "-I", "-c", TRY_PORT]
        return run(*command, target, port, timeout, check=False).returncode == 0

    def start(self):
        """Boot it from its disk and wait for ssh. Raises LabError when it runs already or does not come up."""
        record = self._record
        lock = self._folder / "supervisor.lock"
        # One that has just powered itself off is not done yet.
        wait_for(lambda: self.running or not is_locked(lock), 10)
        if is_locked(lock):
            raise LabError(f"Host {self.name} is running. Try: python -m lab info {self.name}")
        if record.get("seeded") and not (self._folder / "disk/upper").is_dir():
            raise LabError(f"The disk of {self.name} went with the machine. Try: python -m lab down {self.name}")
        with state_lock():
            network.ensure()
        supervisor.end(self.name)
        supervisor.launch(self.name)
        self._wait_ready()

    def reboot(self, timeout=120.0):
        """Reboot it with systemctl and wait until ssh answers again.

        timeout
            seconds for the whole way down (float)

        Raises LabError when it does not come back.
        """
        before = read_json(self._folder / "run.json").get("boots")
        self.exec(["systemctl", "reboot"], check=False, timeout=timeout)

        def again():
            state = read_json(self._folder / "run.json")
            return state.get("boots", 0) > before or not alive(state.get("supervisor"))

        if not wait_for(again, timeout):
            raise LabError(
                f"Host {self.name} did not go down in {timeout:g} s. Try: python -m lab poweroff {self.name}"
            )
        self._wait_ready()

    def shutdown(self, timeout=120.0):
        """Power it off with systemctl and wait until it is off: what it ran has written all it had. Its disk stays.

        timeout
            seconds for the whole way down (float)

        Raises LabError when it does not go.
        """
        self.exec(["systemctl", "poweroff"], check=False, timeout=timeout)
        if not wait_for(lambda: not is_locked(self._folder / "supervisor.lock"), timeout):
            raise LabError(
                f"Host {self.name} did not go down in {timeout:g} s. Try: python -m lab poweroff {self.name}"
            )

    def poweroff(self):
        """Pull the plug: all its processes are killed at once, without warning. Its disk stays."""
        self._record  # noqa: B018 an unknown host is told as such
        supervisor.end(self.name)

    def down(self):
        """Remove it with all that it left; with the last host the bridge goes too."""
        supervisor.end(self.name)
        with state_lock():
            self._remove()

    @contextlib.contextmanager
    def _off(self):
        """Keep it off meanwhile; several may."""
        with open(self._folder / "supervisor.lock", "a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                raise LabError(f"Host {self.name} is running. Try: python -m lab poweroff {self.name}") from None
            yield

    def _wait_ready(self):
        end = time.monotonic() + READY_SECONDS
        while time.monotonic() < end:
            state = read_json(self._folder / "run.json")
            if not alive(state.get("supervisor")):
                raise LabError(f"Host {self.name} does not boot: {supervisor.last_words(self.name)}")
            if alive(state.get("leader")) and _ssh_answers(self.address):
                nologin = pathlib.Path(f"/proc/{state['leader']['pid']}/root/run/nologin")
                if not nologin.exists():
                    return
            time.sleep(0.02)
        said = supervisor.last_words(self.name)
        raise LabError(f"ssh on {self.name} did not answer in {READY_SECONDS} s: {said}")

    def _remove(self):
        """Under the state lock."""
        disk = self._folder / "disk"
        if disk.is_mount():
            run("umount", "--lazy", disk)
        keys.forget(self.name)
        run("rm", "-rf", "--one-file-system", self._folder)
        if not any(HOSTS.glob("*")):
            network.remove()


def ssh_words(destination, port, *more):
    """The ssh command by which the lab reaches a host: with its own key, and known hosts alone.

    destination
        user and address (str)
    port
        of its sshd (int)
    more
        further options (str)

    Returns a list of words.
    """
    return [
        "ssh",
        *("-i", str(KEY), "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes"),
        *("-o", f"UserKnownHostsFile={KNOWN_HOSTS}", "-o", "GlobalKnownHostsFile=/dev/null"),
        *("-o", "StrictHostKeyChecking=yes", "-F", "/dev/null", *more, "-p", str(port), destination),
    ]


def check_name(name):
    """A host's name, when it can be one.

    name
        what the caller gave (str)

    Returns it. Raises LabError otherwise.
    """
    if not NAME.fullmatch(name):
        raise LabError(f"Name {name!r} cannot be a host's: lower-case letters, digits and hyphens, at most 32.")
    return name


def _shown(command):
    return command if isinstance(command, str) else shlex.join(str(word) for word in command)


def _connects(address, port, timeout):
    try:
        socket.create_connection((address, port), timeout).close()
    except OSError:
        return False
    return True


def _ssh_answers(address):
    try:
        with socket.create_connection((address, 22), 0.3) as connection:
            connection.settimeout(2)
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False
