"""
What a Django repository is, read and never run: the pillar block for it, with a comment wherever an operator has to
choose. Pure: it opens files below one folder. ``salt-run goldenpath.inspect`` fetches the repository and prints it.
"""

import ast
import json
import os
import pathlib
import re
import runpy
import subprocess

_TREE = pathlib.Path(__file__).resolve().parent.parent
# What the host itself makes of a checkout: where its requirements are looked for, which Python they want.
_REQUIREMENTS = _TREE / "salt/host/files/lib/goldenpath/site_programs/requirements.py"
# Which variables the tree gives every site.
_JUDGE = _TREE / "_pillar/goldenpath.py"
# Names of a site's own that mean what the tree gives by another.
MEANS = (
    (r"(DB|DATABASE|POSTGRES|PG)_?(NAME|DB|DATABASE)|PGDATABASE", "DJANGO_DB_NAME"),
    (r"(DB|DATABASE|POSTGRES|PG)_?USER(NAME)?", "DJANGO_DB_USER"),
    (r"(DB|DATABASE|POSTGRES|PG)_?PASS(WORD)?", "DJANGO_DB_PASSWORD"),
    (r"(DB|DATABASE|POSTGRES|PG)_?HOST", "DJANGO_DB_HOST"),
    (r"(DB|DATABASE|POSTGRES|PG)_?PORT", "DJANGO_DB_PORT"),
    (r"\w+_SECRET_KEY|APP_SECRET", "DJANGO_SECRET_KEY"),
    (r"(CELERY_)?BROKER_URL", "CELERY_BROKER_URL"),
)  # fmt: skip
SECRET = re.compile(r"SECRET|PASSWORD|TOKEN|_KEY$|_DSN$|CREDENTIAL", re.IGNORECASE)
# What some requirements need from the distribution, where no wheel is made of them.
PACKAGES = (
    (r"^psycopg2\b(?!-binary)|psycopg\[c\]|^psycopg-c\b", ["build-essential", "python3-dev", "libpq-dev"]),
    (r"^mysqlclient\b", ["build-essential", "python3-dev", "default-libmysqlclient-dev", "pkg-config"]),
    (r"^uwsgi\b", ["build-essential", "python3-dev"]),
    (r"^pycurl\b", ["build-essential", "python3-dev", "libcurl4-openssl-dev", "libssl-dev"]),
    (r"^python-ldap\b|^django-auth-ldap\b", ["build-essential", "python3-dev", "libldap-dev", "libsasl2-dev"]),
    (r"^xmlsec\b", ["build-essential", "python3-dev", "libxmlsec1-dev", "pkg-config"]),
    (r"^weasyprint\b", ["libpango-1.0-0", "libpangoft2-1.0-0"]),
    (r"^python-magic\b", ["libmagic1"]),
)  # fmt: skip
_SKIPPED = {".git", "node_modules", ".venv", "venv", "tests", "test", "docs"}
_LIVE = ("production", "prod", "live", "deploy", "heroku")
_LONGEST = 400_000
_SETTINGS = re.compile(r"^\s*(INSTALLED_APPS|from \S*(settings|base|common)\S* import)", re.MULTILINE)
_HEALTH = re.compile(
    r"""path\(\s*r?["']\^?((?:[\w-]+/)*(?:health|healthz|healthcheck|health-check|status|ping|up)/?)\$?["']"""
)
_DEVELOPMENT = re.compile(r"dev|test|doc|local|lint|ci")
# More than these are counted and not named.
_NAMED = 12


def __virtual__():
    return False, "goldenpath.inspect runs it"


class Nothing(Exception):
    """The folder holds no Django project: one sentence."""


def cloned(repo, ref, folder):
    """
    Check a repository out without running any hook or filter of it.

    :param repo: an address that git knows, or a local folder.
    :param ref: a tag or a branch; the repository's own where it is left out.
    :param folder: an empty folder.
    :return: str, the branch or tag that it is of. Raises Nothing where it cannot be read.

    CLI Example:

    .. code-block:: bash

        salt-run goldenpath.inspect https://git.example/acme.git
    """
    if repo.startswith("-") or str(ref or "").startswith("-"):
        raise Nothing(f"{repo!r} is no repository. Try: its address, as git knows it")
    argv = ["git", "-c", "core.hooksPath=/dev/null", "-c", "core.symlinks=false", "clone", "--quiet", "--depth=1"]
    argv += [*(["--branch", str(ref)] if ref else []), "--", repo, folder]
    env = {
        **os.environ,
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ALLOW_PROTOCOL": "https:ssh:git:http:file",
        "GIT_LFS_SKIP_SMUDGE": "1",
    }
    try:
        done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=300, check=False)
    except subprocess.TimeoutExpired:
        raise Nothing(f"{repo} did not answer within 300 s. Try: git ls-remote {repo}") from None
    if done.returncode:
        why = next(
            (line for line in done.stderr.splitlines() if line.startswith(("fatal:", "error:"))), "no word of why"
        )
        raise Nothing(f"{repo} cannot be read: {why.rstrip('.')}. Try: git ls-remote {repo}")
    head = ["git", "-C", folder, "rev-parse", "--abbrev-ref", "HEAD"]
    return subprocess.run(head, capture_output=True, text=True, check=False).stdout.strip() or "main"


def inspect(folder, slug="site", domain="site.example", repo="", ref="main"):
    """
    Read a checkout.

    :param folder: where it lies.
    :param slug: what the block calls the site.
    :param domain: its first name.
    :param repo: its repository, as the host reads it.
    :param ref: a tag or a branch.
    :return: str, the block. Raises Nothing where there is no Django project.

    CLI Example:

    .. code-block:: bash

        salt-run goldenpath.inspect https://git.example/acme.git
    """
    top = pathlib.Path(folder)
    files = sorted(_files(top), key=lambda path: (len(path.parts), path))
    manage = next((path for path in files if path.name == "manage.py"), None)
    if manage is None:
        raise Nothing(f"{repo or folder} has no manage.py. Try: name the repository of a Django project")
    base = manage.parent
    found = {"slug": slug, "domain": domain, "repo": repo, "ref": ref, "notes": []}
    found["directory"] = base.relative_to(top).as_posix()
    _settings(found, base, files, manage)
    _wsgi(found, base, files)
    needs = _needs(found, top, base)
    _commands(found, top, files, needs)
    _variables(found)
    return _block(found)


def _files(top):
    for path in top.rglob("*"):
        if not _SKIPPED & set(path.relative_to(top).parts[:-1]) and path.is_file() and not path.is_symlink():
            yield path


def _read(path):
    try:
        return path.read_text(encoding="utf-8", errors="replace")[:_LONGEST]
    except OSError:
        return ""


def _module(path, base):
    """A file's dotted name, from the folder of manage.py or from a src/ beside it."""
    for start in (base, base / "src"):
        if start in path.parents:
            parts = path.relative_to(start).with_suffix("").parts
            return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    return ""


def _settings(found, base, files, manage):
    named = re.search(r"DJANGO_SETTINGS_MODULE[\"'],\s*[\"']([\w.]+)", _read(manage))
    there = {}
    for path in files:
        likely = path.suffix == ".py" and base in path.parents and re.search("settings|config", path.as_posix())
        if likely and _SETTINGS.search(_read(path)):
            there[_module(path, base)] = path
    live = [name for name in there if name.rsplit(".", 1)[-1] in _LIVE]
    if live or named or there:
        found["settings"] = live[0] if live else named[1] if named else next(iter(there))
    else:
        found["settings"] = ""
        found["notes"].append("settings: none were found; name their module")
    found["settings_files"] = list(there.values())
    if not live and len(there) > 1:
        found["notes"].append(f"settings: one of {', '.join(sorted(there))}")
    found["text"] = "\n".join(_read(path) for path in found["settings_files"])
    if "sqlite3" in found["text"]:
        found["notes"].append("the settings know SQLite, which a deploy refuses: see what makes it Postgres there")


def _wsgi(found, base, files):
    places = [path for path in files if path.name == "wsgi.py" and base in path.parents]
    root = found["settings"].split(".")[0]
    best = next((path for path in places if _module(path, base).split(".")[0] == root), places[0] if places else None)
    module = _module(best, base) if best else ""
    found["project"] = module.rpartition(".")[0] or root or "CHOOSE"
    found["wsgi"] = f"{module}:application" if module and module != f"{found['project']}.wsgi" else ""
    if not module:
        found["notes"].append("there is no wsgi.py: write one, or name the application under `wsgi`")
    celery = [
        path for path in files if path.name in ("celery.py", "celery_app.py", "celeryapp.py") and base in path.parents
    ]
    found["celery"] = [_module(path, base) for path in celery]


def _needs(found, top, base):
    """The names of all requirements, as far as files say them."""
    tools = runpy.run_path(str(_REQUIREMENTS))
    try:
        _, path, form = tools["find"](str(top), found["directory"], "auto")
        found["form"] = next(name for name, _ in tools["FORMS"] if path.endswith(os.sep + name))
        found["python"] = tools["wanted_python"](str(top), path, "auto")
    except tools["Wrong"]:
        form, found["form"], found["python"] = None, None, ""
        found["notes"].append("requirements: there is none of the usual files; write one, or name it")
    lists = [
        path for place in {base, top} for path in (*place.glob("requirements*/*.txt"), *place.glob("requirements*.txt"))
    ]
    texts = [_read(path) for path in sorted(set(lists)) if not _DEVELOPMENT.search(path.name)]
    texts += [_read(place / name) for place in {base, top} for name in ("pyproject.toml", "Pipfile")]
    whole = "\n".join(texts)
    names = set(re.findall(r"""^\s*["']?([A-Za-z][A-Za-z0-9._-]*(?:\[[^\]]*\])?)\s*(?:[=<>~!;,"'#@]|$)""", whole, re.M))
    names = {re.sub(r"[._]+", "-", name).lower() for name in names}
    groups = re.search(r"^\[dependency-groups\]\n(.*?)(?=^\[|\Z)", _read(top / "pyproject.toml"), re.M | re.S)
    known = re.findall(r"^([\w-]+)\s*=", groups[1], re.M) if groups else []
    extras = re.search(
        r"^\[project\.optional-dependencies\]\n(.*?)(?=^\[|\Z)", _read(top / "pyproject.toml"), re.M | re.S
    )
    offered = re.findall(r"^([\w-]+)\s*=", extras[1], re.M) if extras else []
    locked = form in tools["WITH_GROUPS"]
    found["groups"] = [name for name in known if name in ("prod", "production", "deploy", "server")] if locked else []
    found["extras"] = [name for name in offered if name in ("prod", "production", "postgres", "postgresql", "psycopg")]
    found["extras"] = found["extras"] if locked else []
    if locked and (more := [name for name in offered if name not in found["extras"]]):
        found["notes"].append(f"dependencies:extras: it offers {', '.join(more)}")
    lacking = [packages for pattern, packages in PACKAGES if any(re.search(pattern, name) for name in names)]
    found["packages"] = list(dict.fromkeys(package for packages in lacking for package in packages))
    if not any(name.startswith(("psycopg", "psycopg2")) for name in names):
        found["add"] = ["psycopg[binary]"]
        found["notes"].append(
            "dependencies:add: nothing that was read installs psycopg, without which there is no Postgres"
        )
    return names


def _commands(found, top, files, needs):
    found["build"], found["release"], found["processes"] = [], [], {}
    package = top / "package.json"
    if package.is_file():
        try:
            scripts = json.loads(_read(package)).get("scripts", {})
        except (ValueError, AttributeError):
            scripts = {}
        if "build" in scripts:
            lock = "npm ci" if (top / "package-lock.json").is_file() else "npm install"
            found["build"] += [lock, "npm run build"]
            found["packages"].append("npm")
    text = found["text"]
    if "compressor" in text and re.search(r"COMPRESS_OFFLINE\s*=\s*True|COMPRESS_OFFLINE", text):
        found["build"].append("manage.py compress")
    if "DatabaseCache" in text:
        found["release"].append("manage.py createcachetable")
    found["worker"] = bool(found["celery"]) and any(name.startswith("celery") for name in needs)
    found["beat"] = found["worker"] and bool(
        re.search(r"beat_schedule|CELERY_BEAT|django_celery_beat", text + "".join(_read(path) for path in files
                  if path.name.startswith("celery") and path.suffix == ".py"))
    )  # fmt: skip
    for name, command in (("django-rq", "manage.py rqworker default"), ("django-q2", "manage.py qcluster"),
                          ("huey", "manage.py run_huey"), ("django-dramatiq", "manage.py rundramatiq")):  # fmt: skip
        if any(need.split("[")[0] == name for need in needs):
            found["processes"][re.sub("[^a-z0-9]", "", name)] = command
    procfile = next((path for path in files if path.name == "Procfile" and len(path.relative_to(top).parts) == 1), None)
    for line in _read(procfile).splitlines() if procfile else []:
        name, _, command = line.partition(":")
        word = re.sub("[^a-z0-9]", "", name.lower())
        command = re.sub(r"^(python3? )?(\./)?manage\.py", "manage.py", command.strip())
        if not word or word in ("web", "release") or command.startswith("celery") or "gunicorn" in command:
            continue
        found["processes"].setdefault(word, command)
    named = re.search(r"""^ASGI_APPLICATION\s*=\s*["']([\w.]+)\.(\w+)["']""", text, re.MULTILINE)
    found["asgi"] = any(re.match(r"(channels|daphne)\b", need) for need in needs)
    if found["asgi"]:
        module, name = named.groups() if named else (f"{found['project']}.asgi", "application")
        found["wsgi"] = "" if (module, name) == (f"{found['project']}.asgi", "application") else f"{module}:{name}"
    elif named or any(re.match(r"uvicorn\b", need) for need in needs):
        found["notes"].append("asgi: the project has an ASGI application; write `asgi: true` where visitors need it")
    health = _HEALTH.search("\n".join(_read(path) for path in files if path.name == "urls.py"))
    found["health"] = "/" + health[1].lstrip("/") if health else "/"
    if not health:
        found["notes"].append("health: no path of the site tells how it is; its front page is asked")
    found["extensions"] = sorted({"postgis"} if "django.contrib.gis" in text else set())
    if "postgis" in found["extensions"]:
        found["packages"] += ["postgresql-postgis", "libgdal-dev"]


def _variables(found):
    """The variables that settings read: each with whether it has a default."""
    reads = {}
    for path in found["settings_files"]:
        try:
            tree = ast.parse(_read(path))
        except SyntaxError:
            continue
        # `if "NAME" in os.environ`: what is read then need not be there.
        asked = {
            _text(node.left)
            for node in ast.walk(tree)
            if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In)
        }
        for node in ast.walk(tree):
            name, default = _variable(node)
            default = default or name in asked
            if name:
                reads[name] = reads.get(name, True) and default
    formats = runpy.run_path(str(_JUDGE))["cross"].formats
    given = {name for name in reads if formats.OWN_VARIABLES.fullmatch(name) or name in formats.USUAL}
    reads = {name: default for name, default in reads.items() if name not in given | {"DJANGO_SECRET_KEY"}}
    found["env_names"] = {}
    for name in sorted(reads):
        meant = next((given for pattern, given in MEANS if re.fullmatch(pattern, name)), None)
        if meant:
            found["env_names"][name] = meant
    missing = sorted(name for name, default in reads.items() if not default and name not in found["env_names"])
    found["secrets"] = [name for name in missing if SECRET.search(name)]
    found["env"] = [name for name in missing if name not in found["secrets"]]
    if re.search(r"""REDIS_URL["']?\]?\)?\s*\+|\{REDIS_URL\}/""", found["text"]):
        found["appends"] = True
    found["optional"] = sorted(name for name, default in reads.items() if default and name not in found["env_names"])


def _variable(node):
    """A variable that an expression reads, and whether it has a default."""
    if isinstance(node, ast.Subscript) and ast.unparse(node.value) in ("os.environ", "environ", "env"):
        return _text(node.slice), False
    if not isinstance(node, ast.Call) or not node.args:
        return None, False
    called = ast.unparse(node.func)
    plain = re.fullmatch(r"(os\.)?(environ\.get|getenv)", called)
    other = re.fullmatch(
        r"(self\.)?(env|config|environ)(\.\w+)?|(get_)?env(_\w+)?|envbool|envint|envlist|envstr", called
    )
    if not plain and not other:
        return None, False
    name = _text(node.args[0])
    if name is None or not re.fullmatch(r"[A-Z][A-Z0-9_]+", name):
        return None, False
    return name, bool(plain) or len(node.args) > 1 or any(word.arg == "default" for word in node.keywords)


def _text(node):
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def _block(found):
    """The block, as an operator would write it."""
    lines = [f"{found['slug']}:", f"  domains: [{found['domain']}]", f"  repo: {found['repo'] or 'CHOOSE'}",
             f"  ref: {_quoted(found['ref'])}", f"  project: {found['project']}"]  # fmt: skip
    if found["settings"] != f"{found['project']}.settings.production":
        lines.append(f"  settings: {found['settings'] or 'CHOOSE'}")
    if found["asgi"]:
        lines.append("  asgi: true")
    if found["wsgi"]:
        lines.append(f"  wsgi: {found['wsgi']}")
    if found["directory"] != ".":
        lines.append(f"  directory: {found['directory']}")
    lines.append("  redis: {cache: 0, broker: 1}   # numbers that no other site of the host has")
    if found["form"]:
        lines.append(
            f"  # its requirements: {found['form']}" + (f", for Python {found['python']}" if found["python"] else "")
        )
    further = {name: found.get(name) for name in ("groups", "extras", "add") if found.get(name)}
    if further:
        inner = ", ".join(f"{name}: [{', '.join(map(_quoted, values))}]" for name, values in further.items())
        lines.append(f"  dependencies: {{{inner}}}")
    if found["packages"]:
        lines.append(f"  packages: [{', '.join(dict.fromkeys(found['packages']))}]")
    if found["extensions"]:
        lines.append(f"  postgres: {{extensions: [{', '.join(found['extensions'])}]}}")
    for name in ("build", "release"):
        if found[name]:
            lines.append(f"  {name}: [{', '.join(map(_quoted, found[name]))}]")
    if found["worker"]:
        lines.append(f"  celery: {{worker: true{', beat: true' if found['beat'] else ''}}}")
    if found["processes"]:
        lines.append("  processes:")
        lines += [f"    {name}: {{command: {_quoted(command)}}}" for name, command in found["processes"].items()]
    lines.append(f"  health: {found['health']}")
    if found["env_names"]:
        lines.append("  env_names:")
        lines += [f"    {name}: {given}" for name, given in found["env_names"].items()]
    if found.get("appends"):
        found["notes"].append('env: it appends a number to REDIS_URL: write `REDIS_URL: "{redis_base}"` there')
    for kind, why in (("env", "the settings have no default for these"), ("secrets", "the same; keep them out of git")):
        if found[kind]:
            lines += [f"  {kind}:   # {why}", *(f"    {name}: CHOOSE" for name in found[kind])]
    if found["optional"]:
        named, more = found["optional"][:_NAMED], len(found["optional"]) - _NAMED
        lines.append(
            "  # read as well, with a default: " + ", ".join(named) + (f" and {more} more" if more > 0 else "")
        )
    lines += [f"  # TO CHOOSE: {note}" for note in found["notes"]]
    return "\n".join(lines) + "\n"


def _quoted(text):
    return text if re.fullmatch(r"[A-Za-z][\w./-]*", text) else json.dumps(text)
