"""
The engine's version goes up with every change of it: ``python -m tests.lint.engine_version``.

An older checkout leaves a newer engine where it is, and a version is all that it has to tell them apart.
"""

import hashlib
import re

from tests.conftest import ROOT
from tests.lint.repository import files

ENGINE = "salt/host/files/lib/goldenpath"
INIT = f"{ENGINE}/__init__.py"
# `VERSION digest`, of the engine as it was when its version was last raised.
RECORD = ROOT / "tests/lint/engine-version.txt"
_VERSION = re.compile(r'^VERSION = "([0-9.]+)"$', re.MULTILINE)


def digest(sources):
    """
    The digest of an engine.

    sources (dict)
        The bytes of each of its files, by its name.

    Returns a hexadecimal string; the version itself plays no part in it.
    """
    whole = hashlib.sha256()
    for name in sorted(sources):
        data = re.sub(rb"^VERSION = .*$", b"", sources[name], flags=re.MULTILINE)
        whole.update(f"{name}\n{len(data)}\n".encode() + data)
    return whole.hexdigest()[:16]


def now():
    """The version and the digest of the engine as it is in this checkout."""
    version = _VERSION.search((ROOT / INIT).read_text(encoding="utf-8"))[1]
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
        (ROOT / INIT).write_text(_VERSION.sub(f'VERSION = "{version}"', text), encoding="utf-8")
    RECORD.write_text(f"{version} {ours}\n", encoding="utf-8")
    print(f"The engine is {version} now.")


if __name__ == "__main__":
    main()
