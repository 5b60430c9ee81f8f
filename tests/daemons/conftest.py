"""
A master and a minion of this tree, as daemons of the current user; and a real Redis that tests start and stop.

The minion runs on the machine itself, so only SLS that change nothing there may be applied: `release` stops at
Redis or at a site that is not provisioned.
"""

import os
import pathlib
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time

import pytest
import yaml

from tests.conftest import ROOT

MINION = "web1.example.net"  # a dot: its pillar is in pillar/hosts/web1_example_net.sls
SLUG = "no-such-site"
PILLAR = {
    "redis": {},
    "sites": {
        SLUG: {
            "domains": ["acme.example"], "repo": "/nonexistent/acme.git", "ref": "v1", "project": "acme",
            "redis": {"cache": 0, "broker": 1},
        },
    },
}  # fmt: skip


@pytest.fixture(scope="session")
def folder():
    """A short path: the daemons' sockets are below it, and theirs may have 107 characters."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="gp-", dir="/tmp"))
    with pytest.MonkeyPatch.context() as patch:
        # What the daemons leave in the temporary folder goes with it.
        patch.setenv("TMPDIR", str(path))
        yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def salt_factories_config(folder):
    return {"code_dir": str(ROOT), "root_dir": folder, "inject_sitecustomize": False}


class Redis:
    """redis-server on a port of its own."""

    def __init__(self, folder):
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.process = None

    def start(self):
        self.process = subprocess.Popen(
            [
                "redis-server",
                "--port",
                str(self.port),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--dir",
                str(self.folder),
            ],
            stdout=subprocess.DEVNULL,
        )
        end = time.monotonic() + 20
        while time.monotonic() < end:
            try:
                with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                    connection.sendall(b"PING\r\n")
                    if connection.recv(16) == b"+PONG\r\n":
                        return
            except OSError:
                time.sleep(0.05)
        raise AssertionError("redis-server does not answer")

    def stop(self):
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None


@pytest.fixture(scope="session")
def redis_server(folder):
    server = Redis(folder)
    yield server
    server.stop()


class Controller:
    """The daemons, and the Salt commands of an operator who works on the master."""

    def __init__(self, master, pillar):
        self.master, self.hosts = master, pillar / "hosts"

    def pillar(self, data):
        text = data if isinstance(data, str) else yaml.safe_dump(data)
        (self.hosts / f"{MINION.replace('.', '_')}.sls").write_text(text)

    def run(self, program, *words):
        """Returns (exit status, standard output). Nothing is answered by a traceback."""
        command = [str(pathlib.Path(sys.executable).with_name(program)), "-c", self.master.config_dir, *words]
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120, check=False
        )
        # Salt logs one of its own where a pillar file is no YAML.
        assert "Traceback" not in done.stdout + done.stderr.partition("[salt.pillar ")[0], done.stderr
        return done.returncode, done.stdout

    def salt(self, *words):
        return self.run("salt", MINION, *words)

    def orchestrate(self, *words, sls="deploy"):
        return self.run("salt-run", "state.orchestrate", sls, *words)


@pytest.fixture(scope="session")
def controller(salt_factories, folder, redis_server):
    """The tree as it is, but that Redis is asked for on the port of the tests."""
    first = folder / "salt"
    (first / "_modules").mkdir(parents=True)
    source = (ROOT / "_modules/redis_gate.py").read_text()
    place = 'HOST, PORT = "127.0.0.1", 6379\n'
    owner = 'OWNER = "redis"\n'
    assert place in source and owner in source
    source = source.replace(owner, f"OWNER = {pwd.getpwuid(os.geteuid()).pw_name!r}\n")
    (first / "_modules/redis_gate.py").write_text(source.replace(place, place.replace("6379", str(redis_server.port))))
    pillar = folder / "pillar"
    (pillar / "hosts").mkdir(parents=True)
    shutil.copy(ROOT / "pillar/top.sls", pillar)
    shipped = yaml.safe_load((ROOT / "config/master").read_text())
    overrides = {
        **{key: [str(ROOT / each) for each in shipped[key]] for key in ("runner_dirs", "module_dirs", "pillar_dirs")},
        "file_roots": {"base": [str(first), str(ROOT / "salt")]},
        "pillar_roots": {"base": [str(pillar)]},
        "ext_pillar": shipped["ext_pillar"],
        "goldenpath": {"transport": "minion"},
        "worker_threads": 3,
    }
    master = salt_factories.salt_master_daemon("master", overrides=overrides)
    with master.started(start_timeout=90):
        grains = {"enable_fqdns_grains": False, "enable_gpu_grains": False}
        minion = master.salt_minion_daemon(MINION, overrides=grains)
        with minion.started(start_timeout=90):
            controller = Controller(master, pillar)
            controller.pillar(PILLAR)
            status, told = controller.salt("saltutil.sync_all")
            assert status == 0, told
            yield controller


@pytest.fixture
def pillar(controller):
    """Sets the minion's pillar for one test."""
    yield controller.pillar
    controller.pillar(PILLAR)


@pytest.fixture
def redis_up(redis_server):
    redis_server.start()
    yield redis_server
    redis_server.stop()


@pytest.fixture
def redis_down(redis_server):
    redis_server.stop()
    return redis_server
