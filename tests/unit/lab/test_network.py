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

    @pytest.mark.parametrize(
        "used, subnet",
        [
            (["10.0.0.0/8"], "172.31.0.0/24"),
            (["10.0.0.0/8", "172.16.0.0/12"], "192.168.128.0/24"),
            (["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"], "100.64.0.0/24"),
        ],
    )
    def test_the_next_pool(self, used, subnet):
        assert str(network.free_subnet(networks(*used))[0]) == subnet

    def test_all_taken_is_refused(self):
        with pytest.raises(LabError, match=r"Every subnet of 10\.213\.0\.0/16, .*100\.64\.0\.0/10 is in use"):
            network.free_subnet(networks("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.0.0.0/8"))


class TestResolver:
    @pytest.fixture
    def write(self, tmp_path, monkeypatch):
        paths = [tmp_path / str(number) for number in range(4)]
        monkeypatch.setattr(network, "RESOLVERS", tuple(paths))

        def write(*texts):
            for path, text in zip(paths, texts, strict=False):
                if text is not None:
                    path.write_text(text)

        return write

    def test_the_machines_own(self, write):
        write(None, "search a.example\nnameserver 192.0.2.53\n", "nameserver 192.0.2.54\n")
        assert network.resolv_conf() == "search a.example\nnameserver 192.0.2.53\n"

    @pytest.mark.parametrize("stub", ["127.0.0.53", "127.0.0.1", "::1"])
    def test_the_one_behind_a_stub(self, write, stub):
        write(None, f"nameserver {stub}\noptions edns0\n", None, "nameserver 192.0.2.54\n")
        assert network.resolv_conf() == "nameserver 192.0.2.54\n"

    def test_loopback_beside_another(self, write):
        write(None, "nameserver 127.0.0.1\nnameserver 192.0.2.53\n")
        assert network.resolv_conf() == "nameserver 192.0.2.53\n"

    def test_loopback_alone_is_refused(self, write, tmp_path):
        write(None, "nameserver 127.0.0.1\n")
        with pytest.raises(LabError) as failure:
            network.resolv_conf()
        assert str(failure.value) == (
            "The only resolver of this machine listens on its loopback, where hosts cannot reach it. "
            f"Try: echo nameserver ADDRESS > {tmp_path}/0"
        )
        write("nameserver 192.0.2.1\n")
        assert network.resolv_conf() == "nameserver 192.0.2.1\n"

    def test_none_at_all(self, write):
        assert network.resolv_conf() == ""


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
