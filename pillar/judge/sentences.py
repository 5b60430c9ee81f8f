"""One sentence for each fault that the schema finds."""

import difflib
import re

from . import keys, sites, words

_NO_SWITCH = "Redis is required on every host and no key turns it off"

_OFF = ("", "off", "no", "none", "null", "false", "disabled", "absent")


def where(path):
    return ":".join(_part(path, depth) for depth in range(len(path)))


def _part(path, depth):
    name = path[depth]
    schema, mark = keys.at(path[:depth])
    if mark is True and "items" not in schema and name not in schema.get("properties", ()) and not _is_constant(name):
        # A secret that slipped into the place of its name.
        return re.match(r"\w{0,4}", str(name)).group() + "…"
    if isinstance(name, str):
        return name if name.isprintable() and name else repr(name)
    return str(name) if isinstance(name, int) and not isinstance(name, bool) else words.kind(name)


def _is_constant(name):
    return isinstance(name, str) and re.fullmatch(r"[A-Z][A-Z0-9_]*", name)


def _is_redis(path):
    return path == ("redis",) or (len(path) == 3 and path[0] == "sites" and path[2] == "redis")


def explain(error, pillar):
    """Give (path, text) for each fault that one error of jsonschema stands for."""
    path = tuple(error.absolute_path)
    hint = error.schema.get("hint", f"see {words.EXAMPLE}")
    if "propertyNames" in error.absolute_schema_path:
        path = (*path, error.instance)
        yield path, _format_text(error, path, hint)
    elif error.validator == "additionalProperties":
        for name in error.instance:
            if name not in error.schema["properties"]:
                yield (*path, name), _unknown_text(name, path, error.schema)
    elif error.validator == "required":
        for name in error.validator_value:
            if name not in error.instance:
                yield (*path, name), _missing_text(name, path, error.schema, pillar)
    elif error.validator == "type":
        yield path, _type_text(error, path, hint, pillar)
    elif error.validator == "format":
        yield path, _format_text(error, path, hint)
    elif error.validator in ("minimum", "maximum"):
        low, high = error.schema["minimum"], error.schema["maximum"]
        yield path, f"must be between {low} and {high}{_but_is(path, error.instance)}; {hint}"
    elif error.validator == "enum":
        given = words.shown(error.instance) if isinstance(error.instance, str) else words.kind(error.instance)
        yield path, f"must be {' or '.join(error.validator_value)}{_but_is(path, given)}; {hint}"
    elif error.validator == "minItems":
        yield path, f"is an empty list; {hint}"
    else:
        # Not reached while the schema keeps to the words above; jsonschema's own message would quote values.
        yield path, f"breaks the schema's rule {error.validator!r}; {hint}"


def _format_text(error, path, hint):
    problem, hint = (*error.cause.args, hint)[:2]
    if "propertyNames" in error.absolute_schema_path or keys.is_private(path):
        return f"{problem}; {hint}"
    return f"{words.shown(error.instance)} {problem}; {hint}"


def _unknown_text(name, path, schema):
    word = str(name).lower()
    near = difflib.get_close_matches(word, schema["properties"], n=1, cutoff=0.75)
    if "redis" in word.replace("-", "_").split("_") and (word != "redis" or _is_redis(path)):
        return f"is not a key: {_NO_SWITCH}; remove it"
    elsewhere = [where(place) for place in keys.places().get(word, [])]
    if near or elsewhere:
        return f"is not a key of {schema['title']}; did you mean {' or '.join(near + elsewhere)}"
    if _is_redis(path):
        return f"is not a key of {schema['title']}: {_NO_SWITCH}; remove it"
    return f"is not a key of {schema['title']}; remove it, or look in {words.EXAMPLE} for the key that is meant"


def _missing_text(name, path, schema, pillar):
    hint = schema["properties"][name]["hint"]
    if name == "redis":
        return f"is missing, but Redis is required by every site; {sites.pair(pillar)}"
    if _is_redis(path):
        return f"is missing, but Redis is required by every site; {hint}{sites.such_as(pillar)}"
    return f"is missing; {hint}"


def _type_text(error, path, hint, pillar):
    value = error.instance
    wanted = error.validator_value
    if path == ("redis",):
        return f"is {words.kind(value)}, but {_NO_SWITCH}; {hint}"
    if _is_redis(path):
        return f"is {words.kind(value)}, but Redis is required by every site; {sites.pair(pillar)}"
    if _is_redis(path[:-1]) and len(path) == 4 and _is_off(value):
        given = words.shown(value) if isinstance(value, str) else words.kind(value)
        return f"is {given}, but Redis is required by every site; {hint}{sites.such_as(pillar)}"
    if value is None:
        return f"is empty; {hint}, or remove the line"
    if wanted == "string" and not isinstance(value, (list, dict)) and keys.is_private(path):
        return "must be text, but YAML reads it as something else; put the value in quotes"
    if wanted == "string" and not isinstance(value, (list, dict)):
        return f"must be text, but YAML reads it as {words.kind(value)}; put the value in quotes, or {hint}"
    if isinstance(wanted, list):
        if isinstance(value, (list, dict)):
            return f"must be text, a number or a boolean, not {words.kind(value)}; {hint}"
        return "must be text, but YAML reads it as something else; put the value in quotes"
    name = {
        "string": "text",
        "integer": "a whole number",
        "boolean": "true or false",
        "object": "a mapping",
        "array": "a list",
    }[wanted]
    given = words.kind(value)
    if keys.is_private(path):
        given = given if given in ("text", "a list", "a mapping") else "something else"
    elif isinstance(value, str) and wanted in ("integer", "boolean"):
        given = f"the text {words.shown(value)}"
    return f"must be {name}, not {given}; {hint}"


def _but_is(path, given):
    return "" if keys.is_private(path) else f", not {given}"


def _is_off(value):
    return value is None or isinstance(value, bool) or (isinstance(value, str) and value.lower() in _OFF)
