"""Redis on a real host: every fault stops a deploy at the gate, drift is named and mended, and nothing gets lost."""

import json
import time

import pytest

from .conftest import ROOT, SLUG, turns

STRANGER = (
    "import socket; s = socket.create_server(('127.0.0.1', 6379))\n"
    "while True: c = s.accept()[0]; c.sendall(b'HTTP/1.1 400 Bad Request\\r\\n\\r\\n'); c.close()"
)
# name: (break it, what a person must undo before state.apply does the rest, what the gate says)
FAULTS = {
    "stopped": (
        "systemctl stop redis-server",
        "true",
        "did not answer PONG: connection refused on 127.0.0.1:6379",
    ),
    "password": (
        "goldenpath redis config set requirepass secret",
        "true",
        "NOAUTH",
    ),
    "save-fails": (
        "chown root /var/lib/redis; redis-cli set a b; goldenpath redis bgsave; sleep 1",
        "chown redis /var/lib/redis; goldenpath redis bgsave; sleep 1; redis-cli del a",
        "MISCONF",
    ),
    "memory": (
        "goldenpath redis config set maxmemory 8mb; redis-cli eval \"for i = 1, 9000 do redis.call('rpush', 'flood', "
        "string.rep('x', 1000)) end\" 0",
        "redis-cli del flood",
        "queues and other keys that never expire take",
    ),
    "public": (
        "goldenpath redis config set protected-mode no; goldenpath redis config set bind 0.0.0.0",
        "true",
        "and not on loopback alone",
    ),
    "hole": ("ufw allow 6000:7000/tcp", "true", "the firewall lets"),
    "stranger": (
        f'systemctl stop redis-server; systemd-run --quiet --unit=stranger python3 -c "{STRANGER}"; sleep 1',
        "systemctl stop stranger; systemctl start redis-server",
        "something that is not Redis",
    ),
    "hanging": ("pkill -STOP -x redis-server", "pkill -CONT -x redis-server", "no answer from"),
    "disk-full": (
        "systemctl stop redis-server; mkdir -p /run/kept; cp -a /var/lib/redis/. /run/kept; "
        "mount -t tmpfs -o size=2m,uid=$(id -u redis),gid=$(id -g redis),mode=0750 none /var/lib/redis; "
        "cp -a /run/kept/. /var/lib/redis; systemctl start redis-server; "
        "redis-cli eval \"redis.call('set', 'huge', string.rep('x', 4000000), 'EX', 600)\" 0; sleep 2",
        "systemctl stop redis-server; umount /var/lib/redis; systemctl start redis-server",
        "cannot save to disk (MISCONF)",
    ),
}
DRIFT = {
    "policy": ("goldenpath redis config set maxmemory-policy allkeys-lru", "redis-settings"),
    "bind": ("goldenpath redis config set bind 0.0.0.0", "redis-settings"),
    "hole": ("ufw allow 6379", "firewall-enabled"),
    "stopped": ("systemctl disable --now redis-server", "redis-service"),
    "masked": ("systemctl mask --now redis-server", "redis-unmasked"),
    "config": ("echo 'appendonly no' >> /etc/redis/goldenpath.conf", "redis-config"),
    "removed": ("DEBIAN_FRONTEND=noninteractive apt-get remove -qq redis-server </dev/null", "base-packages"),
}
NOT_RUNNING = ("stopped", "masked", "removed")
BEGAN = "systemctl show -p ExecMainStartTimestampMonotonic --value redis-server"
EFFECTIVE = "goldenpath redis config get '*' | paste - - | sort"
PID = "systemctl show -p MainPID --value redis-server"


@pytest.fixture
def healthy(request):
    """A host with its Redis and site well, before and after."""
    world = request.getfixturevalue(getattr(request, "param", "trixie"))
    yield world
    end = time.monotonic() + 60
    while world.health() != (200, "ok") and time.monotonic() < end:
        time.sleep(0.5)
    assert world.health() == (200, "ok")


@turns("healthy", FAULTS)  # Redis 7.0 and 8.0
def test_a_fault_stops_the_deploy_at_the_gate(healthy, name):
    broken, healed, sentence = FAULTS[name]
    # A worker whose broker refuses ends, and systemd starts it again: not now, so that what starts is the deploy's.
    healthy.sh(f"systemctl stop sum-{SLUG}-celery; {broken}", check=False)
    before = healthy.state()
    try:
        status, output = healthy.deploy()
        after = healthy.state()
    finally:
        healthy.sh(healed, check=False)
        states = healthy.apply("redis.ready")
        healthy.sh(f"systemctl start sum-{SLUG}-celery")
    assert {key: state for key, state in states.items() if state[0] is not True} == {}
    assert status != 0
    assert sentence in output and f"Redis on {healthy.name}" in output and "Try: " in output
    assert "Traceback" not in output and "fetch" not in output
    assert after == before


def test_every_fault_is_told_at_once(healthy):
    healthy.sh("systemctl disable --now redis-server")
    healthy.sh("ufw allow 6379")
    try:
        status, output = healthy.deploy()
    finally:
        healthy.salt("state.apply")
    assert status != 0 and "fetch" not in output
    for sentence in (
        "did not answer PONG: connection refused",
        "redis-server is disabled",
        "the firewall lets 6379 in: ",
    ):
        assert output.count(sentence) == 1, output


def test_a_warm_cache_does_not_stop_a_deploy(healthy):
    """Full to the limit with what expires: it makes room, for the queue as well."""
    healthy.sh(
        "redis-cli eval \"local x = string.rep('x', 100000) for i = 1, 800 do redis.call('set', 'warm:' .. i, x, "
        "'EX', 600) end\" 0"
    )
    try:
        assert int(healthy.sh("redis-cli info stats | sed -n 's/^evicted_keys:\\([0-9]*\\).*/\\1/p'")) > 0
        status, output = healthy.deploy()
        assert status == 0, output
    finally:
        healthy.sh("redis-cli -n 0 flushdb")


@turns("healthy", DRIFT)
def test_drift_is_named_and_mended(healthy, name):
    broken, state = DRIFT[name]
    healthy.sh(broken)
    before = healthy.sh(BEGAN)
    dry = healthy.apply("redis.ready", "test=True")
    # A stopped Redis fails its checks in a dry run as well: nobody started it.
    assert state in {key.partition("|")[0] for key, found in dry.items() if found[0] is not True}, dry
    states = healthy.apply("redis.ready")
    assert {key: found for key, found in states.items() if found[0] is not True} == {}
    again = healthy.apply("redis.ready")
    assert {key: found for key, found in again.items() if found[0] is not True or found[1]} == {}
    assert (healthy.sh(BEGAN) == before) is (name not in NOT_RUNNING), "a needless restart"
    assert healthy.sh("redis-cli ping") == "PONG"
    assert healthy.sh("ss -Hltn 'sport = :6379' | awk '{print $4}' | sort") == "127.0.0.1:6379\n[::1]:6379"


def test_another_memory_limit_needs_no_restart(healthy):
    before = healthy.sh(BEGAN)
    healthy.pillar["redis"]["maxmemory"] = "80mb"
    healthy.write_pillar()
    try:
        assert healthy.apply("redis")["redis-settings|redis"][1]["maxmemory"]["new"] == str(80 << 20)
        assert healthy.sh("goldenpath redis config get maxmemory").splitlines()[1] == str(80 << 20)
    finally:
        healthy.pillar["redis"]["maxmemory"] = "64mb"
        healthy.write_pillar()
        healthy.apply("redis")
    assert healthy.sh(BEGAN) == before


def test_the_packages_own_file_is_left_to_the_package(healthy):
    """Nobody reads it: what it says is no drift and no fault."""
    healthy.sh("cp -p /etc/redis/redis.conf /run/kept.conf; sed -i 's/^bind .*/bind 0.0.0.0/' /etc/redis/redis.conf")
    try:
        states = healthy.apply("redis.ready")
        assert {key: found for key, found in states.items() if found[0] is not True or found[1]} == {}
        assert "bind 0.0.0.0" in healthy.sh("cat /etc/redis/redis.conf")
        assert not healthy.salt("goldenpath.redis_ready")[0]
    finally:
        healthy.sh("cp -p /run/kept.conf /etc/redis/redis.conf")


# As provisioning wrote it before: the package's file first, and not what has come from it into ours.
INCLUDES = (
    "set -e; cd /etc/redis; cp -p redis.conf /run/kept.conf; sed -i -e '/^\\(pidfile\\|logfile\\) /d' -e "
    "'1a include /etc/redis/redis.conf' goldenpath.conf; printf '%s' {edit} >> redis.conf; "
    "systemctl restart redis-server"
)


@pytest.mark.parametrize("healthy", ["bookworm", "trixie"], indirect=True)  # Redis 7.0 and 8.0
def test_a_file_that_included_the_packages_gives_way_without_a_restart(healthy):
    healthy.sh(INCLUDES.format(edit="''"))
    pid, effective = healthy.sh(PID), healthy.sh(EFFECTIVE)
    states = healthy.apply("redis.ready")
    assert {key: found for key, found in states.items() if found[0] is not True} == {}
    assert [key.partition("|")[0] for key, found in states.items() if found[1]] == ["redis-config"]
    assert healthy.sh("grep -c '^include' /etc/redis/goldenpath.conf", check=False) == "0"
    assert healthy.sh(PID) == pid and pid != "0"
    assert healthy.sh(EFFECTIVE) == effective
    # Started with the file alone, it is the same Redis.
    healthy.sh("systemctl restart redis-server")
    assert healthy.sh(EFFECTIVE) == effective


@pytest.mark.parametrize("healthy", ["bookworm", "trixie"], indirect=True)
def test_what_only_the_include_set_is_refused(healthy):
    healthy.sh(INCLUDES.format(edit="'timeout 300\n'"))
    files = "sha256sum /etc/redis/*; stat -c %Y /etc/redis/*"
    before = healthy.sh(PID), healthy.sh(files)
    try:
        result, changes, comment = healthy.apply("redis")["redis-config|/etc/redis/goldenpath.conf"]
        assert result is False and changes == {}
        assert "which is no longer included, is the only one to set timeout. Try: " in comment
        assert (healthy.sh(PID), healthy.sh(files)) == before
        assert healthy.sh("goldenpath redis config get timeout").splitlines()[1] == "300"
    finally:
        healthy.sh("cp -p /run/kept.conf /etc/redis/redis.conf")
        states = healthy.apply("redis.ready")
        healthy.sh("systemctl restart redis-server")
    assert {key: found for key, found in states.items() if found[0] is not True} == {}
    assert healthy.sh("goldenpath redis config get timeout").splitlines()[1] == "0"


def _manage(world, words):
    return world.sh(
        f"cd {ROOT}/current/src && set -a && . {ROOT}/.env && . {ROOT}/current/release.env && set +a && "
        f"setpriv --reuid=sum-{SLUG} --regid=sum-{SLUG} --init-groups {ROOT}/current/venv/bin/python manage.py {words}"
    )


def _queued(world):
    return int(world.sh("redis-cli -n 1 llen celery"))


def test_a_thousand_queued_tasks_survive(healthy):
    healthy.sh(f"systemctl stop sum-{SLUG}-celery")
    ran = json.loads(_manage(healthy, "task_counts"))["ran"]
    _manage(healthy, "enqueue 1000")
    assert _queued(healthy) == 1000
    flood = (
        'awk \'BEGIN { x = sprintf("%1000s", ""); gsub(/ /, "x", x); '
        'for (i = 0; i < 80000; i++) print "SET flood:" i " " x " EX 60" }\' | redis-cli -n 0 >/dev/null'
    )
    evicted = "redis-cli info stats | sed -n 's/^evicted_keys:\\([0-9]*\\).*/\\1/p'"
    for what in (
        lambda: _manage(healthy, "clearcache"),
        lambda: (healthy.sh(flood), int(healthy.sh(evicted)) > 0 or pytest.fail("it was not full")),
        lambda: healthy.sh("systemctl restart redis-server"),
        # The queue is a second old by now: appendfsync everysec has it on disk.
        lambda: healthy.sh("sleep 1.5; pkill -KILL -x redis-server; sleep 2"),
        healthy.host.reboot,
        lambda: healthy.sh(
            "DEBIAN_FRONTEND=noninteractive apt-get install -qq --reinstall redis-server redis-tools </dev/null"
        ),
    ):
        healthy.sh(f"systemctl stop sum-{SLUG}-celery")
        before = _queued(healthy)
        what()
        # A reboot starts the worker, which may have begun.
        healthy.sh(f"systemctl stop sum-{SLUG}-celery")
        done = json.loads(_manage(healthy, "task_counts"))["ran"] - ran
        assert _queued(healthy) + done == 1000, (before, done)
    healthy.sh(f"systemctl start sum-{SLUG}-celery")
    end = time.monotonic() + 120
    while time.monotonic() < end and json.loads(_manage(healthy, "task_counts"))["ran"] - ran < 1000:
        time.sleep(1)
    assert json.loads(_manage(healthy, "task_counts"))["ran"] - ran == 1000


def test_a_stopped_worker_finishes_its_tasks(healthy):
    ran = json.loads(_manage(healthy, "task_counts"))["ran"]
    _manage(healthy, "enqueue 2 --seconds 6")
    time.sleep(2)
    began = time.monotonic()
    healthy.sh(f"systemctl stop sum-{SLUG}-celery")
    assert time.monotonic() - began < 60
    assert json.loads(_manage(healthy, "task_counts"))["ran"] - ran == 2
    healthy.sh(f"systemctl start sum-{SLUG}-celery")
