"""The state over a site's environment file: what it changes, what it tells, and what it never shows."""

import os

import pytest
from salt.exceptions import CommandExecutionError

SLUG = "acme-kitchens"


class World:
    """The state over the real module, with the file in a folder of the test."""

    def __init__(self, load, folder, site):
        self.site = site
        self.mode, self.user, self.group = "0640", "root", f"sum-{SLUG}"
        self.module = load(
            "_modules/site_env.py",
            salt={
                "file.group_to_gid": lambda group: os.getgid(), "file.get_mode": lambda path: self.mode,
                "file.get_user": lambda path: self.user, "file.get_group": lambda path: self.group,
            },
        )  # fmt: skip
        (folder / SLUG).mkdir()
        self.file = folder / SLUG / ".env"
        self.module.path = lambda slug: str(folder / slug / ".env")
        self.state = load(
            "_states/site_env.py",
            pillar={"sites": {SLUG: site}},
            salt={
                f"site_env.{name}": getattr(self.module, name)
                for name in ("read", "wanted", "facts", "write", "without")
            },
        )

    def apply(self, test=False):
        self.state.__opts__["test"] = test
        return self.state.managed(SLUG)


@pytest.fixture
def world(load, tmp_path, site):
    site["secrets"] = {"TOKEN": "s3cr3t-canary"}
    return World(load, tmp_path, site)


def test_first_apply(world):
    told = world.apply(test=True)
    assert told["result"] is None
    assert "TOKEN" in told["changes"]["added"]
    assert not world.file.exists()
    done = world.apply()
    assert (done["result"], done["changes"]) == (True, told["changes"])
    assert 'TOKEN="s3cr3t-canary"' in world.file.read_text()
    again = world.apply()
    assert (again["result"], again["changes"]) == (True, {})
    assert world.apply(test=True) == again


def test_the_secret_key_stays(world):
    world.apply()
    before = world.module.read(SLUG)["DJANGO_SECRET_KEY"]
    world.site["env"]["NEW"] = "1"
    assert world.apply()["changes"] == {"added": ["NEW"]}
    assert world.module.read(SLUG)["DJANGO_SECRET_KEY"] == before


def test_changes_name_variables_and_never_values(world):
    rets = [world.apply()]
    key = world.module.read(SLUG)["DJANGO_SECRET_KEY"]
    world.site["secrets"] = {"TOKEN": "other-canary"}
    world.site["env"] = {}
    for test in (True, False):
        rets.append(world.apply(test))
        assert rets[-1]["changes"] == {"changed": ["TOKEN"], "removed": ["EMAIL_HOST"]}
    assert world.module.read(SLUG)["TOKEN"] == "other-canary"
    for value in ("canary", key, "smtp.example"):
        assert value not in repr(rets)


@pytest.mark.parametrize(("mode", "user"), [("0644", "root"), ("0600", f"sum-{SLUG}")])
def test_mode_and_owner_are_set_again(world, mode, user):
    world.apply()
    text = world.file.read_text()
    world.file.chmod(0o644)
    world.mode, world.user = mode, user
    assert world.apply(test=True)["changes"] == {"mode": f"0640, owned by root, its group sum-{SLUG}"}
    assert world.file.stat().st_mode & 0o777 == 0o644
    assert world.apply()["changes"] == {"mode": f"0640, owned by root, its group sum-{SLUG}"}
    assert world.file.stat().st_mode & 0o777 == 0o640
    assert world.file.read_text() == text


def test_edits_on_the_host_are_undone(world):
    world.apply()
    text = world.file.read_text()
    world.file.write_text(text.replace("smtp.example", "evil.example") + 'EXTRA="1"\n')
    assert world.apply()["changes"] == {"changed": ["EMAIL_HOST"], "removed": ["EXTRA"]}
    assert world.file.read_text() == text


def test_releases_of_before_get_their_own(world):
    world.apply()
    text, folder = world.file.read_text(), world.file.parent / "releases/a"
    folder.mkdir(parents=True)
    (folder / "release.env").write_text("")
    assert world.apply(test=True)["changes"] == {"releases": ["a"]} and not (folder / "site.env").exists()
    world.site["env"]["NEW"] = "1"
    assert world.apply()["changes"] == {"added": ["NEW"], "releases": ["a"]}
    assert (folder / "site.env").read_text() == text != world.file.read_text()
    assert world.apply()["changes"] == {}


@pytest.mark.parametrize("function", ["read", "write"])
def test_a_failure_is_one_sentence_and_no_change(world, function):
    def fails(*_):
        raise CommandExecutionError(".env on web1 cannot be touched. Try: ls")

    world.state.__salt__[f"site_env.{function}"] = fails
    ret = world.apply()
    assert ret == {
        "name": SLUG,
        "result": False,
        "changes": {},
        "comment": ".env on web1 cannot be touched. Try: ls",
    }
