"""What an operator without a shell may ask for, and what is refused."""

import datetime
import json
import pathlib

import pytest
from goldenpath import door, process
from goldenpath import host as hosts
from goldenpath.errors import Refused

TODAY = datetime.date.today()


@pytest.fixture(autouse=True)
def operators(paths):
    known = {
        "ada": {"sites": ["acme", "gone"]},
        "bob": {"sites": ["shop"], "until": str(TODAY)},
        "eve": {"sites": ["acme"], "until": str(TODAY - datetime.timedelta(days=1))},
    }
    pathlib.Path(hosts.ETC, "operators.json").write_text(json.dumps(known))
    pathlib.Path(hosts.SITES).mkdir()
    for slug in ("acme", "shop"):
        pathlib.Path(hosts.SITES, f"{slug}.json").write_text(json.dumps({"slug": slug}))


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("deploy acme", ["deploy", "acme"]), ("deploy acme v1.5.0", ["deploy", "acme", "v1.5.0"]),
        ("deploy acme 'feature/x'", ["deploy", "acme", "feature/x"]),
        ("rollback acme", ["rollback", "acme"]),
        ("rollback acme 20261123T221500-1a2b3c4d", ["rollback", "acme", "--release", "20261123T221500-1a2b3c4d"]),
        ("health acme", ["health", "acme"]), ("releases acme", ["releases", "acme"]),
        ("diff acme main", ["diff", "acme", "main"]), ("maintenance acme on", ["maintenance", "acme", "on"]),
        ("logs acme", ["logs", "acme"]), ("logs acme errors 5", ["logs", "acme", "errors", "--lines", "5"]),
    ],
)  # fmt: skip
def test_what_is_hers(command, words):
    assert door.allowed("ada", command) == words


REFUSED = [
    "", "   ", "sh", "bash -i", "sftp-server", "internal-sftp", "/usr/lib/openssh/sftp-server", "scp -t /tmp",
    "git-upload-pack '/x'", "manage acme shell", "psql acme", "run acme id", "env acme --values", "export acme",
    "restore acme", "redis FLUSHALL", "deploy", "deploy shop", "deploy gone", "deploy ../acme", "deploy acme/../shop",
    "deploy --help", "deploy acme --wait=9", "deploy acme v1 v2", "deploy acme -v", "deploy acme 'a b'",
    "deploy acme 'v1\nsh'", "deploy acme a..b", "deploy acme;sh", "deploy acme && sh", "deploy acme 'unbalanced",
    "rollback acme main", "rollback acme --restore-database", "maintenance acme maybe", "logs acme web 0",
    "logs acme web 99999", "logs acme -f", "logs acme ../x", "releases acme --limit=1", "deploy acme " + "v" * 600,
    "deploy acme \x1b[2J", "deploy\tacme", "DEPLOY acme",
]  # fmt: skip


@pytest.mark.parametrize("command", REFUSED)
def test_what_is_nobodys(command):
    with pytest.raises(Refused) as told:
        door.allowed("ada", command)
    assert str(told.value).endswith("with a site of yours (acme)")


def test_who_is_let_in():
    assert door.allowed("bob", "deploy shop") == ["deploy", "shop"], "on the last day, too"
    for who, why in (
        ("eve", "was let in to web1 until"),
        ("mallory", "is no operator of web1"),
        ("", "is no operator"),
    ):
        with pytest.raises(Refused, match=why):
            door.allowed(who, "deploy acme")


@pytest.fixture
def engine(tmp_path, monkeypatch):
    """An engine that says what it was asked, by whom."""
    program = tmp_path / "goldenpath"
    program.write_text('#!/bin/sh\necho "$GOLDENPATH_WHO: $*"; echo "steps" >&2; exit 3\n')
    program.chmod(0o755)
    monkeypatch.setattr(door, "COMMAND", str(program))
    told = []

    def ask(**asked):
        told.clear()
        door.answer(asked, told.append)
        return "".join(each.get("text", "") for each in told), told[-1]["exit"]

    return ask


def test_the_answer_and_its_exit_status_come_back(engine):
    asked = {"who": "ada", "command": "deploy acme v1", "from": "203.0.113.5"}
    assert engine(**asked) == ("ada from 203.0.113.5: deploy acme v1\nsteps\n", 3)
    # Who asks, and from where, is no text of the asker's.
    assert engine(**{**asked, "from": "x; y"})[0].startswith("ada from ?: ")


def test_a_refusal_runs_nothing(engine, capsys):
    text, code = engine(who="ada", command="sh", **{"from": "203.0.113.5"})
    assert code == 3 and "'sh' is nothing that ada may do" in text and "steps" not in text
    assert capsys.readouterr().err == "ada from 203.0.113.5: refused\n"
    assert engine(who=None, command=None)[1] == 3


def test_who_goes_away_ends_nothing(engine, monkeypatch):
    said = []

    def say(told):
        said.append(told)
        raise BrokenPipeError

    monkeypatch.setattr(process, "start", process.start)
    with pytest.raises(BrokenPipeError):
        door.answer({"who": "ada", "command": "health acme"}, say)
    assert "exit" in said[-1], "it was waited for"
