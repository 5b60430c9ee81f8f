"""
redis_server: drift of a real redis-server, mended without a restart where that can be, and nothing lost.
"""

import functools
import json
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
    assert minion.gate._configured() == {
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
