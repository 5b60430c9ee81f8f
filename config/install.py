"""
Installs Python packages by uv as pip would: ``python config/install.py PYTHON ARGUMENT…``, with the arguments of
``pip install``. uv reads none of pip's configuration, in which a company's index, proxy and certificates stand; here it
is handed on. Where no index has uv, pip itself does it.
"""

import ast
import os
import subprocess
import sys

# pip's options, and what uv calls them: docs.astral.sh/uv/reference/environment.
SETTINGS = {
    "index-url": "UV_DEFAULT_INDEX", "extra-index-url": "UV_INDEX", "find-links": "UV_FIND_LINKS",
    "trusted-host": "UV_INSECURE_HOST", "no-index": "UV_NO_INDEX", "cert": "SSL_CERT_FILE",
    "timeout": "UV_HTTP_TIMEOUT", "default-timeout": "UV_HTTP_TIMEOUT",
}  # fmt: skip
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]


def settings(listing):
    """
    pip's configuration as environment variables of uv.

    listing (str)
        What ``pip config list`` prints; where an option stands twice the last one counts, as for pip.

    Returns a dictionary.
    """
    found = {}
    for line in listing.splitlines():
        name, _, value = line.partition("=")
        option = name.rpartition(".")[2]
        value = str(ast.literal_eval(value)) if value[:1] in "'\"" else value
        if option == "proxy":
            found.update(HTTP_PROXY=value, HTTPS_PROXY=value)
        elif option in SETTINGS and value.split():
            separator = "," if option == "find-links" else " "
            found[SETTINGS[option]] = separator.join(value.split())
    return found


def main(python, *arguments):
    """Install for an interpreter. Returns an exit status."""
    with open(os.path.join(os.path.dirname(__file__), "../constraints.txt"), encoding="utf-8") as lines:
        uv = next(line.strip() for line in lines if line.startswith("uv=="))
    here = os.path.join(os.path.dirname(sys.executable), "uv")
    if not os.path.exists(here) and subprocess.run([*PIP, "install", "-qq", uv], check=False).returncode:
        print(f"There is no {uv} here: pip installs, and takes its time", flush=True)
        return subprocess.run([python, *PIP[1:], "install", "-qq", *arguments], check=False).returncode
    listing = subprocess.run([*PIP, "config", "list"], capture_output=True, text=True, check=True).stdout
    env = {
        # One of Salt's requirements is compiled, and is not worth the time of an optimiser.
        "CFLAGS": "-O0", "UV_SYSTEM_CERTS": "1", "UV_NO_PROGRESS": "1", "UV_LINK_MODE": "copy",
        **settings(listing), **os.environ,
    }  # fmt: skip
    # As pip has it: the best version of all indexes, and not the first index that has one.
    options = ["--quiet", "--compile-bytecode", "--index-strategy", "unsafe-best-match", "--python", python]
    return subprocess.run([here, "pip", "install", *options, *arguments], env=env, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
