"""pillar/schema.yaml, and what it says of the key at a path."""

import functools
import pathlib

from . import formats, words

SCHEMA = pathlib.Path(__file__).resolve().parents[1] / "schema.yaml"


@functools.cache
def load():
    import yaml

    # The parser in C takes a tenth of the time, where libyaml is there; it is as safe.
    quick = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load(SCHEMA.read_text(encoding="utf-8"), Loader=quick)  # noqa: S506


@functools.cache
def validator():
    import jsonschema

    # A boolean is no number in YAML's eyes or ours, and 3.0 is no whole number.
    types = jsonschema.Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", lambda _, value: isinstance(value, int) and not isinstance(value, bool)
    )
    checker = jsonschema.FormatChecker(formats=())
    for name, check in formats.FORMATS.items():
        checker.checks(name, raises=ValueError)(functools.partial(_passes, check))
    cls = jsonschema.validators.extend(jsonschema.Draft202012Validator, type_checker=types)
    return cls(load(), format_checker=checker)


def _passes(check, value):
    check(value)
    return True


@functools.cache
def places():
    """Where each key of the schema belongs: {name: [path, ...]}."""
    found = {}

    def walk(schema, path):
        for name, inner in schema.get("properties", {}).items():
            found.setdefault(name, []).append((*path, name))
            walk(inner, (*path, name))
        if isinstance(schema.get("additionalProperties"), dict):
            walk(schema["additionalProperties"], (*path, "<slug>" if path == ("sites",) else "<name>"))

    walk(load(), ())
    return found


def at(path):
    """The schema of the value at this path, and who may read it: nobody (True), "credentials", "perhaps" or None."""
    schema, mark = load(), None
    for part in path:
        rest = schema.get("additionalProperties") or schema.get("items") or {}
        schema = schema.get("properties", {}).get(part, rest)
        mark = schema.get("secret", mark)
    return schema, mark


def is_private(path):
    """Whether the value at this path may be a secret, or hold some."""
    return at(path)[1] in (True, "perhaps")


def filled(value, schema):
    """The value with the schema's defaults in every place that it leaves out."""
    if isinstance(value, dict):
        known = schema.get("properties", {})
        rest = schema.get("additionalProperties") or {}
        value = {key: filled(item, known.get(key, rest)) for key, item in value.items()}
        for key, inner in known.items():
            if key not in value and "default" in inner:
                value[key] = filled(words.plain(inner["default"]), inner)
    return value
