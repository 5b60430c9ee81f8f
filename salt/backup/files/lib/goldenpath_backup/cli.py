"""The command line: /opt/goldenpath/backup COMMAND [SITE] …, as root. Answers are JSON, faults one sentence."""

import argparse
import contextlib
import glob
import json
import os
import signal
import sys
import time
import urllib.error
import urllib.request

from . import backup, common, drill, repository, restore
from .common import Failed

BUSY = 3600


def _each(arguments, what, work):
    """Work over the sites; one that fails does not keep the others from their turn."""
    results, faults = {}, []
    with common.only_one(what, arguments.wait):
        for slug in common.sites(arguments.site):
            try:
                results[slug] = work(slug)
            except Failed as exc:
                faults.append(str(exc))
    if faults:
        raise Failed("\n".join(faults))
    return results


def _beat(job):
    """Tell a service that notices silence that all is well. A service that is down is not this job's fault."""
    url = common.config()["heartbeat"].get(job)
    if url:
        try:
            with urllib.request.urlopen(url, timeout=10):  # noqa: S310  a URL of the pillar's
                pass
        except (OSError, ValueError) as exc:
            # The URL is a secret, and some errors quote it.
            print(f"The heartbeat of {job} was not taken: {type(exc).__name__}", file=sys.stderr)


def _run(arguments):
    results = _each(arguments, "backup", lambda slug: backup.run(slug, arguments.accept_smaller))
    if arguments.site is None:
        _beat("backup")
    return results


def _drill(arguments):
    results = _each(arguments, "drill", lambda slug: drill.run(slug, arguments.snapshot))
    if arguments.site is None:
        _beat("drill")
    return results


def _check(arguments):
    with common.only_one("check", arguments.wait):
        try:
            result = backup.prune()
        except Failed as exc:
            common.record("_check", at=common.now(), verdict="bad", reason=str(exc))
            raise Failed(f"The check of the backups of {common.host()} failed: {exc}") from None
    common.record("_check", at=common.now(), verdict="good", reason=None)
    _beat("check")
    return result


def _list(arguments):
    config = common.config()
    answer = {"repository": repository.shown(config), "sites": {}, "check": common.recorded("_check")}
    for slug in common.sites(arguments.site):
        known = common.recorded(slug)
        answer["sites"][slug] = {
            "snapshots": [{key: value for key, value in item.items() if key != "path"}
                          for item in repository.snapshots(config, slug)],
            "backup": known.get("good"), "failed": known.get("failed"), "drill": known.get("drill"),
        }  # fmt: skip
    return answer


def _plan(arguments):
    with common.only_one("look", arguments.wait):
        facts = restore.plan(arguments.site, arguments.snapshot)
    return {**facts, "told": restore.told(facts)}


def _request(path):
    request = common.read(path)
    if not request:
        raise Failed(f"{path} asks for nothing. Try: salt-run state.orchestrate restore")
    return request


def _restore(arguments):
    """Started by a unit of its own, so that it outlives the connection that asked for it."""
    answer = f"/run/goldenpath/restore-{arguments.site}.answer"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(answer)
    try:
        common.sites(arguments.site)
        request = _request(f"/run/goldenpath/restore-{arguments.site}.request")
        with (
            common.only_one("restore", request.get("wait", 0)),
            common.undisturbed(arguments.site, "restore", request.get("wait", 0)),
        ):
            done = restore.run(arguments.site, request.get("snapshot"), request.get("keep_secret_key", False))
    except Failed as exc:
        common.write(answer, {"error": str(exc)})
        raise
    common.write(answer, done)
    return done


def _heal(arguments):
    found = {}
    for path in glob.glob(f"{common.RECORDS}/*.restore"):
        slug = os.path.basename(path)[: -len(".restore")]
        if arguments.site in (None, slug):
            with common.undisturbed(slug, "heal", 30):
                state = restore.heal(slug)
            found[slug] = state
            answer = f"/run/goldenpath/restore-{slug}.answer"
            if arguments.site and not os.path.exists(answer):
                common.write(
                    answer,
                    {"error": f"The restore of {slug} on {common.host()} was ended before it was done. {state}."},
                )
    return found


def _overdue(config, slug, at=None):
    """Sentences about what is older than the pillar allows: (key, sentence, refused) each."""
    known = common.recorded(slug)
    since = common.read(f"{common.RECORDS}/since.state").get("at") or common.now()
    for what, key, command in (
        ("backup", "good", "goldenpath.backup"),
        ("restore drill", "drilled", "goldenpath.restore_drill"),
    ):
        name = what.rpartition(" ")[2]
        last = (known.get(key) or {}).get("at")
        hours = common.age(last or since) / 3600
        word = f"is {common.told(hours * 3600)} old" if last else f"has never been, in {common.told(hours * 3600)}"
        for limit, refused in ((config["refuse_after"].get(name), True), (config["warn_after"].get(name), False)):
            if limit and hours > limit:
                yield (
                    (
                        f"The last good {what} of {slug} on {common.host()} {word}, more than {limit} hours. "
                        f"Try: salt-ssh {common.host()} {command} {slug}"
                    ),
                    refused,
                )
                break


def _fresh(arguments):
    config = common.config()
    answer = {"warnings": [], "refusals": []}
    for slug in common.sites(arguments.site):
        if os.path.exists(restore.journal(slug)):
            answer["refusals"].append(
                f"A restore of {slug} on {common.host()} was interrupted. "
                f"Try: /opt/goldenpath/backup heal {slug} on the host"
            )
        for sentence, refused in _overdue(config, slug):
            answer["refusals" if refused else "warnings"].append(sentence)
    return answer


def _exchange(arguments):
    """Part of a rollback, which holds the site's lock already."""
    if arguments.settle:
        return restore.settle(arguments.site)
    if arguments.back:
        return {"site": arguments.site, "state": restore.heal(arguments.site)}
    return restore.exchange(arguments.site, arguments.dump)


def _watch(arguments):
    """What fails by not happening: overdue backups and drills, and services that start again and again."""
    config = common.config()
    faults = [sentence for slug in common.sites() if common.live(slug) for sentence, _ in _overdue(config, slug)]
    _, shown = common.run(["systemctl", "show", "--property=Id,NRestarts,SubState", "sum-*.service",
                           "caddy.service", "redis-server.service"])  # fmt: skip
    for block in shown.strip().split("\n\n"):
        facts = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if facts.get("SubState") == "auto-restart" and int(facts.get("NRestarts") or 0) >= 3:
            faults.append(
                f"{facts['Id']} on {common.host()} has ended {facts['NRestarts']} times and is started "
                f"again and again. Try: journalctl -u {facts['Id']}"
            )
    if faults:
        raise Failed("\n".join(faults))
    return {"watched": common.now()}


def main(argv):
    """Run one command. Returns an exit status."""
    parser = argparse.ArgumentParser(prog="backup", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, work in (("run", _run), ("drill", _drill), ("check", _check), ("list", _list), ("plan", _plan),
                       ("restore", _restore), ("heal", _heal), ("watch", _watch), ("fresh", _fresh),
                       ("exchange", _exchange)):  # fmt: skip
        command = commands.add_parser(name)
        command.set_defaults(work=work)
        command.add_argument("site", nargs=None if name in ("plan", "restore", "exchange") else "?")
        command.add_argument("--wait", type=int, default=BUSY if name in ("run", "drill", "check") else 0)
        if name in ("plan", "drill"):
            command.add_argument("--snapshot")
        if name == "exchange":
            way = command.add_mutually_exclusive_group(required=True)
            way.add_argument("--dump")
            way.add_argument("--settle", action="store_true")
            way.add_argument("--back", action="store_true")
        if name == "run":
            command.add_argument("--accept-smaller", action="store_true")
    arguments = parser.parse_args(argv)
    # Tidied up after like any other end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    os.makedirs("/run/goldenpath", mode=0o755, exist_ok=True)
    os.umask(0o077)
    began = time.monotonic()
    try:
        answer = arguments.work(arguments)
    except Failed as exc:
        print(exc, file=sys.stderr)
        return 1
    except OSError as exc:
        print(f"{exc.strerror or exc}: {exc.filename or 'backup'}. Try: df -h", file=sys.stderr)
        return 1
    print(json.dumps(answer, indent=1, default=str))
    print(f"{arguments.command}: {time.monotonic() - began:.1f} s", file=sys.stderr)
    return 0
