"""
A site's database on a real Postgres: what a site may do there, and what it can make of root's questions, dumps, drills
and restores. The server is a test's own, on a private socket.
"""

import contextlib
import os
import pathlib
import re
import subprocess
import threading
import time

import pytest
from goldenpath import files, host, pgdump, postgres, process, removal, signs, units
from goldenpath import site as sites
from goldenpath.errors import Failed

from .cluster import Cluster

NAME, KEEPER, OTHER = "sum-acme", "dmp-acme", "sum-beta"
# Each way in which a site could have its own code met by a session of root's: it leaves a line that tells as whom.
EVIL = """
CREATE SCHEMA evil;
CREATE TABLE public.met (who text);
CREATE FUNCTION evil.note() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
  IF current_setting('is_superuser') = 'on' THEN
    CREATE ROLE taken SUPERUSER;
  END IF;
END $$;
CREATE FUNCTION evil.json_agg(anyelement) RETURNS json LANGUAGE plpgsql AS
  $$ BEGIN PERFORM evil.note(); RETURN '[]'; END $$;
CREATE FUNCTION evil.aclexplode(aclitem[], OUT grantor oid, OUT grantee oid, OUT privilege_type text,
                                OUT is_grantable boolean) RETURNS SETOF record LANGUAGE plpgsql AS
  $$ BEGIN PERFORM evil.note(); END $$;
CREATE FUNCTION evil.format(text, VARIADIC text[]) RETURNS text LANGUAGE plpgsql AS
  $$ BEGIN PERFORM evil.note(); RETURN ''; END $$;
CREATE FUNCTION evil.count(anyelement) RETURNS bigint LANGUAGE plpgsql AS
  $$ BEGIN PERFORM evil.note(); RETURN 0; END $$;
CREATE TABLE evil.pg_class AS SELECT * FROM pg_catalog.pg_class;
CREATE TABLE evil.pg_extension AS SELECT 'plpgsql'::name AS extname;
"""


@pytest.fixture(scope="module")
def server():
    with Cluster() as cluster:
        yield cluster


@pytest.fixture
def pg(server, paths, monkeypatch):
    """A cluster with two sites as an older tree made them: each owns its database."""
    monkeypatch.setattr(process, "start", server.start(process.start))
    monkeypatch.setattr(process, "known", lambda name: True)
    monkeypatch.setattr(postgres, "_KEPT", set())
    for name in (NAME, OTHER):
        server.psql(
            f'CREATE ROLE "{name}" LOGIN;\nCREATE DATABASE "{name}" OWNER "{name}" TEMPLATE template0;\n'
            f'REVOKE ALL ON DATABASE "{name}" FROM PUBLIC;'
        )
        server.psql(f'ALTER SCHEMA public OWNER TO "{name}";', database=name)
    server.psql("CREATE TABLE page (id int, told text); INSERT INTO page VALUES (1, 'a'), (2, 'b');", NAME, NAME)
    yield server
    for name in (NAME, OTHER, f"{NAME}.new", f"{NAME}.old", f"{NAME}.drill"):
        server.psql(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE);')
    for name in (KEEPER, NAME, OTHER, "dmp-beta", "taken"):
        server.psql(f'DROP ROLE IF EXISTS "{name}";')


@pytest.fixture
def acme(pg):
    return sites.Site("acme", {})


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "dump")


def taken(pg):
    return (
        pg.psql("SELECT count(*) FROM pg_roles WHERE rolname = 'taken' OR rolsuper AND rolname <> 'postgres';") != "0"
    )


def plant(pg):
    """All of it, by the site itself, which owns its database."""
    pg.psql(EVIL, NAME, NAME)
    pg.psql(f'ALTER DATABASE "{NAME}" SET search_path = evil, pg_catalog, public;', NAME, NAME)
    pg.psql(f'ALTER ROLE "{NAME}" SET search_path = evil, pg_catalog, public;', NAME, NAME)


def test_the_trap_is_one(pg):
    """What is planted takes whoever asks without care: else the tests below would show nothing."""
    plant(pg)
    pg.psql("SELECT json_agg(1);", database=NAME)
    assert taken(pg)


def test_no_question_of_roots_meets_what_a_site_planted(pg, acme, path):
    plant(pg)
    pgdump.dumped(acme, path)
    assert pgdump.counts(acme, NAME)["public.page"] == 2
    postgres.unsaved(acme)
    postgres.applied(acme)
    postgres.size(acme)
    pgdump.restore(acme, path, f"{NAME}.new")
    assert pgdump.counts(acme, f"{NAME}.new")["public.page"] == 2
    postgres.swap(acme)
    assert not taken(pg)


def test_a_dump_comes_back_whole(pg, acme, path):
    pg.psql('CREATE SCHEMA app; CREATE TABLE app."Odd ""name" AS SELECT generate_series(1, 10);', NAME, NAME)
    held = pgdump.dumped(acme, path)
    assert held["tables"] == {'app."Odd ""name"': 10, "public.page": 2} and held["extensions"] == []
    pgdump.restore(acme, path, f"{NAME}.new")
    assert pgdump.counts(acme, f"{NAME}.new") == held["tables"]
    postgres.swap(acme)
    assert pg.psql("SELECT count(*) FROM page;", NAME, NAME) == "2"
    assert postgres.exists(f"{NAME}.old")
    postgres.swap(acme, back=True)
    assert postgres.exists(f"{NAME}.new") and not postgres.exists(f"{NAME}.old")


def test_nobody_is_in_a_database_while_it_is_filled(pg, acme, path, monkeypatch):
    """A site that waits for it, and would plant what the next step meets."""
    pgdump.dumped(acme, path)
    tried = []
    real = pgdump._load

    def load(site, path, name, entries):
        for user in (NAME, OTHER):
            with pytest.raises(AssertionError, match="permission denied for database"):
                pg.psql("SELECT 1;", user, name)
            tried.append(user)
        real(site, path, name, entries)

    monkeypatch.setattr(pgdump, "_load", load)
    pgdump.restore(acme, path, f"{NAME}.drill")
    assert tried
    # Then its own code may look at it, and nobody else's.
    assert pg.psql("SELECT count(*) FROM page;", NAME, f"{NAME}.drill") == "2"
    with pytest.raises(AssertionError, match="permission denied for database"):
        pg.psql("SELECT 1;", OTHER, f"{NAME}.drill")


def test_a_restored_database_is_the_sites_but_for_what_it_may_not_do(pg, acme, path):
    pgdump.dumped(acme, path)
    pgdump.restore(acme, path, f"{NAME}.new")
    postgres.swap(acme)
    pg.psql("CREATE SCHEMA more; CREATE TABLE more.t (); CREATE TEMP TABLE x ();", NAME, NAME)
    pg.psql("CREATE TABLE other (); DROP TABLE page; CREATE EXTENSION citext;", NAME, NAME)
    for statement in (
        f'ALTER DATABASE "{NAME}" SET search_path = evil;',
        f'ALTER DATABASE "{NAME}" RENAME TO other;',
        f'DROP DATABASE "{NAME}";',
        "CREATE EXTENSION dblink;",
        "SET ROLE goldenpath;",
    ):
        with pytest.raises(AssertionError, match=r"must be owner|permission denied|Superuser"):
            pg.psql(statement, NAME, "postgres" if statement.startswith("DROP") else NAME)


# Extensions


def test_a_trusted_extension_comes_back(pg, acme, path):
    pg.psql("CREATE EXTENSION citext; CREATE TABLE word (it citext); INSERT INTO word VALUES ('A');", NAME, NAME)
    assert pgdump.dumped(acme, path)["extensions"] == ["citext"]
    pgdump.restore(acme, path, f"{NAME}.new")
    assert pg.psql("SELECT count(*) FROM word WHERE it = 'a';", NAME, f"{NAME}.new") == "1"


def test_an_extension_of_a_superuser_comes_back_where_the_live_database_has_it(pg, acme, path):
    pg.psql('CREATE SCHEMA tools; CREATE EXTENSION "dblink" SCHEMA tools;', database=NAME)
    pgdump.dumped(acme, path)
    pgdump.restore(acme, path, f"{NAME}.new")
    told = "SELECT nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = extnamespace WHERE extname = 'dblink';"
    assert pg.psql(told, database=f"{NAME}.new") == "tools"


@pytest.mark.parametrize("named", [False, True])
def test_an_extension_of_a_superuser_that_nobody_named(pg, acme, path, named):
    """After the loss of a host, or in a dump that somebody made: only the pillar lets it in."""
    pg.psql("CREATE EXTENSION dblink;", database=NAME)
    pgdump.dumped(acme, path)
    pg.psql("DROP EXTENSION dblink;", database=NAME)
    if named:
        pgdump.restore(sites.Site("acme", {"postgres": {"extensions": ["dblink"]}}), path, f"{NAME}.new")
        assert pg.psql("SELECT 1 FROM pg_extension WHERE extname = 'dblink';", database=f"{NAME}.new") == "1"
        return
    with pytest.raises(Failed, match=r"only a superuser creates the extension dblink .* \{extensions: \[dbl"):
        pgdump.restore(acme, path, f"{NAME}.new")


def test_no_text_of_a_dump_is_run_by_a_superuser(pg, acme, path):
    """A dump whose extension's entry says more: it names a schema, and is never run."""
    pg.psql('CREATE SCHEMA "x;y"; CREATE EXTENSION dblink SCHEMA "x;y";', database=NAME)
    pgdump.dumped(acme, path)
    whole = pathlib.Path(path).read_bytes()
    harm = b'CREATE EXTENSION IF NOT EXISTS dblink WITH SCHEMA "x;y";\n'
    evil = b"CREATE ROLE taken SUPERUSER;--".ljust(len(harm) - 1) + b"\n"
    assert harm in whole and len(evil) == len(harm)
    pathlib.Path(path).write_bytes(whole.replace(harm, evil))
    with pytest.raises(Failed, match="entry of an extension cannot be read"):
        pgdump.restore(acme, path, f"{NAME}.new")
    assert not taken(pg)


def test_rows_that_a_site_added_to_an_extensions_table(pg, acme, path, tmp_path):
    """They are loaded with the site's rights, and the right that this needs does not stay."""
    folder = pathlib.Path(pg.psql("SELECT setting FROM pg_config WHERE name = 'SHAREDIR';")) / "extension"
    if not os.access(folder, os.W_OK):
        pytest.skip("an extension of the test's own needs a folder that only root writes")
    (folder / "gptest.control").write_text("default_version = '1'\ntrusted = true\nrelocatable = true\n")
    (folder / "gptest--1.sql").write_text(
        "CREATE TABLE places (id int, own bool); INSERT INTO places VALUES (1, false);\n"
        "SELECT pg_catalog.pg_extension_config_dump('places', 'WHERE own');\n"
    )
    for name in ("gptest.control", "gptest--1.sql"):
        (folder / name).chmod(0o644)  # whatever the umask is
    try:
        pg.psql("CREATE EXTENSION gptest;", NAME, NAME)
        pg.psql(f'INSERT INTO places VALUES (2, true); GRANT ALL ON places TO "{NAME}";', database=NAME)
        pgdump.dumped(acme, path)
        pgdump.restore(acme, path, f"{NAME}.new")
    finally:
        (folder / "gptest.control").unlink()
        (folder / "gptest--1.sql").unlink()
    assert pg.psql("SELECT array_agg(id ORDER BY id) FROM places;", database=f"{NAME}.new") == "{1,2}"
    with pytest.raises(AssertionError, match="permission denied"):
        pg.psql("INSERT INTO places VALUES (3, true);", NAME, f"{NAME}.new")


# The keeper


def test_the_keeper_has_the_sites_rights_and_no_others(pg, acme):
    assert postgres.keeper(acme) == KEEPER
    flags = "rolsuper, rolcreatedb, rolcreaterole, rolinherit, rolcanlogin, rolbypassrls"
    assert pg.psql(f"SELECT {flags} FROM pg_roles WHERE rolname = '{KEEPER}';") == "f|f|f|f|t|f"
    with pytest.raises(AssertionError, match="permission denied"):
        pg.psql("SELECT 1;", KEEPER, OTHER)
    with pytest.raises(AssertionError, match="permission denied"):
        pg.psql(f'SET ROLE "{OTHER}";', KEEPER, NAME)
    postgres._KEPT.clear()
    assert postgres.keeper(acme) == KEEPER, "a second time"


def test_a_site_that_holds_a_table_keeps_nobody_waiting_for_ever(pg, acme, path):
    hold = threading.Thread(
        target=pg.psql, args=("BEGIN; LOCK page IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(2.5);", NAME, NAME)
    )
    hold.start()
    time.sleep(0.5)
    began = time.monotonic()
    with pytest.raises(Failed, match=r"lock timeout|Zeitüberschreitung"):
        pgdump.dump(acme, path, wait="1s")
    assert time.monotonic() - began < 2.4
    hold.join()


@pytest.mark.parametrize(
    "setting", ["statement_timeout = '1ms'", "idle_in_transaction_session_timeout = '1ms'",
                "default_transaction_read_only = on", "row_security = on", "lock_timeout = '1ms'"]
)  # fmt: skip
def test_settings_that_a_site_left_change_no_dump(pg, acme, path, setting):
    pg.psql(f'ALTER DATABASE "{NAME}" SET {setting};', NAME, NAME)
    pgdump.dumped(acme, path)
    pgdump.restore(acme, path, f"{NAME}.new")
    assert pgdump.counts(acme, f"{NAME}.new") == {"public.page": 2}


@pytest.mark.parametrize(
    ("break_it", "why"),
    [
        (f'ALTER ROLE "{NAME}" NOLOGIN;', "the role sum-acme may not log in"),
        (f'ALTER DATABASE "{NAME}" OWNER TO postgres; REVOKE ALL ON DATABASE "{NAME}" FROM "{NAME}";',
         "the role sum-acme may not connect to its database"),
        (f'DROP DATABASE "{NAME}";', "there is no database sum-acme"),
    ],
)  # fmt: skip
def test_why_postgres_does_not_let_a_site_in(pg, acme, break_it, why):
    assert postgres.size(acme) > 1 << 20
    for statement in break_it.split("; "):
        pg.psql(f"{statement};")
    with pytest.raises(
        Failed, match=re.escape(f"Postgres does not let acme in: {why}. Try: salt-ssh web1 state.apply")
    ):
        postgres.size(acme)


def test_migrations_of_a_site_with_a_schema_of_its_own(pg, acme):
    assert postgres.applied(acme) == []
    table = "django_migrations (id serial, app text, name text)"
    for schema in ("public", "app", '"Odd"'):
        pg.psql(
            f"CREATE SCHEMA IF NOT EXISTS {schema}; CREATE TABLE {schema}.{table}; "
            f"INSERT INTO {schema}.django_migrations (app, name) VALUES ('{schema.strip(chr(34))}', '0001');",
            NAME, NAME,
        )  # fmt: skip
    assert postgres.applied(acme) == ["public.0001"]
    pg.psql(f'ALTER ROLE "{NAME}" SET search_path = app, public;', NAME, NAME)
    assert postgres.applied(acme) == ["app.0001"]
    pg.psql(f'ALTER ROLE "{NAME}" SET search_path = "Odd", public;', NAME, NAME)
    assert postgres.applied(acme) == ["Odd.0001"]


# A truncated, changed, or half-written dump


@pytest.mark.parametrize("kept", [0, 100, 0.5, 1])
def test_a_dump_that_lost_its_end(pg, acme, path, kept):
    """kept: bytes, or the part of what comes before the last table's end. Postgres 18 repeats its list after that."""
    held = pgdump.dumped(acme, path)
    end = pathlib.Path(path).read_bytes().rindex(b"\\.\n")
    os.truncate(path, int(end * kept) if kept in (0.5, 1) else kept)
    with pytest.raises(Failed, match=r"Try: "):
        pgdump.verify(acme, path, held)


def test_a_dump_never_fills_the_disk(pg, acme, path, monkeypatch):
    monkeypatch.setattr(files, "spare", lambda folder: 500)
    with pytest.raises(Failed, match="before it fills the disk"):
        pgdump.dumped(acme, path)
    assert not os.path.exists(path) and not os.path.exists(f"{path}.partial")


def test_somebody_who_will_not_leave(pg, acme, path):
    """Connections come again and again while the databases are exchanged."""
    pgdump.dumped(acme, path)
    pgdump.restore(acme, path, f"{NAME}.new")
    over = threading.Event()

    def knock():
        while not over.is_set():
            try:
                pg.psql("SELECT pg_sleep(0.2);", NAME, NAME)
            except AssertionError:
                continue

    knocking = [threading.Thread(target=knock) for _ in range(2)]
    for each in knocking:
        each.start()
    try:
        postgres.swap(acme)
    finally:
        over.set()
        for each in knocking:
            each.join()
    assert postgres.exists(f"{NAME}.old") and pg.psql("SELECT count(*) FROM page;", NAME, NAME) == "2"


def test_who_takes_all_connections_and_who_keeps_others_waiting(pg, monkeypatch):
    pg.psql(f'ALTER ROLE "{NAME}" CONNECTION LIMIT 4;')
    monkeypatch.setattr(signs, "HELD_SECONDS", 0)
    acme = [sites.Site("acme", {}), sites.Site("beta", {})]
    assert list(signs._postgres(acme)) == []
    hold = "BEGIN; LOCK TABLE page; SELECT pg_sleep(30);"
    with contextlib.ExitStack() as stack:

        def session(statements):
            argv = ["psql", "--no-psqlrc", "-qAt", "--dbname", NAME]
            env = {"PATH": os.environ["PATH"], **pg._env(NAME, {})}
            one = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
            stack.callback(lambda: (one.kill(), one.communicate()))
            one.stdin.write(statements + "\n")
            one.stdin.flush()

        session(hold)
        end = time.monotonic() + 20
        while "t" not in pg.psql("SELECT granted FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted"):
            assert time.monotonic() < end
        for _ in range(3):
            session("SELECT count(*) FROM page;")
        while len(found := list(signs._postgres(acme))) < 2:
            assert time.monotonic() < end, found
            time.sleep(0.1)
        taken_, held = sorted(found, reverse=True)
        assert taken_.startswith("acme on web1 has 4 of the 4 connections to its database. Try: ")
        assert re.match(r"A session of acme on web1 \(process \d+\) has kept others of it waiting for a lock", held)


def test_a_site_goes_with_its_live_database_and_its_roles(pg, acme, monkeypatch):
    """Nothing but its removal drops a database that is live; the neighbour's stays."""
    monkeypatch.setattr(units, "retire", lambda site, forget: [])
    monkeypatch.setattr(units, "systemctl", lambda *argv, **_: process.Done(0, "", ""))
    monkeypatch.setattr(removal, "_userdel", lambda name: None)
    pathlib.Path(host.SITES).mkdir()
    files.write_json(f"{host.SITES}/acme.json", {"slug": "acme", "redis": {}})
    postgres.create(acme, f"{NAME}.old")
    with pytest.raises(Failed, match=f"{NAME} is a live database"):
        postgres.drop(NAME)
    removal.remove("acme")
    assert pg.psql("SELECT datname FROM pg_database WHERE datname LIKE 'sum-%'") == OTHER
    assert pg.psql("SELECT rolname FROM pg_roles WHERE rolname ~ '^(sum|dmp)-'") == OTHER
