"""Which operations of Django's migrations the serving release cannot live with; Django's classes by their names."""

import runpy
import types

import pytest
from goldenpath import sandbox

PENDING = runpy.run_path(f"{sandbox.PROGRAMS}/pending.py")


class Field:
    """A field as Django has it, as far as it is asked about."""

    def __init__(self, kind="CharField", null=False, max_length=None, **more):
        self.null, self.max_length, self.many_to_many, self._kind = null, max_length, False, kind
        vars(self).update(more)

    def get_internal_type(self):
        return self._kind


def operation(kind, **known):
    return type(kind, (), {})() if not known else _with(type(kind, (), {})(), known)


def _with(one, known):
    vars(one).update(known)
    return one


@pytest.fixture(autouse=True)
def django(monkeypatch):
    """The one name that the program asks Django for."""
    import sys

    fields = types.SimpleNamespace(NOT_PROVIDED=object())
    for name in ("django", "django.db"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    models = types.ModuleType("django.db.models")
    models.fields = fields
    monkeypatch.setitem(sys.modules, "django.db.models", models)
    return fields


def judged(*operations, before=None):
    state = types.SimpleNamespace(models={("pages", "page"): types.SimpleNamespace(fields=before or {})})
    created = set()
    return [found for each in operations for found in PENDING["judged"](each, state, "pages", created)]


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (operation("RemoveField", model_name="Page", name="subtitle"), "RemoveField page.subtitle"),
        (operation("RenameField", model_name="page", old_name="a", new_name="b"), "RenameField page.a"),
        (operation("DeleteModel", name="Page"), "DeleteModel page"),
        (operation("RenameModel", old_name="Page", new_name="Leaf"), "RenameModel page"),
        (operation("AlterModelTable", name="page", table="x"), "AlterModelTable page"),
        (operation("AddField", model_name="page", name="kind", field=Field()),
         "AddField page.kind, NOT NULL without a default in the database"),
    ],
)  # fmt: skip
def test_what_the_serving_release_cannot_live_with(one, said):
    assert judged(one) == [(said, True)]
    # Also where only the database is changed.
    assert judged(operation("SeparateDatabaseAndState", database_operations=[one], state_operations=[])) == [
        (said, True)
    ]


@pytest.mark.parametrize(
    "field",
    [Field(null=True), Field(db_default="x"), _with(Field(), {"many_to_many": True}), Field(generated=True)],
)
def test_a_column_that_old_rows_do_not_need(field):
    assert judged(operation("AddField", model_name="page", name="kind", field=field)) == []


def test_a_default_that_was_not_given(django):
    field = Field(db_default=django.NOT_PROVIDED)
    assert judged(operation("AddField", model_name="page", name="kind", field=field))[0][1] is True


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        (Field(null=True), Field(), "which becomes NOT NULL"),
        (Field(max_length=200), Field(max_length=100), "which becomes shorter"),
        (Field("TextField"), Field("IntegerField"), "from TextField to IntegerField"),
        (Field(max_length=100), Field(max_length=200), ""),
        (Field(), Field(null=True), ""),
        (None, Field(), ""),
    ],
)
def test_a_column_that_takes_less(before, after, why):
    found = judged(operation("AlterField", model_name="page", name="kind", field=after), before={"kind": before})
    assert found == ([(f"AlterField page.kind, {why}", True)] if why else [])


def test_what_is_new_in_the_same_deploy_is_nobodys_yet():
    created = operation("CreateModel", name="Leaf")
    assert judged(created, operation("AddField", model_name="leaf", name="kind", field=Field())) == []
    assert judged(operation("AddIndex", model_name="page"), operation("AlterModelOptions", name="page")) == []


@pytest.mark.parametrize("kind", ["RunPython", "RunSQL"])
def test_what_nobody_can_judge(kind):
    assert judged(operation(kind)) == [(kind, False)]
