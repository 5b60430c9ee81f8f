"""The walk over chains and the words of ufw, on what real hosts wrote; no host, no command."""

import re
import shlex

import pytest

from _modules import packet_filter
from tests.unit.ufw_host import RECORDED, SPELLINGS, blocks

REDIS = packet_filter.port(6379)


def test_rules_are_told_in_the_words_of_ufw():
    shown = [line.removeprefix("ufw ") for line in (RECORDED / "spellings/show-added").read_text().splitlines()]
    shown = {shlex.join(shlex.split(re.sub(r" comment .*", "", line))) for line in shown}
    assert {*blocks(SPELLINGS["v4"]), *blocks(SPELLINGS["v6"])} == shown


def kernel(*rules, policy="DROP"):
    return packet_filter.kernel("\n".join([f"-P INPUT {policy}", *rules]))


@pytest.mark.parametrize(
    ("rules", "who"),
    [
        ([], packet_filter.NO),
        (["-A INPUT -p tcp --dport 6379 -j ACCEPT"], packet_filter.ALL),
        (["-A INPUT -s 10.0.0.0/8 -p tcp --dport 6379 -j ACCEPT"], packet_filter.SOME),
        (["-A INPUT -p tcp --dport 6379 -j DROP", "-A INPUT -j ACCEPT"], packet_filter.NO),
        (["-A INPUT -s 10.0.0.0/8 -j DROP", "-A INPUT -p tcp --dport 6379 -j ACCEPT"], packet_filter.ALL),
        (["-N own", "-A own -j RETURN", "-A own -j ACCEPT", "-A INPUT -j own"], packet_filter.NO),
        (["-N own", "-A INPUT -g own", "-A INPUT -j ACCEPT"], packet_filter.NO),
        (["-A INPUT -i lo -j ACCEPT"], packet_filter.NO),
    ],
)
def test_a_walk_tells_who_gets_in(rules, who):
    assert kernel(*rules).open_to(REDIS) == who


def test_a_policy_that_accepts_is_a_way_in_without_a_rule():
    (hit,) = kernel(policy="ACCEPT").ways_in(REDIS)
    assert (hit.path, hit.everybody, hit.told(kernel())) == ((), True, ("default policy allow", "kernel"))


@pytest.mark.parametrize(("text", "told"), [(6379, "6379/tcp"), ("443/udp", "443/udp"), ("80", "80/tcp")])
def test_a_port_is_told_as_one_types_it(text, told):
    assert str(packet_filter.port(text)) == f"{packet_filter.port(text)}" == told


def test_what_is_no_port_is_told():
    with pytest.raises(ValueError, match=r"^80/icmp is not a port: write it as 80/tcp or 443/udp\.$"):
        packet_filter.port("80/icmp")
