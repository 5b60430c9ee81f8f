"""What is read of a repository: a block that the pillar's own judge takes, for projects of other people's shapes."""

import pathlib

import pytest
import yaml

from _pillar import goldenpath
from _runners import inspection
from tests.conftest import ROOT

MANAGE = 'import os\nos.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings.local")\n'
SETTINGS = """
import os
import environ
env = environ.Env()
INSTALLED_APPS = ["django.contrib.staticfiles"]
SECRET_KEY = env("DJANGO_SECRET_KEY")
DATABASES = {"default": env.db("DATABASE_URL")}
SENTRY_DSN = os.environ["SENTRY_DSN"]
MAIL = os.environ["MAIL_HOST"]
COLOUR = env("COLOUR", default="teal")
if "PROXY" in os.environ:
    PROXY = os.environ["PROXY"]
CACHES = {"default": {"BACKEND": "django.core.cache.backends.db.DatabaseCache", "LOCATION": "pages"}}
"""
PLAIN = {
    "manage.py": MANAGE,
    "config/__init__.py": "",
    "config/wsgi.py": "application = None\n",
    "config/urls.py": 'urlpatterns = [path("shop/", x), path("healthz/", health)]\n',
    "config/settings/__init__.py": "",
    "config/settings/base.py": SETTINGS,
    "config/settings/local.py": "from .base import *\n",
    "config/settings/production.py": "from .base import *\n",
    "requirements.txt": "Django==5.2.19\npsycopg[binary]==3.3.9\n",
}


@pytest.fixture
def block(tmp_path):
    """The block for a project of these files: as text, and as the pillar has it."""

    def block(**changes):
        for name, text in {**PLAIN, **changes}.items():
            if text is None:
                continue
            place = tmp_path / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text)
        text = inspection.inspect(tmp_path, "shop", "shop.example", "https://git.example/shop.git", "v1")
        return text, yaml.safe_load(text)["shop"]

    return block


def judged(site):
    """What the pillar's judge says of a host with this site, once the operator has chosen."""
    chosen = yaml.safe_load(yaml.safe_dump(site).replace("CHOOSE", "chosen"))
    return goldenpath.validate({"redis": {}, "sites": {"shop": chosen}})


def test_a_usual_project(block):
    text, site = block()
    assert site == {
        "domains": ["shop.example"], "repo": "https://git.example/shop.git", "ref": "v1", "project": "config",
        "redis": {"cache": 0, "broker": 1}, "release": ["manage.py createcachetable"], "health": "/healthz/",
        "env": {"MAIL_HOST": "CHOOSE"}, "secrets": {"SENTRY_DSN": "CHOOSE"},
    }  # fmt: skip
    assert judged(site) == []
    assert "# read as well, with a default: COLOUR, PROXY" in text and "TO CHOOSE" not in text


def test_the_example_site():
    site = yaml.safe_load(inspection.inspect(ROOT / "examples/site", "acme", "acme.example", "/srv/git/a.git"))["acme"]
    assert judged(site) == []
    assert site["project"] == "example_site" and site["celery"] == {"worker": True} and site["health"] == "/health/"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"package.json": '{"scripts": {"build": "x"}}', "package-lock.json": "{}"},
         {"build": ["npm ci", "npm run build"], "packages": ["npm"]}),
        ({"config/celery.py": "app = None\n", "requirements.txt": "celery==5\npsycopg==3\n"},
         {"celery": {"worker": True}}),
        ({"config/celery_app.py": "app.conf.beat_schedule = {}\n", "requirements.txt": "celery==5\npsycopg==3\n"},
         {"celery": {"worker": True, "beat": True}}),
        ({"requirements.txt": "django-rq==3\npsycopg==3\n"},
         {"processes": {"djangorq": {"command": "manage.py rqworker default"}}}),
        ({"Procfile": "web: gunicorn x\nmailer: python manage.py mailer --all\nrelease: python manage.py migrate\n"},
         {"processes": {"mailer": {"command": "manage.py mailer --all"}}}),
        ({"config/wsgi.py": None, "wsgi.py": ""}, {"project": "config"}),
        ({"requirements.txt": "channels[daphne]==4\npsycopg==3\n"}, {"asgi": True, "wsgi": None}),
        ({"requirements.txt": "daphne==4\npsycopg==3\n",
          "config/settings/base.py": SETTINGS + 'ASGI_APPLICATION = "config.routing.app"\n'},
         {"asgi": True, "wsgi": "config.routing:app"}),
        ({"requirements.txt": "psycopg2==2.9\n"}, {"packages": ["build-essential", "python3-dev", "libpq-dev"]}),
        ({"requirements.txt": "Django==5\n"}, {"dependencies": {"add": ["psycopg[binary]"]}}),
        ({"config/urls.py": 'path("accounts/signup/", x)\n'}, {"health": "/"}),
        ({"config/settings/base.py": SETTINGS + "INSTALLED_APPS += ['django.contrib.gis']\n"},
         {"postgres": {"extensions": ["postgis"]}}),
        ({"config/settings/base.py": SETTINGS + "DB = os.environ['DB_NAME']\n"},
         {"env_names": {"DB_NAME": "DJANGO_DB_NAME"}}),
        ({"pyproject.toml": "[project]\nrequires-python='>=3.12'\n[dependency-groups]\ndev = []\nprod = ['x']\n",
          "uv.lock": "", "requirements.txt": None}, {"dependencies": {"add": ["psycopg[binary]"], "groups": ["prod"]}}),
    ],
)  # fmt: skip
def test_other_shapes(block, changes, said):
    _, site = block(**changes)
    assert {key: site.get(key) for key in said} == said
    assert judged(site) == []


def test_a_project_in_a_folder(tmp_path):
    for name, text in PLAIN.items():
        place = tmp_path / "backend" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/manage.py").write_text("")
    site = yaml.safe_load(inspection.inspect(tmp_path, "shop", "shop.example", "/srv/git/shop.git"))["shop"]
    assert site["directory"] == "backend" and site["project"] == "config" and judged(site) == []


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"config/settings/production.py": None}, "settings: one of config.settings.base, config.settings.local"),
        ({"config/settings/base.py": SETTINGS + "X = 'sqlite3'\n"}, "the settings know SQLite"),
        ({"requirements.txt": "uvicorn==0.54.0\npsycopg==3\n"}, "asgi: the project has an ASGI application"),
        ({"requirements.txt": None}, "requirements: there is none of the usual files"),
        ({"config/settings/base.py": SETTINGS + "L = env('REDIS_URL') + '/1'\n"}, 'REDIS_URL: "{redis_base}"'),
    ],
)
def test_what_an_operator_has_to_choose(block, changes, note):
    text, _ = block(**changes)
    (line,) = [line for line in text.splitlines() if note in line]
    assert line.startswith("  # TO CHOOSE: ")


def test_nothing_of_it_is_run_and_no_link_is_followed(tmp_path, block):
    (tmp_path / "outside").write_text("")
    block(**{"config/settings/base.py": SETTINGS + f"open({str(tmp_path / 'ran')!r}, 'w')\n", "setup.py": "1/0\n"})
    assert not (tmp_path / "ran").exists()
    place = pathlib.Path(tmp_path, "config/celery.py")
    place.symlink_to(tmp_path / "outside")
    assert "celery" not in block(**{"requirements.txt": "celery==5\npsycopg==3\n"})[1]


def test_no_django_project(tmp_path):
    with pytest.raises(inspection.Nothing, match=r"x\.git has no manage\.py\. Try: name the repository"):
        inspection.inspect(tmp_path, repo="x.git")


def test_settings_that_no_python_reads(block):
    _, site = block(**{"config/settings/base.py": "INSTALLED_APPS = [\n<<<<<<< HEAD\n"})
    assert "env" not in site
