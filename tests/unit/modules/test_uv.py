"""uv by pip from a wheel, with a pip that answers as it does."""

import pytest
from salt.exceptions import CommandExecutionError


class Host:
    def __init__(self, root):
        self.root, self.calls = root, []
        self.answer = {"retcode": 0, "stdout": "", "stderr": ""}
        self.brings = True

    def run(self, command, **options):
        assert options["python_shell"] is False
        self.calls.append((command, options["env"]))
        if self.brings and not self.answer["retcode"]:
            program = self.root / "uv-1.2.3/bin/uv"
            program.parent.mkdir(parents=True)
            program.touch()
        return self.answer


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path)


@pytest.fixture
def uv(load, host):
    module = load(
        "_modules/uv.py",
        salt={"cmd.run_all": host.run, "goldenpath.command": lambda *words: " ".join(["salt-ssh web1", *words])},
    )
    module.ROOT = str(host.root)
    module.WHEELS = str(host.root / "wheels")
    (host.root / "wheels").mkdir()
    (host.root / "wheels/pip-25.1-py3-none-any.whl").touch()
    return module


def test_install(uv, host):
    assert uv.path("1.2.3") is None
    assert uv.install("1.2.3") == uv.path("1.2.3") == f"{host.root}/uv-1.2.3/bin/uv"
    (command, env) = host.calls[0]
    assert command[-3:] == ["--target", f"{host.root}/uv-1.2.3", "uv==1.2.3"]
    assert env["PYTHONPATH"] == f"{host.root}/wheels/pip-25.1-py3-none-any.whl"


@pytest.mark.parametrize(
    ("stderr", "reason"),
    [
        (
            "WARNING: retrying\nERROR: No matching distribution found for uv==1.2.3\n\n[notice] new release\n",
            "No matching distribution found for uv==1.2.3",
        ),
        ("No module named pip\n", "No module named pip"),
        ("", "pip ended with 1"),
    ],
)
def test_failure_is_one_sentence(uv, host, stderr, reason):
    host.answer = {"retcode": 1, "stdout": "", "stderr": stderr}
    with pytest.raises(CommandExecutionError) as failure:
        uv.install("1.2.3")
    assert str(failure.value) == f"uv 1.2.3 cannot be installed: {reason}. Try: salt-ssh web1 state.apply base"


def test_a_pip_that_brings_nothing(uv, host):
    host.brings = False
    with pytest.raises(CommandExecutionError, match=r"uv 1\.2\.3 cannot be installed"):
        uv.install("1.2.3")


def test_the_chosen_version_is_what_the_link_names(uv, host):
    assert uv.current() is None
    for version in ("1.2.3", "1.3.0", "1.2.3"):
        assert uv.choose(version) is True
        assert uv.current() == version
