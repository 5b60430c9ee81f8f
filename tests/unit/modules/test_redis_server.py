"""
redis_server: drift of a real redis-server, mended without a restart where that can be, and nothing lost.
"""

import functools
import hashlib
import json
import pathlib
import shutil

import pytest
from salt.exceptions import CommandExecutionError

from tests.unit.redis_host import RealRedis
from tests.unit.servers import Server, hangs

# --- drift -------------------------------------------------------------------------------------------------


def test_no_drift(minion, redis):
    assert minion.drift() == {}
    assert minion.mend() == {}


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
    assert list(minion.drift()) == [name]
    assert list(minion.mend()) == [name]
    assert minion.restarts == []
    assert minion.drift() == {}


def test_a_replica_is_told_and_freed(minion, redis, free_port):
    redis.cli("replicaof", "127.0.0.1", free_port)
    assert f"replicaof is 127.0.0.1 {free_port} and not no one" in " ".join(
        each["message"] for each in minion.redis_checks()
    )
    assert minion.mend()["replicaof"]["new"] == "no one"
    assert minion.restarts == []
    assert redis.info("role") == "master"


def test_append_only_file_switched_off_loses_nothing(minion, redis):
    redis.cli("config", "set", "appendonly", "no")
    redis.cli("rpush", "celery", "task")
    assert minion.mend() == {"appendonly": {"old": "no", "new": "yes"}}
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
    assert minion.append_only(test=True) == change
    assert minion.append_only() == change
    assert minion.append_only() == {}
    redis.stop()  # kill -9
    redis.start()
    assert redis.cli("llen", "celery") == "2"


def test_append_only_file_of_a_redis_that_cannot_be_asked(minion, redis, free_port):
    assert minion.asks(free_port).append_only() == {}
    redis.cli("config", "set", "requirepass", "x")
    assert minion.append_only() == {}


def test_append_only_file_that_cannot_be_written(minion, redis):
    redis.cli("config", "set", "appendonly", "no")
    shutil.rmtree(redis.data)
    with pytest.raises(CommandExecutionError, match="Redis on web1 cannot write an append-only file"):
        minion.append_only()


def test_what_redis_cannot_change_while_it_runs(minion, redis):
    redis.config.write_text(redis.config.read_text().replace("databases 65", "databases 66"))

    def restart(name):
        redis.stop()
        redis.start()
        minion.restarts.append(name)
        return True

    minion.salt["service.restart"] = restart
    assert list(minion.mend()) == ["databases", "restart"]
    assert minion.restarts == ["redis-server"]
    assert minion.mend() == {}


def test_password_that_somebody_set(minion, redis):
    redis.cli("config", "set", "requirepass", "s3cret")
    assert "s3cret" not in json.dumps(minion.drift())
    # Nothing restarted it really, and that is told.
    with pytest.raises(CommandExecutionError, match=r"still differs from .* in access"):
        minion.mend()
    assert minion.restarts == ["redis-server"]


def test_password_is_not_told(minion):
    assert minion.gate._told("requirepass", "s3cret") == "set"


def test_redis_that_listens_elsewhere_is_restarted(minion, free_port):
    assert list(minion.asks(free_port).drift()) == ["access"]
    with pytest.raises(CommandExecutionError):
        minion.asks(free_port).mend()
    assert minion.restarts == ["redis-server"]


def test_failed_restart(minion, redis):
    redis.cli("config", "set", "requirepass", "x")
    minion.salt["service.restart"] = lambda name: False
    with pytest.raises(CommandExecutionError, match="did not restart"):
        minion.mend()


def test_hanging_redis_is_not_restarted(minion):
    minion.salt["redis_gate.ask"] = functools.partial(minion.gate.ask, timeout=0.3)
    with Server(hangs) as server, pytest.raises(CommandExecutionError, match="no answer"):
        minion.asks(server.port).mend()
    assert minion.restarts == []


def test_configuration_with_every_kind_of_value(minion, tmp_path):
    (tmp_path / "goldenpath.conf").write_text(
        '# a comment\n\ninclude /x\nSave ""\nsave 900 1\nsave 60 2\n'
        'maxmemory 1GB\nrequirepass ""\nbind 127.0.0.1 -::1\n'
    )
    assert minion.gate._configured(minion.gate.Instance()) == {
        "save": "900 1 60 2", "maxmemory": str(1024**3), "requirepass": "", "bind": "127.0.0.1 -::1",
    }  # fmt: skip


def test_a_data_folder_behind_a_link_is_no_drift(minion, redis, tmp_path):
    (tmp_path / "volume").symlink_to(redis.data)
    redis.config.write_text(redis.config.read_text() + f"dir {tmp_path}/volume\n")
    assert minion.drift() == {}
    redis.config.write_text(redis.config.read_text().replace("/volume", "/elsewhere"))
    assert list(minion.drift()) == ["dir"]


def test_a_pid_file_behind_a_link_is_no_drift(minion, tmp_path):
    """Redis 6.0 runs with /var/run as its package said it, and our file says /run."""
    (tmp_path / "run").symlink_to(tmp_path)
    server = RealRedis(tmp_path)
    text = server.config.read_text()
    server.config.write_text(f"{text}pidfile {tmp_path}/run/pid\n")
    server.start()
    minion.asks(server.port)
    try:
        server.config.write_text(f"{text}pidfile {tmp_path}/pid\n")
        assert minion.drift() == {}
        server.config.write_text(f"{text}pidfile {tmp_path}/other\n")
        assert list(minion.drift()) == ["pidfile"]
    finally:
        server.stop()


# --- users -------------------------------------------------------------------------------------------------

# As salt/redis/files/goldenpath.conf has it on a Redis of these versions.
DEFAULT = "on nopass ~* &* +@all -@admin +client|list"
FORBIDDEN = [
    "config set maxmemory 1", "config get maxmemory", "shutdown nosave", "acl setuser x on nopass +@all ~*", "acl list",
    "debug sleep 0", "module list", "replicaof 127.0.0.1 1", "monitor", "save", "bgsave", "client pause 1",
    "client kill id 1", "slowlog get", "failover", "latency reset", "cluster reset",
]  # fmt: skip
NEEDED = [
    "ping", "info", "client id", "client setname a", "client getname", "client list", "flushdb", "set a b", "keys *",
    "eval return(1) 0", "scan 0", "publish a b", "rpush celery a", "blpop celery 1", "memory usage a", "config",
]  # fmt: skip


@pytest.fixture
def users(minion, redis, tmp_path):
    """The same host with a file that has our users, which the running Redis does not know yet."""
    minion.server.PASSWORD = minion.gate.PASSWORD
    known = minion.server.admin()
    with open(minion.gate.CONFIG, "a") as stream:
        stream.write(f"user default {DEFAULT}\nuser goldenpath on #{known} ~* &* +@all\n")
    return minion


def as_site(redis, words):
    return redis.cli(*words.split())


def test_the_password_is_made_once_and_roots(minion, tmp_path):
    minion.server.PASSWORD = str(tmp_path / "etc/redis-password")
    minion.server.__opts__["test"] = True
    assert len(minion.server.admin()) == 64 and not (tmp_path / "etc").exists()
    minion.server.__opts__["test"] = False
    known = minion.server.admin()
    assert minion.server.admin() == known
    password = (tmp_path / "etc/redis-password").read_text().strip()
    assert (tmp_path / "etc/redis-password").stat().st_mode & 0o777 == 0o600
    assert len(password) == 64 and hashlib.sha256(password.encode()).hexdigest() == known


def test_users_come_without_a_restart(users, redis):
    redis.cli("rpush", "celery", "task")
    assert set(users.drift()) == {"user default", "user goldenpath"}
    assert set(users.mend()) == {"user default", "user goldenpath"}
    assert users.restarts == [] and users.drift() == {} and users.mend() == {}
    assert redis.cli("llen", "celery") == "1"
    assert users.redis_ping() == "PONG" and not [each for each in users.redis_checks() if each["ok"] is False]


def test_a_site_administers_nothing(users, redis):
    users.mend()
    for words in FORBIDDEN:
        assert as_site(redis, words).startswith(("NOPERM", "ERR DEBUG command not allowed")), words
    for words in NEEDED:
        assert not as_site(redis, words).startswith("NOPERM"), words
    assert redis.process.poll() is None
    # Also not as somebody else, and not by taking the name.
    for words in ("auth goldenpath x", "auth goldenpath none", "hello 3 auth goldenpath x"):
        assert "WRONGPASS" in as_site(redis, words)


def test_a_user_that_a_site_made_before_goes(users, redis):
    redis.cli("acl", "setuser", "backdoor", "on", "nopass", "~*", "+@all")
    assert users.drift()["user backdoor"] == {"old": "there", "new": "gone"}
    users.mend()
    assert "WRONGPASS" in redis.cli("auth", "backdoor", "x")
    assert users.drift() == {}


@pytest.mark.parametrize("change", ["+@admin", "resetkeys ~a*", ">another", "off"])
def test_users_that_somebody_changed_come_back(users, redis, change):
    users.mend()
    password = pathlib.Path(users.gate.PASSWORD).read_text().strip()
    own = ("--user", "goldenpath", "--pass", password, "--no-auth-warning")
    redis.cli(*own, "acl", "setuser", "default", *change.split())
    if change != "off":  # of which the first question tells
        assert list(users.drift()) == ["user default"]
    assert "user default" in users.mend()
    assert users.restarts == [] and users.drift() == {}


def test_no_trial_stays(users, redis):
    users.drift()
    assert redis.cli("acl", "users") == "default"
