"""What a deploy would bring, by real git."""

import pytest
from goldenpath import compare, history
from goldenpath.errors import Refused

from .test_source import repository, site  # noqa: F401  fixtures

RELEASE = "20261123T221500-1a2b3c4d"


@pytest.fixture
def live(site, repository, monkeypatch):  # noqa: F811
    """The repository's first commit is live as v1; compares a ref with it."""
    found = site.site(repository)
    found.facts["ref"] = "main"
    (site.root / "releases" / RELEASE).mkdir(parents=True)
    found.point(RELEASE)
    record = {"release": RELEASE, "action": "deploy", "ref": "v1", "sha": repository.first, "outcome": "live"}
    history.add(found, {**record, "when": "2026-01-01T00:00:00Z"})
    return lambda ref=None: compare.difference(found, ref)


def test_the_same(live, repository):  # noqa: F811
    found = live()
    assert (found["way"], found["commits"], found["new"]["sha"]) == ("same", [], repository.first)
    assert "a deploy would change no code" in compare.table(found)


def test_forward(live, repository):  # noqa: F811
    for name in ("shop/migrations/0002_price.py", "requirements/base.txt", "shop/views.py", "uv.lock"):
        (repository.path / name).parent.mkdir(parents=True, exist_ok=True)
        repository.commit(f"add {name}", name)
    found = live()
    assert found["way"] == "forward" and len(found["commits"]) == 4 and found["leaves"] == []
    assert found["migrations"] == ["shop/migrations/0002_price.py (new)"]
    assert found["requirements"] == ["requirements/base.txt (new)", "uv.lock (new)"]
    lines = compare.table(found).splitlines()
    assert lines[0].startswith("acme: live is v1 (") and lines[0].endswith(": 4 commits ahead")
    assert "  shop/migrations/0002_price.py (new)" in lines and "(a, 2026-01-01)" in lines[2]


def test_back_is_said_as_such(live, repository, site):  # noqa: F811
    second = repository.commit("second")
    repository.git("branch", "older", repository.first)
    found = site.site(repository)
    history.add(found, {"release": RELEASE, "action": "deploy", "ref": "main", "sha": second, "outcome": "live",
                        "when": "2026-01-02T00:00:00Z"})  # fmt: skip
    told = live("older")
    assert told["way"] == "back" and len(told["leaves"]) == 1
    assert "BACK by 1 commit; a deploy takes them out of production" in compare.table(told)


def test_aside(live, repository):  # noqa: F811
    repository.git("checkout", "--quiet", "--orphan", "other")
    repository.commit("another beginning\x1b[2J")
    told = live("other")
    assert told["way"] == "aside"
    assert "ASIDE, with 1 commit more and 1 commit less" in compare.table(told) and "\x1b" not in compare.table(told)


def test_before_the_first_release(site, repository):  # noqa: F811
    found = site.site(repository)
    found.facts["ref"] = "main"
    with pytest.raises(Refused, match="acme has no release yet"):
        compare.difference(found)
