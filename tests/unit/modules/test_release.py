"""The façade of releases: what goes to the engine, and what is known without it."""

import pytest

SITE = {"ref": "v1", "secrets": {"TOKEN": "s3cr3t-canary"}}


class Engine:
    """What the engine is asked."""

    def __init__(self):
        self.asked = []

    def call(self, *words, request=None, follow=None):
        self.asked.append((words, request, follow))
        return ["done"]


@pytest.fixture
def engine():
    return Engine()


@pytest.fixture
def release(load, engine, tmp_path):
    module = load("_modules/release.py", salt={"engine.call": engine.call})
    module.ROOT, module.SITES = str(tmp_path / "srv"), str(tmp_path / "sites")
    (tmp_path / "srv/acme").mkdir(parents=True)
    return module


def test_a_deploy_and_a_rollback_go_with_their_pillar(release, engine):
    assert release.deploy("acme", SITE, who="me@laptop", wait="5") == ["done"]
    release.rollback("acme", SITE, "r1", "me@laptop", restore_database=True)
    (words, request, follow), (back, asked, _) = engine.asked
    assert words == ("call", "deploy", "acme") and follow == "acme"
    assert request == {"pillar": SITE, "who": "me@laptop", "wait": 5}
    assert back == ("call", "rollback", "acme")
    assert asked == {
        "pillar": SITE, "release": "r1", "who": "me@laptop", "wait": 0, "restore_database": True,
    }  # fmt: skip


def test_no_secret_is_an_argument(release, engine):
    release.deploy("acme", SITE)
    assert "canary" not in " ".join(engine.asked[0][0])


def test_before_the_first_release_the_engine_is_not_asked(release, engine, tmp_path):
    assert release.settle("acme", SITE, True) == release.unsettled("acme", SITE) == []
    assert engine.asked == []
    (tmp_path / "srv/acme/current").symlink_to("releases/r")
    assert release.settle("acme", SITE, True) == release.unsettled("acme", SITE) == ["done"]
    assert [words[1] for words, _, _ in engine.asked] == ["settle", "unsettled"]


def test_strangers(release, tmp_path):
    assert release.strangers(["acme"]) == []
    (tmp_path / "sites").mkdir()
    for name in ("acme.json", "acme-two.json", "acme.json.new"):
        (tmp_path / "sites" / name).write_text("{}")
    assert release.strangers(["acme", "acme-two"]) == []
    assert release.strangers(["acme-two"]) == ["acme"]


def test_the_rest_is_passed_on(release, engine):
    release.report("3")
    release.maintenance("acme")
    release.maintenance("acme", True)
    release.retire("old")
    assert [(words, request) for words, request, _ in engine.asked] == [
        (("releases", "--limit=3"), None),
        (("call", "maintenance", "acme"), {"pillar": None}),
        (("call", "maintenance", "acme"), {"pillar": None, "on": True}),
        (("call", "retire", "old"), {"pillar": None}),
    ]
