"""
Releases as states: a thin layer over ``release`` the execution module.
"""

from salt.exceptions import CommandExecutionError


def _site(name, ret):
    site = __pillar__.get("sites", {}).get(name)
    if site is None:
        ret.update(
            result=False,
            comment=f"{__grains__['id']} has no site {name}. Try: name it under `sites:` in pillar/hosts",
        )
    return site


def deployed(name, ref=None, who="unknown", wait=0, migrations=None):
    """
    A ref of a site is released: built, proven, switched to, and proven again at the front door.

    name (str)
        The site's slug.
    ref (str)
        Tag, branch or commit; the pillar's where it is left out.
    who (str)
        Who asked for it, for the history.
    wait (int)
        Seconds to wait for another deploy of this site.
    migrations (str)
        ``refuse``, ``maintenance`` or ``accept``; the pillar's where it is left out.

    .. code-block:: yaml

        release-acme-kitchens:
          release.deployed:
            - name: acme-kitchens
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": ""}
    site = _site(name, ret)
    if site is None:
        return ret
    if __opts__["test"]:
        ret.update(result=None, comment=f"{ref or site['ref']} would be released to {name}")
        return ret
    try:
        done = __salt__["release.deploy"](name, site, ref, who, wait, migrations)
    except CommandExecutionError as exc:
        ret.update(result=False, comment=str(exc))
        return ret
    ret["changes"] = {
        "release": {"old": done["before"], "new": done["release"]},
        "ref": done["ref"],
        "sha": done["sha"],
        "environment": done["environment"],
        "migrations": done["migrations"],
        "dump": done["dump"],
        "seconds": done["seconds"],
        "steps": done["steps"],
    }
    ret["comment"] = "\n".join(
        [f"{done['ref']} ({done['sha'][:8]}) is live on {name} after {done['seconds']} s", *done["notes"]]
    )
    return ret


def rolled_back(name, release=None, who="unknown", wait=0, restore_database=False):
    """
    A site serves a release that was good before.

    name (str)
        The site's slug.
    release (str)
        The id of the release; the last good one where it is left out.
    who (str)
        Who asked for it, for the history.
    wait (int)
        Seconds to wait for a deploy of this site.
    restore_database (bool)
        Restore the dump from before the migrations since that release, too.

    .. code-block:: yaml

        rollback-acme-kitchens:
          release.rolled_back:
            - name: acme-kitchens
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": ""}
    site = _site(name, ret)
    if site is None:
        return ret
    if __opts__["test"]:
        ret.update(result=None, comment=f"{name} would go back to {release or 'its last good release'}")
        return ret
    try:
        done = __salt__["release.rollback"](name, site, release, who, wait, restore_database)
    except CommandExecutionError as exc:
        ret.update(result=False, comment=str(exc))
        return ret
    moved = (
        f"the database has moved since, by {len(done['moved'])} migrations: {', '.join(done['moved'])}"
        if done["moved"]
        else "the database has not moved since"
    )
    ret["changes"] = {"release": {"old": done["before"], "new": done["release"]}, "steps": done["steps"]}
    ret["comment"] = "\n".join(
        [f"{name} serves {done['release']} ({done['ref']}) again after {done['seconds']} s; {moved}", *done["notes"]]
    )
    return ret


def live(name):
    """
    What runs a site's live release is enabled and up; before the first release there is nothing to run.
    Watched files restart it.

    name (str)
        The site's slug.

    .. code-block:: yaml

        site-live-acme-kitchens:
          release.live:
            - name: acme-kitchens
    """
    return _live(name, restart=False)


def retired(name, sites):
    """
    A site that has left the pillar runs no more, also not after a reboot. Its folder and database stay.

    name (str)
        Only names the state.
    sites (list)
        The slugs that the pillar has.

    .. code-block:: yaml

        site-retired:
          release.retired:
            - name: sites
            - sites: [acme-kitchens]
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": "No other site runs here"}
    gone = __salt__["release.strangers"](sites)
    if not gone:
        return ret
    ret["comment"] = "\n".join(
        f"{slug} is not in the pillar: its units {'would be' if __opts__['test'] else 'were'} stopped and removed; "
        f"/srv/sum/{slug} and the database sum-{slug} stay"
        for slug in gone
    )
    if __opts__["test"]:
        ret.update(result=None, changes={slug: {"old": "running", "new": "stopped"} for slug in gone})
        return ret
    ret["changes"] = {slug: {"old": __salt__["release.retire"](slug), "new": []} for slug in gone}
    return ret


def mod_watch(name, sfun=None, **kwargs):
    """
    Called by Salt instead of ``live`` when a watched file changed.

    name (str)
        The site's slug.
    sfun (str)
        The state function, given by Salt.
    """
    return _live(name, restart=True)


def _live(name, restart):
    ret = {"name": name, "result": True, "changes": {}, "comment": f"The live release of {name} is up"}
    site = _site(name, ret)
    if site is None:
        return ret
    try:
        if __opts__["test"]:
            steps = __salt__["release.unsettled"](name, site)
        else:
            steps = __salt__["release.settle"](name, site, restart)
    except CommandExecutionError as exc:
        # Without the last, Salt would go on to `mod_watch`, whose result takes the place of this one.
        ret.update(result=False, comment=str(exc), skip_watch=True)
        return ret
    if steps:
        ret["changes"] = {name: steps}
        ret["result"] = None if __opts__["test"] else True
    return ret
