"""Which rules let a port in, what drifted, and that no write cuts the ssh session that makes it."""

import re
import shutil

import pytest
from salt.exceptions import CommandExecutionError

from _modules import ufw
from tests.unit.ufw_host import Host, blocks

WEB = ["80/tcp", "443/tcp", "443/udp"]
CLOSED = [6379, 5432]


@pytest.fixture
def host(tmp_path, monkeypatch):
    return Host(tmp_path, monkeypatch)


@pytest.fixture
def configure_loader_modules(host):
    return host.loader


def drift(**changed):
    return ufw.drift(**{"allow": WEB, "closed": CLOSED, **changed})


# ---- which rules let a port in


@pytest.mark.parametrize(
    "command",
    [
        "allow 6379",
        "allow 6379/tcp",
        "allow 1000:7000/tcp",
        "allow 22:7000/tcp",
        "allow Redis",
        "allow from 10.0.0.5 to any port 6379 proto tcp",
        "allow from 2001:db8::5 to any port 6379 proto tcp",
        "allow in on eth0",
        "allow from 10.1.0.0/16",
        "allow to any",
    ],
)
def test_every_spelling_lets_redis_in(host, command):
    families = host.add(command)
    assert [(each["rule"], each["family"]) for each in ufw.permits(6379)] == [(command, each) for each in families]
    assert all(each["source"].endswith(".rules") for each in ufw.permits(6379))


@pytest.mark.parametrize(
    "command", ["limit 5432/tcp", "allow 5432,8000:8010/tcp", "allow in on eth1 to any port 5432 proto tcp"]
)
def test_every_spelling_lets_postgres_in(host, command):
    families = host.add(command)
    assert [(each["rule"], each["family"]) for each in ufw.permits(5432)] == [(command, each) for each in families]
    assert ufw.permits(6379) == []


@pytest.mark.parametrize(
    "command",
    [
        "limit 2222/tcp",
        "allow OpenSSH",
        "allow 9000/tcp",
        "allow 5432,8000:8010/tcp",
        "allow in on lo to any port 6379",
        "allow from 127.0.0.1 to any port 6379 proto tcp",
        "allow from any port 6379 to any port 5353 proto udp",
        "allow to any proto esp",
        "route allow in on eth0 out on eth1 to any port 6379 proto tcp",
        "reject out 25/tcp",
        "deny 6379/udp",
        "deny log 3306/tcp",
        "deny 1000:7000/udp",
        "deny from 192.0.2.7 to any app Redis",
    ],
)
def test_what_does_not_let_redis_in(host, command):
    host.add(command)
    assert ufw.permits(6379) == []


def test_other_ports_and_protocols(host):
    host.add("allow 1000:7000/tcp")
    assert ufw.permits(999) == [] and ufw.permits(7001) == [] and ufw.permits(6379, "udp") == []
    assert ufw.permits(1000) and ufw.permits(7000) and ufw.permits(443, "udp")


def test_only_ipv6(host):
    host.add("allow 9000/tcp")
    assert [each["family"] for each in ufw.permits(9000)] == ["v6"]


def test_a_deny_hides_what_comes_after_it_and_nothing_before(host):
    host.add("deny 22")
    assert ufw.permits(22)
    host.add("deny 22", first=True)
    assert ufw.permits(22) == []


def test_a_reject_closes_as_well(host):
    host.add("reject 80/tcp", first=True)
    assert ufw.permits(80) == []


@pytest.mark.parametrize(
    "rule",
    [
        "-A ufw-before-input -s 0.0.0.0/0 -p tcp --dport 80 -j DROP",
        "-A ufw-before-input ! -i lo -p tcp -m multiport --dports 79:81 -j REJECT --reject-with tcp-reset",
        "-A ufw-before-input -p tcp --dport 80 -j ACCEPT\n-I ufw-before-input -p tcp --dport 80 -j DROP",
        "-A ufw-before-input -p tcp --dport 80 -j ufw-skip-to-policy-input",
    ],
)
def test_a_deny_in_before_rules_hides_all_rules_of_ufw(host, rule):
    host.edit("before.rules", "COMMIT", rule + "\nCOMMIT")
    host.kernel["v4"] = host.kernel["v4"].replace("-A ufw-user-input -p tcp -m tcp --dport 80 -j ACCEPT\n", "")
    assert [each["family"] for each in ufw.permits(80)] == ["v6"]


def test_a_deny_for_some_hides_nothing(host):
    host.add("deny from 192.0.2.7")
    host.add("allow 6379/tcp")
    assert ufw.permits(6379)


def test_logging_rules_do_not_end_the_walk(host):
    host.add("deny log 3306/tcp")
    host.add("allow 1000:7000/tcp")
    assert ufw.permits(3306) == []
    assert ufw.permits(3307)


def test_default_policy(host):
    host.edit("default", 'INPUT_POLICY="DROP"', 'INPUT_POLICY="ACCEPT"')
    assert {each["rule"] for each in ufw.permits(6379)} == {"default policy allow"}


def test_ufw_that_is_off_lets_everything_in(host):
    host.edit("ufw.conf", "ENABLED=yes", "ENABLED=no")
    host.kernel = {"v4": "-P INPUT ACCEPT\n-P FORWARD ACCEPT\n-P OUTPUT ACCEPT\n", "v6": "-P INPUT ACCEPT\n"}
    assert [(each["rule"], each["family"], each["source"]) for each in ufw.permits(6379)] == [
        ("ufw is off", "v4", "kernel"),
        ("ufw is off", "v6", "kernel"),
    ]


def test_no_ufw_lets_everything_in(host):
    host.programs = set()
    assert {each["rule"] for each in ufw.permits(6379)} == {"ufw is not installed"}
    assert ufw.status() == {"installed": False}


def test_with_ipv6_off_its_rules_wait(host):
    host.add("allow 9000/tcp", loaded=False)
    host.edit("default", "IPV6=yes", "IPV6=no")
    host.kernel["v6"] = "-P INPUT DROP\n-A INPUT -i lo -j ACCEPT\n"
    assert ufw.permits(9000) == []
    assert ufw.status()["active"] is True


def test_a_kernel_without_ipv6(host):
    shutil.rmtree(host.root / "proc/sys/net/ipv6")
    host.kernel["v6"] = None
    assert ufw.permits(6379) == []
    assert drift()["changes"] == {}


@pytest.mark.parametrize(
    ("rule", "open_"),
    [
        ("-A ufw-before-input -p tcp --dport 6379 -j ACCEPT", True),
        ("-A ufw-before-input -p tcp -m state --state NEW -m tcp --dport 6000:7000 -j ACCEPT", True),
        ("-A ufw-before-input -p tcp -m multiport --dports 80,6379 -j ACCEPT", True),
        ("-A ufw-before-input ! -i lo -p tcp ! --dport 22 -j ACCEPT", True),
        ("-A ufw-before-input -s 10.0.0.0/8 -j ACCEPT", True),
        ("-A ufw-before-input -p tcp -m set --match-set friends src -j ACCEPT", True),
        ('-A ufw-before-input -p tcp --dport 6379 -m comment --comment "for the app" -j ACCEPT', True),
        ("-I ufw-before-input -p tcp --dport 6379 -j ACCEPT", True),
        ("-A ufw-before-input -p tcp -j ufw-logging-allow", False),
        ("-A ufw-before-input -p tcp --dport 6379 -m conntrack --ctstate ESTABLISHED -j ACCEPT", False),
        ("-A ufw-before-input -i lo -p tcp --dport 6379 -j ACCEPT", False),
        ("-A ufw-before-input -s 127.0.0.0/8 -p tcp --dport 6379 -j ACCEPT", False),
        ("-A ufw-before-input -d 224.0.0.0/4 -j ACCEPT", False),
        ("-A ufw-before-input -p tcp ! --dport 6379 -j ACCEPT", False),
        ("-A ufw-before-input -p udp --dport 6379 -j ACCEPT", False),
        ("-A ufw-before-forward -p tcp --dport 6379 -j ACCEPT", False),
        ("COMMIT\n*nat\n-A ufw-before-input -p tcp --dport 6379 -j ACCEPT", False),
    ],
)
def test_before_rules(host, rule, open_):
    host.edit("before.rules", "COMMIT", rule + "\nCOMMIT")
    found = ufw.permits(6379)
    assert bool(found) is open_
    if open_:
        assert found[0]["rule"] == rule and found[0]["source"].endswith("before.rules")


def test_after_rules(host):
    host.edit("after6.rules", "COMMIT", "-A ufw6-after-input -p tcp --dport 6379 -j ACCEPT\nCOMMIT")
    assert [each["family"] for each in ufw.permits(6379)] == ["v6"]


@pytest.mark.parametrize("ahead", [True, False])
def test_iptables_beside_ufw(host, ahead):
    rule = "-A INPUT -p tcp -m tcp --dport 6379 -j ACCEPT\n"
    hooks = "-A INPUT -j ufw-before-logging-input\n"
    host.kernel["v4"] = host.kernel["v4"].replace(hooks, rule + hooks) if ahead else host.kernel["v4"] + rule
    assert ufw.permits(6379) == [{"rule": rule.strip(), "source": "kernel", "family": "v4"}]
    host.add("allow 6379/tcp")
    told = [each["source"].split("/")[-1] for each in ufw.permits(6379)]
    assert told == (["user.rules", "kernel", "user6.rules"] if ahead else ["user.rules", "user6.rules"])


def test_chains_of_others(host):
    host.kernel["v4"] += (
        "-N friends\n-N gate\n-A friends -s 192.0.2.1/32 -j RETURN\n-A friends -j DROP\n"
        "-A gate -g friends\n-A INPUT -p tcp -m tcp --dport 6379 -j gate\n-A INPUT -p tcp --dport 6379 -j ACCEPT\n"
    )
    # One address comes back from `friends`, past `gate`, to INPUT.
    assert ufw.permits(6379)
    host.kernel["v4"] = host.kernel["v4"].replace("-A friends -s 192.0.2.1/32 -j RETURN\n", "")
    assert ufw.permits(6379) == []


TAILSCALE = """\
-N ts-input
-A INPUT -j ts-input
-A ts-input -s 100.64.0.7/32 -i lo -j ACCEPT
-A ts-input -s 100.115.92.0/23 ! -i tailscale0 -j RETURN
-A ts-input -s 100.64.0.0/10 ! -i tailscale0 -j DROP
-A ts-input -i tailscale0 -j ACCEPT
-A ts-input -p udp -m udp --dport 41641 -j ACCEPT
"""


def first(host, rules):
    """Rules of another program, ahead of ufw's."""
    host.kernel["v4"] = host.kernel["v4"].replace("-A INPUT", f"{rules}-A INPUT", 1)


def test_a_vpn_is_a_remark(host):
    first(host, TAILSCALE)
    assert ufw.permits(6379) == []
    found = drift()
    assert found["changes"] == {} and found["stuck"] == []
    assert found["remarks"] == ["'-A ts-input -i tailscale0 -j ACCEPT' lets everything in"]


@pytest.mark.parametrize(
    "rule",
    [
        "-A INPUT -i eth0 -j ACCEPT",
        "-A INPUT -i eth6 -j ACCEPT",
        "-A INPUT -i eth1 -j ACCEPT",
        "-A INPUT -i eth+ -j ACCEPT",
        "-A INPUT -i + -j ACCEPT",
        "-A INPUT ! -i tailscale0 -j ACCEPT",
        "-A INPUT -j ACCEPT",
        "-A INPUT -s 100.64.0.0/10 -j ACCEPT",
        "-A INPUT -i tailscale0 -p tcp -m tcp --dport 6379 -j ACCEPT",
        "-A INPUT -i tailscale0 -p tcp -m multiport --dports 6000:7000 -j ACCEPT",
    ],
)
def test_what_is_no_vpn_is_refused(host, rule):
    first(host, rule + "\n")
    assert [each["rule"] for each in ufw.permits(6379)] == [rule]
    assert drift()["stuck"] and drift()["remarks"] == []


def test_ufws_own_rule_for_a_private_interface_goes(host):
    routes = host.root / "proc/net/route"
    routes.write_text(routes.read_text().replace("eth0", "eth5"))
    first(host, "-A INPUT -i eth0 -j ACCEPT\n")
    assert drift()["changes"] == {} and drift()["remarks"]
    host.add("allow in on eth0")
    assert drift()["delete"] == ["allow in on eth0"] and ufw.permits(6379)
    host.remove("allow in on eth0")
    assert {each["source"] for each in ufw.permits(6379)} == {"kernel"}


def test_without_a_default_route_no_interface_is_private(host):
    (host.root / "proc/net/route").write_text("\n")
    (host.root / "proc/net/ipv6_route").write_text("")
    host.grains["ip_interfaces"] = {}
    first(host, TAILSCALE)
    assert ufw.permits(6379) and drift()["stuck"]


def test_a_rule_that_is_only_in_the_file_counts(host):
    host.add("allow 6379/tcp", loaded=False)
    assert len(ufw.permits(6379)) == 2


def test_a_rule_that_is_only_in_the_kernel_counts(host):
    host.kernel["v6"] += "-A ufw6-user-input -p tcp -m tcp --dport 6379 -j ACCEPT\n"
    assert [each["source"] for each in ufw.permits(6379)] == ["kernel"]


# ---- reading


def test_status(host):
    host.add("allow 6379/tcp")
    host.add("allow in on eth1 to any port 5432 proto tcp")
    status = ufw.status()
    assert {key: status[key] for key in status if key != "rules"} == {
        "installed": True,
        "enabled": True,
        "active": True,
        "ipv6": True,
        "policies": {"incoming": "deny", "outgoing": "allow", "routed": "deny"},
    }
    assert [each["rule"] for each in status["rules"] if each["family"] == "v6"] == [
        "allow 22/tcp",
        "allow 80/tcp",
        "allow 443/tcp",
        "allow 443/udp",
        "allow 6379/tcp",
        "allow in on eth1 to any port 5432 proto tcp",
    ]
    assert [each["comment"] for each in status["rules"]].count("just for now") == 2
    assert [each["interface"] for each in status["rules"]].count("eth1") == 2


@pytest.mark.parametrize(
    "line",
    ["-A INPUT -j ufw-before-input\n", "-A ufw-before-input -j ufw-user-input\n", "-N ufw-user-input\n"],
)
def test_half_a_firewall_is_not_active(host, line):
    assert line in host.kernel["v4"]
    host.kernel["v4"] = host.kernel["v4"].replace(line, "").replace("-A ufw-user-input", "-A other")
    assert ufw.status()["active"] is False


def test_a_kernel_that_cannot_be_read(host):
    host.kernel["v4"] = None
    with pytest.raises(
        CommandExecutionError, match=r"^iptables cannot read the firewall: .*Try: iptables -S, as root$"
    ):
        ufw.permits(6379)


def test_files_that_cannot_be_read(host):
    (host.root / "etc/user.rules").unlink()
    (host.root / "etc/user.rules").mkdir()
    with pytest.raises(CommandExecutionError, match=r"user.rules cannot be read: Is a directory. Try: ls -l "):
        ufw.permits(6379)


@pytest.mark.parametrize("port", ["http", "0", 65536, "80/icmp", "80:90", "", None])
def test_what_is_not_a_port(host, port):
    with pytest.raises(CommandExecutionError, match="is not a port: write it as 80/tcp or 443/udp"):
        ufw.drift(allow=[port])


# ---- drift


def test_nothing_drifted(host):
    assert drift() == {"changes": {}, "allow": [], "delete": [], "reload": False, "stuck": [], "remarks": []}
    assert host.calls == []


def test_rules_of_the_operator_are_no_drift(host):
    for command in (
        "allow OpenSSH",
        "limit 2222/tcp",
        "allow 9000/tcp",
        "deny from 192.0.2.7",
        "deny log 3306/tcp",
    ):
        host.add(command)
    assert drift()["changes"] == {}


def test_drift_of_a_closed_port(host):
    for command in ("allow 1000:7000/tcp", "allow 6379", "allow Redis"):
        host.add(command)
    found = drift()
    assert found["changes"] == {
        "6379/tcp": {"old": "open by: allow 1000:7000/tcp, allow 6379, allow Redis", "new": "closed"},
        "5432/tcp": {"old": "open by: allow 1000:7000/tcp", "new": "closed"},
    }
    assert found["delete"] == ["allow 1000:7000/tcp", "allow 6379", "allow Redis"]
    assert found["allow"] == [] and found["reload"] is False


def test_drift_of_a_range_that_ssh_and_the_web_need(host):
    host.add("allow 22:7000/tcp")
    host.remove("allow 22/tcp")
    host.remove("allow 80/tcp")
    found = drift()
    assert found["delete"] == ["allow 22:7000/tcp"]
    assert found["allow"] == ["22/tcp", "80/tcp"]
    assert found["changes"]["22/tcp"] == {"old": "open by: allow 22:7000/tcp", "new": "open by: allow 22/tcp"}


def test_drift_of_an_open_port(host):
    host.remove("allow 80/tcp")
    assert drift()["changes"] == {"80/tcp": {"old": "closed", "new": "open by: allow 80/tcp"}}
    host.add("allow in on eth0")
    assert drift(closed=[])["changes"]["80/tcp"]["old"] == "open to some by: allow in on eth0"


def test_an_open_port_that_is_closed_for_ipv6(host):
    block = blocks((host.root / "etc/user6.rules").read_text())["allow 80/tcp"]
    host.edit("user6.rules", block, "")
    assert drift()["allow"] == ["80/tcp"]


def test_limit_counts_as_open(host):
    host.sshd = "listenaddress 0.0.0.0:2222\n"
    host.add("limit 2222/tcp")
    assert drift()["changes"] == {}


@pytest.mark.parametrize(
    ("name", "old", "new", "told"),
    [
        ("ufw.conf", "ENABLED=yes", "ENABLED=no", {"at boot": {"old": "off", "new": "on"}}),
        ("default", "IPV6=yes", "IPV6=no", {"ipv6": {"old": "off", "new": "on"}}),
        ("default", 'INPUT_POLICY="DROP"', 'INPUT_POLICY="ACCEPT"', {"incoming": {"old": "allow", "new": "deny"}}),
        (
            "default",
            'OUTPUT_POLICY="ACCEPT"',
            'OUTPUT_POLICY="DROP"',
            {"outgoing": {"old": "deny", "new": "allow"}},
        ),
    ],
)
def test_drift_of_the_settings(host, name, old, new, told):
    host.edit(name, old, new)
    assert drift()["changes"] == told
    assert drift()["reload"] is True


def test_drift_of_the_kernel(host):
    host.kernel["v6"] = "-P INPUT ACCEPT\n"
    assert drift()["changes"] == {"in the kernel": {"old": "off", "new": "on"}}


@pytest.mark.parametrize(
    ("old", "new", "port", "told"),
    [
        ("-P INPUT DROP", "-P INPUT ACCEPT", "6379/tcp", {"old": "open in the kernel", "new": "closed"}),
        (
            "-A ufw-user-input -p tcp -m tcp --dport 80 -j ACCEPT\n",
            "-A ufw-user-input -p tcp -m tcp --dport 5432 -j ACCEPT\n",
            "5432/tcp",
            {"old": "open in the kernel", "new": "closed"},
        ),
        (
            "-A ufw-user-input -p tcp -m tcp --dport 80 -j ACCEPT\n",
            "",
            "80/tcp",
            {"old": "closed in the kernel", "new": "open"},
        ),
    ],
)
def test_a_kernel_that_differs_from_the_files(host, old, new, port, told):
    assert old in host.kernel["v4"]
    host.kernel["v4"] = host.kernel["v4"].replace(old, new, 1)
    found = drift()
    assert found["changes"][port] == told and found["reload"] is True
    assert found["allow"] == [] and found["delete"] == []


def test_stuck(host):
    host.kernel["v6"] += "-A INPUT -p tcp -m tcp --dport 6379 -j ACCEPT\n"
    host.edit("before.rules", "COMMIT", "-A ufw-before-input -p tcp --dport 5432 -j ACCEPT\nCOMMIT")
    assert drift()["changes"] == {}
    assert drift()["stuck"] == [
        "6379/tcp is open in the kernel by '-A INPUT -p tcp -m tcp --dport 6379 -j ACCEPT'. "
        "Try: ip6tables -D INPUT -p tcp -m tcp --dport 6379 -j ACCEPT",
        "5432/tcp is open by '-A ufw-before-input -p tcp --dport 5432 -j ACCEPT'. "
        f"Try: remove it from {host.root}/etc/before.rules, then ufw reload",
    ]


def test_drift_without_ufw(host):
    host.programs -= {"ufw", "iptables", "ip6tables"}
    found = drift()
    assert list(found["changes"]) == ["ufw", "22/tcp", "80/tcp", "443/tcp", "443/udp"]
    assert found["allow"] == ["22/tcp", *WEB]


# ---- writing


def test_allow(host):
    ufw.allow("8443/tcp")
    assert host.calls == ["ufw allow 8443/tcp"]


def test_allow_keeps_behind_a_deny_for_some(host):
    host.add("deny from 192.0.2.7")
    ufw.allow("8443/tcp")
    assert host.calls == ["ufw allow 8443/tcp"]


def test_allow_goes_before_a_deny_for_all(host):
    host.add("deny 22", first=True)
    ufw.allow("22/tcp")
    assert host.calls == ["ufw delete allow 22/tcp", "ufw prepend allow 22/tcp"]


def test_a_ufw_that_refuses_is_one_sentence(host):
    host.refuses["ufw allow 80/tcp"] = "WARN: x\nERROR: Could not update running firewall\n"
    with pytest.raises(CommandExecutionError) as failure:
        ufw.allow("80/tcp")
    assert str(failure.value) == ("ufw allow 80/tcp failed: Could not update running firewall. Try: ufw status verbose")


def test_a_file_that_ufw_cannot_load_is_named(host):
    host.refuses["ufw --force enable"] = (
        "ERROR: problem running ufw-init\niptables-restore v1.8.11 (nf_tables): Chain 'NOSUCH' does not exist\n"
        "Error occurred at line: 76\n\nProblem running '/etc/ufw/before.rules'\n"
    )
    with pytest.raises(CommandExecutionError) as failure:
        ufw._ufw("--force", "enable")
    assert str(failure.value) == (
        "ufw --force enable failed: problem running ufw-init; iptables-restore v1.8.11 (nf_tables): Chain 'NOSUCH' "
        "does not exist; Problem running '/etc/ufw/before.rules'. Try: ufw status verbose"
    )


def test_no_writing_without_ufw(host):
    host.programs -= {"ufw"}
    for write in (lambda: ufw.allow(80), lambda: ufw.delete("allow 80"), ufw.enable, ufw.disable):
        with pytest.raises(CommandExecutionError, match=r"^ufw is not installed. Try: apt-get install ufw$"):
            write()


def test_delete(host):
    host.add("allow in on eth1 to any port 5432 proto tcp")
    ufw.delete("allow in on eth1 to any port 5432 proto tcp")
    assert host.calls == ["ufw delete allow in on eth1 to any port 5432 proto tcp"]


def test_delete_does_not_cut_ssh(host):
    with pytest.raises(
        CommandExecutionError, match=r"'allow 22/tcp' is what lets ssh in on port 22. Try: ufw allow 22"
    ):
        ufw.delete("allow 22/tcp")
    assert host.calls == []


def test_delete_of_a_rule_that_ssh_can_spare(host):
    host.add("allow OpenSSH")
    ufw.delete("allow 22/tcp")
    assert host.calls == ["ufw delete allow 22/tcp"]


def test_delete_leaves_no_smaller_door_for_ssh(host):
    host.add("allow in on eth0")
    with pytest.raises(CommandExecutionError, match="lets ssh in"):
        ufw.delete("allow 22/tcp")


def test_enable_on_a_fresh_host(host):
    host.edit("ufw.conf", "ENABLED=yes", "ENABLED=no")
    host.kernel = {"v4": "-P INPUT ACCEPT\n", "v6": "-P INPUT ACCEPT\n"}
    host.remove("allow 22/tcp")
    ufw.enable(["80/tcp", "22/tcp"], ["allow 6379"])
    assert host.calls == [
        "ufw allow 22/tcp",
        "ufw allow 80/tcp",
        "ufw delete allow 6379",
        "ufw --force enable",
    ]


def test_enable_of_a_firewall_with_wrong_settings(host):
    host.edit("default", "IPV6=yes", "IPV6=no")
    host.edit("default", 'INPUT_POLICY="DROP"', 'INPUT_POLICY="ACCEPT"')
    host.edit("default", 'OUTPUT_POLICY="ACCEPT"', 'OUTPUT_POLICY="DROP"')
    ufw.enable()
    assert host.calls == [
        "ufw disable",
        "write IPV6=yes",
        "ufw default deny incoming",
        "ufw default allow outgoing",
        "ufw --force enable",
    ]


def test_enable_allows_ssh_that_only_a_doomed_rule_allowed(host):
    host.add("allow 22:7000/tcp")
    host.remove("allow 22/tcp")
    ufw.enable([], ["allow 22:7000/tcp"])
    assert host.calls == [
        "ufw disable",
        "ufw allow 22/tcp",
        "ufw delete allow 22:7000/tcp",
        "ufw --force enable",
    ]


def test_enable_when_ssh_cannot_be_allowed(host):
    host.remove("allow 22/tcp")
    host.refuses["ufw allow 22/tcp"] = "ERROR: no"
    with pytest.raises(CommandExecutionError, match="ufw allow 22/tcp failed: no"):
        ufw.enable()
    assert "ufw --force enable" not in host.calls


def test_enable_though_another_rule_is_refused(host):
    host.refuses["ufw allow 80/tcp"] = "ERROR: no"
    with pytest.raises(CommandExecutionError, match="ufw allow 80/tcp failed: no"):
        ufw.enable(["80/tcp"])
    assert host.calls[-1] == "ufw --force enable"


def test_enable_touches_nothing_when_a_file_cannot_be_loaded(host):
    host.edit("default", "IPV6=yes", "IPV6=no")
    host.edit("before.rules", "COMMIT", "-A ufw-before-input --dprt 22 -j ACCEPT\nCOMMIT")
    host.broken["-A ufw-before-input --dprt 22 -j ACCEPT"] = 'iptables-restore v1.8.11 (nf_tables): unknown option "x"'
    with pytest.raises(CommandExecutionError) as failure:
        ufw.enable()
    path = host.root / "etc/before.rules"
    assert str(failure.value) == (
        f"{path} cannot be loaded: unknown option \"x\", in '-A ufw-before-input --dprt 22 -j ACCEPT'. "
        f"Try: iptables-restore --test --noflush < {path}"
    )
    assert host.calls == []


@pytest.mark.parametrize("name", ["after6.rules", "user.rules"])
def test_enable_touches_nothing_when_a_file_is_empty(host, name):
    (host.root / "etc" / name).write_text("\n")
    with pytest.raises(CommandExecutionError, match=rf"{name} is missing or empty. Try: apt-get install --reinstall"):
        ufw.enable()
    assert host.calls == []


def test_files_are_checked_with_the_chains_that_ufw_makes_before(host):
    seen = []
    tables = host.tables
    host.tables = lambda command, text: (seen.append(text or ""), tables(command, text))[1]
    ufw.enable()
    for text in seen[:6]:
        called = set(re.findall(r"-j (ufw6?-\S+)", text))
        assert called <= set(re.findall(r"^:(\S+) ", text, re.MULTILINE))
    assert any(":ufw-logging-deny - [0:0]" in text for text in seen)


@pytest.mark.parametrize("refused", ["ufw default deny incoming", "ufw allow 2222/tcp", "ufw --force enable"])
def test_a_firewall_that_was_on_comes_back_whatever_fails(host, refused):
    host.edit("default", 'INPUT_POLICY="DROP"', 'INPUT_POLICY="ACCEPT"')
    host.sshd = "listenaddress 0.0.0.0:2222\n"
    before = dict(host.kernel)
    host.refuses[refused] = "ERROR: no"
    with pytest.raises(CommandExecutionError, match=f"{refused} failed: no"):
        ufw.enable()
    assert "ufw disable" in host.calls
    assert {family: text.strip() for family, text in host.kernel.items()} == {
        family: text.strip() for family, text in before.items()
    }
    assert ufw.status()["enabled"] is True and ufw.status()["active"] is True


def test_half_a_firewall_is_not_left(host):
    """ufw that cannot load before.rules has loaded the rest: no loopback, no answers from outside."""
    host.edit("default", "IPV6=yes", "IPV6=no")
    before = dict(host.kernel)
    ufw_does = host.ufw

    def half(words):
        ufw_does(words)
        if words[-1] == "enable":
            host.kernel["v4"] = host.kernel["v4"].replace("-A ufw-before-input -i lo -j ACCEPT\n", "")
            host.refuses["ufw --force enable"] = "ERROR: problem running ufw-init"

    host.ufw = half
    run = host.functions["cmd.run_all"]

    def run_after(command, **options):
        ret = run(command, **options)
        refused = host.refuses.get(" ".join(command))
        return {"retcode": 1, "stdout": "", "stderr": refused} if refused else ret

    host.functions["cmd.run_all"] = run_after
    with pytest.raises(CommandExecutionError, match="ufw --force enable failed: problem running ufw-init"):
        ufw.enable()
    assert host.kernel["v4"].strip() == before["v4"].strip()
    assert ufw.status()["enabled"] is True


def test_an_open_host_is_not_brought_back(host):
    """A firewall that is on now is better than what was there."""
    host.kernel = {"v4": "-P INPUT ACCEPT\n", "v6": "-P INPUT ACCEPT\n"}
    host.refuses["ufw allow 80/tcp"] = "ERROR: no"
    with pytest.raises(CommandExecutionError, match="ufw allow 80/tcp failed: no"):
        ufw.enable(["80/tcp"])
    assert ufw.status()["active"] is True
    assert host.calls[-1] == "ufw --force enable"


def test_enable_hangs_up_chains_that_nothing_leads_to(host):
    lines = host.kernel["v4"].splitlines(keepends=True)
    host.kernel["v4"] = "".join(line for line in lines if not line.startswith("-A")).replace("DROP", "ACCEPT")
    ufw.enable()
    hung = [call for call in host.calls if call.startswith("iptables")]
    assert hung[:6] == [
        f"iptables -w 5 -A INPUT -j ufw-{part}-input"
        for part in ("before-logging", "before", "after", "after-logging", "reject", "track")
    ]
    assert len(hung) == 18
    assert not [call for call in host.calls if call.startswith("ip6tables")]


def test_enable_that_did_not_work(host):
    host.load = lambda enabled: host.kernel.update(v4="-P INPUT ACCEPT\n")
    with pytest.raises(
        CommandExecutionError, match=r"ufw was enabled and is not in the kernel. Try: ufw --force enable"
    ):
        ufw.enable()
