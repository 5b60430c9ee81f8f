"""manage.py against a database that is not the live one, and the commands of a build."""

import pytest
from goldenpath import manage, process, sandbox
from goldenpath.errors import Failed

RELEASE = "r1"


@pytest.fixture
def told(monkeypatch):
    """What the site's programs are given; they answer what a test says."""
    told = {"done": process.Done(0, "", "")}

    def run(site, argv, env=None, cwd="/", **more):
        told.update(argv=argv, env=env, cwd=cwd, **more)
        return told["done"]

    monkeypatch.setattr(sandbox, "run", run)
    return told


@pytest.fixture
def acme(site, monkeypatch):
    values = {
        "APP_DIR": "/app", "DJANGO_DB_NAME": site.name, "DB": site.name, "DB_USER": site.name, "EMAIL": "x",
        "DATABASE_URL": f"postgres://{site.name}@/{site.name}?host=/run", "APP_DB": f"postgres://x@/{site.name}?host=/run",
    }  # fmt: skip
    monkeypatch.setattr(type(site), "environment", lambda self, release=None: dict(values))
    site.facts["env_names"] = {"DB": "DJANGO_DB_NAME", "DB_USER": "DJANGO_DB_USER", "APP_DB": "DATABASE_URL"}
    return site


def test_another_database_under_every_name_that_the_site_reads(acme, told):
    """A drill and a restore ask the site about a copy: by whichever name it finds its database."""
    told["done"] = process.Done(0, "::database copy\n", "")
    manage.against(acme, RELEASE, "copy", ["check"])
    assert {name: told["env"][name] for name in ("DJANGO_DB_NAME", "DB", "DB_USER", "DATABASE_URL", "APP_DB")} == {
        "DJANGO_DB_NAME": "copy", "DB": "copy", "DB_USER": acme.name,
        "DATABASE_URL": f"postgres://{acme.name}@/copy?host=/run", "APP_DB": "postgres://x@/copy?host=/run",
    }  # fmt: skip
    assert "read_only=on" in told["env"]["PGOPTIONS"]


def test_settings_that_name_the_database_themselves(acme, told):
    told["done"] = process.Done(0, "::database live\n", "")
    with pytest.raises(Failed, match="name the database live themselves. Try: read DATABASE_URL"):
        manage.against(acme, RELEASE, "copy", ["check"])


@pytest.mark.parametrize(
    ("line", "argv"),
    [
        ("npm run build", ["npm", "run", "build"]),
        ("manage.py compress --force", ["{root}/releases/r1/venv/bin/python", "manage.py", "compress", "--force"]),
        ("sh -c 'echo $HOME'", ["sh", "-c", "echo $HOME"]),
    ],
)
def test_a_command_of_a_build(acme, told, line, argv):
    manage.command(acme, RELEASE, line, 60)
    assert told["argv"] == ["/usr/bin/env", "--", *(word.format(root=acme.root) for word in argv)]
    assert told["cwd"] == "/app" and told["env"]["EMAIL"] == "x" and told["timeout"] == 60


@pytest.mark.parametrize(
    ("done", "why"),
    [
        (process.Done(127, "/usr/bin/env: 'npm': No such file or directory\n", ""), "there is no npm on the host. "),
        (process.Done(process.TIMED_OUT, "", ""), "did not end within 60 s"),
        (process.Done(1, "x.c:1: fatal error: Python.h: No such file\n", ""), "packages: [build-essential, "),
        (process.Done(3, "npm ERR! missing script: build\n", ""), "failed with 3: npm ERR! missing script: build"),
    ],
)  # fmt: skip
def test_why_a_command_failed(acme, told, done, why):
    told["done"] = done
    with pytest.raises(Failed) as failed:
        manage.command(acme, RELEASE, "npm run build", 60)
    assert str(failed.value).startswith("`npm run build` ") and why in str(failed.value)
