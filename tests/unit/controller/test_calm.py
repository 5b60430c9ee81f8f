"""What makes salt-run quick where no master daemon runs, and leaves a master alone."""

import socket
import time

import pytest
import salt.config
import salt.utils.event

from tests.conftest import ROOT


@pytest.fixture
def calm(load, tmp_path, monkeypatch):
    slow = salt.utils.event.SaltEvent.connect_pull
    monkeypatch.setattr(salt.utils.event.SaltEvent, "connect_pull", slow)
    module = load("_controller/calm.py", opts={"ext_pillar": [], "sock_dir": str(tmp_path), "id": "web1"})
    monkeypatch.setattr(module.atexit, "register", lambda *_: None)
    module.slow = slow
    return module


def test_no_second_is_lost_without_a_bus(calm, tmp_path):
    opts = {**salt.config.master_config(None), "sock_dir": str(tmp_path)}
    assert calm.__virtual__() is True
    assert calm.calm() == {}
    began = time.monotonic()
    with salt.utils.event.MasterEvent(str(tmp_path), opts=opts, listen=False) as event:
        event.fire_event({}, "nobody/listens")
    assert time.monotonic() - began < 0.9


def test_a_running_master_is_told_everything(calm, tmp_path):
    with socket.socket(socket.AF_UNIX) as bus:
        bus.bind(str(tmp_path / "master_event_pull.ipc"))
        calm.calm()
    assert salt.utils.event.SaltEvent.connect_pull is calm.slow


def test_a_minion_has_none_of_it(load):
    assert load("_controller/calm.py", opts={"id": "web1"}).__virtual__()[0] is False


def test_every_salt_run_loads_it():
    assert "grains_dirs: [_controller]" in (ROOT / "config/master").read_text()
