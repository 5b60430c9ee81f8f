"""The set-up by uv, behind whatever index, proxy and certificates pip is configured for."""

import importlib.util
import subprocess
import sys

import pytest

from tests.conftest import ROOT

SPEC = importlib.util.spec_from_file_location("install", ROOT / "config/install.py")
install = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(install)


@pytest.mark.parametrize(
    ("listing", "found"),
    [
        ("", {}),
        ("global.index-url='https://pip.example/simple'\n", {"UV_DEFAULT_INDEX": "https://pip.example/simple"}),
        ("user.extra-index-url='\\nhttps://a.example\\nhttps://b.example'", {"UV_INDEX": "https://a.example https://b.example"}),
        ("global.find-links='/opt/wheels /srv/wheels'", {"UV_FIND_LINKS": "/opt/wheels,/srv/wheels"}),
        (":env:.cert='/etc/ssl/company.pem'", {"SSL_CERT_FILE": "/etc/ssl/company.pem"}),
        ("global.proxy='http://proxy.example:3128'",
         {"HTTP_PROXY": "http://proxy.example:3128", "HTTPS_PROXY": "http://proxy.example:3128"}),
        ("global.trusted-host='pip.example'\nglobal.retries='3'", {"UV_INSECURE_HOST": "pip.example"}),
        # The user's own, and then the environment's, come last.
        ("global.index-url='https://a.example'\n:env:.index-url='https://b.example'", {"UV_DEFAULT_INDEX": "https://b.example"}),
    ],
)  # fmt: skip
def test_what_pip_knows_uv_is_told(listing, found):
    assert install.settings(listing) == found


def test_the_pinned_uv_installs_from_a_folder_that_pip_knows(tmp_path, monkeypatch):
    """A package of the test's own, which no index has."""
    package = tmp_path / "src/gp_example"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("WORD = 'here'\n")
    (tmp_path / "src/pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        '[project]\nname = "gp-example"\nversion = "1.0"\n'
    )
    wheels = tmp_path / "wheels"
    made = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-qq", "--no-deps", "--wheel-dir", wheels, tmp_path / "src"], check=False
    )
    assert made.returncode == 0
    (tmp_path / "pip.conf").write_text(f"[global]\nfind-links = {wheels}\nno-index = true\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    python = tmp_path / "venv/bin/python"
    assert install.main(str(python), "gp-example==1.0") == 0
    done = subprocess.run([python, "-c", "import gp_example; print(gp_example.WORD)"], capture_output=True, text=True)
    assert done.stdout == "here\n"
    assert install.main(str(python), "gp-example==9.9") != 0
