"""A release's virtual environment: which releases share one, where the requirements lie, how it is built."""

import hashlib
import json
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys

import pytest
from goldenpath import process, sandbox
from goldenpath import venv as module
from goldenpath.errors import Failed
from goldenpath.site import Site
from goldenpath.site_programs import requirements

from tests.interpreters import interpreter

SLUG = "no-such-site"
# Of the machine: the sandbox has its Python.
PYTHON = subprocess.run(["/usr/bin/python3", "-V"], capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def venv():
    return module


class Checkout:
    """A site's checkout, with a key for its requirements."""

    def __init__(self, module, folder):
        self.module, self.folder = module, folder

    def write(self, **files):
        for name, text in files.items():
            path = self.folder / name.replace("__", "/").replace("_txt", ".txt")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return self

    def key(self, release="r1", python=PYTHON, name="requirements.txt"):
        return requirements.key(str(self.folder / name), python, release)


@pytest.fixture
def checkout(venv, tmp_path):
    (tmp_path / "src").mkdir()
    return Checkout(venv, tmp_path / "src")


def test_equal_requirements_equal_key(venv, tmp_path):
    keys = set()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        keys.add(Checkout(venv, tmp_path / name).write(requirements_txt="Django==5.2\n").key(release=name))
    assert len(keys) == 1
    assert re.fullmatch(r"[0-9a-f]{16}", keys.pop())


def test_what_changes_the_key(checkout):
    first = checkout.write(requirements_txt="Django==5.2\n").key()
    assert checkout.key() == first
    assert checkout.key(python="Python 3.99.0") != first
    assert checkout.write(requirements_txt="Django==5.2.1\n").key() != first
    assert checkout.write(other_txt="Django==5.2\n").key(name="other.txt") != first


@pytest.mark.parametrize(
    "line",
    [
        "-r base.txt", "  -r base.txt", "-r  base.txt", "-r\tbase.txt", "-rbase.txt", "--requirement base.txt",
        "--requirement=base.txt", "-r base.txt  # the base", "-c base.txt", "-cbase.txt", "--constraint base.txt",
        "--constraint=base.txt", "-r ./base.txt", "-r more/../base.txt",
    ],
)  # fmt: skip
def test_a_file_that_is_named_counts(checkout, line):
    checkout.write(requirements_txt=f"{line}\n", base_txt="a==1\n", more__x_txt="")
    first = checkout.key()
    assert checkout.write(base_txt="a==2\n").key() != first
    assert checkout.write(base_txt="a==1\n").key() == first
    # And it does not make the environment one release's own.
    assert checkout.key(release="r2") == first


def test_nested_files_and_a_circle(checkout):
    checkout.write(
        requirements_txt="-r more/a.txt\n", more__a_txt="-r b.txt\n", more__b_txt="-r ../requirements.txt\nx==1\n"
    )
    first = checkout.key()
    assert checkout.write(more__b_txt="-r ../requirements.txt\nx==2\n").key() != first


def test_a_file_that_is_missing_is_left_to_uv(checkout):
    checkout.write(requirements_txt="-r gone.txt\n-r https://git.example/r.txt\n-c\n")
    assert checkout.key() == checkout.key(release="r2")


@pytest.mark.parametrize(
    "line",
    [
        "-e .", "-e.", "--editable .", "--editable=.", "-e ./lib", "-e lib", ".", "./lib", ".[prod]", "..",
        "../lib", "lib/", "libs/acme", "file:./lib", "file:///opt/lib", "/opt/lib", "acme @ file:./lib",
        "acme @ file:///opt/lib",
        "vendor/pkg  # our fork", "vendor/pkg[prod]", "vendor/pkg ; python_version > '3'", "acme @ vendor/acme",
        "acme@ ./lib", "acme @ ./lib", "  .", "acme[extra] @ file:lib", "./wheels/acme-1.0-py3-none-any.whl",
    ],
)  # fmt: skip
def test_what_installs_the_checkout_belongs_to_one_release(checkout, line):
    checkout.write(requirements_txt=f"Django==5.2\n{line}\n")
    assert checkout.key(release="r1") != checkout.key(release="r2")


@pytest.mark.parametrize(
    "line",
    [
        "Django==5.2", "acme @ https://git.example/acme.whl", "# ./lib", "", "celery[redis] == 5.6.3  # the queue",
        "acme @ git+https://git.example/acme.git@0123456789012345678901234567890123456789",
        "--no-binary :all:", "a==1 ; python_version < '3.11'", "a==1 --hash=sha256:abc/def",
        "--index-url https://git.example/simple/",
        "zope.interface==7",
    ],
)  # fmt: skip
def test_what_does_not_is_shared(checkout, line):
    checkout.write(requirements_txt=f"Django==5.2\n{line}\n")
    assert checkout.key(release="r1") == checkout.key(release="r2")


@pytest.mark.parametrize(
    "line",
    [
        "django", "celery[redis]>=5", "django==5.*", "a~=1.2", "a==1,<2 ; python_version > '3'",
        "git+https://git.example/acme.git@v1#egg=acme", "acme @ git+https://git.example/acme.git",
    ],
)  # fmt: skip
def test_what_may_mean_something_else_tomorrow_belongs_to_one_release(checkout, line):
    checkout.write(requirements_txt=f"gunicorn==27.0.1\n{line}\n")
    assert checkout.key(release="r1") != checkout.key(release="r2")


def test_a_name_that_another_file_pins_does_not_move(checkout):
    checkout.write(
        requirements_txt="-c pins.txt\nDjango\nzope.interface[x]\n", pins_txt="django==5.2\nzope-interface==7\n"
    )
    assert checkout.key(release="r1") == checkout.key(release="r2")


@pytest.mark.parametrize(
    ("name", "text", "inner"),
    [
        (
            "uv.lock",
            '[[package]]\nname = "site"\nsource = { {} = "{}" }\n',
            [("editable", "."), ("editable", "../lib")],
        ),
        ("uv.lock", '[[package]]\nname = "site"\nsource = { {} = "{}" }\n', [("virtual", "."), ("directory", "lib")]),
        ("poetry.lock", '[package.source]\ntype = "{}"\nurl = "{}"\n', [("git", "https://x"), ("directory", "lib")]),
        ("Pipfile.lock", '{"default": {"lib": {"{}": "{}"}}}', [("version", "==1"), ("path", "./lib")]),
    ],
)
def test_a_lock_belongs_to_one_release_where_it_installs_a_part_of_the_checkout(checkout, name, text, inner):
    shared = []
    for what, where in inner:
        filled = text.replace("{}", what, 1).replace("{}", where, 1)
        checkout.write(**{name: filled.replace('{"lib"', '{\n"lib"').replace('{"path"', '{\n"path"')})
        form = requirements.form_of(name)
        keys = {requirements.key(str(checkout.folder / name), PYTHON, release, form) for release in ("r1", "r2")}
        shared.append(len(keys) == 1)
    assert shared == [True, False]


@pytest.mark.parametrize("beside", ["groups", "extras", "add"])
def test_what_the_pillar_adds_changes_the_key(checkout, beside):
    checkout.write(**{"uv.lock": "", "pyproject.toml": "[project]\n"})
    path = str(checkout.folder / "uv.lock")
    plain = requirements.key(path, PYTHON, "r1", "uv", {"groups": [], "extras": [], "add": []})
    assert plain == requirements.key(path, PYTHON, "r1", "uv")
    assert requirements.key(path, PYTHON, "r1", "uv", {beside: ["a==1"]}) != plain
    checkout.write(**{"pyproject.toml": "[project]\nname = 'x'\n"})
    assert requirements.key(path, PYTHON, "r1", "uv") != plain


def test_a_pyproject_belongs_to_one_release(checkout):
    checkout.write(**{"pyproject.toml": "[project]\ndependencies = ['acme @ file:./lib']\n"})
    path = str(checkout.folder / "pyproject.toml")
    keys = {requirements.key(path, PYTHON, release, "project") for release in ("r1", "r2")}
    assert len(keys) == 2


def test_the_checkout_named_in_a_nested_file(checkout):
    checkout.write(requirements_txt="-r requirements/base.txt\n", requirements__base_txt="-e ..\n")
    assert checkout.key(release="r1") != checkout.key(release="r2")


# Where the file lies


def test_beside_manage_py_first(venv, checkout):
    checkout.write(requirements_txt="top\n", app__requirements_txt="inner\n")
    source = str(checkout.folder)
    assert requirements.find(source, "app", "requirements.txt") == (
        f"{source}/app", f"{source}/app/requirements.txt", "requirements",
    )  # fmt: skip
    assert requirements.find(source, ".", "requirements.txt")[:2] == (source, f"{source}/requirements.txt")


def test_else_at_the_top(venv, checkout):
    checkout.write(requirements__prod_txt="a\n", app__manage_py="")
    source = str(checkout.folder)
    assert requirements.find(source, "app", "requirements/prod.txt") == (
        source, f"{source}/requirements/prod.txt", "requirements",
    )  # fmt: skip


def test_none(venv, checkout):
    with pytest.raises(requirements.Wrong) as told:
        requirements.find(str(checkout.folder), ".", "requirements.txt")
    assert str(told.value) == (
        "The repository has no requirements.txt. Try: name the file under `requirements:` in the site's pillar"
    )


@pytest.mark.parametrize("whole", [False, True])
def test_a_link_that_leads_out(venv, checkout, tmp_path, whole):
    (tmp_path / "src-of-another").mkdir()
    (tmp_path / "src-of-another/requirements.txt").write_text("secret\n")
    if whole:
        (checkout.folder / "app").symlink_to(tmp_path / "src-of-another")
    else:
        (checkout.folder / "app").mkdir()
        (checkout.folder / "app/requirements.txt").symlink_to(tmp_path / "src-of-another/requirements.txt")
    with pytest.raises(requirements.Wrong, match=r"requirements\.txt is a link that leads out of the repository"):
        requirements.find(str(checkout.folder), "app", "requirements.txt")


def test_a_link_inside(venv, checkout):
    checkout.write(real_txt="a\n")
    (checkout.folder / "requirements.txt").symlink_to("real.txt")
    source = str(checkout.folder)
    assert requirements.find(source, ".", "requirements.txt")[:2] == (source, f"{source}/requirements.txt")


ALL_FORMS = {
    "requirements.txt": "requirements", "uv.lock": "uv", "poetry.lock": "poetry", "pylock.toml": "pylock",
    "Pipfile.lock": "pipenv", "requirements/production.txt": "requirements", "pyproject.toml": "project",
}  # fmt: skip


@pytest.mark.parametrize("name", ALL_FORMS)
def test_each_of_the_usual_forms_is_found(checkout, name):
    checkout.write(**{"pyproject.toml": "[tool.black]\n", "setup.cfg": ""})
    checkout.write(**{name: "[project]\nname = 'x'\n"})
    source = str(checkout.folder)
    base = source
    assert requirements.find(source, "app", "auto") == (base, f"{source}/{name}", ALL_FORMS[name])


def test_what_is_locked_comes_before_what_is_not(checkout):
    checkout.write(**{"uv.lock": "", "pyproject.toml": "[project]\n"})
    assert requirements.find(str(checkout.folder), ".", "auto")[2] == "uv"
    checkout.write(**{"requirements.txt": ""})
    assert requirements.find(str(checkout.folder), ".", "auto")[2] == "requirements"


def test_none_of_the_usual_forms(checkout):
    checkout.write(**{"pyproject.toml": "[tool.black]\n"})
    with pytest.raises(
        requirements.Wrong, match=r"^The repository has none of requirements\.txt, uv\.lock, .* Try: name"
    ):
        requirements.find(str(checkout.folder), ".", "auto")


@pytest.mark.parametrize(("name", "what"), [("requirements.txt", "extras"), ("Pipfile.lock", "extras"),
                                            ("pylock.toml", "groups"), ("requirements.txt", "groups")])  # fmt: skip
def test_what_a_form_does_not_know_is_refused(name, what):
    with pytest.raises(requirements.Wrong, match=f"{name} has no {what}, and the pillar names prod"):
        requirements.allowed(requirements.form_of(name), f"/x/{name}", {what: ["prod"]})
    requirements.allowed("uv", "/x/uv.lock", {what: ["prod"]})


# Which Python


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({"pyproject.toml": "[project]\nrequires-python = '>=3.12'\n"}, ">=3.12"),
        ({"pyproject.toml": '[project]\nrequires-python="==3.14.*"\n'}, "==3.14.*"),
        ({"pyproject.toml": '[tool.poetry.dependencies]\npython = "^3.11"\n[tool.x]\n'}, ">=3.11,<4"),
        ({"pyproject.toml": '[tool.poetry.dependencies]\ndjango = "5"\n[tool.x]\npython = "9"\n'}, ""),
        ({"pyproject.toml": "[tool.black]\n"}, ""),
        ({}, ""),
    ],
)
def test_the_python_that_a_project_asks_for(checkout, files, wanted):
    checkout.write(requirements_txt="", **files)
    source = str(checkout.folder)
    assert requirements.wanted_python(source, f"{source}/requirements.txt", "auto") == wanted
    assert requirements.wanted_python(source, f"{source}/requirements.txt", "3.13") == "3.13"


def test_what_is_no_version_reaches_no_program(tmp_path):
    for spec in ("3.13; touch x", "--help", "3.12\n", "/evil"):
        with pytest.raises(requirements.Wrong, match="is no version of Python"):
            requirements.interpreter(spec, str(tmp_path / "no-uv"))
        with pytest.raises(Failed, match="is no version of Python"):
            module._bring_python(acme(), spec, None)


@pytest.fixture
def real_uv(venv, tmp_path, monkeypatch):
    """uv itself, with a folder of Pythons of the test's own and no other place to look."""
    uv = shutil.which(
        "uv",
        path=f"{pathlib.Path(__file__).resolve().parents[3]}/.venv/bin:/opt/goldenpath/uv/bin:{os.environ['PATH']}",
    )
    assert uv, "there is no uv. Try: make setup"
    monkeypatch.setattr(venv, "uv", lambda: uv)
    monkeypatch.setattr(venv, "PYTHONS", str(tmp_path / "pythons"))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setenv("UV_PYTHON_INSTALL_DIR", venv.PYTHONS)
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)
    return uv


def published(folder, python):
    """An archive of a Python of this machine, and a list that names it, as uv's own. Returns the list."""
    prefix, version = subprocess.run(
        [python, "-c", "import sys, platform; print(sys.base_prefix, platform.python_version())"],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    large = ("./lib/*/test", "./lib/*/site-packages", "*.a", "__pycache__", "./share", "./include")
    without = [f"--exclude={name}" for name in large]
    archive = folder / "python.tar.gz"
    subprocess.run(["tar", "-C", prefix, "--transform", "s#^[.]#python#", *without, "-czf", archive, "."], check=True)
    major, minor, patch = map(int, version.split("."))
    machine = {"arch": {"family": "x86_64", "variant": None}, "os": "linux", "libc": "gnu"}
    entry = {"name": "cpython", **machine, "major": major, "minor": minor, "patch": patch, "prerelease": "",
             "variant": None, "build": "1", "url": archive.as_uri(),
             "sha256": hashlib.sha256(archive.read_bytes()).hexdigest()}  # fmt: skip
    (folder / "list.json").write_text(json.dumps({f"cpython-{version}-linux-x86_64-gnu": entry}))
    return folder / "list.json"


def test_a_python_that_the_distribution_lacks(venv, real_uv, tmp_path, monkeypatch):
    """Fetched from a list of one's own, checked, found again, and forgotten when no environment uses it."""
    own = sys.version_info[1]
    other = next((found for minor in (13, 12, 11, 10) if minor != own and (found := interpreter(f"3.{minor}"))), None)
    if not other or platform.machine() != "x86_64":
        pytest.skip("this machine has one Python")
    (tmp_path / "mirror").mkdir()
    listed = published(tmp_path / "mirror", other)
    version = subprocess.run([other, "-V"], capture_output=True, text=True, check=True).stdout.split()[1]
    spec = f"=={version.rpartition('.')[0]}.*"
    run = process.run
    monkeypatch.setattr(
        process, "run",
        lambda argv, env=None, **more: run(argv, env={**env, "UV_PYTHON_DOWNLOADS_JSON_URL": str(listed)}, **more),
    )  # fmt: skip
    if requirements.interpreter(spec, real_uv)[0] is None:
        venv._bring_python(acme(), spec, None)
        path, told = requirements.interpreter(spec, real_uv)
        assert path.startswith(venv.PYTHONS) and told == f"Python {version}"
    else:
        venv._bring_python(acme(), spec, None)
    # A changed archive is not taken.
    archive = listed.parent / "python.tar.gz"
    archive.write_bytes(archive.read_bytes() + b"x")
    shutil.rmtree(venv.PYTHONS)
    with pytest.raises(Failed, match=rf"^The site wants Python {re.escape(spec)}, web1 has .*and uv does not bring it"):
        venv._bring_python(acme(), spec, None)
    # In use it stays.
    home = pathlib.Path(venv.PYTHONS, "cpython-9/bin")
    home.mkdir(parents=True)
    (home / "python").write_text("")
    site = Site(SLUG, {})
    used = tmp_path / "site/venvs/a/bin/python"
    used.parent.mkdir(parents=True)
    used.symlink_to(home / "python")
    monkeypatch.setattr(site, "path", lambda *parts: str(pathlib.Path(tmp_path, "site", *parts)))
    os.utime(home.parent, (0, 0))
    venv.forget_pythons([site])
    assert home.exists()
    used.unlink()
    os.utime(home.parent)
    venv.forget_pythons([site])
    assert home.exists(), "it was just brought"
    os.utime(home.parent, (0, 0))
    venv.forget_pythons([site])
    assert not home.exists()


# Building


class Builder:
    """What build() runs; it succeeds, but for the program that is named."""

    def __init__(self):
        self.calls = []
        self.fails = None
        self.output = ""

    def __call__(self, site, commands, env=None, timeout=600, log=None):
        assert site.slug == SLUG
        done = []
        for argv, cwd, optional in commands:
            self.calls.append((argv, cwd, env))
            done.append(process.Done(1, self.output, "") if self.fails in argv else process.Done(0, "", ""))
            if done[-1].code and not optional:
                break
        return done


@pytest.fixture
def builder(venv, monkeypatch):
    builder = Builder()
    monkeypatch.setattr(sandbox, "run_all", builder)
    monkeypatch.setattr(venv, "_pip_settings", dict)
    monkeypatch.setattr(venv, "uv", lambda: "/opt/uv")
    return builder


def acme(**more):
    return Site(SLUG, {"directory": ".", "requirements": "requirements.txt", **more})


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("uv.lock", "", "export --quiet --frozen --no-dev --no-emit-project .* --extra s3 --group prod"),
        ("poetry.lock", "", "poetry-plugin-export==.* poetry export --extras s3 --with prod"),
        ("pyproject.toml", "[project]\n", "pip install --quiet -r .*/pyproject.toml --extra s3 --group prod"),
    ],
)
def test_groups_and_extras(venv, checkout, builder, name, text, said):
    checkout.write(**{name: text})
    further = {"groups": ["prod"], "extras": ["s3"], "add": ["sentry-sdk==2.30.0"]}
    venv.build(acme(requirements="auto", dependencies=further), str(checkout.folder), "r1")
    lines = [" ".join(map(str, argv)) for argv, _, _ in builder.calls]
    assert re.search(said, lines[1]), lines
    assert lines[-4].endswith("pip install --quiet sentry-sdk==2.30.0")


def test_a_worker_gets_a_redis_client(venv, checkout, builder):
    checkout.write(requirements_txt="celery==5.6.3\n")
    venv.build(acme(celery={"worker": True}), str(checkout.folder), "r1")
    assert brought(builder) == [f"{name}=={venv.BROUGHT[name]}" for name in ("gunicorn", "redis")]


def test_credentials_of_private_indexes_are_variables_of_the_site(venv, checkout, builder, monkeypatch):
    checkout.write(requirements_txt="--extra-index-url https://u:${INDEX_TOKEN}@index.example/simple\nacme==1\n")
    secret = {"INDEX_TOKEN": "s3cr3t", "UV_INDEX": "https://index.example", "UV_CACHE_DIR": "/tmp/theirs"}
    monkeypatch.setattr(Site, "environment", lambda self, release=None: dict(secret))
    venv.build(acme(), str(checkout.folder), "r1")
    assert builder.calls and all(env["INDEX_TOKEN"] == "s3cr3t" and env["UV_INDEX"] for _, _, env in builder.calls)
    assert all("s3cr3t" not in " ".join(map(str, argv)) for argv, _, _ in builder.calls), (
        "every list of processes shows argv"
    )
    assert not any(env["UV_CACHE_DIR"].startswith("/tmp/theirs") for _, _, env in builder.calls), "ours is ours"


def brought(builder):
    return [word for argv, _, _ in builder.calls for word in argv if "==" in str(word)]


def test_an_asgi_site_gets_its_server(venv, checkout, builder):
    checkout.write(requirements_txt="django==5.2.19\n")
    venv.build(acme(asgi=True), str(checkout.folder), "r1")
    names = ("gunicorn", "uvicorn", "uvicorn_worker", "websockets")
    assert brought(builder) == [f"{name}=={venv.BROUGHT[name]}" for name in names]


def build(venv, checkout, release="r1"):
    path, reused = venv.build(acme(), str(checkout.folder), release)
    return {"path": path, "reused": reused}


def test_build(venv, checkout, builder):
    checkout.write(requirements_txt="Django==5.2\n")
    done = build(venv, checkout)
    path = acme().path("venvs", checkout.key())
    assert done == {"path": path, "reused": False}
    make, install, bring, sync, mark = builder.calls
    assert make[0] == ["/opt/uv", "venv", "--quiet", "--python", "/usr/bin/python3", path]
    assert install[0] == ["/opt/uv", "pip", "install", "--quiet", "-r", f"{checkout.folder}/requirements.txt"]
    # It has no gunicorn of its own, and no Celery that needs a Redis client.
    assert bring[0] == ["/opt/uv", "pip", "install", "--quiet", f"gunicorn=={venv.BROUGHT['gunicorn']}"]
    # Marked as whole only when everything is in it, and on the disk.
    assert sync[0] == ["/usr/bin/sync", "--file-system", path]
    assert mark[0] == ["/usr/bin/touch", f"{path}/.complete"]
    # Paths in the file are relative to where it lies; uv installs into this environment and downloads no Python.
    assert {cwd for _, cwd, _ in builder.calls} == {str(checkout.folder)}
    assert install[2]["VIRTUAL_ENV"] == path
    assert install[2]["UV_PYTHON_DOWNLOADS"] == "never"
    assert install[2]["UV_CACHE_DIR"] == acme().path("cache/uv")


def test_a_whole_one_is_used_again(venv, checkout, builder, monkeypatch):
    checkout.write(requirements_txt="Django==5.2\n")
    path = acme().path("venvs", checkout.key())
    there = {f"{path}/.complete", f"{path}/bin/gunicorn"}
    exists = os.path.exists
    monkeypatch.setattr(os.path, "exists", lambda name: name in there or exists(name))
    assert build(venv, checkout) == {"path": path, "reused": True}
    assert builder.calls == []
    # Celery was switched on since: what it needs comes to what is there.
    assert venv.build(acme(celery={"worker": True}), str(checkout.folder), "r1") == (path, True)
    assert builder.calls[0][0] == ["/opt/uv", "pip", "install", "--quiet", f"redis=={venv.BROUGHT['redis']}"]
    # A half-built one is not.
    there.clear()
    there.add(path)
    assert build(venv, checkout)["reused"] is False


def test_requirements_that_cannot_be_installed(venv, checkout, builder):
    checkout.write(requirements_txt="gone==1\n")
    builder.fails = "install"
    builder.output = "  \u00d7 No solution found when resolving dependencies:\n  ╰─▶ Because gone was not found\n"
    with pytest.raises(Failed) as told:
        build(venv, checkout)
    assert str(told.value) == (
        "The requirements in requirements.txt cannot be installed: No solution found when resolving "
        "dependencies: Because gone was not found. Try: the same file in an empty virtual environment on web1"
    )
    assert ["/usr/bin/touch" in argv for argv, _, _ in builder.calls] == [False, False]


def test_the_hosts_pip_settings(tmp_path, monkeypatch):
    config = tmp_path / "pip.conf"
    monkeypatch.setattr(module, "PIP_CONFIG", str(config))
    assert module._pip_settings() == {}
    config.write_text(
        "[global]\nindex-url = https://git.example/simple%20a\nextra-index-url =\n  https://a.example\n  https://b.example\n"
        "cert = /etc/ssl/company.pem\ntimeout = 5\n"
    )
    assert module._pip_settings() == {
        "UV_DEFAULT_INDEX": "https://git.example/simple%20a",
        "UV_INDEX": "https://a.example https://b.example",
        "SSL_CERT_FILE": "/etc/ssl/company.pem",
    }


def test_the_chosen_uv_wins_over_the_newest(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "UV", str(tmp_path / "uv"))
    for at, version in enumerate(("1.2.3", "1.3.0")):
        (tmp_path / f"uv-{version}/bin").mkdir(parents=True)
        (tmp_path / f"uv-{version}/bin/uv").touch()
        os.utime(tmp_path / f"uv-{version}/bin/uv", (at, at))
    assert module.uv() == f"{tmp_path}/uv-1.3.0/bin/uv"
    (tmp_path / "uv").symlink_to("uv-1.2.3")
    assert os.path.realpath(module.uv()) == f"{tmp_path}/uv-1.2.3/bin/uv"


def test_a_host_without_uv(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "UV", str(tmp_path / "uv"))
    with pytest.raises(Failed, match=r"^uv is missing on web1\. Try: salt-ssh web1 state\.apply$"):
        module.uv()
