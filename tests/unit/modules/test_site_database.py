"""A site's role and database: which statements mend what, and what is refused."""

import json

import pytest
from salt.exceptions import CommandExecutionError

from tests.unit.engine.cluster import Cluster

NAME = "sum-acme-kitchens"
ROLE = {"login": True, "superuser": False, "createdb": False, "createrole": False}
DATABASE = {"owner": "goldenpath", "encoding": "UTF8", "public": False, "granted": True, "settings": 0}

LIMITS = {"connections": -1, "temporary": 5 << 20, "size": 8000}


class Postgres:
    """psql, answered from what the cluster has."""

    def __init__(self, role=None, database=None):
        self.have = {"role": role, "database": database, "owner": False, "open": [], "limits": LIMITS}
        self.calls = []
        self.failure = None

    def __call__(self, command, stdin=None, **options):
        self.calls.append((command, stdin, options))
        if self.failure:
            return {"retcode": 2, "stdout": "", "stderr": self.failure}
        return {"retcode": 0, "stdout": json.dumps(self.have), "stderr": ""}


@pytest.fixture
def database(load):
    def make(*args, **kwargs):
        postgres = Postgres(*args, **kwargs)
        return load("_modules/site_database.py", salt={"cmd.run_all": postgres}), postgres

    return make


def test_get(database):
    module, postgres = database(ROLE, DATABASE)
    assert module.get(NAME) == {
        "role": ROLE, "database": DATABASE, "owner": False, "open": [], "limits": LIMITS,
    }  # fmt: skip
    ((command, stdin, options),) = postgres.calls
    assert (command[0], options["runas"], options["python_shell"]) == ("psql", "postgres", False)
    # Statements come on standard input: argv is everybody's to read.
    assert NAME not in " ".join(command)
    assert NAME in stdin


@pytest.mark.parametrize(
    ("role", "have", "steps"),
    [
        (ROLE, DATABASE, []),
        (None, None, ["role created", "database created", "closed to other roles", "database owner"]),
        (ROLE, None, ["database created", "closed to other roles", "database owner"]),
        (None, DATABASE, ["role created"]),
        ({**ROLE, "superuser": True}, DATABASE, ["role attributes"]),
        ({**ROLE, "createdb": True}, DATABASE, ["role attributes"]),
        ({**ROLE, "createrole": True}, DATABASE, ["role attributes"]),
        ({**ROLE, "login": False}, DATABASE, ["role attributes"]),
        (ROLE, {**DATABASE, "owner": "postgres"}, ["database owner"]),
        (ROLE, {**DATABASE, "public": True}, ["closed to other roles"]),
        (ROLE, {**DATABASE, "owner": "postgres", "public": True}, ["closed to other roles", "database owner"]),
    ],
)
def test_plan(database, role, have, steps):
    module, postgres = database(role, have)
    assert [sentence for sentence, _ in module.plan(NAME)] == steps
    assert len(postgres.calls) == 1
    assert all(f'"{NAME}"' in statement and statement.endswith(";") for _, statement in module.plan(NAME))


def test_no_password_exists(database):
    module, _ = database()
    assert "PASSWORD" not in " ".join(statement for _, statement in module.plan(NAME)).upper()


def test_apply(database):
    module, postgres = database()
    assert module.apply(NAME) == ["role created", "database created", "closed to other roles", "database owner"]
    assert len(postgres.calls) == 2
    statements = postgres.calls[1][1].splitlines()
    assert [statement.split()[0] for statement in statements[:3]] == ["CREATE", "CREATE", "REVOKE"]
    assert "--set=ON_ERROR_STOP=1" in postgres.calls[1][0]


def test_apply_again(database):
    module, postgres = database(ROLE, DATABASE)
    assert module.apply(NAME) == []
    assert len(postgres.calls) == 1


@pytest.mark.parametrize("name", ["postgres", "sum-", "sum-a'; DROP ROLE x; --", 'sum-a"', "sum-A", "sum-a\n", ""])
def test_other_names_reach_no_psql(database, name):
    module, postgres = database()
    for function in (module.get, module.plan, module.apply):
        with pytest.raises(CommandExecutionError, match=r"is no site's database name\. Try: sum-<slug>"):
            function(name)
    assert postgres.calls == []


def test_another_encoding_is_refused(database):
    module, postgres = database(ROLE, {**DATABASE, "encoding": "SQL_ASCII"})
    with pytest.raises(CommandExecutionError, match=f"The database {NAME} on web1 is encoded SQL_ASCII"):
        module.apply(NAME)
    assert len(postgres.calls) == 1


@pytest.mark.parametrize("text", ["psql: error: connection refused\nIs it running?\n", ""])
def test_postgres_that_does_not_answer(database, text):
    module, postgres = database()
    postgres.failure = text or " "
    with pytest.raises(CommandExecutionError) as told:
        module.get(NAME)
    reason = text.splitlines()[0] if text else "no message"
    assert str(told.value) == f"Postgres on web1 refused: {reason}. Try: systemctl status 'postgresql@*'"


# On a real Postgres


@pytest.fixture(scope="module")
def cluster():
    with Cluster() as server:
        yield server


@pytest.fixture
def real(load, cluster):
    def run(command, runas, cwd, env, stdin, python_shell, ignore_retcode):
        assert (runas, python_shell) == ("postgres", False)
        try:
            return {"retcode": 0, "stdout": cluster.psql(stdin, options=env["PGOPTIONS"]), "stderr": ""}
        except AssertionError as exc:
            return {"retcode": 1, "stdout": "", "stderr": str(exc)}

    yield load("_modules/site_database.py", salt={"cmd.run_all": run})
    cluster.psql(f'DROP DATABASE IF EXISTS "{NAME}" WITH (FORCE);\nDROP ROLE IF EXISTS "{NAME}";')
    cluster.psql("GRANT CONNECT ON DATABASE postgres, template1 TO PUBLIC;")


def test_made_once_and_never_again(real, cluster):
    first = real.apply(NAME)
    assert first[:3] == ["owner of databases", "postgres closed to sites", "template1 closed to sites"]
    assert first[3:] == [
        "role created", "limit of temporary files", "database created", "closed to other roles", "database owner",
    ]  # fmt: skip
    assert real.apply(NAME) == []
    owner = cluster.psql("SELECT nspowner::regrole FROM pg_namespace WHERE nspname = 'public';", NAME, NAME)
    assert owner == f'"{NAME}"'


def test_what_a_site_may_do_and_may_not(real, cluster):
    real.apply(NAME)
    cluster.psql('CREATE ROLE "sum-other" LOGIN;')
    try:
        cluster.psql("CREATE TABLE t (); CREATE SCHEMA s; CREATE EXTENSION citext; CREATE TEMP TABLE x ();", NAME, NAME)
        for statement, database in (
            (f'ALTER DATABASE "{NAME}" SET search_path = evil;', NAME), (f'DROP DATABASE "{NAME}";', "template0"),
            ("CREATE DATABASE mine;", NAME), ("CREATE TABLE t ();", "postgres"), ("CREATE TABLE t ();", "template1"),
            ("SET ROLE goldenpath;", NAME), ("CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION f();", NAME),
        ):  # fmt: skip
            with pytest.raises(AssertionError, match=r"must be owner|permission denied|not currently|superuser"):
                cluster.psql(statement, NAME, database)
        with pytest.raises(AssertionError, match="permission denied"):
            cluster.psql("SELECT 1;", "sum-other", NAME)
    finally:
        cluster.psql('DROP ROLE "sum-other";')


def test_a_host_of_before_is_taken_over(real, cluster):
    """The site owned its database, and left settings on it: they are its role's, and it works as before."""
    cluster.psql(f'CREATE ROLE "{NAME}" LOGIN;\nCREATE DATABASE "{NAME}" OWNER "{NAME}" TEMPLATE template0;')
    cluster.psql(f'REVOKE ALL ON DATABASE "{NAME}" FROM PUBLIC;')
    cluster.psql("CREATE SCHEMA app; CREATE TABLE app.page AS SELECT 1 AS id;", NAME, NAME)
    cluster.psql(f'ALTER DATABASE "{NAME}" SET search_path = app, "$user", public;', NAME, NAME)
    cluster.psql(f"ALTER DATABASE \"{NAME}\" SET DateStyle = 'SQL, DMY';", NAME, NAME)
    cluster.psql(
        f"ALTER DATABASE \"{NAME}\" SET work_mem = '5MB'; ALTER ROLE \"{NAME}\" SET work_mem = '6MB';", NAME, NAME
    )
    cluster.psql("CREATE ROLE monitor LOGIN;")
    try:
        steps = real.apply(NAME)
        assert steps[-2:] == ["settings of the database are its role's", "database owner"]
        assert real.apply(NAME) == []
        told = cluster.psql("SELECT id FROM page; SHOW DateStyle; SHOW work_mem; SHOW search_path;", NAME, NAME)
        assert told.splitlines() == ["1", "SQL, DMY", "6MB", 'app, "$user", public']
        # Of the database itself nothing is left that a session of root's would meet.
        assert cluster.psql("SELECT count(*) FROM pg_db_role_setting WHERE setrole = 0;") == "0"
        # Somebody else's role stays let in where it was.
        assert cluster.psql("SELECT 1;", "monitor") == "1"
        with pytest.raises(AssertionError, match="permission denied"):
            cluster.psql("SELECT 1;", NAME)
    finally:
        cluster.psql("REVOKE ALL ON DATABASE postgres, template1 FROM monitor;\nDROP ROLE monitor;")


@pytest.mark.parametrize(
    ("change", "step"),
    [
        (f'GRANT CONNECT ON DATABASE "{NAME}" TO PUBLIC;', "closed to other roles"),
        (f'REVOKE CREATE ON DATABASE "{NAME}" FROM "{NAME}";', "rights"),
        (f'ALTER DATABASE "{NAME}" OWNER TO "{NAME}";', "database owner"),
        (f'ALTER ROLE "{NAME}" CREATEDB;', "role attributes"),
        ("ALTER ROLE goldenpath LOGIN;", "owner of databases"),
        ("GRANT CONNECT ON DATABASE postgres TO PUBLIC;", "postgres closed to sites"),
    ],
)
def test_drift_is_one_step(real, cluster, change, step):
    real.apply(NAME)
    cluster.psql(change)
    assert real.apply(NAME) == [step]
    assert real.apply(NAME) == []


def test_limits_of_a_role(real, cluster):
    assert "connection limit" in real.apply(NAME, connections=7)
    assert real.apply(NAME, connections=7) == []
    assert real.apply(NAME, connections=9) == ["connection limit"]
    assert cluster.psql("SHOW temp_file_limit;", NAME, NAME) == "5GB"
    # A site does not lift it.
    with pytest.raises(AssertionError, match="permission denied"):
        cluster.psql("SET temp_file_limit = -1;", NAME, NAME)
    # Never below the size of its database.
    real._TEMPORARY = 100
    cluster.psql(f'ALTER ROLE "{NAME}" SET temp_file_limit = 100;')
    assert real.apply(NAME, connections=9) == ["limit of temporary files"]
    assert real.apply(NAME, connections=9) == []


def test_extensions_that_only_a_superuser_creates(real, cluster):
    assert "extension dblink" in real.apply(NAME, ["dblink"])
    assert real.apply(NAME, ["dblink"]) == []
    assert real.apply(NAME, ["dblink", "file_fdw"]) == ["extension file_fdw"]


def test_no_extension_is_created_where_its_script_would_meet_the_sites_functions(real, cluster):
    real.apply(NAME)
    cluster.psql("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1';", NAME, NAME)
    with pytest.raises(CommandExecutionError, match="has functions or operators of its own"):
        real.apply(NAME, ["dblink"])
