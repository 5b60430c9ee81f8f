"""An operator's page with a time: how that is typed, and what takes the page down; a host shows systemd's part."""

import datetime
import json
import os
import pathlib
import threading
import time

import pytest
from goldenpath import cli, facts, host, journal, lock, maintenance, process, removal, signs, units
from goldenpath import site as sites
from goldenpath.errors import Failed, Refused

UTC = datetime.timezone.utc
NAME = "goldenpath-maintenance-acme-kitchens"


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """The host's own, two hours before UTC in summer and one in winter."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def acme(site, paths, monkeypatch):
    """A site that is provisioned, and what systemctl was asked for."""
    for folder in (site.root, units.UNITS, host.SITES, paths / "stamps"):
        os.makedirs(folder)
    pathlib.Path(host.SITES, f"{site.slug}.json").write_text(json.dumps({"slug": site.slug}))
    monkeypatch.setattr(sites.Site, "provisioned", lambda self: None)
    monkeypatch.setattr(maintenance, "STAMPS", str(paths / "stamps"))
    monkeypatch.setattr(maintenance, "AGAIN", 0.05)
    site.asked, site.code = [], 0

    def systemctl(*argv, **_):
        site.asked.append(" ".join(argv))
        return process.Done(site.code if argv[0] == "enable" else 0, "Failed to start", "")

    monkeypatch.setattr(units, "systemctl", systemctl)
    return site


def test_the_timer_does_not_come_before_the_time_that_is_noted(acme):
    maintenance.up(acme, None, maintenance.parsed("30m", NOON.timestamp() + 0.9 + 86400 * 365 * 50))
    assert maintenance.until(acme).microsecond == 0


def made():
    return sorted(os.listdir(units.UNITS))


NOON = datetime.datetime(2026, 11, 28, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("said", "when"),
    [
        ("30m", "2026-11-28T12:30"), ("2h", "2026-11-28T14:00"), ("1h30m", "2026-11-28T13:30"),
        ("2d", "2026-11-30T12:00"), ("23:00", "2026-11-28T22:00"), ("0:30", "2026-11-28T23:30"),
        ("2026-11-29T02:00", "2026-11-29T01:00"), ("2026-11-29 02:00", "2026-11-29T01:00"),
        ("2026-11-29T02:00:00Z", "2026-11-29T02:00"), ("2026-11-29T02:00+03:00", "2026-11-28T23:00"),
        ("2027-07-01T02:00", "2027-07-01T00:00"),
    ],
)  # fmt: skip
def test_a_time_as_it_is_typed(said, when):
    assert f"{maintenance.parsed(said, NOON.timestamp()).astimezone(UTC):%Y-%m-%dT%H:%M}" == when


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("", "is no time"), ("noon", "is no time"), ("30", "is no time"), ("25:00", "is no time"),
        ("-5m", "is no time"), ("2026-11-29", "is no time"), ("2026-13-29T02:00", "is no time"), ("0m", "is past"),
        ("2026-11-28T12:59", "is past: it is 2026-11-28 13:00 CET on web1"), ("12:59", "is past for today"),
        ("9999999999h", "is no time"),
    ],
)  # fmt: skip
def test_what_is_no_time_or_past_is_refused(said, why):
    with pytest.raises(Refused, match=r".*\. Try: ") as refused:
        maintenance.parsed(said, NOON.timestamp())
    assert why in str(refused.value)


def test_the_page_goes_up_with_its_timer_and_both_go_with_off(acme, capsys):
    assert cli.main(["maintenance", acme.slug, "on", "--until", "2h", "--text", "We <move>"]) == 0
    said = capsys.readouterr().out
    when = maintenance.until(acme)
    assert f"operator until {maintenance.shown(when)}, when it goes down by itself" in said
    assert abs(when.timestamp() - time.time() - 7200) < 5
    words = pathlib.Path(acme.path(sites.PAGE)).read_text()
    assert f"We &lt;move&gt; We are back at {maintenance.shown(when)}." in words
    timer = pathlib.Path(units.UNITS, f"{NAME}.timer").read_text()
    assert f"OnCalendar={when:%Y-%m-%d %H:%M:%S} UTC\n" in timer and "Persistent=true" in timer
    assert f"maintenance {acme.slug} off --due" in pathlib.Path(units.UNITS, f"{NAME}.service").read_text()
    assert acme.asked == ["daemon-reload", f"enable --now {NAME}.timer"]
    pathlib.Path(maintenance.STAMPS, f"stamp-{NAME}.timer").touch()
    assert cli.main(["maintenance", acme.slug, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["until"] == when.isoformat(timespec="seconds")
    assert cli.main(["maintenance", acme.slug, "off"]) == 0
    assert not acme.maintenance() and made() == [] and os.listdir(maintenance.STAMPS) == []
    assert acme.asked[2:] == [f"disable --now {NAME}.timer", "daemon-reload"] and maintenance.until(acme) is None


def test_another_on_takes_the_place_of_the_first(acme):
    cli.main(["maintenance", acme.slug, "on", "--until", "2h"])
    first = maintenance.until(acme)
    cli.main(["maintenance", acme.slug, "on", "--until", "3h"])
    assert (maintenance.until(acme) - first).total_seconds() > 3500
    assert f"disable --now {NAME}.timer" in acme.asked
    cli.main(["maintenance", acme.slug, "on"])
    assert acme.maintenance() and maintenance.until(acme) is None and made() == []


@pytest.mark.parametrize("words", [("on", "--until", "noon"), ("on", "--until", ""), ("off", "--until", "2h")])
def test_what_is_refused_changes_nothing(acme, words):
    cli.main(["maintenance", acme.slug, "on", "--until", "2h"])
    before, asked = maintenance.until(acme), len(acme.asked)
    assert cli.main(["maintenance", acme.slug, *words]) == 3
    assert maintenance.until(acme) == before and len(acme.asked) == asked


def test_no_page_where_there_is_no_timer(acme):
    acme.code = 1
    with pytest.raises(Failed, match="systemd on web1 takes no timer: Failed to start. Try: "):
        maintenance.up(acme, None, maintenance.parsed("2h"))
    assert not acme.maintenance() and made() == []


def test_its_time_has_come(acme):
    maintenance.up(acme, None, maintenance.parsed("2h"))
    assert "stays up until" in maintenance.due(acme.slug) and acme.maintenance()
    late(acme)
    assert cli.main(["maintenance", acme.slug, "off", "--due"]) == 0
    assert not acme.maintenance() and made() == []
    acme.maintenance_on(sites.OURS)
    maintenance.due(acme.slug)
    assert acme.maintenance() == sites.OURS, "a deploy's own is not the timer's"


def test_not_while_somebody_works_on_the_site(acme):
    maintenance.up(acme, None, maintenance.parsed("2h"))
    late(acme)
    pathlib.Path(journal.path(acme)).parent.mkdir(parents=True, exist_ok=True)
    pathlib.Path(journal.path(acme)).write_text("{}")
    ends = threading.Thread(target=maintenance.due, args=(acme.slug,))
    with lock.of_site(acme, "a deploy"):
        ends.start()
        time.sleep(0.4)
        assert acme.maintenance()
    time.sleep(0.4)
    assert acme.maintenance(), "a restore that is not healed yet has stopped the site"
    os.unlink(journal.path(acme))
    ends.join(10)
    assert not acme.maintenance()


def test_it_is_seen(acme, monkeypatch):
    maintenance.up(acme, None, maintenance.parsed("2h"))
    shown = maintenance.shown(maintenance.until(acme))
    for module, name in ((facts, "_memory"), (units, "unsettled")):
        monkeypatch.setattr(module, name, lambda site: [])
    assert facts._site(acme)["maintenance"] == f"operator until {shown}"
    assert list(signs._site(acme)) == []
    late(acme)
    (sign,) = signs._site(acme)
    assert "was to go down at" in sign and f"Try: goldenpath maintenance {acme.slug} off" in sign


def test_a_site_that_is_removed_leaves_no_timer(acme, monkeypatch):
    maintenance.up(acme, None, maintenance.parsed("2h"))
    what = {"live": None, "databases": [], "roles": [], "users": [], "paths": [], "redis": "own"}
    monkeypatch.setattr(removal, "found", lambda slug: what)
    monkeypatch.setattr(units, "retire", lambda site, **_: [])
    removal.remove(acme.slug)
    assert made() == []


def late(acme):
    """Its time was a while ago."""
    note = pathlib.Path(maintenance._note(acme))
    note.write_text(json.dumps({"until": time.time() - 600}))


def test_a_deploy_tells_until_when(acme):
    from goldenpath import release

    assert release._until(acme) == ""
    maintenance.up(acme, None, maintenance.parsed("2h"))
    assert release._until(acme) == f", until {maintenance.shown(maintenance.until(acme))}"
