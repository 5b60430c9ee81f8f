"""
Packages of the distribution, by any name that they have there.
"""

from salt.exceptions import CommandExecutionError


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
