"""What of a firewall is not as it should be, decided from facts alone; no host, no command."""

import pytest

from _modules import packet_filter, ufw, ufw_plan

REDIS, SSH = packet_filter.port(6379), packet_filter.port(22)
SAME = {"changes": {}, "allow": [], "delete": [], "reload": False, "stuck": [], "remarks": []}


def view(*rules, policy="DROP"):
    text = "\n".join(["*filter", *rules])
    files = {"/etc/ufw/before.rules": "", "/etc/ufw/user.rules": text}
    return packet_filter.boot("v4", files, policy, "/etc/default/ufw")


def told(port, action="allow"):
    target = {"allow": "ACCEPT", "deny": "DROP"}[action]
    return (
        f"### tuple ### {action} tcp {port} 0.0.0.0/0 any 0.0.0.0/0 in\n"
        f"-A ufw-user-input -p tcp --dport {port} -j {target}"
    )


def facts(*rules, loaded=None, **changed):
    on = view(*rules)
    return ufw.Facts(
        **{
            "enabled": True,
            "active": True,
            "ipv6": True,
            "policies": {"incoming": "DROP", "outgoing": "ACCEPT", "routed": "DROP"},
            "configured": {"v4": on},
            "loaded": {"v4": loaded or on},
            "public": {"eth0"},
            **changed,
        }
    )


def test_nothing_differs():
    assert ufw_plan.drift(facts(told(22)), [SSH], [REDIS]) == SAME


def test_a_rule_that_lets_a_closed_port_in_goes():
    assert ufw_plan.drift(facts(told(22), told(6379)), [SSH], [REDIS]) == {
        **SAME,
        "changes": {"6379/tcp": {"old": "open by: allow 6379/tcp", "new": "closed"}},
        "delete": ["allow 6379/tcp"],
    }


def test_what_an_open_port_needs_is_allowed():
    drift = ufw_plan.drift(facts(told(22, "deny")), [SSH], [REDIS])
    assert drift["allow"] == ["22/tcp"]
    assert drift["changes"] == {"22/tcp": {"old": "closed", "new": "open by: allow 22/tcp"}}


def test_a_host_without_ufw_needs_all_of_it():
    drift = ufw_plan.drift(None, [SSH], [REDIS])
    assert (drift["reload"], drift["allow"], sorted(drift["changes"])) == (True, ["22/tcp"], ["22/tcp", "ufw"])


def test_the_policy_of_the_next_boot_is_a_way_in():
    skip = "-A ufw-user-input -p tcp --dport 6379 -j ufw-skip-to-policy-input"
    (way,) = ufw_plan.ways_in(facts(), {"v4": view(policy="ACCEPT")}, REDIS)
    assert (way["rule"], way["source"]) == ("default policy allow", "/etc/default/ufw")
    (way,) = ufw_plan.ways_in(facts(), {"v4": view(skip, policy="ACCEPT")}, REDIS)
    assert (way["rule"], way["source"]) == (skip, "/etc/ufw/user.rules")
    assert ufw_plan.ways_in(facts(), {"v4": view(skip)}, REDIS) == []


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("", ""),
        ("Bad argument `x'\nError occurred at line: 2\nTry `iptables-restore -h'", "Bad argument `x', in '-A INPUT x'"),
        ("iptables-restore v1.8.11 (nf_tables): no such chain", "no such chain"),
        ("Bad argument `x'\nError occurred at line: 9", "Bad argument `x'"),
    ],
)
def test_why_a_file_is_refused(said, reason):
    assert ufw_plan.refusal("*filter\n-A INPUT x\nCOMMIT\n", said) == reason


def test_a_file_alone_has_the_chains_that_it_calls():
    text = "*filter\n:ufw-user-input - [0:0]\n-A ufw-user-input -j ufw-user-limit\nCOMMIT\n"
    assert ufw_plan.alone(text) == text.replace("*filter\n", "*filter\n:ufw-user-limit - [0:0]\n")
