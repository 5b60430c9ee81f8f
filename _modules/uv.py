"""
uv, which builds a release's virtual environment in a second from the host's cache.
"""

import glob
import os

from salt.exceptions import CommandExecutionError

ROOT = "/opt/goldenpath"
WHEELS = "/usr/share/python-wheels"


def path(version):
    """
    Where a version of uv is.

    :param version: such as 0.13.9.
    :return: its program's path, None where it is not installed.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 uv.path 0.13.9
    """
    program = f"{ROOT}/uv-{version}/bin/uv"
    return program if os.path.exists(program) else None


def current():
    """
    The version that releases are built with.

    :return: such as 0.13.9, None where none was chosen yet.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 uv.current
    """
    try:
        return os.readlink(f"{ROOT}/uv").removeprefix("uv-")
    except OSError:
        return None


def choose(version):
    """
    Build releases with a version that is installed, whichever others there are.

    :param version: such as 0.13.9.
    :return: True.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 uv.choose 0.13.9
    """
    temporary = f"{ROOT}/uv.new"
    if os.path.lexists(temporary):
        os.unlink(temporary)
    os.symlink(f"uv-{version}", temporary)
    os.rename(temporary, f"{ROOT}/uv")
    return True


def install(version):
    """
    Download a version of uv, beside those that are there. pip comes from the wheel that python3-venv carries, so
    nothing has to be bootstrapped first.

    :param version: such as 0.13.9.
    :return: its program's path.
    :raises CommandExecutionError: with what pip said, if it cannot be had.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 uv.install 0.13.9
    """
    done = __salt__["cmd.run_all"](
        [
            "python3",
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--target",
            f"{ROOT}/uv-{version}",
            f"uv=={version}",
        ],
        python_shell=False,
        ignore_retcode=True,
        env={"PYTHONPATH": ":".join(sorted(glob.glob(f"{WHEELS}/pip-*.whl"))), "PIP_ROOT_USER_ACTION": "ignore"},
    )
    if done["retcode"] or not path(version):
        said = (done["stderr"] or done["stdout"]).strip().splitlines() or [f"pip ended with {done['retcode']}"]
        reason = next((line for line in reversed(said) if line.startswith("ERROR: ")), said[-1])
        raise CommandExecutionError(
            f"uv {version} cannot be installed: {reason.removeprefix('ERROR: ').rstrip('.')}. "
            f"Try: {__salt__['goldenpath.command']('state.apply', 'base')}"
        )
    return path(version)
