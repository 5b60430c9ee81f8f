"""Postgres is restarted under the sites' pages, which are taken down whatever happens."""

import pathlib

import pytest
from goldenpath import lock, postgres, process, restart, units
from goldenpath import site as sites
from goldenpath.errors import Busy, Failed


@pytest.fixture
def two(paths, monkeypatch):
    """Two live sites, the second behind a page of its operator's, and one that was never deployed."""
    found = [sites.Site(slug, {}) for slug in ("acme", "beta", "new")]
    for site in found:
        pathlib.Path(site.path("releases/r1")).mkdir(parents=True)
    for site in found[:2]:
        site.point("r1")
    found[1].maintenance_on(sites.OPERATOR)
    monkeypatch.setattr(sites, "every", lambda: found)
    monkeypatch.setattr(restart, "BEGUN", 0)
    seen = []

    def systemctl(*argv, **_):
        seen.append((argv, [site.maintenance() for site in found]))
        return process.Done(0, "", "")

    monkeypatch.setattr(units, "systemctl", systemctl)
    monkeypatch.setattr(units, "journal", lambda *_: "its last words")
    answers = iter([Failed("starting up"), "1"])

    def sql(*_, **__):
        answer = next(answers)
        if isinstance(answer, Failed):
            raise answer
        return answer

    monkeypatch.setattr(postgres, "sql", sql)
    return found, seen


def pages(found):
    return [site.maintenance() for site in found]


def test_under_the_page_of_those_that_are_live(two):
    found, seen = two
    told = restart.restart_postgres("postgresql@17-main")["told"]
    assert seen == [(("restart", "postgresql@17-main"), [sites.OURS, sites.OPERATOR, ""])]
    assert pages(found) == ["", sites.OPERATOR, ""] and "under the page of 2 sites" in told


def test_pages_go_also_where_it_does_not_come_back(two, monkeypatch):
    found, _ = two
    monkeypatch.setattr(units, "systemctl", lambda *_, **__: process.Done(1, "Job failed.\n", ""))
    with pytest.raises(Failed) as told:
        restart.restart_postgres("postgresql@17-main")
    assert str(told.value) == (
        "postgresql@17-main does not start on web1: Job failed. Try: journalctl -u postgresql@17-main -n 50"
    )
    assert pages(found) == ["", sites.OPERATOR, ""]


def test_a_page_that_was_up_before_stays(two):
    """A site whose release does not serve has one of ours, until the next deploy."""
    found, _ = two
    found[0].maintenance_on(sites.OURS)
    restart.restart_postgres("postgresql@17-main")
    assert pages(found) == [sites.OURS, sites.OPERATOR, ""]


def test_not_in_the_middle_of_a_deploy(two, monkeypatch):
    found, seen = two
    monkeypatch.setattr(restart, "WAIT", 0)
    with lock.of_site(found[1], "a deploy"), pytest.raises(Busy):
        restart.restart_postgres("postgresql@17-main")
    assert seen == [] and pages(found) == ["", sites.OPERATOR, ""]
