"""./goldenpath, as an operator types it: in a process of its own, with a roster and an ssh of the test's."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest
import yaml

from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "salt/host/files/lib"))
from goldenpath import VERSION, cli

SITE = {
    "domains": ["acme.example"], "repo": "/srv/git/a.git", "ref": "v1", "project": "acme",
    "redis": {"cache": 0, "broker": 1},
}  # fmt: skip


@pytest.fixture
def operator(tmp_path, monkeypatch):
    """Runs ./goldenpath; what ssh was asked is in the answer, a list of words each."""
    config = yaml.safe_load((ROOT / "config/master").read_text())
    dirs = {key: [str(ROOT / each) for each in value] for key, value in config.items() if key.endswith("_dirs")}
    (tmp_path / "pillar/hosts").mkdir(parents=True)
    (tmp_path / "pillar/top.sls").write_text((ROOT / "pillar/top.sls").read_text())
    (tmp_path / "state/cache/proc").mkdir(parents=True)
    state = {
        name: str(tmp_path / "state" / path)
        for name, path in (("root_dir", "."), ("pki_dir", "pki"), ("cachedir", "cache"), ("sock_dir", "run"),
                           ("extension_modules", "ext"), ("log_file", "log"), ("key_logfile", "key"))
    }  # fmt: skip
    config |= {**dirs, **state, "pillar_roots": {"base": [str(tmp_path / "pillar")]},
               "file_roots": {"base": [str(ROOT / "salt")]}, "roster_file": str(tmp_path / "roster")}  # fmt: skip
    (tmp_path / "master").write_text(yaml.safe_dump(config))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/ssh").write_text(
        f"#!{sys.executable}\nimport json, os, sys\n"
        f"open({str(tmp_path / 'asked')!r}, 'a').write(json.dumps(sys.argv) + '\\n')\n"
        "sys.stdout.write(os.environ.get('SAYS', '')); sys.stderr.write(os.environ.get('WHY', ''))\n"
        "sys.exit(int(os.environ.get('ENDS', 0)))\n"
    )
    (tmp_path / "bin/ssh").chmod(0o755)

    def operator(*words, **env):
        (tmp_path / "asked").unlink(missing_ok=True)
        path = f"{tmp_path}/bin:{os.environ['PATH']}"
        done = subprocess.run(
            [str(ROOT / "goldenpath"), *words], capture_output=True, text=True, cwd=tmp_path, timeout=60,
            env={**os.environ, "PATH": path, "GOLDENPATH_CONFIG": str(tmp_path), **env}, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        asked = (tmp_path / "asked").read_text().splitlines() if (tmp_path / "asked").exists() else []
        done.asked = [json.loads(line)[1:] for line in asked]
        assert "Traceback" not in done.stderr
        return done

    def hosts(sites=None, **entries):
        (tmp_path / "roster").write_text(json.dumps(entries))
        for host, slugs in (sites or {}).items():
            pillar = {"redis": {}, "sites": {slug: {**SITE, "domains": [f"{slug}.example"]} for slug in slugs}}
            (tmp_path / f"pillar/hosts/{host}.sls").write_text(json.dumps(pillar))

    operator.hosts = hosts
    hosts(web1={"host": "203.0.113.10"})
    return operator


def test_every_verb_of_a_host_is_one_of_the_engines(operator):
    shown = operator("help").stdout
    names = re.findall(r"^  ([a-z]+) ", shown.split("On a site's host:")[1], re.MULTILINE)
    engine = {name for name, *_ in cli._VERBS}
    assert set(names) <= engine and set(names) >= {"ps", "logs", "manage", "psql", "env", "diff", "run", "health"}
    # What is for people there can be typed here; the rest is for timers and Salt, or has a way of its own.
    assert engine - set(names) - {"deploy"} == {
        "redis", "releases", "rollback", "check", "plan", "restore", "heal", "watch", "fresh", "exchange", "export",
        "restart-postgres", "door", "dump",
    }  # fmt: skip
    runners = (ROOT / "_runners/goldenpath.py").read_text()
    assert all(f"def {name}(" in runners for name in ("releases", "exposed", "drift", "inspect"))


def test_a_verb_goes_to_the_sites_host_as_the_roster_says(operator):
    operator.hosts(web1={"host": "203.0.113.10", "user": "admin", "sudo": True, "port": 2222, "priv": "/k"})
    done = operator("logs", "acme", "errors", "-n", "5", "--since", "1 hour ago")
    (words,) = done.asked
    assert done.returncode == 0
    assert words[-2:] == ["admin@203.0.113.10", "sudo goldenpath logs acme errors -n 5 --since '1 hour ago'"]
    assert words[words.index("-p") + 1] == "2222" and words[words.index("-i") + 1] == "/k" and "-t" not in words
    assert "ControlPersist=30" in words, "one connection for several commands"


@pytest.mark.parametrize(("ends", "status"), [(0, 0), (1, 1), (3, 3), (255, 1), (7, 7)])
def test_the_exit_status_is_the_commands(operator, ends, status):
    assert operator("manage", "acme", "check", ENDS=str(ends)).returncode == status


def test_whose_site_it_is(operator):
    operator.hosts(
        {"web1": ["acme"], "web2": ["acme", "shop"]}, web1={"host": "203.0.113.10"}, web2={"host": "203.0.113.11"}
    )
    assert operator("env", "shop").asked[0][-2:] == ["root@203.0.113.11", "goldenpath env shop"]
    assert operator("env", "web1/acme").asked[0][-2:] == ["root@203.0.113.10", "goldenpath env acme"]
    for words, said in (
        (("env", "acme"), "web1 and web2 have a site acme. Try: web1/acme\n"),
        (("env", "blog"), "No host has a site blog. Hosts: web1, web2. Try: ./goldenpath ps\n"),
        (("env", "web3/acme"), "There is no host web3. Known: web1, web2. Try: name it in "),
    ):
        done = operator(*words)
        assert (done.returncode, done.asked) == (3, []) and done.stderr.startswith(said)


@pytest.mark.parametrize(
    "words", [("frob",), ("logs",), ("logs", "-f"), ("apply",), ("rollback",), ("deploy", "--go"), ("pull",), ("ssh",),
              ("pull", "a", "b"), ("deploy", "a", "b", "c")],
)  # fmt: skip
def test_what_is_no_command_touches_nothing(operator, words):
    done = operator(*words)
    assert (done.returncode, done.asked) == (3, [])
    assert "Try: ./goldenpath help" in done.stderr and done.stdout == ""


def test_all_hosts_at_a_glance(operator):
    operator.hosts(web2={"host": "203.0.113.11"}, web1={"host": "203.0.113.10"})
    done = operator("ps", SAYS="acme up\n")
    assert done.stdout == "web1:\nacme up\nweb2:\nacme up\n" and done.returncode == 0
    assert all("BatchMode=yes" in words and words[-1] == "goldenpath ps" for words in done.asked)
    for version, way in (
        ("0.0.1", "./goldenpath apply web2"),
        ("99.0", "git pull: an older checkout leaves it as it is"),
    ):
        done = operator("ps", "web2", SAYS=f"acme up\n  web2: load 0.1; engine {version}\n")
        assert f"  web2 has the engine {version}, this checkout {VERSION}. Try: {way}\n" in done.stdout
    assert "this checkout" not in operator("ps", "web2", SAYS=f"  web2: load 0.1; engine {VERSION}\n").stdout
    done = operator("ps", "web2", WHY="ssh: connect to host 203.0.113.11: No route to host\n", ENDS="255")
    assert done.returncode == 1 and "web2 cannot be asked: ssh: connect" in done.stdout
    assert "No route to host. Try: ./goldenpath ssh web2" in done.stdout
    operator.hosts()
    assert operator("ps").returncode == 3


def test_a_line_for_the_shell_there(operator):
    assert operator("ssh", "web1", "df -h | tail").asked[0][-1] == "sh -c 'df -h | tail'"
    assert operator("ssh", "web1").asked[0][-1] == "bash -l"


def test_what_is_pulled_is_the_owners_alone_and_whole(operator, tmp_path):
    done = operator("pull", "acme", SAYS="PGDMP")
    assert done.asked[0][-1] == "goldenpath export acme" and "pg_restore --no-owner -d acme acme.dump" in done.stdout
    assert (tmp_path / "acme.dump").read_text() == "PGDMP" and (tmp_path / "acme.dump").stat().st_mode & 0o777 == 0o600
    done = operator("pull", "acme", SAYS="PG", WHY="pg_dump failed. Try: df -h\n", ENDS="1")
    assert done.returncode == 1 and done.stderr == "pg_dump failed. Try: df -h\n"
    assert (tmp_path / "acme.dump").read_text() == "PGDMP" and not list(tmp_path.glob("*.part"))
    assert operator("pull", "acme", "--media", SAYS="x").asked[0][-1] == "goldenpath export acme --media"
    assert (tmp_path / "acme.media.tar").exists()


def test_an_orchestration_of_one_site_reaches_its_host_alone(tmp_path):
    """What salt-run is asked, without a run of it."""
    source = pathlib.Path(ROOT / "goldenpath").read_text()
    names = {"__name__": "entry", "__file__": str(ROOT / "goldenpath")}
    exec(compile(source, "goldenpath", "exec"), names)
    asked = []
    names["salt"] = lambda *words, **_: asked.append(words)
    hosts = {"of": lambda _, name: ("web1", name.rpartition("/")[2]), "by_ssh": True}
    names["Hosts"] = lambda: type("Hosts", (), hosts)()
    for words in (["web1/acme", "v2", "migrations=accept", "wait=60"], ["acme"], []):
        names["orchestrate"]("deploy", words)
    names["orchestrate"]("rollback", ["acme", "restore_database=true"])
    told = [json.loads(words[3].removeprefix("pillar=")) if len(words) > 3 else None for words in asked]
    assert told == [
        {"site": "acme", "ref": "v2", "migrations": "accept", "wait": 60, "target": "web1"},
        {"site": "acme", "target": "web1"}, None,
        {"site": "acme", "restore_database": True, "target": "web1"},
    ]  # fmt: skip
    assert {words[:3] for words in asked} == {
        ("salt-run", "state.orchestrate", verb) for verb in ("deploy", "rollback")
    }
    hosts["by_ssh"] = False
    names["orchestrate"]("deploy", ["acme"])
    assert json.loads(asked[-1][3].removeprefix("pillar=")) == {"site": "acme"}, "minions stand in no roster"
