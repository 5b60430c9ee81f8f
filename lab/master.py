"""A salt-master of this checkout on the lab's bridge, as docs/fleet.md configures one, and minions in lab hosts."""

import contextlib
import ctypes
import hashlib
import ipaddress
import json
import os
import re
import signal
import socket
import subprocess
import sysconfig
import time

import yaml

from . import LabError, network
from .common import read_json, run, wait_for
from .controller import REPOSITORY, Controller

VENV = "/opt/salt-minion"
# What a minion does not import and is large.
NOT_COPIED = ("libcloud", "pip", "setuptools", "_pytest", "pygments", "virtualenv", "ruff")
UNIT = f"""\
[Unit]
Description=The Salt minion of a lab host
After=network.target

[Service]
Type=notify
NotifyAccess=all
KillMode=process
LimitNOFILE=8192
ExecStart={VENV}/bin/salt-minion

[Install]
WantedBy=multi-user.target
"""
ENTRY = "import sys; from salt.scripts import {name} as main; sys.argv[0] = {program!r}; sys.exit(main())\n"


def documented():
    """The master's configuration as docs/fleet.md tells an operator to write it, with the checkout's own path.

    Returns a dict.
    """
    text = (REPOSITORY / "docs/fleet.md").read_text()
    block = next(block for block in re.findall(r"```yaml\n(.*?)```", text, re.S) if "transport: minion" in block)
    return yaml.safe_load(block.replace("/srv/goldenpath", str(REPOSITORY)))


class Master(Controller):
    """A master daemon, and the Salt commands of an operator who works on it. Begins with `start`.

    folder
        where its configuration, keys and logs go (pathlib.Path); a short path: its sockets are below it
    ports
        the two that its minions know (pair of int); by default Salt's own, or others that are free
    """

    def __init__(self, folder, ports=None):
        record = read_json(network.RECORD)
        if not record or not (network.HOSTS.exists() and any(network.HOSTS.glob("*/host.json"))):
            raise LabError("The lab's bridge is there with its first host. Try: python -m lab up NAME")
        self.address = str(ipaddress.ip_network(record["subnet"])[1])
        self.ports = ports or _ports(self.address)
        self.process = None
        super().__init__(folder)

    def _write_config(self, **options):
        ours = documented()
        ours.pop("pillar_roots")
        publish_port, ret_port = self.ports
        super()._write_config(
            **ours,
            interface=self.address,
            publish_port=publish_port,
            ret_port=ret_port,
            worker_threads=3,
            **options,
        )

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()

    def start(self):
        """Run the daemon as a child of this process, and wait until it listens.

        Returns itself. Raises LabError with its log's last lines when it ends instead.
        """
        log = self.folder / "state/log/master"
        with open(self.folder / "state/log/output", "w") as output:
            self.process = subprocess.Popen(
                self.command("salt-master", "--log-level=error"),
                cwd=REPOSITORY,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )

        def listens():
            return self.process.poll() is not None or all(_open(self.address, port) for port in self.ports)

        if not wait_for(listens, 90) or self.process.poll() is not None:
            self.stop()
            said = (self.folder / "state/log/output").read_text() + (log.read_text() if log.exists() else "")
            raise LabError(f"salt-master does not start: {said.strip()[-2000:] or 'it said nothing'}")
        return self

    def stop(self):
        """End the daemon, by its own process id, and whatever it started."""
        if self.process is None:
            return
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        # Its session is its own: nobody else is in it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process = None

    def salt(self, target, *words, **options):
        """salt TARGET WORDS…"""
        return self.run("salt", target, *words, **options)

    def admit(self, host, id=None):
        """Install a minion of this Salt's version in a host, and accept its key when the fingerprints are equal.

        host
            the host (lab.Host)
        id
            its id (str); the host's name by default

        Returns the seconds that the installation took (float). Raises LabError when it does not come.
        """
        id = id or host.name
        remove(host)
        began = time.monotonic()
        install(host)
        seconds = time.monotonic() - began
        publish_port, ret_port = self.ports
        config = {
            "master": self.address, "publish_port": publish_port, "master_port": ret_port, "id": id,
            "enable_fqdns_grains": False, "enable_gpu_grains": False, "acceptance_wait_time": 1,
            # As docs/fleet.md has it.
            "autoload_dynamic_modules": False,
        }  # fmt: skip
        host.write("/etc/salt/minion", yaml.safe_dump(config))
        host.write("/etc/systemd/system/salt-minion.service", UNIT)
        host.exec("systemctl daemon-reload && systemctl enable --now --quiet salt-minion")
        if not wait_for(lambda: id in self._keys()["minions_pre"], 60):
            raise LabError(
                f"The minion {id} does not come. Try: python -m lab exec {host.name} journalctl -u salt-minion"
            )
        # As docs/fleet.md compares them: Salt 3008.3's own fingerprints of the two ends are never equal.
        there = host.exec("tr -d '\\n' < /etc/salt/pki/minion/minion.pub | sha256sum").stdout.split()[0]
        pending = self.folder / "state/pki/minions_pre" / id
        here = hashlib.sha256(pending.read_bytes().replace(b"\n", b"")).hexdigest()
        if there != here:
            raise LabError(f"{id} shows the fingerprint {there}, and the master has {here}")
        done = self.run("salt-key", "--yes", "--accept", id)
        if done.returncode:
            raise LabError(f"The key of {id} is not accepted: {done.stderr.strip()}")
        # What is published before it listens is lost, and waited for in vain.
        listens = ("ss", "-Htn", "state", "established", f"src {self.address}:{publish_port} and dst {host.address}")
        wait_for(lambda: run(*listens).stdout, 30, 0.2)
        if not wait_for(lambda: self.salt(id, "test.ping", "--timeout=10").returncode == 0, 60):
            raise LabError(
                f"The minion {id} does not answer. Try: python -m lab exec {host.name} journalctl -u salt-minion"
            )
        return seconds

    def _told(self, *words):
        return json.loads(self.run(*words, "--out=json").stdout)

    def _keys(self):
        return self._told("salt-key", "--list", "all")


def install(host):
    """Salt of this controller's version into a virtual environment of a host; copied where its Python is ours.

    host
        the host (lab.Host)
    """
    host.exec(f"python3 -m venv --without-pip {VENV}")
    theirs = host.exec(
        [f"{VENV}/bin/python", "-c", "import sysconfig as s; print(s.get_path('purelib'))"]
    ).stdout.strip()
    ours = sysconfig.get_path("purelib")
    if theirs.rsplit("/", 2)[1:] == ours.rsplit("/", 2)[1:]:
        words = [f"--exclude=./{name}" for name in NOT_COPIED]
        with subprocess.Popen(["tar", "-C", ours, *words, "-c", "."], stdout=subprocess.PIPE) as packed:
            subprocess.run(
                host.enter_command(["tar", "-C", theirs, "-x", "--no-same-owner"]), stdin=packed.stdout, check=True
            )
    else:
        host.exec(f"rm -rf {VENV} && python3 -m venv {VENV}")
        host.write(f"{VENV}/constraints.txt", (REPOSITORY / "constraints.txt").read_text())
        host.exec(
            f"{VENV}/bin/pip install --quiet --disable-pip-version-check -c {VENV}/constraints.txt salt", timeout=600
        )
    for program in ("salt-call", "salt-minion"):
        entry = ENTRY.format(name=program.replace("-", "_"), program=program)
        host.write(f"{VENV}/bin/{program}", f"#!{VENV}/bin/python\n{entry}", 0o755)


def remove(host):
    """Take a host's minion away again.

    host
        the host (lab.Host)
    """
    # Asked to stop it takes its time, up to a quarter of a minute.
    host.exec(
        "systemctl kill --signal=KILL salt-minion; systemctl disable --now --quiet salt-minion; "
        "rm -rf /etc/systemd/system/salt-minion.service /etc/salt /var/cache/salt /var/log/salt /var/run/salt "
        f"{VENV}; systemctl daemon-reload",
        check=False,
    )


def _die_with_parent():
    """In the child: a test run that is killed takes its master along."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def _open(address, port):
    with contextlib.suppress(OSError):
        socket.create_connection((address, port), 1).close()
        return True
    return False


def _ports(address):
    """Salt's own pair of ports where it is free on the bridge, else two others."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(2)]
        try:
            for each, port in zip(sockets, (4505, 4506), strict=True):
                each.bind((address, port))
        except OSError:
            sockets = [stack.enter_context(socket.socket()) for _ in range(2)]
            for each in sockets:
                each.bind((address, 0))
        return tuple(each.getsockname()[1] for each in sockets)
