"""
The engine as a state: a thin layer over ``engine`` the execution module.
"""

from salt.exceptions import CommandExecutionError


def installed(name, source):
    """
    The engine of this checkout operates the host's sites, or a newer one that is there already.

    name (str)
        Only names the state.
    source (str)
        The package's folder.

    .. code-block:: yaml

        host-engine:
          engine.installed:
            - name: engine
            - source: salt://host/files/lib/goldenpath
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": "The engine is as it should be"}
    try:
        ret["changes"] = __salt__["engine.difference"](source)
        if not ret["changes"]:
            return ret
        if __opts__["test"]:
            ret.update(result=None, comment="The engine would be installed")
            return ret
        __salt__["engine.install"](source)
        ret["comment"] = "The engine was installed"
    except CommandExecutionError as exc:
        ret.update(result=False, changes={}, comment=str(exc))
    return ret
