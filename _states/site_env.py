"""
A site's environment file, made from the pillar. Changes name the variables, never their values.
"""

from salt.exceptions import CommandExecutionError


def managed(name):
    """
    ``/srv/sum/<slug>/.env`` holds what the pillar says, mode 0640, root's, its group the site's, and each release has
    one of its own. What changed is in service once a release is made of it (``release.live``).

    name (str)
        The site's slug; its values are read from the pillar inside the state, so that they appear in
        no id, argument or diff.

    .. code-block:: yaml

        site-env-acme-kitchens:
          site_env.managed:
            - name: acme-kitchens
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": f"The environment of {name} is as it should be"}
    try:
        have = __salt__["site_env.read"](name)
        want = __salt__["site_env.wanted"](name, __pillar__["sites"][name], have)
        facts = __salt__["site_env.facts"](name)
        changes = {
            "added": sorted(want.keys() - have.keys()),
            "removed": sorted(have.keys() - want.keys()),
            "changed": sorted(key for key in want.keys() & have.keys() if want[key] != have[key]),
        }
        changes = {kind: names for kind, names in changes.items() if names}
        if facts and facts != {"mode": "0640", "user": "root", "group": f"sum-{name}"}:
            changes["mode"] = f"0640, owned by root, its group sum-{name}"
        if releases := __salt__["site_env.without"](name):
            changes["releases"] = releases
        if not changes:
            return ret
        ret["changes"] = changes
        if __opts__["test"]:
            ret.update(result=None, comment=f"The environment of {name} would be written")
            return ret
        __salt__["site_env.write"](name, want)
        ret["comment"] = f"The environment of {name} was written"
    except CommandExecutionError as exc:
        ret.update(result=False, changes={}, comment=str(exc))
    return ret
