"""The firewall on real hosts: what drifts is told, open from outside, healed and closed again."""

import json
import subprocess

import pytest

from .conftest import turns

LISTENER = """
import socket, time
for family, address in ((socket.AF_INET, '0.0.0.0'), (socket.AF_INET6, '::')):
    for port in (8000, 6380):
        listener = socket.socket(family)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((address, port))
        listener.listen()
        globals()[f'{address} {port}'] = listener
time.sleep(3600)
"""
OPENED = {
    "a rule": ("ufw allow 6379/tcp comment 'just for now'", ["6379/tcp"]),
    "a range that ssh and the web need": (
        "ufw allow 22:7000/tcp; ufw delete allow 22/tcp; ufw delete allow 80/tcp",
        ["6379/tcp", "5432/tcp", "22/tcp", "80/tcp"],
    ),
    "an application, an interface, IPv6 alone": (
        "printf '[Cache]\\ntitle=c\\ndescription=c\\nports=6379/tcp\\n' >/etc/ufw/applications.d/cache; "
        "ufw allow Cache; ufw allow in on host0; ufw allow proto tcp to ::/0 port 5432",
        ["6379/tcp", "5432/tcp"],
    ),
    "settings": (
        "ufw default allow incoming; sed -i s/^IPV6=.*/IPV6=no/ /etc/default/ufw; ufw reload",
        ["incoming", "ipv6"],
    ),
    "off": ("ufw disable; systemctl disable --now ufw", ["at boot", "in the kernel"]),
    "flushed": (
        "iptables -P INPUT ACCEPT; iptables -F; ip6tables -P INPUT ACCEPT; ip6tables -F",
        ["in the kernel"],
    ),
    "a deny ahead of the web": ("ufw insert 1 deny 80", ["80/tcp"]),
}


@pytest.fixture
def other(world, request):
    return request.getfixturevalue("trixie" if world.release == "bookworm" else "bookworm").host


def firewall(world, *words):
    """state.apply firewall: its own state's (result, changes, comment)."""
    return world.apply("firewall", *words)["firewall-enabled|ufw"]


def answers(world, other, port):
    return [world.host.port_open(port, from_host=other, ipv6=ipv6) for ipv6 in (False, True)]


@turns("world", OPENED)
def test_drift_is_told_and_healed(world, other, name):
    command, names = OPENED[name]
    world.sh(command)
    result, changes, comment = firewall(world, "test=True")
    assert result is None
    assert set(names) <= set(changes) and all(f"{name}: " in comment for name in names)
    result, healed, comment = firewall(world)
    assert result is True and healed == changes, comment
    assert [answers(world, other, port) for port in (22, 80, 443)] == [[True, True]] * 3
    assert firewall(world)[:2] == (True, {})
    assert world.sh("systemctl is-enabled ufw") == "enabled"


def test_connections_from_outside(world, other):
    """Redis itself listens on loopback alone: these listeners are everywhere."""
    world.sh(["systemd-run", "--collect", "--unit=firewall-test", "python3", "-c", LISTENER])
    try:
        assert answers(world, other, 6380) == [False, False]
        world.sh("ufw allow 6000:9000/tcp")
        assert answers(world, other, 6380) == [True, True]
        done = world.controller.salt_run("goldenpath.exposed", world.name, "--out=json")
        found = json.loads(done.stdout)
        assert done.returncode == 1 and found["retcode"] == 1
        assert found["faults"] == [
            f"{world.name} answers from outside on port 8000 (app server) of {address}. "
            f"Try: salt-ssh {world.name} state.apply firewall"
            for address in (world.host.address, world.host.address6)
        ]
        assert firewall(world)[0] is True
        assert answers(world, other, 6380) == [False, False]
        done = world.controller.salt_run("goldenpath.exposed", world.name)
        assert done.returncode == 0, done.stdout
        assert "MUST BE CLOSED" not in done.stdout
    finally:
        world.sh("systemctl stop firewall-test")
    assert world.controller.salt_run("goldenpath.exposed", "no-such-*").returncode == 1


def test_what_ufw_did_not_write_is_refused(world):
    world.sh("iptables -I INPUT -p tcp --dport 6379 -j ACCEPT")
    result, changes, comment = firewall(world)
    world.sh(comment.partition("Try: ")[2])
    assert result is False and changes == {}
    assert comment.startswith("6379/tcp is open in the kernel by '-A INPUT -p tcp -m tcp --dport 6379 -j ACCEPT'")
    # A VPN's own interface is none of the internet's: neither the firewall nor a deploy minds.
    world.sh("iptables -N ts-input; iptables -I INPUT -j ts-input; iptables -A ts-input -i tailscale0 -j ACCEPT")
    try:
        result, changes, comment = firewall(world)
        assert (result, changes) == (True, {})
        assert comment.endswith("'-A ts-input -i tailscale0 -j ACCEPT' lets everything in.")
        assert world.salt("ufw.permits", "6379") == (0, [])
    finally:
        world.sh("iptables -D INPUT -j ts-input; iptables -F ts-input; iptables -X ts-input")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("-A ufw-before-input -p tcp --dprt 22 -j ACCEPT", 'before.rules cannot be loaded: unknown option "--dprt"'),
        ("-A ufw-before-input -p tcp -j NOSUCH", "Chain 'NOSUCH' does not exist"),
    ],
)
def test_a_file_that_cannot_be_loaded_leaves_the_firewall_on(trixie, line, said):
    """The one is seen before anything is touched; the other only by the kernel, when ufw is down already."""
    before = trixie.sh("iptables -S")
    trixie.sh(f"sed -i.kept '0,/^COMMIT/s//{line}\\nCOMMIT/' /etc/ufw/before.rules")
    trixie.sh("sed -i s/^DEFAULT_INPUT_POLICY=.*/DEFAULT_INPUT_POLICY=ACCEPT/ /etc/default/ufw")
    try:
        result, _, comment = firewall(trixie)
        assert result is False and said in comment
        assert trixie.sh("iptables -S") == before
        assert trixie.sh("grep ^ENABLED /etc/ufw/ufw.conf") == "ENABLED=yes"
    finally:
        trixie.sh("mv /etc/ufw/before.rules.kept /etc/ufw/before.rules; ufw default deny incoming; ufw reload")


def test_enabling_keeps_the_ssh_session(world):
    world.sh("ufw --force reset && ufw default deny incoming")
    session = subprocess.Popen(
        [*world.host.ssh_command(), "read line; echo $line"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        result, changes, comment = firewall(world)
        assert result is True and "22/tcp" in changes, comment
        assert session.communicate("still here\n", timeout=20)[0] == "still here\n"
    finally:
        session.kill()
    assert subprocess.run([*world.host.ssh_command(), "true"], timeout=20, check=False).returncode == 0


def test_rules_of_the_operator_stay(world):
    world.sh("ufw limit 2222/tcp; ufw insert 1 deny from 192.0.2.7; ufw allow 60000:61000/udp")
    assert firewall(world)[:2] == (True, {})
    world.sh("ufw allow 6379")
    assert firewall(world)[1] == {"6379/tcp": {"old": "open by: allow 6379", "new": "closed"}}
    added = world.sh("ufw show added")
    for rule in ("limit 2222/tcp", "deny from 192.0.2.7", "allow 60000:61000/udp"):
        assert f"ufw {rule}" in added.splitlines()
        world.sh(f"ufw delete {rule}")


def test_a_boot_loads_it(world, other):
    world.sh("ufw allow 6379; echo changed")
    world.host.reboot()
    assert firewall(world)[0] is True
    world.host.reboot()
    assert world.sh("systemctl is-active ufw") == "active"
    assert world.salt("ufw.permits", "6379") == (0, [])
    assert firewall(world)[:2] == (True, {})
    assert answers(world, other, 22) == [True, True]
