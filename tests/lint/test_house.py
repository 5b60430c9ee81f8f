"""How the house is built: calls that exist, files that one can read, arrows without a circle, no code in strings."""

import ast
import inspect
import pathlib
import re
import subprocess
import sys

import jinja2
import jinja2.nodes
import pytest

from tests.conftest import ROOT
from tests.lint.repository import files, text

PYTHON = files("_modules", "_states", "_runners", "_pillar", "_roster", "_controller", suffix=".py")
LIBRARY = "salt/host/files/lib/goldenpath"


# Calls of our own functions by their names


def signatures(sources):
    """
    Our functions by the names that Salt gives them.

    sources (dict)
        The text of each module, by its name.

    Returns ``{"module.function": inspect.Signature}``.
    """
    found = {}
    for module, source in sources.items():
        for node in ast.parse(source).body:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and not node.name.startswith("_"):
                found[f"{module}.{node.name}"] = _signature(node.args)
    return found


def _signature(arguments):
    kinds = inspect.Parameter
    plain = [*arguments.posonlyargs, *arguments.args]
    optional = len(plain) - len(arguments.defaults)
    parameters = [
        kinds(
            each.arg,
            kinds.POSITIONAL_ONLY if each in arguments.posonlyargs else kinds.POSITIONAL_OR_KEYWORD,
            default=kinds.empty if number < optional else None,
        )
        for number, each in enumerate(plain)
    ]
    if arguments.vararg:
        parameters.append(kinds(arguments.vararg.arg, kinds.VAR_POSITIONAL))
    for each, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        parameters.append(kinds(each.arg, kinds.KEYWORD_ONLY, default=kinds.empty if default is None else None))
    if arguments.kwarg:
        parameters.append(kinds(arguments.kwarg.arg, kinds.VAR_KEYWORD))
    return inspect.Signature(parameters)


def calls_of_python(source):
    """What a module asks of ``__salt__``: (name, arguments or None where it is only named)."""
    tree = ast.parse(source)
    called = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and _is_salt(node.value) and isinstance(node.slice, ast.Constant):
            call = called.get(id(node))
            yield (
                node.slice.value,
                call
                and (
                    sum(not isinstance(each, ast.Starred) for each in call.args),
                    [each.arg for each in call.keywords if each.arg],
                    any(isinstance(each, ast.Starred) for each in call.args)
                    or any(not each.arg for each in call.keywords),
                ),
            )
        elif (
            isinstance(node, ast.Compare)
            and isinstance(node.left, ast.Constant)
            and any(_is_salt(each) for each in node.comparators)
        ):
            yield node.left.value, None


def _is_salt(node):
    return isinstance(node, ast.Name) and node.id == "__salt__"


def calls_of_jinja(source):
    """As ``calls_of_python``, of a template: ``salt["a.b"](…)`` and ``salt.a.b(…)``."""
    tree = jinja2.Environment(
        extensions=["jinja2.ext.do", "jinja2.ext.loopcontrols", "salt.utils.jinja.SerializerExtension"], autoescape=True
    ).parse(source)
    calls = {id(node.node): node for node in tree.find_all(jinja2.nodes.Call)}
    for node in tree.find_all((jinja2.nodes.Getitem, jinja2.nodes.Getattr)):
        owner = node.node
        if isinstance(node, jinja2.nodes.Getitem) and isinstance(owner, jinja2.nodes.Name) and owner.name == "salt":
            name = getattr(node.arg, "value", None)
        elif isinstance(owner, jinja2.nodes.Getattr) and getattr(owner.node, "name", None) == "salt":
            name = f"{owner.attr}.{node.attr}" if isinstance(node, jinja2.nodes.Getattr) else None
        else:
            continue
        call = calls.get(id(node))
        yield (
            name,
            call
            and (
                len(call.args),
                [each.key for each in call.kwargs],
                bool(call.dyn_args or call.dyn_kwargs),
            ),
        )


def wrong_calls(calls, ours):
    """A sentence for each call of a function of ours that does not exist or does not take these arguments."""
    modules = {name.split(".")[0] for name in ours}
    faults = []
    for name, arguments in calls:
        if not isinstance(name, str) or name.split(".")[0] not in modules:
            continue
        if name not in ours:
            faults.append(f"{name} does not exist")
        elif arguments:
            positional, keywords, more = arguments
            bind = ours[name].bind_partial if more else ours[name].bind
            try:
                bind(*[None] * positional, **dict.fromkeys(keywords))
            except TypeError as exc:
                faults.append(f"{name}: {exc}")
    return faults


MODULES = {pathlib.Path(name).stem: text(name) for name in files("_modules", suffix=".py")}
OURS = signatures(MODULES)
TEMPLATES = [name for name in files("salt") if name.endswith((".sls", ".jinja"))]


@pytest.mark.parametrize("name", [*PYTHON, *TEMPLATES])
def test_what_is_called_exists(name):
    calls = calls_of_python(text(name)) if name.endswith(".py") else calls_of_jinja(text(name))
    assert wrong_calls(calls, OURS) == []


SAMPLE = {"ours": "def f(a, b=1, *, c=2):\n    pass\n\ndef g(*words, **more):\n    pass\n\ndef _h():\n    pass\n"}


@pytest.mark.parametrize(
    ("call", "fault"),
    [
        ('__salt__["ours.f"](1)', None),
        ('__salt__["ours.f"](1, 2, c=3)', None),
        ('__salt__["ours.f"](a=1)', None),
        ('__salt__["ours.f"](*words)', None),
        ('__salt__["ours.f"](1, **more)', None),
        ('__salt__["ours.g"](1, 2, 3, d=4)', None),
        ('__salt__["cmd.run"]()', None),
        ('f = __salt__["ours.f"]', None),
        ('__salt__["ours.f"]()', "ours.f: missing a required argument: 'a'"),
        ('__salt__["ours.f"](1, 2, 3)', "ours.f: too many positional arguments"),
        ('__salt__["ours.f"](1, d=2)', "ours.f: got an unexpected keyword argument 'd'"),
        ('__salt__["ours.f"](1, a=2)', "ours.f: multiple values for argument 'a'"),
        ('__salt__["ours.f"](*words, d=2)', "ours.f: got an unexpected keyword argument 'd'"),
        ('__salt__["ours.gone"]()', "ours.gone does not exist"),
        ('__salt__["ours._h"]()', "ours._h does not exist"),
        ('f = __salt__["ours.gone"]', "ours.gone does not exist"),
        ('"ours.gone" in __salt__', "ours.gone does not exist"),
    ],
)
def test_a_wrong_call_is_found(call, fault):
    assert wrong_calls(calls_of_python(call), signatures(SAMPLE)) == ([fault] if fault else [])


@pytest.mark.parametrize(
    ("call", "fault"),
    [
        ('{{ salt["ours.f"](1, b=2) }}', None),
        ("{% do salt.ours.f(1) %}", None),
        ('{{ salt["cmd.run"]() }}', None),
        ('{% set x = salt["ours.f"]() %}', "ours.f: missing a required argument: 'a'"),
        ("{% if salt['ours.f'](1, d=2) %}{% endif %}", "ours.f: got an unexpected keyword argument 'd'"),
        ("{{ salt.ours.gone() }}", "ours.gone does not exist"),
        ('{{ salt["ours.gone"]() }}', "ours.gone does not exist"),
    ],
)
def test_a_wrong_call_in_a_template_is_found(call, fault):
    assert wrong_calls(calls_of_jinja(call), signatures(SAMPLE)) == ([fault] if fault else [])


# Files that one can read


LONGEST = 420
# Above it today. Whoever brings one below takes it off; nobody adds one.
LONG = {"_modules/redis_gate.py"}


def too_long(root, names):
    """Those of the files that are longer than a reader can hold; a link counts where it leads to."""
    return {
        name
        for name in names
        if not (root / name).is_symlink() and len((root / name).read_bytes().splitlines()) > LONGEST
    }


def test_no_file_is_too_long():
    folders = ("_modules", "_states", "_runners", "_pillar", "pillar/judge", "_roster", "_controller", "salt", "lab")
    assert too_long(ROOT, files(*folders)) == LONG, "split what is new here; take off LONG what is short now"


def test_a_file_that_is_too_long_is_found(tmp_path):
    (tmp_path / "long.py").write_text("x = 1\n" * (LONGEST + 1))
    (tmp_path / "short.sls").write_text("x: 1\n" * LONGEST)
    (tmp_path / "link.py").symlink_to("long.py")
    assert too_long(tmp_path, ["long.py", "short.sls", "link.py"]) == {"long.py"}


# The engine: arrows without a circle, the standard library alone, and no Salt


def imports(source, package, module):
    """
    What a module imports, wherever it stands in it.

    Returns (modules of the package, anything else by its first name).
    """
    inner, outer = set(), set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            folder = module.split(".")[: -node.level]
            start = [*([package] if node.level == len(module.split(".")) else [package, *folder]), *_parts(node.module)]
            names = [".".join(start)] if node.module else [".".join([*start, alias.name]) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{each.name}" for each in node.names] if node.module == package else [node.module]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("__import__", "importlib.import_module"):
            names = [node.args[0].value] if isinstance(node.args[0], ast.Constant) else []
        elif isinstance(node, ast.Name) and node.id in SALTS_OWN:
            names = [node.id]
        else:
            continue
        for name in names:
            first, _, rest = name.partition(".")
            inner.add(rest.split(".")[0] or "__init__") if first == package else outer.add(first)
    return inner - {module}, outer


def _parts(name):
    return name.split(".") if name else []


SALTS_OWN = ("__salt__", "__states__", "__opts__", "__pillar__", "__grains__", "__context__")


def circle(graph):
    """One circle of a graph of imports, as a list of its modules; empty where there is none."""
    done = set()

    def walk(name, path):
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for other in sorted(graph.get(name, ())):
            if found := walk(other, [*path, name]):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(graph) if (found := walk(name, []))), [])


def engine_faults(sources, package="goldenpath"):
    """What is wrong with the imports of a package: its modules' texts by their names."""
    graph, faults = {}, []
    for module, source in sources.items():
        graph[module], outer = imports(source, package, module)
        faults += [f"{module} imports {name}" for name in sorted(outer - set(sys.stdlib_module_names))]
        faults += [
            f"{module} imports {name} of its own, which does not exist"
            for name in sorted(graph[module] - set(sources) - {"__init__"} - _names(sources.get("__init__", "")))
        ]
    found = circle(graph)
    return faults + ([f"a circle: {' -> '.join(found)}"] if found else [])


def _names(source):
    """What a package defines itself, beside its modules."""
    assigned = [node for node in ast.parse(source).body if isinstance(node, ast.Assign)]
    return {target.id for node in assigned for target in node.targets if isinstance(target, ast.Name)}


def engine_sources():
    # What lies in a folder below runs under a site's own interpreter, and has a lint of its own.
    names = [name for name in files(LIBRARY, suffix=".py") if name.count("/") == LIBRARY.count("/") + 1]
    return {pathlib.Path(name).stem: text(name) for name in names}


def test_the_engine_imports_no_circle_and_no_salt():
    assert engine_faults(engine_sources()) == []


def test_what_a_sites_interpreter_runs_imports_nothing_of_the_engine():
    for name in files(LIBRARY, suffix=".py"):
        if name.count("/") > LIBRARY.count("/") + 1:
            inner, outer = imports(text(name), "goldenpath", "its own")
            assert inner | ({"salt"} & outer) == set(), name


@pytest.mark.parametrize(
    ("sources", "fault"),
    [
        ({"a": "from . import b", "b": "import json"}, None),
        ({"a": "from .b import c\nfrom goldenpath import b\nimport goldenpath.b", "b": ""}, None),
        ({"a": "from . import b", "b": "from .c import x", "c": "from . import a"}, "a circle: a -> b -> c -> a"),
        ({"a": "from . import b", "b": "def f():\n    from . import a"}, "a circle: a -> b -> a"),
        ({"a": "import goldenpath.b", "b": "from goldenpath import a"}, "a circle: a -> b -> a"),
        ({"a": "import salt.utils.files"}, "a imports salt"),
        ({"a": "def f():\n    from salt.exceptions import X"}, "a imports salt"),
        ({"a": "import importlib\nimportlib.import_module('salt.state')"}, "a imports salt"),
        ({"a": "__import__('yaml')"}, "a imports yaml"),
        ({"a": "import requests"}, "a imports requests"),
        ({"a": "x = __salt__['cmd.run']"}, "a imports __salt__"),
        ({"a": "from . import gone"}, "a imports gone of its own, which does not exist"),
    ],
)
def test_a_wrong_import_of_the_engine_is_found(sources, fault):
    assert engine_faults(sources) == ([fault] if fault else [])


def pure_faults(source):
    """What a pure module may not have: Salt, a command, a file."""
    _, outer = imports(source, "goldenpath", "pure")
    called = {ast.unparse(node.func) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)}
    return sorted(outer & {"salt", "subprocess", "shutil", *SALTS_OWN} | called & {"open", "os.popen", "os.system"})


@pytest.mark.parametrize("name", ["_modules/packet_filter.py", "_modules/ufw_plan.py"])
def test_what_is_pure_runs_nothing(name):
    assert pure_faults(text(name)) == []


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("import salt.utils.files", "salt"),
        ("import subprocess", "subprocess"),
        ("__salt__['cmd.run']('x')", "__salt__"),
        ("open('/etc/passwd')", "open"),
        ("import os\nos.system('x')", "os.system"),
    ],
)
def test_what_is_not_pure_is_found(line, fault):
    assert pure_faults(text("_modules/packet_filter.py") + line) == [fault]


# Code that an interpreter is handed as a string


def code_in_strings(source, python):
    """
    Programs that are handed over as text, and texts that are programs.

    source (str)
        A file's text.
    python (bool)
        It is a Python program.
    """
    if not python:
        return re.findall(r"python[\d.]*(?: +-\w+)* +-c\b.*|python[\d.]*(?: +-\w*)* *<<.*", source)
    tree = ast.parse(source)
    said = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.List, ast.Tuple, ast.Call)):
            words = node.args if isinstance(node, ast.Call) else node.elts
            for number, word in enumerate(words):
                before = " ".join(ast.unparse(each) for each in words[:number])
                if isinstance(word, ast.Constant) and word.value == "-c" and re.search("python|sys.executable", before):
                    found.append(ast.unparse(node))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in said:
            found += code_in_strings(node.value, python=False)
            found += [node.value] if _is_program(node.value) else []
    return found


def _is_program(value):
    try:
        body = ast.parse(value).body if value.count("\n") > 1 else []
    except (SyntaxError, ValueError):
        return False
    return any(isinstance(node, (ast.Import, ast.ImportFrom, ast.FunctionDef)) for node in body)


def is_python(name):
    name = str(name)
    return name.endswith(".py") or re.match(r"#!.*python", text(name).partition("\n")[0]) is not None


SHIPPED = [name for name in {*PYTHON, *files("salt")} if not (ROOT / name).is_symlink()]


def test_no_code_is_handed_over_as_a_string():
    found = {name: len(code_in_strings(text(name), is_python(name))) for name in sorted(SHIPPED)}
    assert {name: number for name, number in found.items() if number} == {}


@pytest.mark.parametrize(
    "source",
    [
        '[f"{folder}/venv/bin/python", "-c", _MANAGE]',
        '["python3", "-I", "-c", code, "x"]',
        '("/usr/bin/python3", "-c", code)',
        '[sys.executable, "-c", code]',
        'run("python", "-c", code)',
        'run(*before, f"{venv}/bin/python", "-c", code)',
        '_MANAGE = """\nimport django\ndjango.setup()\n"""',
        "x = \"python3 -c 'import os'\"",
        'x = "python3 - <<EOF\\nimport os\\nEOF"',
    ],
)
def test_code_in_a_string_is_found(source):
    assert len(code_in_strings(source, python=True)) == 1


@pytest.mark.parametrize(
    "source",
    [
        '["git", "-c", "a=b"]',
        '["sh", "-c", line]',
        '["tar", "-c", "."]',
        'def f():\n    """\n    As in::\n\n    import this\n    """\n',
        '"""\nimport this\nis not run\n"""',
        'x = "import this"',
    ],
)
def test_what_is_no_code_in_a_string_passes(source):
    assert code_in_strings(source, python=True) == []


@pytest.mark.parametrize(
    ("line", "number"),
    [
        ("    - name: python3 -c 'import sys'", 1),
        ("/usr/bin/python3 -I -c 'x'", 1),
        ("python3 - <<'EOF'", 1),
        ("python3 <<EOF", 1),
        ("ExecStart=/usr/bin/python3 -I /opt/goldenpath/backup", 0),
        ("git -c a=b", 0),
    ],
)
def test_code_in_a_line_of_another_file_is_found(line, number):
    assert len(code_in_strings(line, python=False)) == number


# Every program that is shipped is read by ruff


def unread(names, shown):
    """Python programs that ruff does not read."""
    return sorted(name for name in names if is_python(name) and name not in shown)


def read_by_ruff():
    done = subprocess.run(
        [str(pathlib.Path(sys.executable).with_name("ruff")), "check", "--show-files", "."],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return {str(pathlib.Path(line).relative_to(ROOT)) for line in done.stdout.splitlines() if line}


def test_every_program_is_read_by_ruff():
    assert unread(SHIPPED, read_by_ruff()) == [], "name it in pyproject.toml, extend-include"


def test_a_program_that_ruff_does_not_read_is_found():
    shown = read_by_ruff()
    assert unread(SHIPPED, shown - {"_modules/ufw.py"}) == ["_modules/ufw.py"]


def test_a_program_without_a_suffix_is_known(tmp_path):
    for name, line in (("a", "#!/usr/bin/python3 -I"), ("b", "#!/usr/bin/env python3"), ("c", "#!/bin/sh")):
        (tmp_path / name).write_text(f"{line}\n")
    assert [is_python(tmp_path / name) for name in "abc"] == [True, True, False]
