"""Releases on real hosts: what is asked for is served, and what cannot be leaves the old release serving."""

import json

import pytest

from .conftest import ROOT, SLUG

BROKEN = {
    "requirements": (
        {"requirements.txt": "no-such-distribution-anywhere==1.0\n"},
        "The requirements in requirements.txt cannot be installed",
    ),
    "no-gunicorn": ({"requirements.txt": "django\nredis\ncelery\n"}, "installs no gunicorn"),
    "settings": (
        {"example_site/settings/production.py": "import nothing_of_that_name\n"},
        "No module named 'nothing_of_that_name'",
    ),
    "migration": (
        {
            "pages/migrations/0900_broken.py": (
                "from django.db import migrations\n\n\nclass Migration(migrations.Migration):\n"
                "    dependencies = [('pages', '0001_initial')]\n"
                "    operations = [migrations.RunSQL('SELECT no_such_function()')]\n"
            )
        },
        "manage.py migrate failed",
    ),
    "wsgi": ({"example_site/wsgi.py": "raise RuntimeError('this release cannot start')\n"}, "not healthy"),
    "health": (
        {
            "example_site/urls.py": (
                "from django.http import JsonResponse\nfrom django.urls import path\n"
                "urlpatterns = [path('health/', lambda request: "
                "JsonResponse({'status': 'unhealthy'}, status=503))]\n"
            )
        },
        "The new release is not healthy",
    ),
    "manage": ({"manage.py": None}, "has no manage.py in the folder '.'"),
}


@pytest.fixture
def healthy(bookworm):
    """The site on its first tag before, and serving the same release after, each of these tests."""
    yield bookworm
    bookworm.repository.reset("v1.0.0")
    assert bookworm.health() == (200, "ok")


def test_a_new_ref_is_released_and_served(world):
    sha = world.repository.commit("Second", {"NEWS": "two\n"}, tag="v1.1.0")
    world.repository.publish(world.host)
    status, output = world.deploy(site=SLUG, ref="v1.1.0", target=world.name)
    assert status == 0, output
    assert json.loads(world.ask()[1])["git_sha"] == sha
    assert world.sh(f"cat {ROOT}/current/src/NEWS") == "two"
    world.repository.reset("v1.0.0")


def test_unchanged_requirements_install_nothing(world):
    before = world.sh(f"ls {ROOT}/venvs")
    status, output = world.deploy()
    assert status == 0, output
    assert "reused" in output
    assert world.sh(f"ls {ROOT}/venvs") == before


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_release_leaves_the_old_one_serving(healthy, name):
    changes, reason = BROKEN[name]
    healthy.repository.commit(name, changes, tag="broken")
    healthy.repository.publish(healthy.host)
    live = healthy.live()
    status, output = healthy.deploy(ref="broken")
    assert status != 0
    assert reason in output and f"Release {live} goes on serving" in output
    assert json.loads(healthy.ask()[1])["release"] == live
    assert "Traceback (most recent call last):\n  File \"/" not in output.split("Release")[0]
    assert healthy.sh(f"ls {ROOT}/releases | wc -l") == healthy.sh(f"ls -d {ROOT}/releases/*/src | wc -l")


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        ({"ref": "v9.9.9"}, "has no tag, branch or commit v9.9.9"),
        ({"ref": "--help"}, "is no tag, branch or commit"),
        ({"ref": "v1; rm -rf /"}, "is no tag, branch or commit"),
        ({"ref": ""}, "ref: is empty"),
        ({"ref": "a" * 1000}, "is no tag, branch or commit"),
        ({"site": "nobody"}, "has the site nobody"),
        ({"target": "web9*"}, "No host matches 'web9*'"),
        ({"sit": "acme-kitchens"}, "sit: deploy knows no such key"),
    ],
)
def test_bad_input_is_one_sentence_and_changes_nothing(healthy, request_, sentence):
    before = healthy.state()
    status, output = healthy.deploy(**request_)
    assert status != 0
    assert output.count(sentence) == 1
    assert "Traceback" not in output
    assert healthy.state() == before


def test_a_repository_that_cannot_be_read(healthy):
    before = healthy.state()
    healthy.write_pillar(repo="/srv/git/nothing.git")
    try:
        status, output = healthy.deploy()
    finally:
        healthy.write_pillar(repo=healthy.repository.path)
    assert status != 0
    assert "The repository /srv/git/nothing.git cannot be read" in output
    assert healthy.state() == before
