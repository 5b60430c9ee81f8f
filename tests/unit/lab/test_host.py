import pytest

from lab import LabError, cli, host, machine, supervisor

KNOWN = "bullseye (11), bookworm (12), trixie (13), forky (14)"


@pytest.fixture
def empty(tmp_path, monkeypatch):
    for module in (host, machine):
        monkeypatch.setattr(module, "HOSTS", tmp_path / "hosts")
    monkeypatch.setattr(machine.os, "geteuid", lambda: 0)
    monkeypatch.setattr(cli, "unwind_on_signals", lambda: None)


class TestName:
    @pytest.mark.parametrize("name", ["a", "web1", "blue-green", "a" * 32])
    def test_good(self, name):
        assert host.check_name(name) == name

    @pytest.mark.parametrize("name", ["", "-a", "a-", "Web", "a_b", "a.b", "../a", "a" * 33, "a\n"])
    def test_bad(self, name):
        with pytest.raises(LabError, match="cannot be a host's"):
            host.check_name(name)


@pytest.mark.parametrize("name, link", [("web1", "vb-web1"), ("a" * 12, "vb-" + "a" * 12), ("web1-staging-two", None)])
def test_a_link_is_never_that_of_another_host(name, link):
    assert supervisor.own_link(name) == link


def test_one_that_does_not_go_keeps_no_other(empty, monkeypatch):
    gone = []

    def down(self):
        gone.append(self.name)
        if self.name == "two":
            raise LabError("Processes of two do not end.")

    monkeypatch.setattr(host.Host, "down", down)
    with pytest.raises(LabError, match="Processes of two"), machine.Lab() as lab:
        lab._made += [host.Host(name) for name in ("one", "two", "three")]
    assert sorted(gone) == ["one", "three", "two"]


class TestRefusals:
    @pytest.mark.parametrize(
        "words, sentence",
        [
            (["info", "nobody"], "Host nobody does not exist. Try: python -m lab list"),
            (["exec", "nobody", "--", "true"], "Host nobody does not exist. Try: python -m lab list"),
            (["exec", "nobody"], "No command given. Try: python -m lab exec nobody -- uptime"),
            (["down"], "Name the hosts, or all of them. Try: python -m lab down --all"),
            (["down", "nobody", "--all"], "Name the hosts, or all of them. Try: python -m lab down --all"),
            (["up", "a", "--release", "10"], f"Release 10 is not known. Try one of: {KNOWN}"),
        ],
    )
    def test_one_sentence(self, empty, capsys, words, sentence):
        assert cli.main(words) == 1
        assert capsys.readouterr().err.strip() == sentence

    def test_without_root(self, monkeypatch):
        monkeypatch.setattr(machine.os, "geteuid", lambda: 1000)
        with pytest.raises(LabError, match="needs root"):
            machine.Lab()
