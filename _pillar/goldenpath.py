"""
Validate a host's whole pillar before anything uses it, and fill in the defaults.

The keys, their defaults and their meaning are in ``pillar/schema.yaml``; what a schema cannot say is here.
The controller reaches this module by its configuration:

.. code-block:: yaml

    pillar_dirs: [_pillar]
    ext_pillar:
      - goldenpath: {}

A bad pillar becomes ``_errors``, one sentence for each fault, all of them at once. Salt then refuses
``state.apply`` and the steps of an orchestration before it renders a state or touches the host.
"""

import datetime
import difflib
import functools
import keyword
import pathlib
import posixpath
import re
import shlex
import urllib.parse

# Keys that are Salt's, a deploy's or our own: no operator writes them, and they are not judged.
FOREIGN = ("_errors", "goldenpath_deploy", "goldenpath_secrets")

_SCHEMA = pathlib.Path(__file__).resolve().parent.parent / "pillar" / "schema.yaml"
_DATABASES = 64  # as the schema's maximum says
_EXAMPLE = "pillar/hosts/example.sls"
_NO_SWITCH = "Redis is required on every host and no key turns it off"
_OFF = ("", "off", "no", "none", "null", "false", "disabled", "absent")

# Set by the tree itself: a second value would break the site or, worse, half of it.
OWN_VARIABLES = re.compile(
    r"DJANGO_(SETTINGS_MODULE|STATIC_ROOT|MEDIA_ROOT|DB_.*)|SITE_DOMAIN"
    r"|GIT_SHA|RELEASE|APP_DIR|PROJECT|VENV|VIRTUAL_ENV"
    r"|PATH|PYTHON(PATH|HOME|STARTUP)|LD_.*|HOME|USER|LOGNAME|SHELL|PWD"
    r"|(NOTIFY|LISTEN|WATCHDOG|INVOCATION)_.*|(RUNTIME|STATE|CACHE|LOGS|CREDENTIALS|CONFIGURATION)_DIRECTORY|MAINPID"
)

# What modules/site_env gives every site under the usual names, unless the pillar says otherwise.
USUAL = (
    "SECRET_KEY", "DATABASE_URL", "ALLOWED_HOSTS", "DJANGO_ALLOWED_HOSTS", "CSRF_TRUSTED_ORIGINS",
    "DJANGO_CSRF_TRUSTED_ORIGINS", "REDIS_URL", "CELERY_BROKER_URL", "CELERY_RESULT_BACKEND",
)  # fmt: skip


def ext_pillar(minion_id, pillar, *_args, **_kwargs):
    """
    Return the normalised pillar of a host, or what is wrong with it. Salt calls this after it has rendered
    the pillar's SLS files. A file that fails to render is reported by Salt alone: its errors replace ours.

    minion_id : str
        The host. While an orchestration runs it is the controller's own id, which has no pillar and is left
        alone: it ends in ``_master`` unless the controller's configuration sets ``id``.

    pillar : dict
        The compiled pillar, with what was given on the command line merged into it.

    Returns a dict: the normalised pillar, or ``{"_errors": [sentence, ...]}``. Raises nothing for bad data.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 state.apply test=True
    """
    if _is_controller(minion_id):
        return {}
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]*", minion_id):
        return {
            "_errors": [
                f"{minion_id!r} cannot be a host's id, because it names the host's pillar file; rename the"
                " host with letters, digits, dots and hyphens alone."
            ]
        }
    if not any(key not in FOREIGN for key in pillar):
        name = f"pillar/hosts/{minion_id.replace('.', '_')}.sls"
        return {
            "_errors": [
                f"{minion_id} has no pillar: {name} is missing or empty; create {name} (start from {_EXAMPLE})."
            ]
        }
    try:
        errors = validate(pillar)
    except ImportError as exc:
        errors = [
            f"{minion_id} cannot be validated, because the controller's Python lacks the package {exc.name};"
            " install it beside Salt with pip install -c constraints.txt jsonschema."
        ]
    return {"_errors": errors} if errors else normalise(pillar)


def validate(pillar):
    """
    Tell everything that is wrong with a host's pillar. Needs no Salt.

    pillar : dict
        The compiled pillar. It is not changed.

    Returns a sorted list of str, one sentence for each fault, which begins with the path of the key
    (``sites:acme:redis:broker: ...``); empty when the pillar is right. No sentence holds a value that the
    schema calls ``secret`` or a URL's credentials. Raises ImportError without the package jsonschema.
    """
    pillar = _judged(pillar)
    faults = {}
    for error in _validator().iter_errors(pillar):
        for path, text in _explain(error, pillar):
            faults.setdefault(path, text)
    for path, text in _cross_checks(pillar):
        faults.setdefault(path, text)
    ordered = sorted(faults, key=lambda path: [f"{part:03}" if type(part) is int else str(part) for part in path])
    return [f"{_where(path)}: {faults[path]}." for path in ordered]


# Per cent of a host's memory for each of its sites: neither takes what Redis, Postgres and the next one need.
_SHARES = {1: 75, 2: 50}


def normalise(pillar):
    """
    Fill in the defaults of a valid pillar and bring its values into one form: domains and ``maxmemory`` in
    lower case, paths without ``./`` and a last slash, environment variables as text. Needs no Salt.

    pillar : dict
        A compiled pillar that ``validate`` finds right. It is not changed.

    Returns a new dict, in which every key of ``pillar/schema.yaml`` is present save ``redis:maxmemory``, and
    ``goldenpath_secrets``, what ``secrets_of`` gives. Raises nothing for a valid pillar.
    """
    foreign = {"goldenpath_deploy": pillar["goldenpath_deploy"]} if "goldenpath_deploy" in pillar else {}
    result = _filled(_judged(pillar), _schema())
    if "maxmemory" in result["redis"]:
        result["redis"]["maxmemory"] = result["redis"]["maxmemory"].lower()
    for site in result["sites"].values():
        site["domains"] = [domain.lower() for domain in site["domains"]]
        site["settings"] = site["settings"].replace("<project>", site["project"])
        site["directory"] = posixpath.normpath(site["directory"])
        site["requirements"] = posixpath.normpath(site["requirements"])
        # Strangers share no Redis: who reaches one reads and writes all of it.
        site["redis"].setdefault("own", len(result["sites"]) > 1)
        site["limits"].setdefault("memory", _SHARES.get(len(result["sites"]), 40))
        for kind in ("env", "secrets"):
            site[kind] = {name: value if value is None else _as_text(value) for name, value in site[kind].items()}
    return {**result, **foreign, "goldenpath_secrets": secrets_of(result)}


def secrets_of(pillar):
    """
    List every value that nobody may read, by what ``pillar/schema.yaml`` says of its key. Needs no Salt. The compiled
    pillar carries the list as ``goldenpath_secrets``: the schema itself reaches no host.

    pillar : dict
        A host's pillar.

    Returns a sorted list of str, each once: whole values, and of an address its password or token.
    """
    found = set()

    def walk(value, path):
        mark = _at(path)[1]
        if isinstance(value, dict):
            for key, item in value.items():
                walk(item, (*path, key))
        elif isinstance(value, list):
            for index, item in enumerate(value):
                walk(item, (*path, index))
        elif mark is True and value is not None:
            found.add(_as_text(value))
        elif mark == "credentials" and isinstance(value, str):
            found.update(_credentials(value))

    walk(_judged(pillar), ())
    return sorted(found - {""})


def _credentials(address):
    """What opens the door in an address: the password, as written and as meant, or a token in its place."""
    url = re.match(r"(?:\w+:)?(\w[\w+.-]*)://([^/?#]*)@", address)
    user, colon, password = url[2].partition(":") if url else ("", "", "")
    words = [password] if colon else [user] if url and url[1] in ("http", "https") else []
    words += re.findall(r"[?&][^=&#]*=([^&#]*)", address) if "://" in address else []
    return {each for word in words for each in (word, urllib.parse.unquote(word))}


def _is_controller(minion_id):
    opts = globals().get("__opts__") or {}
    opts = opts.get("__master_opts__") or opts  # over salt-ssh the outer options are the host's
    return minion_id.endswith("_master") or (opts.get("__role") == "master" and opts.get("id") == minion_id)


def _plain(value):
    """Salt hands over mappings of several kinds: one kind is enough from here on."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _judged(pillar):
    return {key: _plain(value) for key, value in pillar.items() if key not in FOREIGN}


def _filled(value, schema):
    if isinstance(value, dict):
        known = schema.get("properties", {})
        rest = schema.get("additionalProperties") or {}
        value = {key: _filled(item, known.get(key, rest)) for key, item in value.items()}
        for key, inner in known.items():
            if key not in value and "default" in inner:
                value[key] = _filled(_plain(inner["default"]), inner)
    return value


def _as_text(value):
    return str(value).lower() if isinstance(value, bool) else str(value)


# --- the schema


@functools.cache
def _schema():
    import yaml

    return yaml.safe_load(_SCHEMA.read_text(encoding="utf-8"))


@functools.cache
def _validator():
    import jsonschema

    # A boolean is no number in YAML's eyes or ours, and 3.0 is no whole number.
    types = jsonschema.Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", lambda _, value: isinstance(value, int) and not isinstance(value, bool)
    )
    formats = jsonschema.FormatChecker(formats=())
    for name, check in _FORMATS.items():
        formats.checks(name, raises=ValueError)(functools.partial(_passes, check))
    cls = jsonschema.validators.extend(jsonschema.Draft202012Validator, type_checker=types)
    return cls(_schema(), format_checker=formats)


def _passes(check, value):
    check(value)
    return True


@functools.cache
def _places():
    """Where each key of the schema belongs: {name: [path, ...]}."""
    places = {}

    def walk(schema, path):
        for name, inner in schema.get("properties", {}).items():
            places.setdefault(name, []).append((*path, name))
            walk(inner, (*path, name))
        if isinstance(schema.get("additionalProperties"), dict):
            walk(schema["additionalProperties"], (*path, "<name>" if "<slug>" in path else "<slug>"))

    walk(_schema(), ())
    return places


# --- sentences


def _where(path):
    return ":".join(_part(path, depth) for depth in range(len(path)))


def _part(path, depth):
    name = path[depth]
    schema, mark = _at(path[:depth])
    if mark is True and "items" not in schema and name not in schema.get("properties", ()) and not _is_constant(name):
        # A secret that slipped into the place of its name.
        return re.match(r"\w{0,4}", str(name)).group() + "…"
    if isinstance(name, str):
        return name if name.isprintable() and name else repr(name)
    return str(name) if isinstance(name, int) and not isinstance(name, bool) else _kind(name)


def _is_constant(name):
    return isinstance(name, str) and re.fullmatch(r"[A-Z][A-Z0-9_]*", name)


def _at(path):
    """The schema of the value at this path, and who may read it: nobody (True), "credentials", "perhaps" or None."""
    schema, mark = _schema(), None
    for part in path:
        rest = schema.get("additionalProperties") or schema.get("items") or {}
        schema = schema.get("properties", {}).get(part, rest)
        mark = schema.get("secret", mark)
    return schema, mark


def _is_private(path):
    """Whether the value at this path may be a secret, or hold some."""
    return _at(path)[1] in (True, "perhaps")


def _is_redis(path):
    return path == ("redis",) or (len(path) == 3 and path[0] == "sites" and path[2] == "redis")


def _kind(value):
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


def _shown(text):
    """Text as a sentence may quote it: without credentials, on one line and not too long."""
    before, at, after = text.rpartition("@")
    if at and re.search("[:/]", before):
        scheme = re.match(r"[\w+.-]+:/+", before)
        text = (scheme.group() if scheme else "") + "***@" + after
    if "://" in text:
        text = re.sub(r"[?#].*", "?***", text, flags=re.DOTALL)
    return repr(text if len(text) <= 80 else text[:77] + "…")


def _explain(error, pillar):
    """Give (path, text) for each fault that one error of jsonschema stands for."""
    path = tuple(error.absolute_path)
    hint = error.schema.get("hint", f"see {_EXAMPLE}")
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
        given = _shown(error.instance) if isinstance(error.instance, str) else _kind(error.instance)
        yield path, f"must be {' or '.join(error.validator_value)}{_but_is(path, given)}; {hint}"
    elif error.validator == "minItems":
        yield path, f"is an empty list; {hint}"
    else:
        # Not reached while the schema keeps to the words above; jsonschema's own message would quote values.
        yield path, f"breaks the schema's rule {error.validator!r}; {hint}"


def _format_text(error, path, hint):
    problem, hint = (*error.cause.args, hint)[:2]
    if "propertyNames" in error.absolute_schema_path or _is_private(path):
        return f"{problem}; {hint}"
    return f"{_shown(error.instance)} {problem}; {hint}"


def _unknown_text(name, path, schema):
    word = str(name).lower()
    near = difflib.get_close_matches(word, schema["properties"], n=1, cutoff=0.75)
    if "redis" in word.replace("-", "_").split("_") and (word != "redis" or _is_redis(path)):
        return f"is not a key: {_NO_SWITCH}; remove it"
    elsewhere = [_where(place) for place in _places().get(word, [])]
    if near or elsewhere:
        return f"is not a key of {schema['title']}; did you mean {' or '.join(near + elsewhere)}"
    if _is_redis(path):
        return f"is not a key of {schema['title']}: {_NO_SWITCH}; remove it"
    return f"is not a key of {schema['title']}; remove it, or look in {_EXAMPLE} for the key that is meant"


def _missing_text(name, path, schema, pillar):
    hint = schema["properties"][name]["hint"]
    if name == "redis":
        return f"is missing, but Redis is required by every site; {_pair(pillar)}"
    if _is_redis(path):
        return f"is missing, but Redis is required by every site; {hint}{_such_as(pillar)}"
    return f"is missing; {hint}"


def _type_text(error, path, hint, pillar):
    value = error.instance
    wanted = error.validator_value
    if path == ("redis",):
        return f"is {_kind(value)}, but {_NO_SWITCH}; {hint}"
    if _is_redis(path):
        return f"is {_kind(value)}, but Redis is required by every site; {_pair(pillar)}"
    if _is_redis(path[:-1]) and len(path) == 4 and _is_off(value):
        given = _shown(value) if isinstance(value, str) else _kind(value)
        return f"is {given}, but Redis is required by every site; {hint}{_such_as(pillar)}"
    if value is None:
        return f"is empty; {hint}, or remove the line"
    if wanted == "string" and not isinstance(value, (list, dict)) and _is_private(path):
        return "must be text, but YAML reads it as something else; put the value in quotes"
    if wanted == "string" and not isinstance(value, (list, dict)):
        return f"must be text, but YAML reads it as {_kind(value)}; put the value in quotes, or {hint}"
    if isinstance(wanted, list):
        if isinstance(value, (list, dict)):
            return f"must be text, a number or a boolean, not {_kind(value)}; {hint}"
        return "must be text, but YAML reads it as something else; put the value in quotes"
    name = {
        "string": "text",
        "integer": "a whole number",
        "boolean": "true or false",
        "object": "a mapping",
        "array": "a list",
    }[wanted]
    given = _kind(value)
    if _is_private(path):
        given = given if given in ("text", "a list", "a mapping") else "something else"
    elif isinstance(value, str) and wanted in ("integer", "boolean"):
        given = f"the text {_shown(value)}"
    return f"must be {name}, not {given}; {hint}"


def _but_is(path, given):
    return "" if _is_private(path) else f", not {given}"


def _is_off(value):
    return value is None or isinstance(value, bool) or (isinstance(value, str) and value.lower() in _OFF)


# --- what holds between keys


def _cross_checks(pillar):
    """Give (path, text) for what the schema cannot say. Wrong types are the schema's to tell."""
    if "sites" in pillar and not pillar["sites"] and isinstance(pillar["sites"], dict) and "redis" not in pillar:
        yield (
            ("sites",),
            "is empty and the pillar says nothing else; write `redis: {}` beside it if the host is to have no"
            " sites, else add its sites",
        )
    yield from _check_backup(pillar)
    domains = {}
    databases = {}
    for slug, site in _sites(pillar):
        yield from _check_domains(slug, site, domains)
        yield from _check_databases(slug, site, databases, pillar)
        yield from _check_own_redis(slug, site, pillar)
        celery = _mapping(site, "celery")
        if celery.get("beat") is True and celery.get("worker", False) is False:
            yield (
                ("sites", slug, "celery", "beat"),
                "needs the worker, which is off; write `celery: {worker: true, beat: true}`",
            )
        for name in _mapping(site, "schedules"):
            if name in _mapping(site, "processes"):
                yield ("sites", slug, "schedules", name), "is among the processes as well; keep one of the two"
        for name in _mapping(site, "env_names"):
            if name in _mapping(site, "env") or name in _mapping(site, "secrets"):
                yield ("sites", slug, "env_names", name), "has a value in env or secrets as well; keep one of the two"
        for name, value in _mapping(site, "env").items():
            if value is None and name not in USUAL:
                yield ("sites", slug, "env", name), "is empty; give it a value, or remove it"
            if name in _mapping(site, "secrets"):
                yield ("sites", slug, "env", name), "is among the secrets as well; keep one of the two"


def _check_backup(pillar):
    backup = _mapping(pillar, "backup")
    repository = backup.get("repository", "")
    if isinstance(repository, str) and not repository.startswith("sftp:"):
        for name in ("ssh_key", "known_hosts"):
            if name in backup:
                yield ("backup", name), "is for an sftp repository, and this one is none; remove it"
    for name, limit in _mapping(backup, "refuse_after").items():
        warn = _mapping(backup, "warn_after").get(name, _default_hours(name))
        if _is_hours(limit) and _is_hours(warn) and limit <= warn:
            yield (
                ("backup", "refuse_after", name),
                f"is {limit} hours, and the warning comes after {warn} only; give more hours than warn_after has",
            )


def _is_hours(value):
    return isinstance(value, int) and not isinstance(value, bool)


def _default_hours(name):
    known = _schema()["properties"]["backup"]["properties"]["warn_after"]["properties"]
    return known.get(name, {}).get("default")


def _check_domains(slug, site, seen):
    names = site.get("domains")
    public = site.get("tls", "acme") == "acme"
    for index, name in enumerate(names if isinstance(names, list) else []):
        if not isinstance(name, str):
            continue
        path = ("sites", slug, "domains", index)
        first = seen.setdefault(name.lower(), path)
        if first != path:
            yield path, f"{_shown(name)} is already at {_where(first)}; name each domain once on the host"
        elif public and "." not in name:
            yield (
                path,
                f"{_shown(name)} has no dot, so no public certificate exists for it; write the whole name",
            )


def _check_databases(slug, site, seen, pillar):
    for name in ("cache", "broker"):
        number = _mapping(site, "redis").get(name)
        if not _is_database(number):
            continue
        path = ("sites", slug, "redis", name)
        first = seen.setdefault(number, path)
        if first[:2] == path[:2] and first != path:
            yield (
                path,
                f"is database {number}, and so is cache, but clearing the cache would delete Celery's queue;"
                f" give a number that nothing else on the host uses{_such_as(pillar)}",
            )
        elif first != path:
            yield (
                path,
                f"is database {number}, which {_where(first)} has; give a number that nothing else on the"
                f" host uses{_such_as(pillar)}",
            )


def _check_own_redis(slug, site, pillar):
    if _mapping(site, "redis").get("own") is False and len(_sites(pillar)) > 1:
        yield (
            ("sites", slug, "redis", "own"),
            "is false, but on a host with several sites each has a Redis of its own; leave it out",
        )


def _sites(pillar):
    """The sites that are mappings, by slug."""
    sites = _mapping(pillar, "sites")
    return sorted(((slug, site) for slug, site in sites.items() if isinstance(site, dict)), key=lambda s: str(s[0]))


def _mapping(owner, key):
    value = owner.get(key)
    return value if isinstance(value, dict) else {}


def _is_database(value):
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _DATABASES


def _free(pillar):
    used = [_mapping(site, "redis").get(name) for _, site in _sites(pillar) for name in ("cache", "broker")]
    return [number for number in range(_DATABASES) if number not in used]


def _such_as(pillar):
    return "".join(f", such as {number}" for number in _free(pillar)[:1])


def _pair(pillar):
    cache, broker = (*_free(pillar), 0, 1)[:2]
    return f"write `redis: {{cache: {cache}, broker: {broker}}}`"


# --- formats: each raises ValueError(problem) or ValueError(problem, hint)


def _slug(name):
    if not isinstance(name, str):
        raise ValueError(f"must be text, but YAML reads the name as {_kind(name)}", "put the name in quotes")
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise ValueError("is not a slug")
    if len(name) > 28:
        raise ValueError(f"is not a slug, with {len(name)} characters")


def _redis_memory(text):
    found = re.fullmatch(r"([1-9][0-9]{0,6})(mb|gb)", text.lower()) if isinstance(text, str) else None
    if isinstance(text, str) and not found:
        raise ValueError("is not an amount of memory")
    if found and found[2] == "mb" and int(found[1]) < 16:
        raise ValueError("is too little for Redis")


def _domain(text):
    if not isinstance(text, str):
        return
    name = text.lower()
    if not text.isascii():
        raise ValueError("is not ASCII", f"write it in its ASCII form, {_punycode(name)}")
    if "://" in name:
        raise ValueError("has a scheme")
    if "*" in name:
        raise ValueError("is a wildcard", "name each host by itself")
    if re.fullmatch(r"[0-9.]+|\[?[0-9a-f.]*:[0-9a-f.]*:[0-9a-f:.]*]?", name):
        raise ValueError("is an address, and certificates are for names")
    if re.search(r":\d*$", name):
        raise ValueError("has a port")
    label = r"(?!-)[a-z0-9-]{1,63}(?<!-)"
    if len(name) > 253 or not re.fullmatch(rf"{label}(\.{label})*", name):
        raise ValueError("is not a host name")


def _punycode(name):
    try:
        return name.encode("idna").decode()
    except UnicodeError:
        return "as in xn--…"


def _git_repository(text):
    if not isinstance(text, str):
        return
    if re.match(r"[^/@:]*::", text):
        raise ValueError("names a remote helper, which git would run as a program")
    if not text or text.startswith("-") or _has_space(text):
        raise ValueError("is not the address of a repository")
    url = re.fullmatch(r"(\w[\w+.-]*)://(.*)", text)
    if url and url[1] == "file":
        right = url[2].startswith("/")
    elif url:
        host = url[2].split("/", 1)[0].rpartition("@")[2]
        right = url[1] in ("https", "http", "ssh", "git") and bool(host) and not host.startswith("-")
    else:
        right = text.startswith("/") or re.fullmatch(r"([^@:/-][^@:/]*@)?[^@:/-][^@:/]*:[^:].*", text)
    if not right:
        raise ValueError("is neither a URL that git knows nor an absolute path")


def _git_ref(text):
    if not isinstance(text, str):
        return
    if not 1 <= len(text) <= 200:
        raise ValueError(f"has {len(text)} characters, and a ref has 1 to 200")
    found = next((bad for bad in ("..", "@{", "//", *"~^:?*[\\") if bad in text), None)
    if found:
        raise ValueError(f"contains {found!r}, which git refuses in names")
    if _has_space(text):
        raise ValueError("contains a space or a control character, which git refuses in names")
    if text.startswith(("-", "/", ".")) or text.endswith(("/", ".")) or text == "@":
        raise ValueError("begins or ends with a character that git refuses there")
    if any(part.startswith(".") or part.endswith(".lock") for part in text.split("/")):
        raise ValueError("has a part that begins with a dot or ends in .lock, which git refuses")


def _python_name(text):
    if not isinstance(text, str):
        return
    parts = text.split(".")
    if len(text) > 200 or not all(p.isascii() and p.isidentifier() and not keyword.iskeyword(p) for p in parts):
        raise ValueError("is not a Python name")


def _inner_path(text):
    if not isinstance(text, str):
        return
    if text.startswith(("/", "~")) or ".." in text.split("/"):
        raise ValueError("leads out of the repository")
    if not re.fullmatch(r"[A-Za-z0-9._@+][A-Za-z0-9._@+/-]{0,199}", text):
        raise ValueError("is not a path of letters, digits and ._@+-/")


def _inner_file(text):
    _inner_path(text)
    if isinstance(text, str) and (text.endswith("/") or posixpath.normpath(text) == "."):
        raise ValueError("is a folder and not a file")


def _matching(pattern, fault):
    """A format that is one regular expression; what is no text is the type's to tell."""

    def check(text):
        if isinstance(text, str) and not re.fullmatch(pattern, text):
            raise ValueError(fault)

    return check


# apt takes `name-` for "remove name": so could a site's packages take Redis away.
_debian_package = _matching(r"[a-z0-9][a-z0-9+.-]*[a-z0-9+.]", "is not the name of a Debian package")


_postgres_extension = _matching(r"[a-z][a-z0-9_-]{0,62}", "is not the name of a Postgres extension")


def _process_name(name):
    if not (isinstance(name, str) and re.fullmatch(r"[a-z][a-z0-9]{0,19}", name)):
        raise ValueError("is not a name for a process", "use up to 20 lower-case letters and digits, a letter first")
    if name in ("gunicorn", "celery", "celerybeat", "run"):
        raise ValueError("is a name of the tree's own", "choose another one")


_dependency_name = _matching(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?", "is not the name of a group or an extra")


_wsgi = _matching(r"(<project>|[A-Za-z_]\w*)(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\(\))?", "is not module:name")


_python_version = _matching(r"auto|3\.\d{1,2}(\.\d{1,2})?", "is no version of Python")


def _requirement(text):
    if not isinstance(text, str):
        return
    if not text.strip() or text.lstrip().startswith("-") or re.search(r"[\x00-\x1f\x7f]", text):
        raise ValueError("is not one requirement")
    if re.search(r"https?://[^/\s]*@", text):
        raise ValueError(
            "holds credentials, which every list of processes would show",
            "name the index in the host's /etc/pip.conf, or give the host a key for the repository",
        )


def _command(text):
    if not isinstance(text, str):
        return
    try:
        words = shlex.split(text)
    except ValueError as exc:
        raise ValueError(f"cannot be split into words: {exc}".lower()) from None
    if not words or words[0].startswith("-") or re.search(r"[\x00-\x1f\x7f]", text):
        raise ValueError("is not a command")
    if any(word in ("&&", "||", "|", ";", ">", "<", ">>") for word in words):
        raise ValueError("is a line of shell", "write each command by itself, or call a script of the repository")


_body_size = _matching(r"[1-9][0-9]{0,4}[mMgG][bB]", "is not a size in mb or gb")


_url_path = _matching(r"/(?!/)[A-Za-z0-9._~=:@%/?&+,-]{0,199}", "is not a path of a URL")


def _variable(name):
    if not (isinstance(name, str) and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name)):
        raise ValueError("is not a name for an environment variable", "use letters, digits and underscores")
    if OWN_VARIABLES.fullmatch(name.upper()):
        raise ValueError("is set by Golden Path itself", "remove it here")
    if name in ("DJANGO_SECRET_KEY", "SECRET_KEY"):
        raise ValueError("is a secret", "move it to secrets, or remove it and the host makes one")


def _secret(name):
    if name not in ("DJANGO_SECRET_KEY", "SECRET_KEY"):
        _variable(name)


def _variable_value(value):
    if isinstance(value, str) and re.search(r"[^\n\t\x20-\x7e\x80-\U0010ffff]|[\x80-\x9f]", value):
        raise ValueError("contains a control character", "remove it; line breaks and tabs may stay")
    if isinstance(value, str) and len(value) > 32768:
        raise ValueError(f"has {len(value)} characters", "keep it under 32768")


def _restic_repository(text):
    if not isinstance(text, str):
        return
    if not text or _has_space(text):
        raise ValueError("is empty or has a space")
    kinds = r"sftp:(//)?[^-/:@\s][^:\s]*[:/].+|s3:.+|rest:https?://[^/]+/.*|rclone:.+|(b2|azure|gs|swift):.+"
    if not re.fullmatch(r"/[A-Za-z0-9._/-]+", text) and not re.fullmatch(kinds, text):
        raise ValueError("is no place that restic knows")
    if ".." in text.split("/") or re.match(r"/(srv/sum|etc|proc|sys|dev|run|tmp)(/|\Z)", text):
        raise ValueError("is a place for other things")


def _restic_variable(name):
    if not (isinstance(name, str) and re.fullmatch(r"[A-Z][A-Z0-9_]*", name)):
        raise ValueError("is not a name for an environment variable", "use capitals, digits and underscores")
    if re.fullmatch(r"RESTIC_(REPOSITORY|PASSWORD|CACHE).*|PATH|HOME|LANG|LD_.*|PYTHON.*", name):
        raise ValueError("is set by Golden Path itself", "remove it here")


# systemd-analyze has the last word on the host; here only what would break a unit file.
_calendar = _matching(r"[A-Za-z0-9*][A-Za-z0-9*:,./~ _-]{0,79}", "is no calendar of systemd")


_web_address = _matching(r"https?://[A-Za-z0-9.:@%_\[\]~-]+(/[!-~]*)?", "is not the address of a web server")


_mail_address = _matching(r"[A-Za-z0-9._%+][A-Za-z0-9._%+-]*(@[A-Za-z0-9.-]+)?", "is not a mail address")


def _secret_text(text):
    _variable_value(text)
    if isinstance(text, str) and len(text.strip()) < 12:
        raise ValueError("is too short")


def _private_key(text):
    _variable_value(text)
    if isinstance(text, str) and not re.match(r"\s*-----BEGIN [A-Z ]*PRIVATE KEY-----\n", text):
        raise ValueError("is no private key")


def _has_space(text):
    return not text.isprintable() or any(character.isspace() for character in text)


_FORMATS = {
    "slug": _slug,
    "redis-memory": _redis_memory,
    "domain": _domain,
    "git-repository": _git_repository,
    "git-ref": _git_ref,
    "python-name": _python_name,
    "inner-path": _inner_path,
    "inner-file": _inner_file,
    "dependency-name": _dependency_name,
    "requirement": _requirement,
    "python-version": _python_version,
    "process-name": _process_name,
    "wsgi-application": _wsgi,
    "command": _command,
    "debian-package": _debian_package,
    "postgres-extension": _postgres_extension,
    "body-size": _body_size,
    "url-path": _url_path,
    "variable": _variable,
    "secret": _secret,
    "variable-value": _variable_value,
    "restic-repository": _restic_repository,
    "restic-variable": _restic_variable,
    "calendar": _calendar,
    "web-address": _web_address,
    "mail-address": _mail_address,
    "secret-text": _secret_text,
    "private-key": _private_key,
}
