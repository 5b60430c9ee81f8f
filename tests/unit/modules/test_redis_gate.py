"""
redis_gate: Redis asked over real sockets, by a real redis-server where it can be, and by servers that misbehave; with
the operator's door before it, which makes the exit code.
"""

import json
import pathlib
import shutil
import socket
import time

import pytest
from salt.exceptions import CommandExecutionError

from tests.unit.redis_host import HEADER, RealRedis, free, listening
from tests.unit.servers import Server, closes, drips, hangs, pours, pours_one_value, resets, says


def verdicts(checks):
    return {check["check"]: check["ok"] for check in checks}


def message(checks, name):
    return next(check["message"] for check in checks if check["check"] == name)


# --- PONG --------------------------------------------------------------------------------------------------


def test_redis_that_answers(minion, redis):
    assert minion.redis_ping() == "PONG"
    assert minion.retcode == 0


@pytest.mark.parametrize("answer", [b"+PONG\r\n", b"-NOAUTH Authentication required.\r\n"])
def test_a_stranger_that_says_pong(minion, answer):
    """Whoever binds the port while Redis is down can say what Redis would; the kernel knows who it is."""
    who = minion.gate.OWNER
    minion.gate.OWNER = "nobody"
    with Server(says(answer)) as server:
        told = minion.asks(server.port).redis_ping()
    assert told == (
        f"Redis on web1 did not answer PONG: 127.0.0.1:{server.port} is held by {who} and not by nobody. "
        f"Try: ss -ltnp 'sport = :{server.port}'"
    )
    assert minion.retcode == 1


def test_a_stranger_is_asked_nothing_that_is_secret(minion, tmp_path):
    minion.gate.OWNER = "nobody"
    (tmp_path / "redis-password").write_text("s3cr3t-canary")
    minion.gate.PASSWORD = str(tmp_path / "redis-password")
    heard = []

    def listens(connection, over):
        while data := connection.recv(65536):
            heard.append(data)
            connection.sendall(b"+PONG\r\n")

    with Server(listens) as server:
        minion.asks(server.port).redis_checks()
        with pytest.raises(ConnectionError):
            minion.gate.ask(("CONFIG", "GET", "*"))
    assert heard and b"s3cr3t" not in b"".join(heard)


def test_without_a_user_redis(minion, redis):
    minion.gate.OWNER = "no-such-user"
    assert "there is no user no-such-user" in minion.redis_ping()


def test_nothing_listens(minion, free_port):
    assert minion.asks(free_port).redis_ping() == (
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
        answer = minion.asks(server.port).redis_ping()
    assert answer.startswith("Redis on web1 did not answer PONG: ")
    assert reason in answer
    assert ". Try: " in answer
    assert "\n" not in answer
    assert minion.retcode == 1


@pytest.mark.parametrize("handler", [hangs, drips(b"+" * 1000), drips(b"$1000\r\n" + b"x" * 1000)])
def test_the_deadline_holds_for_the_whole_exchange(minion, handler):
    with Server(handler) as server:
        began = time.monotonic()
        answer = minion.asks(server.port).redis_ping(timeout=0.5)
        took = time.monotonic() - began
    assert f"no answer from 127.0.0.1:{server.port} within 0.5 s" in answer
    assert took < 1
    assert minion.retcode == 1


def test_an_answer_in_pieces_is_still_an_answer(minion):
    with Server(drips(b"+PONG\r\n")) as server:
        assert minion.asks(server.port).redis_ping() == "PONG"


@pytest.mark.parametrize(
    "arguments",
    [
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


def test_a_timeout_from_the_command_line_may_be_text(minion, redis):
    assert minion.redis_ping(timeout="1.5") == "PONG"


def test_asking_on_behalf_of_a_state_leaves_the_exit_code(minion, free_port):
    assert "connection refused" in minion.asks(free_port).redis_answer()
    assert minion.retcode == 0


def test_real_redis_with_a_password(minion, redis):
    redis.cli("config", "set", "requirepass", "s3cret")
    answer = minion.redis_ping()
    assert "(NOAUTH)" in answer
    assert answer.endswith("Try: salt-ssh web1 state.apply redis")
    minion.module.__opts__["file_client"] = "remote"
    assert minion.redis_ping().endswith("Try: salt web1 state.apply redis")


def test_real_redis_that_cannot_save(minion, redis):
    cannot_save(redis)
    assert "(MISCONF)" in minion.redis_ping()


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
    checks = minion.redis_checks()
    assert time.monotonic() - began < 0.5
    assert verdicts(checks) == dict.fromkeys(minion.gate.CHECKS, True)
    assert [check["check"] for check in checks] == list(minion.gate.CHECKS)
    # Ours, and the one that asks for this number.
    assert int(redis.info("total_connections_received")) - before == 2
    assert message(checks, "databases") == "65 databases, 8 needed"
    assert message(checks, "probe") == "set and read in database 64"
    assert redis.cli("-n", "64", "dbsize") == "0"


def test_ready_for_a_person(minion, redis):
    table = minion.redis_ready()
    assert table.splitlines()[0] == "Redis on web1 is ready"
    assert "  pong        ok   PONG" in table
    assert minion.retcode == 0
    redis.cli("config", "set", "maxmemory", "0")
    table = minion.redis_ready()
    assert table.splitlines()[0] == "Redis on web1 is not ready"
    assert "  memory      FAIL Redis on web1: it has no memory limit (maxmemory 0). Try: salt-ssh" in table
    assert minion.retcode == 1


def test_every_failing_check_is_told_at_once(minion, redis, tmp_path):
    redis.cli("config", "set", "maxmemory-policy", "allkeys-lru")
    redis.cli("config", "set", "appendonly", "no")
    minion.rules = [{"rule": "allow 6379", "source": "/etc/ufw/user.rules", "family": "v4"}]
    minion.unit("LoadState=loaded\nUnitFileState=disabled\n")
    (tmp_path / "tcp").write_text(HEADER + listening("00000000", redis.port))
    minion.module.__pillar__ = {"sites": {"a": {"redis": {"cache": 0, "broker": 65}}}}
    checks = minion.redis_checks()
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
    checks = minion.asks(free_port).redis_checks()
    assert time.monotonic() - began < 0.5
    assert verdicts(checks) == {
        "pong": False,
        **dict.fromkeys(["probe", "memory", "policy", "persistence", "databases", "settings"]),
        **dict.fromkeys(["unit", "listeners", "firewall"], True),
    }
    assert message(checks, "probe") == "not asked"
    assert "connection refused" in message(checks, "pong")


def test_hanging_redis_costs_one_timeout(minion):
    with Server(hangs) as server:
        began = time.monotonic()
        checks = minion.asks(server.port).redis_checks(timeout=0.5)
        assert time.monotonic() - began < 1
    assert verdicts(checks)["pong"] is False
    assert verdicts(checks)["memory"] is None


def test_redis_that_hangs_after_pong(minion):
    def handler(connection, over):
        connection.recv(65536)
        connection.sendall(b"+PONG\r\n")
        over.wait(5)

    with Server(handler) as server:
        checks = minion.asks(server.port).redis_checks(timeout=0.5)
    assert verdicts(checks)["pong"] is True
    assert "no answer" in message(checks, "memory")
    assert verdicts(checks)["probe"] is None


def test_misconf_does_not_hide_other_faults(minion, redis):
    cannot_save(redis)
    redis.cli("config", "set", "maxmemory-policy", "allkeys-lru")
    checks = verdicts(minion.redis_checks())
    assert [name for name in ("pong", "probe", "policy", "persistence") if checks[name] is False] == [
        "pong", "probe", "policy", "persistence",
    ]  # fmt: skip


def test_full_memory(minion, redis):
    redis.cli("config", "set", "maxmemory", "3mb")
    redis.cli("eval", "for i=1,400 do redis.call('set', 'k'..i, string.rep('x', 10000)) end", "0")
    checks = minion.redis_checks()
    assert "its memory is full (OOM)" in message(checks, "probe")
    assert verdicts(checks)["memory"] is False


FLOOD = "for i = 1, 6000 do redis.call('set', 'k' .. i, string.rep('x', 1000){}) end"


def test_memory_threshold(minion, redis):
    used = int(redis.info("used_memory"))
    redis.cli("config", "set", "maxmemory", str(used * 2))
    assert verdicts(minion.redis_checks())["memory"] is True
    minion.gate.FULL = 25
    checks = minion.redis_checks()
    assert "the limit for a deploy is 25 %" in message(checks, "memory")
    assert "raise redis:maxmemory in pillar/hosts/web1.sls" in message(checks, "memory")


def test_the_command_of_each_kind_of_controller(minion):
    assert minion.command("state.apply", "caddy") == "salt-ssh web1 state.apply caddy"
    minion.module.__opts__ = {"file_client": "remote"}
    assert minion.command("test.ping") == "salt web1 test.ping"


def test_the_file_of_a_host_with_dots(minion, redis):
    minion.module.__grains__ = {"id": "web1.example.net"}
    minion.gate.FULL = 1
    checks = minion.redis_checks()
    assert "raise redis:maxmemory in pillar/hosts/web1_example_net.sls" in message(checks, "memory")


def test_a_warm_cache_is_no_fault(minion, redis):
    """What expires makes room when it is needed, whatever else is there."""
    redis.cli("config", "set", "maxmemory", "6mb")
    redis.cli("-n", "1", "rpush", "celery", "a task")
    redis.cli("eval", FLOOD.format(", 'EX', 600"), "0")
    assert int(redis.info("used_memory")) > 0.9 * 6 * 1024**2
    checks = minion.redis_checks()
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
    minion.gate.FULL = 80
    checks = minion.redis_checks()
    assert "queues and other keys that never expire take" in message(checks, "memory")
    assert verdicts(checks)["probe"] is True


def test_too_few_databases(minion, redis):
    minion.module.__pillar__ = {"sites": {"a": {"redis": {"cache": 0, "broker": 65}}}}
    checks = minion.redis_checks()
    assert "it has 65 databases and the sites need 66" in message(checks, "databases")


def test_databases_are_known_without_a_pillar(minion, redis, tmp_path):
    (tmp_path / "sites").mkdir()
    (tmp_path / "sites/a.json").write_text(json.dumps({"slug": "a", "redis": {"cache": 64, "broker": 63}}))
    (tmp_path / "sites/broken.json").write_text("{")
    checks = minion.redis_checks()
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
        checks = minion.asks(server.port).redis_checks()
    assert "could not be read back" in message(checks, "probe")


def test_without_append_only_file(minion, redis):
    redis.cli("config", "set", "appendonly", "no")
    assert "(appendonly no)" in message(minion.redis_checks(), "persistence")


@pytest.mark.parametrize("name", ["rdb_last_bgsave_status", "aof_last_write_status", "aof_last_bgrewrite_status"])
def test_failed_writes(minion, name):
    info = {**dict.fromkeys(
        ["rdb_last_bgsave_status", "aof_last_write_status", "aof_last_bgrewrite_status"], "ok"
    ), "aof_enabled": "1"}  # fmt: skip
    assert minion.gate._persistence(info) == "last RDB and AOF writes ok"
    with pytest.raises(minion.gate.Fault, match=name):
        minion.gate._persistence({**info, name: "err"})


def test_settings_that_were_changed_while_redis_ran(minion, redis):
    redis.cli("config", "set", "maxmemory", "65mb")
    redis.cli("config", "set", "protected-mode", "no")
    text = message(minion.redis_checks(), "settings")
    assert "maxmemory is 68157440 and not 67108864" in text
    assert "protected-mode is no and not yes" in text


def test_settings_without_a_file(minion, redis):
    redis.config.unlink()
    assert "goldenpath.conf is missing" in message(minion.redis_checks(), "settings")


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
    minion.unit(output)
    assert reason in message(minion.asks(free_port).redis_checks(), "unit")


def test_firewall(minion, free_port):
    minion.rules = [
        {"rule": "allow 6000:7000/tcp", "source": "/etc/ufw/user.rules", "family": "v4"},
        {"rule": "allow 6000:7000/tcp", "source": "/etc/ufw/user.rules", "family": "v6"},
    ]
    text = message(minion.asks(free_port).redis_checks(), "firewall")
    assert f"lets {free_port} in: allow 6000:7000/tcp (/etc/ufw/user.rules). Try: salt-ssh web1 state." in text

    def broken(port):
        raise CommandExecutionError("iptables-save: no")

    minion.salt["ufw.permits"] = broken
    assert "ufw could not be asked: iptables-save: no" in message(minion.asks(free_port).redis_checks(), "firewall")
    del minion.salt["ufw.permits"]
    assert verdicts(minion.asks(free_port).redis_checks())["firewall"] is False


# --- listeners, from the kernel ----------------------------------------------------------------------------


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
        with pytest.raises(minion.gate.Fault, match=f"port 6379 listens on ({public}) and not on loopback alone"):
            minion.gate._listening(minion.gate.PORT)
    else:
        assert minion.gate._listening(minion.gate.PORT).endswith("only")


def test_connections_are_not_listeners(minion, tmp_path):
    (tmp_path / "tcp").write_text(HEADER + listening("0A00D50A", state="01") + listening("0A00D50A", state="06"))
    assert minion.gate._listening(minion.gate.PORT) == "nothing listens on 6379"


def test_kernel_without_ipv6(minion, tmp_path):
    (tmp_path / "tcp6").unlink()
    (tmp_path / "tcp").write_text(HEADER + listening("0100007F"))
    assert minion.gate._listening(minion.gate.PORT) == "on 127.0.0.1 only"


def test_this_machines_kernel(minion):
    minion.gate.SOCKETS = ("/proc/net/tcp", "/proc/net/tcp6")
    for address, public in (("127.0.0.1", False), ("0.0.0.0", True)):
        with socket.socket() as server:
            server.bind((address, 0))
            server.listen()
            minion.asks(server.getsockname()[1])
            if public:
                with pytest.raises(minion.gate.Fault, match=r"0\.0\.0\.0"):
                    minion.gate._listening(minion.gate.PORT)
            else:
                assert minion.gate._listening(minion.gate.PORT) == "on 127.0.0.1 only"


BOOT = "1:M 28 Nov 2026 12:00:00.000 * Server initialized\n"
REFUSED = "1:M 28 Nov 2026 12:00:00.001 # Bad file format reading the append only file appendonly.aof.1.incr.aof: make"
READY = "1:M 28 Nov 2026 12:00:00.002 * Ready to accept connections tcp\n"


@pytest.mark.parametrize(
    ("log", "told", "hint"),
    [
        ("", "", "systemctl status redis-server"),
        (BOOT + REFUSED, ", it does not start: 'Bad file format reading the append only file", "redis-check-aof --fix"),
        (BOOT + REFUSED + "\n" + BOOT + READY, "", "systemctl status redis-server"),
        (
            BOOT + "1:M 28 Nov 2026 12:00:00.001 # AOF manifest file is empty\n",
            "manifest file is empty'",
            "redis.before",
        ),
        (
            BOOT + "1:M 28 Nov 2026 1 # Fatal error loading the DB, check server logs. Exiting.\n",
            "loading the DB",
            "tail -n",
        ),
    ],
)
def test_why_it_does_not_start(minion, log, told, hint):
    pathlib.Path(minion.gate.LOG_FILE.format("")).write_text(log)
    answer = minion.asks(free()).gate.answer("web1")
    assert answer.startswith("Redis on web1 did not answer PONG: connection refused on ") and told in answer
    assert hint in answer.partition(". Try: ")[2]


def test_why_a_sites_own_does_not_start(minion):
    pathlib.Path(minion.gate.CONFIG_OF.format("acme")).write_text(f"port {free()}\n")
    pathlib.Path(minion.gate.LOG_FILE.format("-acme")).write_text(BOOT + REFUSED)
    answer = minion.gate.answer("web1", slug="acme")
    assert answer.startswith("Redis of acme on web1 did not answer PONG: ") and "it does not start" in answer
    assert "/var/lib/redis/acme/appendonlydir/*.manifest; systemctl start redis-server@acme" in answer


@pytest.fixture
def owners(minion, redis, tmp_path):
    """Two sites with a Redis each: acme's runs, and asks who is there; beta's does not."""
    (tmp_path / "acme").mkdir()
    theirs = RealRedis(tmp_path / "acme")
    text = theirs.config.read_text().replace('requirepass ""\n', "")
    theirs.config.write_text(f"{text}user default on >site ~* &* +@all -@admin\nuser goldenpath on >ours ~* &* +@all\n")
    pathlib.Path(minion.gate.PASSWORD).write_text("ours\n")
    pathlib.Path(f"{minion.gate.PASSWORD}-acme").write_text("site\n")
    for slug, port in (("acme", theirs.port), ("beta", free())):
        pathlib.Path(minion.gate.CONFIG_OF.format(slug)).write_text(theirs.config.read_text() + f"port {port}\n")
        facts = {"redis": {"cache": 0, "broker": 1, "own": True}}
        path = pathlib.Path(minion.gate.SITES, f"{slug}.json")
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(facts))
    theirs.start()
    yield minion.asks(redis.port)
    theirs.stop()


def test_a_sites_own_is_asked_as_ours_and_tried_as_the_sites(owners):
    assert owners.gate.answer("web1", slug="acme") == "PONG"
    found = {each["check"]: each for each in owners.gate.checks("web1", site="acme")}
    assert found["pong of acme"]["ok"] and found["probe of acme"]["ok"], found
    pathlib.Path(f"{owners.gate.PASSWORD}-acme").write_text("another\n")
    found = {each["check"]: each for each in owners.gate.checks("web1", site="acme")}
    assert found["probe of acme"]["ok"] is False


def test_a_deploy_of_one_site_asks_no_other_sites(owners):
    told = {each["check"].partition(" of ")[2] for each in owners.gate.checks("web1", site="acme")}
    assert told == {"", "acme"}
    told = owners.gate.checks("web1")
    assert {each["check"].partition(" of ")[2] for each in told} == {"", "acme", "beta"}
    assert any(each.startswith("Redis of beta on web1 did not answer PONG") for each in owners.gate.failed(told))
    assert [each for each in told if each["check"] == "firewall of acme"] == []
