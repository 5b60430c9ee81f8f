"""gunicorn's configuration: the visitor's address, with and without a configuration of the site's own."""

import runpy
from types import SimpleNamespace

import pytest
from goldenpath import sandbox

CONF = f"{sandbox.PROGRAMS}/gunicorn_conf.py"


def seen(conf, **environ):
    worker = SimpleNamespace(wsgi=lambda environ, _: environ)
    conf["post_worker_init"](worker)
    return worker.wsgi({"REMOTE_ADDR": "", **environ}, None)["REMOTE_ADDR"]


@pytest.fixture
def conf(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda: runpy.run_path(CONF)


@pytest.mark.parametrize(
    ("said", "address"),
    [
        ("192.0.2.7", "192.0.2.7"), ("2001:db8::7", "2001:db8::7"), ("10.9.9.9, 192.0.2.7", "192.0.2.7"),
        ("", "127.0.0.1"), (" , ", "127.0.0.1"),
    ],
)  # fmt: skip
def test_the_visitors_address(conf, said, address):
    assert seen(conf(), HTTP_X_FORWARDED_FOR=said) == address


def test_nobody_but_the_host_asks_without_it(conf):
    assert seen(conf()) == "127.0.0.1"


def test_a_configuration_of_the_sites_own_is_read(conf, tmp_path):
    own = "max_requests = 7\ndef post_worker_init(worker):\n    worker.mine = True\n"
    (tmp_path / "gunicorn.conf.py").write_text(own)
    found, worker = conf(), SimpleNamespace(wsgi=lambda environ, _: environ)
    found["post_worker_init"](worker)
    assert found["max_requests"] == 7 and worker.mine and seen(found, HTTP_X_FORWARDED_FOR="192.0.2.7") == "192.0.2.7"
