"""The state over a site's role and database."""

import pytest
from salt.exceptions import CommandExecutionError

NAME = "sum-acme-kitchens"
STEPS = [("role created", "CREATE ROLE …;"), ("database created", "CREATE DATABASE …;")]


@pytest.fixture
def world(load):
    calls = []

    def apply(name, extensions, connections):
        calls.append(name)
        return [sentence for sentence, _ in module.steps]

    module = load(
        "_states/site_database.py",
        salt={
            "cmd.has_exec": lambda program: True,
            "site_database.plan": lambda name, extensions, connections: module.steps,
            "site_database.apply": apply,
        },
    )
    module.steps, module.calls = STEPS, calls
    return module


def test_test_true_changes_nothing(world):
    world.__opts__["test"] = True
    ret = world.present(NAME)
    assert (ret["result"], ret["changes"]) == (None, {NAME: ["role created", "database created"]})
    assert world.calls == []


def test_apply(world):
    ret = world.present(NAME)
    assert (ret["result"], ret["changes"]) == (True, {NAME: ["role created", "database created"]})
    assert world.calls == [NAME]


@pytest.mark.parametrize("test", [True, False])
def test_nothing_to_do(world, test):
    world.steps = []
    world.__opts__["test"] = test
    assert world.present(NAME) == {
        "name": NAME, "result": True, "changes": {}, "comment": f"{NAME} is as it should be",
    }  # fmt: skip


def test_before_postgres_is_installed(world):
    world.__opts__["test"] = True
    world.__salt__["cmd.has_exec"] = lambda program: False
    world.__salt__["site_database.plan"] = None  # is not asked
    ret = world.present(NAME)
    assert ret["result"] is None
    assert ret["changes"]


@pytest.mark.parametrize(("test", "function"), [(True, "plan"), (False, "apply")])
def test_a_failure_is_one_sentence(world, test, function):
    def fails(name, extensions, connections):
        raise CommandExecutionError("Postgres on web1 refused: no. Try: x")

    world.__opts__["test"] = test
    world.__salt__[f"site_database.{function}"] = fails
    ret = world.present(NAME)
    assert (ret["result"], ret["changes"], ret["comment"]) == (False, {}, "Postgres on web1 refused: no. Try: x")
