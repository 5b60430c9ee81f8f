"""What is wrong with a pillar, what its defaults are, and that no sentence tells a secret. No Salt, no host."""

import copy
import functools
import importlib
import pathlib
import re
import sys

import jsonschema
import pytest
import yaml

from _pillar import goldenpath

ROOT = pathlib.Path(__file__).resolve().parents[3]
LEAST = {
    "sites": {
        "acme": {
            "domains": ["acme.example"],
            "repo": "https://git.example/acme.git",
            "ref": "v1.4.2",
            "project": "acme_kitchens",
            "redis": {"cache": 0, "broker": 1},
        }
    }
}
CANARY = "s3cr3t-canary"
REQUIRED = "Redis is required"
BACKUP = {
    "repository": "/var/backups/goldenpath/restic",
    "env": {},
    "keep": {"daily": 7, "weekly": 4, "monthly": 6},
    "schedule": {
        "backup": "*-*-* 02:30:00",
        "drill": "Sun *-*-* 04:30:00",
        "check": "Sat *-*-* 04:30:00",
    },
    "warn_after": {"backup": 36, "drill": 216},
    "refuse_after": {},
    "heartbeat": {},
}
# Keys that may be absent and then have no value.
WITHOUT_DEFAULT = {
    ("operators", "*", "until"),
    ("alerts", "heartbeat"),
    ("alerts", "smtp"),
    ("alerts", "smtp", "user"),
    ("alerts", "smtp", "password"),
    ("alerts", "smtp", "from"),
    ("redis", "maxmemory"),
    *(("sites", "*", "redis", name) for name in ("own", "maxmemory")),
    ("sites", "*", "limits", "memory"),
    *(("backup", name) for name in ("password", "ssh_key", "known_hosts", "every")),
    *(("backup", "refuse_after", name) for name in ("backup", "drill")),
    *(("backup", "heartbeat", name) for name in ("backup", "drill", "check")),
    *(("alerts", name) for name in ("webhook", "mail")),
}
OWN_VARIABLES = [
    *("DJANGO_SETTINGS_MODULE", "DJANGO_DB_NAME", "DJANGO_DB_PASSWORD", "DJANGO_STATIC_ROOT"),
    *("DJANGO_MEDIA_ROOT", "SITE_DOMAIN", "GIT_SHA", "CACHE_DIRECTORY"),
    *("RELEASE", "PATH", "PYTHONPATH", "LD_PRELOAD", "NOTIFY_SOCKET"),
]
GOOD_REFS = ["main", "v1.4.2", "1.10", "release/2026-11", "a" * 200, "f" * 40, "grün", "a-", "user@host", "HEAD", "#1"]
UNSEEN = ["v1\u200b", "v1\u00a0", "\u202ev1", "v1\u0085", "v\ufeff1", "v\u2028x", "v1\x1b"]
BAD_REFS = ["-f", "/v1", ".v1", "v1/", "v1.", "v1\n", "@", "v1.lock", "a.lock/b", "a/.b"]
NOT_IN_REFS = ["..", "@{", "//", *"~^:?*[\\", " ", "\t", "\n", "\x7f", "\0"]


def changed(path, value, base=LEAST):
    """The base with one value changed; the value None in a path of one site removes nothing, it is YAML's null."""
    pillar = copy.deepcopy(base)
    *owners, last = path
    target = pillar
    for name in owners:
        target = target.setdefault(name, {})
    target[last] = value
    return pillar


def site(key, value):
    return changed(("sites", "acme", *key.split(":")), value)


def sentence(pillar, path):
    """The one sentence about this path."""
    found = [error for error in goldenpath.validate(pillar) if error.startswith(f"{path}: ")]
    assert len(found) == 1, goldenpath.validate(pillar)
    return found[0]


def judges_of_refs():
    """Whoever decides what can be a ref, by name: the pillar's judge, and the engine on the host."""
    yield "pillar", lambda ref: not goldenpath.validate(site("ref", ref))
    library = ROOT / "salt/host/files/lib"
    if (library / "goldenpath/source.py").exists():
        sys.path.insert(0, str(library))
        try:
            yield "engine", importlib.import_module("goldenpath.source").valid_ref
        finally:
            sys.path.remove(str(library))


@pytest.mark.parametrize(
    "ref", [*GOOD_REFS, *BAD_REFS, *(f"v{bad}1" for bad in NOT_IN_REFS), *UNSEEN, "", "v" * 201, 7]
)
def test_one_rule_for_refs(ref):
    assert {name: judge(ref) for name, judge in judges_of_refs()} == {
        name: ref in GOOD_REFS for name, _ in judges_of_refs()
    }


def test_least_pillar_is_valid_and_left_alone():
    before = copy.deepcopy(LEAST)
    assert goldenpath.validate(LEAST) == []
    goldenpath.normalise(LEAST)
    assert before == LEAST


SITE_FAULTS = [
    # key, value as YAML reads it, a part of the sentence
    ("domains", "acme.example", "must be a list, not text"),
    ("domains", [], "is an empty list"),
    ("domains", None, "is empty"),
    ("repo", 7, "must be text, but YAML reads it as the number 7"),
    ("repo", "", "is not the address of a repository"),
    ("repo", "--upload-pack=id", "is not the address of a repository"),
    ("repo", "https://git.example/a b", "is not the address of a repository"),
    ("repo", "https://git.example/a\nb", "is not the address of a repository"),
    ("repo", "ext::sh -c id", "names a remote helper"),
    ("repo", "https::https://git.example/a", "names a remote helper"),
    ("repo", "::x", "names a remote helper"),
    ("repo", "ssh://-oProxyCommand=id/a", "is neither a URL"),
    ("repo", "git@-oProxyCommand=id:a", "is neither a URL"),
    ("repo", "-oProxyCommand=id:a", "is not the address of a repository"),
    ("repo", "gopher://git.example/a", "is neither a URL"),
    ("repo", "https:///a", "is neither a URL"),
    ("repo", "file://relative/a.git", "is neither a URL"),
    ("repo", "relative/acme.git", "absolute path"),
    ("repo", "../acme.git", "absolute path"),
    ("ref", 1.1, "YAML reads it as the number 1.1; put the value in quotes"),
    ("ref", 1234567, "YAML reads it as the number 1234567; put the value in quotes"),
    ("ref", True, "YAML reads it as true; put the value in quotes"),
    ("ref", yaml.safe_load("2026-11-23"), "YAML reads it as the date 2026-11-23; put the value in quotes"),
    ("ref", ["v1"], "must be text, not a list"),
    ("ref", "", "has 0 characters"),
    ("ref", "v" * 201, "has 201 characters"),
    *[("ref", ref, "git refuses") for ref in BAD_REFS],
    *[("ref", f"v{bad}1", "git refuses") for bad in NOT_IN_REFS],
    *[("ref", ref, "contains a space or a control character, which git refuses in names") for ref in UNSEEN],
    ("project", "acme-kitchens", "is not a Python name"),
    ("project", "acme.", "is not a Python name"),
    ("project", "1acme", "is not a Python name"),
    ("project", "class", "is not a Python name"),
    ("project", "größe", "is not a Python name"),
    ("project", "acme\n", "is not a Python name"),
    ("settings", "acme.settings.production; id", "is not a Python name"),
    ("redis:cache", "0", "must be a whole number, not the text '0'"),
    ("redis:cache", 1.0, "must be a whole number, not the number 1.0"),
    ("redis:cache", 64, "must be between 0 and 63, not 64"),
    ("redis:cache", -1, "must be between 0 and 63, not -1"),
    ("redis:cache", 1, None),
    ("workers", 0, "must be between 1 and 64, not 0"),
    ("workers", 65, "must be between 1 and 64, not 65"),
    ("workers", True, "must be a whole number, not true"),
    ("workers", "3", "not the text '3'"),
    ("celery", True, "write `celery: {worker: true}`"),
    ("celery:worker", "yes", "must be true or false, not the text 'yes'"),
    ("celery:worker", 1, "must be true or false, not the number 1"),
    ("celery:beat", True, "needs the worker"),
    ("celery:concurrency", 0, "must be between 1 and 64"),
    ("celery:worker_count", 2, "is not a key of celery"),
    *[("directory", path, "leads out") for path in ("/srv", "../x", "a/../../b", "a/..", "~root")],
    *[("directory", path, "is not a path") for path in ("-x", "a b", "", "a\nb", "a\\b", "$HOME")],
    ("requirements", "/etc/passwd", "leads out"),
    ("requirements", "../requirements.txt", "leads out"),
    ("requirements", "requirements/", "is a folder"),
    ("requirements", ".", "is a folder"),
    ("packages", "libmagic1", "must be a list, not text"),
    ("health", "health/", "is not a path of a URL"),
    ("health", "//evil.example/", "is not a path of a URL"),
    ("health", "/a b", "is not a path of a URL"),
    ("health", "/a\n", "is not a path of a URL"),
    ("health", "https://acme.example/health/", "is not a path of a URL"),
    ("tls", False, "must be acme or internal, not false"),
    ("tls", "letsencrypt", "must be acme or internal, not 'letsencrypt'"),
    ("env", ["A=1"], "must be a mapping, not a list"),
    ("env", None, "is empty"),
    ("env:A", None, "is empty"),
    ("env:A", ["1"], "must be text, a number or a boolean, not a list"),
    ("env:A", yaml.safe_load("2026-11-23"), "put the value in quotes"),
    ("env:A", "a\0b", "contains a control character"),
    ("env:A", "a" * 32769, "has 32769 characters"),
    ("env:A-B", "1", "is not a name for an environment variable"),
    ("env:DJANGO_SECRET_KEY", "x", "move it to secrets"),
    ("env:SECRET_KEY", "x", "move it to secrets"),
    ("env_names:DB", "HOME", "name a variable that the tree sets"),
    ("env_names:A-B", "REDIS_URL", "is not a name for an environment variable"),
    ("env_names:PATH", "REDIS_URL", "is set by Golden Path itself"),
    ("dependencies:extra", ["s3"], "did you mean extras"),
    ("python", "python3", "is no version of Python"),
    ("python", 3.13, "must be text"),
    ("wsgi", "config.wsgi", "is not module:name"),
    ("media", "secret", "must be public or private"),
    ("drain", -1, "must be between 0 and 600"),
    ("front:hsts", 99999999, "must be between 0 and 63072000"),
    ("front:basic_auth:client", "secret", "is not a bcrypt hash"),
    ("front:basic_auth:client", "$2a$14$" + "a" * 52, "is not a bcrypt hash"),
    ("front:basic_auth:cli ent", "$2a$14$" + "a" * 53, "is not the name of a user"),
    ("front:redirects:shop", "/store/", "is not the path of a page"),
    ("front:redirects:/shop {", "/store/", "is not the path of a page"),
    ("front:redirects:/*", "/store/", "is not the path of a page"),
    ("front:redirects:/shop/", "store/", "is neither a path nor a URL"),
    ("front:redirects:/shop/", "//other.example/", "is neither a path nor a URL"),
    ("front:redirects:/shop/", "https://other.example/{env.HOME}", "is neither a path nor a URL"),
    ("front:redirects:/shop/", "", "is empty"),
    ("processes:Rq", {"command": "x"}, "is not a name for a process"),
    ("processes:a-b", {"command": "x"}, "is not a name for a process"),
    ("processes:celery", {"command": "x"}, "is a name of the tree's own"),
    ("wsgi", "config/wsgi:application", "is not module:name"),
    ("build", "npm ci", "must be a list"),
    *[(f"{kind}:{name}", "x", "is set by Golden Path itself") for kind in ("env", "secrets") for name in OWN_VARIABLES],
    # Redis is not to be switched off here either
    *[("redis", value, f"{REQUIRED} by every site") for value in (False, None, True, "off", [], 0)],
    *[("redis:broker", value, f"{REQUIRED} by every site") for value in (False, None, "off", "none")],
    *[(f"redis:{key}", False, REQUIRED) for key in ("enabled", "optional", "install", "required", "redis")],
    *[(key, False, REQUIRED) for key in ("use_redis", "redis_enabled", "redis-required")],
]


@pytest.mark.parametrize(("key", "value", "part"), SITE_FAULTS)
def test_site_fault(key, value, part):
    pillar = site(key, value)
    if part is None:  # the fault is told at another key
        assert "redis:broker" in goldenpath.validate(pillar)[0]
        return
    assert part in sentence(pillar, f"sites:acme:{key}")
    assert len(goldenpath.validate(pillar)) == 1


@pytest.mark.parametrize(
    ("key", "value", "part"),
    [
        ("dependencies:add", "--index-url https://x.example", "is not one requirement"),
        ("dependencies:add", "a\nb", "is not one requirement"),
        ("dependencies:add", "acme @ git+https://token@git.example/acme.git", "holds credentials"),
        ("dependencies:groups", "-e", "is not the name of a group"),
        ("build", "npm ci && npm run build", "is a line of shell"),
        ("build", "echo 'x", "cannot be split into words"),
        ("build", " ", "is not a command"),
        ("release", "-x", "is not a command"),
        ("front:allow", "10.0.0.1/8", "has bits beyond its mask"),
        ("front:proxies", "cdn.example", "is neither an address nor a network"),
    ],
)
def test_fault_in_a_list(key, value, part):
    pillar = site(key, [value])
    assert part in sentence(pillar, f"sites:acme:{key}:0")
    assert len(goldenpath.validate(pillar)) == 1


@pytest.mark.parametrize(
    ("front", "where", "part"),
    [
        ({"redirects": {"/a/": "/b/*"}}, "redirects:/a/", "end both in /*, or none"),
        ({"redirects": {"/a/": "/a/"}}, "redirects:/a/", "leads to itself"),
        ({"redirects": {"/a/*": "/a/b/*"}}, "redirects:/a/*", "leads to itself"),
        ({"redirects": {"/health/": "/up/"}}, "redirects:/health/", "is the health path"),
        ({"allow": ["203.0.113.7"], "proxies": ["198.51.100.0/24"]}, "allow", "cannot be kept behind `proxies`"),
    ],
)
def test_front_doors_that_contradict_themselves(front, where, part):
    assert part in sentence(site("front", front), f"sites:acme:front:{where}")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["backup", "password"], "a-long-password-of-your-own"),
        (["sites", "acme", "env", "MAIL_HOST"], "CHOOSE"),
        (["sites", "acme", "secrets", "TOKEN"], "CHOOSE"),
        (["sites", "acme", "repo"], "CHOOSE"),
        (["sites", "acme", "project"], "CHOOSE"),
    ],
)
def test_a_placeholder_is_no_value(path, value):
    told = goldenpath.validate(changed(path, value))
    assert len(told) == 1 and told[0].startswith(":".join(path))
    assert "placeholder" in told[0] or "is neither a URL" in told[0]


KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI" + "A" * 43


@pytest.mark.parametrize(
    ("operator", "where", "part"),
    [
        ({"key": "ssh-dss AAAA", "sites": ["acme"]}, "ada:key", "is no public key"),
        ({"key": f'command="sh" {KEY}', "sites": ["acme"]}, "ada:key", "is no public key"),
        ({"key": KEY + "\nssh-ed25519 x", "sites": ["acme"]}, "ada:key", "is no public key"),
        ({"key": KEY, "sites": ["shop"]}, "ada:sites:0", "is no site of this host; name one of acme"),
        ({"key": KEY, "sites": []}, "ada:sites", "is an empty list"),
        ({"key": KEY}, "ada:sites", "is missing"),
        ({"key": KEY, "sites": ["acme"], "until": "31.1.2027"}, "ada:until", "is no day"),
        ({"key": KEY, "sites": ["acme"], "until": "20270131"}, "ada:until", "is no day"),
        ({"key": KEY, "sites": ["acme"], "shell": True}, "ada:shell", "is not a key of an operator"),
    ],
)
def test_operators_that_are_wrong(operator, where, part):
    assert part in sentence(changed(["operators", "ada"], operator), f"operators:{where}")


def test_each_operator_has_a_key_of_their_own():
    ada = {"key": KEY + " ada@laptop", "sites": ["acme"], "until": "2027-01-31"}
    assert goldenpath.validate(changed(["operators"], {"ada": ada})) == []
    both = changed(["operators"], {"ada": ada, "ci": {"key": KEY + " ci", "sites": ["acme"]}})
    assert "is the key of ada as well" in sentence(both, "operators:ci:key")
    assert "is not the name of a user" in sentence(changed(["operators"], {"a b": ada}), "operators:a b")


def test_a_front_door_with_everything():
    front = {
        "canonical": True,
        "redirects": {"/shop/": "/store/?from=shop", "/blog/*": "https://blog.example:8443/x/*", "/a/*": "/b/"},
        "basic_auth": {"client": "$2a$14$" + "a" * 53},
        "allow": ["203.0.113.7", "2001:db8::/48"],
        "noindex": True,
        "hsts": 0,
    }
    pillar = site("front", front)
    assert goldenpath.validate(pillar) == []
    # A hash opens no door at once; guessing begins with it.
    assert goldenpath.normalise(pillar)["goldenpath_secrets"] == ["$2a$14$" + "a" * 53]


@pytest.mark.parametrize(
    ("given", "served"),
    [
        ({"asgi": True}, "<project>.asgi:application"),
        ({"asgi": True, "wsgi": "config.asgi:app"}, "config.asgi:app"),
        ({}, "<project>.wsgi:application"),
    ],
)
def test_what_an_asgi_site_serves(given, served):
    pillar = copy.deepcopy(LEAST)
    pillar["sites"]["acme"].update(given)
    assert goldenpath.normalise(pillar)["sites"]["acme"]["wsgi"] == served


DOMAIN_FAULTS = [
    ("*.acme.example", "is a wildcard"),
    ("https://acme.example", "has a scheme"),
    ("acme.example:443", "has a port"),
    ("acme.example/x", "is not a host name"),
    ("acme.example.", "is not a host name"),
    ("-acme.example", "is not a host name"),
    ("acme-.example", "is not a host name"),
    ("acme_shop.example", "is not a host name"),
    ("acme..example", "is not a host name"),
    ("acme.example\n", "is not a host name"),
    ("a" * 64 + ".example", "is not a host name"),
    (".".join(["abcdefghi"] * 26), "is not a host name"),
    ("", "is not a host name"),
    ("192.0.2.1", "is an address"),
    ("2001:db8::1", "is an address"),
    ("[::1]", "is an address"),
    ("bücher.example", "xn--bcher-kva.example"),
    ("localhost", "has no dot"),
    (True, "must be text"),
]


@pytest.mark.parametrize(("domain", "part"), DOMAIN_FAULTS)
def test_domain_fault(domain, part):
    assert part in sentence(site("domains", ["acme.example", domain]), "sites:acme:domains:1")


def test_one_label_is_a_name_inside_a_network():
    pillar = site("domains", ["intranet"])
    pillar["sites"]["acme"]["tls"] = "internal"
    assert goldenpath.validate(pillar) == []


@pytest.mark.parametrize("package", ["redis-server-", "libMagic", "a", "-y", "a b", "a=1", "a/sid", "a_b", 7, "a\n"])
def test_package_fault(package):
    assert sentence(site("packages", ["git", package]), "sites:acme:packages:1")


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("repo", ["https://u:p@git.example/a?b=c", "git@git.example:a/b.git", "ssh://git@git.example:22/a"]),
        ("repo", ["git://git.example/a", "file:///srv/a", "/srv/git/a.git", "git.example:a"]),
        ("ref", ["v1", "release/2026.11", "1a2b3c4d", "feature-1", "a@b", "refs/tags/v1", "v" * 200, "größe"]),
        ("project", ["acme", "src.acme_kitchens", "_a1"]),
        ("domains", [["xn--bcher-kva.example"], ["a.b.c.example", "ACME.example"], ["1a.example"]]),
        ("packages", [["g++", "libstdc++6", "python3.11-venv", "libmagic1"]]),
        ("directory", [".", "src", "./src/", "a.b/c_d"]),
        ("requirements", ["requirements/production.txt", "./requirements.txt"]),
        ("health", ["/", "/health/", "/-/healthy?full=1"]),
        ("redis", [{"cache": 63, "broker": 62}]),
        ("workers", [1, 64]),
        ("celery", [{}, {"worker": True, "beat": True, "concurrency": 64}]),
        ("env", [{}, {"A": "", "b1": 1, "C": 0.5, "D": True, "PEM": "a\n\tb\n", "DATABASE_URL": "postgres:///x"}]),
        ("secrets", [{"DJANGO_SECRET_KEY": "x", "SENTRY_DSN": "https://k@s.example/1"}]),
    ],
)
def test_right_values(key, values):
    for value in values:
        assert goldenpath.validate(site(key, value)) == [], value


@pytest.mark.parametrize("key", ["domains", "repo", "ref", "project", "redis"])
def test_required_key(key):
    pillar = copy.deepcopy(LEAST)
    del pillar["sites"]["acme"][key]
    assert "is missing" in sentence(pillar, f"sites:acme:{key}")


@pytest.mark.parametrize("key", ["cache", "broker"])
def test_missing_database_says_that_redis_is_required(key):
    pillar = copy.deepcopy(LEAST)
    del pillar["sites"]["acme"]["redis"][key]
    assert f"{REQUIRED} by every site" in sentence(pillar, f"sites:acme:redis:{key}")


def test_missing_redis_names_free_databases():
    pillar = two_sites()
    del pillar["sites"]["beta"]["redis"]
    text = sentence(pillar, "sites:beta:redis")
    assert f"{REQUIRED} by every site" in text
    assert "{cache: 2, broker: 3}" in text


@pytest.mark.parametrize("value", [False, None, True, "off", "no", 0, [], ["maxmemory"]])
def test_host_without_redis(value):
    text = sentence({**LEAST, "redis": value}, "redis")
    assert f"{REQUIRED} on every host" in text


@pytest.mark.parametrize("key", ["enabled", "install", "installed", "optional", "required", "state", "redis", True])
@pytest.mark.parametrize("value", [False, "no", None, True])
def test_no_key_turns_redis_off(key, value):
    path = "redis:true" if key is True else f"redis:{key}"
    assert f"{REQUIRED} on every host" in sentence({**LEAST, "redis": {key: value}}, path)


@pytest.mark.parametrize("key", ["redis_enabled", "no-redis", "use_redis", "redis_optional"])
def test_no_key_beside_redis_turns_it_off(key):
    assert f"{REQUIRED} on every host" in sentence({**LEAST, key: False}, key)


@pytest.mark.parametrize(
    "value", ["256", "256m", "15mb", "0mb", "-1gb", "1.5gb", "256 mb", "256mb\n", "50%", 256, None]
)
def test_memory_fault(value):
    assert "256mb" in sentence({**LEAST, "redis": {"maxmemory": value}}, "redis:maxmemory")


@pytest.mark.parametrize("value", ["16mb", "256MB", "1gb"])
def test_memory(value):
    pillar = {**LEAST, "redis": {"maxmemory": value}}
    assert goldenpath.validate(pillar) == []
    assert goldenpath.normalise(pillar)["redis"]["maxmemory"] == value.lower()


@pytest.mark.parametrize(
    ("path", "part"),
    [
        (("site",), "did you mean sites"),
        (("Sites",), "did you mean sites"),
        (("sites", "acme", "domain"), "did you mean domains"),
        (("sites", "acme", "requirement"), "did you mean requirements"),
        (("sites", "acme", "redis", "brokers"), "did you mean broker"),
        (("sites", "acme", "beat"), "did you mean sites:<slug>:celery:beat"),
        (("sites", "acme", "worker"), "did you mean workers or sites:<slug>:celery:worker"),
        (("cache",), "did you mean sites:<slug>:redis:cache"),
        (("redis", "maxmemori"), "did you mean maxmemory"),
        (("sites", "acme", "colour"), "pillar/hosts/example.sls"),
        (("sites", "acme", 7), "is not a key of a site"),
    ],
)
def test_unknown_key(path, part):
    text = sentence(changed(path, CANARY), ":".join(map(str, path)))
    assert "is not a key of" in text
    assert part in text
    assert CANARY not in text


@pytest.mark.parametrize(
    "slug", ["Acme", "acme_kitchens", "1acme", "-acme", "acme-", "ac--me", "ac.me", "ac/me", "", "acmé", "a" * 29]
)
def test_slug_fault(slug):
    pillar = {"sites": {slug: LEAST["sites"]["acme"]}}
    (text,) = goldenpath.validate(pillar)
    assert text.startswith(f"sites:{slug or repr(slug)}: is not a slug")


@pytest.mark.parametrize(("slug", "shown"), [(True, "true"), (12, "12"), (None, "empty")])
def test_slug_that_yaml_reads_as_something_else(slug, shown):
    (text,) = goldenpath.validate({"sites": {slug: LEAST["sites"]["acme"]}})
    assert text.startswith(f"sites:{shown}: must be text")
    assert "in quotes" in text


@pytest.mark.parametrize("slug", ["a", "redis", "a1-b2-c3", "a" * 28])
def test_slug(slug):
    assert goldenpath.validate({"sites": {slug: LEAST["sites"]["acme"]}}) == []


@pytest.mark.parametrize("value", [None, [], "acme", False])
def test_sites_of_a_wrong_type(value):
    assert "sites: {}" in sentence({"redis": {}, "sites": value}, "sites")


def two_sites(**beta):
    second = {**LEAST["sites"]["acme"], "domains": ["beta.example"], "redis": {"cache": 2, "broker": 3}, **beta}
    return {"sites": {"beta": second, **copy.deepcopy(LEAST["sites"])}}


def test_two_sites():
    assert goldenpath.validate(two_sites()) == []


@pytest.mark.parametrize("domains", [["ACME.example"], ["beta.example", "acme.example"]])
def test_domain_of_another_site(domains):
    text = sentence(two_sites(domains=domains), f"sites:beta:domains:{len(domains) - 1}")
    assert "already at sites:acme:domains:0" in text


def test_domain_twice_in_a_site():
    text = sentence(two_sites(domains=["beta.example", "b.example", "Beta.example"]), "sites:beta:domains:2")
    assert "already at sites:beta:domains:0" in text


def test_www_is_another_domain():
    assert goldenpath.validate(two_sites(domains=["www.acme.example", "beta.example"])) == []


@pytest.mark.parametrize(
    ("redis", "key", "owner"),
    [
        ({"cache": 0, "broker": 3}, "cache", "acme:redis:cache"),
        ({"cache": 2, "broker": 0}, "broker", "acme:redis:cache"),
        ({"cache": 1, "broker": 2}, "cache", "acme:redis:broker"),
    ],
)
def test_database_of_another_site(redis, key, owner):
    text = sentence(two_sites(redis=redis), f"sites:beta:redis:{key}")
    assert f"which sites:{owner} has" in text
    assert re.search(r"such as [23]\b", text) or "such as 4" in text


def test_cache_and_broker_in_one_database():
    text = sentence(two_sites(redis={"cache": 5, "broker": 5}), "sites:beta:redis:broker")
    assert "delete Celery's queue" in text
    assert "such as 2." in text


def test_variable_in_env_and_secrets():
    pillar = site("env", {"EMAIL_HOST": "a"})
    pillar["sites"]["acme"]["secrets"] = {"EMAIL_HOST": "b"}
    assert "among the secrets as well" in sentence(pillar, "sites:acme:env:EMAIL_HOST")


@pytest.mark.parametrize(
    ("kind", "block", "key", "part"),
    [
        ("processes", {}, "command", "is missing"),
        ("processes", {"command": "x", "stop": 0}, "stop", "must be between 1 and 3600"),
        ("processes", {"command": "a | b"}, "command", "is a line of shell"),
        ("schedules", {"command": "x"}, "at", "is missing"),
        ("schedules", {"command": "x", "at": "every; day"}, "at", "is no calendar"),
        ("schedules", {"command": "x", "at": "daily", "limit": "1h"}, "limit", "whole number"),
    ],
)
def test_fault_in_a_process(kind, block, key, part):
    assert part in sentence(site(kind, {"rq": block}), f"sites:acme:{kind}:rq:{key}")


def test_a_process_and_a_schedule_have_two_names():
    pillar = site("processes", {"rq": {"command": "x"}})
    pillar["sites"]["acme"]["schedules"] = {"rq": {"command": "x", "at": "daily"}}
    assert "is among the processes as well" in sentence(pillar, "sites:acme:schedules:rq")


def test_a_name_of_the_sites_has_one_value():
    pillar = site("env", {"DB": "x"})
    pillar["sites"]["acme"]["env_names"] = {"DB": "DJANGO_DB_NAME"}
    assert "has a value in env or secrets as well" in sentence(pillar, "sites:acme:env_names:DB")


@pytest.mark.parametrize("name", goldenpath.cross.formats.USUAL[1:])
def test_a_usual_name_can_be_left_out(name):
    assert goldenpath.validate(site("env", {name: None})) == []
    assert goldenpath.normalise(site("env", {name: None}))["sites"]["acme"]["env"] == {name: None}


def test_host_without_sites():
    assert goldenpath.validate({"redis": {}, "sites": {}}) == []
    assert goldenpath.validate({"redis": {}}) == []
    assert goldenpath.normalise({"redis": {}}) == {
        "redis": {}, "sites": {}, "backup": BACKUP, "alerts": {"format": "json"}, "operators": {},
        "goldenpath_secrets": [],
    }  # fmt: skip
    assert "write `redis: {}` beside it" in sentence({"sites": {}}, "sites")


# --- backups and alerts

BACKUP_FAULTS = [
    # key, value, a part of the sentence
    ("backup:repository", "", "is empty or has a space"),
    ("backup:repository", "relative/path", "is no place that restic knows"),
    ("backup:repository", "sftp:-oProxyCommand=id:/a", "is no place that restic knows"),
    ("backup:repository", "/srv/sum/acme/media", "is a place for other things"),
    ("backup:repository", "/var/../etc", "is a place for other things"),
    ("backup:repository", None, "is empty"),
    ("backup:password", "short", "is too short"),
    ("backup:password", 123456789012345, "must be text, but YAML reads it as something else"),
    ("backup:ssh_key", "ssh-ed25519 AAAA", "is no private key"),
    ("backup:env:RESTIC_PASSWORD", "x", "is set by Golden Path itself"),
    ("backup:env:aws key", "x", "is not a name for an environment variable"),
    ("backup:keep:daily", 0, "must be between 1 and 366, not 0"),
    ("backup:schedule:backup", "hourly; rm -rf /", "is no calendar of systemd"),
    ("backup:schedule:backup", "daily\nExecStart=/bin/sh", "is no calendar of systemd"),
    ("backup:every", "5m", "is not between 15m and 12h"),
    ("backup:every", "13h", "is not between 15m and 12h"),
    ("backup:every", "1h\nExecStart=/bin/sh", "is not between 15m and 12h"),
    ("backup:every", 60, "must be text"),
    ("backup:warn_after:drill", "9 days", "must be a whole number"),
    ("backup:heartbeat:backup", "ftp://example", "is not the address of a web server"),
    ("backup:heartbeat:hourly", "https://a.example", "is not a key of heartbeat"),
    ("backup:enabled", False, "is not a key of backup"),
    ("alerts:webhook", "hooks.example", "is not the address of a web server"),
    ("alerts:mail", "-oQ/tmp/x", "is not a mail address"),
]


@pytest.mark.parametrize(("key", "value", "part"), BACKUP_FAULTS)
def test_backup_faults(key, value, part):
    assert part in sentence(changed(key.split(":"), value), key)


def test_a_refusal_comes_after_the_warning():
    pillar = changed(["backup", "refuse_after", "backup"], 24)
    assert "is 24 hours, and the warning comes after 36 only" in sentence(pillar, "backup:refuse_after:backup")
    assert goldenpath.validate(changed(["backup", "refuse_after", "backup"], 37)) == []


def test_sftp_keys_need_an_sftp_repository():
    pillar = changed(["backup", "known_hosts"], "vault.example ssh-ed25519 AAAA")
    assert "is for an sftp repository" in sentence(pillar, "backup:known_hosts")
    pillar["backup"]["repository"] = "sftp:backup@vault.example:/srv/restic"
    assert goldenpath.validate(pillar) == []


@pytest.mark.parametrize(
    "repository",
    ["/backup/restic", "sftp:b@vault.example:/a", "sftp://b@vault.example:2222//a", "s3:s3.example/bucket/a",
     "rest:https://vault.example:8000/", "b2:bucket:a"],
)  # fmt: skip
def test_repositories_that_restic_knows(repository):
    assert goldenpath.validate(changed(["backup", "repository"], repository)) == []


@pytest.mark.parametrize(
    "path",
    [["backup", "password"], ["backup", "ssh_key"], ["backup", "env", "A"], ["backup", "heartbeat", "drill"],
     ["alerts", "webhook"]],
)  # fmt: skip
@pytest.mark.parametrize("value", [CANARY + "\x00" + "x" * 20, 73570128537051, ["73570128537051"], {"A": CANARY}])
def test_no_sentence_tells_a_secret_of_the_backups(path, value):
    told = " ".join(goldenpath.validate(changed(path, value)))
    assert told and CANARY not in told and "73570128537051" not in told


# --- all of it, at once, in one order


ALL_WRONG = """
maxmemory: 256mb
redis: {enabled: false}
sites:
  Beta: {colour: red}
  acme:
    domains: [acme.example, acme.example, "https://x.example"]
    repo: ext::id
    ref: 1.10
    project: acme-kitchens
    redis: {cache: 3}
    celery: {beat: true}
    workers: 0
    secrets: {PATH: x}
"""


def test_all_faults_at_once_in_one_order():
    errors = goldenpath.validate(yaml.safe_load(ALL_WRONG))
    assert [error.split(": ")[0] for error in errors] == [
        "maxmemory",
        "redis:enabled",
        "sites:Beta",
        "sites:Beta:colour",
        "sites:Beta:domains",
        "sites:Beta:project",
        "sites:Beta:redis",
        "sites:Beta:ref",
        "sites:Beta:repo",
        "sites:acme:celery:beat",
        "sites:acme:domains:1",
        "sites:acme:domains:2",
        "sites:acme:project",
        "sites:acme:redis:broker",
        "sites:acme:ref",
        "sites:acme:repo",
        "sites:acme:secrets:PATH",
        "sites:acme:workers",
    ]


def test_order_does_not_depend_on_the_file():
    pillar = yaml.safe_load(ALL_WRONG)
    turned = {key: pillar[key] for key in reversed(pillar)}
    turned["sites"] = {slug: turned["sites"][slug] for slug in reversed(turned["sites"])}
    assert goldenpath.validate(turned) == goldenpath.validate(pillar)


def faulty_pillars():
    yield yaml.safe_load(ALL_WRONG)
    yield from (site(key, value) for key, value, _ in SITE_FAULTS)
    yield from (site("domains", ["acme.example", domain]) for domain, _ in DOMAIN_FAULTS)
    yield {"redis": {"enabled\nfoo": False}, "sites": {"a\nb": {}}}


def test_every_fault_is_one_plain_sentence():
    for pillar in faulty_pillars():
        errors = goldenpath.validate(pillar)
        assert errors
        for error in errors:
            assert re.fullmatch(r"[^\n]+: [^\n]+; [^\n]+\.|[^\n]+: is not a key.*\.", error), error
            assert error.isprintable(), error
            assert not re.search(r"\brequired property|is not of type|does not match|\bNone\b|<class", error), error


def test_long_value_is_cut():
    assert len(sentence(site("ref", "v" + "1" * 5000), "sites:acme:ref")) < 250


# --- secrets


PRIVATE = [
    CANARY,
    f"TOKEN={CANARY}",
    [CANARY],
    {"TOKEN": [CANARY]},
    {"TOKEN": {CANARY: CANARY}},
    {"TOKEN": f"{CANARY}\0"},
    {"TOKEN": CANARY * 9000},
    {"DJANGO_DB_PASSWORD": CANARY},
    {"bad-name": CANARY},
]
PRIVATE_NAMES = [{CANARY: None}, {CANARY: "x"}, {f"TOKEN={CANARY}": None}, {CANARY.replace("-", "_"): None}]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        *[(kind, value) for kind in ("env", "secrets") for value in PRIVATE],
        *[("secrets", value) for value in PRIVATE_NAMES],
    ],
)
def test_secret_is_never_told(kind, value):
    errors = goldenpath.validate(site(kind, value))
    assert errors
    assert not any("canary" in error for error in errors)


def test_secret_at_a_wrong_indent_is_never_told():
    for path in (("TOKEN",), ("secrets",), ("redis", "TOKEN"), ("sites", "TOKEN"), ("sites", "acme", "TOKEN")):
        for value in (CANARY, {"A": CANARY}, [CANARY]):
            errors = goldenpath.validate(changed(path, value))
            assert errors
            assert not any(CANARY in error for error in errors), errors


@pytest.mark.parametrize(
    "repo",
    [
        f"https://user:{CANARY}@git.example/a b",
        f"https://{CANARY}@git.example/a b",
        f"https://user:p@{CANARY}/x@git.example/a b",
        f"https:/user:{CANARY}@git.example/a b",
        f"user:{CANARY}@git.example a",
        f"ext::https://user:{CANARY}@git.example",
        f"https://git.example/a b?private_token={CANARY}",
        f"gopher://u:{CANARY}@git.example/a",
    ],
)
def test_credentials_of_a_url_are_never_told(repo):
    for key in ("repo", "ref", "project", "health", "directory", "tls", "workers"):
        text = sentence(site(key, repo), f"sites:acme:{key}")
        assert CANARY not in text, text


@pytest.mark.parametrize(
    ("key", "value", "secrets"),
    [
        ("sites:acme:secrets", {"A": CANARY, "N": 7357012}, [CANARY, "7357012"]),
        ("sites:acme:env", {"EMAIL_HOST": "smtp.example"}, []),
        ("sites:acme:repo", f"https://user:{CANARY}@git.example/a.git", [CANARY]),
        ("sites:acme:repo", f"https://{CANARY}@git.example/a.git", [CANARY]),
        ("sites:acme:repo", f"https://user:{CANARY}%2Fx@git.example/a.git", [f"{CANARY}%2Fx", f"{CANARY}/x"]),
        ("sites:acme:repo", f"https://git.example/a.git?private_token={CANARY}&x=", [CANARY]),
        ("sites:acme:repo", "ssh://git@git.example/a.git", []),
        ("sites:acme:repo", "git@git.example:a.git", []),
        ("sites:acme:repo", "/srv/git/acme.git", []),
        ("backup:repository", f"rest:https://user:{CANARY}@vault.example:8000/", [CANARY]),
        ("backup:repository", "sftp:backup@vault.example:/srv/restic", []),
        ("backup:password", CANARY, [CANARY]),
        ("backup:ssh_key", f"-----BEGIN KEY-----\n{CANARY}\n", [f"-----BEGIN KEY-----\n{CANARY}\n"]),
        ("backup:known_hosts", "vault.example ssh-ed25519 AAAA", []),
        ("backup:env", {"AWS_SECRET_ACCESS_KEY": CANARY}, [CANARY]),
        ("backup:heartbeat:drill", f"https://beat.example/{CANARY}", [f"https://beat.example/{CANARY}"]),
        ("alerts:webhook", f"https://hooks.example/{CANARY}", [f"https://hooks.example/{CANARY}"]),
        ("alerts:mail", "ops@acme.example", []),
    ],
)
def test_what_nobody_may_read(key, value, secrets):
    pillar = changed(key.split(":"), value)
    assert goldenpath.secrets_of(pillar) == sorted(secrets)
    assert goldenpath.normalise(pillar)["goldenpath_secrets"] == sorted(secrets)


def test_names_that_the_schema_knows_are_told(with_one_more):
    module = with_one_more(MORE[-1][0], "host")
    (error,) = module.validate(changed(["license_key", "a"], CANARY))
    assert error.startswith("license_key:a: must be a whole number, not text; ")


def test_no_command_line_shortens_the_list_of_secrets():
    pillar = {**site("secrets", {"A": CANARY}), "goldenpath_secrets": []}
    assert goldenpath.validate(pillar) == []
    assert goldenpath.normalise(pillar)["goldenpath_secrets"] == [CANARY]


# What a schema may say of one more secret, and values that are wrong for it.
NUMBER = 735701285
MORE = [
    ("{type: string, format: secret-text}", [f"{CANARY}\0", NUMBER, [CANARY], {"A": CANARY}]),
    ("{type: string, format: git-ref}", [f"{CANARY} x"]),
    ("{type: string, format: web-address}", [f"ftp://{CANARY}"]),
    ("{type: integer, minimum: 0, maximum: 9}", [NUMBER, CANARY, -NUMBER, 0.5 + NUMBER, yaml.safe_load("2026-11-23")]),
    ("{type: boolean}", [CANARY, NUMBER]),
    ("{enum: [one, two]}", [CANARY, NUMBER, [CANARY]]),
    ("{type: array, minItems: 1, items: {type: string, format: domain, hint: h}}", [[CANARY + "_"], [NUMBER], CANARY]),
    ("{type: object, additionalProperties: {type: string, format: variable-value, hint: h}}",
     [{"A": NUMBER}, {"A": f"{CANARY}\0"}, {"A": [CANARY]}, {CANARY: 7}, CANARY]),
    ("{type: object, title: t, additionalProperties: false, properties: {a: {type: integer, hint: h}}}",
     [{"a": CANARY}, {"a": {"b": CANARY}}, CANARY]),
]  # fmt: skip


@pytest.fixture
def with_one_more(tmp_path, monkeypatch):
    """The module by a copy of the schema that has one more secret, below a site or beside the sites."""

    def with_one_more(schema, owner):
        text = (ROOT / "pillar/schema.yaml").read_text(encoding="utf-8")
        known = yaml.safe_load(text)
        more = {**yaml.safe_load(schema), "description": "New.", "hint": "write it", "secret": True}
        place = known["properties"]["sites"]["additionalProperties"] if owner == "site" else known
        place["properties"]["license_key"] = more
        (tmp_path / "schema.yaml").write_text(yaml.safe_dump(known), encoding="utf-8")
        monkeypatch.setattr(goldenpath.keys, "SCHEMA", tmp_path / "schema.yaml")
        forget()
        return goldenpath

    def forget():
        for each in (goldenpath.keys.load, goldenpath.keys.validator, goldenpath.keys.places):
            each.cache_clear()

    yield with_one_more
    monkeypatch.undo()
    forget()


@pytest.mark.parametrize("owner", ["site", "host"])
@pytest.mark.parametrize(("schema", "wrong"), MORE)
def test_a_new_secret_is_never_told(with_one_more, schema, wrong, owner):
    """No list has to be edited for it: the schema's word is enough."""
    module = with_one_more(schema, owner)
    for value in wrong:
        errors = module.validate(site("license_key", value) if owner == "site" else changed(["license_key"], value))
        assert len(errors) == 1, value
        for part in ("canary", str(NUMBER), "2026", "_x"):
            assert part not in errors[0], errors


@pytest.mark.parametrize("owner", ["site", "host"])
@pytest.mark.parametrize(
    ("schema", "value", "secrets"),
    [
        ("{type: string}", CANARY, [CANARY]),
        ("{type: integer}", NUMBER, [str(NUMBER)]),
        ("{type: array, items: {type: string}}", [CANARY, "b" * 9], ["b" * 9, CANARY]),
        ("{type: object, additionalProperties: {type: string}}", {"A": CANARY}, [CANARY]),
    ],
)
def test_a_new_secret_is_in_the_list(with_one_more, schema, value, secrets, owner):
    module = with_one_more(schema, owner)
    pillar = site("license_key", value) if owner == "site" else changed(["license_key"], value)
    assert module.validate(pillar) == []
    assert module.secrets_of(pillar) == module.normalise(pillar)["goldenpath_secrets"] == secrets


def test_log_stays_empty(caplog):
    with caplog.at_level(0):
        for pillar in faulty_pillars():
            goldenpath.ext_pillar("web1", pillar)
        goldenpath.ext_pillar("web1", LEAST)
    assert not caplog.records


# --- defaults


def test_defaults():
    assert goldenpath.normalise(LEAST) == {
        "redis": {},
        "sites": {
            "acme": {
                **LEAST["sites"]["acme"],
                "redis": {"cache": 0, "broker": 1, "own": False},
                "settings": "acme_kitchens.settings.production",
                "workers": 3,
                "celery": {"worker": False, "beat": False, "concurrency": 2},
                "directory": ".",
                "requirements": "auto",
                "dependencies": {"groups": [], "extras": [], "add": []},
                "python": "auto",
                "wsgi": "<project>.wsgi:application",
                "asgi": False,
                "drain": 10,
                "media": "public",
                "front": {
                    "canonical": False,
                    "redirects": {},
                    "basic_auth": {},
                    "allow": [],
                    "proxies": [],
                    "noindex": False,
                    "hsts": 31536000,
                },
                "build": [],
                "release": [],
                "processes": {},
                "schedules": {},
                "migrations": "refuse",
                "packages": [],
                "max_body": "100mb",
                "limits": {"memory": 75, "tasks": 1024, "statement_timeout": 300},
                "postgres": {"extensions": []},
                "health": "/health/",
                "tls": "acme",
                "env": {},
                "env_names": {},
                "secrets": {},
            }
        },
        "backup": BACKUP,
        "alerts": {"format": "json"},
        "operators": {},
        "goldenpath_secrets": [],
    }


@pytest.mark.parametrize(("number", "share"), [(1, 75), (2, 50), (3, 40), (6, 40)])
def test_memory_is_shared_among_a_hosts_sites(number, share):
    pillar = {"redis": {}, "sites": {}}
    for at in range(number):
        site = {
            **LEAST["sites"]["acme"],
            "domains": [f"s{at}.example"],
            "redis": {"cache": 2 * at, "broker": 2 * at + 1},
        }
        pillar["sites"][f"s{at}"] = site
    sites = goldenpath.normalise(pillar)["sites"]
    assert {site["limits"]["memory"] for site in sites.values()} == {share}
    pillar["sites"]["s0"]["limits"] = {"memory": 20}
    assert goldenpath.normalise(pillar)["sites"]["s0"]["limits"]["memory"] == 20


def test_strangers_share_no_redis():
    sites = goldenpath.normalise(two_sites())["sites"].values()
    assert [site["redis"]["own"] for site in sites] == [True, True]
    assert goldenpath.normalise(site("redis", {"cache": 0, "broker": 1, "own": True}))["sites"]["acme"]["redis"]["own"]
    shared = two_sites(redis={"cache": 2, "broker": 3, "own": False})
    assert "each has a Redis of its own; leave it out" in sentence(shared, "sites:beta:redis:own")


def test_defaults_are_not_shared():
    first, second = goldenpath.normalise(two_sites())["sites"].values()
    first["packages"].append("x")
    first["env"]["A"] = "x"
    assert second["packages"] == []
    assert goldenpath.normalise(LEAST)["sites"]["acme"]["env"] == {}


def test_normal_forms():
    pillar = site("domains", ["WWW.Acme.example"])
    pillar["sites"]["acme"].update(
        directory="./src/",
        requirements="./requirements//prod.txt",
        celery={"worker": True},
        env={"A": True, "B": 7, "C": 0.5, "D": "x\n"},
        secrets={"E": False},
    )
    got = goldenpath.normalise(pillar)["sites"]["acme"]
    assert got["domains"] == ["www.acme.example"]
    assert (got["directory"], got["requirements"]) == ("src", "requirements/prod.txt")
    assert got["celery"] == {"worker": True, "beat": False, "concurrency": 2}
    assert got["env"] == {"A": "true", "B": "7", "C": "0.5", "D": "x\n"}
    assert got["secrets"] == {"E": "false"}


def test_a_normalised_pillar_is_valid_and_stays_as_it_is():
    once = goldenpath.normalise(two_sites(settings="beta.settings"))
    assert goldenpath.validate(once) == []
    assert goldenpath.normalise(once) == once


# --- the schema and the example


def keys_of(schema, path=()):
    for name, inner in schema.get("properties", {}).items():
        yield (*path, name), inner, name in schema.get("required", [])
        yield from keys_of(inner, (*path, name))
    if isinstance(schema.get("additionalProperties"), dict):
        yield from keys_of(schema["additionalProperties"], (*path, "*"))


def marks_below(schema):
    """What the schema says of who may read this key and those below it."""
    inner = [*schema.get("properties", {}).values(), schema.get("additionalProperties"), schema.get("items")]
    below = [mark for each in inner if isinstance(each, dict) for mark in marks_below(each)]
    return [schema["secret"], *below] if "secret" in schema else below


def test_schema_is_a_schema():
    jsonschema.Draft202012Validator.check_schema(goldenpath.keys.load())


def test_every_key_has_a_description_a_hint_and_a_default_or_is_required():
    for path, schema, required in keys_of(goldenpath.keys.load()):
        assert schema["description"], path
        # A description that speaks of a secret has the mark that makes it one.
        if re.search(r"\bsecrets?\b|nobody may read", schema["description"], re.IGNORECASE):
            assert True in marks_below(schema), path
        assert schema["hint"], path
        assert ("default" in schema) != (required or path in WITHOUT_DEFAULT), path


def test_every_format_of_the_schema_is_known():
    text = (ROOT / "pillar/schema.yaml").read_text(encoding="utf-8")
    assert set(re.findall(r"format: ([a-z-]+)", text)) == set(goldenpath.cross.formats.FORMATS)


def test_databases_are_as_many_as_the_schema_says():
    for name in ("cache", "broker"):
        schema = goldenpath.keys.load()["properties"]["sites"]["additionalProperties"]["properties"]["redis"]
        assert schema["properties"][name]["maximum"] == goldenpath.cross.sites.DATABASES - 1


def example():
    return yaml.safe_load((ROOT / "pillar/hosts/example.sls").read_text(encoding="utf-8"))


def test_example_is_valid():
    assert goldenpath.validate(example()) == []


SECRETS_OF_ONES_OWN = (("backup", "password"), ("alerts", "smtp", "password"))


def test_example_has_every_key_and_shows_the_defaults():
    pillar = example()
    assert len(pillar["sites"]) == 1
    for path, schema, _ in keys_of(goldenpath.keys.load()):
        if path in (("backup", "ssh_key"), ("backup", "known_hosts"), ("backup", "every"), *SECRETS_OF_ONES_OWN):
            # For sftp alone, and the default is none; or what nobody may copy.
            assert f"# {path[-1]}: " in (ROOT / "pillar/hosts/example.sls").read_text(encoding="utf-8")
            continue
        if path.count("*") > 1:
            # As the site of a stranger has none of it, it stands in a comment.
            assert re.search(rf"# .*\b{path[-1]}: ", (ROOT / "pillar/hosts/example.sls").read_text(encoding="utf-8")), (
                path
            )
            continue
        value = functools.reduce(
            lambda owner, part: next(iter(owner.values())) if part == "*" else owner[part], path, pillar
        )
        if "default" in schema and not isinstance(schema["default"], (dict, list)):
            shown = schema["default"] if path[-1] != "settings" else "acme_kitchens.settings.production"
            assert value == shown, path


# --- ext_pillar without Salt


def test_ext_pillar_gives_the_normal_form():
    assert goldenpath.ext_pillar("web1", LEAST) == goldenpath.normalise(LEAST)


def test_ext_pillar_gives_all_errors():
    pillar = yaml.safe_load(ALL_WRONG)
    assert goldenpath.ext_pillar("web1", pillar) == {"_errors": goldenpath.validate(pillar)}


@pytest.mark.parametrize("pillar", [{}, {"_errors": ["old"]}, {"goldenpath_deploy": {"ref": "v1"}}])
@pytest.mark.parametrize(("host", "name"), [("web1", "web1"), ("web1.acme.example", "web1_acme_example")])
def test_host_without_pillar(host, name, pillar):
    (text,) = goldenpath.ext_pillar(host, pillar)["_errors"]
    assert text == (
        f"{host} has no pillar: pillar/hosts/{name}.sls is missing or empty;"
        f" create pillar/hosts/{name}.sls (start from pillar/hosts/example.sls)."
    )


@pytest.mark.parametrize("host", ["web_1", "../web1", "web1/x", "*", "{{ 1 }}", "web1\n", ".web1", "-web1", ""])
def test_id_that_is_no_file_name(host):
    (text,) = goldenpath.ext_pillar(host, LEAST)["_errors"]
    assert "cannot be a host's id" in text
    assert "\n" not in text


def test_controller_is_left_alone():
    assert goldenpath.ext_pillar("ops_master", {"target": "web*", "ref": "v2"}) == {}


@pytest.mark.parametrize(
    ("opts", "exempt"),
    [
        ({"__role": "master", "id": "ops"}, True),
        ({"__role": "master", "id": "other"}, False),
        ({"__role": "minion", "id": "ops"}, False),
        # salt-ssh compiles with the host's options around the controller's
        ({"__role": "master", "id": "ops", "__master_opts__": {"__role": "master", "id": "control"}}, False),
    ],
)
def test_controller_with_an_id_of_its_own(monkeypatch, opts, exempt):
    monkeypatch.setattr(goldenpath, "__opts__", opts, raising=False)
    assert (goldenpath.ext_pillar("ops", {"target": "web*"}) == {}) is exempt


def test_deploy_key_is_not_judged_and_stays():
    deploy = {"ref": "v2", "anything": [1]}
    got = goldenpath.ext_pillar("web1", {**LEAST, "goldenpath_deploy": deploy})
    assert got == {**goldenpath.normalise(LEAST), "goldenpath_deploy": deploy}


def test_errors_of_an_earlier_compilation_are_not_judged():
    assert "_errors" not in goldenpath.ext_pillar("web1", {**LEAST, "_errors": ["old"]})


def test_without_jsonschema_nothing_passes(monkeypatch):
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    goldenpath.keys.validator.cache_clear()
    (text,) = goldenpath.ext_pillar("web1", LEAST)["_errors"]
    assert "lacks the package jsonschema" in text
