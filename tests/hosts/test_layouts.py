"""Sites that nobody here wrote: other layouts, several on one host, and a host that only sudo makes root of."""

import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import textwrap

import pytest
import yaml

from lab.common import wait_for
from lab.controller import REPOSITORY, Controller
from lab.demo import ask
from lab.siterepo import SiteRepository

from .conftest import ROOT, SLUG, World

PINNED = "Django==5.2.19\ngunicorn==27.0.1\npsycopg[binary]==3.3.9\nredis==6.4.0\n"
SETTINGS = """
import os
from pathlib import Path

BASE = Path(__file__).resolve().parent
SECRET_KEY = os.environ["DJANGO_SECRET_KEY"]
ALLOWED_HOSTS = os.environ["ALLOWED_HOSTS"].split(",")
ROOT_URLCONF = "{package}.urls"
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.staticfiles"]
DATABASES = {{"default": {{
    "ENGINE": "django.db.backends.postgresql", "NAME": os.environ["DJANGO_DB_NAME"],
    "USER": os.environ["DJANGO_DB_USER"], "HOST": os.environ["DJANGO_DB_HOST"],
}}}}
CACHES = {{"default": {{
    "BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": os.environ["REDIS_URL"],
}}}}
STATIC_URL, STATIC_ROOT = "/static/", os.environ["DJANGO_STATIC_ROOT"]
STATICFILES_DIRS = [BASE / "theme"] if (BASE / "theme").is_dir() else []
"""
URLS = """
import os
from django.contrib.contenttypes.models import ContentType
from django.core.cache import cache
from django.http import JsonResponse
from django.urls import path
from {package} import facts

def health(request):
    cache.set("asked", 1)
    return JsonResponse({{
        "status": "ok", "git_sha": os.environ["GIT_SHA"], "rows": ContentType.objects.count(),
        "cached": cache.get("asked"), **facts.told(),
    }})

urlpatterns = [path("up", health), path("boom", lambda request: 1 / 0)]
"""
WSGI = """
from django.core.wsgi import get_wsgi_application
application = get_wsgi_application()
"""
MANAGE = """
import sys
from django.core.management import execute_from_command_line
if __name__ == "__main__":
    execute_from_command_line(sys.argv)
"""
PRICING = '[project]\nname = "pricing"\nversion = "1.0"\n[tool.setuptools]\npackages = ["pricing"]\n'


def project(package, folder, facts, manage=""):
    """A small Django project: its package below a folder, manage.py where `manage` says. Returns its files."""
    return {
        f"{manage}manage.py": MANAGE,
        f"{folder}{package}/__init__.py": "",
        f"{folder}{package}/settings.py": SETTINGS.format(package=package),
        f"{folder}{package}/urls.py": URLS.format(package=package),
        f"{folder}{package}/wsgi.py": WSGI,
        f"{folder}{package}/facts.py": textwrap.dedent(facts),
    }


# A project as its authors left it: settings by django-environ, all of its own below its own folder, no gunicorn.
COOK = {
    "manage.py": MANAGE,
    "wsgi.py": WSGI,
    "config/__init__.py": "",
    "config/settings.py": """
import environ
from pathlib import Path

BASE = Path(__file__).resolve().parent.parent
env = environ.Env()
SECRET_KEY = env("SECRET_KEY")
ALLOWED_HOSTS = env.list("DJANGO_ALLOWED_HOSTS")
CSRF_TRUSTED_ORIGINS = env.list("CSRF_TRUSTED_ORIGINS")
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
DATABASES = {"default": env.db("DATABASE_URL")}
CACHES = {"default": {
    "BACKEND": "django.core.cache.backends.db.DatabaseCache", "LOCATION": "pages",
}}
ROOT_URLCONF = "config.urls"
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.staticfiles", "config"]
STATIC_URL, STATIC_ROOT = "static/", BASE / "staticfiles"
STATICFILES_DIRS = [BASE / "assets"]
MEDIA_URL, MEDIA_ROOT = "media/", BASE / "media"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
""",
    "config/models.py": "from django.db import models\nclass Upload(models.Model):\n    file = models.FileField()\n",
    "config/migrations/__init__.py": "",
    "config/migrations/0001_initial.py": """
from django.db import migrations, models

class Migration(migrations.Migration):
    initial = True
    operations = [migrations.CreateModel("Upload", [
        ("id", models.BigAutoField(primary_key=True)), ("file", models.FileField(upload_to="")),
    ])]
""",
    "config/urls.py": """
import os
from django.core.cache import cache
from django.core.files.base import ContentFile
from django.http import JsonResponse
from django.shortcuts import redirect
from django.urls import path
from config.models import Upload

def home(request):
    cache.set("asked", 1)
    if "keep" in request.GET:
        Upload.objects.create().file.save("kept.txt", ContentFile(b"kept"))
    return JsonResponse({"uploads": Upload.objects.count(), "cached": cache.get("asked"),
                         "origins": os.environ["CSRF_TRUSTED_ORIGINS"]})

urlpatterns = [path("", lambda request: redirect("/en/")), path("en/", home)]
""",
    # What a bundler would make.
    "bundle.sh": "mkdir -p assets && echo 'body { color: teal }' > assets/bundle.css\n",
    "assets/.gitkeep": "",
    "ticker.sh": "trap 'exit 0' TERM; while :; do echo $RELEASE > $DJANGO_MEDIA_ROOT/tick; sleep 0.2; done\n",
    "pyproject.toml": """
[project]
name = "cook"
version = "1.0"
requires-python = ">=3.11"
dependencies = ["django==5.2.19", "django-environ==0.12.0"]

[dependency-groups]
dev = ["pytest"]
production = ["psycopg[binary]==3.3.9"]
""",
}


def locked(folder):
    """Write the lock of a project, as its authors do."""
    subprocess.run(
        [pathlib.Path(sys.executable).with_name("uv"), "lock", "--quiet"], cwd=folder, check=True,
        env={**os.environ, "UV_PYTHON_DOWNLOADS": "never"},
    )  # fmt: skip


class Tree(SiteRepository):
    """A repository of files that are given, and of other repositories at paths in it."""

    def __init__(self, folder, path, files, modules=()):
        self.folder, self.path = folder, path
        folder.mkdir()
        self._git("init", "--quiet", "--initial-branch=main")
        for place, url, sha in modules:
            files[".gitmodules"] = f'[submodule "{place}"]\n\tpath = {place}\n\turl = {url}\n'
            self._git("update-index", "--add", "--cacheinfo", f"160000,{sha},{place}")
            (folder / place).mkdir(parents=True)
        self.commit("First", files, tag="v1")


def site(package, domain, databases, **keys):
    """The pillar of a site without Celery, whose settings are one module."""
    return {
        "domains": [domain], "ref": "main", "project": package, "settings": f"{package}.settings",
        "redis": dict(zip(("cache", "broker"), databases, strict=True)), "workers": 1, "health": "/up",
        "tls": "internal", **keys,
    }  # fmt: skip


class Sites:
    """The shared host with two more sites: `shop` in a subfolder, `blog` below src/ with a submodule."""

    def __init__(self, world, folder):
        self.world = world
        self.shop = Tree(
            folder / "shop",
            "/srv/git/shop.git",
            {
                **project(
                    "shop",
                    "backend/",
                    """
                    import pricing
                    def told(): return {"price": pricing.PRICE}
                    """,
                    manage="backend/",
                ),
                # As pip reads them: `-r` from the file's folder, a package's path from where pip runs.
                "backend/requirements.txt": "-r ../requirements/base.txt\n./vendor/pricing\n",
                "requirements/base.txt": PINNED,
                "backend/vendor/pricing/pyproject.toml": PRICING,
                "backend/vendor/pricing/pricing/__init__.py": "PRICE = 17\n",
                "README.md": "The frontend is elsewhere.\n",
            },
        )
        self.theme = Tree(folder / "theme", "/srv/git/theme.git", {"look.css": "body { color: teal }\n"})
        self.blog = Tree(
            folder / "blog",
            "/srv/git/blog.git",
            {
                **project("blog", "src/", "def told(): return {'title': 'A blog'}\n"),
                "requirements/production.txt": "-r base.txt\ngunicorn==27.0.1\n",
                "requirements/base.txt": PINNED.replace("gunicorn==27.0.1\n", ""),
            },
            modules=[("src/blog/theme", "../theme.git", self._theme())],
        )
        self.cook = Tree(folder / "cook", "/srv/git/cook.git", dict(COOK))
        locked(self.cook.folder)
        self.cook.commit("Locked", {"uv.lock": (self.cook.folder / "uv.lock").read_text()})
        for repository in (self.shop, self.theme, self.blog, self.cook):
            repository.publish(world.host)
        # A server of git's own: a submodule's relative address is resolved against the site's.
        world.sh(
            "systemd-run --quiet --unit=x-git git -c safe.directory=* daemon --reuseaddr --export-all "
            "--listen=127.0.0.1 --base-path=/srv/git /srv/git"
        )
        self.pillar = {
            **world.pillar,
            # The host is shared: another test's repository is gone by now.
            "backup": {},
            "sites": {
                **world.pillar["sites"],
                "shop": site("shop", "shop.example", (2, 3), repo="/srv/git/shop.git", directory="backend"),
                "blog": site(
                    "blog", "blog.example", (4, 5), repo="git://127.0.0.1/blog.git",
                    requirements="requirements/production.txt",
                ),
                "cook": site(
                    "config", "cook.example", (6, 7), repo="/srv/git/cook.git", wsgi="wsgi:application", health="/",
                    dependencies={"groups": ["production"]}, build=["sh ./bundle.sh"],
                    release=["manage.py createcachetable"], processes={"ticker": {"command": "sh ./ticker.sh"}},
                    schedules={"count": {"command": "sh -c 'echo once >> $DJANGO_MEDIA_ROOT/counted'", "at": "hourly"}},
                ),
            },
        }  # fmt: skip
        world.controller.pillar(world.name, self.pillar)

    def _theme(self):
        return self.theme._git("rev-parse", "HEAD")

    def first(self):
        """What the first site is: its releases, links and units, and when they started."""
        return self.world.sh(
            f"ls {ROOT}/releases {ROOT}/venvs; readlink {ROOT}/current {ROOT}/previous; "
            f"systemctl show -p Id,ActiveEnterTimestampMonotonic 'sum-{SLUG}*'"
        )

    def health(self, slug):
        code, body = ask(self.world.host, "/up", domain=f"{slug}.example")
        return code, json.loads(body) if body.startswith("{") else body

    def remove(self):
        """The tree forgets a site's pillar, and leaves what it has: here it goes, the host is shared."""
        self.world.write_pillar()
        for slug in ("shop", "blog", "cook"):
            self.world.sh(
                f"systemctl disable --now --quiet 'sum-{slug}-gunicorn.service'; systemctl stop 'sum-{slug}-*'; "
                f"systemctl disable --now --quiet redis-server@{slug}; rm -rf /etc/redis/goldenpath-{slug}.conf; "
                f"rm -rf /etc/systemd/system/sum-{slug}-* /srv/sum/{slug} /etc/goldenpath/sites/{slug}.json; "
                f"runuser -u postgres -- dropdb --force sum-{slug}; runuser -u postgres -- dropuser sum-{slug}; "
                f"userdel sum-{slug}",
                check=False,
            )
        self.world.sh("systemctl stop x-git; systemctl daemon-reload; systemctl reset-failed", check=False)
        self.world.apply()


@pytest.fixture(scope="module")
def sites(bookworm, tmp_path_factory):
    # With a neighbour it gets a Redis of its own, which is its one restart (test_walls.py); here it has it before.
    shared = bookworm.pillar["sites"][SLUG]["redis"]
    bookworm.write_pillar(redis={**shared, "own": True})
    bookworm.apply()
    sites = Sites(bookworm, tmp_path_factory.mktemp("sites"))
    try:
        sites.before = sites.first()
        failed = {key: state for key, state in bookworm.apply().items() if state[0] is not True}
        assert failed == {}
        sites.after = sites.first()
        yield sites
    finally:
        bookworm.write_pillar(redis=shared)
        sites.remove()


def documented():
    """The files of a site that somebody makes by docs/your-site.md: `startproject`, and the page's own lines."""
    text = (REPOSITORY / "docs/your-site.md").read_text()
    settings, health = re.findall(r"```python\n(.*?)```", text, re.S)
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [pathlib.Path(sys.executable).with_name("uv"), "tool", "run", "--quiet", "--from", "django==5.2.19",
             "django-admin", "startproject", "mysite", folder],
            check=True, env={**os.environ, "UV_PYTHON_DOWNLOADS": "never"},
        )  # fmt: skip
        files = {str(path.relative_to(folder)): path.read_text() for path in pathlib.Path(folder).rglob("*.py")}
    # What the page shows takes the place of what startproject wrote.
    names = set(re.findall(r"^(?:    )?([A-Z_]+) =", settings, re.MULTILINE))
    lines = files["mysite/settings.py"].splitlines()
    kept = "\n".join(line for line in lines if line.partition(" =")[0] not in names - {"DATABASES"})
    files["mysite/settings.py"] = f"{kept}\n{settings}"
    files["mysite/urls.py"] += health
    return {**files, "requirements.txt": "Django==5.2.19\npsycopg[binary]==3.3.9\nredis==6.4.0\n"}


def test_a_site_of_the_page_for_new_sites(sites, tmp_path):
    """docs/your-site.md, line by line: inspect, the block, state.apply, a deploy, a superuser."""
    world = sites.world
    tree = Tree(tmp_path / "mysite", "/srv/git/mysite.git", documented())
    tree.publish(world.host)
    said = subprocess.run(
        [pathlib.Path(sys.executable).with_name("salt-run"), "-c", str(world.controller.config_dir),
         "goldenpath.inspect", str(tree.folder), "slug=mysite"],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    block = yaml.safe_load(said)["mysite"]
    assert "CHOOSE" not in str({key: value for key, value in block.items() if key != "repo"}), said
    block |= {"repo": "/srv/git/mysite.git", "domains": ["mysite.example"], "tls": "internal", "ref": "main",
              "redis": {"cache": 8, "broker": 9}, "workers": 1}  # fmt: skip
    world.controller.pillar(world.name, {**sites.pillar, "sites": {**sites.pillar["sites"], "mysite": block}})
    try:
        failed = {key: state for key, state in world.apply().items() if state[0] is not True}
        assert failed == {}
        status, output = world.deploy(site="mysite")
        assert status == 0, output
        assert ask(world.host, "/health/", domain="mysite.example") == (200, '{"status": "ok"}')
        code, page = ask(world.host, "/admin/login/", domain="mysite.example")
        assert code == 200 and "/static/admin/" in page
        style = re.search(r'href="(/static/admin/[^"]+[.]css)"', page)[1]
        assert ask(world.host, style, domain="mysite.example")[0] == 200
        world.sh("goldenpath manage mysite createsuperuser --noinput --username ada --email ada@acme.example")
        shell = "from django.contrib.auth.models import User; print(User.objects.count())"
        assert world.sh(f"goldenpath manage mysite shell -v 0 -c '{shell}'").splitlines()[-1] == "1"
    finally:
        world.controller.pillar(world.name, sites.pillar)
        world.apply()
        world.sh(
            "systemctl disable --now --quiet redis-server@mysite; "
            "rm -rf /etc/redis/goldenpath-mysite.conf /srv/sum/mysite /etc/goldenpath/sites/mysite.json; "
            "runuser -u postgres -- dropdb --force sum-mysite; runuser -u postgres -- dropuser sum-mysite; "
            "userdel sum-mysite",
            check=False,
        )


def _units(world, slug):
    """The states of a site's units: enabled, active."""
    lines = world.sh(
        "for unit in gunicorn celery celerybeat; do "
        f"echo $unit $(systemctl is-enabled sum-{slug}-$unit) $(systemctl is-active sum-{slug}-$unit); done",
        check=False,
    )
    return {line.split()[0]: tuple(line.split()[1:]) for line in lines.splitlines()}


def test_two_more_sites_do_not_touch_the_first(sites):
    assert sites.before and sites.after == sites.before


def test_a_project_in_a_subfolder_is_deployed_alone(sites):
    world = sites.world
    status, output = world.deploy(site="shop")
    assert status == 0, output
    code, told = sites.health("shop")
    sha = sites.shop._git("rev-parse", "HEAD")
    assert code == 200 and told["rows"] >= 1
    assert (told["git_sha"], told["price"], told["cached"]) == (sha, 17, 1)
    # Nobody else's release, database or process.
    assert sites.first() == sites.before
    assert world.health() == (200, "ok")
    assert world.sh("ls /srv/sum/blog/releases") == "" and "blog" not in output


def test_exceptions_of_a_site_that_says_nothing_of_logging(sites):
    assert ask(sites.world.host, "/boom", domain="shop.example")[0] == 500
    found = []

    def heard():
        found[:] = [sites.world.sh("goldenpath logs shop errors -n 1 2>/dev/null")]
        return "ZeroDivisionError" in found[0]

    assert wait_for(heard, 20, 0.5), found
    assert "GET Internal Server Error: /boom" in found[0].splitlines()[1]


def test_a_site_without_celery_runs_none(sites):
    assert _units(sites.world, "shop") == {
        "gunicorn": ("enabled", "active"), "celery": ("disabled", "inactive"), "celerybeat": ("disabled", "inactive"),
    }  # fmt: skip
    assert sites.world.sh("pgrep -u sum-shop -f [c]elery", check=False) == ""


def test_a_change_in_a_package_beside_it_is_released(sites):
    world = sites.world
    before = world.sh("readlink /srv/sum/shop/current/venv")
    sites.shop.commit("Dearer", {"backend/vendor/pricing/pricing/__init__.py": "PRICE = 19\n"})
    sites.shop.publish(world.host)
    status, output = world.deploy(site="shop")
    assert status == 0, output
    assert sites.health("shop")[1]["price"] == 19
    venv = world.sh("readlink /srv/sum/shop/current/venv")
    assert venv != before
    assert "19" in world.sh(f"cat {venv}/lib/python3*/site-packages/pricing/__init__.py")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ('DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": BASE / "db.sqlite3"}}',
         "The database 'default' is SQLite at "),
        ('INSTALLED_APPS.append("shop")', "Uploads are kept in "),
    ],
)  # fmt: skip
def test_what_would_be_lost_with_the_release_is_refused(sites, settings, sentence):
    """A green deploy, and at the next one everything that visitors left is gone."""
    world = sites.world
    before = world.sh("readlink /srv/sum/shop/current")
    own = sites.shop.folder / "backend/shop/settings.py"
    model = (
        "from django.core.files.storage import FileSystemStorage\nfrom django.db import models\n"
        "class Upload(models.Model):\n    file = models.FileField(storage=FileSystemStorage('theirs'))\n"
    )
    changes = {"backend/shop/settings.py": f"{own.read_text()}\n{settings}\n", "backend/shop/models.py": model}
    original = own.read_text()
    sites.shop.commit("Kept elsewhere", changes)
    sites.shop.publish(world.host)
    try:
        status, output = world.deploy(site="shop")
        assert status != 0 and sentence in output and "inside the release" in output, output
        assert world.sh("readlink /srv/sum/shop/current") == before and sites.health("shop")[0] == 200
    finally:
        sites.shop.commit("As it was", {"backend/shop/settings.py": original, "backend/shop/models.py": ""})
        sites.shop.publish(world.host)


def test_src_requirements_elsewhere_and_a_submodule(sites):
    world = sites.world
    shop = world.sh("readlink /srv/sum/shop/current")
    status, output = world.deploy(site="blog")
    assert status == 0, output
    code, told = sites.health("blog")
    assert (code, told["title"], told["git_sha"]) == (200, "A blog", sites.blog._git("rev-parse", "HEAD"))
    assert ask(world.host, "/static/look.css", domain="blog.example") == (200, "body { color: teal }\n")
    assert "gunicorn" in world.sh("ls /srv/sum/blog/current/venv/bin")
    assert world.sh("readlink /srv/sum/shop/current") == shop and sites.first() == sites.before


def test_a_project_as_its_authors_left_it(sites):
    """A lock with a group, the usual variables, a bundle, no gunicorn, static files and uploads beside the code."""
    world, root = sites.world, "/srv/sum/cook"
    status, output = world.deploy(site="cook")
    assert status == 0, output
    assert "cook: build" in output and "cook: release" in output
    code, _ = ask(world.host, "/", domain="cook.example")
    assert code == 302
    code, body = ask(world.host, "/en/?keep=1", domain="cook.example")
    assert code == 200 and json.loads(body) == {"uploads": 1, "cached": 1, "origins": "https://cook.example"}, body
    assert ask(world.host, "/static/bundle.css", domain="cook.example") == (200, "body { color: teal }\n")
    assert ask(world.host, "/media/kept.txt", domain="cook.example") == (200, "kept")
    packages = world.sh(f"ls {root}/current/venv/lib/python3*/site-packages")
    assert "psycopg" in packages and "gunicorn" in packages and "pytest" not in packages
    # The next release has the same environment, and what was uploaded.
    venv = world.sh(f"readlink {root}/current/venv")
    sites.cook.commit("Next", {"NEWS": "next\n"})
    sites.cook.publish(world.host)
    status, output = world.deploy(site="cook")
    assert status == 0, output
    assert world.sh(f"readlink {root}/current/venv") == venv
    assert ask(world.host, "/media/kept.txt", domain="cook.example") == (200, "kept")
    status, answer = world.salt("goldenpath.backup", "cook")
    assert status == 0, answer
    status, answer = world.salt("goldenpath.restore_drill", "cook")
    assert status == 0 and answer["cook"]["verdict"] == "good", answer
    world.sh("goldenpath restore cook --confirm cook --wait 60")
    assert json.loads(ask(world.host, "/en/", domain="cook.example")[1])["uploads"] == 1


def _migrate_cook(sites, number, operation):
    before = f"{number - 1:04}_" + ("initial" if number == 2 else "step")
    name = f"config/migrations/{number:04}_step.py"
    text = (
        "from django.db import migrations, models\n\nclass Migration(migrations.Migration):\n"
        f"    dependencies = [('config', '{before}')]\n    operations = [{operation}]\n"
    )
    sites.cook.commit(f"Step {number}", {name: text})
    sites.cook.publish(sites.world.host)


def test_migrations_that_the_serving_release_cannot_live_with(sites):
    """Django itself is asked, with a real loader: one that is harmless goes on, one that is not is refused by name."""
    world = sites.world
    _migrate_cook(sites, 2, "migrations.AddField('upload', 'note', models.TextField(null=True))")
    status, output = world.deploy(site="cook")
    assert status == 0, output
    before = world.sh("readlink /srv/sum/cook/current")
    _migrate_cook(sites, 3, "migrations.RemoveField('upload', 'note')")
    status, output = world.deploy(site="cook")
    assert status != 0 and "cannot live with config.0003_step: RemoveField upload.note" in output, output
    assert world.sh("readlink /srv/sum/cook/current") == before
    assert ask(world.host, "/en/", domain="cook.example")[0] == 200
    status, output = world.deploy(site="cook", migrations="maintenance")
    assert status == 0, output
    assert ask(world.host, "/en/", domain="cook.example")[0] == 200
    _migrate_cook(sites, 4, "migrations.AddField('upload', 'kind', models.CharField(max_length=9, default='x'))")
    status, output = world.deploy(site="cook", migrations="no such word")
    assert status != 0 and "migrations: is none of refuse, maintenance, accept" in output, output
    status, output = world.deploy(site="cook")
    assert status != 0 and "AddField upload.kind, NOT NULL without a default in the database" in output, output
    status, output = world.deploy(site="cook", migrations="accept")
    assert status == 0, output


def test_a_daemon_follows_the_releases(sites):
    world = sites.world

    def ticks():
        return world.sh("cat /srv/sum/cook/media/tick", check=False)

    def live():
        return os.path.basename(world.sh("readlink /srv/sum/cook/current"))

    assert wait_for(lambda: ticks() == live(), 10)
    before = live()
    assert world.deploy(site="cook")[0] == 0
    assert live() != before and wait_for(lambda: ticks() == live(), 10)
    # One that ends at once: the release before serves, and its daemon runs.
    before = live()
    ticker = (sites.cook.folder / "ticker.sh").read_text()
    sites.cook.commit("Broken", {"ticker.sh": "echo it breaks; exit 3\n"})
    sites.cook.publish(world.host)
    try:
        status, output = world.deploy(site="cook")
    finally:
        sites.cook.commit("Mended", {"ticker.sh": ticker})
        sites.cook.publish(world.host)
    assert status != 0 and "sum-cook-ticker.service does not stay up on the new release" in output, output
    assert "it breaks" in output and live() == before
    world.sh("rm -f /srv/sum/cook/media/tick")
    assert wait_for(lambda: ticks() == before, 20, 0.5), world.sh("systemctl status sum-cook-ticker", check=False)
    assert ask(world.host, "/en/", domain="cook.example")[0] == 200
    # It is in the site's sandbox, and its neighbour's files are not.
    shown = world.sh("systemctl show -p User,Slice,NoNewPrivileges,ProtectSystem sum-cook-ticker")
    assert sorted(shown.splitlines()) == [
        "NoNewPrivileges=yes", "ProtectSystem=strict", "Slice=sum-cook.slice", "User=sum-cook",
    ]  # fmt: skip
    # Killed it comes back, and stopped by hand it is heard of.
    world.sh("systemctl kill --signal=KILL sum-cook-ticker; rm -f /srv/sum/cook/media/tick")
    assert wait_for(lambda: ticks() == before, 20, 0.5)
    world.sh("systemctl stop sum-cook-ticker")
    assert "sum-cook-ticker.service on" in world.sh("goldenpath ps", check=False)
    assert "should run and does not" in world.sh("goldenpath ps", check=False)


def test_a_schedule_runs_with_the_live_release(sites):
    world = sites.world
    assert "sum-cook-count.timer" in world.sh("systemctl list-timers --all --no-legend 'sum-*'")
    world.sh("rm -f /srv/sum/cook/media/counted; systemctl start sum-cook-count.service")
    assert world.sh("cat /srv/sum/cook/media/counted") == "once"
    assert world.sh("systemctl is-enabled sum-cook-count.timer; systemctl is-active sum-cook-count.timer") == (
        "enabled\nactive"
    )


def test_processes_that_leave_the_pillar_go(sites):
    world = sites.world
    own = {key: value for key, value in sites.pillar["sites"]["cook"].items() if key not in ("processes", "schedules")}
    world.controller.pillar(world.name, {**sites.pillar, "sites": {**sites.pillar["sites"], "cook": own}})
    try:
        failed = {key: state for key, state in world.apply().items() if state[0] is not True}
        assert failed == {}
        assert world.sh("ls /etc/systemd/system | grep -E 'sum-cook-(ticker|count)'", check=False) == ""
        assert world.sh("pgrep -u sum-cook -f [t]icker", check=False) == ""
    finally:
        world.controller.pillar(world.name, sites.pillar)
    world.apply()
    units = "sum-cook-ticker sum-cook-count.timer"
    assert wait_for(lambda: world.sh(f"systemctl is-active {units}", check=False) == "active\nactive", 10, 0.5), (
        world.sh(f"systemctl status {units}; journalctl -n 30 --no-pager -u sum-cook-ticker", check=False)
    )


@pytest.mark.parametrize(
    ("key", "line", "sentence"),
    [
        ("build", "npm ci", "`npm ci` failed: there is no npm on the host. Try: packages: [npm]"),
        ("build", "manage.py nothing", "`manage.py nothing` failed with 1: Unknown command: 'nothing'"),
        ("release", "sh -c 'echo broken >&2; exit 3'", "failed with 3: broken"),
    ],
)
def test_a_command_that_fails_leaves_the_site_as_it_was(sites, key, line, sentence):
    world = sites.world
    before = world.sh("readlink /srv/sum/cook/current")
    own = sites.pillar["sites"]["cook"]
    changed = {**sites.pillar, "sites": {**sites.pillar["sites"], "cook": {**own, key: [line]}}}
    world.controller.pillar(world.name, changed)
    try:
        status, output = world.deploy(site="cook")
    finally:
        world.controller.pillar(world.name, sites.pillar)
    assert status != 0 and sentence in output and f"at step {key}" in output, output
    assert world.sh("readlink /srv/sum/cook/current") == before
    assert ask(world.host, "/en/", domain="cook.example")[0] == 200


def test_each_site_has_its_own_of_everything(sites):
    world = sites.world
    for mine, other in (("shop", "blog"), ("blog", "shop"), ("shop", SLUG)):
        for denied in (
            f"cat /srv/sum/{other}/.env",
            f"ls /srv/sum/{other}/current/src/",
            f"touch /srv/sum/{other}/media/x",
            f"psql -qAtc 'SELECT 1' sum-{other}",
        ):
            done = world.host.exec(f"runuser -u sum-{mine} -- {denied}", check=False)
            assert done.returncode != 0, (mine, denied, done.stdout)
    env = {slug: world.sh(f"cat /srv/sum/{slug}/.env") for slug in ("shop", "blog", SLUG)}
    urls = [line for text in env.values() for line in text.splitlines() if line.startswith(("REDIS_", "CELERY_BROKER"))]
    assert len(urls) == 6 and len({line.rpartition("/")[2] for line in urls}) == 6
    # Each name is served by its own site, and by no other.
    assert "price" in sites.health("shop")[1] and "title" in sites.health("blog")[1]


def test_no_drift_with_four_sites(sites):
    changed = {key: state for key, state in sites.world.apply().items() if state[0] is not True or state[1]}
    assert changed == {}


def test_sudo_as_in_the_example_roster(sites, tmp_path):
    """The entry that config/roster.example shows for hosts where root may not log in."""
    example = yaml.safe_load((REPOSITORY / "config/roster.example").read_text())["web2"]
    entry = {key: example[key] for key in ("user", "sudo", "thin_dir")}
    assert entry["user"] == "admin" and entry["sudo"] is True
    world = World.__new__(World)
    world.__dict__.update(sites.world.__dict__)
    world.controller = Controller(tmp_path / "controller")
    world.controller.add(world.host, id=world.name, **entry)
    world.controller.pillar(world.name, sites.pillar)
    assert world.salt("goldenpath.redis_ping") == (0, "PONG")
    changed = {key: state for key, state in world.apply().items() if state[0] is not True or state[1]}
    assert changed == {}
    live = world.sh("readlink /srv/sum/blog/current")
    status, output = world.deploy(site="blog")
    assert status == 0, output
    assert f"{world.name} blog: switch" in output, "its steps are on the screen"
    assert sites.health("blog")[0] == 200 and world.sh("readlink /srv/sum/blog/current") != live
    assert sites.first() == sites.before


def test_a_site_goes_with_everything_of_it(sites):
    world = sites.world
    listed = "ls /srv/sum; runuser -u postgres -- psql -Atc 'select datname from pg_database order by 1'"
    others = world.sh(listed)
    done = world.host.exec("goldenpath remove cook", check=False)
    assert done.returncode == 3 and "cook on" in done.stderr and "--confirm cook" in done.stderr
    assert (
        world.sh("ls /srv/sum; runuser -u postgres -- psql -Atc 'select datname from pg_database order by 1'") == others
    )
    said = world.sh("goldenpath remove cook --confirm cook")
    assert re.search(r"cook is gone; its last snapshot is [0-9a-f]{8,}", said) and "Take it out of the pillar" in said
    left = world.sh(
        "find /etc /srv /opt /run /var/lib -xdev '(' -name '*sum-cook*' -o -name 'cook' -o -name 'cook.*' -o "
        "-name '*-cook' -o -name '*-cook.*' ')' -not -path '*/restic/*' -not -path '/srv/git/*' -not -path "
        "'/var/lib/systemd/*' 2>/dev/null; getent passwd sum-cook dmp-cook; systemctl list-units --all --plain "
        "--no-legend 'sum-cook*' 'redis-server@cook*'; runuser -u postgres -- psql -Atc "
        "\"select rolname from pg_roles where rolname ~ 'cook' union "
        "select datname from pg_database where datname ~ 'cook'\"",
        check=False,
    )
    assert left == ""
    assert world.health() == (200, "ok") and sites.health("shop")[0] == 200
    done = world.host.exec("goldenpath remove cook --confirm cook", check=False)
    assert done.returncode == 3 and "has nothing of a site cook" in done.stderr
