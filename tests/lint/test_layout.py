"""How the repository is laid out: pins, docstrings, links, targets, and commands that exist."""

import ast
import re
import subprocess
import sys

import pytest
import tomllib
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT
from tests.lint.repository import files, text

PROJECT = tomllib.loads(text("pyproject.toml"))["project"]
MODULES = files("_modules", "_states", "_runners", suffix=".py")


# Versions


def pins(source):
    """The exact versions of a constraints file, by name; and the lines that are anything else."""
    exact, other = {}, []
    for line in source.splitlines():
        bare = line.split("#")[0].strip()
        if not bare:
            continue
        match = re.fullmatch(r"([A-Za-z0-9][\w.-]*)(?:\[[\w,-]+\])?==([0-9][\w.!+]*)( ?; ?\S.*)?", bare)
        if match and (match[3] or canonicalize_name(match[1]) not in exact):
            exact[canonicalize_name(match[1])] = match[2]
        else:
            other.append(line)
    return exact, other


def test_every_dependency_is_pinned():
    exact, other = pins(text("constraints.txt"))
    assert other == [], "constraints.txt: only name==version"
    wanted = PROJECT["dependencies"] + [each for group in PROJECT["optional-dependencies"].values() for each in group]
    for line in wanted:
        requirement = Requirement(line)
        name = canonicalize_name(requirement.name)
        assert name in exact, f"{name} of pyproject.toml is not in constraints.txt"
        assert requirement.specifier.contains(exact[name], prereleases=True), f"{line}, but {exact[name]} is pinned"


def test_the_example_site_is_pinned():
    assert pins(text("examples/site/requirements.txt"))[1] == []


@pytest.mark.parametrize(
    "line", ["a>=1", "a", "a==1.*", "a==1,<2", "a @ https://x.example/a.whl", "-r other.txt", "a==1\na==2"]
)
def test_what_is_no_pin_is_told(line):
    assert pins(line)[1]


# Docstrings


def public_functions(source):
    return [
        node
        for node in ast.parse(source).body
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and not node.name.startswith("_")
    ]


def docstring_faults(node, kind):
    """
    What is missing in a public function's docstring.

    node (ast.FunctionDef)
        The function.
    kind (str)
        _modules, _states or _runners.
    """
    doc = ast.get_docstring(node) or ""
    faults = [] if doc else ["no docstring"]
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    for argument in arguments:
        if not re.search(rf"^(:param )?{argument.arg}( \([^)]+\)|:| : |$)", doc, re.MULTILINE):
            faults.append(f"{argument.arg} is not described")
    if kind == "_states":
        if node.name != "mod_watch" and ".. code-block:: yaml" not in doc:
            faults.append("no example (.. code-block:: yaml)")
        return faults
    if not re.search(r"\bReturns?\b|:returns?:", doc):
        faults.append("it does not say what it returns")
    if not re.search(r"^CLI Example:\n\n\.\. code-block:: bash\n\n +\S", doc, re.MULTILINE):
        faults.append("no CLI Example")
    return faults


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name):
    kind = name.split("/")[0]
    faults = {node.name: docstring_faults(node, kind) for node in public_functions(text(name))}
    assert {function: each for function, each in faults.items() if each} == {}


GOOD = '''
def f(a, b=1):
    """
    Do it.

    a (str)
        One.
    b (int)
        Two.

    Returns nothing.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 m.f x
    """
'''


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("", "", None),
        ("    a (str)\n        One.\n", "", "a is not described"),
        ("    b (int)\n", "    c (int)\n", "b is not described"),
        ("    Returns nothing.\n", "", "it does not say what it returns"),
        ("CLI Example:", "Example:", "no CLI Example"),
        ("        salt-ssh web1 m.f x\n", "", "no CLI Example"),
        (GOOD[GOOD.index('    """') :], "    pass\n", "no docstring"),
    ],
)
def test_docstring_faults_are_told(old, new, fault):
    (node,) = public_functions(GOOD.replace(old, new) if old else GOOD)
    faults = docstring_faults(node, "_modules")
    assert (fault in faults) if fault else faults == []


def test_a_state_without_an_example_is_told():
    (node,) = public_functions(GOOD)
    assert docstring_faults(node, "_states") == ["no example (.. code-block:: yaml)"]


# Layout


def test_salt_is_no_package():
    assert not (ROOT / "salt/__init__.py").exists(), "it would shadow the package salt"


@pytest.mark.parametrize("name", ["_modules", "_states"])
def test_links_reach_the_hosts(name):
    link = ROOT / "salt" / name
    assert link.is_symlink()
    assert str(link.readlink()) == f"../{name}"
    assert link.is_dir()


GATE = "_modules/redis_gate.py"


def salt_in(source):
    """What a program takes from Salt: imports, and what its loader puts into a module."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append(node.module or ".")
        elif isinstance(node, ast.Name) and re.fullmatch(r"__\w+__", node.id):
            found.append(node.id)
    return [each for each in found if each.split(".")[0] not in {*sys.stdlib_module_names, "__name__", "__file__"}]


def test_the_gate_is_free_of_salt():
    """The engine on the host imports it, where there is no Salt; and the file is the same one."""
    assert salt_in(text(GATE)) == []
    link = ROOT / "salt/host/files/lib/goldenpath/redis_gate.py"
    assert link.is_symlink() and link.resolve() == ROOT / GATE


@pytest.mark.parametrize(
    "line",
    [
        "from salt.exceptions import CommandExecutionError", "import salt.utils.files", "import requests",
        "from . import files", "__salt__['cmd.run']('x')", "x = __grains__", "def f(): return __opts__['id']",
        "'redis' in __pillar__", "__context__['retcode'] = 1",
    ],
)  # fmt: skip
def test_salt_in_the_gate_is_found(line):
    assert len(salt_in(f"{text(GATE)}\n{line}\n")) == 1


def test_modules_are_flat_files():
    assert [name for name in files("_modules", "_states", "_pillar", "_runners") if name.count("/") != 1] == []


def test_every_folder_of_tests_is_a_package():
    folders = {(ROOT / name).parent for name in files("tests", suffix=".py")}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").exists()] == []


def test_tests_mirror_the_tree():
    """tests/unit/modules/test_x.py tests _modules/x.py, and so on."""
    for kind in ("modules", "states", "runners", "pillar"):
        there = {name.split("/")[-1] for name in files(f"_{kind}", suffix=".py")}
        tested = {name.split("/")[-1].removeprefix("test_") for name in files(f"tests/unit/{kind}", suffix=".py")}
        # The orchestrations' planner is a module, because it is asked while they render.
        moved = {"deployment.py"} if kind == "modules" else set()
        assert there - tested - moved == set(), f"tests/unit/{kind}"


# make


def phony():
    return set(re.search(r"^\.PHONY: (.*)$", text("Makefile"), re.MULTILINE)[1].split())


def test_make_help_lists_every_target():
    shown = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    listed = {line.split()[1] for line in shown.splitlines()}
    targets = set(re.findall(r"^([a-z][a-z-]*):", text("Makefile"), re.MULTILINE))
    assert listed == phony() == targets
    assert all(len(line.split()) > 2 for line in shown.splitlines()), "each with a word on what it does"


# What texts tell the operator to type

DOCS = [
    *files("docs", suffix=".md"),
    *(name for name in files() if name.count("/") < 2 and name.endswith("README.md")),
]
FUNCTIONS = {
    f"{name.split('/')[1].removesuffix('.py')}.{node.name}" for name in MODULES for node in public_functions(text(name))
}
OWN = {function.split(".")[0] for function in FUNCTIONS}
# The operator's own, which git does not have.
_OWN_FILES = re.compile(r"config/roster$|pillar/hosts/|\.salt|\.venv|\.lab")


def commands(name):
    """The code of a text: blocks and spans of Markdown; of Python the CLI examples and what `Try:` says."""
    source = text(name)
    if name.endswith(".md"):
        blocks = re.findall(r"^ *```[^\n]*\n(.*?)^ *```", source, re.MULTILINE | re.DOTALL)
        return blocks + re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", source, flags=re.DOTALL))
    blocks = re.findall(r"\.\. code-block:: bash\n\n((?: +\S.*\n)+)", source)
    return blocks + re.findall(r"Try: ([^\"\n]+)", source)


def unknown(code):
    """The targets, SLS, functions and files that a command names and that do not exist."""
    wrong = [f"make {each}" for each in re.findall(r"\bmake ([a-z][a-z-]+)", code) if each not in phony()]
    for each in re.findall(r"\bstate\.(?:apply|sls|orchestrate|orch|show_sls) +([a-z_][\w.,-]*)(?![\w.=-])", code):
        for sls in each.split(","):
            path = f"salt/{sls.replace('.', '/')}"
            if not (ROOT / f"{path}.sls").is_file() and not (ROOT / path / "init.sls").is_file():
                wrong.append(f"the SLS {sls}")
    for each in re.findall(rf"\b(?:salt|salt-ssh|salt-run|salt-call)\b[^\n|]* ((?:{'|'.join(OWN)})\.[a-z_]+)\b", code):
        if each not in FUNCTIONS:
            wrong.append(f"the function {each}")
    top = "|".join(sorted({"docs", *(name.split("/")[0] for name in files() if "/" in name)}))
    for each in re.findall(rf"(?<![\w/.<{{~-])((?:{top})/[\w./-]*\w\.(?:py|sls|md|yaml|jinja|txt|conf|toml))\b", code):
        if not (ROOT / each).exists() and not _OWN_FILES.search(each):
            wrong.append(f"the file {each}")
    return wrong


@pytest.mark.parametrize("name", [*DOCS, *MODULES])
def test_commands_exist(name):
    assert [each for code in commands(name) for each in unknown(code)] == []


def test_the_comment_above_an_orchestration_calls_it():
    for name in files("salt", suffix=".sls"):
        if name.count("/") == 1 and name != "salt/top.sls":
            assert f"state.orchestrate {name[5:-4]} " in text(name).splitlines()[0]


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ("make demoo", "make demoo"),
        ("salt-ssh web1 state.apply redys", "the SLS redys"),
        ("salt-run state.orchestrate depoy pillar='{}'", "the SLS depoy"),
        ("salt-ssh web1 goldenpath.redis_pong", "the function goldenpath.redis_pong"),
        ("python salt/redis/files/gone.py", "the file salt/redis/files/gone.py"),
        ("see docs/gone.md", "the file docs/gone.md"),
    ],
)
def test_what_does_not_exist_is_told(code, fault):
    assert unknown(code) == [fault]


@pytest.mark.parametrize(
    "code",
    [
        "make demo", "salt-ssh web1 state.apply", "salt-ssh web1 state.apply test=True",
        "salt-ssh web1 state.apply redis",
        "salt-ssh web1 state.apply redis.ready", "salt-run state.orchestrate deploy pillar='{}'",
        "salt-ssh web1 goldenpath.redis_ping", "edit pillar/hosts/web1.sls", "salt-ssh web1 test.ping",
    ],
)  # fmt: skip
def test_what_exists_passes(code):
    assert unknown(code) == []
