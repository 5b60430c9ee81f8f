"""
goldenpath: Redis asked over real sockets, by a real redis-server where it can be, and by servers that misbehave.
"""

import contextlib
import hashlib
import importlib.util
import json
import os
import pathlib
import shutil
import socket
import ssl
import subprocess
import threading
import time

import pytest
from salt.exceptions import CommandExecutionError

ROOT = pathlib.Path(__file__).resolve().parents[3]
HEADER = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
CONF = """\
include {folder}/redis.conf
bind 127.0.0.1
protected-mode yes
requirepass ""
databases 65
maxmemory 64mb
maxmemory-policy volatile-lru
appendonly yes
appendfsync everysec
save 3600 1 300 100 60 10000
stop-writes-on-bgsave-error yes
"""


class Minion:
    """
    The module as a host loads it, with commands of the host answered from a table.
    """

    def __init__(self, folder):
        spec = importlib.util.spec_from_file_location("goldenpath_module", ROOT / "_modules/goldenpath.py")
        self.module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.module)
        self.commands = {
            "systemctl": "LoadState=loaded\nUnitFileState=enabled\n",
            "dpkg-query": "un \n\n\n",
        }
        self.rules = []
        self.restarts = []
        module = self.module
        module.__context__ = {}
        module.__grains__ = {"id": "web1"}
        module.__opts__ = {"id": "web1", "file_client": "local"}
        module.__pillar__ = {}
        module.__salt__ = {
            "cmd.run_all": self.run,
            "ufw.permits": lambda port: self.rules,
            "service.restart": self.restart,
        }
        module.SITES = str(folder / "sites")
        module.CONFIG = str(folder / "goldenpath.conf")
        module.DISTRIBUTION_CONFIG = str(folder / "redis.conf")
        module.KEPT_CONFIG = str(folder / "kept/redis.conf.dist")
        module.SOCKETS = (str(folder / "tcp"), str(folder / "tcp6"))

    def __getattr__(self, name):
        return getattr(self.module, name)

    def run(self, command, **_):
        output = self.commands.get(os.path.basename(command[0]))
        return {"retcode": 0 if output is not None else 1, "stdout": output or "", "stderr": ""}

    def restart(self, name):
        self.restarts.append(name)
        return True

    @property
    def retcode(self):
        return self.module.__context__.get("retcode", 0)


class Server:
    """
    A server on a free TCP port or a Unix socket that gives each connection to a function, in a thread.
    """

    def __init__(self, handler, path=None, context=None):
        self.connections = 0
        self.handler = handler
        self.context = context
        self.over = threading.Event()
        self.socket = socket.socket(socket.AF_UNIX if path else socket.AF_INET)
        self.socket.bind(path or ("127.0.0.1", 0))
        self.socket.listen()
        self.port = None if path else self.socket.getsockname()[1]

    def __enter__(self):
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.socket.close()

    def _serve(self):
        while not self.over.is_set():
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._one, args=(connection,), daemon=True).start()

    def _one(self, connection):
        with contextlib.suppress(OSError), connection:
            if self.context:
                connection = self.context.wrap_socket(connection, server_side=True)
            self.handler(connection, self.over)


def says(data, stays=True):
    """A handler that reads one request, answers it, and keeps the connection open."""

    def handler(connection, over):
        connection.recv(65536)
        connection.sendall(data)
        if stays:
            over.wait(3)

    return handler


def hangs(connection, over):
    over.wait(10)


def drips(data):
    def handler(connection, over):
        for number in range(len(data)):
            connection.sendall(data[number : number + 1])
            if over.wait(0.1):
                return

    return handler


def closes(connection, over):
    connection.recv(65536)


def resets(connection, over):
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


def pours(connection, over):
    while not over.is_set():
        connection.sendall(b"+" + b"x" * 65536)


def pours_one_value(connection, over):
    connection.recv(65536)
    connection.sendall(b"$9999999999\r\n")
    pours(connection, over)


def pours_a_page(connection, over):
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    pours(connection, over)


class RealRedis:
    def __init__(self, folder):
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        (folder / "redis.conf").write_text("bind 127.0.0.1\n")
        self.config = folder / "goldenpath.conf"
        self.config.write_text(CONF.format(folder=folder) + f"port {self.port}\n")
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


@pytest.fixture
def minion(tmp_path):
    (tmp_path / "tcp").write_text(HEADER)
    (tmp_path / "tcp6").write_text(HEADER)
    return Minion(tmp_path)


@pytest.fixture
def redis(tmp_path):
    server = RealRedis(tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def verdicts(checks):
    return {check["check"]: check["ok"] for check in checks}


def message(checks, name):
    return next(check["message"] for check in checks if check["check"] == name)


# --- PONG --------------------------------------------------------------------------------------------------


def test_redis_that_answers(minion, redis):
    assert minion.redis_ping(port=redis.port) == "PONG"
    assert minion.retcode == 0


def test_nothing_listens(minion, free_port):
    assert minion.redis_ping(port=free_port) == (
        f"Redis on web1 did not answer PONG: connection refused on 127.0.0.1:{free_port}. "
        "Try: systemctl status redis-server"
    )
    assert minion.retcode == 1


@pytest.mark.parametrize(
    "handler, reason",
    [
        (says(b"-NOAUTH Authentication required.\r\n"), "it asks for a password (NOAUTH)"),
        (says(b"-MISCONF Redis is configured to save RDB snapshots, but\r\n"), "cannot save to disk (MISCONF)"),
        (says(b"-LOADING Redis is loading the dataset in memory\r\n"), "still loading its data (LOADING)"),
        (says(b"-NOPERM this user has no permissions\r\n"), "forbids commands that sites need (NOPERM)"),
        (says(b"-ERR max number of clients reached\r\n"), "it answered 'ERR max number of clients reached'"),
        (says(b"-DENIED Redis is running in protected mode\r\n"), "protected mode"),
        (says(b"+OK\r\n"), "it answered 'OK'"),
        (says(b"+PONG!\r\n"), "it answered 'PONG!'"),
        (says(b"$4\r\nPONK\r\n"), "it answered 'PONK'"),
        (says(b"*1\r\n+PONG\r\n"), "it answered"),
        (
            says(b"HTTP/1.1 400 Bad Request\r\nServer: x\r\n\r\n"),
            "something that is not Redis answers on 127.0.0.1:",
        ),
        (says(b"ERROR\r\n"), "something that is not Redis"),
        (says(b":\xff\r\n"), "something that is not Redis"),
        (says(b"$x\r\n"), "something that is not Redis"),
        (drips(b"SSH-2.0-OpenSSH_9.2p1 Debian\r\n"), "something that is not Redis"),
        (closes, "closed the connection without an answer"),
        (resets, "closed the connection without an answer"),
        (pours, "something that is not Redis"),
        (pours_one_value, "something that is not Redis"),
    ],
)
def test_wrong_answers(minion, handler, reason):
    with Server(handler) as server:
        answer = minion.redis_ping(port=server.port)
    assert answer.startswith("Redis on web1 did not answer PONG: ")
    assert reason in answer
    assert ". Try: " in answer
    assert "\n" not in answer
    assert minion.retcode == 1


@pytest.mark.parametrize("handler", [hangs, drips(b"+" * 1000), drips(b"$1000\r\n" + b"x" * 1000)])
def test_the_deadline_holds_for_the_whole_exchange(minion, handler):
    with Server(handler) as server:
        began = time.monotonic()
        answer = minion.redis_ping(port=server.port, timeout=0.5)
        took = time.monotonic() - began
    assert f"no answer from 127.0.0.1:{server.port} within 0.5 s" in answer
    assert took < 1
    assert minion.retcode == 1


def test_an_answer_in_pieces_is_still_an_answer(minion):
    with Server(drips(b"+PONG\r\n")) as server:
        assert minion.redis_ping(port=server.port) == "PONG"


@pytest.mark.parametrize(
    "arguments",
    [
        {"port": "abc"}, {"port": 0}, {"port": 65536}, {"port": True}, {"port": None}, {"port": 1.5},
        {"timeout": "soon"}, {"timeout": 0}, {"timeout": -1}, {"timeout": 61}, {"timeout": None},
        {"timeout": float("nan")},
    ],
)  # fmt: skip
def test_arguments_that_make_no_sense(minion, arguments):
    answer = minion.redis_ping(**arguments)
    (name,) = arguments
    assert answer.startswith(f"Redis on web1 was not asked: {name} must be a")
    assert answer.endswith(f". Try: leave {name} out")
    assert minion.retcode == 1


def test_a_port_from_the_command_line_may_be_text(minion, redis):
    assert minion.redis_ping(port=str(redis.port)) == "PONG"


def test_unknown_host(minion):
    assert "has no address" in minion.redis_ping(host="no-such-host.invalid")


def test_asking_on_behalf_of_a_state_leaves_the_exit_code(minion, free_port):
    assert "connection refused" in minion.redis_answer(port=free_port)
    assert minion.retcode == 0


def test_real_redis_with_a_password(minion, redis):
    redis.cli("config", "set", "requirepass", "s3cret")
    answer = minion.redis_ping(port=redis.port)
    assert "(NOAUTH)" in answer
    assert answer.endswith("Try: salt-ssh web1 state.apply redis")
    minion.module.__opts__["file_client"] = "remote"
    assert minion.redis_ping(port=redis.port).endswith("Try: salt web1 state.apply redis")


def test_real_redis_that_cannot_save(minion, redis):
    cannot_save(redis)
    assert "(MISCONF)" in minion.redis_ping(port=redis.port)


def cannot_save(redis):
    shutil.rmtree(redis.data)
    redis.cli("bgsave")
    end = time.monotonic() + 10
    while redis.info("rdb_last_bgsave_status") != "err":
        assert time.monotonic() < end
        time.sleep(0.05)


# --- ready -------------------------------------------------------------------------------------------------


def test_ready(minion, redis):
    minion.module.__pillar__ = {"sites": {"a": {"redis": {"cache": 0, "broker": 7}}}}
    before = int(redis.info("total_connections_received"))
    began = time.monotonic()
    checks = minion.redis_checks(port=redis.port)
    assert time.monotonic() - began < 0.5
    assert verdicts(checks) == {**dict.fromkeys(minion.CHECKS, True), "conffile": None}
    assert [check["check"] for check in checks] == list(minion.CHECKS)
    # Ours, and the one that asks for this number.
    assert int(redis.info("total_connections_received")) - before == 2
    assert message(checks, "databases") == "65 databases, 8 needed"
    assert message(checks, "probe") == "set and read in database 64"
    assert redis.cli("-n", "64", "dbsize") == "0"


def test_ready_for_a_person(minion, redis):
    table = minion.redis_ready(port=redis.port)
    assert table.splitlines()[0] == "Redis on web1 is ready"
    assert "  pong        ok   PONG" in table
    assert minion.retcode == 0
    redis.cli("config", "set", "maxmemory", "0")
    table = minion.redis_ready(port=redis.port)
    assert table.splitlines()[0] == "Redis on web1 is not ready"
    assert "  memory      FAIL Redis on web1: it has no memory limit (maxmemory 0). Try: salt-ssh" in table
    assert minion.retcode == 1


def test_every_failing_check_is_told_at_once(minion, redis, tmp_path):
    redis.cli("config", "set", "maxmemory-policy", "allkeys-lru")
    redis.cli("config", "set", "appendonly", "no")
    minion.rules = [{"rule": "allow 6379", "source": "/etc/ufw/user.rules", "family": "v4"}]
    minion.commands["systemctl"] = "LoadState=loaded\nUnitFileState=disabled\n"
    (tmp_path / "tcp").write_text(HEADER + listening("00000000", redis.port))
    checks = minion.redis_checks(port=redis.port, databases=66)
    # Not `settings` as well: policy and append-only file are one cause each, and one sentence.
    assert {name for name, ok in verdicts(checks).items() if ok is False} == {
        "policy", "persistence", "databases", "unit", "listeners", "firewall",
    }  # fmt: skip
    for check in checks:
        if check["ok"] is False:
            assert check["message"].startswith("Redis on web1: ")
            assert ". Try: " in check["message"]
            assert "\n" not in check["message"]


def test_dead_redis_stops_only_what_needs_it(minion, free_port):
    began = time.monotonic()
    checks = minion.redis_checks(port=free_port)
    assert time.monotonic() - began < 0.5
    assert verdicts(checks) == {
        "pong": False,
        **dict.fromkeys(["probe", "memory", "policy", "persistence", "databases", "settings", "conffile"]),
        **dict.fromkeys(["unit", "listeners", "firewall"], True),
    }
    assert message(checks, "probe") == "not asked"
    assert "connection refused" in message(checks, "pong")


def test_hanging_redis_costs_one_timeout(minion):
    with Server(hangs) as server:
        began = time.monotonic()
        checks = minion.redis_checks(port=server.port, timeout=0.5)
        assert time.monotonic() - began < 1
    assert verdicts(checks)["pong"] is False
    assert verdicts(checks)["memory"] is None


def test_redis_that_hangs_after_pong(minion):
    def handler(connection, over):
        connection.recv(65536)
        connection.sendall(b"+PONG\r\n")
        over.wait(5)

    with Server(handler) as server:
        checks = minion.redis_checks(port=server.port, timeout=0.5)
    assert verdicts(checks)["pong"] is True
    assert "no answer" in message(checks, "memory")
    assert verdicts(checks)["probe"] is None


def test_misconf_does_not_hide_other_faults(minion, redis):
    cannot_save(redis)
    redis.cli("config", "set", "maxmemory-policy", "allkeys-lru")
    checks = verdicts(minion.redis_checks(port=redis.port))
    assert [name for name in ("pong", "probe", "policy", "persistence") if checks[name] is False] == [
        "pong", "probe", "policy", "persistence",
    ]  # fmt: skip


def test_full_memory(minion, redis):
    redis.cli("config", "set", "maxmemory", "3mb")
    redis.cli("eval", "for i=1,400 do redis.call('set', 'k'..i, string.rep('x', 10000)) end", "0")
    checks = minion.redis_checks(port=redis.port)
    assert "its memory is full (OOM)" in message(checks, "probe")
    assert verdicts(checks)["memory"] is False


FLOOD = "for i = 1, 6000 do redis.call('set', 'k' .. i, string.rep('x', 1000){}) end"


def test_memory_threshold(minion, redis):
    used = int(redis.info("used_memory"))
    redis.cli("config", "set", "maxmemory", str(used * 2))
    assert verdicts(minion.redis_checks(port=redis.port))["memory"] is True
    checks = minion.redis_checks(port=redis.port, threshold=25)
    assert "the limit for a deploy is 25 %" in message(checks, "memory")
    assert "raise redis:maxmemory in pillar/hosts/web1.sls" in message(checks, "memory")


def test_the_command_of_each_kind_of_controller(minion):
    assert minion.command("state.apply", "caddy") == "salt-ssh web1 state.apply caddy"
    minion.module.__opts__ = {"file_client": "remote"}
    assert minion.command("test.ping") == "salt web1 test.ping"


def test_the_file_of_a_host_with_dots(minion, redis):
    minion.module.__grains__ = {"id": "web1.example.net"}
    checks = minion.redis_checks(port=redis.port, threshold=1)
    assert "raise redis:maxmemory in pillar/hosts/web1_example_net.sls" in message(checks, "memory")


def test_a_warm_cache_is_no_fault(minion, redis):
    """What expires makes room when it is needed, whatever else is there."""
    redis.cli("config", "set", "maxmemory", "6mb")
    redis.cli("-n", "1", "rpush", "celery", "a task")
    redis.cli("eval", FLOOD.format(", 'EX', 600"), "0")
    assert int(redis.info("used_memory")) > 0.9 * 6 * 1024**2
    checks = minion.redis_checks(port=redis.port)
    assert "cache that makes room" in message(checks, "memory") and verdicts(checks)["probe"] is True


@pytest.mark.parametrize(
    "fill",
    [
        FLOOD.format(""),
        "for i = 1, 6000 do redis.call('rpush', 'celery', string.rep('x', 1000)) end",
        "for i = 1, 6000 do redis.call('hset', 'unacked', i, string.rep('x', 1000)) end",
    ],
)
def test_what_never_expires_is_a_fault(minion, redis, fill):
    redis.cli("-n", "1", "eval", fill, "0")
    redis.cli("eval", "for i = 1, 3000 do redis.call('set', 'c' .. i, 'x', 'EX', 600) end", "0")
    redis.cli("config", "set", "maxmemory", str(int(redis.info("used_memory")) * 100 // 95))
    checks = minion.redis_checks(port=redis.port, threshold=80)
    assert "queues and other keys that never expire take" in message(checks, "memory")
    assert verdicts(checks)["probe"] is True


@pytest.mark.parametrize("arguments", [{"threshold": 0}, {"threshold": "much"}, {"databases": "all"}])
def test_checks_with_arguments_that_make_no_sense(minion, redis, arguments):
    checks = minion.redis_checks(port=redis.port, **arguments)
    assert message(checks, "pong").startswith("Redis on web1 was not asked: ")
    assert verdicts(minion.redis_checks(port="abc"))["pong"] is False


def test_too_few_databases(minion, redis):
    minion.module.__pillar__ = {"sites": {"a": {"redis": {"cache": 0, "broker": 65}}}}
    checks = minion.redis_checks(port=redis.port)
    assert "it has 65 databases and the sites need 66" in message(checks, "databases")


def test_databases_are_known_without_a_pillar(minion, redis, tmp_path):
    (tmp_path / "sites").mkdir()
    (tmp_path / "sites/a.json").write_text(json.dumps({"slug": "a", "redis": {"cache": 64, "broker": 63}}))
    (tmp_path / "sites/broken.json").write_text("{")
    checks = minion.redis_checks(port=redis.port)
    assert message(checks, "databases") == "65 databases, 65 needed"
    # The probe avoids databases that a site has.
    assert message(checks, "probe") == "set and read in database 62"


def test_probe_that_is_not_read_back(minion):
    answers = [b"+PONG\r\n", b"$42\r\nused_memory:1\r\nmaxmemory:100\r\naof_enabled:1\r\n",
               b"+OK\r\n+OK\r\n$1\r\nx\r\n:1\r\n"]  # fmt: skip
    config = b"*2\r\n$9\r\ndatabases\r\n$2\r\n65\r\n"
    answers[1] = b"$%d\r\n" % len(answers[1][5:]) + answers[1][5:] + b"\r\n" + config

    def handler(connection, over):
        for answer in answers:
            connection.recv(65536)
            connection.sendall(answer)
        over.wait(3)

    with Server(handler) as server:
        checks = minion.redis_checks(port=server.port)
    assert "could not be read back" in message(checks, "probe")


def test_without_append_only_file(minion, redis):
    redis.cli("config", "set", "appendonly", "no")
    assert "(appendonly no)" in message(minion.redis_checks(port=redis.port), "persistence")


@pytest.mark.parametrize("name", ["rdb_last_bgsave_status", "aof_last_write_status", "aof_last_bgrewrite_status"])
def test_failed_writes(minion, name):
    info = {**dict.fromkeys(
        ["rdb_last_bgsave_status", "aof_last_write_status", "aof_last_bgrewrite_status"], "ok"
    ), "aof_enabled": "1"}  # fmt: skip
    assert minion._persistence(info) == "last RDB and AOF writes ok"
    with pytest.raises(minion._Fault, match=name):
        minion._persistence({**info, name: "err"})


def test_settings_that_were_changed_while_redis_ran(minion, redis):
    redis.cli("config", "set", "maxmemory", "65mb")
    redis.cli("config", "set", "protected-mode", "no")
    text = message(minion.redis_checks(port=redis.port), "settings")
    assert "maxmemory is 68157440 and not 67108864" in text
    assert "protected-mode is no and not yes" in text


def test_settings_without_a_file(minion, redis):
    redis.config.unlink()
    assert "goldenpath.conf is missing" in message(minion.redis_checks(port=redis.port), "settings")


@pytest.mark.parametrize(
    "output, reason",
    [
        ("LoadState=not-found\nUnitFileState=\n", "redis-server is not installed"),
        ("LoadState=masked\nUnitFileState=masked\n", "is masked"),
        ("LoadState=loaded\nUnitFileState=disabled\n", "is disabled and would not come back after a reboot"),
        ("", "is unknown to systemd"),
    ],
)
def test_unit(minion, free_port, output, reason):
    minion.commands["systemctl"] = output
    assert reason in message(minion.redis_checks(port=free_port), "unit")


def test_firewall(minion, free_port):
    minion.rules = [
        {"rule": "allow 6000:7000/tcp", "source": "/etc/ufw/user.rules", "family": "v4"},
        {"rule": "allow 6000:7000/tcp", "source": "/etc/ufw/user.rules", "family": "v6"},
    ]
    text = message(minion.redis_checks(port=free_port), "firewall")
    assert f"lets {free_port} in: allow 6000:7000/tcp (/etc/ufw/user.rules). Try: salt-ssh web1 state." in text

    def broken(port):
        raise CommandExecutionError("iptables-save: no")

    minion.module.__salt__["ufw.permits"] = broken
    assert "ufw could not be asked: iptables-save: no" in message(minion.redis_checks(port=free_port), "firewall")
    del minion.module.__salt__["ufw.permits"]
    assert verdicts(minion.redis_checks(port=free_port))["firewall"] is False


# --- listeners, from the kernel ----------------------------------------------------------------------------


def listening(address, port=6379, state="0A"):
    return f"   0: {address}:{port:04X} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000   0 0 1\n"


V6_LOOPBACK, V6_ANY = "00000000000000000000000001000000", "0" * 32
MAPPED_LOOPBACK = "0000000000000000FFFF00000100007F"
MAPPED_ANY = "0000000000000000FFFF000000000000"


@pytest.mark.parametrize(
    "v4, v6, public",
    [
        ("0100007F", V6_LOOPBACK, None),
        ("0200007F", MAPPED_LOOPBACK, None),
        ("0100007F", V6_ANY, "::"),
        ("00000000", V6_LOOPBACK, "0.0.0.0"),
        ("0A00D50A", V6_LOOPBACK, "10.213.0.10"),
        ("0100007F", MAPPED_ANY, "::ffff:0:0|::ffff:0.0.0.0"),
    ],
)
def test_listeners(minion, tmp_path, v4, v6, public):
    (tmp_path / "tcp").write_text(HEADER + listening("00000000", 22) + listening(v4))
    (tmp_path / "tcp6").write_text(HEADER + listening(v6) + listening(V6_ANY, 80))
    if public:
        with pytest.raises(minion._Fault, match=f"port 6379 listens on ({public}) and not on loopback alone"):
            minion._listening(6379)
    else:
        assert minion._listening(6379).endswith("only")


def test_connections_are_not_listeners(minion, tmp_path):
    (tmp_path / "tcp").write_text(HEADER + listening("0A00D50A", state="01") + listening("0A00D50A", state="06"))
    assert minion._listening(6379) == "nothing listens on 6379"


def test_kernel_without_ipv6(minion, tmp_path):
    (tmp_path / "tcp6").unlink()
    (tmp_path / "tcp").write_text(HEADER + listening("0100007F"))
    assert minion._listening(6379) == "on 127.0.0.1 only"


def test_this_machines_kernel(minion):
    minion.module.SOCKETS = ("/proc/net/tcp", "/proc/net/tcp6")
    for address, public in (("127.0.0.1", False), ("0.0.0.0", True)):
        with socket.socket() as server:
            server.bind((address, 0))
            server.listen()
            port = server.getsockname()[1]
            if public:
                with pytest.raises(minion._Fault, match=r"0\.0\.0\.0"):
                    minion._listening(port)
            else:
                assert minion._listening(port) == "on 127.0.0.1 only"


# --- drift -------------------------------------------------------------------------------------------------


def test_no_drift(minion, redis):
    assert minion.redis_drift(port=redis.port) == {}
    assert minion.redis_mend(port=redis.port) == {}


@pytest.mark.parametrize(
    "name, value",
    [
        ("maxmemory", "1gb"), ("maxmemory-policy", "noeviction"), ("protected-mode", "no"), ("save", ""),
        ("save", "900 1"), ("appendfsync", "no"), ("stop-writes-on-bgsave-error", "no"),
        ("bind", "127.0.0.1 127.0.0.2"),
    ],
)  # fmt: skip
def test_drift_is_mended_without_a_restart(minion, redis, name, value):
    redis.cli("config", "set", name, value)
    assert list(minion.redis_drift(port=redis.port)) == [name]
    assert list(minion.redis_mend(port=redis.port)) == [name]
    assert minion.restarts == []
    assert minion.redis_drift(port=redis.port) == {}


def test_a_replica_is_told_and_freed(minion, redis, free_port):
    redis.cli("replicaof", "127.0.0.1", free_port)
    assert f"replicaof is 127.0.0.1 {free_port} and not no one" in message(
        minion.redis_checks(port=redis.port), "settings"
    )
    assert minion.redis_mend(port=redis.port)["replicaof"]["new"] == "no one"
    assert minion.restarts == []
    assert redis.info("role") == "master"


def test_append_only_file_switched_off_loses_nothing(minion, redis):
    redis.cli("config", "set", "appendonly", "no")
    redis.cli("rpush", "celery", "task")
    assert minion.redis_mend(port=redis.port) == {"appendonly": {"old": "no", "new": "yes"}}
    redis.stop()  # kill -9
    redis.start()
    assert redis.cli("llen", "celery") == "1"


def test_append_only_file_before_a_restart(minion, redis):
    """
    A server that ran without one, beside an old one: started from the file alone, it would forget.
    """
    redis.cli("rpush", "celery", "old")
    redis.cli("config", "set", "appendonly", "no")
    redis.cli("rpush", "celery", "new")
    change = {"appendonly": {"old": "no", "new": "yes"}}
    assert minion.redis_append_only(port=redis.port, test=True) == change
    assert minion.redis_append_only(port=redis.port) == change
    assert minion.redis_append_only(port=redis.port) == {}
    redis.stop()  # kill -9
    redis.start()
    assert redis.cli("llen", "celery") == "2"


def test_append_only_file_of_a_redis_that_cannot_be_asked(minion, redis, free_port):
    assert minion.redis_append_only(port=free_port) == {}
    redis.cli("config", "set", "requirepass", "x")
    assert minion.redis_append_only(port=redis.port) == {}


def test_append_only_file_that_cannot_be_written(minion, redis):
    redis.cli("config", "set", "appendonly", "no")
    shutil.rmtree(redis.data)
    with pytest.raises(CommandExecutionError, match="Redis on web1 cannot write an append-only file"):
        minion.redis_append_only(port=redis.port)


def test_what_redis_cannot_change_while_it_runs(minion, redis):
    redis.config.write_text(redis.config.read_text().replace("databases 65", "databases 66"))

    def restart(name):
        redis.stop()
        redis.start()
        minion.restarts.append(name)
        return True

    minion.module.__salt__["service.restart"] = restart
    assert list(minion.redis_mend(port=redis.port)) == ["databases", "restart"]
    assert minion.restarts == ["redis-server"]
    assert minion.redis_mend(port=redis.port) == {}


def test_password_that_somebody_set(minion, redis):
    redis.cli("config", "set", "requirepass", "s3cret")
    assert "s3cret" not in json.dumps(minion.redis_drift(port=redis.port))
    # Nothing restarted it really, and that is told.
    with pytest.raises(CommandExecutionError, match=r"still differs from .* in access"):
        minion.redis_mend(port=redis.port)
    assert minion.restarts == ["redis-server"]


def test_password_is_not_told(minion):
    assert minion._told("requirepass", "s3cret") == "set"


def test_redis_that_listens_elsewhere_is_restarted(minion, free_port):
    assert list(minion.redis_drift(port=free_port)) == ["access"]
    with pytest.raises(CommandExecutionError):
        minion.redis_mend(port=free_port)
    assert minion.restarts == ["redis-server"]


def test_failed_restart(minion, redis):
    redis.cli("config", "set", "requirepass", "x")
    minion.module.__salt__["service.restart"] = lambda name: False
    with pytest.raises(CommandExecutionError, match="did not restart"):
        minion.redis_mend(port=redis.port)


def test_hanging_redis_is_not_restarted(minion):
    with Server(hangs) as server, pytest.raises(CommandExecutionError, match="no answer"):
        minion.redis_mend(port=server.port, timeout=0.3)
    assert minion.restarts == []


def test_configuration_with_every_kind_of_value(minion, tmp_path):
    (tmp_path / "goldenpath.conf").write_text(
        '# a comment\n\ninclude /x\nSave ""\nsave 900 1\nsave 60 2\n'
        'maxmemory 1GB\nrequirepass ""\nbind 127.0.0.1 -::1\n'
    )
    assert minion._configured(minion.CONFIG) == {
        "save": "900 1 60 2", "maxmemory": str(1024**3), "requirepass": "", "bind": "127.0.0.1 -::1",
    }  # fmt: skip


# --- the distribution's redis.conf -------------------------------------------------------------------------

PRISTINE = "bind 127.0.0.1 -::1\nport 6379\n# requirepass foobared\n"


@pytest.fixture
def packaged(minion, tmp_path):
    digest = hashlib.md5(PRISTINE.encode(), usedforsecurity=False).hexdigest()
    (tmp_path / "redis.conf").write_text(PRISTINE)
    minion.commands["dpkg-query"] = f"ii \n5:7.0\n\n {minion.DISTRIBUTION_CONFIG} {digest}\n"
    minion.module.shutil.chown = lambda *_: None
    yield minion
    minion.module.shutil.chown = CHOWN


CHOWN = shutil.chown


def test_a_data_folder_behind_a_link_is_no_drift(minion, redis, tmp_path):
    (tmp_path / "volume").symlink_to(redis.data)
    redis.config.write_text(redis.config.read_text() + f"dir {tmp_path}/volume\n")
    assert minion.redis_drift(port=redis.port) == {}
    redis.config.write_text(redis.config.read_text().replace("/volume", "/elsewhere"))
    assert list(minion.redis_drift(port=redis.port)) == ["dir"]


def test_a_package_on_hold_is_installed(packaged):
    packaged.commands["dpkg-query"] = packaged.commands["dpkg-query"].replace("ii ", "hi ")
    assert packaged.redis_conffile() == {"state": "pristine", "edits": []}


def test_pristine_conffile_is_kept(packaged, tmp_path):
    assert packaged.redis_conffile() == {"state": "pristine", "edits": []}
    assert packaged.redis_conffile_restore()["state"] == "pristine"
    assert (tmp_path / "kept/redis.conf.dist").read_text() == PRISTINE


def test_edited_conffile_is_restored(packaged, tmp_path):
    packaged.redis_conffile_restore()
    (tmp_path / "redis.conf").write_text("bind 0.0.0.0\nport 6379\nrequirepass s3cret\n")
    found = packaged.redis_conffile()
    assert found == {"state": "edited", "edits": ["bind 0.0.0.0", "requirepass"]}
    with pytest.raises(packaged._Fault, match=r"redis.conf was edited \(bind 0.0.0.0, requirepass\)"):
        packaged._conffile_check(found)
    assert packaged.redis_conffile_restore() == found
    assert (tmp_path / "redis.conf").read_text() == PRISTINE
    assert packaged.redis_conffile_restore()["state"] == "pristine"


def test_comments_are_an_edit_too(packaged, tmp_path):
    packaged.redis_conffile_restore()
    (tmp_path / "redis.conf").write_text(PRISTINE + "# mine\n")
    assert packaged.redis_conffile() == {"state": "edited", "edits": []}


def test_public_bind_is_named_without_the_original(packaged, tmp_path):
    (tmp_path / "redis.conf").write_text("bind * -::*\n")
    assert packaged.redis_conffile() == {"state": "edited", "edits": ["bind * -::*"]}


def test_missing_conffile(packaged, tmp_path):
    packaged.redis_conffile_restore()
    (tmp_path / "redis.conf").unlink()
    with pytest.raises(packaged._Fault, match="is missing"):
        packaged._conffile_check(packaged.redis_conffile())
    packaged.redis_conffile_restore()
    assert (tmp_path / "redis.conf").read_text() == PRISTINE


def test_original_beside_it(packaged, tmp_path):
    (tmp_path / "redis.conf").write_text("port 1\n")
    (tmp_path / "redis.conf.dpkg-dist").write_text(PRISTINE)
    packaged.redis_conffile_restore()
    assert (tmp_path / "redis.conf").read_text() == PRISTINE


def test_original_from_the_package(packaged, tmp_path):
    (tmp_path / "redis.conf").write_text("port 1\n")
    run = packaged.run

    def apt(command, cwd=None, **_):
        if command[0] == "apt-get":
            assert command[-1] == "redis-server=5:7.0"
            pathlib.Path(cwd, "redis-server.deb").touch()
        elif command[0] == "dpkg-deb":
            target = pathlib.Path(cwd + packaged.DISTRIBUTION_CONFIG)
            target.parent.mkdir(parents=True)
            target.write_text(PRISTINE)
        else:
            return run(command)
        return {"retcode": 0, "stdout": "", "stderr": ""}

    packaged.module.__salt__["cmd.run_all"] = apt
    packaged.redis_conffile_restore()
    assert (tmp_path / "redis.conf").read_text() == PRISTINE


def test_an_original_that_is_not_to_be_had(packaged, tmp_path):
    (tmp_path / "redis.conf").write_text("port 1\n")
    (tmp_path / "redis.conf.dpkg-old").write_text("port 2\n")
    with pytest.raises(CommandExecutionError, match=r"was edited.*Try: apt-get install --reinstall"):
        packaged.redis_conffile_restore()
    assert (tmp_path / "redis.conf").read_text() == "port 1\n"


# --- health ------------------------------------------------------------------------------------------------

SITE = {"domains": ["acme.example", "www.acme.example"], "health": "/health/", "tls": "internal"}
REQUESTS = []


def http(status, body="", *headers):
    lines = [f"HTTP/1.1 {status} Reason", *headers, "", ""]
    answer = "\r\n".join(lines).encode() + body.encode()

    def handler(connection, over):
        REQUESTS.append(connection.recv(65536).decode())
        connection.sendall(answer)
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_WR)

    return handler


@pytest.fixture
def ask(minion, tmp_path):
    """Ask a site whose Unix socket is served by the handler."""
    place = str(tmp_path / "s")

    def asked(handler, **arguments):
        REQUESTS.clear()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(place)
        with Server(handler, place):
            return minion.site_health("acme", SITE, socket=place, **arguments)

    return asked


def test_health_asks_as_a_visitor_would(ask):
    answer = ask(http(200, '{"status": "ok", "git_sha": "abc"}'))
    assert answer["status"] == "ok"
    assert answer["code"] == 200
    assert answer["git_sha"] == "abc"
    assert answer["body"] == {"status": "ok", "git_sha": "abc"}
    (request,) = REQUESTS
    assert request.startswith("GET /health/ HTTP/1.1\r\nHost: acme.example\r\n")
    assert "\r\nX-Forwarded-Proto: https\r\n" in request
    assert "\r\nX-Forwarded-For: 127.0.0.1\r\n" in request


def test_another_path(ask):
    assert ask(http(204), path="/ready?x=1")["status"] == "ok"
    assert REQUESTS[0].startswith("GET /ready?x=1 ")
    answer = ask(http(200), path="/ HTTP/1.1\r\nX: y")
    assert answer["status"] == "unreachable"
    assert "is no path" in answer["message"]


@pytest.mark.parametrize(
    "code, body, status",
    [
        (200, '{"status": "ok"}', "ok"),
        (200, '{"status": "degraded", "celery": "down"}', "degraded"),
        (503, '{"status": "unhealthy"}', "unhealthy"),
        # every other pairing
        (503, '{"status": "ok"}', "broken"),
        (503, '{"status": "degraded"}', "broken"),
        (200, '{"status": "unhealthy"}', "broken"),
        (500, '{"status": "unhealthy"}', "broken"),
        (201, '{"status": "ok"}', "broken"),
        (404, '{"status": "ok"}', "broken"),
        (200, '{"status": "fine"}', "broken"),
        (200, '{"status": "OK"}', "broken"),
        # judged by the code alone
        (200, "OK", "ok"),
        (204, "", "ok"),
        (299, "<html>", "ok"),
        (200, '{"status": 1}', "ok"),
        (200, '{"healthy": true}', "ok"),
        (200, '["ok"]', "ok"),
        (503, "Service Unavailable", "unhealthy"),
        (500, "Traceback", "unhealthy"),
        (500, '{"status": null}', "unhealthy"),
        (400, "Bad Request", "broken"),
        (404, "not found", "broken"),
        (401, "", "broken"),
        (301, "", "broken"),
        (302, '{"status": "ok"}', "broken"),
    ],
)
def test_the_health_contract(ask, code, body, status):
    answer = ask(http(code, body))
    assert answer["status"] == status
    assert answer["code"] == code


@pytest.mark.parametrize(
    "place, why",
    [
        ("https://acme.example/health/", "SECURE_PROXY_SSL_HEADER"),
        ("/health//", "is the health path /health//?"),
        ("https://www.acme.example/", "must answer by itself"),
        ("/login/?next=/health/", "must answer by itself"),
    ],
)
def test_redirects_are_told_and_not_followed(ask, place, why):
    answer = ask(http(301, "", f"Location: {place}"))
    assert answer["status"] == "broken"
    assert "/health/ redirects (301) to" in answer["message"]
    assert why in answer["message"]
    assert len(REQUESTS) == 1


def test_a_host_that_the_site_does_not_know(ask):
    assert "is acme.example in ALLOWED_HOSTS?" in ask(http(400, "Bad Request"))["message"]


@pytest.mark.parametrize(
    "handler, reason",
    [
        (hangs, "within 0.5 s"),
        (drips(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"), "within 0.5 s"),
        (closes, "closed the connection without an answer"),
        (says(b"+PONG\r\n"), "within 0.5 s"),
        (says(b"-ERR unknown command\r\n\r\n"), "within 0.5 s"),
        (says(b"SSH-2.0-x\r\n\r\n", stays=False), "did not answer in HTTP"),
        (says(b"HTTP/1.1 200 OK\r\nContent-", stays=False), "did not answer in HTTP"),
    ],
)
def test_unreachable(ask, handler, reason):
    began = time.monotonic()
    answer = ask(handler, timeout=0.5)
    assert time.monotonic() - began < 1
    assert answer["status"] == "unreachable"
    assert answer["code"] is None
    assert reason in answer["message"]


def test_missing_and_deserted_socket(minion, tmp_path):
    place = str(tmp_path / "gone")
    assert minion.site_health("acme", SITE, socket=place)["message"] == f"there is no socket at {place}"
    with socket.socket(socket.AF_UNIX) as unused:
        unused.bind(place)
    assert "connection refused" in minion.site_health("acme", SITE, socket=place)["message"]
    assert "/srv/sum/acme/current/gunicorn.sock" in minion.site_health("acme", SITE)["message"]


def test_server_that_keeps_the_connection(ask):
    began = time.monotonic()
    answer = ask(says(b'HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\n{"status": "ok"}'))
    assert answer["status"] == "ok"
    assert time.monotonic() - began < 1


def test_chunked_answer(ask):
    body = '10\r\n{"status": "ok"}\r\n0\r\n\r\n'
    assert ask(http(200, body, "Transfer-Encoding: chunked"))["body"] == {"status": "ok"}


@pytest.mark.parametrize("headers", [["Content-Length: 200000"], ["Transfer-Encoding: chunked"], []])
def test_long_answers_are_not_read_to_the_end(ask, headers):
    body = "x" * 200000
    if headers == ["Transfer-Encoding: chunked"]:
        body = f"{len(body):x}\r\n{body}\r\n0\r\n\r\n"
    answer = ask(http(200, body, *headers))
    assert answer["status"] == "ok"
    assert answer["body"] is None


def test_endless_page(ask):
    began = time.monotonic()
    assert ask(pours_a_page)["status"] == "ok"
    assert time.monotonic() - began < 1


def test_large_body_is_judged_and_not_returned(ask):
    answer = ask(http(200, json.dumps({"status": "degraded", "more": "x" * 5000})))
    assert answer["status"] == "degraded"
    assert answer["body"] is None


@pytest.fixture
def certificate(tmp_path):
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-keyout", tmp_path / "key", "-out", tmp_path / "crt", "-subj", "/CN=acme.example", "-days", "2"],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "crt", tmp_path / "key")
    context.names = []
    context.sni_callback = lambda connection, name, _: context.names.append(name)
    return context


def test_front_door(minion, certificate):
    with Server(http(200, '{"status": "ok"}'), context=certificate) as server:
        minion.module.FRONT = ("127.0.0.1", server.port)
        REQUESTS.clear()
        assert minion.site_health("acme", SITE, via="front")["status"] == "ok"
        assert certificate.names == ["acme.example"]
        assert "Host: acme.example\r\n" in REQUESTS[0]
        assert "X-Forwarded" not in REQUESTS[0]
        answer = minion.site_health("acme", {**SITE, "tls": "acme"}, via="front")
        assert answer["status"] == "unreachable"
        assert "certificate of https://acme.example is not valid" in answer["message"]


def test_front_door_without_tls(minion):
    with Server(says(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as server:
        minion.module.FRONT = ("127.0.0.1", server.port)
        answer = minion.site_health("acme", SITE, via="front")
    assert "TLS with https://acme.example failed" in answer["message"]


def test_sites_of_this_host(minion, tmp_path):
    (tmp_path / "sites").mkdir()
    (tmp_path / "sites/acme.json").write_text(json.dumps(SITE))
    assert "gunicorn.sock" in minion.site_health("acme")["message"]
    minion.module.__pillar__ = {"sites": {"other": SITE}}
    answer = minion.site_health("acme")
    assert answer["message"] == "the host knows no such site"
    assert answer["hint"] == "salt-ssh web1 state.apply site"
    assert "gunicorn.sock" in minion.site_health("other")["message"]
    assert "no such site" in minion.site_health("../acme")["message"]
    assert "via must be" in minion.site_health("other", via="door")["message"]


def test_health_for_a_person(minion, tmp_path):
    place = str(tmp_path / "s")
    minion.module.__pillar__ = {"sites": {"acme": SITE}}
    with Server(http(200, '{"status": "degraded"}'), place):
        answer = minion.health("acme", socket=place)
    assert answer["message"] == "acme on web1 is degraded: /health/ answered 200, degraded."
    assert minion.retcode == 0
    os.unlink(place)
    with Server(http(503, '{"status": "unhealthy", "db": "down"}'), place):
        answer = minion.health("acme", socket=place)
    assert answer["message"] == (
        'acme on web1 is unhealthy: /health/ answered 503, unhealthy: \'{"status": "unhealthy", "db": "down"}\'. '
        "Try: journalctl -u 'sum-acme-gunicorn*' -n 50"
    )
    assert minion.retcode == 1
