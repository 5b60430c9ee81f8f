"""
Whether Salt can work on a host over ssh, asked in one connection before Salt tries: each reason is a sentence at once,
where Salt itself would try for minutes, or end in a traceback. Nothing of Salt in here.
"""

import os
import pathlib
import re
import shlex
import subprocess

SECONDS = 10
# The variable with the hosts that this command, or the orchestration that it is part of, has looked at already.
LOOKED = "GOLDENPATH_LOOKED"
_SCRIPT = pathlib.Path(__file__).with_name("reach.sh").read_text(encoding="utf-8")
# Mark what is ours in what the host prints.
_BEGIN = "goldenpath-look"


def __virtual__():
    return False, "it is no grain: salt_3008.py imports it"


def ssh(entry, pki, *options):
    """
    The words that reach a host over ssh, as salt-ssh would.

    entry : dict
        Its roster entry.

    pki : str
        The controller's ``pki_dir``, where Salt keeps a key of its own.

    options : str
        Options of ssh that come before those of the roster, and so count.

    Returns a list, to which a command is added.
    """
    argv = ["ssh", *options]
    for option in entry.get("ssh_options") or ():
        argv += ["-o", option]
    if entry.get("port"):
        argv += ["-p", str(entry["port"])]
    if entry.get("priv") and entry["priv"] != "agent-forwarding":
        argv += ["-i", os.path.expanduser(entry["priv"])]
    elif os.path.exists(own := os.path.join(pki, "ssh", "salt-ssh.rsa")):
        argv += ["-i", own]
    return [*argv, "--", f"{entry.get('user') or 'root'}@{entry['host']}"]


def fault(host, argv, thin, sudo=False, seconds=SECONDS):
    """
    Why Salt cannot work on a host.

    host : str
        What the sentence calls it.

    argv : list of str
        ssh with its options and the address, to which a command is added.

    thin : str
        The folder of the thin there.

    sudo : bool
        Whether Salt becomes root by sudo.

    seconds : int
        How long the host may take to let ssh in.

    Returns one sentence, or an empty string.
    """
    words = [*(["sudo", "-n"] if sudo else []), "sh", "-c", _SCRIPT, "sh", thin]
    try:
        done = subprocess.run(
            [*argv, shlex.join(words)], stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=seconds + 20, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return (
            f"{host} lets ssh in and answers nothing for {seconds + 20} s. Try: {shlex.join([*_plain(argv), 'uptime'])}"
        )
    except OSError as exc:
        return f"{host} cannot be reached: {exc}. Try: install the package openssh-client here"
    return _judged(host, argv, done, sudo)


def _plain(argv):
    """The command that a person types to see the same: the way there, without the options of ours."""
    told, place, words = {}, "", iter(argv[1:])
    for word in words:
        if word in ("-o", "-p", "-i"):
            name, _, value = next(words, "").partition("=") if word == "-o" else (word, "", next(words, ""))
            told[_SHORT.get(name, name)] = value
        elif not word.startswith("-"):
            place = place or word
    user = f"{told['-l']}@" if "-l" in told and "@" not in place else ""
    port = ["-p", told["-p"]] if told.get("-p", "22") != "22" else []
    key = ["-i", told["-i"]] if "-i" in told else []
    return ["ssh", *port, *key, f"{user}{place}"]


# As salt-ssh writes them.
_SHORT = {"User": "-l", "Port": "-p", "IdentityFile": "-i"}


def _judged(host, argv, done, sudo):
    lines, errors = done.stdout.splitlines(), done.stderr.strip().splitlines()
    by_hand = shlex.join(_plain(argv))
    if _BEGIN not in lines:
        last = (errors or lines or ["ssh gave no reason"])[-1].strip().rstrip(".")
        if "IDENTIFICATION HAS CHANGED" in done.stderr:
            return (
                f"{host} shows another host key than it did (REMOTE HOST IDENTIFICATION HAS CHANGED). Try: the "
                f"provider's console, whether it was reinstalled; only then ssh-keygen -R {by_hand.rpartition('@')[2]}"
            )
        if "Host key verification failed" in done.stderr:
            return (
                f"{host} shows a host key that nobody here knows. Try: ssh-keyscan, and compare it with the host's own "
                "before it goes to known_hosts: docs/vps-golden-path.md, The host"
            )
        if done.returncode == 255:
            return f"{host} cannot be reached: {_shown(last)}. Try: {by_hand}"
        if sudo and "sudo" in last:
            # With a password that the roster has, or not at all: Salt's own way.
            return ""
        return (
            f"{host} lets ssh in and runs no command of ours: {_shown(last)}. Try: {by_hand} true; a forced command in "
            "authorized_keys, or the account's shell, is in the way"
        )
    if (before := [line for line in lines[: lines.index(_BEGIN)] if line.strip()]) and not sudo:
        return (
            f"{host} greets every command with {_shown(before[0])!r}, which file copies take for an answer. "
            "Try: move it out of .bashrc and its like on the host, behind: case $- in *i*) … esac"
        )
    return _lacking(host, [line.partition(" ")[::2] for line in lines[lines.index(_BEGIN) + 1 :]], by_hand)


def _lacking(host, found, by_hand):
    for kind, told in found:
        if kind == "python" and told == "none":
            return f"{host} has no python3. Try: {by_hand} apt-get install -y python3"
        version = re.fullmatch(r"Python (\d+)\.(\d+)\b.*", told)
        if kind == "python" and not (version and (int(version[1]), int(version[2])) >= (3, 10)):
            return f"{host} has a python3 that Salt cannot use ({_shown(told)}): it needs 3.10 or newer"
        if kind == "sftp":
            return (
                f"{host} has an sshd without sftp, and Salt copies itself there by it. "
                "Try: Subsystem sftp internal-sftp in /etc/ssh/sshd_config, then systemctl reload ssh"
            )
        if kind == "write":
            place, _, why = told.partition(": ")
            why = re.sub(r"^.*: ", "", why.strip().splitlines()[-1] if why.strip() else "it said nothing")
            if "No space" in why or "quota" in why.lower():
                return (
                    f"{host} has no room in {place}: {_shown(why)}. Try: {by_hand} df -h {place}; what makes room is "
                    "in docs/vps-golden-path.md. `goldenpath` on the host works meanwhile"
                )
            if "Read-only" in why:
                return f"{host} has {place} on a read-only filesystem. Try: {by_hand} dmesg"
            return f"{host} does not let Salt write in {place}: {_shown(why)}. Try: {by_hand} ls -ld {place}"
    return ""


def _shown(text):
    """A host's words, without what a terminal obeys."""
    return "".join(each if each.isprintable() else "?" for each in text)[:200]
