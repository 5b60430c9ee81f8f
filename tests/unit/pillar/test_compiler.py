"""The pillar through Salt's own compiler: top.sls, the host's file, the external pillar. No host, no daemon."""

import hashlib
import os
import pathlib
import shutil

import pytest
import salt._logging
import salt.config
import salt.pillar
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[3]
HOST = """
redis: {}
sites:
  acme:
    domains: [ACME.example]
    repo: /srv/git/acme.git
    ref: v1.4.2
    project: acme_kitchens
    redis: {cache: 0, broker: 1}
    secrets: {TOKEN: s3cr3t-canary}
"""


@pytest.fixture(scope="module", autouse=True)
def _quiet():
    """Salt would print what it logged here when Python ends."""
    salt._logging.shutdown_temp_handler()


@pytest.fixture
def checkout(tmp_path):
    """A checkout with this pillar tree, and a controller configured with paths relative to it."""
    (tmp_path / "pillar/hosts").mkdir(parents=True)
    for name in ("pillar/top.sls", "pillar/schema.yaml", "pillar/hosts/example.sls"):
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("_pillar", "pillar/judge"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "config").mkdir()
    configure(tmp_path, ".")
    return tmp_path


def configure(checkout, base):
    config = {
        "root_dir": base,
        "file_roots": {"base": [os.path.join(base, "salt")]},
        "pillar_roots": {"base": [os.path.join(base, "pillar")]},
        "pillar_dirs": [os.path.join(base, "_pillar")],
        "ext_pillar": [{"goldenpath": {}}],
        "cachedir": ".salt/cache",
        "extension_modules": ".salt/extmods",
        "log_file": ".salt/log",
    }
    (checkout / "config/master").write_text(yaml.safe_dump(config), encoding="utf-8")


@pytest.fixture
def compiled(checkout, monkeypatch):
    monkeypatch.chdir(checkout)

    def compiled(host, text=None, *, name=None, override=None, grains=None, pillar=None):
        if text is not None:
            name = name or host.replace(".", "_")
            (checkout / f"pillar/hosts/{name}.sls").write_text(text, encoding="utf-8")
        opts = salt.config.master_config(str(checkout / "config/master"))
        if pillar is not None:
            opts["pillar"] = pillar
        return salt.pillar.Pillar(opts, grains or {"id": host}, host, "base", pillar_override=override).compile_pillar()

    return compiled


def test_host(compiled):
    pillar = compiled("web1", HOST)
    assert "_errors" not in pillar
    assert pillar["sites"]["acme"]["domains"] == ["acme.example"]
    assert pillar["sites"]["acme"]["workers"] == 3
    assert pillar["sites"]["acme"]["secrets"] == {"TOKEN": "s3cr3t-canary"}


def test_absolute_paths_from_another_folder(checkout, compiled, monkeypatch):
    configure(checkout, str(checkout))
    monkeypatch.chdir("/")
    assert compiled("web1", HOST)["sites"]["acme"]["tls"] == "acme"


def test_dots_become_underscores(compiled):
    assert compiled("web1.acme.example", HOST)["sites"]["acme"]["ref"] == "v1.4.2"


def test_example(compiled):
    pillar = compiled("web1", (ROOT / "pillar/hosts/example.sls").read_text(encoding="utf-8"))
    assert "_errors" not in pillar
    assert list(pillar["sites"]) == ["acme-kitchens"]


def test_jinja_is_off_where_the_example_switches_it_off(compiled):
    pillar = compiled("web1", "#!yaml" + HOST.replace("s3cr3t-canary", "'a{{b{%c{#'"))
    assert pillar["sites"]["acme"]["secrets"] == {"TOKEN": "a{{b{%c{#"}


@pytest.mark.parametrize("transport", ["minion", "ssh", None])
def test_a_minion_is_told_what_it_is_to_have_of_the_checkout(checkout, compiled, transport):
    config = yaml.safe_load((checkout / "config/master").read_text(encoding="utf-8"))
    (checkout / "config/master").write_text(
        yaml.safe_dump({**config, **({"goldenpath": {"transport": transport}} if transport else {})}), encoding="utf-8"
    )
    for kind in ("modules", "states", "grains"):
        (checkout / f"salt/_{kind}").mkdir(parents=True)
        (checkout / f"salt/_{kind}/a.py").write_bytes(b"a")
    found = compiled("web1", HOST).get("goldenpath_modules")
    digest = hashlib.sha256(b"a").hexdigest()
    # Over ssh they come with every command.
    assert found == ({"modules/a.py": digest, "states/a.py": digest} if transport == "minion" else None)
    (checkout / "salt/_modules/a.py").write_bytes(b"b")
    if found:
        again = compiled("web1", pillar=compiled("web1", HOST), override={"goldenpath_deploy": {}})
        assert "_errors" not in again
        assert again["goldenpath_modules"]["modules/a.py"] == hashlib.sha256(b"b").hexdigest()
    assert "goldenpath_modules" not in compiled("web1", "sites: 1")


def test_bad_host(compiled):
    pillar = compiled("web1", HOST.replace("ref: v1.4.2", "ref: 1.10").replace("cache: 0", "cache: 1"))
    assert [error.split(": ")[0] for error in pillar["_errors"]] == ["sites:acme:redis:broker", "sites:acme:ref"]


@pytest.mark.parametrize("text", [None, "", "# nothing yet\n", "{}\n"])
def test_host_without_pillar(compiled, text):
    (error,) = compiled("web1", text)["_errors"]
    assert error.startswith("web1 has no pillar: pillar/hosts/web1.sls is missing or empty;")


@pytest.mark.parametrize(
    "text",
    [
        "sites: [",
        "sites: {{ nothing.at.all }}",
        "redis: {}\nredis: {}\n",
        "[1]",
        HOST + "include: [hosts.nowhere]\nsites_: 1\n",
    ],
)
def test_file_that_does_not_render_is_told_by_salt_alone(compiled, text):
    errors = compiled("web1", text)["_errors"]
    assert len(errors) == 1
    assert "hosts." in errors[0]
    assert "no pillar" not in errors[0]


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("../secret", "secret"),
        ("hosts/../../secret", "secret"),
        ("*", "web1"),
        ("web?", "web1"),
        ("[w]eb1", "web1"),
        ("web1\n", "web1"),
        ("web1: x", "web1"),
        ("{{ 'web1' }}", "web1"),
        ("web1' ~ 'x", "web1"),
        ("acme_example", "acme_example"),
    ],
)
def test_no_id_reads_the_file_of_another_host(compiled, host, name):
    pillar = compiled(host, HOST, name=name)
    assert "sites" not in pillar
    assert "cannot be a host's id" in pillar["_errors"][0]


def test_a_host_does_not_choose_its_file_by_its_grains(compiled):
    compiled("web1", HOST)
    pillar = compiled("web2", grains={"id": "web1"})
    assert "sites" not in pillar
    assert pillar["_errors"][0].startswith("web2 has no pillar")


def test_controller_in_an_orchestration(compiled):
    pillar = compiled("ops_master", override={"target": "web*", "site": "acme", "ref": "v2"})
    assert pillar == {"target": "web*", "site": "acme", "ref": "v2"}


def test_pillar_of_the_command_line_is_judged_and_wins(compiled):
    override = {"sites": {"acme": {"ref": "v2"}}, "goldenpath_deploy": {"site": "acme"}}
    pillar = compiled("web1", HOST, override=override)
    assert "_errors" not in pillar
    assert pillar["sites"]["acme"]["ref"] == "v2"
    assert pillar["sites"]["acme"]["workers"] == 3
    assert pillar["goldenpath_deploy"] == {"site": "acme"}

    override = {"sites": {"acme": {"ref": "-f"}}, "nonsense": 1}
    errors = compiled("web1", HOST, override=override)["_errors"]
    assert [error.split(": ")[0] for error in errors] == ["nonsense", "sites:acme:ref"]


def test_second_compilation_on_top_of_the_first(compiled):
    """salt-ssh compiles again with what the first compilation gave, when the command line holds a pillar."""
    good = compiled("web1", HOST)
    assert compiled("web1", pillar=good, override={"goldenpath_deploy": {}}) == {**good, "goldenpath_deploy": {}}
    bad = compiled("web1", HOST.replace("v1.4.2", "-f"))
    assert compiled("web1", pillar=bad, override={"goldenpath_deploy": {}})["_errors"] == bad["_errors"]


def test_nothing_secret_is_logged(compiled, caplog):
    with caplog.at_level("DEBUG"):
        compiled("web1", HOST)
        compiled("web1", HOST.replace("{TOKEN: s3cr3t-canary}", "[s3cr3t-canary]"))
    assert "s3cr3t-canary" not in "".join(
        record.getMessage() for record in caplog.records if "goldenpath" in record.name
    )
    assert all("s3cr3t" not in error for error in compiled("web1")["_errors"])
