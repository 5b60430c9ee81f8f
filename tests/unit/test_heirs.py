"""The table of heirs finds what has none."""

from tests import heirs

OLD = ["tests/a.py::test_same", "tests/a.py::test_moved", "tests/a.py::test_renamed", "tests/a.py::test_gone"]


def test_a_test_lives_on_by_path_by_name_or_by_the_table():
    new = ["tests/a.py::test_same", "tests/b.py::test_moved", "tests/b.py::test_other"]
    table = heirs.table(
        "tests/a.py::test_renamed -> tests/b.py::test_other\ntests/a.py::test_gone void no such option\n"
    )
    assert heirs.orphans(OLD, new, *table) == ([], [])


def test_what_has_no_heir_is_named():
    new = ["tests/a.py::test_same", "tests/b.py::test_moved", "tests/c.py::test_moved"]
    table = heirs.table("tests/a.py::test_renamed -> tests/b.py::test_nowhere\n")
    lost, wrong = heirs.orphans(OLD, new, *table)
    assert lost == OLD[1:], "a name in two files, an heir that is not there, and no word at all"
    assert wrong == ["tests/b.py::test_nowhere"]
