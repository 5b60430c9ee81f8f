"""
A new host with its first site: the roster's entry, the pillar's file, the host's key once its fingerprint was compared.
``./goldenpath new`` runs it.
"""

import os
import pathlib
import re
import subprocess
import sys

HEAD = (
    "#!yaml\n# {id}: every key there is stands in pillar/hosts/example.sls. Judged by: ./goldenpath apply {id} --test\n"
)
KEYS = ("address", "domain", "repo", "ref", "slug", "user", "port", "priv", "fingerprint")
NEEDED = ("address", "domain", "repo")


def __virtual__():
    return False, "./goldenpath new runs it"


class Wrong(Exception):
    """What is wrong with what was typed, and what to type: nothing was written."""


def _judge(id_, given, roster, pillar, known):
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]*", id_):
        raise Wrong(f"{id_!r} cannot be a host's id. Try: letters, digits, dots and hyphens, as in web1")
    strange = sorted(set(given) - set(KEYS))
    if strange:
        raise Wrong(f"{', '.join(strange)} is nothing that a new host has. Try: {', '.join(KEYS)}")
    lacking = [name for name in NEEDED if not given.get(name)]
    if lacking:
        raise Wrong(f"A new host needs {', '.join(lacking)}. Try: ./goldenpath new {id_} address=… domain=… repo=…")
    if id_ in known:
        raise Wrong(f"{roster} has a host {id_} already. Try: another id, or ./goldenpath apply {id_}")
    if pillar.exists():
        raise Wrong(f"{pillar} is there already, and is not written over. Try: another id, or edit that file")
    if any(not re.fullmatch(r"[^\s\"'#{}\[\],:]+(:[^\s\"'#{}\[\],]+)*", value) for value in given.values()):
        raise Wrong("A value holds a blank, a quote or a bracket. Try: one word each, as in address=203.0.113.10")


def _host_key(address, port):
    """The host's key as ssh-keyscan tells it, and its fingerprint."""
    scan = ["ssh-keyscan", "-T", "10", "-t", "ed25519", *(["-p", port] if port else []), "--", address]
    line = next(
        (each for each in subprocess.run(scan, capture_output=True, text=True, check=False).stdout.splitlines()
         if each and not each.startswith("#")), "",
    )  # fmt: skip
    if not line:
        raise Wrong(f"{address} shows no ssh host key. Try: ssh -v {address}")
    done = subprocess.run(["ssh-keygen", "-lf", "-"], input=line, capture_output=True, text=True, check=True)
    return line, done.stdout.split()[1]


def _compared(id_, fingerprint, wanted):
    """Whether somebody has compared it: a key that nobody compared is anybody's."""
    if wanted:
        if wanted != fingerprint:
            raise Wrong(f"{id_} shows the key {fingerprint}, and not {wanted}. Try: the provider's console, who it is")
        return
    told = (
        f"{id_} shows the key {fingerprint}.\nThe provider's console must show the same for:\n"
        "  ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub\n"
    )
    if not sys.stdin.isatty():
        raise Wrong(f"{told}Nobody has compared it. Try: again with fingerprint=… as the console shows it")
    print(told, end="")
    if input("Is it the same? Type yes: ").strip() != "yes":
        raise Wrong("Nothing was written. Try: again when you have compared it")


def _inspected(run, given):
    words = [given["repo"], *(f"{name}={given[name]}" for name in ("ref", "slug", "domain") if given.get(name))]
    done = subprocess.run([*run, "goldenpath.inspect", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line for line in (done.stdout or done.stderr).splitlines() if line.strip()]
        raise Wrong((said or ["The repository cannot be read. Try: git ls-remote"])[-1].strip())
    return done.stdout.strip("\n")


def _append(path, text, mode):
    """Added in one write, to what is there."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    before = path.read_text() if path.exists() else ""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, mode), "a", encoding="utf-8") as stream:
        stream.write(("" if before.endswith("\n") or not before else "\n") + text)


def make(id_, given, places, known, run):
    """
    Write a host's roster entry, its pillar and its key.

    :param id_: the host's id.
    :param given: what was typed: address, domain, repo; perhaps ref, slug, user, port, priv and fingerprint.
    :param places: pathlib.Path by name: roster, hosts (the pillar's folder) and known_hosts.
    :param known: the ids that the roster has.
    :param run: the words that begin a salt-run of this checkout.
    :return: str, what to do next. Raises Wrong, and nothing is written then.

    CLI Example:

    .. code-block:: bash

        ./goldenpath new web1 address=203.0.113.10 domain=acme.example repo=https://git.example/acme.git
    """
    pillar = places["hosts"] / f"{id_.replace('.', '_')}.sls"
    _judge(id_, given, places["roster"], pillar, known)
    block = _inspected(run, given)
    line, fingerprint = _host_key(given["address"], given.get("port"))
    _compared(id_, fingerprint, given.get("fingerprint"))
    entry = {"host": given["address"], "user": given.get("user", "root"), "port": given.get("port"),
             "priv": given.get("priv", "~/.ssh/id_ed25519")}  # fmt: skip
    if entry["user"] != "root":
        entry |= {"sudo": "True", "thin_dir": f"/home/{entry['user']}/.goldenpath-thin"}
    inner = "\n".join(f"  {each}" if each.strip() else "" for each in block.splitlines())
    with open(os.open(pillar, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as stream:
        stream.write(f"{HEAD.format(id=id_)}\nredis: {{}}\n\nsites:\n{inner}\n")
    _append(places["roster"], "".join([f"{id_}:\n", *(f"  {k}: {v}\n" for k, v in entry.items() if v)]), 0o600)
    _append(places["known_hosts"], f"{line}\n", 0o600)
    slug = block.splitlines()[0].rstrip(":")
    chosen = [each.strip() for each in block.splitlines() if "CHOOSE" in each]
    lines = [f"{id_} stands in {places['roster']} and {_shown(pillar)}."]
    lines += ["To be chosen there first:", *(f"  {each}" for each in chosen)] if chosen else []
    return "\n".join([*lines, "Next:", f"  ./goldenpath apply {id_}", f"  ./goldenpath deploy {id_}/{slug}"])


def _shown(path):
    try:
        return str(path.relative_to(pathlib.Path.cwd()))
    except ValueError:
        return str(path)
