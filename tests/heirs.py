"""
Which tests of an older commit have no heir: ``python -m tests.heirs [COMMIT]``. Exit status 1 where one has none.

A test lives on under its own name, in whichever file, or as ``heirs.txt`` says: a line ``OLD -> NEW`` or ``OLD void
REASON``, both as ``path::function``. A name that two files have needs a line, or its own path.
"""

import ast
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
TABLE = ROOT / "tests/heirs.txt"
FIRST = "73fc9d5"


def tests_of(source):
    """The test functions of a file's text."""
    return [
        node.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef) and node.name[:5] == "test_"
    ]


def then(commit):
    """The tests of a commit, as ``path::function``."""
    listed = _git("ls-tree", "-r", "--name-only", commit, "tests", "examples").splitlines()
    paths = [path for path in listed if path.endswith(".py") and "/test_" in path]
    return [f"{path}::{name}" for path in paths for name in tests_of(_git("show", f"{commit}:{path}"))]


def now():
    """The tests of this tree, as ``path::function``."""
    paths = [path for folder in ("tests", "examples") for path in sorted((ROOT / folder).rglob("test_*.py"))]
    return [f"{path.relative_to(ROOT)}::{name}" for path in paths for name in tests_of(path.read_text())]


def table(text):
    """``heirs.txt`` as two dictionaries: of each old test its heir, and of each void one the reason."""
    heirs, void = {}, {}
    for line in text.splitlines():
        if " -> " in line:
            old, heir = line.split(" -> ", 1)
            heirs[old.strip()] = heir.strip()
        elif " void " in line:
            old, reason = line.split(" void ", 1)
            void[old.strip()] = reason.strip()
    return heirs, void


def orphans(old, new, heirs, void):
    """The old tests that nothing holds any more, and lines of the table that name a test there is not."""
    there = set(new)
    names = [each.rpartition("::")[2] for each in new]
    lost = [
        each
        for each in old
        if each not in there and each not in void and heirs.get(each) not in there
        and (each in heirs or names.count(each.rpartition("::")[2]) != 1)
    ]  # fmt: skip
    return lost, [heir for heir in heirs.values() if heir not in there]


def _git(*words):
    return subprocess.run(["git", "-C", ROOT, *words], capture_output=True, text=True, check=True).stdout


def main(commit=FIRST):
    """Print what has no heir. Returns an exit status."""
    try:
        old = then(commit)
    except subprocess.CalledProcessError:
        print(f"The history has no commit {commit}. Try: git fetch --unshallow", file=sys.stderr)
        return 1
    heirs, void = table(TABLE.read_text())
    lost, wrong = orphans(old, now(), heirs, void)
    for each in lost:
        print(f"no heir: {each}")
    for each in wrong:
        print(f"heirs.txt names a test that is not there: {each}")
    print(f"{len(old)} tests of {commit}: {len(old) - len(lost)} live on or are void, {len(lost)} have no heir")
    return 1 if lost or wrong else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
