"""The repository's files, as git would commit them, and the sentences that they hold."""

import ast
import io
import re
import subprocess
import tokenize

from tests.conftest import ROOT


def files(*folders, suffix=""):
    """
    Tracked files, and those that are not ignored, below some folders; all without any.

    folders (str)
        Folders or files, from the root of the repository.
    suffix (str)
        How their names end.

    Returns sorted paths, from the root of the repository.
    """
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", *folders],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    names = {name for name in listed.split("\0") if name.endswith(suffix)}
    return sorted(name for name in names if name and (ROOT / name).is_file())


def text(name):
    """A file's text, or nothing where it is not text."""
    try:
        return (ROOT / name).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""


def lines(name):
    """A file's lines with their numbers."""
    return enumerate(text(name).splitlines(), 1)


def _prose_of_python(source):
    """What a Python file says to people: strings and comments, one piece each."""
    pieces = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            pieces.append(node.value)
        elif isinstance(node, ast.JoinedStr):
            pieces.append("".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values))
    comment, last = [], None
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            if last is not None and token.start[0] > last + 1:
                pieces.append("\n".join(comment))
                comment = []
            comment.append(token.string)
            last = token.start[0]
    return [*pieces, "\n".join(comment)]


def sentences(source, python=False):
    """
    The sentences of a text: lines that belong together joined, comment signs gone.

    source (str)
        The text.
    python (bool)
        It is a Python program: its strings and comments only.
    """
    found = []
    for piece in _prose_of_python(source) if python else [source]:
        bare = re.sub(r"^[ \t]*(?:#+|//+|>|[-*]|\d+\.|:)*[ \t]*", "", piece, flags=re.MULTILINE)
        for paragraph in re.split(r"\n\s*\n|\|", bare):
            found += re.split(r"(?<=[.!?;])\s+(?=\S)", " ".join(paragraph.split()))
    return [each for each in found if each]
