"""
A host with a Redis, for tests of the modules that ask it: a real redis-server on a free port, and the modules as
Salt's loader gives them, with commands of the host answered by what a test says.
"""

import functools
import inspect
import os
import pathlib
import pwd
import re
import socket
import subprocess
import time

from tests.conftest import load_module

HEADER = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
CONF = """\
bind 127.0.0.1
protected-mode yes
requirepass ""
databases 65
maxmemory 64mb
maxmemory-policy volatile-lru
appendonly yes
appendfsync everysec
stop-writes-on-bgsave-error yes
"""
UNIT = "LoadState=loaded\nUnitFileState=enabled\n"


@functools.cache
def redis_version():
    """Of the redis-server that tests start, such as 7.0."""
    told = subprocess.run(["redis-server", "--version"], capture_output=True, text=True, check=True).stdout
    return re.search(r"v=(\d+\.\d+)", told)[1]


def listening(address, port=6379, state="0A"):
    """A line of the kernel's list of sockets."""
    return f"   0: {address}:{port:04X} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000   0 0 1\n"


def free():
    """A port on which nobody listens."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Minion:
    """
    The modules as a host loads them: ``module`` is goldenpath. What ufw and systemd say is set by each test.
    """

    def __init__(self, folder):
        self.rules, self.restarts = [], []
        self.salt = {"ufw.permits": lambda port: self.rules, "service.restart": self.restart}
        opts = {"id": "web1", "file_client": "local"}
        names = ("goldenpath", "redis_gate", "redis_server")
        self.module, self.gate, self.server = (
            load_module(f"_modules/{name}.py", salt=self.salt, opts=opts) for name in names
        )
        for name, module in zip(names, (self.module, self.gate, self.server), strict=True):
            for function, code in inspect.getmembers(module, inspect.isfunction):
                if not function.startswith("_"):
                    self.salt[f"{name}.{function}"] = code
        self.module.SITES = self.gate.SITES = str(folder / "sites")
        self.gate.CONFIG = str(folder / "goldenpath.conf")
        self.gate.CONFIG_OF = str(folder / "goldenpath-{}.conf")
        self.gate.PASSWORD = str(folder / "redis-password")
        self.gate.LOG_FILE = str(folder / "redis-server{}.log")
        self.gate.OWNER = pwd.getpwuid(os.geteuid()).pw_name
        self.gate.SOCKETS = (str(folder / "tcp"), str(folder / "tcp6"))
        self.gate.SYSTEMCTL = str(folder / "systemctl")
        for name in ("tcp", "tcp6"):
            (folder / name).write_text(HEADER)
        self.unit(UNIT)

    def __getattr__(self, name):
        return getattr(self.module if hasattr(self.module, name) else self.server, name)

    def asks(self, port):
        """The same host, with its Redis on another port."""
        self.gate.PORT = port
        return self

    def unit(self, told):
        """What systemd tells of Redis' unit."""
        program = pathlib.Path(self.gate.SYSTEMCTL)
        program.write_text(f"#!/bin/sh\ncat <<'END'\n{told}END\n")
        program.chmod(0o755)

    def restart(self, name):
        self.restarts.append(name)
        return True

    @property
    def retcode(self):
        return self.module.__context__.get("retcode", 0)


class RealRedis:
    def __init__(self, folder):
        self.folder = folder
        self.port = free()
        saves = ("3600 1 300 100 60 10000",) if redis_version() >= "7" else ("3600 1", "300 100", "60 10000")
        save = "".join(f"save {each}\n" for each in saves)
        self.config = folder / "goldenpath.conf"
        self.config.write_text(f"{CONF}{save}port {self.port}\n")
        self.data = folder / "data"
        self.data.mkdir()
        self.process = None

    def start(self):
        self.process = subprocess.Popen(
            ["redis-server", self.config, "--dir", self.data, "--logfile", self.folder / "log"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        end = time.monotonic() + 10
        while self.cli("ping") not in ("PONG", "NOAUTH Authentication required."):
            assert self.process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < end
            time.sleep(0.02)

    def stop(self):
        self.process.kill()
        self.process.wait()

    def cli(self, *words):
        command = ["redis-cli", "-p", self.port, *words]
        return subprocess.run(list(map(str, command)), capture_output=True, text=True).stdout.strip()

    def info(self, name):
        return next(line.split(":")[1] for line in self.cli("info").splitlines() if line.startswith(f"{name}:"))
