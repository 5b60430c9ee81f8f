"""How a value is told in a sentence, without telling a secret."""

import datetime
import re

EXAMPLE = "pillar/hosts/example.sls"
# What `inspect` writes where somebody has to choose, and what examples showed for passwords.
PLACEHOLDERS = ("CHOOSE", "a-long-password-of-your-own", "a-password-of-your-own")


def plain(value):
    """Salt hands over mappings of several kinds: one kind is enough from here on."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def kind(value):
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return f"the number {value}"
    if isinstance(value, str):
        return "text"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, datetime.date):
        return f"the date {value}"
    return f"a {type(value).__name__}"


def shown(text):
    """Text as a sentence may quote it: without credentials, on one line and not too long."""
    before, at, after = text.rpartition("@")
    if at and re.search("[:/]", before):
        scheme = re.match(r"[\w+.-]+:/+", before)
        text = (scheme.group() if scheme else "") + "***@" + after
    if "://" in text:
        text = re.sub(r"[?#].*", "?***", text, flags=re.DOTALL)
    return repr(text if len(text) <= 80 else text[:77] + "…")


def has_space(text):
    return not text.isprintable() or any(character.isspace() for character in text)
