"""
The engine's version goes up with every change of it: ``python -m tests.lint.engine_version``.

An older checkout leaves a newer engine where it is, and a version is all that it has to tell them apart.
"""

import re

from _modules import engine
from tests.conftest import ROOT
from tests.lint.repository import files

ENGINE = "salt/host/files/lib/goldenpath"
INIT = f"{ENGINE}/__init__.py"
# `VERSION digest`, of the engine as it was when its version was last raised.
RECORD = ROOT / "tests/lint/engine-version.txt"


def digest(sources):
    """
    The digest of an engine.

    sources (dict)
        The bytes of each of its files, by its name.

    Returns a hexadecimal string; the version itself plays no part in it.
    """
    return engine._digest(
        {name: re.sub(rb"^VERSION = .*$", b"", data, flags=re.MULTILINE) for name, data in sources.items()}
    )


def now():
    """The version and the digest of the engine as it is in this checkout."""
    version = engine._VERSION.search((ROOT / INIT).read_text(encoding="utf-8"))[1]
    return version, digest({name: (ROOT / name).read_bytes() for name in files(ENGINE)})


def main():
    """Raise the version's last number where the engine has changed, and record it."""
    version, ours = now()
    recorded = RECORD.read_text(encoding="utf-8").split() if RECORD.exists() else ["", ""]
    if recorded == [version, ours]:
        print(f"The engine is {version}, and unchanged.")
        return
    if recorded[0] == version:
        head, _, last = version.rpartition(".")
        version = f"{head}.{int(last) + 1}"
        text = (ROOT / INIT).read_text(encoding="utf-8")
        (ROOT / INIT).write_text(engine._VERSION.sub(f'VERSION = "{version}"', text), encoding="utf-8")
    RECORD.write_text(f"{version} {ours}\n", encoding="utf-8")
    print(f"The engine is {version} now.")


if __name__ == "__main__":
    main()
