"""Where a site keeps what it must not lose: what its own settings say, and what is made of it."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
from goldenpath import keeping, sandbox
from goldenpath.errors import Failed

POSTGRES, SQLITE = "django.db.backends.postgresql", "django.db.backends.sqlite3"


def told(databases=None, uploads=(), **more):
    known = {alias: {"engine": engine, "name": name} for alias, (engine, name) in (databases or {}).items()}
    settings = {"databases": known, "uploads": list(uploads), "static_url": "/static/", **more}
    return "$ manage.py check\n::settings " + json.dumps(settings) + "\n"


def test_what_the_tree_gave_is_no_remark(site):
    output = told({"default": (POSTGRES, site.name)}, [site.path("media"), site.path("media/private")])
    assert keeping.judged(site, "r1", output) == []


@pytest.mark.parametrize("output", ["", "nothing", *(f"::settings {each}" for each in ("{", "[]", "null", '"x"'))])
def test_a_site_that_tells_nothing_is_not_judged(site, output):
    assert keeping.judged(site, "r1", output) == []


@pytest.mark.parametrize("name", ["{src}/db.sqlite3", "db.sqlite3", "{src}/../src/data/db", "{root}/releases/r0/db"])
@pytest.mark.parametrize("alias", ["default", "audit"])
def test_a_database_inside_the_release_is_refused(site, name, alias):
    """The next deploy would begin with an empty one, and be green."""
    place = name.format(src=site.release("r1", "src"), root=site.root)
    databases = {"default": (POSTGRES, site.name), alias: (SQLITE, place)}
    with pytest.raises(Failed, match=rf"^The database '{alias}' is SQLite .* inside the release: .* read DATABASE_URL"):
        keeping.judged(site, "r1", told(databases))


@pytest.mark.parametrize(
    ("databases", "remark"),
    [
        ({"default": (SQLITE, "/srv/sum/acme-kitchens/media/db.sqlite3")}, "'default' (sqlite3, /srv/sum"),
        ({"default": (SQLITE, "/var/lib/sum-acme-kitchens/db")}, "'default' (sqlite3, /var/lib"),
        ({"default": (POSTGRES, "elsewhere")}, "'default' (postgresql, elsewhere)"),
        ({"default": ("django.db.backends.mysql", "shop")}, "'default' (mysql, shop)"),
    ],
)
def test_a_database_that_stays_and_is_in_no_backup_is_told(site, databases, remark):
    (found,) = keeping.judged(site, "r1", told(databases))
    assert remark in found and "is in no backup" in found


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"debug": True}, r"^DEBUG is on: .* Try: DEBUG = False in acme_kitchens\.settings\.production$"),
        ({"public_key": True}, r'^SECRET_KEY is the one of .* Try: SECRET_KEY = os\.environ\["DJANGO_SECRET_KEY"\]'),
        ({"static_url": "/assets/"}, r"^STATIC_URL is '/assets/', .* Try: STATIC_URL = \"static/\" in acme_kitchens"),
        ({"static_url": "/static/site/"}, "^STATIC_URL is '/static/site/'"),
    ],
)
def test_what_harms_the_visitors_is_refused(site, more, sentence):
    with pytest.raises(Failed, match=sentence):
        keeping.judged(site, "r1", told({"default": (POSTGRES, site.name)}, **more))


@pytest.mark.parametrize(
    "more",
    [
        {"static_url": "static/"}, {"static_url": "/static/"}, {"static_url": ""}, {"static_url": "https://cdn.example/x/"},
        {"static_url": "/assets/", "whitenoise": True},
    ],
)  # fmt: skip
def test_static_files_that_are_found_are_no_fault(site, more):
    assert keeping.judged(site, "r1", told({"default": (POSTGRES, site.name)}, **more)) == []


def test_a_second_postgres_database_is_the_sites_own_affair(site):
    assert keeping.judged(site, "r1", told({"default": (POSTGRES, site.name), "other": (POSTGRES, "x")})) == []


def test_uploads_inside_the_release_are_refused(site):
    with pytest.raises(Failed, match=r"^Uploads are kept in .*/src/media, inside the release: .*DJANGO_MEDIA_ROOT"):
        keeping.judged(site, "r1", told({}, [site.release("r1", "src/media")]))
    (remark,) = keeping.judged(site, "r1", told({}, ["/srv/uploads"]))
    assert "/srv/uploads" in remark


# What run_manage.py tells, with a Django that is played by a few modules of its names.

CONF = """
class settings:
    configured = True
    DATABASES = {"default": {"ENGINE": "e", "NAME": "n"}}
    DEBUG, SECRET_KEY, STATIC_URL, MIDDLEWARE = True, "django-insecure-x", None, ["WhiteNoiseMiddleware"]
    STATIC_ROOT = "staticfiles"
    MEDIA_URL, MEDIA_ROOT = "/files/", ""
    CACHES = {"default": {"BACKEND": "LocMemCache"}}
"""
DJANGO = {
    "django/__init__.py": "",
    "django/apps.py": "class apps:\n    ready = True\n    get_models = staticmethod(lambda: MODELS)\nMODELS = []\n",
    "django/conf.py": CONF,
    "django/core/__init__.py": "", "django/core/files/__init__.py": "", "django/db/__init__.py": "",
    "django/core/files/storage.py": "class FileSystemStorage:\n    location = '/somewhere'\n",
    "django/db/models.py": "class FileField:\n    pass\n",
    "manage.py": """
import sys
from django.apps import MODELS
from django.core.files.storage import FileSystemStorage
from django.db.models import FileField
field = FileField(); field.storage = FileSystemStorage()
other = FileField(); other.storage = object()
class Model:
    class _meta:
        get_fields = staticmethod(lambda: [field, other, "no field"])
MODELS[:] = [Model]
sys.exit(int(sys.argv[-1]) if sys.argv[-1].isdigit() else 0)
""",
}  # fmt: skip


def manage(folder, *commands, variables=None, **changes):
    for name, text in {**DJANGO, **changes}.items():
        path = pathlib.Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    argv = [sys.executable, f"{sandbox.PROGRAMS}/run_manage.py", json.dumps(commands)]
    env = {"PATH": os.environ["PATH"], "DJANGO_STATIC_ROOT": f"{folder}/served", **(variables or {})}
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, env=env)
    return [line for line in done.stdout.splitlines() if line.startswith("::")]


def test_the_settings_in_force_are_told(tmp_path):
    said = manage(tmp_path, [True, "check"])
    assert json.loads(said[-1].partition(" ")[2]) == {
        "databases": {"default": {"engine": "e", "name": "n"}}, "uploads": ["/somewhere"], "debug": True,
        "public_key": True, "static_url": "", "whitenoise": True, "media_url": "/files/", "no_redis_client": False,
        "overruled": [],
    }  # fmt: skip


def told_settings(said):
    return json.loads(said[-1].partition(" ")[2])


def test_uploads_beside_the_code_go_where_they_stay(tmp_path):
    """As MEDIA_ROOT = BASE_DIR / "media", which is what most sites write."""
    kept, tmp_path = tmp_path / "kept", tmp_path / "src"
    kept.mkdir()
    conf = CONF.replace('MEDIA_ROOT = "/files/", ""', f'MEDIA_ROOT = "/files/", "{tmp_path}/up/media/"')
    storage = f"class FileSystemStorage:\n    location = '{tmp_path}/up/media'\n"
    files = {"django/conf.py": conf, "django/core/files/storage.py": storage}

    def uploads(**more):
        return told_settings(
            manage(tmp_path, [True, "check"], variables={"DJANGO_MEDIA_ROOT": str(kept)}, **files, **more)
        )["uploads"]

    assert uploads() == [str(kept)]
    assert os.path.realpath(tmp_path / "up/media") == str(kept)
    # Once more, as a deploy that is repeated.
    assert uploads() == [str(kept)]
    # What the checkout brings is there as well, and never over what a visitor left.
    (tmp_path / "up/media").unlink()
    (kept / "a.txt").write_text("a visitor's")
    assert uploads(**{"up/media/a.txt": "theirs", "up/media/deep/b.txt": "theirs"}) == [str(kept)]
    assert (kept / "a.txt").read_text() == "a visitor's" and (kept / "deep/b.txt").read_text() == "theirs"
    assert os.path.realpath(tmp_path / "up/media") == str(kept)


@pytest.mark.parametrize(
    ("conf", "overruled"),
    [
        ("", []),
        ("    CELERY_RESULT_BACKEND = 'django-db'\n", ["CELERY_RESULT_BACKEND"]),
        ("    CELERY_RESULT_BACKEND = 'redis://ours'\n", []),
        ("    CELERY_BROKER_URL = None\n", []),
    ],
)
def test_what_the_environment_takes_the_place_of_is_told(tmp_path, conf, overruled):
    variables = dict.fromkeys(("CELERY_RESULT_BACKEND", "CELERY_BROKER_URL"), "redis://ours")
    said = manage(tmp_path, [True, "check"], variables=variables, **{"django/conf.py": CONF + conf})
    assert told_settings(said)["overruled"] == overruled


def test_remarks_on_what_the_tree_does_otherwise(site):
    site.facts["celery"] = {"worker": True}
    postgres = {"default": (POSTGRES, site.name)}
    (found,) = keeping.judged(site, "r1", told(postgres, overruled=["CELERY_RESULT_BACKEND"]))
    assert "env: {CELERY_RESULT_BACKEND: null}" in found
    (found,) = keeping.judged(site, "r1", told(postgres, [site.path("media")], media_url="/files/"))
    assert found == "MEDIA_URL is '/files/', and uploads are served below /media/"
    for url in ("/media/", "media/", "", "https://cdn.example/m/"):
        assert keeping.judged(site, "r1", told(postgres, [site.path("media")], media_url=url)) == []
    with pytest.raises(Failed, match=r"the environment has no Redis client.* dependencies: \{add: \[redis\]\}"):
        keeping.judged(site, "r1", told(postgres, no_redis_client=True))


def test_static_files_that_a_site_collects_elsewhere_are_served(tmp_path):
    """As a STATIC_ROOT in the checkout: whitenoise and manifests read them there, Caddy from the release's folder."""
    served = tmp_path / "served"
    said = manage(
        tmp_path, [False, "collectstatic"], **{"staticfiles/css/a.css": "a", "staticfiles/staticfiles.json": ""}
    )
    assert said[0] == "::manage collectstatic 0"
    assert (served / "css/a.css").read_text() == "a" and (tmp_path / "staticfiles/css/a.css").exists()
    served.joinpath("css/a.css").unlink()
    served.joinpath("css").rmdir()
    served.joinpath("css").write_text("in its place")
    assert manage(tmp_path, [False, "collectstatic"])[0] == "::manage collectstatic 1"


def test_a_site_that_breaks_there_breaks_nothing(tmp_path):
    assert manage(tmp_path, [True, "check"], **{"django/conf.py": "raise RuntimeError\n"})[-1] == "::manage check 0"


@pytest.mark.parametrize(("code", "ran"), [("0", ["0", "0"]), ("1", ["1"])])
def test_after_is_run_where_the_one_before_it_went_well(tmp_path, code, ran):
    """As `migrate` after `migrate --check`: squashed migrations are written down by it, and by nothing else."""
    said = manage(tmp_path, [True, "migrate", code], ["after", "migrate"])
    assert [line.split()[2] for line in said if line.startswith("::manage")] == ran
