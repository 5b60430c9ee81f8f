"""
The form of a site's environment files: read by systemd (``EnvironmentFile=``), by ``sh`` (``. .env``) and by the
engine. Values are double-quoted with the four escapes that all three agree on (systemd.exec(5), POSIX shell, 2.2.3).
"""

import re

from .errors import Failed

_LINE = re.compile(r'^([A-Za-z_][A-Za-z0-9_]*)="((?:[^"\\]|\\.)*)"$', re.MULTILINE | re.DOTALL)
_QUOTED = re.compile(r'(["\\$`])')
_ESCAPED = re.compile(r'\\(["\\$`])')


def quoted(value):
    """A value as the file has it, with its quotes."""
    return '"' + _QUOTED.sub(r"\\\1", value) + '"'


def dump(values):
    """Variables as the text of an environment file, sorted by name."""
    return "".join(f"{name}={quoted(values[name])}\n" for name in sorted(values))


def load(text):
    """The variables in the text of an environment file. Lines of another form are passed over."""
    return {name: _ESCAPED.sub(r"\1", value) for name, value in _LINE.findall(text)}


def read(path):
    """The variables of a file; empty where there is none. Raises Failed where it cannot be read."""
    try:
        with open(path, encoding="utf-8") as stream:
            return load(stream.read())
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as exc:
        why = getattr(exc, "strerror", None) or "it is not UTF-8"
        raise Failed(f"{path} cannot be read: {why}. Try: ls -l {path}") from None


def with_value(text, name, value):
    """
    The text of an environment file with one variable changed, under whichever names it stands, and every other line as
    it was.
    """
    before = load(text).get(name)

    def line(found):
        same = found[1] == name or (before and _ESCAPED.sub(r"\1", found[2]) == before)
        return f"{found[1]}={quoted(value)}" if same else found[0]

    return _LINE.sub(line, text)
