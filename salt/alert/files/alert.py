#!/usr/bin/python3 -I
# Managed by Golden Path: local changes are overwritten.
"""
/opt/goldenpath/alert UNIT: tell the pillar's targets that a unit failed, once an hour for each unit.

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
    return sorted((value for value in values if len(value) >= 6), key=len, reverse=True)


def masked(text, values):
    """Text without secrets, and without what looks like one in a URL."""
    for value in values:
        text = text.replace(value, "**********")
    return re.sub(r"(://[^/\s:@]*):[^/\s@]+@", r"\1:**********@", text)


def shown(*argv):
    """What a program of the host prints."""
    return subprocess.run(argv, capture_output=True, text=True, errors="replace", check=False).stdout


def message(unit, config, repeated):
    """What is told about a unit."""
    facts = dict(
        line.split("=", 1)
        for line in shown("systemctl", "show", "--timestamp=utc", unit, "--property",
                          "Description,Result,ExecMainStatus,InactiveEnterTimestamp,StateChangeTimestamp").splitlines()
        if "=" in line
    )  # fmt: skip
    lines = shown("journalctl", "--unit", unit, "--lines", str(LINES), "--output", "cat", "--no-pager", "--quiet")
    values = secrets(config)
    told = [masked(line, values)[:500] for line in lines.splitlines() if line.strip()]
    # A job of ours says its sentence with a way out.
    sentences = [line for line in told if "Try: " in line]
    ended = f"{facts.get('Result', 'failed')}, status {facts.get('ExecMainStatus', '?')}"
    return {
        "host": config["host"],
        "unit": unit,
        "what": sentences[-1] if sentences else f"{facts.get('Description') or unit} failed ({ended})",
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
        last = {"told": 0, "repeated": 0}
    # A clock that was set back does not silence anything.
    if 0 <= time.time() - last["told"] < QUIET:
        last["repeated"] += 1
        faults = []
    else:
        body = message(unit, config, last["repeated"])
        faults = [post(config["webhook"], body)] if config.get("webhook") else []
        faults += [mail(config["mail"], body)] if config.get("mail") else []
        faults = [fault for fault in faults if fault]
        if not faults:
            last = {"told": time.time(), "repeated": 0}
    with open(path + ".new", "w", encoding="utf-8") as stream:
        json.dump(last, stream)
    os.rename(path + ".new", path)
    for fault in faults:
        print(f"{unit} failed, and {fault}. Try: the `alerts` of the pillar", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
