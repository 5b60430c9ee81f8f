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
    door,
    health,
    host,
    jobs,
    launch,
    release,
    rollback,
    settle,
    text,
    units,
    verbs,
    watch,
)
from . import site as sites
from .errors import Failed, Refused

DONE, FAILED, REFUSED = 0, 1, 3


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
    "dump": lambda slug, asked: jobs.dump(slug, **_picked(asked, "wait")),
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
    "maintenance": lambda site, asked: verbs.page(site, asked.get("on")),
}


# Verbs that answer in lines and not in JSON.
_FOR_PEOPLE = ("deploy", "diff", "env", "maintenance", "ps", "remove", "run")
# The verb, its help, how its site is given (0: not at all), and its work.
_VERBS = (
    ("ps", "the sites of this host: what is live, and what is wrong", 0, verbs.do_ps),
    ("health", "ask a site's live release, or its front door", None, verbs.do_health),
    ("manage", "run a command of the site's manage.py", None, verbs.do_manage),
    ("psql", "psql on the site's database, as the site's own role", None, verbs.do_psql),
    ("logs", "read: web, worker, beat, NAME, requests, deploy, errors; all programs by default", None, verbs.do_logs),
    ("diff", "what a deploy would bring, and which way it leads", None, verbs.do_diff),
    ("export", "write a dump of the database, or the media as a tar file, to standard output", None, verbs.do_export),
    ("env", "the variables that a site finds; secrets are never shown", None, verbs.do_env),
    ("run", "run a command as the site's user, in its sandbox; or one of its schedules now", None, verbs.do_run),
    ("redis", "redis-cli as Redis' administrator; with a site first, in that one's own", 0, verbs.do_redis),
    ("releases", "what is live, and how it came to be", "?", verbs.do_releases),
    ("deploy", "release a ref of a site, the one of its pillar by default", None, verbs.do_deploy),
    ("rollback", "serve the last good release again, or the one that is named", None, verbs.do_rollback),
    ("maintenance", "show, put up or take down the maintenance page", None, verbs.do_maintenance),
    ("backup", "back up one site, or all", "?", verbs.do_backup),
    ("dump", "back up the database alone of one site, or of all, as between the nights", "?", verbs.do_dump),
    ("drill", "prove that the newest snapshot can be restored", "?", verbs.do_drill),
    ("check", "prune the repository and read it over", "?", lambda a: jobs.check(a.wait)),
    ("list", "snapshots, the last backup and the last drill", "?", lambda a: jobs.listing(a.site)),
    ("plan", "what a restore would do", None, lambda a: jobs.plan(a.site, a.snapshot, a.wait)),
    ("restore", "a site's database and media become those of a snapshot", None, verbs.do_restore),
    ("heal", "put back, or tidy up, what a restore left", "?", verbs.do_heal),
    ("watch", "look for what is overdue or restless", "?", lambda a: watch.look()),
    ("fresh", "how old the last backup and drill are", "?", lambda a: watch.freshness(sites.backed_up(a.site))),
    ("remove", "a site goes, with all of it but its backups", None, verbs.do_remove),
    ("door", "answer an operator's key; for sshd alone", 0, lambda a: door.serve()),
    ("restart-postgres", "restart Postgres, under the sites' maintenance pages", 0, verbs.do_restart_postgres),
    ("exchange", "a rollback's part with the database", None, verbs.do_exchange),
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
    made["maintenance"].add_argument("--text", metavar="TEXT", help="what visitors read, instead of the usual words")
    made["maintenance"].add_argument("--until", metavar="TIME", help="when it goes down by itself: 30m, 2h, 23:00, ISO")
    made["maintenance"].add_argument("--due", action="store_true", help=argparse.SUPPRESS)
    made["maintenance"].add_argument("--json", action="store_true", help="for programs")
    made["releases"].add_argument("--limit", type=int, default=10, metavar="N", help="the last N records")
    made["deploy"].add_argument("ref", nargs="?", metavar="REF")
    made["rollback"].add_argument("--release", metavar="ID")
    made["rollback"].add_argument("--restore-database", action="store_true", help="with the dump from before, too")
    for name in ("backup", "dump", "drill", "check", "plan", "restore", "rollback", "deploy"):
        default = jobs.BUSY if name in ("backup", "dump", "drill", "check") else 0
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
