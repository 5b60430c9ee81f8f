"""A new host, with a key server of the test's own: what is written, and that nothing is where anything is wrong."""

import io
import pathlib
import re
import subprocess

import pytest
import yaml

from _pillar import goldenpath
from _runners import new_host

BLOCK = """shop:
  domains: [shop.example]
  repo: https://git.example/shop.git
  ref: main
  project: config
  redis: {cache: 0, broker: 1}   # numbers that no other site of the host has
  health: /
  env:   # the settings have no default for these
    MAIL_HOST: CHOOSE
"""
GIVEN = {"address": "203.0.113.10", "domain": "shop.example", "repo": "https://git.example/shop.git"}


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Where it writes, beside an ssh-keyscan that knows one key and a salt-run that knows one repository."""
    (tmp_path / "hosts").mkdir()
    (tmp_path / "bin").mkdir()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key")], check=True)
    public = " ".join((tmp_path / "key.pub").read_text().split()[:2])
    said = "nothing  it holds no Django project. Try: x"
    programs = {
        "ssh-keyscan": f'for last; do :; done; test $last = 203.0.113.99 || echo "$last {public}"',
        "salt-run": f'case "$*" in *nothing*) echo "{said}"; exit 1;; esac\ncat {tmp_path}/block',
    }
    for name, text in programs.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "block").write_text(BLOCK)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    monkeypatch.setattr("sys.stdin", io.StringIO())
    shown = subprocess.run(["ssh-keygen", "-lf", str(tmp_path / "key.pub")], capture_output=True, text=True, check=True)
    return {
        "roster": tmp_path / "config/roster", "hosts": tmp_path / "hosts", "known_hosts": tmp_path / "ssh/known_hosts",
        "fingerprint": shown.stdout.split()[1], "public": public,
    }  # fmt: skip


def make(places, known=(), id_="web1.example", **given):
    given = {**GIVEN, "fingerprint": places["fingerprint"], **given}
    return new_host.make(id_, {k: v for k, v in given.items() if v}, places, known, ["salt-run"])


def test_all_that_a_new_host_needs(places):
    said = make(places)
    assert yaml.safe_load(places["roster"].read_text()) == {
        "web1.example": {"host": "203.0.113.10", "user": "root", "priv": "~/.ssh/id_ed25519"}
    }
    path = places["hosts"] / "web1_example.sls"
    pillar = yaml.safe_load(path.read_text())
    assert goldenpath.validate(pillar) == [
        "sites:shop:env:MAIL_HOST: is still the placeholder of a copied block; write your own, or remove the key."
    ]
    assert places["known_hosts"].read_text() == f"203.0.113.10 {places['public']}\n"
    assert all(each.stat().st_mode & 0o777 == 0o600 for each in (path, places["roster"], places["known_hosts"]))
    last = ["Next:", "  ./goldenpath apply web1.example", "  ./goldenpath deploy web1.example/shop"]
    assert said.splitlines()[-3:] == last
    assert "  MAIL_HOST: CHOOSE" in said


def test_where_root_may_not_log_in_and_others_are_there(places):
    places["roster"].parent.mkdir()
    places["roster"].write_text("web0: {host: 203.0.113.9}")
    make(places, known=["web0"], user="admin", port="2222")
    assert yaml.safe_load(places["roster"].read_text()) == {
        "web0": {"host": "203.0.113.9"},
        "web1.example": {"host": "203.0.113.10", "user": "admin", "port": 2222, "priv": "~/.ssh/id_ed25519",
                         "sudo": True, "thin_dir": "/home/admin/.goldenpath-thin"},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"id_": "web 1"}, "cannot be a host's id"), ({"address": ""}, "A new host needs address"),
        ({"repo": "", "domain": ""}, "A new host needs domain, repo"), ({"colour": "teal"}, "colour is nothing that"),
        ({"known": ["web1.example"]}, "has a host web1.example already"),
        ({"fingerprint": "SHA256:other"}, "and not SHA256:other"), ({"fingerprint": ""}, "Nobody has compared it"),
        ({"address": "203.0.113.99"}, "203.0.113.99 shows no ssh host key"),
        ({"repo": "https://git.example/nothing.git"}, "it holds no Django project"),
        ({"domain": "a.example]"}, "holds a blank, a quote or a bracket"),
    ],
)  # fmt: skip
def test_nothing_is_written_where_anything_is_wrong(places, changes, said):
    with pytest.raises(new_host.Wrong, match=re.escape(said)):
        make(places, **changes)
    assert not places["roster"].exists() and not list(places["hosts"].iterdir()) and not places["known_hosts"].exists()


def test_a_pillar_that_is_there_is_not_written_over(places):
    path = pathlib.Path(places["hosts"] / "web1_example.sls")
    path.write_text("mine")
    with pytest.raises(new_host.Wrong, match="is not written over"):
        make(places)
    assert path.read_text() == "mine" and not places["roster"].exists()


@pytest.mark.parametrize(("typed", "written"), [("yes", True), ("y", False), ("", False)])
def test_a_person_compares(places, monkeypatch, capsys, typed, written):
    monkeypatch.setattr("sys.stdin", type("Terminal", (), {"isatty": lambda self: True})())
    monkeypatch.setattr("builtins.input", lambda prompt: typed)
    if written:
        make(places, fingerprint="")
    else:
        with pytest.raises(new_host.Wrong, match="Nothing was written"):
            make(places, fingerprint="")
    assert places["fingerprint"] in capsys.readouterr().out and places["roster"].exists() is written
