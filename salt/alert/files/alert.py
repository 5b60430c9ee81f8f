#!/usr/bin/python3 -I
# Managed by Golden Path: local changes are overwritten.
"""
/opt/goldenpath/alert UNIT: tell the pillar's targets that a unit failed, once an hour for each unit and sentence.

What a target does not take is kept, and told when the unit of this program starts again.

A webhook gets JSON: host, unit, what (one sentence), since, lines (the journal's last) and repeated (how many
failures were not told since the last alert). Mail goes through the host's sendmail.
"""

import email.message
import glob
import json
import os
import re
import subprocess
import sys
import time
import urllib.request

CONFIG = "/etc/goldenpath/alert.json"
STATE = "/var/lib/goldenpath/alerts"
QUIET = 3600
LINES = 15
# Variables of a site's environment that are no secrets: their values may stand in a message.
PLAIN = re.compile(
    r"DJANGO_(SETTINGS_MODULE|DB_.*|STATIC_ROOT|MEDIA_ROOT)|ALLOWED_HOSTS|SITE_DOMAIN|REDIS_URL|CELERY_.*"
)


def secrets(config):
    """Everything on this host that no message may hold, the longest first."""
    values = set(config.get("secrets", []))
    if config.get("webhook"):
        values.add(config["webhook"])
    for path in glob.glob("/srv/sum/*/.env"):
        with open(path, encoding="utf-8") as stream:
            for name, value in re.findall(
                r'^([A-Za-z_][A-Za-z0-9_]*)="((?:[^"\\]|\\.)*)"$', stream.read(), re.M | re.S
            ):
                if not PLAIN.fullmatch(name):
                    values.add(re.sub(r'\\(["\\$`])', r"\1", value))
    # A message has lines: a key of many is masked in each of them.
    values |= {line.strip() for value in values for line in value.splitlines()}
    return sorted((value for value in values if len(value) >= 4), key=len, reverse=True)


def masked(text, values):
    """Text without secrets, and without what looks like one in a URL."""
    for value in values:
        text = text.replace(value, "**********")
    return re.sub(r"(://[^/\s:@]*):[^/\s@]+@", r"\1:**********@", text)


def shown(*argv):
    """What a program of the host prints."""
    return subprocess.run(argv, capture_output=True, text=True, errors="replace", check=False).stdout


def facts_of(unit):
    """What systemd knows of a unit."""
    names = "Description,Result,ExecMainStatus,InvocationID,ActiveState,InactiveEnterTimestamp,StateChangeTimestamp"
    lines = shown("systemctl", "show", "--timestamp=utc", unit, "--property", names).splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def message(unit, config, facts, run, repeated):
    """What is told about a unit: of the run that failed, and not of an older one."""
    which = [f"_SYSTEMD_INVOCATION_ID={run}", "+", f"INVOCATION_ID={run}"] if run else ["--unit", unit]
    lines = shown("journalctl", *which, "--lines", str(LINES), "--output", "cat", "--no-pager", "--quiet")
    values = secrets(config)
    told = [masked(line, values)[:500] for line in lines.splitlines() if line.strip()]
    # A job of ours says its sentence with a way out.
    sentences = [line for line in told if "Try: " in line]
    ended = f"{facts.get('Result', 'failed')}, status {facts.get('ExecMainStatus', '?')}"
    return {
        "host": config["host"],
        "unit": unit,
        "what": "\n".join(dict.fromkeys(sentences[-5:])) or f"{facts.get('Description') or unit} failed ({ended})",
        "since": facts.get("InactiveEnterTimestamp") or facts.get("StateChangeTimestamp"),
        "lines": told,
        "repeated": repeated,
    }


def post(url, body):
    """Send JSON to the webhook. Three tries; errors do not quote the URL, which is a secret."""
    request = urllib.request.Request(  # noqa: S310  a URL of the pillar's
        url, json.dumps(body).encode(), {"Content-Type": "application/json", "User-Agent": "goldenpath-alert"}
    )
    for attempt in range(3):
        try:
            with urllib.request.urlopen(request, timeout=15):  # noqa: S310
                return None
        except (OSError, ValueError) as exc:
            fault = f"the webhook took no alert: {type(exc).__name__} {getattr(exc, 'code', '')}".strip()
            if attempt < 2:
                time.sleep(2 + 5 * attempt)
    return fault


def mail(address, body):
    """Hand a mail to the host's sendmail."""
    text = email.message.EmailMessage()
    text["To"], text["From"] = address, "root"
    text["Subject"] = f"{body['host']}: {body['unit']} failed"
    text.set_content("\n".join([body["what"], "", f"since {body['since']}", "", *body["lines"], ""]))
    try:
        done = subprocess.run(
            ["/usr/sbin/sendmail", "-t", "-i"], input=text.as_bytes(), capture_output=True, check=False
        )
    except OSError as exc:
        return f"no mail was sent: /usr/sbin/sendmail: {exc.strerror}"
    return f"no mail was sent: sendmail ended with {done.returncode}" if done.returncode else None


def keep(path, state):
    """Write down what was told, and what is yet to be."""
    with open(os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as stream:
        json.dump(state, stream)
    os.rename(path + ".new", path)


SENDERS = {
    "webhook": lambda target, body: post(target, body),
    "mail": lambda target, body: mail(target, body),
}


def main(unit):
    """Tell, or count what is not told. Returns an exit status."""
    with open(CONFIG, encoding="utf-8") as stream:
        config = json.load(stream)
    os.makedirs(STATE, mode=0o700, exist_ok=True)
    path = f"{STATE}/{re.sub('[^A-Za-z0-9@._-]', '_', unit)}.json"
    try:
        with open(path, encoding="utf-8") as stream:
            last = json.load(stream)
    except (OSError, ValueError):
        last = {}
    # What an earlier version wrote knows one time for all sentences.
    last = {"told": {}, "left": {}, "repeated": 0, **(last if isinstance(last.get("told"), dict) else {})}
    left, facts, targets = last["left"], facts_of(unit), [name for name in SENDERS if config.get(name)]
    # systemd tells from 251 on which run failed; before that it is taken for the last one.
    run = os.environ.get("MONITOR_INVOCATION_ID") or facts.get("InvocationID")
    # Started again for what was left, there is nothing new.
    again = left and (run == last.get("run") or facts.get("Result") == "success")
    if targets and not again:
        last["run"] = run
        body = message(unit, config, facts, run, last["repeated"])
        # The same but for its figures is the same.
        key = re.sub(r"\d+", "", body["what"])
        # A clock that was set back does not silence anything.
        last["told"] = {key: at for key, at in last["told"].items() if 0 <= time.time() - at < QUIET}
        if key in last["told"]:
            last["repeated"] += 1
        else:
            last["told"][key] = time.time()
            last["repeated"] = 0
            left[key] = {"body": body, "targets": targets}
    # What is yet to be told survives whatever ends this.
    keep(path, last)
    faults = {}
    for item in left.values():
        for name in [name for name in item["targets"] if name not in faults]:
            fault = SENDERS[name](config[name], item["body"]) if name in targets else None
            if fault:
                faults[name] = fault
            else:
                item["targets"].remove(name)
    last["left"] = {key: item for key, item in left.items() if item["targets"]}
    keep(path, last)
    for fault in faults.values():
        print(f"{unit} failed, and {fault}. Try: the `alerts` of the pillar", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
