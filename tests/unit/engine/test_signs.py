"""Signs of trouble: each with what to type, and none where all is well."""

import json
import os
import pathlib
import shutil
import ssl
import subprocess
import threading
import time
from types import SimpleNamespace

import pytest
from goldenpath import health, lock, postgres, redis_gate, signs, units, visitor
from goldenpath import host as hosts
from goldenpath import site as sites
from goldenpath.errors import Failed

SLUG = "acme-kitchens"


@pytest.fixture
def well(site, paths, monkeypatch, tmp_path):
    """A host where all is well, with one live site; a test changes what is asked."""
    os.makedirs(f"{site.root}/releases/r1")
    os.symlink("releases/r1", f"{site.root}/current")
    os.makedirs(hosts.SITES)
    pathlib.Path(hosts.SITES, f"{SLUG}.json").write_text(json.dumps({"slug": SLUG, "domains": ["acme.example"]}))
    state = SimpleNamespace(
        journal="", pong=lambda slug: "PONG", own=[], answer={"status": "ok", "message": ""}, unsettled=[],
        disk=(50, 50), names=[], site=site,
    )  # fmt: skip
    monkeypatch.setattr(redis_gate, "own", lambda: state.own)
    monkeypatch.setattr(redis_gate, "answer", lambda *_, slug=None, **__: state.pong(slug))
    monkeypatch.setattr(postgres, "sql", lambda *_, **__: state.postgres() if hasattr(state, "postgres") else "")
    monkeypatch.setattr(health, "ask", lambda *_, **__: state.answer)
    monkeypatch.setattr(visitor, "names", lambda site: list(state.names))
    monkeypatch.setattr(units, "unsettled", lambda site: state.unsettled)
    monkeypatch.setattr(units, "journalled", lambda *_, **__: state.journal)
    monkeypatch.setattr(signs, "AGAIN_SECONDS", 0)
    monkeypatch.setattr(signs, "REBOOT", str(tmp_path / "reboot"))

    def disk(_):
        free, inodes = state.disk
        return SimpleNamespace(f_blocks=100, f_bavail=free, f_frsize=1 << 20, f_files=100, f_ffree=inodes)

    monkeypatch.setattr(signs.os, "statvfs", disk)
    return state


def told():
    found = signs.now(sites.every())
    assert all(". Try: " in each for each in found)
    return found


def test_all_is_well(well):
    assert told() == signs.standing() == []


def test_a_site_beyond_its_memory(well):
    """As `make trial-limits` has it said by a real kernel."""
    said = "A process of this unit has been killed by the OOM killer."
    names = ("gunicorn@20260101T000000-a36bb00b", "run-812-1", "shop-celery", "2-celery")
    well.journal = "\n".join(f"sum-{SLUG}-{name}.service: {said}" for name in names)
    (found,) = told()
    assert "was beyond its memory in the last hour: the kernel ended 2 of its processes" in found
    assert f"the last one of sum-{SLUG}-run-812-1.service. Try: journalctl -u sum-{SLUG}-run" in found


def refuse():
    raise Failed("Postgres refused: the database system is starting up. Try: systemctl status 'postgresql@*'")


TROUBLE = {
    "redis": ({"pong": lambda slug: "PONG" if slug else "Redis on web1: no. Try: x"}, "Redis on web1"),
    "own redis": ({"own": [SLUG], "pong": lambda slug: f"Redis of {slug} on web1: no. Try: x" if slug else "PONG"},
                  "Redis of acme-kitchens on web1"),
    "postgres": ({"postgres": refuse}, "On web1 postgres refused: the database system is starting up"),
    "down": ({"answer": {"status": "unreachable", "message": "connection refused on :443"}},
             "acme-kitchens on web1 is unreachable for visitors: connection refused on :443"),
    "broken": ({"answer": {"status": "broken", "message": "404"}}, "is broken for visitors: 404"),
    "degraded": ({"answer": {"status": "degraded", "message": "celery is unwell"}}, "is degraded: celery is unwell"),
    "unit": ({"unsettled": ["start sum-acme-kitchens-celery.service"]}, "celery.service on web1 should run"),
    "disk": ({"disk": (9, 50)}, "/ on web1 is full to 91 %, 9.0 MiB are left"),
    "connections": ({"postgres": lambda: "connections|sum-acme-kitchens|38|42\nconnections|postgres|1|1"},
                    "acme-kitchens on web1 has 38 of the 42 connections to its database. Try: goldenpath psql acme-"),
    "lock": ({"postgres": lambda: "lock|sum-acme-kitchens|4711|0"},
             "A session of acme-kitchens on web1 (process 4711) has kept others of it waiting for a lock, for more "
             "than 120 seconds. Try: goldenpath psql acme-kitchens -c 'select pg_terminate_backend(4711)'"),
    "inodes": ({"disk": (50, 9)}, "/ on web1 has 9 inodes left for files"),
}  # fmt: skip


@pytest.mark.parametrize("name", TROUBLE)
def test_trouble(well, name):
    changes, sentence = TROUBLE[name]
    vars(well).update(changes)
    found = told()
    assert sentence in found[0]


def test_an_enabled_unit_is_no_trouble(well):
    well.unsettled = ["enable sum-acme-kitchens-celery.service"]
    assert told() == []


def test_one_late_answer_is_no_trouble(well, monkeypatch):
    answers = iter([{"status": "unreachable", "message": "late"}, {"status": "ok", "message": ""}])
    monkeypatch.setattr(health, "ask", lambda *_, **__: next(answers))
    assert told() == []


def test_a_site_behind_its_maintenance_page_is_looked_after(well):
    well.answer = {"status": "unhealthy", "message": "503"}
    pathlib.Path(well.site.path("maintenance")).write_text("operator")
    assert told() == []


def test_a_site_that_somebody_works_on_is_left_alone(well):
    well.answer = {"status": "unreachable", "message": "no"}
    well.unsettled = ["start sum-acme-kitchens-celery.service"]
    with lock.of_site(well.site, "a deploy"):
        assert told() == []
    assert len(told()) == 2


def test_a_deploy_that_began_meanwhile_is_no_trouble(well, monkeypatch):
    held = iter([False, True])
    monkeypatch.setattr(lock, "held", lambda site: next(held))
    well.answer = {"status": "unreachable", "message": "no"}
    assert told() == []


def test_a_site_that_was_never_deployed_is_no_trouble(well):
    os.unlink(well.site.path("current"))
    well.answer = {"status": "unreachable", "message": "no"}
    assert told() == []


def test_a_reboot_that_waits(well, tmp_path):
    (tmp_path / "reboot").touch()
    os.utime(tmp_path / "reboot", (1, time.time() - 3 * 86400))
    (sentence,) = signs.standing()
    assert sentence == "web1 has waited 3 days for a reboot, after updates. Try: systemctl reboot"


def test_a_sandbox_that_waits_for_a_start(well, monkeypatch, tmp_path):
    monkeypatch.setattr(signs, "PROC", str(tmp_path / "proc"))
    monkeypatch.setattr(units, "show", lambda unit, name: {"caddy.service": "7"}.get(unit, "8"))
    for pid, kept in (("7", "0"), ("8", "0")):
        (tmp_path / "proc" / pid).mkdir(parents=True)
        (tmp_path / "proc" / pid / "status").write_text(f"Name:\tx\nNoNewPrivs:\t{kept}\nSeccomp:\t0\n")
    assert signs.pending() == []
    for unit in ("caddy", "postgresql@17-main"):
        folder = pathlib.Path(units.UNITS, f"{unit}.service.d")
        folder.mkdir(parents=True)
        (folder / signs.SANDBOX).touch()
    caddy, postgresql = signs.pending()
    assert caddy.startswith("caddy on web1 has a new sandbox") and "Try: systemctl restart caddy," in caddy
    assert "Try: goldenpath restart-postgres postgresql@17-main," in postgresql
    # In it by now; and one that does not run.
    (tmp_path / "proc/7/status").write_text("NoNewPrivs:\t1\n")
    shutil.rmtree(tmp_path / "proc/8")
    assert signs.pending() == []


# Certificates, from a real TLS server


@pytest.fixture
def door(well, tmp_path, monkeypatch):
    """A front door whose certificate began and ends so many days from now."""
    openssl = shutil.which("openssl")
    monkeypatch.setattr(signs, "OPENSSL", openssl)
    monkeypatch.setattr(units, "journal", lambda *_: door.journal)
    door.journal, servers = "", []

    def serve(begin, end):
        day = 86400
        times = [time.strftime("%Y%m%d%H%M%SZ", time.gmtime(time.time() + each * day)) for each in (begin, end)]
        made = ["-newkey", "rsa:2048", "-keyout", tmp_path / "key", "-out", tmp_path / "request"]
        subprocess.run([openssl, "req", "-new", "-nodes", *made, "-subj", "/CN=acme.example"], check=True)
        (tmp_path / "index").write_text("")
        (tmp_path / "serial").write_text("01")
        (tmp_path / "ca.conf").write_text(
            f"[ca]\ndefault_ca=x\n[x]\ndatabase={tmp_path}/index\nserial={tmp_path}/serial\nnew_certs_dir={tmp_path}\n"
            "default_md=sha256\npolicy=p\n[p]\ncommonName=supplied\n"
        )
        subprocess.run([openssl, "ca", "-batch", "-config", tmp_path / "ca.conf", "-selfsign", "-keyfile",
                        tmp_path / "key", "-in", tmp_path / "request", "-startdate", times[0], "-enddate", times[1],
                        "-out", tmp_path / "certificate", "-notext"], check=True, capture_output=True)  # fmt: skip
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(tmp_path / "certificate", tmp_path / "key")
        server = signs.socket.create_server(("127.0.0.1", 0))
        servers.append(server)
        monkeypatch.setattr(health, "FRONT", server.getsockname())

        def answer():
            while True:
                try:
                    connection, _ = server.accept()
                    context.wrap_socket(connection, server_side=True).close()
                except ssl.SSLError:
                    continue
                except OSError:
                    return

        threading.Thread(target=answer, daemon=True).start()
        return signs.slow(sites.every())

    yield serve
    for server in servers:
        server.close()


@pytest.mark.parametrize(("begin", "end"), [(-1, 89), (-60, 30), (-0.1, 0.4)])
def test_a_certificate_that_is_renewed_in_time(door, begin, end):
    assert door(begin, end) == []


@pytest.mark.parametrize(("begin", "end", "left"), [(-87, 3.01, "3 days"), (-90, -1, "0 seconds")])
def test_a_certificate_that_was_not_renewed(door, begin, end, left):
    globals()[
        "door"
    ].journal = (
        '{"logger":"tls.renew","msg":"could not get certificate","identifier":"acme.example","error":"HTTP 429 rate"}'
    )
    (sentence,) = door(begin, end)
    assert sentence.startswith(f"The certificate of acme.example on web1 has {left} left of ")
    assert sentence.endswith("and was not renewed: HTTP 429 rate. Try: journalctl -u caddy")


def test_a_door_that_nobody_opens_is_told_by_the_health_of_the_site(well, monkeypatch):
    monkeypatch.setattr(health, "FRONT", ("127.0.0.1", 1))
    assert signs.slow(sites.every()) == []


def test_another_name_of_the_site_that_nobody_serves(well):
    well.names = ["https://www.acme.example/health/ answered 400. Try: its DNS"]
    (found,) = signs.now([well.site])
    assert found.startswith("On web1, https://www.acme.example/health/ answered 400")


def test_a_page_that_a_killed_deploy_left_up(well):
    pathlib.Path(well.site.path("maintenance")).write_text("deploy")
    (found,) = signs.now([well.site])
    assert f"The maintenance page of {SLUG} on web1 is up" in found
    pathlib.Path(well.site.path("maintenance")).write_text("operator")
    assert list(signs.now([well.site])) == []


def test_whose_files_fill_a_disk(well, monkeypatch, tmp_path):
    well.disk = (9, 50)
    pathlib.Path(well.site.path("media")).mkdir()
    pathlib.Path(well.site.path("media/large")).write_bytes(b"x" * (3 << 20))
    monkeypatch.setattr(signs, "PLACES", (well.site.root,))
    (found,) = told()
    assert f" MiB are left, 3.0 MiB are of {SLUG}. Try: du -xsh {well.site.root}/*" in found
    # Who cannot be counted in time holds nothing up.
    monkeypatch.setattr(signs, "DU", "/bin/false")
    (found,) = told()
    assert " MiB are left. Try: " in found
