"""What tests of every kind use: this tree's modules as Salt's loader gives them, and its example pillar."""

import copy
import functools
import importlib.util
import os
import pathlib
import shutil
import tempfile

import pytest
import salt._logging
import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent


def pytest_configure(config):
    """redis-server for the tests: redis-tools has the program, under the name of one of its checks."""
    if not shutil.which("redis-server") and (program := shutil.which("redis-check-rdb")):
        folder = pathlib.Path(tempfile.mkdtemp(prefix="gp-bin-"))
        config.add_cleanup(functools.partial(shutil.rmtree, folder, ignore_errors=True))
        folder.chmod(0o755)  # tests start it as the user redis, too
        (folder / "redis-server").symlink_to(os.path.realpath(program))
        os.environ["PATH"] = f"{folder}{os.pathsep}{os.environ['PATH']}"


# Salt would keep what it logs here, and print it when Python ends and the output is closed.
salt._logging.shutdown_temp_handler()


def load_module(path, **dunders):
    """
    One file of ``_modules``, ``_states``, ``_runners`` or ``_pillar``, loaded anew, with what Salt puts into it.

    path (str)
        The file, from the root of the repository.
    dunders
        ``salt``, ``opts``, ``grains``, ``pillar`` and ``context``; an ordinary host's by default.
    """
    name = f"under_test_{pathlib.Path(path).parent.name.strip('_')}_{pathlib.Path(path).stem}"
    spec = importlib.util.spec_from_file_location(name, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    defaults = {
        "salt": {},
        "opts": {"id": "web1", "test": False},
        "grains": {"id": "web1"},
        "pillar": {},
        "context": {},
    }
    for key, value in {**defaults, **dunders}.items():
        setattr(module, f"__{key}__", value)
    return module


@functools.cache
def _example_pillar():
    compiler = load_module("_pillar/goldenpath.py")
    return compiler.normalise(yaml.safe_load((ROOT / "pillar/hosts/example.sls").read_text()))


def example_pillar():
    """The pillar that is shown to operators, with the defaults filled in, as a host's states see it."""
    return copy.deepcopy(_example_pillar())


@pytest.fixture
def load():
    """``load("_modules/release.py", salt={…})``: a module under test."""
    return load_module


@pytest.fixture
def site():
    """The example site's pillar, with every key there is, and the host's Redis."""
    found = example_pillar()["sites"]["acme-kitchens"]
    found["redis"]["own"] = False
    return found
