"""What no file of the repository may hold, and how it may not speak of Redis."""

import pathlib
import re

import pytest

from tests.conftest import ROOT
from tests.lint.repository import files, lines, sentences, text

ALL = files()

# Written so that they do not find themselves: `py[p]i`, and a · in the samples below.
PLACES = re.compile(r"(?<![\w.}*:/-])/(?:work|workspace|builds?|Users|mnt|nix)/[\w.]|[C]:\\Users")
REGISTRIES = re.compile(
    r"py[p]i|python[h]osted|(?:deb|security|snapshot|archive|ports)\.(?:debian|ubuntu)|cloud[s]mith"
    r"|arti[f]actory|artifacts?\.|j[f]rog|npm[j]s|docker\.io|ghcr\.io|quay\.io|repo\.saltproject"
    r"|packages\.broadcom|proxy\.golang|crates\.io|\bmirrors?\.(?!example\b)[a-z]|\bnexu[s]\b|\bregistry\.[a-z]"
    r"|launch[p]ad",
    re.IGNORECASE,
)
SECRETS = re.compile(
    r"-----BEGIN [A-Z ]*[P]RIVATE KEY-----\s*\n?[A-Za-z0-9+/]{32}|\bAKIA[0-9A-Z]{16}\b|\bgh[opsu]_[A-Za-z0-9]{30,}"
    r"|\bglpat-[\w-]{20,}|\bxox[abps]-[\w-]{10,}|\bsk-[A-Za-z0-9]{32,}"
    # An address with a password, but for those of examples.
    r"|[a-z]+://[^\s/:@'\"{}]+:(?!\{)[^\s/@'\"]+@(?!\{|[\w.-]*\.?(?:example|invalid|test|localhost|127\.0\.0\.1))"
)

PATTERNS = {"places": PLACES, "registries": REGISTRIES, "secrets": SECRETS}


def found(pattern, names):
    return [
        f"{name}:{number}: {line.strip()}" for name in names for number, line in lines(name) if pattern.search(line)
    ]


def test_no_path_of_a_machine():
    assert found(PLACES, ALL) == []


def test_no_path_of_this_checkout():
    home = str(pathlib.Path.home())
    here = [str(ROOT)] + ([home + "/"] if home.startswith("/home/") else [])
    pattern = re.compile("|".join(rf"(?<![\w.-]){re.escape(each)}(?![\w-])" for each in here))
    assert found(pattern, ALL) == []


def test_no_registry_or_mirror():
    assert found(REGISTRIES, ALL) == []


def test_no_secret():
    assert found(SECRETS, ALL) == []
    assert [name for name in ALL if re.search(r"\.(pem|key|p12|pfx)$|(^|/)id_(rsa|ed25519)$|(^|/)\.env$", name)] == []


@pytest.mark.parametrize(
    ("pattern", "sample"),
    [
        ("places", "see /wo·rk/main/salt"),
        ("places", "path: /work·space/a"),
        ("places", "'/Us·ers/somebody/a'"),
        ("registries", "https://py·pi.org/simple"),
        ("registries", "from Py·PI"),
        ("registries", "http://deb.·debian.org/debian"),
        ("registries", "archive.·ubuntu.com"),
        ("registries", "https://files.python·hosted.org/x"),
        ("registries", "https://dl.cloud·smith.io/public/caddy"),
        ("registries", "https://arti·facts.example.com/a"),
        ("registries", "mir·ror.company.net/debian"),
        ("secrets", "-----BEGIN OPENSSH PRIVATE ·KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAE"),
        ("secrets", "AKIA·ABCDEFGHIJKLMNOP"),
        ("secrets", "ghp_·" + "a" * 36),
        ("secrets", "https·://me:hunter22@git.company.com/a.git"),
    ],
)
def test_patterns_find(pattern, sample):
    assert PATTERNS[pattern].search(sample.replace("·", ""))


@pytest.mark.parametrize(
    ("pattern", "sample"),
    [
        ("places", "/srv/sum/acme/media/a /home/admin/.goldenpath-thin network/ns a/work/b"),
        ("registries", "a bare mirror. The mirror of the site; the index-url option; Debian 12"),
        ("secrets", "https://user:password@git.example/acme.git and https://{user}:{word}@{host}/a"),
        ("secrets", "-----BEGIN OPENSSH PRIVATE KEY-----"),
    ],
)
def test_patterns_pass_over(pattern, sample):
    assert not PATTERNS[pattern].search(sample)


# Redis is required on every host: no text may make it sound like a choice.

_NOT_A_CHOICE = re.compile(r"\b(never|not|nor|no longer|isn't|neither) (an? )?(optional|a choice)\b", re.IGNORECASE)
_CHOICE = re.compile(
    r"\boptional(ly)?\b|\bonly if\b"
    r"|\b(may|can|could) be (left out|skipped|omitted|disabled|(turned|switched) off)\b"
    r"|\b(if|when|where|in case|unless|whether) (you|one|they|it|a|an|the|your|this|that|our|sites?|projects?)\b"
    r"(?: \S+){0,3}? (uses?|using|needs?|wants?|has|have|enables?|enabled|installs?|choos\w+)\b"
    r"[^.,;]{0,40}?\bredis\b"
    r"|\bredis\b[^.,;]{0,40}\b(if|when|in case) (you|one|they|it|a|the|your|sites?|projects?)\b[^.]{0,20}?"
    r"\b(use|uses|want|wants|needs?) (it|redis|celery|caching|a cache|tasks)\b"
    r"|\b(disable|disabling|skip|skipping|turn off|switch off|opt out of) redis\b|\bredis is recommended\b"
    r"|\b(REDIS_ENABLED|USE_REDIS|ENABLE_REDIS|WITH_REDIS|REDIS_DISABLED|DISABLE_REDIS|NO_REDIS|redis_enabled)\b"
    r"|\bredis: ?\{? ?(enabled|disabled|present|install)\b",
    re.IGNORECASE,
)
_REDIS = re.compile(r"redis", re.IGNORECASE)
# What an operator, or the author of a site, reads. Tests name the wrong words to see them refused.
SPOKEN = [name for name in ALL if not name.startswith("tests/") and not name.endswith((".svg", ".css"))]


def as_a_choice(source, python=False):
    """The sentences that speak of Redis as of something that one may leave out."""
    return [
        each
        for each in sentences(source, python)
        if _REDIS.search(each) and _CHOICE.search(_NOT_A_CHOICE.sub("", each))
    ]


@pytest.mark.parametrize("name", SPOKEN)
def test_redis_is_no_choice(name):
    assert as_a_choice(text(name), name.endswith(".py")) == []


@pytest.mark.parametrize(
    "sample",
    [
        "Redis is optional.",
        "# Optional: the cache's Redis.",
        "Install Redis only if the site runs Celery.",
        "# If you use Redis, set\n# REDIS_URL here.",
        "REDIS_ENABLED=true",
        "USE_REDIS = env.bool('USE_REDIS')",
        "When a site needs Redis, give it two databases.",
        "Redis can be turned off in the pillar.",
        "Redis may be skipped.",
        "Disable Redis with this key.",
        "Redis is recommended for production.",
        "redis: {enabled: false}",
        "redis:\n  enabled: true",
        "Redis is installed if you need it.",
    ],
)
def test_a_choice_is_found(sample):
    assert as_a_choice(sample)


@pytest.mark.parametrize(
    "sample",
    [
        'def f():\n    """Redis is optional."""\n',
        'raise ValueError(f"{host}: redis may be omitted")\n',
        "# Optional,\n# as Redis is.\nx = 1\n",
    ],
)
def test_a_choice_is_found_in_python(sample):
    assert as_a_choice(sample, python=True)


@pytest.mark.parametrize(
    "sample",
    [
        "Redis is never optional.",
        "Redis is not optional: without it the site is unhealthy.",
        "Redis is required on every host and no key turns it off",
        "Celery is off unless asked for; Redis is there either way.",
        "Redis is required. Beat is optional.",
        "The cache is optional in Django.",
        "Ask whether Redis answers PONG.",
        "Redis on web1 did not answer PONG: connection refused. Try: systemctl status redis-server",
        "# Redis is the broker.\nWants=redis-server.service",
    ],
)
def test_what_is_no_choice_passes(sample):
    assert as_a_choice(sample) == []


def test_code_that_is_not_spoken_passes():
    assert as_a_choice("for optional, *argv in redis:\n    pass\n", python=True) == []
