"""The example site, as far as it can be judged without its packages: environment, pins, syntax, README."""

import ast
import re
import subprocess

import pytest

from tests.conftest import ROOT

SITE = ROOT / "examples/site"
SETTINGS = (SITE / "example_site/settings/production.py").read_text(encoding="utf-8")
DOCUMENTED = re.findall(r"^([A-Z_]+)=", (SITE / ".env.example").read_text(encoding="utf-8"), re.MULTILINE)
SOURCES = sorted(path for path in SITE.rglob("*.py") if "__pycache__" not in path.parts)


def variables(source):
    """The environment variables that a settings module asks for."""
    return {
        node.args[0].value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "env"
    }


def test_the_environment_is_documented():
    assert set(DOCUMENTED) == variables(SETTINGS) | {"DJANGO_SETTINGS_MODULE"}
    assert len(DOCUMENTED) == len(set(DOCUMENTED))


def test_a_variable_that_is_not_documented_is_seen():
    assert variables(SETTINGS + '\nX = int(env("NEW", "1"))\n') - set(DOCUMENTED) == {"NEW"}


def test_the_environment_is_read_in_one_place():
    readers = [path for path in SOURCES if re.search(r"os\.environ(?!\.setdefault)|getenv", path.read_text())]
    assert readers == [SITE / "example_site/settings/production.py"]


def test_every_variable_has_its_comment():
    """One above it, or above the group that it stands in."""
    for group in (SITE / ".env.example").read_text(encoding="utf-8").split("\n\n")[1:]:
        assert group.startswith("# "), group


def test_cache_and_broker_have_databases_of_their_own():
    urls = dict(re.findall(r"^(\w+)=(redis://\S+)$", (SITE / ".env.example").read_text(), re.MULTILINE))
    assert urls.keys() == {"REDIS_URL", "CELERY_BROKER_URL", "CELERY_RESULT_BACKEND"}
    assert urls["REDIS_URL"] not in (urls["CELERY_BROKER_URL"], urls["CELERY_RESULT_BACKEND"])


def test_migrations_keep_their_lock_timeout():
    """libpq lets the connection's own options win over PGOPTIONS, which the deploy sets."""
    database = next(
        node.value
        for node in ast.parse(SETTINGS).body
        if isinstance(node, ast.Assign) and node.targets[0].id == "DATABASES"
    )
    keys = {key.value for node in ast.walk(database) if isinstance(node, ast.Dict) for key in node.keys}
    assert "connect_timeout" in keys
    assert "options" not in keys


@pytest.mark.parametrize("name", ["celery", "django", "gunicorn", "psycopg", "redis"])
def test_what_the_site_stands_on_is_named(name):
    lines = (SITE / "requirements.txt").read_text(encoding="utf-8").lower().splitlines()
    assert [line for line in lines if re.match(rf"{name}(\[\w+\])?==[0-9]", line)]


def test_celery_works_with_redis_of_every_host():
    """kombu 5.7 needs Redis 6.2; Ubuntu 22.04 has 6.0."""
    lines = (SITE / "requirements.txt").read_text(encoding="utf-8")
    pins = dict(re.findall(r"^(celery|kombu)(?:\[\w+\])?==(\d+\.\d+)", lines, re.MULTILINE))
    assert pins == {"celery": "5.6", "kombu": "5.6"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(SITE)))
def test_it_compiles_on_the_oldest_python(path):
    ast.parse(path.read_text(encoding="utf-8"), filename=str(path), feature_version=(3, 10))


def test_the_readme_names_what_there_is():
    readme = (SITE / "README.md").read_text(encoding="utf-8")
    commands = {path.stem for path in (SITE / "pages/management/commands").glob("*.py")} - {"__init__"}
    assert set(re.findall(r"manage\.py (\w+)", readme)) == commands | {"test"}
    urls = re.findall(r'path\("([^"]*)"', (SITE / "example_site/urls.py").read_text(encoding="utf-8"))
    assert set(re.findall(r"^\| `/([^?`]*)", readme, re.MULTILINE)) == set(urls)


def test_git_takes_all_of_it():
    """The outer repository's ignore rules must leave nothing out that the site needs."""
    ignored = subprocess.run(
        ["git", "check-ignore", "--", *map(str, SOURCES), str(SITE / ".env.example")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    ).stdout
    assert ignored == ""
