"""On which ports a host is administered: of sshd, of systemd's socket, and of the session that asks."""

import pytest

from _modules import sshd
from tests.unit.ufw_host import Host


@pytest.fixture
def host(tmp_path, monkeypatch):
    return Host(tmp_path, monkeypatch)


@pytest.fixture
def configure_loader_modules(host):
    return host.loader


def test_ssh_ports_of_sshd(host):
    host.sshd = "port 22\nlistenaddress [::]:2222\nlistenaddress 0.0.0.0:22\npermitlisten any\n"
    assert sshd.ports() == [22, 2222]


def test_ssh_ports_as_written_when_sshd_does_not_answer(host):
    host.sshd = ""
    assert sshd.ports() == [22]
    (host.root / "ssh/more.d").mkdir()
    (host.root / "ssh/more.d/a.conf").write_text("# Port 1\n  port=2300\nListenAddress 192.0.2.1:2301\n")
    (host.root / "ssh/sshd_config").write_text(
        "Include more.d/*.conf\nListenAddress [2001:db8::1]:2302\nListenAddress 2001:db8::1\nUsePAM yes\n"
    )
    assert sshd.ports() == [2300, 2301, 2302]


@pytest.mark.parametrize("state", ["ActiveState=active", "UnitFileState=enabled"])
def test_ssh_ports_of_the_socket(host, state):
    host.socket = f"Listen=0.0.0.0:2200 (Stream)\nListen=[::]:2201 (Stream)\n{state}\n"
    assert sshd.ports() == [22, 2200, 2201]


def test_ssh_socket_that_is_off(host):
    host.socket = "Listen=[::]:2022 (Stream)\nActiveState=inactive\nUnitFileState=disabled\n"
    assert sshd.ports() == [22]


def test_ssh_port_of_the_session_behind_sudo(host, monkeypatch):
    monkeypatch.setattr(sshd.os, "getpid", lambda: 30)
    for pid, parent, environ in (
        (30, 20, "HOME=/root\0"),
        (20, 10, "HOME=/home/op\0SSH_CONNECTION=192.0.2.1 50000 192.0.2.2 2022\0TERM=x\0"),
        (10, 1, ""),
    ):
        (host.root / f"proc/{pid}").mkdir()
        (host.root / f"proc/{pid}/environ").write_text(environ)
        (host.root / f"proc/{pid}/stat").write_text(f"{pid} (a) b (c) S {parent} 1 1")
    assert sshd.ports() == [22, 2022]


def test_no_ssh_at_all(host):
    host.programs -= {"sshd", "systemctl"}
    assert sshd.ports() == []
