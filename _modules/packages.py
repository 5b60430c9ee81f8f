"""
The distribution's packages, also under a name that another one provides: libmagic1 is a package on Debian 12, and
on Debian 13 and Ubuntu 24.04 what libmagic1t64 provides. Salt's own ``pkg.installed`` never finds such a name.
"""

import re
import shlex

from salt.exceptions import CommandExecutionError

QUERY = "${db:Status-Status}|${Package}|${Version}|${Provides}\n"
FRESH = 300  # seconds: package lists of the same run are not fetched again
APT = (
    "apt-get",
    "install",
    "--quiet",
    "--yes",
    "--no-install-recommends",
    # What one site asks for takes nothing away from the host.
    "--no-remove",
    "--option=DPkg::Lock::Timeout=120",
    "--option=Dpkg::Options::=--force-confdef",
    "--option=Dpkg::Options::=--force-confold",
)


def _run(command):
    return __salt__["cmd.run_all"](
        command, python_shell=False, ignore_retcode=True, env={"LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    )


def _installed():
    """Each installed package by its name: its version and the further names that it provides."""
    found = {}
    for line in _run(["dpkg-query", "--show", f"--showformat={QUERY}"])["stdout"].splitlines():
        status, name, version, provides = line.split("|", 3)
        if status == "installed":
            names = [each.split()[0].partition(":")[0] for each in provides.split(",") if each.strip()]
            found[name] = (version, names)
    return found


def provider(name, default=None):
    """
    The installed package of a name, or the one that provides it.

    :param name: such as ``time-daemon``.
    :param default: what to answer where there is none.
    :return: the package's own name.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 packages.provider time-daemon
    """
    found = _installed()
    return name if name in found else next((each for each in found if name in found[each][1]), default)


def missing(names):
    """
    Those of the names that no installed package has or provides.

    :param names: list of names.
    :return: list of names.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 packages.missing '[libmagic1, gettext]'
    """
    found = _installed()
    there = {*found, *(name for _, provides in found.values() for name in provides)}
    return [name for name in names if name not in there]


def install(names):
    """
    Install what is missing. A name that one package alone provides is that package; nothing is ever removed for it.

    :param names: list of names.
    :return: dict of each package that came or changed, with its old and new version.
    :raises CommandExecutionError: in one sentence, if a name cannot be installed.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 packages.install '[libmagic1, gettext]'
    """
    wanted = missing(names)
    if not wanted:
        return {}
    before = _installed()
    __salt__["pkg.refresh_db"](cache_valid_time=FRESH)
    done = _run([*APT, *wanted])
    if done["retcode"] or missing(wanted):
        command = shlex.join(["apt-get", "install", "--simulate", *wanted])
        raise CommandExecutionError(f"{', '.join(wanted)} cannot be installed: {_reason(done)}. Try: {command}")
    after = _installed()
    versions = {name: (before.get(name, ("",))[0], after.get(name, ("",))[0]) for name in {**before, **after}}
    return {name: {"old": old, "new": new} for name, (old, new) in sorted(versions.items()) if old != new}


def _reason(done):
    """What apt said, in a line; of a name that several packages provide, which they are."""
    said = [line[3:].rstrip(".") for line in done["stderr"].splitlines() if line.startswith("E: ")]
    lines = done["stdout"].splitlines()
    for at, line in enumerate(lines):
        if line.endswith("is a virtual package provided by:"):
            listed = [re.match(r" +(\S+) ", each) for each in lines[at + 1 :]]
            said.append(f"{line.removeprefix('Package ')} {', '.join(each[1] for each in listed if each)}")
    return "; ".join(said) or f"apt-get ended with {done['retcode']}"
