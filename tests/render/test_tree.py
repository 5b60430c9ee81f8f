"""Every SLS, compiled by Salt for every supported distribution. No host, no network."""

import functools
import json
import re
import shutil

import jinja2
import jinja2.meta
import pytest
import salt.utils.templates
import yaml

from tests.render.compiler import (
    DISTRIBUTIONS,
    PILLARS,
    TREE,
    applied_by_orchestrations,
    compile_tree,
    grains,
    options,
    orchestrations,
    sls_files,
    sls_name,
)

HOST_SLS = [sls_name(path) for path in sls_files() if path not in orchestrations()]
FILES = sorted(path for path in TREE.glob("*/files/**/*") if path.is_file() and "__pycache__" not in path.parts)
# What a deploy asks of a host beyond its own pillar.
REQUEST = {"goldenpath_deploy": {"site": None, "ref": None, "who": "somebody@controller", "wait": 0}}


@functools.cache
def highstate(distribution, pillar):
    return compile_tree(grains(distribution), PILLARS[pillar])


@functools.cache
def operations(distribution, pillar, site=None):
    """The SLS that orchestrations apply, with what they hand over."""
    asked = {"goldenpath_deploy": {**REQUEST["goldenpath_deploy"], "site": site}}
    return compile_tree(grains(distribution), {**PILLARS[pillar], **asked}, applied_by_orchestrations())


every_host = pytest.mark.parametrize(
    ("distribution", "pillar"), [(each, pillar) for each in DISTRIBUTIONS for pillar in PILLARS]
)


@every_host
def test_highstate(distribution, pillar):
    compiled = highstate(distribution, pillar)
    assert compiled.faults == []
    assert {"base-packages", "redis-pong", "firewall-enabled", "postgres-service"} <= compiled.high.keys()


@every_host
def test_operations(distribution, pillar):
    slugs = set(PILLARS[pillar]["sites"])
    for site in (None, *slugs):
        compiled = operations(distribution, pillar, site)
        assert compiled.faults == []
        released = {chunk["name"] for chunk in compiled.chunks if chunk["state"] == "release"}
        assert released == ({site} if site else slugs)


@pytest.mark.parametrize("sls", HOST_SLS)
def test_an_sls_can_be_applied_alone(sls):
    assert compile_tree(grains("debian-13"), {**PILLARS["two-sites"], **REQUEST}, [sls]).faults == []


@pytest.mark.parametrize("distribution", ["debian-12", "debian-13"])
def test_a_point_release_changes_nothing(distribution):
    facts = grains(distribution)
    facts["osrelease"] += ".4"
    assert compile_tree(facts, PILLARS["example"]).chunks == highstate(distribution, "example").chunks


def test_every_sls_is_included():
    reached = set()
    for compiled in (highstate("debian-13", "two-sites"), operations("debian-13", "two-sites", "b-2")):
        reached |= {body["__sls__"] for body in compiled.high.values()}
    assert reached >= set(HOST_SLS), "neither top.sls nor an orchestration reaches these"


def test_ids_are_unique_among_all_that_a_host_applies():
    # The engine comes along with every operation, from one SLS.
    engine = {name for name, states in highstate("debian-13", "two-sites").high.items() if states["__sls__"] == "host"}
    highstate_ids = highstate("debian-13", "two-sites").high.keys() - engine
    assert engine and highstate_ids & operations("debian-13", "two-sites", "b-2").high.keys() == set()


def test_a_sites_packages_fail_that_site_alone():
    chunks = highstate("debian-13", "example").chunks
    own = "site-packages-acme-kitchens"
    needed_by = {
        chunk["__id__"]
        for chunk in chunks
        if any(own in requisite.values() for kind in ("require", "watch") for requisite in chunk.get(kind, ()))
    }
    assert needed_by == {"site-live-acme-kitchens"}
    installed = {chunk["__id__"]: chunk for chunk in chunks}
    assert installed[own]["packages"] == ["libmagic1"]
    assert "libmagic1" not in installed["base-packages"]["pkgs"]


def test_processes_and_schedules_are_units_of_their_site():
    chunks = {chunk["__id__"]: chunk for chunk in highstate("debian-13", "two-sites").chunks}
    names = {chunks[id_]["name"].rpartition("/")[2] for id_ in chunks if re.match("site-(process|schedule)-", id_)}
    assert names == {"sum-b-2-rq.service", "sum-b-2-nightly.service", "sum-b-2-nightly.timer"}
    shown = rendering(
        (TREE / "site/files/process.service").read_text(), chunks["site-process-service-b-2-rq"]["context"]
    )
    assert "Restart=always" in shown and "WantedBy=multi-user.target" in shown
    nightly = chunks["site-process-service-b-2-nightly"]["context"]
    shown = rendering((TREE / "site/files/process.service").read_text(), nightly)
    assert "Type=oneshot" in shown and "WantedBy" not in shown and "TimeoutStartSec=3600" in shown


def test_the_time_daemon_of_the_host_stays():
    packages = highstate("debian-13", "example").high["base-packages"]["pkg"]
    (names,) = (item["pkgs"] for item in packages if isinstance(item, dict) and "pkgs" in item)
    assert "__slot__:salt:packages.provider(time-daemon, systemd-timesyncd)" in names
    assert "systemd-timesyncd" not in names


def managed_files():
    """Each managed file once: (id, source, template, context)."""
    found = {}
    for distribution in DISTRIBUTIONS:
        for pillar in PILLARS:
            for chunk in highstate(distribution, pillar).chunks:
                if str(chunk.get("source", "")).startswith("salt://"):
                    key = json.dumps([chunk["source"], chunk.get("template"), chunk.get("context")])
                    found.setdefault(key, chunk)
    return list(found.values())


def test_every_source_exists():
    sources = {chunk["source"] for chunk in managed_files()}
    assert [source for source in sources if not (TREE / source.removeprefix("salt://")).exists()] == []


def test_every_file_is_used():
    used = {TREE / chunk["source"].removeprefix("salt://") for chunk in managed_files()}
    assert [str(path) for path in FILES if not used & {path, *path.parents}] == []


def test_every_template_renders():
    rendered_sources = set()
    for chunk in managed_files():
        if chunk["fun"] == "recurse" or chunk["state"] == "engine":
            continue
        text = (TREE / chunk["source"].removeprefix("salt://")).read_text()
        if chunk.get("template") != "jinja":
            assert not re.search(r"{[{%#]", text), f"{chunk['source']} holds Jinja and is no template"
            continue
        context = dict(chunk.get("context") or {})
        rendered = rendering(text, context)
        assert not re.search(r"{[{%#]", rendered), chunk["source"]
        assert rendered.startswith("# Managed by Golden Path"), chunk["source"]
        rendered_sources.add(chunk["source"])
        # Also in a branch that this context does not take.
        tree = jinja2.Environment().parse(text)
        assert jinja2.meta.find_undeclared_variables(tree) <= set(context), chunk["source"]
    assert rendered_sources


def rendering(text, context):
    around = {"opts": options("/nonexistent"), "saltenv": "base", "sls": "", "grains": grains("debian-13")}
    return salt.utils.templates.render_jinja_tmpl(text, {**around, "pillar": {}, "salt": {}, **context})


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(TREE)))
def test_managed_files_say_so(path):
    # A Python package is managed as a whole, and says so once.
    package = path.with_name("__init__.py")
    told = package if package.exists() else path
    assert "Managed by Golden Path" in "".join(told.read_text().splitlines(keepends=True)[:4])


@pytest.mark.parametrize("path", sls_files(), ids=sls_name)
def test_style(path):
    assert style_faults(path.read_text(), path not in orchestrations()) == []


def test_style_of_maps():
    for path in TREE.rglob("*.jinja"):
        assert style_faults(path.read_text(), host=True) == [], path


def style_faults(text, host):
    """What house style says of an SLS's text."""
    faults = []
    if len(text.splitlines()) > 110:
        faults.append(f"{len(text.splitlines())} lines, 110 are a lot")
    if host and re.search(r"\bsalt(\[|\.[a-z_]+\.|\.get\()", text):
        faults.append("a call at render time: over salt-ssh it costs two connections")
    # But for the look before the first change, which everything else would have to require.
    if re.search(r"^\s*-?\s*order:(?! first$)", text, re.MULTILINE):
        faults.append("order: instead of a requisite")
    if host and re.search(r"^\s*- (creates|unless|onlyif):", text, re.MULTILINE):
        faults.append("creates, unless, onlyif: Salt loads all its state modules for the first of them, half a second")
    if re.search(r"\btab\b|\t", text):
        faults.append("a tab")
    return faults


def test_top():
    assert yaml.safe_load((TREE / "top.sls").read_text()).keys() == {"base"}


# What the checks above are worth: each fires on a tree that is wrong in one way.

WRONG = {
    "thing-a:\n  nothing.there:\n    - name: x\n": "there is no state nothing.there",
    "thing-a:\n  file.managed:\n    - name: /a\n    - mod: '0644'\n": "file.managed takes no mod",
    "thing-a:\n  file.symlink:\n    - name: /a\n": "file.symlink needs target",
    "thing-a:\n  release.deployed:\n    - name: a\n    - reff: v1\n": "release.deployed takes no reff",
    "thing-a:\n  file.managed:\n    - name: /a\n    - require:\n        - pkg: gone\n": "gone",
    "/etc/thing:\n  file.managed:\n    - mode: '0644'\n": "the id is not kebab case",
    "thing_a:\n  file.managed:\n    - name: /a\n": "the id is not kebab case",
    "other-a:\n  file.managed:\n    - name: /a\n": "the id does not begin with thing-",
    "thing-a:\n  file.managed:\n    - mode: '0644'\n": "file has no name",
    "thing-a:\n  file.managed:\n    - name: /a\n  service.running:\n    - name: a\n": "more than one function",
    "thing-a:\n  module.run:\n    - name: service.no_such\n": "there is no execution function service.no_such",
    "thing-a:\n  module.run:\n    - name: service.reload\n": "service.reload needs name",
    "thing-a:\n  module.run:\n    - service.reload:\n        - nam: a\n": "service.reload takes no nam",
    "thing-a:\n  file.managed:\n    - name: {{ pillar.nothing.there }}\n": "Rendering SLS",
    "thing-a:\n  file.managed:\n    - name: /a\nthing-a:\n  file.absent:\n    - name: /b\n": "onflicting ID",
    "include:\n  - gone\nthing-a:\n  file.managed:\n    - name: /a\n": "gone",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_tree_is_refused(tmp_path, text):
    shutil.copytree(TREE / "base", tmp_path / "base")
    (tmp_path / "thing.sls").write_text(text)
    compiled = compile_tree(grains("debian-13"), PILLARS["no-sites"], ["thing"], file_roots={"base": [str(tmp_path)]})
    assert WRONG[text] in "\n".join(compiled.faults)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a:\n" * 111, "111 lines"),
        ("{% set x = salt['cmd.run']('id') %}\n", "render time"),
        ('{% set x = salt["grains.get"]("id") %}\n', "render time"),
        ("{% set x = salt.cmd.run('id') %}\n", "render time"),
        ("a:\n  pkg.installed:\n    - order: 1\n", "order:"),
        ("a:\n\tb\n", "a tab"),
        ("a:\n  cmd.run:\n    - creates: /b\n", "half a second"),
    ],
)
def test_wrong_style_is_told(text, fault):
    assert any(fault in each for each in style_faults(text, host=True))


def test_a_minion_looks_at_its_modules_before_anything_else():
    pillar = {**PILLARS["example"], "goldenpath_modules": {"modules/goldenpath.py": "1"}}
    compiled = compile_tree(grains("debian-13"), pillar)
    assert compiled.faults == []
    first, second = sorted(compiled.chunks, key=lambda chunk: chunk["order"])[:2]
    assert [first["__id__"], second["__id__"]] == ["base-modules", "base-look"] and first["failhard"] is True
    assert first["shipped"] == pillar["goldenpath_modules"]
    assert "base-modules" not in repr(highstate("debian-13", "example").chunks)
