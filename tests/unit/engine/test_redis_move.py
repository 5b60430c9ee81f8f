"""A site's keys go from one real Redis to another: none is lost, none is there twice, whenever it is ended."""

import os
import pathlib
import pwd
import shutil
import socket
import subprocess
import time

import pytest
from goldenpath import redis_gate, redis_move
from goldenpath.errors import Failed

PASSWORD = "0123abcd" * 8
LUA = "for at = 1, 300 do redis.call('lpush', 'celery', '{}' .. at) end"


class Server:
    """A redis-server of the test's own. user: what its file says of the sites' user."""

    def __init__(self, folder, user):
        folder.mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.config = folder / "redis.conf"
        admin = f"user goldenpath on >{PASSWORD} ~* +@all"
        text = f'port {self.port}\nbind 127.0.0.1\ndir {folder}\nsave ""\nuser default on {user} ~* +@all\n{admin}\n'
        self.config.write_text(text)
        # redis-tools has the program under the name of one of its checks, which it goes by.
        program = shutil.which("redis-server") or shutil.which("redis-check-rdb")
        self._process = subprocess.Popen(["redis-server", self.config], executable=program, stdout=subprocess.DEVNULL)
        end = time.monotonic() + 10
        while b"PONG" not in self.cli("ping"):
            assert self._process.poll() is None and time.monotonic() < end
            time.sleep(0.02)

    def cli(self, *words, number=0, feed=b""):
        argv = ["redis-cli", "-p", self.port, "-n", number, "--user", "goldenpath", "--no-auth-warning", *words]
        env = {**os.environ, "REDISCLI_AUTH": PASSWORD}
        return subprocess.run(list(map(str, argv)), capture_output=True, env=env, input=feed).stdout.strip()

    def stop(self):
        self._process.kill()
        self._process.wait()


@pytest.fixture
def servers(site, tmp_path, monkeypatch):
    """The host's Redis and the site's own; the environment names the site's own."""
    shared, own = Server(tmp_path / "shared", "nopass"), Server(tmp_path / "own", ">site")
    monkeypatch.setattr(redis_gate, "PORT", shared.port)
    monkeypatch.setattr(redis_gate, "CONFIG_OF", str(own.config).replace("redis.conf", "{}.conf"))
    own.config.rename(redis_gate.Instance(site.slug).config)
    password = tmp_path / "password"
    password.write_text(PASSWORD)
    monkeypatch.setattr(redis_gate, "PASSWORD", str(password))
    monkeypatch.setattr(redis_gate, "OWNER", pwd.getpwuid(os.geteuid()).pw_name)
    os.makedirs(site.root)
    pathlib.Path(site.path(".env")).write_text(f'REDIS_URL="redis://:site@127.0.0.1:{own.port}/0"\n')
    yield shared, own
    shared.stop()
    own.stop()


def test_every_kind_of_key_arrives(servers, site):
    shared, own = servers
    for words in (
        ("set", "plain", "1"), ("set", "short", "1", "ex", "1000"), ("rpush", "list", "a", "b"), ("sadd", "set", "a"),
        ("zadd", "sorted", "1", "a"), ("hset", "hash", "a", "1"), ("xadd", "stream", "1-1", "a", "1"),
    ):  # fmt: skip
        shared.cli(*words)
    shared.cli("-x", "set", "binary", feed=bytes(range(256)))
    shared.cli("eval", r"redis.call('set', '\255\0 key', 'x')", 0)
    shared.cli("lpush", "celery", "task", number=1)
    # A neighbour's.
    shared.cli("set", "neighbour", "1", number=2)
    assert redis_move.gather(site) == 10
    assert own.cli("dbsize") == b"9" and shared.cli("dbsize") == b"0"
    assert own.cli("lrange", "list", 0, -1).split() == [b"a", b"b"] and own.cli("llen", "celery", number=1) == b"1"
    assert 900 < int(own.cli("ttl", "short")) <= 1000 and own.cli("ttl", "plain") == b"-1"
    assert own.cli("strlen", "binary") == b"256" and own.cli("exists", "stream", "sorted", "hash", "set") == b"4"
    assert own.cli("eval", r"return redis.call('get', '\255\0 key')", 0) == b"x"
    assert shared.cli("get", "neighbour", number=2) == b"1"
    assert redis_move.gather(site) == 0, "a second time there is nothing to do"


def test_what_was_written_meanwhile_stays_and_older_tasks_are_first(servers, site):
    shared, own = servers
    shared.cli("lpush", "celery", "old1", "old2", number=1)
    own.cli("lpush", "celery", "new1", "new2", number=1)
    for name in ("old", "both"):
        shared.cli("sadd", "bindings", name, number=1)
        shared.cli("zadd", "index", 1, name, number=1)
        shared.cli("hset", "unacked", name, "old", number=1)
    own.cli("sadd", "bindings", "both", number=1)
    own.cli("zadd", "index", 2, "both", number=1)
    own.cli("hset", "unacked", "both", "new", number=1)
    shared.cli("set", "page", "stale")
    own.cli("set", "page", "fresh")
    redis_move.gather(site)
    # kombu takes from the right.
    assert own.cli("lrange", "celery", 0, -1, number=1).split() == [b"new2", b"new1", b"old2", b"old1"]
    assert sorted(own.cli("smembers", "bindings", number=1).split()) == [b"both", b"old"]
    assert own.cli("zrange", "index", 0, -1, "withscores", number=1).split() == [b"old", b"1", b"both", b"2"]
    assert own.cli("hget", "unacked", "both", number=1) == b"new" and own.cli("hlen", "unacked", number=1) == b"2"
    assert own.cli("get", "page") == b"fresh"
    assert own.cli("keys", "goldenpath*") == own.cli("keys", "goldenpath*", number=1) == b""
    assert shared.cli("dbsize") == shared.cli("dbsize", number=1) == b"0"


class Ended(Exception):
    """As a kill would."""


@pytest.mark.parametrize("turn", range(1, 26))
def test_whenever_it_is_ended_no_task_is_lost_or_doubled(servers, site, monkeypatch, turn):
    shared, own = servers
    shared.cli("eval", LUA.format("old"), 0, number=1)
    own.cli("eval", LUA.format("new"), 0, number=1)
    shared.cli("sadd", "bindings", "old", number=1)
    real, asked = redis_gate.ask, []

    def ask(*commands, **options):
        answer = real(*commands, **options)
        asked.append(commands)
        if len(asked) == turn:
            raise Ended
        return answer

    monkeypatch.setattr(redis_gate, "ask", ask)
    try:
        redis_move.gather(site)
    except Ended:
        redis_move.gather(site)
    else:
        assert turn > 10, "it was not ended at all"
    tasks = own.cli("lrange", "celery", 0, -1, number=1).split()
    assert len(tasks) == len(set(tasks)) == 600
    assert own.cli("scard", "bindings", number=1) == b"1" and shared.cli("dbsize", number=1) == b"0"


def test_and_back(servers, site):
    shared, own = servers
    assert redis_move.two(site) and redis_move.here(site) == site.slug
    own.cli("lpush", "celery", "task", number=1)
    pathlib.Path(site.path(".env")).write_text(f'REDIS_URL="redis://127.0.0.1:{shared.port}/0"\n')
    assert redis_move.here(site) is None
    assert redis_move.gather(site) == 1 and shared.cli("llen", "celery", number=1) == b"1"


def test_one_that_has_no_room_is_told_and_nothing_is_lost(servers, site):
    shared, own = servers
    own.cli("config", "set", "maxmemory", "1")
    shared.cli("lpush", "celery", "task", number=1)
    with pytest.raises(Failed, match=r"^The keys of acme-kitchens do not reach Redis of acme-kitchens on web1: .*OOM"):
        redis_move.gather(site)
    assert shared.cli("llen", "celery", number=1) == b"1"


def test_one_that_is_down_is_told(servers, site):
    servers[0].cli("lpush", "celery", "task", number=1)
    servers[1].stop()
    with pytest.raises(Failed, match=r"do not reach Redis of acme-kitchens on web1: .*\. Try: "):
        redis_move.gather(site)
    assert servers[0].cli("llen", "celery", number=1) == b"1"
