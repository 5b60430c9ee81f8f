"""
A site's role and database in Postgres: a thin layer over ``site_database`` the execution module.
"""

from salt.exceptions import CommandExecutionError


def present(name, extensions=(), connections=None):
    """
    The role and the database of a site exist, belong together, and are closed to every other role.

    name (str)
        Role and database: ``sum-<slug>``.
    extensions (list)
        Extensions that the database has, also those that only a superuser creates.
    connections (int)
        Connections that the role may have at once; as many as there are where it is left out.

    .. code-block:: yaml

        postgres-database-acme-kitchens:
          site_database.present:
            - name: sum-acme-kitchens
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": f"{name} is as it should be"}
    if __opts__["test"] and not __salt__["cmd.has_exec"]("psql"):
        ret.update(
            result=None, comment=f"{name} would be created", changes={name: ["role created", "database created"]}
        )
        return ret
    try:
        if __opts__["test"]:
            steps = [sentence for sentence, _ in __salt__["site_database.plan"](name, extensions, connections)]
        else:
            steps = __salt__["site_database.apply"](name, extensions, connections)
    except CommandExecutionError as exc:
        ret.update(result=False, comment=str(exc))
        return ret
    if steps:
        ret["changes"] = {name: steps}
        ret["result"] = None if __opts__["test"] else True
        ret["comment"] = f"{name} {'would be' if __opts__['test'] else 'was'} corrected"
    return ret
