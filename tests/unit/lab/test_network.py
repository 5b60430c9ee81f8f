import ipaddress

import pytest

from lab import LabError, network

FREE = ipaddress.ip_network("10.213.0.0/24")


def networks(*texts):
    return [ipaddress.ip_network(text) for text in texts]


class TestFreeSubnet:
    def test_first_of_the_pool(self):
        four, six = network.free_subnet(networks("192.0.2.0/24", "fe80::/64"))
        assert (str(four), str(six)) == ("10.213.0.0/24", "fd67:7061:7468::/64")

    @pytest.mark.parametrize("used", ["10.213.0.0/24", "10.213.0.77/32", "fd67:7061:7468::9/128"])
    def test_next_one_inside_a_lab_host(self, used):
        four, six = network.free_subnet(networks(used))
        assert (str(four), str(six)) == ("10.213.1.0/24", "fd67:7061:7468:1::/64")

    def test_all_taken_is_refused(self):
        with pytest.raises(LabError, match=r"10\.213\.0\.0/16 is in use"):
            network.free_subnet(networks("10.0.0.0/8"))


class TestFreeAddress:
    def test_first(self):
        assert network.free_address(FREE, set()) == 2

    def test_goes_on_after_the_last_one(self):
        assert network.free_address(FREE, {"10.213.0.9"}, last=8) == 10

    def test_begins_again_at_the_end(self):
        assert network.free_address(FREE, {"10.213.0.2"}, last=254) == 3

    def test_every_number_is_given_once(self):
        taken, last = set(), None
        for _ in range(253):
            last = network.free_address(FREE, taken, last)
            taken.add(str(FREE[last]))
        assert taken == {f"10.213.0.{number}" for number in range(2, 255)}
        with pytest.raises(LabError, match="No free address"):
            network.free_address(FREE, taken, last)
