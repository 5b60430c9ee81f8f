"""A site's role and database: which statements mend what, and what is refused."""

import json

import pytest
from salt.exceptions import CommandExecutionError

NAME = "sum-acme-kitchens"
ROLE = {"login": True, "superuser": False, "createdb": False, "createrole": False}
DATABASE = {"owner": NAME, "encoding": "UTF8", "public": False}


class Postgres:
    """psql, answered from what the cluster has."""

    def __init__(self, role=None, database=None):
        self.have = {"role": role, "database": database}
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
    assert module.get(NAME) == {"role": ROLE, "database": DATABASE}
    ((command, stdin, options),) = postgres.calls
    assert (command[0], options["runas"], options["python_shell"]) == ("psql", "postgres", False)
    # Statements come on standard input: argv is everybody's to read.
    assert NAME not in " ".join(command)
    assert NAME in stdin


@pytest.mark.parametrize(
    ("role", "have", "steps"),
    [
        (ROLE, DATABASE, []),
        (None, None, ["role created", "database created", "closed to other roles"]),
        (ROLE, None, ["database created", "closed to other roles"]),
        (None, DATABASE, ["role created"]),
        ({**ROLE, "superuser": True}, DATABASE, ["role attributes"]),
        ({**ROLE, "createdb": True}, DATABASE, ["role attributes"]),
        ({**ROLE, "createrole": True}, DATABASE, ["role attributes"]),
        ({**ROLE, "login": False}, DATABASE, ["role attributes"]),
        (ROLE, {**DATABASE, "owner": "postgres"}, ["database owner"]),
        (ROLE, {**DATABASE, "public": True}, ["closed to other roles"]),
        (ROLE, {**DATABASE, "owner": "postgres", "public": True}, ["database owner", "closed to other roles"]),
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
    assert module.apply(NAME) == ["role created", "database created", "closed to other roles"]
    assert len(postgres.calls) == 2
    statements = postgres.calls[1][1].splitlines()
    assert [statement.split()[0] for statement in statements] == ["CREATE", "CREATE", "REVOKE"]
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
