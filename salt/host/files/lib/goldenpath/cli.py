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

from . import PROTOCOL, VERSION, alert, health, history, host, jobs, text, watch
from . import site as sites
from .errors import Failed, Refused

DONE, FAILED, REFUSED = 0, 1, 3


def _health(arguments):
    answer = health.ask(sites.load(arguments.site), front=arguments.front)
    hint = answer.pop("hint")
    if answer["status"] not in health.GOOD:
        raise Failed(f"{arguments.site} on {host.name()} is {answer['status']}: {answer['message']}. Try: {hint}")
    return answer


def _releases(arguments):
    site = sites.load(arguments.site)
    return {"live": site.current, "good": history.good(site), "history": history.read(site, 10)}


def _maintenance(arguments):
    site = sites.load(arguments.site)
    site.provisioned()
    if arguments.switch == "on":
        site.maintenance_on(sites.OPERATOR)
    elif arguments.switch == "off":
        site.maintenance_off(sites.OPERATOR)
    who = site.maintenance()
    return {"site": site.slug, "maintenance": bool(who), "by": who or None}


def _heal(arguments):
    return jobs.end_of_restore(arguments.site) if arguments.site else jobs.heal_all()


def _exchange(arguments):
    if arguments.settle:
        return jobs.settle(arguments.site)
    if arguments.back:
        return jobs.put_back(arguments.site)
    return jobs.exchange(arguments.site, arguments.dump)


# The verb, its help, how its site is given, and its work.
_VERBS = (
    ("health", "ask a site's live release, or its front door", None, _health),
    ("releases", "what is live, and how it came to be", None, _releases),
    ("maintenance", "show, put up or take down the maintenance page", None, _maintenance),
    ("backup", "back up one site, or all", "?", lambda a: jobs.back_up(a.site, a.accept_smaller, a.wait)),
    ("drill", "prove that the newest snapshot can be restored", "?", lambda a: jobs.prove(a.site, a.snapshot, a.wait)),
    ("check", "prune the repository and read it over", "?", lambda a: jobs.check(a.wait)),
    ("list", "snapshots, the last backup and the last drill", "?", lambda a: jobs.listing(a.site)),
    ("plan", "what a restore would do", None, lambda a: jobs.plan(a.site, a.snapshot, a.wait)),
    ("restore", "restore as the site's request says", None, lambda a: jobs.restored(a.site)),
    ("heal", "put back, or tidy up, what a restore left", "?", _heal),
    ("watch", "look for what is overdue or restless", "?", lambda a: watch.look()),
    ("fresh", "how old the last backup and drill are", "?", lambda a: watch.freshness(sites.backed_up(a.site))),
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
        made[name].add_argument("site", nargs=site, metavar="SITE")
    made["health"].add_argument("--front", action="store_true", help="through Caddy, by HTTPS")
    made["maintenance"].add_argument("switch", nargs="?", choices=("on", "off"))
    for name in ("backup", "drill", "check", "plan"):
        default = 0 if name == "plan" else jobs.BUSY
        made[name].add_argument("--wait", type=int, default=default, metavar="SECONDS")
    for name in ("drill", "plan"):
        made[name].add_argument("--snapshot", metavar="ID")
    made["backup"].add_argument(
        "--accept-smaller", action="store_true", help="also where much less is there than before"
    )
    way = made["exchange"].add_mutually_exclusive_group(required=True)
    way.add_argument("--dump", metavar="FILE")
    way.add_argument("--settle", action="store_true")
    way.add_argument("--back", action="store_true")
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
    began = time.monotonic()
    try:
        os.makedirs(host.RUN, exist_ok=True)
        os.chmod(host.RUN, 0o755)  # noqa: S103  the controller's other session reads progress there
        answer = arguments.work(arguments)
    except Refused as exc:
        print(text.printable(str(exc)), file=sys.stderr)
        return REFUSED
    except Failed as exc:
        print("\n".join(filter(None, [text.printable(str(exc)), text.printable(exc.tail)])), file=sys.stderr)
        return FAILED
    except OSError as exc:
        print(f"{exc.strerror or exc}: {exc.filename or arguments.verb}. Try: df -h", file=sys.stderr)
        return FAILED
    print(json.dumps(answer, indent=1, default=str))
    print(f"{arguments.verb}: {time.monotonic() - began:.1f} s", file=sys.stderr)
    return DONE
