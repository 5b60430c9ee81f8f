"""What a dump holds, and what differs."""

import io

import pytest
from goldenpath import pgdump, postgres, process
from goldenpath.errors import Failed

from .backups import acme

STREAM = b"""SET x = 1;
CREATE TABLE public.a (id integer);
COPY public.a (id, "COPY") FROM stdin;
1\tCOPY public.b (id) FROM stdin;
2\t\\\\.
\\N\t3
\\.
COPY public."Od""d. (x)" (id) FROM stdin;
\\.
COPY public.b (id) FROM stdin;
1
"""


def test_rows_are_counted_as_pg_restore_prints_them():
    assert pgdump.copied(io.BytesIO(STREAM)) == {"public.a": 3, 'public."Od""d. (x)"': 0}


@pytest.mark.parametrize("cut", [20, 60, 90, len(STREAM)])
def test_a_table_that_ends_too_early_is_not_counted(cut):
    assert "public.b" not in pgdump.copied(io.BytesIO(STREAM[:cut]))


def test_rows_of_an_extension_are_not_compared(host, tmp_path, monkeypatch):
    (tmp_path / "dump").write_bytes(STREAM + b"\\.\n")
    start = process.start
    monkeypatch.setattr(postgres, "keeper", lambda site: "dmp-acme")
    monkeypatch.setattr(pgdump.process, "start", lambda argv, user, **more: start(["/usr/bin/cat"], **more))
    held = {"tables": {"public.b": 1, 'public."Od""d. (x)"': 0}, "members": ["public.a", "public.of_no_rows"]}
    pgdump.verify(acme(), str(tmp_path / "dump"), held)
    with pytest.raises(Failed, match="public.a is not of this backup"):
        pgdump.verify(acme(), str(tmp_path / "dump"), {**held, "members": []})


def test_differences_in_words():
    expected = {"a": 1, "b": 2, "c": 3}
    assert pgdump.difference(expected, dict(expected)) == ""
    assert pgdump.difference(expected, {"a": 1, "b": 2}) == "c is missing"
    assert pgdump.difference(expected, {**expected, "d": 1}) == "d is not of this backup"
    assert pgdump.difference(expected, {**expected, "b": 9}) == "b has 9 rows and not 2"
    assert pgdump.difference(expected, {"x": 1, "y": 1}).endswith("and 2 more")


def test_no_live_database_is_ever_dropped(monkeypatch):
    monkeypatch.setattr(postgres, "sql", lambda *_: pytest.fail("asked Postgres"))
    with pytest.raises(Failed, match="is a live database"):
        postgres.drop("sum-acme")


def test_working_copies_have_names_that_no_site_can_have():
    # acme-drill is a slug, so sum-acme-drill would be its live postgres.
    assert all("." in suffix for suffix in (postgres.DRILL, postgres.NEW, postgres.OLD))
