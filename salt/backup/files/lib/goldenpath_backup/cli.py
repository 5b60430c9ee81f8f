"""The command line: /opt/goldenpath/backup COMMAND [SITE] …, as root. Answers are JSON, faults one sentence."""

import argparse
import contextlib
import glob
import json
import os
import re
import signal
import sys
import time
import urllib.error
import urllib.request

from . import backup, common, drill, repository, restore
from .common import Failed

BUSY = 3600
# How long a heal tries before somebody hears of it; and how long the end of a restore waits for one.
PATIENCE = 600
HEAL_WAIT = 1500
# An alert about the same thing that is overdue.
AGAIN = 6 * 3600
WATCHED = ["sum-*.service", "caddy.service", "redis-server.service", "postgresql@*.service", "goldenpath-heal.service"]


def _each(arguments, what, work):
    """Work over the sites; one that fails does not keep the others from their turn."""
    results, faults = {}, []
    with common.only_one(what, arguments.wait):
        for slug in common.sites(arguments.site):
            if arguments.site is None and not common.live(slug):
                # Not deployed yet, or on a host that replaces a lost one not restored yet.
                results[slug] = {"skipped": "it has no live release"}
                continue
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
    """
    Without a site: heal what nobody works on any more, as the lock of the site tells, and go on until nothing is
    left. With one: the end of its restore.
    """
    if arguments.site:
        return _end_of_restore(arguments.site)
    began, found, faults, failing = time.monotonic(), {}, {}, None
    while interrupted := _interrupted():
        for slug in interrupted:
            try:
                with common.undisturbed(slug, "heal", 0):
                    # Whoever had the lock may have healed it, or come to its end.
                    if os.path.exists(common.journal(slug)):
                        found[slug] = _healed(slug)
                        faults.pop(slug, None)
            except common.Busy:
                faults.pop(slug, None)
            except (Failed, OSError) as exc:
                faults[slug] = f"The interrupted restore of {slug} on {common.host()} is not healed: {exc}"
        now = time.monotonic()
        failing = (failing or now) if faults else None
        if faults and now - failing > PATIENCE:
            raise Failed("\n".join(faults.values()))
        if now - began > BUSY:
            break  # under way still: the path unit starts this again
        time.sleep(5 if faults else 1)
    return found


def _healed(slug):
    state = restore.heal(slug)
    common.record(slug, healed={"at": common.now(), "time": time.time(), "state": state})
    return state


def _end_of_restore(slug):
    """However a restore ended, the site is healed, and who asked for it gets an answer."""
    state, answer = None, f"/run/goldenpath/restore-{slug}.answer"
    if os.path.exists(common.journal(slug)):
        with common.undisturbed(slug, "heal", HEAL_WAIT):
            if os.path.exists(common.journal(slug)):
                state = _healed(slug)
    if not os.path.exists(answer):
        # By goldenpath-heal.service, if it was first; not what was healed before this restore.
        other, asked = common.recorded(slug).get("healed") or {}, common.read(answer[: -len("answer")] + "request")
        if not state and other.get("time", 0) >= asked.get("at", 0):
            state = other.get("state")
        state = state or "There was nothing to heal"
        sentence = f"The restore of {slug} on {common.host()} was ended before it was done. {state}."
        common.write(answer, {"error": sentence})
    return {slug: state}


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
    config, state = common.config(), f"{common.RECORDS}/watch.state"
    last, faults, known = common.read(state), [], []
    told = {}
    overdue = [
        sentence for slug in common.sites() if common.live(slug) for sentence, _ in _overdue(config, slug)
    ] + _unhealed()
    for sentence in overdue:
        key = re.sub(r"\d+", "", sentence)
        before = last.get("told", {}).get(key, 0)
        # A clock that was set back does not silence anything.
        fresh = not 0 <= time.time() - before < AGAIN
        told[key] = time.time() if fresh else before
        (faults if fresh else known).append(sentence)
    restarts = _restarts()
    for unit, count in sorted(restarts.items()):
        before = last.get("restarts", {}).get(unit, 0)
        # systemd counts from nothing after a boot, and when somebody starts the unit.
        risen = count - before if count >= before else count
        if risen:
            faults.append(
                f"{unit} on {common.host()} failed and was started again, {risen} times since the last look. "
                f"Try: journalctl -u {unit}"
            )
    common.write(state, {"restarts": restarts, "told": told})
    if faults:
        raise Failed("\n".join(faults))
    return {"watched": common.now(), "told_before": known}


def _restarts():
    """How often systemd itself has started each of the watched services again."""
    _, shown = common.run(["systemctl", "show", "--property=Id,NRestarts", *WATCHED])
    blocks = [dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in shown.split("\n\n")]
    return {facts["Id"]: int(facts["NRestarts"]) for facts in blocks if facts.get("NRestarts", "0") != "0"}


def _unhealed():
    """Interrupted restores that nobody heals: the unit that watches for them has given up."""
    _, state = common.run(["systemctl", "show", "--property=ActiveState", "--value", "goldenpath-heal.service"])
    if state.strip() in ("activating", "active"):
        return []
    return [
        f"A restore of {slug} on {common.host()} was interrupted and is not healed. "
        "Try: systemctl reset-failed goldenpath-heal.service; systemctl restart goldenpath-heal.path"
        for slug in _interrupted()
    ]


def _interrupted():
    """The sites with a restore under way, or one that was interrupted."""
    return [os.path.basename(path)[: -len(".restore")] for path in glob.glob(f"{common.RECORDS}/*.restore")]


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
