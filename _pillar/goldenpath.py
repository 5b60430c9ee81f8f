"""
Validate a host's whole pillar before anything uses it, and fill in the defaults.

The keys, their defaults and their meaning are in ``pillar/schema.yaml``; what a schema cannot say, and the sentences,
are in the package ``pillar/judge``.
The controller reaches this module by its configuration:

.. code-block:: yaml

    pillar_dirs: [_pillar]
    ext_pillar:
      - goldenpath: {}

A bad pillar becomes ``_errors``, one sentence for each fault, all of them at once. Salt then refuses
``state.apply`` and the steps of an orchestration before it renders a state or touches the host.
"""

import importlib
import importlib.util
import pathlib
import posixpath
import re
import sys
import urllib.parse


def _judge():
    """The modules of pillar/judge. Salt's loader gives a module no package to import them from."""
    folder = pathlib.Path(__file__).resolve().parent.parent / "pillar/judge"
    known = "goldenpath_judge"
    if known not in sys.modules or sys.modules[known].__path__ != [str(folder)]:
        for old in [each for each in sys.modules if each.partition(".")[0] == known]:
            del sys.modules[old]
        spec = importlib.util.spec_from_file_location(
            known, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        sys.modules[known] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[known])
    return [importlib.import_module(f"{known}.{each}") for each in ("cross", "keys", "sentences", "shipped", "words")]


cross, keys, sentences, shipped, words = _judge()

# Keys that are Salt's, a deploy's or our own: no operator writes them, and they are not judged.
FOREIGN = ("_errors", "goldenpath_deploy", "goldenpath_modules", "goldenpath_secrets")
# Per cent of a host's memory for each of its sites: neither takes what Redis, Postgres and the next one need.
_SHARES = {1: 75, 2: 50}


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
                f"{minion_id} has no pillar: {name} is missing or empty; create {name} (start from {words.EXAMPLE})."
            ]
        }
    try:
        errors = validate(pillar)
    except ImportError as exc:
        errors = [
            f"{minion_id} cannot be validated, because the controller's Python lacks the package {exc.name};"
            " install it beside Salt with pip install -c constraints.txt jsonschema."
        ]
    return {"_errors": errors} if errors else {**normalise(pillar), **_modules()}


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
    for error in keys.validator().iter_errors(pillar):
        for path, text in sentences.explain(error, pillar):
            faults.setdefault(path, text)
    for path, text in cross.faults(pillar):
        faults.setdefault(path, text)
    ordered = sorted(faults, key=lambda path: [f"{part:03}" if type(part) is int else str(part) for part in path])
    return [f"{sentences.where(path)}: {faults[path]}." for path in ordered]


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
    result = keys.filled(_judged(pillar), keys.load())
    if "maxmemory" in result["redis"]:
        result["redis"]["maxmemory"] = result["redis"]["maxmemory"].lower()
    for site in result["sites"].values():
        site["domains"] = [domain.lower() for domain in site["domains"]]
        site["settings"] = site["settings"].replace("<project>", site["project"])
        if site["asgi"] and site["wsgi"] == "<project>.wsgi:application":
            site["wsgi"] = "<project>.asgi:application"
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
        mark = keys.at(path)[1]
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
    found = [password] if colon else [user] if url and url[1] in ("http", "https") else []
    found += re.findall(r"[?&][^=&#]*=([^&#]*)", address) if "://" in address else []
    return {each for word in found for each in (word, urllib.parse.unquote(word))}


def _is_controller(minion_id):
    opts = globals().get("__opts__") or {}
    opts = opts.get("__master_opts__") or opts  # over salt-ssh the outer options are the host's
    return minion_id.endswith("_master") or (opts.get("__role") == "master" and opts.get("id") == minion_id)


def _modules():
    """
    What a minion is to have of this checkout, for the state that looks whether it has. Over ssh all of it is sent with
    every command.
    """
    opts = globals().get("__opts__") or {}
    if "__master_opts__" in opts or (opts.get("goldenpath") or {}).get("transport") != "minion":
        return {}
    return {"goldenpath_modules": shipped.shipped((opts.get("file_roots") or {}).get("base", ()))}


def _judged(pillar):
    return {key: words.plain(value) for key, value in pillar.items() if key not in FOREIGN}


def _as_text(value):
    return str(value).lower() if isinstance(value, bool) else str(value)
