"""
Packages of the distribution, by any name that they have there.
"""

import os

from salt.exceptions import CommandExecutionError

UNITS = "/etc/systemd/system"


def installed(name, packages):
    """
    Each of the packages is installed, or another one that provides its name. Nothing is upgraded or removed.

    name (str)
        Who needs them, for messages.

    packages (list)
        Their names, such as libmagic1.

    .. code-block:: yaml

        site-packages-acme-kitchens:
          packages.installed:
            - name: acme-kitchens
            - packages: [libmagic1]
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": f"The packages of {name} are installed"}
    try:
        missing = __salt__["packages.missing"](packages)
        if missing and __opts__["test"]:
            ret["changes"] = {package: {"old": "", "new": "installed"} for package in missing}
            ret.update(result=None, comment=f"Would be installed for {name}: {', '.join(missing)}")
        elif missing:
            ret["changes"] = __salt__["packages.install"](missing)
            ret["comment"] = f"Installed for {name}: {', '.join(missing)}"
    except CommandExecutionError as exc:
        ret.update(result=False, changes={}, comment=f"A package of {name} is missing: {exc}")
    return ret


def quiet(name, program):
    """
    The service of a package that is about to be installed does not start, now or at boot: its program is used in
    another way. Where the program is there already the service is somebody's, and is left as it is.

    name (str)
        The unit, such as nginx.service.
    program (str)
        The path of the package's program.

    .. code-block:: yaml

        base-no-nginx:
          packages.quiet:
            - name: nginx.service
            - program: /usr/sbin/nginx
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": f"{name} is as it was found"}
    link = f"{UNITS}/{name}"
    if os.path.exists(program) or os.path.lexists(link):
        return ret
    ret["changes"] = {name: {"old": "", "new": "masked"}}
    if __opts__["test"]:
        ret.update(result=None, comment=f"{name} would be masked")
        return ret
    os.symlink("/dev/null", link)
    ret["comment"] = f"{name} is masked"
    return ret
