"""The four steps of a state, for the firewall: told, applied, seen on the host, and then nothing to do."""

import pytest

from _modules import ufw as module
from _states import ufw
from tests.unit.ufw_host import Host

NAMED = {"name": "ufw", "allow": ["80/tcp", "443/tcp", "443/udp"], "closed": [6379, 5432]}
ON = "The firewall is on; open: ssh, 80/tcp, 443/tcp, 443/udp; closed: 6379, 5432."


@pytest.fixture
def host(tmp_path, monkeypatch):
    return Host(tmp_path, monkeypatch)


@pytest.fixture
def configure_loader_modules(host):
    real = {f"ufw.{name}": getattr(module, name) for name in ("drift", "enable", "allow", "delete")}
    return {
        **host.loader,
        ufw: {"__salt__": real, "__opts__": {"test": False}},
    }


@pytest.fixture
def dry(monkeypatch):
    def enabled(**named):
        monkeypatch.setitem(ufw.__opts__, "test", True)
        ret = ufw.enabled(**named)
        monkeypatch.setitem(ufw.__opts__, "test", False)
        return ret

    return enabled


def test_nothing_to_do(host):
    assert ufw.enabled(**NAMED) == {"name": "ufw", "changes": {}, "result": True, "comment": ON}
    assert host.calls == []


@pytest.mark.parametrize(
    ("break_", "names"),
    [
        (lambda host: host.add("allow 6379"), ["6379/tcp"]),
        (lambda host: host.add("allow 1000:7000/tcp"), ["6379/tcp", "5432/tcp"]),
        (lambda host: host.add("allow Redis"), ["6379/tcp"]),
        (lambda host: host.add("allow in on eth0"), ["6379/tcp", "5432/tcp"]),
        (lambda host: host.remove("allow 80/tcp"), ["80/tcp"]),
        (lambda host: host.remove("allow 22/tcp"), ["22/tcp"]),
        (lambda host: host.add("deny 22", first=True), ["22/tcp"]),
        (lambda host: host.ufw(["disable"]), ["at boot", "in the kernel"]),
        (lambda host: host.kernel.update(v4="-P INPUT ACCEPT\n"), ["in the kernel"]),
        (lambda host: host.forget("-A ufw-before-input -i lo -j ACCEPT"), ["in the kernel"]),
        (lambda host: host.edit("default", "IPV6=yes", "IPV6=no"), ["ipv6"]),
        (lambda host: host.edit("default", 'INPUT_POLICY="DROP"', 'INPUT_POLICY="ACCEPT"'), ["incoming"]),
    ],
)
def test_each_drift_is_named_and_healed(host, dry, break_, names):
    break_(host)
    told = dry(**NAMED)
    assert told["result"] is None and list(told["changes"]) == names
    assert all(f"{name}: " in told["comment"] for name in names)
    assert host.calls == []
    done = ufw.enabled(**NAMED)
    assert done["result"] is True and done["changes"] == told["changes"] and done["comment"] == ON
    assert host.calls != []
    assert module.permits(6379) == [] and module.permits(22) != [] and module.permits(80) != []
    assert ufw.enabled(**NAMED)["changes"] == {}


def test_a_range_is_replaced_without_ssh_being_closed_for_a_moment(host):
    host.add("allow 22:7000/tcp")
    host.remove("allow 22/tcp")
    assert ufw.enabled(**NAMED)["result"] is True
    assert host.calls == ["ufw allow 22/tcp", "ufw delete allow 22:7000/tcp"]


def test_rules_of_the_operator_stay(host):
    own = ["limit 2222/tcp", "allow OpenSSH", "deny from 192.0.2.7", "allow in on lo to any port 6379"]
    for command in [*own, "allow 6379/tcp"]:
        host.add(command)
    assert ufw.enabled(**NAMED)["result"] is True
    assert host.calls == ["ufw delete allow 6379/tcp"]
    left = [rule["rule"] for rule in module.status()["rules"]]
    assert set(own) < set(left)


def test_a_host_without_ufw(host, dry):
    host.programs -= {"ufw", "iptables", "ip6tables"}
    told = dry(**NAMED)
    assert told["result"] is None
    assert told["changes"]["ufw"] == {"old": "not installed", "new": "on"}
    done = ufw.enabled(**NAMED)
    assert done["result"] is False
    assert done["comment"] == "ufw is not installed. Try: apt-get install ufw"


@pytest.mark.parametrize("test", [True, False])
def test_a_way_in_that_ufw_did_not_write(host, dry, test):
    host.kernel["v4"] += "-A INPUT -p tcp -m tcp --dport 5432 -j ACCEPT\n"
    ret = dry(**NAMED) if test else ufw.enabled(**NAMED)
    assert ret["result"] is False and ret["changes"] == {}
    assert ret["comment"].startswith("5432/tcp is open in the kernel by '-A INPUT -p tcp -m tcp --dport 5432")
    assert host.calls == []


def test_a_vpn_is_told_and_refuses_nothing(host):
    rule = "-A INPUT -i tailscale0 -j ACCEPT"
    host.kernel["v4"] = host.kernel["v4"].replace("-A INPUT", f"{rule}\n-A INPUT", 1)
    ret = ufw.enabled(**NAMED)
    assert ret["result"] is True and ret["changes"] == {}
    assert ret["comment"] == f"{ON} '{rule}' lets everything in."


def test_a_write_that_fails(host):
    host.add("allow 6379")
    host.refuses["ufw delete allow 6379"] = "ERROR: problem running"
    ret = ufw.enabled(**NAMED)
    assert ret["result"] is False
    assert ret["comment"] == "ufw delete allow 6379 failed: problem running. Try: ufw status verbose"


def test_a_write_that_changes_nothing(host):
    host.add("allow 6379")
    host.ufw = lambda words: None
    ret = ufw.enabled(**NAMED)
    assert ret["result"] is False
    assert ret["comment"].startswith("The firewall still differs: 6379/tcp: open by: allow 6379 -> closed.")


def test_a_port_that_is_none(host):
    ret = ufw.enabled("ufw", allow=["http"])
    assert ret["result"] is False and ret["comment"].startswith("http is not a port")
