# Managed by Golden Path: local changes are overwritten.
"""
Finds what a site says it needs, and names the environment for it. Its argument is a JSON object: ``source``,
``directory``, ``requirements``, ``release``, ``dependencies`` and ``python`` as the pillar has them, and ``uv``, the
program.

It runs as the site's user, in its sandbox, and imports nothing of the engine. It prints one line of JSON: ``base``,
``path``, ``form``, ``python`` (the interpreter) and ``key``; or ``error``; or ``wants``, a Python that is not there.
"""

import hashlib
import json
import os
import platform
import re
import subprocess
import sys

# Where a site's needs are written, in the order in which they are looked for, and in which form.
FORMS = (
    ("requirements.txt", "requirements"),
    ("uv.lock", "uv"),
    ("poetry.lock", "poetry"),
    ("pylock.toml", "pylock"),
    ("Pipfile.lock", "pipenv"),
    ("requirements/production.txt", "requirements"),
    ("requirements/prod.txt", "requirements"),
    ("pyproject.toml", "project"),
)
# Those that know extras, and those that know groups.
WITH_EXTRAS, WITH_GROUPS = ("uv", "poetry", "project"), ("uv", "poetry", "project", "pipenv")
_INCLUDE = re.compile(r"^\s*(?:-[rc][\s=]*|--(?:requirement|constraint)[\s=]+)(\S+)")
# What surrounds a path in a requirement: pip.pypa.io/en/stable/reference/requirements-file-format.
_AROUND = re.compile(r"^[^@/]*@\s*|\s+#.*$|\s*;.*$|\[[^\]]*\]\s*$|^\s+|\s+$")
_NAME = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[[^\]]*\])?\s*(.*)")
# A part of the checkout that a lock installs: uv.lock's `source`, a Poetry or Pipfile `path`, a pylock `directory`.
_INNER = re.compile(
    r'source = \{ (?:editable|directory|path) = "(?!\.")'
    r'|^type = "(?:directory|file)"$|^\s*"(?:path|file)": |directory = \{|\bpath = "\.',
    re.MULTILINE,
)


class Wrong(Exception):
    """The checkout has no requirements that could be installed: one sentence."""


def find(source, directory, requirements):
    """
    Where a site's requirements lie: beside manage.py, or else at the top of the repository.

    requirements: a file, or ``auto`` for whichever there is. Returns the folder against which paths in the file are
    resolved, the file, and its form. Raises Wrong where there is none, or where a link leads out of the checkout.
    """
    wanted = FORMS if requirements == "auto" else ((requirements, form_of(requirements)),)
    for name, form in wanted:
        for base in (os.path.join(source, directory), source):
            path = os.path.normpath(os.path.join(base, name))
            if not os.path.isfile(path):
                continue
            if not os.path.realpath(path).startswith(os.path.realpath(source) + os.sep):
                raise Wrong(f"{name} is a link that leads out of the repository")
            if requirements == "auto" and form == "project" and not re.search(r"^\[project\]", _text(path), re.M):
                continue  # tools alone have their settings there
            return (os.path.normpath(base) if form == "requirements" else os.path.dirname(path)), path, form
    if requirements == "auto":
        raise Wrong(
            f"The repository has none of {', '.join(name for name, _ in FORMS)}. "
            "Try: name the file under `requirements:` in the site's pillar"
        )
    raise Wrong(f"The repository has no {requirements}. Try: name the file under `requirements:` in the site's pillar")


def form_of(name):
    """The form of a file that the pillar names."""
    name = os.path.basename(name)
    known = {os.path.basename(path): form for path, form in FORMS}
    return known.get(name) or ("pylock" if re.fullmatch(r"pylock(\.[^.]+)?\.toml", name) else "requirements")


def allowed(form, path, dependencies):
    """Raise Wrong for extras and groups that a form does not know: they would be left out in silence."""
    for what, forms in (("extras", WITH_EXTRAS), ("groups", WITH_GROUPS)):
        if dependencies.get(what) and form not in forms:
            raise Wrong(
                f"{os.path.basename(path)} has no {what}, and the pillar names {', '.join(dependencies[what])}. "
                f"Try: remove `dependencies:{what}`, or name another file under `requirements:`"
            )


def key(path, python, release, form="requirements", dependencies=None):
    """
    The name under which an environment is kept: equal requirements, equal name.

    python: the interpreter's version. release: part of the name only where the requirements install the checkout
    itself, or where tomorrow they may mean something else: a range without a lock, a branch of a repository. Returns 16
    hexadecimal digits.
    """
    further = {name: values for name, values in (dependencies or {}).items() if values}
    added = further.get("add", [])
    if form == "requirements":
        lines = _requirements(path)
        one = any(map(_is_local, lines)) or _moves([*lines, *added])
    else:
        beside = os.path.join(os.path.dirname(path), "Pipfile" if form == "pipenv" else "pyproject.toml")
        lines = [form, _text(path), _text(beside) if os.path.isfile(beside) and beside != path else ""]
        # A pyproject.toml without a lock names ranges, and folders in more ways than are worth knowing.
        one = form == "project" or bool(_INNER.search(_text(path))) or _moves(added)
    parts = [python, os.path.basename(path), *lines]
    parts += [json.dumps(further, sort_keys=True)] if further else []
    parts += [release] if one else []
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def wanted_python(source, path, pillar):
    """The version of Python that a site asks for, as uv takes it; empty where any will do."""
    if pillar != "auto":
        return pillar
    for place in (os.path.join(os.path.dirname(path), "pyproject.toml"), os.path.join(source, "pyproject.toml")):
        if os.path.isfile(place) and os.path.realpath(place).startswith(os.path.realpath(source) + os.sep):
            text = _text(place)
            found = re.search(r"""^requires-python\s*=\s*["']([^"']*)["']""", text, re.M)
            if found is None and "[tool.poetry.dependencies]" in text:
                section = text.partition("[tool.poetry.dependencies]")[2].partition("\n[")[0]
                found = re.search(r"""^python\s*=\s*["']([^"']*)["']""", section, re.M)
            if found:
                # Poetry's caret: up to the next major version.
                return re.sub(r"\^\s*(\d+)([\d.]*)", lambda at: f">={at[1]}{at[2]},<{int(at[1]) + 1}", found[1])
    return ""


def interpreter(spec, uv):
    """
    The interpreter for a version, the distribution's before all others, and what it is called. Returns a pair; the
    first is None where the host has none that fits. Raises Wrong for what is no version.
    """
    if not spec:
        return "/usr/bin/python3", f"Python {platform.python_version()}"
    if not re.fullmatch(r"[\d.,<>=!~* ]{1,100}", spec):
        raise Wrong(f"{spec!r} is no version of Python. Try: `python:` in the site's pillar, as in '3.13'")
    done = subprocess.run(
        [uv, "python", "find", "--no-project", "--no-python-downloads", "--python-preference", "system", spec],
        capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False, cwd="/",
    )  # fmt: skip
    path = done.stdout.strip()
    if done.returncode or not os.path.isabs(path):
        return None, ""
    told = subprocess.run([path, "-I", "-V"], capture_output=True, text=True, check=True)
    return path, told.stdout.strip()


def _text(path):
    with open(path, encoding="utf-8", errors="replace") as stream:
        return stream.read()


def _is_local(line):
    """Whether a requirement installs the checkout itself, or something in it."""
    if line.lstrip().startswith("#") or _INCLUDE.match(line) or ("://" in line and "file:" not in line):
        return False
    if re.match(r"\s*(-e|--editable)\b", line):
        return True
    words = line
    while (less := _AROUND.sub("", words)) != words:
        words = less
    return bool(re.match(r"\.|/|file:", words) or re.fullmatch(r"[\w./+-]*/[\w./+-]*", words))


def _moves(lines):
    """Whether some requirement names no version, and no file pins it either."""
    pinned, wanted = set(), set()
    for line in lines:
        plain = re.sub(r"(^|\s)#.*$", "", line).strip()
        if not plain or plain.startswith("-"):
            continue
        if "://" in plain:
            # A commit is what it is; so is an archive under its name.
            if "git+" in plain and not re.search(r"@[0-9a-f]{40}\b", plain):
                return True
            continue
        found = _NAME.match(plain)
        if found:
            name = re.sub(r"[-_.]+", "-", found[1]).lower()
            exact = re.match(r"\(?\s*={2,3}\s*[^\s*;,]+\s*\)?\s*(\\|;|--hash|$)", found[2])
            (pinned if exact else wanted).add(name)
    return bool(wanted - pinned)


def _requirements(path, seen=None):
    """All lines of a requirements file and the files that it names, in order."""
    seen = set() if seen is None else seen
    if os.path.realpath(path) in seen:
        return []
    seen.add(os.path.realpath(path))
    lines = []
    with open(path, encoding="utf-8", errors="replace") as stream:
        for line in stream:
            lines.append(line.rstrip("\n"))
            included = _INCLUDE.match(line)
            if included and "://" not in included[1]:
                nested = os.path.join(os.path.dirname(path), included[1])
                if os.path.isfile(nested):
                    lines += _requirements(nested, seen)
    return lines


def main(asked):
    """Print what was found."""
    try:
        base, path, form = find(asked["source"], asked["directory"], asked["requirements"])
        allowed(form, path, asked["dependencies"])
        spec = wanted_python(asked["source"], path, asked["python"])
        python, version = interpreter(spec, asked["uv"])
        if python is None:
            found = {"wants": spec}
        else:
            name = key(path, version, asked["release"], form, asked["dependencies"])
            found = {"base": base, "path": path, "form": form, "python": python, "key": name}
    except (Wrong, OSError, subprocess.CalledProcessError) as exc:
        found = {"error": str(exc)}
    print(json.dumps(found))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
