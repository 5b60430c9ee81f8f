"""What each verb does that a person types: it gets the command's arguments, and returns what is printed."""

import os
import sys

from . import (
    VERSION,
    compare,
    export,
    facts,
    files,
    health,
    host,
    jobs,
    launch,
    logs,
    maintenance,
    manage,
    process,
    progress,
    redis_gate,
    release,
    removal,
    restart,
    signs,
    text,
    units,
)
from . import site as sites
from .errors import Failed, Refused

REDIS_CLI = "/usr/bin/redis-cli"


def do_health(arguments):
    answer = health.ask(sites.load(arguments.site), front=arguments.front)
    hint = answer.pop("hint")
    if answer["status"] not in health.GOOD:
        raise Failed(f"{arguments.site} on {host.name()} is {answer['status']}: {answer['message']}. Try: {hint}")
    return answer


def do_releases(arguments):
    found = sites.every() if arguments.site is None else [sites.load(arguments.site)]
    return {site.slug: release.report(site, arguments.limit) for site in found}


def do_maintenance(arguments):
    if arguments.due:
        return maintenance.due(arguments.site)
    words = arguments.text
    if (words or arguments.until) and arguments.switch != "on":
        raise Refused(
            "Words and a time are for a page that goes up. "
            f"Try: goldenpath maintenance {arguments.site} on --until 30m --text …"
        )
    site = sites.load(arguments.site)
    when = maintenance.parsed(arguments.until) if arguments.until is not None else None
    if when and arguments.until not in (words or ""):
        words = " ".join(filter(None, [words, f"We are back at {maintenance.shown(when)}."]))
    who = page(site, {"on": True, "off": False}.get(arguments.switch), words, when)
    if arguments.json:
        until = maintenance.until(site)
        return {"site": arguments.site, "maintenance": bool(who), "by": who or None,
                "until": until and until.isoformat(timespec="seconds")}  # fmt: skip
    if not who:
        return f"The maintenance page of {arguments.site} is down: visitors reach the site"
    itself = ", when it goes down by itself" if maintenance.until(site) else ""
    return (
        f"The maintenance page of {arguments.site} is up, put there by {maintenance.told(site)}{itself}; the health "
        f"path is still the site's own. Take it down{' earlier' if itself else ''}: "
        f"goldenpath maintenance {arguments.site} off"
    )


def do_deploy(arguments):
    """Without a controller: what the host knows of the site is what it was provisioned with, or released by last."""
    request = {"who": _who(), "wait": arguments.wait, **({"ref": arguments.ref} if arguments.ref else {})}
    with progress.printed(arguments.site):
        done = launch.run("deploy", arguments.site, request, arguments.wait)
    notes = [f"  {note}" for note in done["notes"]]
    return "\n".join([release.lives(arguments.site, done), *notes])


def do_rollback(arguments):
    """By plain ssh, at night: the last good release, or the one that is named."""
    request = {"release": arguments.release, "who": _who(), "restore_database": arguments.restore_database}
    with progress.printed(arguments.site):
        done = launch.run("rollback", arguments.site, request, arguments.wait)
    return {key: done[key] for key in ("release", "ref", "before", "moved", "notes", "seconds")}


def do_backup(arguments):
    return jobs.each("backup", arguments.site, {"accept_smaller": arguments.accept_smaller, "wait": arguments.wait})


def do_dump(arguments):
    return jobs.each("dump", arguments.site, {"wait": arguments.wait})


def do_drill(arguments):
    return jobs.each("drill", arguments.site, {"snapshot": arguments.snapshot, "wait": arguments.wait})


def do_restore(arguments):
    """Without the site's name once more it tells what it would do."""
    if arguments.confirm != arguments.site:
        plan = jobs.plan(arguments.site, arguments.snapshot, arguments.wait)
        raise Refused(
            f"{plan['told']}. Nothing was changed. "
            f"Try: goldenpath restore {arguments.site} --snapshot {plan['snapshot']} --confirm {arguments.site}"
        )
    # As Salt does where the pillar names it: what was set there stays.
    kept = "DJANGO_SECRET_KEY" in (sites.load(arguments.site).facts.get("secrets") or ())
    request = {"snapshot": arguments.snapshot, "keep_secret_key": kept, "wait": arguments.wait}
    return jobs.restore_beside(arguments.site, request)


def do_manage(arguments):
    """In the site's sandbox, and on a terminal of its own. The exit status is the command's."""
    sys.exit(manage.attach(sites.load(arguments.site), arguments.command))


def do_psql(arguments):
    """On a terminal of its own. The exit status is psql's."""
    sys.exit(manage.attach_psql(sites.load(arguments.site), arguments.command))


def do_logs(arguments):
    site = sites.load(arguments.site)
    site.provisioned()
    lines = arguments.lines or (3 if arguments.what == logs.ERRORS else 100)
    try:
        logs.show(site, arguments.what, lines, arguments.follow, arguments.since)
    except (KeyboardInterrupt, BrokenPipeError):
        process.unheard()


def do_export(arguments):
    sys.exit(export.export(sites.load(arguments.site), arguments.media))


def do_diff(arguments):
    found = compare.difference(sites.load(arguments.site), arguments.ref)
    return found if arguments.json else compare.table(found)


def do_env(arguments):
    """Names, and values where they are asked for; never those of secrets."""
    site = sites.load(arguments.site)
    site.provisioned()
    values, secret = site.environment(site.current), set(site.secrets())
    lines = []
    for name, value in sorted(values.items()):
        if value in secret or text.masked(value, secret) != value:
            lines.append(f"{name}={text.STARS}" if arguments.values else f"{name} (secret)")
        else:
            lines.append(f"{name}={value}" if arguments.values else name)
    return "\n".join(lines)


def do_run(arguments):
    """As the site's user, in its sandbox: git, ssh-keygen, its own scripts; or a schedule of that name, now."""
    site = sites.load(arguments.site)
    if len(arguments.command) == 1 and arguments.command[0] in site.facts.get("schedules", {}):
        return units.run_schedule(site, arguments.command[0])
    sys.exit(manage.attach_command(site, arguments.command))


def do_redis(arguments):
    """As the tree's own user, who may administer. The exit status is redis-cli's."""
    env = {"REDISCLI_AUTH": (files.read(redis_gate.PASSWORD) or "").strip(), "TERM": os.environ.get("TERM", "dumb")}
    user = ["--user", redis_gate.USER, "--no-auth-warning"] if env["REDISCLI_AUTH"] else []
    words = arguments.command
    if words and words[0] in redis_gate.own():
        words = ["-p", str(redis_gate.port(words[0])), *words[1:]]
    sys.exit(process.attached([REDIS_CLI, *user, *words], env))


def _who():
    if os.environ.get("GOLDENPATH_WHO"):
        # The door knows it from the key.
        return os.environ["GOLDENPATH_WHO"]
    return f"{os.environ.get('SUDO_USER') or os.environ.get('USER') or 'root'}@{host.name()}"


def page(site, switch, words=None, when=None):
    site.provisioned()
    if switch is True:
        maintenance.up(site, words, when)
    elif switch is False:
        maintenance.down(site)
    return site.maintenance()


def do_remove(arguments):
    """Without the site's name once more it tells what would go."""
    if arguments.confirm != arguments.site:
        what = removal.told(arguments.site, removal.found(arguments.site))
        raise Refused(
            f"{what}. Nothing was removed. Try: goldenpath remove {arguments.site} --confirm {arguments.site}"
        )
    done = removal.remove(arguments.site, not arguments.without_backup)
    kept = f"; its last snapshot is {done['snapshot']}" if done["snapshot"] else ""
    return (
        f"{arguments.site} is gone{kept}.\n"
        f"Take it out of the pillar as well: {host.command('state.apply')} would begin it anew"
    )


def do_restart_postgres(arguments):
    return restart.restart_postgres(arguments.unit)


def do_heal(arguments):
    return jobs.end_of_restore(arguments.site) if arguments.site else jobs.heal_all()


def do_exchange(arguments):
    if arguments.settle:
        return jobs.settle(arguments.site)
    if arguments.back:
        return jobs.put_back(arguments.site)
    return jobs.exchange(arguments.site, arguments.dump)


def do_ps(arguments):
    found = facts.gather()
    if arguments.json:
        return found
    every = sites.every()
    told = (*signs.now(every), *signs.slow(every), *signs.standing(), *signs.pending())
    wrong = [f"  {sentence}" for sentence in told]
    return "\n".join([facts.table(found), f"  {host.name()}: {facts.machine()}; engine {VERSION}", *wrong])
