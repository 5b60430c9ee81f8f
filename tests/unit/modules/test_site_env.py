"""A site's environment file: its text, read back by this module and by a real shell; its making; its mode."""

import importlib
import os
import pathlib
import re
import stat
import subprocess

import pytest
from salt.exceptions import CommandExecutionError

from _pillar import goldenpath as pillar
from tests.conftest import ROOT

VALUES = {
    "EMPTY": "",
    "PLAIN": "smtp.example",
    "SPACES": "  two  words ",
    "DOUBLE": 'say "hi"',
    "SINGLE": "it's",
    "BOTH": "\"'\"'",
    "DOLLAR": "$HOME ${HOME} $(id) $$ $1 $",
    "BACKTICK": "`id`",
    "BACKSLASH": "\\",
    "BACKSLASHES": "a\\b\\\\c\\",
    "ESCAPES": '\\n \\t \\" \\$',
    "NEWLINE": "one\ntwo\n",
    "ONLY_NEWLINE": "\n",
    "INJECTED": 'a"\nPATH="/evil',
    "LOOKS_LIKE_A_LINE": 'x\nEVIL="1"\ny',
    "CONTINUED": "a\\\nb",
    "COMMENT": "# no comment",
    "PERCENT": "100%s %i %%",
    "SEMICOLON": "a; touch x & b | c > d",
    "GLOB": "* ? [a]",
    "TAB": "a\tb",
    "UNICODE": "Grüße 🗝",
    "URL": "redis://127.0.0.1:6379/0?a=b&c=d#e",
    "_lower9": "name of another form",
}
SLUG = "acme-kitchens"


@pytest.fixture
def env(load, tmp_path):
    module = load(
        "_modules/site_env.py",
        salt={
            "redis_server.url": lambda slug: f"redis://:password-of-{slug}@127.0.0.1:200",
            "file.group_to_gid": lambda group: os.getgid() if group == f"sum-{SLUG}" else "",
        },
    )
    module.path = lambda slug: str(tmp_path / slug / ".env")
    (tmp_path / SLUG).mkdir()
    return module


def test_round_trip(env):
    assert env.load(env.dump(VALUES)) == VALUES


@pytest.mark.parametrize("name", VALUES)
def test_round_trip_of_each(env, name):
    assert env.load(env.dump({name: VALUES[name]})) == {name: VALUES[name]}


def test_the_engine_has_the_same_form(env, monkeypatch):
    """Provisioning writes it on a bare host, before there is an engine: one form, held by one table."""
    monkeypatch.syspath_prepend(str(ROOT / "salt/host/files/lib"))
    engine = importlib.import_module("goldenpath.env")
    assert engine.load(env.dump(VALUES)) == env.load(engine.dump(VALUES)) == VALUES
    assert env.dump(VALUES).partition("\n")[2] == engine.dump(VALUES)


def test_a_real_shell_reads_the_same(env, tmp_path):
    path = tmp_path / "env"
    path.write_text(env.dump(VALUES))
    # The file and nothing else: each variable ends in a NUL, since a value may hold anything but that.
    script = '. "$1"; shift; for name; do eval "printf \'%s\\0\' \\"\\$$name\\""; done'
    done = subprocess.run(
        ["sh", "-c", script, "sh", str(path), *VALUES],
        env={"HOME": "/evil"},
        capture_output=True,
        check=True,
        timeout=10,
    )
    assert done.stderr == b""
    assert done.stdout.decode().split("\0")[:-1] == list(VALUES.values())


def test_only_the_escapes_that_systemd_knows(env):
    """systemd.exec(5): inside double quotes a backslash escapes only these four; elsewhere it stays."""
    bodies = re.findall(r'="((?:[^"\\]|\\.)*)"$', env.dump(VALUES), re.MULTILINE | re.DOTALL)
    assert len(bodies) == len(VALUES)
    assert set(re.findall(r"\\(.)", "".join(bodies), re.DOTALL)) == set('"\\$`')


def test_text_is_sorted_and_says_who_wrote_it(env):
    text = env.dump({"B": "1", "A": "2"})
    assert text.splitlines()[0].startswith("# Managed by Golden Path")
    assert text.splitlines()[1:] == ['A="2"', 'B="1"']
    assert env.dump({"A": "2", "B": "1"}) == text


def test_lines_of_another_form_are_passed_over(env):
    assert env.load('# A="1"\nB=2\nC=\'3\'\nexport D="4"\n9E="5"\nF="6"\n') == {"F": "6"}


def test_a_redis_of_its_own(env, site):
    site["redis"]["own"] = True
    values = env.wanted(SLUG, site)
    place = f"redis://:password-of-{SLUG}@127.0.0.1:200"
    assert values["REDIS_URL"] == f"{place}/0"
    assert values["CELERY_BROKER_URL"] == values["CELERY_RESULT_BACKEND"] == f"{place}/1"


def test_wanted(env, site):
    values = env.wanted(SLUG, site, {"DJANGO_SECRET_KEY": "k" * 50, "GONE": "x"})
    assert values == {
        "DJANGO_SETTINGS_MODULE": "acme_kitchens.settings.production",
        "DJANGO_SECRET_KEY": "k" * 50,
        "ALLOWED_HOSTS": "acme.example,www.acme.example",
        "SECRET_KEY": "k" * 50,
        "DATABASE_URL": f"postgres://sum-{SLUG}@/sum-{SLUG}?host=/var/run/postgresql",
        "DJANGO_ALLOWED_HOSTS": "acme.example,www.acme.example",
        "CSRF_TRUSTED_ORIGINS": "https://acme.example,https://www.acme.example",
        "DJANGO_CSRF_TRUSTED_ORIGINS": "https://acme.example,https://www.acme.example",
        "SITE_DOMAIN": "acme.example",
        "DJANGO_DB_NAME": f"sum-{SLUG}",
        "DJANGO_DB_USER": f"sum-{SLUG}",
        "DJANGO_DB_PASSWORD": "",
        "DJANGO_DB_HOST": "/var/run/postgresql",
        "DJANGO_DB_PORT": "5432",
        "DJANGO_STATIC_ROOT": f"/srv/sum/{SLUG}/static",
        "DJANGO_MEDIA_ROOT": f"/srv/sum/{SLUG}/media",
        "REDIS_URL": "redis://127.0.0.1:6379/0",
        "CELERY_BROKER_URL": "redis://127.0.0.1:6379/1",
        "CELERY_RESULT_BACKEND": "redis://127.0.0.1:6379/1",
        "EMAIL_HOST": "smtp.example",
        "SENTRY_DSN": "https://public-key@sentry.example/1",
    }
    assert all(isinstance(value, str) for value in values.values())


def test_what_a_site_reads_is_in_the_example(env, site):
    shown = set(re.findall(r"^([A-Z_]+)=", (ROOT / "examples/site/.env.example").read_text(), re.MULTILINE))
    assert (
        env.wanted(SLUG, {**site, "env": {}, "env_names": {}, "secrets": {}}).keys() - set(pillar.cross.formats.USUAL)
        <= shown
    )


def test_the_usual_names(env, site):
    """One list in the pillar's judge, for names that may be left out; each is really given."""
    bare = env.wanted(SLUG, {**site, "env": {}, "env_names": {}, "secrets": {}})
    assert set(pillar.cross.formats.USUAL) <= bare.keys()
    for name in set(pillar.cross.formats.USUAL) - {"SECRET_KEY"}:
        assert env.wanted(SLUG, {**site, "env": {name: "its own"}})[name] == "its own"
        assert name not in env.wanted(SLUG, {**site, "env": {name: None}})


def test_a_number_is_appended_by_the_site(env, site):
    assert env.wanted(SLUG, {**site, "env": {"REDIS_URL": "{redis_base}", "QUEUE": "{redis_base}/5"}}).items() >= {
        ("REDIS_URL", "redis://127.0.0.1:6379"), ("QUEUE", "redis://127.0.0.1:6379/5"),
    }  # fmt: skip


def test_names_of_the_sites_own(env, site):
    site["env_names"] = {"NETBOX_SECRET": "DJANGO_SECRET_KEY", "DB": "DJANGO_DB_NAME"}
    values = env.wanted(SLUG, site, {"DJANGO_SECRET_KEY": "k"})
    assert (values["NETBOX_SECRET"], values["DB"]) == ("k", f"sum-{SLUG}")


def test_secret_key_is_made_once_and_kept(env, site):
    first, second = (env.wanted(SLUG, site)["DJANGO_SECRET_KEY"] for _ in range(2))
    assert first != second
    assert len(first) >= 50
    assert env.wanted(SLUG, site, {"DJANGO_SECRET_KEY": first})["DJANGO_SECRET_KEY"] == first
    assert env.wanted(SLUG, site, {"DJANGO_SECRET_KEY": ""})["DJANGO_SECRET_KEY"]


def test_secret_key_of_the_pillar_wins(env, site):
    site["secrets"] = {"DJANGO_SECRET_KEY": "from-the-pillar"}
    assert env.wanted(SLUG, site, {"DJANGO_SECRET_KEY": "old"})["DJANGO_SECRET_KEY"] == "from-the-pillar"


def test_nothing_overrides_what_the_tree_sets(env, site):
    own = env.wanted(SLUG, {**site, "env": {}, "env_names": {}, "secrets": {}}, {"DJANGO_SECRET_KEY": "k"})
    own = {name: value for name, value in own.items() if name not in pillar.cross.formats.USUAL}
    site["env"] = dict.fromkeys(own, "evil")
    assert env.wanted(SLUG, site, {"DJANGO_SECRET_KEY": "k"}).items() >= own.items()


def test_write_and_read(env):
    assert env.read(SLUG) == {}
    assert env.write(SLUG, VALUES) is True
    assert env.read(SLUG) == VALUES
    assert os.listdir(os.path.dirname(env.path(SLUG))) == [".env"]


@pytest.mark.parametrize("umask", [0o000, 0o777])
def test_mode_from_the_first_byte_on(env, monkeypatch, umask):
    """Also where a file of another mode was left behind, and before anything is written."""
    with open(env.path(SLUG) + ".new", "w") as left:
        left.write("old " * 1000)
    os.chmod(left.name, 0o644)
    modes = []
    dump = env.dump

    def watched(values):
        modes.append(stat.S_IMODE(os.stat(env.path(SLUG) + ".new").st_mode))
        return dump(values)

    monkeypatch.setattr(env, "dump", watched)
    before = os.umask(umask)
    try:
        env.write(SLUG, {"A": "1"})
    finally:
        os.umask(before)
    assert modes == [0o640]
    assert stat.S_IMODE(os.stat(env.path(SLUG)).st_mode) == 0o640
    assert env.read(SLUG) == {"A": "1"}


def test_a_change_is_owed_and_releases_of_before_keep_what_they_run_with(env):
    folder = pathlib.Path(env.path(SLUG)).parent
    env.write(SLUG, {"A": "1"})
    assert not (folder / "restart.owed").exists(), "before the first release there is nothing to make anew"
    for name in ("a", "b", "c"):
        (folder / "releases" / name).mkdir(parents=True)
    for name in ("a", "b"):
        (folder / "releases" / name / "release.env").write_text("")
    (folder / "releases/b/site.env").write_text('A="0"\n')
    (folder / "current").symlink_to("releases/a")
    assert env.without(SLUG) == ["a"]
    env.write(SLUG, {"A": "1"})
    assert not (folder / "restart.owed").exists(), "nothing changed"
    os.unlink(folder / "releases/a/site.env")
    env.write(SLUG, {"A": "2"})
    assert (folder / "restart.owed").exists() and env.read(SLUG) == {"A": "2"} and env.without(SLUG) == []
    own = folder / "releases/a/site.env"
    assert env.load(own.read_text()) == {"A": "1"} and stat.S_IMODE(own.stat().st_mode) == 0o640
    assert (folder / "releases/b/site.env").read_text() == 'A="0"\n'
    # What the tree of before had not yet proven is not what a release runs with.
    os.unlink(own)
    (folder / ".env.before").write_text('A="9"\n')
    env.write(SLUG, {"A": "3"})
    assert env.load(own.read_text()) == {"A": "9"}


def test_names_are_the_engines(env):
    engine = importlib.import_module("goldenpath.site")
    assert (env.VARIABLES, env.OWED) == (engine.VARIABLES, engine.OWED)


def test_owner(env, monkeypatch):
    owners = []
    monkeypatch.setattr(os, "fchown", lambda descriptor, uid, gid: owners.append((uid, gid)))
    env.__salt__["file.group_to_gid"] = lambda group: 5678
    env.write(SLUG, {"A": "1"})
    # Root's: what starts a site is nothing that the site writes.
    assert owners == [(0, 5678)]


def test_a_write_that_fails_leaves_the_old_file(env):
    env.write(SLUG, {"A": "1"})
    env.__salt__["file.group_to_gid"] = lambda group: ""  # Salt's answer for a group that does not exist
    with pytest.raises(CommandExecutionError, match=r"\.env on web1 cannot be written: .* Try: df -h "):
        env.write(SLUG, {"A": "2"})
    assert env.read(SLUG) == {"A": "1"}


def test_no_folder(env):
    with pytest.raises(CommandExecutionError, match=r"cannot be written: .*No such file"):
        env.write("other", {"A": "1"})


def test_what_cannot_be_read_is_one_sentence(env):
    os.mkdir(env.path(SLUG))
    with pytest.raises(CommandExecutionError, match=r"\.env on web1 cannot be read: Is a directory\. Try: ls -l "):
        env.read(SLUG)


def test_bytes_that_are_no_text(env):
    with open(env.path(SLUG), "wb") as file:
        file.write(b'A="\xff"\n')
    with pytest.raises(CommandExecutionError, match="cannot be read: it is not UTF-8"):
        env.read(SLUG)


def test_facts(env):
    assert env.facts(SLUG) == {}
    env.write(SLUG, {})
    told = {"mode": "0640", "user": "root", "group": f"sum-{SLUG}"}
    env.__salt__.update({f"file.get_{name}": lambda path, value=value: value for name, value in told.items()})
    assert env.facts(SLUG) == told


def test_path(load):
    assert load("_modules/site_env.py").path(SLUG) == f"/srv/sum/{SLUG}/.env"
