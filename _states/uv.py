"""
uv in a version of its own.
"""

from salt.exceptions import CommandExecutionError


def installed(name, version):
    """
    A version of uv is on the host, beside others, and releases are built with it. (A ``cmd.run`` with ``creates``
    would have Salt load all its state modules to find out that there is nothing to do: half a second of every run.)

    name
        Any name; not used.

    version (str)
        Such as 0.13.9.

    .. code-block:: yaml

        base-uv:
          uv.installed:
            - name: uv
            - version: 0.13.9
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": f"uv {version} is installed"}
    chosen, there = __salt__["uv.current"](), __salt__["uv.path"](version)
    if there and chosen == version:
        return ret
    ret["changes"] = {"uv": {"old": chosen or "", "new": version}}
    if __opts__["test"]:
        ret.update(result=None, comment=f"uv {version} would be installed")
        return ret
    try:
        if not there:
            __salt__["uv.install"](version)
        __salt__["uv.choose"](version)
    except CommandExecutionError as exc:
        ret.update(result=False, changes={}, comment=str(exc))
    return ret
