"""
Backups as states: a thin layer over ``backup`` the execution module.
"""

from salt.exceptions import CommandExecutionError


def configured(name):
    """
    The host knows where its backups go (``backup``), or who hears of failures (``alert``). Changes name files,
    never what is in them.

    name (str)
        ``backup`` or ``alert``; the values are read from the pillar inside the state.

    .. code-block:: yaml

        backup-configured:
          backup.configured:
            - name: backup
    """
    ret = {
        "name": name,
        "result": True,
        "changes": {},
        "comment": f"The configuration of {name} is as it should be",
    }
    try:
        changes = __salt__["backup.difference"](name, __pillar__)
        if not changes:
            return ret
        ret["changes"] = changes
        if __opts__["test"]:
            ret.update(result=None, comment=f"The configuration of {name} would be written")
            return ret
        __salt__["backup.configure"](name, __pillar__)
        ret["comment"] = f"The configuration of {name} was written"
    except CommandExecutionError as exc:
        ret.update(result=False, changes={}, comment=str(exc))
    return ret


def restored(name, snapshot=None, confirm=None, who="unknown", wait=0):
    """
    A site's database and media are those of a snapshot. Without the confirmation it tells what it would do.

    name (str)
        The site's slug.
    snapshot (str)
        The snapshot's id; the newest where it is left out.
    confirm (str)
        The slug once more: without it nothing is changed.
    who (str)
        Who asked for it, for the history.
    wait (int)
        Seconds to wait for a backup or a deploy that is under way.

    .. code-block:: yaml

        restore-acme-kitchens:
          backup.restored:
            - name: acme-kitchens
            - confirm: acme-kitchens
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": ""}
    site = __pillar__.get("sites", {}).get(name)
    try:
        if site is None:
            raise CommandExecutionError(
                f"{__grains__['id']} has no site {name}. Try: name it under `sites:` in pillar/hosts"
            )
        plan = __salt__["backup.plan"](name, snapshot, wait)
        before = __salt__["release.live"](name)
        first = (
            "" if before else f" The release {plan['sha'][:8] if plan['sha'] else site['ref']} would be deployed first."
        )
        if confirm != name:
            ret.update(
                result=False,
                comment=f"{plan['told']}.{first} Nothing was changed. "
                f'Try: the same with "confirm": "{name}", and "snapshot": "{plan["snapshot"]}" for exactly this',
            )
            return ret
        if __opts__["test"]:
            ret.update(result=None, comment=f"{plan['told']}.{first}")
            return ret
        if not before:
            # A fresh host: the code that the data belong to, then the data.
            deployed = __salt__["release.deploy"](name, site, plan["sha"] or site["ref"], who, wait)
            ret["changes"]["release"] = {"old": None, "new": deployed["release"]}
        done = __salt__["backup.restore"](name, plan["snapshot"], "DJANGO_SECRET_KEY" in site["secrets"], wait)
    except CommandExecutionError as exc:
        ret.update(result=False, comment=str(exc))
        return ret
    ret["changes"][name] = {
        key: done[key] for key in ("snapshot", "time", "rows", "files", "safety", "seconds", "stopped")
    }
    safety = f"; what it was before is in {done['safety']}" if done["safety"] else ""
    notes = "".join(f"; {note}" for note in done["notes"])
    ret["comment"] = (
        f"{name} is what it was at {done['time']} and serves, after {done['seconds']} s of which "
        f"{done['stopped']} s behind the maintenance page{safety}{notes}"
    )
    return ret
