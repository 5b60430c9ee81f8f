"""A host with its modules, and a real Redis for those that ask one."""

import pytest

from tests.unit.redis_host import Minion, RealRedis, free


@pytest.fixture
def minion(tmp_path):
    return Minion(tmp_path)


@pytest.fixture
def redis(tmp_path, minion):
    server = RealRedis(tmp_path)
    server.start()
    minion.asks(server.port)
    yield server
    server.stop()


@pytest.fixture
def free_port():
    return free()
