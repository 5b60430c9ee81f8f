"""What a site is, with a pillar and without one."""

import json
import os
import pathlib
from types import SimpleNamespace

import pytest
from goldenpath import env, host
from goldenpath import site as sites
from goldenpath.errors import Failed, Refused


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


def test_caddy_is_shown_the_static_files_of_two_releases(site, folder):
    """By links of root's, into the view in which no link is followed."""
    for release in ("r1", "r2"):
        os.makedirs(site.release(release, "static"))
    assert site.unserved() == {}
    site.point("r1")
    assert (folder / "served").readlink() == pathlib.Path(f"/opt/goldenpath/web/{site.slug}/releases/r1/static")
    site.point("r2", "r1")
    assert site.current == "r2" and site.previous == "r1" and site.unserved() == {}
    assert "r2" in os.readlink(folder / "served") and "r1" in os.readlink(folder / "served-before")
    # A host of before, and a switch that was killed in between.
    (folder / "served").unlink()
    assert list(site.unserved()) == ["served"]
    site.serve()
    assert site.unserved() == {}


def test_a_slice_is_part_of_no_other_sites(site):
    assert sites.Site("acme", {}).slice == "sum-acme.slice"
    assert sites.Site("acme-kitchens", {}).slice == "sum-acme\\x2dkitchens.slice"


def test_the_environment_becomes_roots(site, folder, monkeypatch):
    given = []
    monkeypatch.setattr(sites.Site, "owner", lambda site: (4711, 4712))
    monkeypatch.setattr(sites.os, "chown", lambda path, *numbers: given.append((os.path.basename(path), *numbers)))
    site.secure()  # none yet
    (folder / ".env").write_text("")
    site.secure()
    assert given == [(".env", 0, 4712)] * 2 and (folder / ".env").stat().st_mode & 0o777 == 0o640


def test_what_caddy_serves_is_for_nobody_else(site, folder, monkeypatch):
    monkeypatch.setattr(sites.Site, "owner", lambda site: (4711, 4712))
    monkeypatch.setattr(sites.os, "chown", lambda path, *numbers: given.append(numbers))
    given = []
    monkeypatch.setattr(sites.grp, "getgrnam", lambda name: SimpleNamespace(gr_gid=33))
    site.show(str(folder))
    assert given == [(4711, 33)] and folder.stat().st_mode & 0o777 == 0o750

    def none(name):
        raise KeyError(name)

    monkeypatch.setattr(sites.grp, "getgrnam", none)
    with pytest.raises(Failed, match=r"web1 has no group caddy\. Try: salt-ssh web1 state\.apply"):
        site.show(str(folder))
