"""The state tree through Salt's own compiler, for a host that need not exist."""

import contextlib
import copy
import dataclasses
import functools
import json
import pathlib
import re
import shutil
import tempfile

import salt.config
import salt.loader
import salt.modules.systemd_service
import salt.state
import salt.utils.event
import yaml
from salt.utils.args import get_function_argspec

from tests.conftest import ROOT, example_pillar, load_module

TREE = ROOT / "salt"

_UBUNTU = {"os": "Ubuntu", "os_family": "Debian"}
_DEBIAN = {"os": "Debian", "os_family": "Debian"}
DISTRIBUTIONS = {
    "ubuntu-22.04": {**_UBUNTU, "osrelease": "22.04", "osmajorrelease": 22, "oscodename": "jammy"},
    "ubuntu-24.04": {**_UBUNTU, "osrelease": "24.04", "osmajorrelease": 24, "oscodename": "noble"},
    "ubuntu-26.04": {**_UBUNTU, "osrelease": "26.04", "osmajorrelease": 26, "oscodename": "resolute"},
    "debian-12": {**_DEBIAN, "osrelease": "12", "osmajorrelease": 12, "oscodename": "bookworm"},
    "debian-13": {**_DEBIAN, "osrelease": "13", "osmajorrelease": 13, "oscodename": "trixie"},
}


def _two_sites():
    compiler = load_module("_pillar/goldenpath.py")
    site = {"repo": "/srv/git/acme.git", "ref": "main", "project": "acme"}
    sites = {
        "acme": {**site, "domains": ["acme.example"], "redis": {"cache": 0, "broker": 1}, "tls": "internal"},
        "b-2": {
            **site, "domains": ["b.example", "www.b.example"], "redis": {"cache": 63, "broker": 2},
            "celery": {"worker": True, "beat": True, "concurrency": 4}, "workers": 1,
            "packages": ["libmagic1", "gettext"], "env": {"QUOTED": 'a "b" $c'}, "secrets": {"TOKEN": "s3cr3t"},
            "processes": {"rq": {"command": "manage.py rqworker 'a b' 50%"}},
            "schedules": {"nightly": {"command": "manage.py clearsessions", "at": "*-*-* 03:00:00"}},
            "wsgi": "config.wsgi:app",
        },
    }  # fmt: skip
    pillar = {"redis": {}, "sites": sites, "backup": {"every": "1h"}}
    assert compiler.validate(pillar) == []
    return compiler.normalise(pillar)


PILLARS = {
    "example": example_pillar(),
    "no-sites": load_module("_pillar/goldenpath.py").normalise({"redis": {}, "sites": {}}),
    "two-sites": _two_sites(),
}


def sls_name(path):
    """salt/redis/ready.sls is redis.ready, salt/redis/init.sls is redis."""
    parts = path.relative_to(TREE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "init" else parts)


def sls_files(tree=TREE):
    """Every SLS but the top file, by path."""
    return sorted(path for path in tree.rglob("*.sls") if path != tree / "top.sls")


def orchestrations():
    """Those that run on the controller: directly beneath salt/."""
    return [path for path in sls_files() if path.parent == TREE]


@dataclasses.dataclass
class Compiled:
    """What Salt would execute, and what is wrong with it, a sentence each."""

    high: dict
    chunks: list
    faults: list


def options(folder, **changes):
    """A masterless minion's options: nothing is read from the machine, what is written goes to a folder."""
    opts = salt.config.minion_config(None)
    opts.update(
        id="web1", file_client="local", root_dir=folder, cachedir=f"{folder}/cache",
        extension_modules=f"{folder}/extmods", sock_dir=f"{folder}/run", fileserver_list_cache_time=0,
        file_roots={"base": [str(TREE)]}, pillar_roots={"base": []},
        module_dirs=[str(ROOT / "_modules")], states_dirs=[str(ROOT / "_states")],
    )  # fmt: skip
    opts.update(changes)
    return opts


def grains(distribution, **changes):
    """What a host of a distribution says of itself, as far as the tree may ask."""
    return {
        **DISTRIBUTIONS[distribution], "id": "web1", "kernel": "Linux", "init": "systemd", "osarch": "amd64",
        "cpuarch": "x86_64", "num_cpus": 2, "mem_total": 1967, "ipv4": ["127.0.0.1", "203.0.113.10"],
        "ipv6": ["::1", "2001:db8::10"], "saltversion": "3008.3", **changes,
    }  # fmt: skip


def compile_tree(facts, pillar, sls=None, **changes):
    """
    Compile the highstate of a host, or only some SLS, as state.apply does.

    facts (dict)
        The host's grains.
    pillar (dict)
        Its pillar, with the defaults filled in.
    sls (list)
        Names of SLS; the highstate where it is left out.
    changes
        Other options than ``options`` gives.
    """
    with tempfile.TemporaryDirectory() as folder:
        opts = options(folder, **changes)
        opts["grains"] = facts
        return _compile(opts, pillar, sls)


def compile_orchestration(sls, request, hosts, transport="ssh"):
    """
    Compile an orchestration as ``salt-run state.orchestrate`` does, with the checkout's own configuration.

    sls (str)
        Its name.
    request (dict)
        What the operator gives as ``pillar=``.
    hosts (dict)
        The pillar of each host of the roster, by id.
    transport (str)
        ssh or minion.
    """
    with tempfile.TemporaryDirectory() as folder, _connect_pull_kept():
        config = configuration(pathlib.Path(folder), hosts, goldenpath={"transport": transport})
        opts = salt.config.mminion_config(str(config), {})
        opts.update(file_client="local", id="controller_master", __role="master")
        opts["grains"] = {"id": opts["id"]}
        return _compile(opts, request, [sls])


def configuration(folder, hosts=None, **changes):
    """
    The checkout's config/master in a folder, with absolute paths and a roster and pillar of its own.

    folder (pathlib.Path)
        Where to; it exists.
    hosts (dict)
        The pillar of each host of the roster, by id.
    changes
        Other options.

    Returns the file's path.
    """
    config = yaml.safe_load((ROOT / "config/master").read_text())
    (folder / "pillar/hosts").mkdir(parents=True)
    shutil.copy(ROOT / "pillar/top.sls", folder / "pillar")
    for id_, pillar in (hosts or {}).items():
        text = pillar if isinstance(pillar, str) else yaml.safe_dump(plain(pillar))
        (folder / f"pillar/hosts/{id_.replace('.', '_')}.sls").write_text(text)
    (folder / "roster").write_text(yaml.safe_dump({id_: {"host": "203.0.113.10"} for id_ in hosts or {}}))
    config.update(
        root_dir=str(folder), roster_file=str(folder / "roster"), log_file=str(folder / "log"),
        file_roots={"base": [str(TREE)]}, pillar_roots={"base": [str(folder / "pillar")]},
        **absolute(config), **changes,
    )  # fmt: skip
    for key in ("pki_dir", "cachedir", "sock_dir", "extension_modules"):
        config[key] = str(folder / key)
    # Nobody watches here what hosts do, and there are none.
    (folder / "extension_modules/modules").mkdir(parents=True)
    (folder / "extension_modules/modules/screen.py").write_text("def watch(hosts, roster=None):\n    return False\n")
    path = folder / "master"
    path.write_text(yaml.safe_dump(config))
    return path


def absolute(config):
    """Where config/master says that the tree's Python is, with absolute paths."""
    return {key: [str(ROOT / each) for each in config[key]] for key in ("runner_dirs", "module_dirs", "pillar_dirs")}


def plain(pillar):
    """A pillar as an operator may write it: what is derived from other keys can stand there as well."""
    return json.loads(json.dumps(pillar))


@contextlib.contextmanager
def _connect_pull_kept():
    """deployment.plan quietens Salt for the rest of its process, which here is that of all tests."""
    kept = salt.utils.event.SaltEvent.connect_pull
    try:
        yield
    finally:
        salt.utils.event.SaltEvent.connect_pull = kept


def _compile(opts, pillar, sls):
    with salt.state.HighState(opts, initial_pillar=copy.deepcopy(pillar)) as highstate:
        matches = highstate.top_matches(highstate.get_top()) if sls is None else {"base": list(sls)}
        high, errors = highstate.render_highstate(matches)
        high, more = highstate.state.reconcile_extend(high)
        errors += more + highstate.state.verify_high(high)
        high, more = highstate.state.requisite_in(high)
        errors += more
        chunks = []
        if not errors:
            chunks, more = highstate.state.compile_high_data(high)
            errors += more
        faults = [str(error).strip() for error in errors]
        for chunk in chunks:
            found = _call_faults(chunk, highstate.state.states, highstate.state.functions)
            faults += [f"{chunk['__id__']}: {fault}" for fault in found]
        for id_, body in high.items():
            faults += [f"{id_}: {fault}" for fault in _id_faults(id_, body)]
        return Compiled(high, chunks, faults)


# What a state takes through **kwargs, where it has no argument of that name: other names Salt passes over in
# silence.
_KEYWORDS = {
    "file.directory": {"mode"},
    "pkg.installed": {"install_recommends"},
    "module.run": {"m_name"},
    "test.fail_without_changes": {"comment"},
}


def _call_faults(chunk, states, functions):
    full = f"{chunk['state']}.{chunk['fun']}"
    if full not in states:
        return [f"there is no state {full}"]
    arguments = {key for key in chunk if not key.startswith("__")}
    arguments -= {"state", "fun", "name", "order", "name_order", *salt.state.STATE_INTERNAL_KEYWORDS}
    if full == "module.run":
        return _run_faults(chunk, arguments, functions)
    takes, required = _signature(states[full])
    takes |= _KEYWORDS.get(full, set())
    faults = [f"{full} takes no {name}" for name in sorted(arguments - takes)]
    return faults + [f"{full} needs {name}" for name in sorted(required - chunk.keys())]


def _signature(function):
    """The names that a function takes, and those that it cannot do without."""
    spec = get_function_argspec(function)
    return set(spec.args), set(spec.args[: len(spec.args) - len(spec.defaults or ())])


def _function(name, functions):
    """An execution function as a host with systemd has it; this machine may have another `service`."""
    module, _, function = name.partition(".")
    if module == "service":
        aliases = {alias: own for own, alias in salt.modules.systemd_service.__func_alias__.items()}
        return getattr(salt.modules.systemd_service, aliases.get(function, function), None)
    return functions.get(name)


def _run_faults(chunk, arguments, functions):
    """module.run, in the old style (name, m_name) or the new one (the function as a key)."""
    new = [argument for argument in arguments if "." in argument]
    if len(new) > 1 or (new and len(arguments) > 1):
        return ["module.run of more than one function"]
    name = new[0] if new else chunk["name"]
    function = _function(name, functions)
    if function is None:
        return [f"there is no execution function {name}"]
    if new:
        given = {key for item in chunk[name] or [] if isinstance(item, dict) for key in item}
    else:
        given = {argument.removeprefix("m_") for argument in arguments}
    takes, required = _signature(function)
    faults = [f"{name} takes no {key}" for key in sorted(given - takes)]
    return faults + [f"{name} needs {key}" for key in sorted(required - given)]


_RELOAD = {"file.managed", "module.run"}


@functools.cache
def _applied():
    """The SLS that orchestrations apply, with those orchestrations: an operator knows its states by their name."""
    found = {}
    for path in orchestrations():
        for name in re.findall(r"^\s+- sls: (\S+)$", path.read_text(), re.MULTILINE):
            found.setdefault(name, []).append(sls_name(path))
    return found


def applied_by_orchestrations():
    """The names of the SLS that orchestrations apply."""
    return sorted(_applied())


def _id_faults(id_, body):
    faults = []
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", id_):
        faults.append("the id is not kebab case")
    component = body["__sls__"].split(".")[0]
    if id_.split("-")[0] not in (component, *_applied().get(body["__sls__"], ())):
        faults.append(f"the id does not begin with {component}-")
    functions = set()
    for state, run in body.items():
        if state.startswith("__"):
            continue
        functions |= {f"{state}.{word}" for word in run if isinstance(word, str)}
        keys = {key for item in run if isinstance(item, dict) for key in item}
        # module.run in the new style takes its function's name from the key.
        if not keys & {"name", "names"} and not (state == "module" and any("." in key for key in keys)):
            faults.append(f"{state} has no name")
    if len(functions) > 1 and not (functions == _RELOAD and "systemctl_reload" in str(body["module"])):
        faults.append(f"more than one function: {', '.join(sorted(functions))}")
    return faults
