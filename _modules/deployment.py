"""
What an orchestration is about to do, decided on the controller from the roster and the pillar alone: which
hosts, which sites, and every reason to refuse, before the first connection.
"""

import getpass
import pathlib
import runpy
import socket

import salt.client
import salt.pillar
import salt.roster
import salt.utils.minions

# How long minions may take to fetch the modules of this checkout.
SYNC_SECONDS = 60
# What `pillar='{…}'` of an orchestration may say.
_ASKED = {
    "deploy": {"target": str, "site": str, "ref": str, "wait": int, "migrations": str},
    "rollback": {"target": str, "site": str, "release": str, "wait": int, "restore_database": bool},
    "restore": {"target": str, "site": str, "snapshot": str, "confirm": str, "wait": int},
}


def __virtual__():
    # An option that only a controller's configuration has.
    return "ext_pillar" in __opts__ or (False, "it plans on the controller")


def _transport():
    return (__opts__.get("goldenpath") or {}).get("transport", "minion")


def hosts(target="*"):
    """
    The hosts that a target matches: of the roster, or of the minions that this master accepted.

    target (str)
        A glob over ids.

    Returns a pair: the sorted ids that match, and the sorted ids there are.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 test.ping
    """
    if _transport() == "ssh":
        roster = salt.roster.Roster(__opts__, "flat")
        return sorted(roster.targets(target, "glob")), sorted(roster.targets("*", "glob"))
    minions = salt.utils.minions.CkMinions(__opts__)
    return tuple(sorted(minions.check_minions(glob, "glob")["minions"]) for glob in (target, "*"))


def _pillar(host):
    """
    A host's pillar as its states will see it; over ssh its grains are not known yet, and not needed.
    """
    grains = {"id": host}
    if _transport() != "ssh":
        grains = salt.utils.minions.get_minion_data(host, __opts__)[1] or grains
    # The orchestration's own pillar= is a request, and no host's pillar.
    opts = {**__opts__, "pillar": {}}
    return salt.pillar.Pillar(opts, grains, host, "base").compile_pillar()


def _pillars(hosts):
    """
    The pillars of many hosts, for which the names of Salt's and the pillar's files are looked up once.
    """
    with _beside("_controller/plan_3008.py")["shared"]():
        return {host: _pillar(host) for host in hosts}


def _beside(path):
    """
    A file of this checkout that no loader of Salt's loads.
    """
    return runpy.run_path(str(pathlib.Path(__file__).resolve().parent.parent / path))


def _shipped():
    """
    What ``saltutil.sync_all`` would send a minion, as its ``goldenpath.synced`` tells it.
    """
    return _beside("pillar/judge/shipped.py")["shipped"](__opts__.get("file_roots", {}).get("base", ()))


def _unfit(hosts, seconds):
    """
    Why minions cannot be worked on: those that say nothing, where an orchestration would only tell that nobody
    responded, and those that have modules of another checkout and cannot be sent ours. A sentence each.
    """
    shipped = _shipped()

    def ask(client, which):
        told = client.cmd(which, ["test.ping", "goldenpath.synced"], [[], []], tgt_type="list", timeout=seconds)
        there = [host for host in which if isinstance(told.get(host), dict) and told[host].get("test.ping") is True]
        have = {host: told[host].get("goldenpath.synced") for host in there}
        stale = [
            host for host in there if not isinstance(have[host], dict) or not have[host].items() >= shipped.items()
        ]
        return there, stale

    with salt.client.get_local_client(mopts=__opts__) as client:
        there, stale = ask(client, sorted(hosts))
        if stale:
            client.cmd(stale, "saltutil.sync_all", tgt_type="list", timeout=SYNC_SECONDS)
            # What was sent is used from the next command on, and not at some time.
            client.cmd(stale, "saltutil.refresh_modules", tgt_type="list", timeout=SYNC_SECONDS, kwarg={"async": False})
            _, stale = ask(client, stale)
    return [f"{host} does not answer. Try: salt {host} test.ping" for host in sorted(set(hosts) - set(there))] + [
        f"{host} has the modules of another checkout, and does not take these. Try: salt {host} saltutil.sync_all"
        for host in stale
    ]


def _faults(action, request):
    """
    What is wrong with what the operator asked for, by itself.
    """
    allowed = _ASKED[action]
    errors = []
    for key, value in sorted(request.items()):
        if key not in allowed:
            errors.append(f"{key}: {action} knows no such key. Try one of: {', '.join(sorted(allowed))}")
        elif type(value) is not allowed[key]:
            kind = {str: "text, in quotes", int: "a whole number", bool: "true or false"}[allowed[key]]
            errors.append(f"{key}: {value!r} is not {kind}")
        elif isinstance(value, str) and not value.strip():
            errors.append(f"{key}: is empty. Try: name one, or leave the key out")
    if request.get("migrations", "accept") not in ("refuse", "maintenance", "accept"):
        errors.append("migrations: is none of refuse, maintenance, accept. Try: one of them, or leave the key out")
    for key in ("target", "site") if action == "restore" else ():
        if key not in request:
            errors.append(f"{key}: is missing. Try: name the one that is to be restored")
    return errors


def _chosen(action, request, pillars):
    """
    The sites of each host that are meant, and why there are none.
    """
    target, site = request.get("target", "*"), request.get("site")
    chosen = {host: [slug for slug in pillar["sites"] if site in (None, slug)] for host, pillar in pillars.items()}
    chosen = {host: slugs for host, slugs in chosen.items() if slugs}
    if not chosen:
        there = sorted({slug for pillar in pillars.values() for slug in pillar["sites"]})
        return {}, [
            f"No host that matches {target!r} has {'the site ' + site if site else 'a site'}. "
            f"Known: {', '.join(there) or 'none'}. Try: name it under `sites:` in pillar/hosts"
        ]
    if action == "rollback" and sum(map(len, chosen.values())) > 1:
        there = "; ".join(f"{host}: {', '.join(slugs)}" for host, slugs in sorted(chosen.items()))
        return {}, [
            f"A rollback is for one site, and this one would be for {there}. Try: name it by `target` and `site`"
        ]
    return chosen, []


def _begin(chosen):
    """
    Why hosts cannot be worked on; where there is no reason, what they do is on the screen from here on.
    """
    entries = None
    seconds = (__opts__.get("goldenpath") or {}).get("connect_timeout")
    if _transport() == "ssh":
        roster = salt.roster.Roster(__opts__, "flat").targets("*", "glob")
        entries = {host: roster[host] for host in chosen}
        silent = __salt__["screen.unreachable"](entries, seconds) if seconds else {}
        errors = [fault for _, fault in sorted(silent.items())]
    else:
        errors = _unfit(chosen, seconds or 10)
    if not errors:
        __salt__["screen.watch"](chosen, entries)
    return errors


def plan(action, request):
    """
    The hosts and sites that an orchestration is for, or all reasons not to begin.

    action (str)
        ``deploy``, ``rollback`` or ``restore``.
    request (dict)
        What the operator gave as ``pillar=``.

    Returns ``{"hosts": {id: [slug, …]}, "errors": [sentence, …], "ssh": bool, "request": dict}``.

    CLI Example:

    .. code-block:: bash

        salt-run state.orchestrate deploy pillar='{"target": "web*", "site": "acme-kitchens"}'
    """
    chosen = {}
    errors = _faults(action, request)
    if not errors:
        target = request.get("target", "*")
        matched, known = hosts(target)
        if not matched:
            errors.append(
                f"No host matches {target!r}. Known: {', '.join(known) or 'none'}. "
                f"Try: {'config/roster' if _transport() == 'ssh' else 'salt-key --list-all'}"
            )
        pillars = _pillars(matched)
        for host, pillar in pillars.items():
            errors += [error if error.startswith(host) else f"{host}: {error}" for error in pillar.get("_errors", [])]
    if not errors:
        chosen, errors = _chosen(action, request, pillars)
    if not errors:
        errors = _begin(chosen)
    return {
        "hosts": {} if errors else chosen,
        "errors": errors,
        "ssh": _transport() == "ssh",
        "request": {**request, "who": f"{getpass.getuser()}@{socket.gethostname()}"},
    }
