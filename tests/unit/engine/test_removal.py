"""What of a site is found and removed, and that nothing goes without a backup; hosts show that nothing is left."""

import pathlib

import pytest
from goldenpath import cli, files, host, jobs, journal, lock, postgres, process, removal, signs, units
from goldenpath import site as sites
from goldenpath.errors import Failed, Refused

SLUG = "acme"


@pytest.fixture
def acme(paths, monkeypatch):
    """A live site with a database, roles and users; what is done about them is kept."""
    pathlib.Path(host.SITES).mkdir()
    files.write_json(f"{host.SITES}/{SLUG}.json", {"slug": SLUG, "redis": {"cache": 3, "broker": 4}})
    site = sites.Site(SLUG, {})
    pathlib.Path(site.path("releases/r1")).mkdir(parents=True)
    site.point("r1")
    done = []
    there = {"sum-acme", "dmp-acme"}
    monkeypatch.setattr(removal, "CADDY", str(paths / "caddy"))
    (paths / "caddy").mkdir()
    (paths / "caddy/acme.caddy").write_text("acme.example {\n}\n")
    monkeypatch.setattr(postgres, "exists", lambda name: name == "sum-acme")
    monkeypatch.setattr(postgres, "size_of", lambda name: 5 << 20)
    monkeypatch.setattr(postgres, "drop", lambda name, live: done.append(("drop", name)))

    def sql(statements, **_):
        if statements.startswith("SELECT"):
            return "1" if any(f"'{name}'" in statements for name in there) else ""
        done.append(("role", statements))
        return ""

    real = process.run

    def run(argv, **more):
        if argv[0] not in (removal.USERDEL, signs.DU):
            return real(argv, **more)
        if argv[0] == removal.USERDEL:
            done.append(("userdel", argv[1]))
            there.discard(argv[1])
        return process.Done(0, f"4096\t{argv[-1]}\n", "")

    monkeypatch.setattr(postgres, "sql", sql)
    monkeypatch.setattr(process, "run", run)
    monkeypatch.setattr(process, "known", there.__contains__)
    monkeypatch.setattr(units, "systemctl", lambda *argv, **_: done.append(argv) or process.Done(0, "", ""))
    monkeypatch.setattr(removal.redis_gate, "ask", lambda *commands, **_: done.append(("redis", commands)))
    monkeypatch.setattr(removal.redis_gate, "answer", lambda *_, **__: "PONG")
    monkeypatch.setattr(removal.redis_gate, "PASSWORD", str(paths / "redis-password"))

    def retire(site, forget=True):
        done.append(("retire", site.slug))
        if forget:
            files.remove(f"{host.SITES}/{site.slug}.json")
        return ["a.service"]

    def each(*_):
        journal.record(SLUG, good={"snapshot": "1a2b3c4d"})
        done.append("backup")
        return {SLUG: {"snapshot": "1a2b3c4d"}}

    monkeypatch.setattr(units, "retire", retire)
    monkeypatch.setattr(jobs, "each", each)
    return site, done


def test_without_its_name_once_more_it_is_told(acme, capsys):
    site, done = acme
    for words in (["remove", SLUG], ["remove", SLUG, "--confirm", "other"]):
        assert cli.main(words) == 3
        said = capsys.readouterr().err
        assert "acme on web1 would go for good: 5.0 MiB of database, 4096 bytes of files" in said
        assert "There is no backup" in said and "Try: goldenpath remove acme --confirm acme" in said
    assert done == [] and pathlib.Path(site.root).exists()


def test_all_of_it_after_a_last_backup(acme, paths):
    site, done = acme
    told = removal.remove(SLUG)
    assert told["snapshot"] == "1a2b3c4d" and not pathlib.Path(site.root).exists()
    names = [each if isinstance(each, str) else each[0] for each in done]
    assert names.index("backup") < names.index("reload") < names.index("retire") < names.index("drop")
    assert ("redis", (["SELECT", "3"], ["FLUSHDB"])) in done and ("redis", (["SELECT", "4"], ["FLUSHDB"])) in done
    assert {each for each in done if each[0] == "userdel"} == {("userdel", "sum-acme"), ("userdel", "dmp-acme")}
    assert [each for each in done if each[0] == "drop"] == [("drop", "sum-acme")]
    assert not (paths / "caddy/acme.caddy").exists() and not pathlib.Path(host.SITES, "acme.json").exists()


def test_what_its_last_backup_wrote_and_its_own_certificates_go_too(acme, paths, monkeypatch):
    monkeypatch.setattr(removal, "CERTIFICATES", str(paths / "certificates"))
    names = {"acme": ["acme.example", "both.example"], "shop": ["shop.example", "both.example"]}
    for slug, domains in names.items():
        files.write_json(f"{host.SITES}/{slug}.json", {"slug": slug, "domains": domains})
        for domain in domains:
            (paths / "certificates/local" / domain).mkdir(parents=True, exist_ok=True)
    removal.remove(SLUG)
    assert files.read_json(f"{journal.folder()}/acme.json") == {}
    assert sorted(each.name for each in (paths / "certificates/local").iterdir()) == ["both.example", "shop.example"]
    assert pathlib.Path(host.SITES, "shop.json").exists()


def test_nothing_goes_where_the_backup_does_not_succeed(acme, monkeypatch):
    site, done = acme

    def fails(*_):
        raise Failed("the repository cannot be reached. Try: the network")

    monkeypatch.setattr(jobs, "each", fails)
    with pytest.raises(Failed, match="Nothing was removed: the repository cannot be reached. Try: the network"):
        removal.remove(SLUG)
    assert done == [] and pathlib.Path(site.root).exists()
    assert removal.remove(SLUG, backed_up=False)["snapshot"] is None and not pathlib.Path(site.root).exists()


def test_nothing_goes_while_its_queue_cannot(acme, monkeypatch):
    """What stays in the shared Redis would be the next owner's of its number."""
    site, done = acme
    monkeypatch.setattr(removal.redis_gate, "answer", lambda *_, **__: "Redis on web1 did not answer PONG: it is down")
    with pytest.raises(Failed, match="Nothing was removed: Redis on web1 did not answer PONG"):
        removal.remove(SLUG)
    assert done == [] and pathlib.Path(site.root).exists()
    monkeypatch.setattr(removal.redis_gate, "answer", lambda *_, **__: "PONG")

    def breaks(*_, **__):
        raise ConnectionError("refused")

    monkeypatch.setattr(removal.redis_gate, "ask", breaks)
    with pytest.raises(Failed, match="acme is half removed: Redis on web1 does not answer any more"):
        removal.remove(SLUG)
    assert "drop" not in [each[0] for each in done]
    monkeypatch.setattr(removal.redis_gate, "ask", lambda *commands, **_: done.append(("redis", commands)))
    removal.remove(SLUG)
    assert ("redis", (["SELECT", "4"], ["FLUSHDB"])) in done, "once more, and it is known which number"


def test_one_that_never_was_live_has_nothing_to_back_up(acme):
    site, done = acme
    files.remove(site.path("current"))
    removal.remove(SLUG)
    assert "backup" not in done and not pathlib.Path(site.root).exists()


def test_not_in_the_middle_of_a_deploy(acme, monkeypatch):
    site, done = acme
    monkeypatch.setattr(removal, "WAIT", 0)
    with lock.of_site(site, "a deploy"), pytest.raises(Failed, match="is held by a deploy"):
        removal.remove(SLUG)
    assert done == ["backup"] and pathlib.Path(site.root).exists()


@pytest.mark.parametrize("slug", ["..", "a/b", "Acme", "x'; DROP", ""])
def test_a_name_that_is_none_reaches_nothing(acme, slug):
    with pytest.raises(Refused):
        removal.found(slug)
    assert acme[1] == []


def test_a_site_that_nobody_knows(acme, monkeypatch):
    monkeypatch.setattr(postgres, "exists", lambda name: False)
    with pytest.raises(Refused, match="web1 has nothing of a site shop. Known: acme"):
        removal.found("shop")
