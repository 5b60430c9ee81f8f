"""
The command: goldenpath VERB [SITE] …, as root. Answers are JSON, faults one sentence.

Exit status: 0 done, 1 failed, 3 refused and nothing touched.
"""

import argparse
import json
import os
import signal
import sys
import time

from . import (
    PROTOCOL,
    VERSION,
    alert,
    compare,
    door,
    export,
    facts,
    files,
    health,
    host,
    jobs,
    launch,
    logs,
    manage,
    process,
    progress,
    redis_gate,
    release,
    removal,
    restart,
    rollback,
    settle,
    signs,
    text,
    units,
    watch,
)
from . import site as sites
from .errors import Failed, Refused

DONE, FAILED, REFUSED = 0, 1, 3
REDIS_CLI = "/usr/bin/redis-cli"


def _health(arguments):
    answer = health.ask(sites.load(arguments.site), front=arguments.front)
    hint = answer.pop("hint")
    if answer["status"] not in health.GOOD:
        raise Failed(f"{arguments.site} on {host.name()} is {answer['status']}: {answer['message']}. Try: {hint}")
    return answer


def _releases(arguments):
    found = sites.every() if arguments.site is None else [sites.load(arguments.site)]
    return {site.slug: release.report(site, arguments.limit) for site in found}


def _maintenance(arguments):
    who = _page(sites.load(arguments.site), {"on": True, "off": False}.get(arguments.switch))
    return {"site": arguments.site, "maintenance": bool(who), "by": who or None}


def _deploy(arguments):
    """Without a controller: what the host knows of the site is what it was provisioned with, or released by last."""
    request = {"who": _who(), "wait": arguments.wait, **({"ref": arguments.ref} if arguments.ref else {})}
    with progress.printed(arguments.site):
        done = launch.run("deploy", arguments.site, request, arguments.wait)
    notes = [f"  {note}" for note in done["notes"]]
    head = f"{done['ref']} ({done['sha'][:8]}) is live on {arguments.site} after {done['seconds']} s"
    return "\n".join([head, *notes])


def _rollback(arguments):
    """By plain ssh, at night: the last good release, or the one that is named."""
    request = {"release": arguments.release, "who": _who(), "restore_database": arguments.restore_database}
    with progress.printed(arguments.site):
        done = launch.run("rollback", arguments.site, request, arguments.wait)
    return {key: done[key] for key in ("release", "ref", "before", "moved", "notes", "seconds")}


def _backup(arguments):
    return jobs.each("backup", arguments.site, {"accept_smaller": arguments.accept_smaller, "wait": arguments.wait})


def _drill(arguments):
    return jobs.each("drill", arguments.site, {"snapshot": arguments.snapshot, "wait": arguments.wait})


def _restore(arguments):
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


def _manage(arguments):
    """In the site's sandbox, and on a terminal of its own. The exit status is the command's."""
    sys.exit(manage.attach(sites.load(arguments.site), arguments.command))


def _psql(arguments):
    """On a terminal of its own. The exit status is psql's."""
    sys.exit(manage.attach_psql(sites.load(arguments.site), arguments.command))


def _logs(arguments):
    site = sites.load(arguments.site)
    site.provisioned()
    lines = arguments.lines or (3 if arguments.what == logs.ERRORS else 100)
    try:
        logs.show(site, arguments.what, lines, arguments.follow, arguments.since)
    except (KeyboardInterrupt, BrokenPipeError):
        # Whoever reads has seen enough; what is left must not be flushed into a pipe that is closed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _export(arguments):
    sys.exit(export.export(sites.load(arguments.site), arguments.media))


def _diff(arguments):
    found = compare.difference(sites.load(arguments.site), arguments.ref)
    return found if arguments.json else compare.table(found)


def _env(arguments):
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


def _run(arguments):
    """As the site's user, in its sandbox: git, ssh-keygen, its own scripts; or a schedule of that name, now."""
    site = sites.load(arguments.site)
    if len(arguments.command) == 1 and arguments.command[0] in site.facts.get("schedules", {}):
        return units.run_schedule(site, arguments.command[0])
    sys.exit(manage.attach_command(sites.load(arguments.site), arguments.command))


def _redis(arguments):
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


# What runs as a unit: with the request of a façade, or of a verb above.


def _site(request, slug):
    site = sites.load(slug, request.get("pillar"))
    if request.get("pillar"):
        site.remember()
    return site


def _picked(request, *names):
    return {name: request[name] for name in names if name in request}


_PERFORMED = {
    "deploy": lambda slug, asked: release.deploy(_site(asked, slug), **_picked(asked, "ref", "who", "wait")),
    "backup": lambda slug, asked: jobs.back_up(slug, **_picked(asked, "accept_smaller", "wait")),
    "drill": lambda slug, asked: jobs.prove(slug, **_picked(asked, "snapshot", "wait")),
    "restore": lambda slug, asked: jobs.restored(slug, **_picked(asked, "snapshot", "keep_secret_key", "wait")),
    "settle": lambda slug, asked: settle.settle(_site(asked, slug), asked.get("restart", False)),
    "rollback": lambda slug, asked: rollback.rollback(
        _site(asked, slug), **_picked(asked, "release", "who", "wait", "restore_database")
    ),
}


def _perform(arguments):
    """Inside the unit. Returns an exit status."""
    work = _PERFORMED[arguments.what]
    return launch.perform(lambda asked: work(arguments.site, asked), arguments.request, arguments.result)


def _call(arguments):
    """The façades' door: the request on standard input, the answer on standard output."""
    asked = json.load(sys.stdin)
    if arguments.what == "restore":
        return jobs.restore_beside(arguments.site, asked)
    if arguments.what == "settle" and not asked.get("restart") and settle.settled(_site(asked, arguments.site)):
        return []
    if arguments.what in _PERFORMED:
        wait = settle.WAIT if arguments.what == "settle" else asked.get("wait") or 0
        return launch.run(arguments.what, arguments.site, asked, wait)
    return _ANSWERED[arguments.what](_site(asked, arguments.site), asked)


def _asked_health(site, asked):
    return health.ask(site, **_picked(asked, "front", "path", "timeout"))


_ANSWERED = {
    "health": _asked_health,
    "unsettled": lambda site, asked: settle.unsettled(site),
    "retire": lambda site, asked: units.retire(site),
    "maintenance": lambda site, asked: _page(site, asked.get("on")),
}


def _page(site, switch):
    site.provisioned()
    if switch is True:
        site.maintenance_on(sites.OPERATOR)
    elif switch is False:
        site.maintenance_off(sites.OPERATOR)
    return site.maintenance()


def _remove(arguments):
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


def _restart_postgres(arguments):
    return restart.restart_postgres(arguments.unit)


def _heal(arguments):
    return jobs.end_of_restore(arguments.site) if arguments.site else jobs.heal_all()


def _exchange(arguments):
    if arguments.settle:
        return jobs.settle(arguments.site)
    if arguments.back:
        return jobs.put_back(arguments.site)
    return jobs.exchange(arguments.site, arguments.dump)


def _ps(arguments):
    found = facts.gather()
    if arguments.json:
        return found
    every = sites.every()
    wrong = [f"  {sentence}" for sentence in (*signs.now(every), *signs.slow(every), *signs.standing())]
    return "\n".join([facts.table(found), f"  {host.name()}: {facts.machine()}", *wrong])


# Verbs that answer in lines and not in JSON.
_FOR_PEOPLE = ("deploy", "diff", "env", "ps", "remove", "run")
# The verb, its help, how its site is given (0: not at all), and its work.
_VERBS = (
    ("ps", "the sites of this host: what is live, and what is wrong", 0, _ps),
    ("health", "ask a site's live release, or its front door", None, _health),
    ("manage", "run a command of the site's manage.py", None, _manage),
    ("psql", "psql on the site's database, as the site's own role", None, _psql),
    ("logs", "read: web, worker, beat, NAME, requests, deploy, errors; all programs by default", None, _logs),
    ("diff", "what a deploy would bring, and which way it leads", None, _diff),
    ("export", "write a fresh dump of the database, or the media as a tar file, to standard output", None, _export),
    ("env", "the variables that a site finds; secrets are never shown", None, _env),
    ("run", "run a command as the site's user, in its sandbox; or one of its schedules now", None, _run),
    ("redis", "redis-cli as root's own user of Redis, who may administer; with a site first, in its own", 0, _redis),
    ("releases", "what is live, and how it came to be", "?", _releases),
    ("deploy", "release a ref of a site, the one of its pillar by default", None, _deploy),
    ("rollback", "serve the last good release again, or the one that is named", None, _rollback),
    ("maintenance", "show, put up or take down the maintenance page", None, _maintenance),
    ("backup", "back up one site, or all", "?", _backup),
    ("drill", "prove that the newest snapshot can be restored", "?", _drill),
    ("check", "prune the repository and read it over", "?", lambda a: jobs.check(a.wait)),
    ("list", "snapshots, the last backup and the last drill", "?", lambda a: jobs.listing(a.site)),
    ("plan", "what a restore would do", None, lambda a: jobs.plan(a.site, a.snapshot, a.wait)),
    ("restore", "a site's database and media become those of a snapshot", None, _restore),
    ("heal", "put back, or tidy up, what a restore left", "?", _heal),
    ("watch", "look for what is overdue or restless", "?", lambda a: watch.look()),
    ("fresh", "how old the last backup and drill are", "?", lambda a: watch.freshness(sites.backed_up(a.site))),
    ("remove", "a site goes, with all of it but its backups", None, _remove),
    ("door", "answer an operator's key; for sshd alone", 0, lambda a: door.serve()),
    ("restart-postgres", "restart Postgres, under the sites' maintenance pages", 0, _restart_postgres),
    ("exchange", "a rollback's part with the database", None, _exchange),
)  # fmt: skip


def _parser():
    parser = argparse.ArgumentParser(prog="goldenpath", description="Operate the sites of this host.")
    parser.add_argument("--version", action="version", version=f"goldenpath {VERSION}, protocol {PROTOCOL}")
    parser.add_argument("--protocol", type=int, default=PROTOCOL, help=argparse.SUPPRESS)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    made = {}
    for name, text_, site, work in _VERBS:
        made[name] = verbs.add_parser(name, help=text_, description=text_)
        made[name].set_defaults(work=work)
        if site != 0:
            made[name].add_argument("site", nargs=site, metavar="SITE")
    for name in ("manage", "psql", "redis", "run"):
        made[name].add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND …")
    made["logs"].add_argument("what", nargs="?", metavar="WHAT")
    made["logs"].add_argument(
        "-n", "--lines", type=int, metavar="N", help="the last N; of errors the last N exceptions"
    )
    made["logs"].add_argument("-f", "--follow", action="store_true", help="go on until ^C, also over a deploy")
    made["logs"].add_argument("--since", metavar="TIME", help="as journalctl has it: '1 hour ago', 'today'")
    made["diff"].add_argument("ref", nargs="?", metavar="REF", help="tag, branch or commit; the pillar's by default")
    made["diff"].add_argument("--json", action="store_true", help="for programs")
    made["remove"].add_argument("--confirm", metavar="SITE", help="the site's name once more")
    made["remove"].add_argument("--without-backup", action="store_true", help="also where no last backup succeeds")
    made["restart-postgres"].add_argument("unit", metavar="UNIT")
    made["export"].add_argument("--media", action="store_true", help="the media instead")
    made["env"].add_argument("--values", action="store_true", help="with their values, but for secrets")
    made["ps"].add_argument("--json", action="store_true", help="for programs: everything, times exact")
    made["health"].add_argument("--front", action="store_true", help="through Caddy, by HTTPS")
    made["maintenance"].add_argument("switch", nargs="?", choices=("on", "off"))
    made["releases"].add_argument("--limit", type=int, default=10, metavar="N", help="the last N records")
    made["deploy"].add_argument("ref", nargs="?", metavar="REF")
    made["rollback"].add_argument("--release", metavar="ID")
    made["rollback"].add_argument("--restore-database", action="store_true", help="with the dump from before, too")
    for name in ("backup", "drill", "check", "plan", "restore", "rollback", "deploy"):
        default = jobs.BUSY if name in ("backup", "drill", "check") else 0
        made[name].add_argument("--wait", type=int, default=default, metavar="SECONDS")
    made["restore"].add_argument("--confirm", metavar="SITE", help="the site's name once more")
    for name in ("drill", "plan", "restore"):
        made[name].add_argument("--snapshot", metavar="ID")
    made["backup"].add_argument(
        "--accept-smaller", action="store_true", help="also where much less is there than before"
    )
    way = made["exchange"].add_mutually_exclusive_group(required=True)
    way.add_argument("--dump", metavar="FILE")
    way.add_argument("--settle", action="store_true")
    way.add_argument("--back", action="store_true")
    # Not for people: the façades' door, and what runs inside a unit.
    call = verbs.add_parser("call")
    call.set_defaults(work=_call)
    call.add_argument("what", choices=sorted({*_PERFORMED, *_ANSWERED}))
    call.add_argument("site")
    perform = verbs.add_parser("perform")
    perform.add_argument("what", choices=sorted(_PERFORMED))
    perform.add_argument("site")
    perform.add_argument("--request", required=True)
    perform.add_argument("--result", required=True)
    alerts = verbs.add_parser("alert", help="tell the pillar's targets that a unit failed")
    alerts.add_argument("unit", metavar="UNIT")
    return parser


def main(argv):
    """Run one verb. Returns an exit status."""
    arguments = _parser().parse_args(argv)
    if arguments.protocol != PROTOCOL:
        asked = f"protocol {arguments.protocol} is asked for, and the engine of {host.name()} speaks {PROTOCOL}"
        print(f"{asked}. Try: {host.command('state.apply host')}", file=sys.stderr)
        return REFUSED
    if arguments.verb == "alert":
        return alert.main(arguments.unit)
    # Tidied up after like any other end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    os.umask(0o077)
    if arguments.verb == "perform":
        return _perform(arguments)
    began = time.monotonic()
    try:
        os.makedirs(host.RUN, exist_ok=True)
        os.chmod(host.RUN, 0o755)  # noqa: S103  the controller's other session reads progress there
        answer = arguments.work(arguments)
    except Refused as exc:
        print(exc, file=sys.stderr)
        return REFUSED
    except Failed as exc:
        print("\n".join(filter(None, [str(exc), exc.tail])), file=sys.stderr)
        return FAILED
    except OSError as exc:
        print(f"{exc.strerror or exc}: {exc.filename or arguments.verb}. Try: df -h", file=sys.stderr)
        return FAILED
    if answer is None and arguments.verb in ("door", "logs"):
        return DONE
    answer = text.shown(answer)
    told = isinstance(answer, str) and arguments.verb in _FOR_PEOPLE
    print(answer if told else json.dumps(answer, indent=1, default=str))
    print(f"{arguments.verb}: {time.monotonic() - began:.1f} s", file=sys.stderr)
    return DONE
