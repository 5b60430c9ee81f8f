"""What a site is, with a pillar and without one."""

import json
import os
import pathlib
from types import SimpleNamespace

import pytest
from goldenpath import cli, env, host
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


def test_what_a_run_says_is_written_down_without_a_secret(site):
    site.facts.update(repo="https://user:s3cr3t@git.example/acme.git", ref="v2")
    sites.load(site.slug, site.facts).remember()
    known = json.loads(pathlib.Path(host.SITES, f"{site.slug}.json").read_text())
    assert (known["repo"], known["ref"], known["project"]) == ("https://git.example/acme.git", "v2", "acme_kitchens")
    assert known["domains"] == site.facts["domains"] and known["secrets"] == sorted(site.facts["secrets"])
    assert "s3cr3t" not in json.dumps(known)


def test_what_was_provisioned_stays_what_was_provisioned(site):
    """A deploy does not take away that state.apply is still owed."""
    written(site.slug, domains=["old.example"], secrets=[], ref="v1", tls="acme")
    found = sites.load(site.slug, {**site.facts, "ref": "v2", "tls": "acme"})
    assert found.unprovisioned() == (
        f"web1 was provisioned with another value of domains for {site.slug}; the pillar's counts for this run. "
        "Try: salt-ssh web1 state.apply"
    )
    found.remember()
    again = sites.load(site.slug)
    assert (again.domain, again.facts["ref"]) == ("old.example", "v1") and again.unprovisioned() == ""
    # And what is known whole is not written again: state.apply would find a change.
    before = os.stat(f"{host.SITES}/{site.slug}.json").st_mtime_ns
    sites.load(site.slug, site.facts).remember()
    assert os.stat(f"{host.SITES}/{site.slug}.json").st_mtime_ns == before


@pytest.mark.parametrize("named", [["TOKEN"], None])
def test_the_password_of_its_own_redis_is_a_secret(paths, named):
    site = sites.Site("acme", {} if named is None else {"secrets": named})
    os.makedirs(site.root)
    pathlib.Path(site.path(".env")).write_text(
        'REDIS_URL="redis://:of-redis@127.0.0.1:200/0"\nCELERY_BROKER_URL="redis://:of-redis@127.0.0.1:200/1"\nTOKEN="t0ken"\n'
    )
    assert sorted(site.secrets()) == ["of-redis", "t0ken"]


def test_the_password_of_its_own_redis_by_whichever_name(site, folder):
    values = {"QUEUE": "redis://:s3cr3t-of-redis@127.0.0.1:200/5", "MAIL": "smtp.example"}
    (folder / ".env").write_text(env.dump(values))
    site.facts["secrets"] = []
    assert site.secrets() == ["s3cr3t-of-redis"]


def test_words_of_an_operators_own(site, folder, monkeypatch, capsys):
    """They go with the page, and are text, whatever they hold."""
    written(site.slug)
    monkeypatch.setattr(sites.Site, "provisioned", lambda self: None)
    page = pathlib.Path(site.path(sites.PAGE))
    assert cli.main(["maintenance", site.slug, "on", "--text", "<b>Soon</b>"]) == 0
    assert "is up, put there by operator" in capsys.readouterr().out
    assert "<p>&lt;b&gt;Soon&lt;/b&gt;</p>" in page.read_text()
    assert page.stat().st_mode & 0o777 == 0o644
    site.maintenance_on(sites.OURS)
    assert page.exists(), "a deploy leaves the operator's"
    assert cli.main(["maintenance", site.slug, "on"]) == 0 and not page.exists()
    assert cli.main(["maintenance", site.slug, "off"]) == 0 and not page.exists() and not site.maintenance()
    assert cli.main(["maintenance", site.slug, "off", "--text", "x"]) == 3
    capsys.readouterr()
    assert cli.main(["maintenance", site.slug, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"site": site.slug, "maintenance": False, "by": None, "until": None}


def test_credentials_of_a_repository_are_those_of_this_very_address(site):
    """Root's file has them; the file of facts is for everybody to read."""
    written("acme", repo="https://git.example/acme.git")
    assert sites.load("acme").facts["repo"] == "https://git.example/acme.git"
    os.makedirs(host.REPOSITORIES)
    secret = "https://bot:word@git.example/acme.git"
    pathlib.Path(host.REPOSITORIES, "acme").write_text(secret + "\n")
    assert sites.load("acme").facts["repo"] == secret
    assert sites.load("acme", {"repo": "https://git.example/of-this-run.git"}).facts["repo"].endswith("of-this-run.git")
    written("acme", repo="https://git.example/moved.git")
    assert sites.load("acme").facts["repo"] == "https://git.example/moved.git", "not those of where it was before"


def test_variables_and_no_secret(site, folder, monkeypatch, capsys):
    written(site.slug, secrets=["TOKEN"])
    monkeypatch.setattr(sites.Site, "provisioned", lambda self: None)
    values = {"TOKEN": "correct horse", "URL": "https://x.example/?t=correct horse", "SITE_DOMAIN": "acme.example"}
    (folder / ".env").write_text(env.dump({**values, "DJANGO_SECRET_KEY": "the key"}))
    assert cli.main(["env", site.slug]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "DJANGO_SECRET_KEY (secret)", "SITE_DOMAIN", "TOKEN (secret)", "URL (secret)",
    ]  # fmt: skip
    assert cli.main(["env", site.slug, "--values"]) == 0
    out = capsys.readouterr().out
    assert "SITE_DOMAIN=acme.example" in out and "correct horse" not in out and "the key" not in out
