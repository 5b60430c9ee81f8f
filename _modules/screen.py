"""
What hosts are doing right now, on the operator's screen: ``salt-run`` itself is silent until the end.

A host notes each step in ``/run/goldenpath/<slug>.progress``. The controller reads that file while the orchestration
runs (over ssh, on the connection that is open anyway) or receives it as events (minions), and writes to standard error,
so that standard output stays what Salt's outputter makes of it.
"""

import atexit
import contextlib
import functools
import json
import os
import pathlib
import re
import runpy
import subprocess
import sys
import threading
import time

import salt.utils.event

_FOLDER = "/run/goldenpath"
_TAG = "goldenpath/progress"
# Seconds after which a step that goes on is named before its end.
SLOW = 2
# C0 and C1 controls: a terminal obeys them, and what a site says ends here.
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def __virtual__():
    # An option that only a controller's configuration has.
    return "ext_pillar" in __opts__ or (False, "it shows on the controller")


def watch(hosts, roster=None):
    """
    Show the steps of all hosts until the orchestration ends, then a table of them.

    hosts (dict)
        Host ids, and of each the sites that are released.
    roster (dict)
        The hosts' roster entries; ``None`` for minions, whose steps come as events.

    Returns ``True``, or ``False`` under ``--quiet``.

    CLI Example:

    .. code-block:: bash

        salt-run state.orchestrate deploy
    """
    if __opts__.get("quiet"):
        return False
    screen = _Screen(hosts)
    if roster is None:
        threading.Thread(target=_events, args=(dict(__opts__), screen), daemon=True).start()
    else:
        for host, slugs in hosts.items():
            threading.Thread(target=_follow, args=(_ssh(roster[host]), slugs, screen), daemon=True).start()
    atexit.register(screen.table)
    return True


class _Screen:
    """
    One line when a step ends, of all hosts as they come; before it one more for what takes long.
    """

    def __init__(self, hosts, slow=SLOW):
        self.hosts = hosts
        self.slow = slow
        self.steps = {}
        self.begun = {}
        self.failed = {}
        self.notes = {}
        self.under_way = set()
        self.lock = threading.Condition()
        self.processes = []

    def show(self, line):
        try:
            note = json.loads(line)
            host, site, step, event = (note[key] for key in ("host", "site", "step", "event"))
        except (ValueError, KeyError, TypeError):
            return
        if site not in self.hosts.get(host, ()):
            return
        with self.lock:
            if event == "end":
                if note.get("why"):
                    self.failed[host, site] = str(note["why"])
                said = [note["said"]] if note.get("said") else []
                told = [*said, *(f"note: {each}" for each in note.get("notes") or ())]
                self.notes[host, site] = [_CONTROLS.sub("?", str(each)) for each in told]
                self.under_way.discard((host, site))
                self.lock.notify_all()
                return
            self.under_way.add((host, site))
            steps = self.steps.setdefault((host, site), {})
            text = {"begun": "...", "done": f"{note.get('seconds', 0):.1f} s", "failed": "FAILED"}.get(event, event)
            timer = self.begun.pop((host, site), None)
            if timer:
                timer.cancel()
            if event == "begun":
                timer = self.begun[host, site] = threading.Timer(self.slow, _line, (host, site, step, text))
                timer.daemon = True
                timer.start()
                return
            steps[step] = text
            _line(host, site, step, text)

    def table(self):
        with self.lock:
            # The last lines are still under way when the orchestration's answer is here.
            self.lock.wait_for(lambda: not self.under_way, 0.4)
        for process in self.processes:
            process.terminate()
        with self.lock:
            for (host, site), steps in sorted(self.steps.items()):
                line = ", ".join(f"{step} {text}" for step, text in steps.items())
                print(f"{host} {site}: {line}", file=sys.stderr, flush=True)
            for (host, site), notes in sorted(self.notes.items()):
                for note in notes:
                    print(f"{host} {site}: {note}", file=sys.stderr, flush=True)
            # Last, so that nobody has to look for it in Salt's own answer.
            for (host, site), why in sorted(self.failed.items()):
                print(f"{host} {site}: {why}", file=sys.stderr, flush=True)


def _line(host, site, step, text):
    print(f"{time.strftime('%H:%M:%S')} {host} {site}: {step} {text}", file=sys.stderr, flush=True)


def unreachable(roster, seconds):
    """
    The hosts on which Salt cannot work, over ssh. Asked at once; the connections stay open for what follows.

    roster (dict)
        Host ids and their roster entries; those with a password are not asked.
    seconds (int)
        How long a host may take to answer.

    Returns a dictionary: of each such host a sentence.

    CLI Example:

    .. code-block:: bash

        salt-run state.orchestrate deploy
    """
    reach = _reach()
    faults = {}

    def ask(host, entry):
        thin = entry.get("thin_dir") or (__opts__.get("roster_defaults") or {}).get("thin_dir") or "/var/tmp"  # noqa: S108
        found = reach["fault"](host, _ssh(entry, seconds), thin, bool(entry.get("sudo")), seconds)
        if found:
            faults[host] = found

    threads = [
        threading.Thread(target=ask, args=item, daemon=True) for item in roster.items() if not item[1].get("passwd")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # What follows in this command does not look again.
    os.environ[reach["LOOKED"]] = " ".join(sorted(set(roster) - set(faults)))
    return faults


@functools.cache
def _reach():
    return runpy.run_path(str(pathlib.Path(__file__).resolve().parent.parent / "_controller" / "reach.py"))


def _ssh(entry, seconds=10):
    options = ("-o", "BatchMode=yes", "-o", f"ConnectTimeout={seconds}")
    return _reach()["ssh"](entry, __opts__.get("pki_dir", ""), *options)


def _follow(ssh, slugs, screen):
    """
    Read a host's notes as they are written. The far end stops when this end is gone: its input closes.
    """
    files = " ".join(f"{_FOLDER}/{slug}.progress" for slug in slugs)
    command = f"tail -q -n 0 -F {files} 2>/dev/null & t=$!; cat >/dev/null; kill $t"
    with contextlib.suppress(OSError):
        process = subprocess.Popen(
            [*ssh, command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        screen.processes.append(process)
        for line in process.stdout:
            screen.show(line)


def _events(opts, screen):
    with contextlib.suppress(Exception):
        bus = salt.utils.event.get_event("master", opts=opts, listen=True)
        for event in bus.iter_events(tag=_TAG, full=True):
            screen.show(json.dumps(event["data"].get("data", {})))
