"""What the documentation says, held against the code: keys, sentences, requests, targets and links."""

import ast
import json
import re

import pytest
import yaml

from tests.conftest import ROOT, load_module
from tests.lint.repository import files, text

DOCS = ["README.md", "CHANGELOG.md", *files("docs", suffix=".md")]
RUNBOOK = text("docs/vps-golden-path.md")


def rows(source):
    """The rows of all tables of a Markdown text, without their heads, as lists of cells."""
    lines = [line for line in source.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    heads = {number - 1 for number, row in enumerate(cells) if set("".join(row)) <= set("- ")}
    return [row for number, row in enumerate(cells) if number not in heads and not set("".join(row)) <= set("- ")]


def section(source, title):
    """The text below one heading, up to the next one of any level."""
    return re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#+ |\Z)", source, re.MULTILINE | re.DOTALL)[1]


# The pillar's keys


def keys(schema, path=()):
    """Each key of the schema that takes a value: {path: (default or None, is required)}."""
    found = {}
    for name, inner in schema.get("properties", {}).items():
        here = (*path, name)
        rest = inner.get("additionalProperties")
        if "properties" in inner:
            found |= keys(inner, here)
        elif isinstance(rest, dict) and "properties" in rest:
            found |= keys(rest, (*here, "<slug>" if here == ("sites",) else "<name>"))
        else:
            found[":".join(here)] = (inner.get("default"), name in schema.get("required", []))
    return found


KEYS = keys(yaml.safe_load(text("pillar/schema.yaml")))
TABLE = {row[0].strip("`"): row[1:] for row in rows(text("docs/pillar.md"))}


def test_the_table_names_every_key_and_no_other():
    assert sorted(TABLE) == sorted(KEYS)


@pytest.mark.parametrize("key", sorted(KEYS))
def test_a_key_is_told_with_its_default(key):
    default, required = KEYS[key]
    kind, told, meaning = TABLE[key]
    assert kind and meaning
    if required:
        assert told == "required"
    elif default is None:
        assert "`" not in told and told != "required"
    else:
        assert told == f"`{default if isinstance(default, str) else json.dumps(default)}`"


# Sentences

GATE = "_modules/redis_gate.py"
DOOR = "_modules/goldenpath.py"
ENGINE = "salt/host/files/lib/goldenpath"
PREFLIGHT = [f"{ENGINE}/{name}.py" for name in ("preflight", "front", "postgres", "watch")]
UNITS_AND_FILES = {name: getattr(load_module(GATE), name) for name in ("UNIT", "CONFIG")}


def phrase(node):
    """A string of the code with … for what varies; the gate's own constants are told by their values."""
    if isinstance(node, ast.JoinedStr):
        return "".join(phrase(part) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return UNITS_AND_FILES.get(getattr(node.value, "id", ""), "…")
    if isinstance(node, ast.IfExp):
        return phrase(node.body)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else "…"


def phrases(names):
    """Every string of some programs."""
    trees = [ast.parse(text(name)) for name in names]
    return [
        phrase(node) for tree in trees for node in ast.walk(tree) if isinstance(node, (ast.JoinedStr, ast.Constant))
    ]


def gate_sentences():
    """Every reason for which the gate refuses; the firewall's are the door's."""
    found = []
    for node in ast.walk(ast.parse(text(GATE))):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("Fault", "NobodyListens"):
            found += [phrase(argument) for argument in node.args[:1] if not isinstance(argument, ast.Name)]
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "MEANINGS":
            found += [phrase(pair.elts[0]) for pair in node.value.values]
    for node in ast.parse(text(DOOR)).body:
        if getattr(node, "name", "") == "_firewall":
            returned = [each.value.elts[0] for each in ast.walk(node) if isinstance(each, ast.Return)]
            found += [sentence for sentence in map(phrase, returned) if sentence]
    return found


def preflight_sentences():
    """Every reason for which a deploy refuses before it begins."""
    functions = [
        node
        for name in PREFLIGHT[:2]
        for node in ast.walk(ast.parse(text(name)))
        if isinstance(node, ast.FunctionDef) and node.name in ("look", "_memory", "faults")
    ]
    strings = [phrase(node) for each in functions for node in ast.walk(each) if isinstance(node, ast.JoinedStr)]
    return [each.split(" Try: ")[0] for each in strings if " Try: " in each]


def missing(sentences, source):
    """The sentences of which a fixed part, long enough to look for, is nowhere in a text."""
    flat = " ".join(source.split())
    parts = {each: [part.strip(" .:(),") for part in each.split("…")] for each in sentences}
    return [each for each in sentences if any(len(part) > 7 and part not in flat for part in parts[each])]


@pytest.mark.parametrize(
    ("sentences", "least", "title"),
    [(gate_sentences(), 30, "What the gate says"), (preflight_sentences(), 6, "What preflight says")],
    ids=["gate", "preflight"],
)
def test_every_sentence_is_told(sentences, least, title):
    assert len(sentences) >= least
    assert missing(sentences, section(RUNBOOK, title)) == []


@pytest.mark.parametrize(
    ("title", "sources", "column"), [("What the gate says", [GATE, DOOR], 1), ("What preflight says", PREFLIGHT, 0)]
)
def test_what_is_told_is_said(title, sources, column):
    told = [span for row in rows(section(RUNBOOK, title)) for span in re.findall("`([^`]+)`", row[column])]
    assert len(told) > 7
    assert missing(told, " ".join(phrases(sources))) == []


def test_every_check_of_the_gate_is_told():
    checks = load_module(GATE).CHECKS
    told = {name for row in rows(section(RUNBOOK, "What the gate says")) for name in row[0].split(", ")}
    assert told == set(checks)


def test_every_step_of_a_deploy_is_told_in_order():
    code = "".join(text(f"{ENGINE}/{name}.py") for name in ("release", "steps", "activate", "rollback"))
    steps = re.findall(r"(?:run|this)\.step\(\"([^\"]+)\"\)", code)
    told = [row[0].strip("`") for row in rows(section(RUNBOOK, "Deploy"))]
    told = [name for name in told if not name.startswith(("deploy-", "release-", "("))]
    assert set(told) | {"restore database"} == set(steps)
    assert "`restore database`" in section(RUNBOOK, "Rollback")
    assert told.index("preflight") < told.index("fetch") < told.index("migrate") < told.index("switch")


# Requests, targets, folders and links


@pytest.mark.parametrize("name", DOCS)
def test_requests_are_known(name):
    asked = load_module("_modules/deployment.py")._ASKED
    for sls, request in re.findall(r"state\.orchestrate (\w+) pillar='(\{[^']*\})'", text(name)):
        for key, value in json.loads(request).items():
            assert type(value) is asked[sls][key], f"{sls}: {key}"


def test_readme_names_every_target():
    targets = set(re.search(r"^\.PHONY: (.*)$", text("Makefile"), re.MULTILINE)[1].split())
    told = set(re.findall(r"`make ([a-z-]+)`", " ".join(row[0] for row in rows(section(text("README.md"), "make")))))
    assert told == targets


def test_readme_names_every_folder():
    folders = {name.split("/")[0] for name in files() if "/" in name}
    told = " ".join(row[0] for row in rows(section(text("README.md"), "The tree")))
    assert set(re.findall(r"\[([\w.]+)/\]", told)) == folders


def anchors(name):
    """What a heading of a text is linked by."""
    titles = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text(name), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", DOCS)
def test_links_lead_somewhere(name):
    bare = re.sub(r"```.*?```", "", text(name), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", bare):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        place = (ROOT / name).parent / path if path else ROOT / name
        assert place.exists(), target
        if anchor:
            assert anchor in anchors(str(place.resolve().relative_to(ROOT))), target


# What the checks above are worth


def test_a_sentence_that_nobody_says_is_told():
    assert missing(["Redis on …: it is on fire"], "it has no memory limit") == ["Redis on …: it is on fire"]
    assert missing(["it uses … % of its …"], "| `it uses … % of its …` |") == []


def test_rows_are_those_of_tables():
    assert rows("| a | b |\n| --- | --- |\n| `c` | d |\n\nno | row\n\n| e |\n| --- |\n| f |\n") == [["`c`", "d"], ["f"]]
