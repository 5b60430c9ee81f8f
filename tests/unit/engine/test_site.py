"""What a site is, with a pillar and without one."""

import json
import os
import pathlib

import pytest
from goldenpath import env, host
from goldenpath import site as sites
from goldenpath.errors import Refused


@pytest.fixture
def folder(site):
    path = pathlib.Path(site.root)
    path.mkdir(parents=True, exist_ok=True)
    return path


def written(slug, **facts):
    os.makedirs(host.SITES, exist_ok=True)
    pathlib.Path(host.SITES, f"{slug}.json").write_text(json.dumps({"slug": slug, **facts}))


def test_the_runs_pillar_wins_over_what_is_written(site):
    written("acme", domains=["old.example"], health="/health/")
    assert sites.load("acme").domain == "old.example"
    found = sites.load("acme", {"domains": ["new.example"]})
    assert found.domain == "new.example" and found.facts["health"] == "/health/"


def test_a_site_that_nobody_knows_is_refused_by_name(site):
    written("acme")
    with pytest.raises(Refused, match=r"has no site 'amce'\. Known: .*acme.*Try"):
        sites.load("amce")


def test_current_and_previous(site, folder):
    assert site.current is None and site.previous is None
    (folder / "current").symlink_to("releases/20260101T000000-abcdef12")
    assert site.current == "20260101T000000-abcdef12"


def test_a_maintenance_page_of_ours_comes_and_goes(site, folder):
    assert site.maintenance() == ""
    site.maintenance_on(sites.OURS)
    assert site.maintenance() == sites.OURS and (folder / "maintenance").stat().st_mode & 0o777 == 0o644
    site.maintenance_off(sites.OURS)
    assert site.maintenance() == ""


def test_the_operators_page_stays_until_the_operator_takes_it_down(site, folder):
    site.maintenance_on(sites.OPERATOR)
    site.maintenance_on(sites.OURS)
    site.maintenance_off(sites.OURS)
    assert site.maintenance() == sites.OPERATOR
    site.maintenance_off(sites.OPERATOR)
    assert site.maintenance() == ""


def test_an_empty_page_of_an_older_restore_is_not_the_operators(site, folder):
    (folder / "maintenance").write_text("")
    site.maintenance_off(sites.OURS)
    assert not (folder / "maintenance").exists()


def test_secrets_are_those_that_pillar_names_and_the_key(site, folder):
    values = {"DJANGO_SECRET_KEY": "key-of-django", "STRIPE": "sk-live", "EMAIL_HOST": "smtp.example"}
    (folder / ".env").write_text(env.dump(values))
    site.facts["secrets"] = ["STRIPE"]
    assert sorted(site.secrets()) == ["key-of-django", "sk-live"]


def test_where_nobody_named_them_everything_that_may_be_secret_is(site, folder):
    values = {
        "DJANGO_SECRET_KEY": "key",
        "OTHER": "perhaps",
        "DJANGO_DB_NAME": "sum-acme",
        "ALLOWED_HOSTS": "a.example",
    }
    (folder / ".env").write_text(env.dump(values))
    site.facts.pop("secrets", None)
    assert sorted(site.secrets()) == ["key", "perhaps"]
