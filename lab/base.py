"""The root that every host of a release lies over: a bare Debian, built once with mmdebstrap and kept."""

import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import time

from .common import CACHE, HOSTS, LabError, locked, read_json, run, write

# Hosts of the tree are Debian 12 and 13; forky stands for Ubuntu 26.04, and bullseye has the Redis of Ubuntu 22.04.
NUMBERS = {"11": "bullseye", "12": "bookworm", "13": "trixie", "14": "forky"}
RELEASES = {**NUMBERS, **{name: name for name in NUMBERS.values()}}
# What a bare VPS image has. Nothing of what the tree itself installs.
PACKAGES = (
    "ca-certificates",
    "dbus",
    "iproute2",
    "iputils-ping",
    "kmod",
    "less",
    "libpam-systemd",
    "netbase",
    "openssh-client",
    "openssh-server",
    "procps",
    "python3",
    "sudo",
    "systemd",
    "systemd-sysv",
    "tzdata",
)
# How long a base that nothing uses any more is kept once another recipe has taken its place.
KEEP_SECONDS = 86400
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
BUNDLE = pathlib.Path("/etc/ssl/certs/ca-certificates.crt")
PIP_CONF = pathlib.Path("/etc/pip.conf")
PROXIES = ("http_proxy", "https_proxy", "no_proxy")
# What is done in the new root, in a chroot, once its packages are there.
FINISH = """
set -e
useradd --create-home --shell /bin/bash --groups sudo admin
echo 'admin ALL=(ALL) NOPASSWD:ALL' > /etc/sudoers.d/90-admin
chmod 0440 /etc/sudoers.d/90-admin
systemctl enable --quiet systemd-networkd.service ssh.service
update-ca-certificates >/dev/null 2>&1
rm -f /etc/ssh/ssh_host_* /etc/hostname /etc/resolv.conf /etc/apt/sources.list /var/log/dpkg.log
"""
_DEBIAN_SUITE = re.compile(r"(?:bullseye|bookworm|trixie|forky|stable|testing)(-security|-updates)?")
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n?", re.DOTALL)


def release_name(text):
    """The code name of a release that the lab knows.

    text
        bullseye, bookworm, trixie or forky, or its number (str)

    Raises LabError for any other.
    """
    try:
        return RELEASES[str(text)]
    except KeyError:
        known = ", ".join(f"{name} ({number})" for number, name in NUMBERS.items())
        raise LabError(f"Release {text} is not known. Try one of: {known}") from None


def one_line_sources(text):
    """The entries of an apt source list in its one-line form.

    text
        the file's content (str)

    Returns a list of dicts with types, uris, suites, components (lists of str) and options (dict of str).
    """
    entries = []
    for line in text.splitlines():
        match = re.match(r"\s*(deb|deb-src)\s+(?:\[([^\]]*)\]\s*)?(\S+)\s+(\S+)\s*([^#]*)", line)
        if match:
            kind, options, uri, suite, components = match.groups()
            pairs = (word.partition("=") for word in (options or "").split())
            entries.append(
                {
                    "types": [kind],
                    "uris": [uri],
                    "suites": [suite],
                    "components": components.split(),
                    "options": {key.lower(): value for key, _, value in pairs},
                }
            )
    return entries


def deb822_sources(text):
    """The entries of an apt source file in its deb822 form.

    text
        the file's content (str)

    Returns the same as one_line_sources(). Disabled entries are left out.
    """
    entries = []
    for stanza in re.split(r"\n\s*\n", text):
        fields, last = {}, None
        for line in stanza.splitlines():
            if line.startswith("#"):
                continue
            if line[:1] in (" ", "\t") and last:
                fields[last] += "\n" + line.strip()
            elif ":" in line:
                last, _, value = line.partition(":")
                last = last.strip().lower()
                fields[last] = value.strip()
        if "uris" not in fields or fields.get("enabled", "yes").lower() in ("no", "false", "0"):
            continue
        lists = {key: fields.pop(key, "").split() for key in ("types", "uris", "suites", "components")}
        entries.append({**lists, "options": fields})
    return entries


def guest_sources(entries, release):
    """The machine's Debian sources, with the suite of a guest's release.

    entries
        what one_line_sources() and deb822_sources() returned (list of dict)
    release
        the guest's release (str), as release_name() returns it

    Returns a list of lines for apt. Empty when the machine has no Debian sources, as on Ubuntu.
    """
    lines = []
    for entry in entries:
        options = entry["options"]
        signed = options.get("signed-by", "")
        if "deb" not in entry["types"] or "main" not in entry["components"]:
            continue
        # Other archives use the same suite names; they have keys of their own.
        if signed and "debian-archive" not in signed:
            continue
        words = [f"signed-by={KEYRING}"]
        if options.get("trusted", "").lower() == "yes":
            words = ["trusted=yes"]
        for uri in entry["uris"]:
            if not uri.startswith(("http://", "https://")):
                continue
            for suite in entry["suites"]:
                match = _DEBIAN_SUITE.fullmatch(suite)
                if match:
                    suite, components = release + (match[1] or ""), " ".join(entry["components"])
                    line = f"deb [{' '.join(words)}] {uri} {suite} {components}"
                    if line not in lines:
                        lines.append(line)
    # Suites beside the main one are of no use without it.
    return lines if any(line.split()[3] == release for line in lines) else []


def machine_sources(root=pathlib.Path("/etc/apt")):
    """All source entries of the machine's apt configuration.

    root
        apt's configuration directory (pathlib.Path)

    Returns a list of dicts, as one_line_sources().
    """
    entries = []
    for path in (root / "sources.list", *sorted((root / "sources.list.d").glob("*"))):
        if path.is_file() and path.suffix in (".list", ".sources"):
            parse = deb822_sources if path.suffix == ".sources" else one_line_sources
            entries += parse(path.read_text())
    return entries


def extra_certificates(bundle, packaged):
    """The certificates that a machine trusts beyond those of its distribution.

    bundle
        the machine's whole bundle, PEM (str)
    packaged
        the distribution's own certificates, PEM (str)

    Returns a list of PEM texts, each once.
    """
    own = {"".join(pem.split()) for pem in _PEM.findall(packaged)}
    extra = {"".join(pem.split()): pem.rstrip() + "\n" for pem in _PEM.findall(bundle)}
    return [pem for text, pem in extra.items() if text not in own]


def machine_certificates():
    """The extra certificates of this machine, as a company proxy's (list of PEM texts)."""
    if not BUNDLE.exists():
        return []
    own = pathlib.Path("/usr/share/ca-certificates")
    packaged = "".join(path.read_text() for path in sorted(own.rglob("*.crt")))
    return extra_certificates(BUNDLE.read_text(), packaged) if packaged else []


def apt_settings():
    """The machine's apt settings that downloads depend on: proxies and the check of release dates.

    Returns apt configuration lines (list of str).
    """
    wanted = re.compile(r"Acquire::(https?::Proxy(::\S+)?|Check-Valid-Until|Check-Date) ")
    lines = [line for line in run("apt-config", "dump").stdout.splitlines() if wanted.match(line)]
    for scheme in ("http", "https"):
        proxy = os.environ.get(f"{scheme}_proxy")
        if proxy and not any(line.startswith(f"Acquire::{scheme}::Proxy ") for line in lines):
            lines.append(f'Acquire::{scheme}::Proxy "{proxy}";')
    return lines


def recipe(release):
    """Everything that the root of a release is made from.

    release
        as release_name() returns it (str)

    Returns a dict of release, sources, packages, certificates, apt, pip, environment and finish.
    """
    return {
        "release": release,
        "sources": guest_sources(machine_sources(), release),
        "packages": PACKAGES,
        "certificates": machine_certificates(),
        "apt": apt_settings(),
        "pip": PIP_CONF.read_text() if PIP_CONF.exists() else "",
        "environment": {name: os.environ[name] for name in PROXIES if os.environ.get(name)},
        "finish": FINISH,
    }


def ensure(release, say=lambda line: None):
    """The base root of a release, built when it is missing.

    release
        as release_name() returns it (str)
    say
        called with a line of progress (function)

    Returns its directory (pathlib.Path). Raises LabError when it cannot be built.
    """
    made_from = recipe(release)
    digest = hashlib.sha256(repr(sorted(made_from.items())).encode()).hexdigest()[:12]
    base = CACHE / f"{release}-{digest}"
    if base.is_dir():
        os.utime(base)
        return base
    with locked(CACHE / f"{release}.lock"):
        if base.is_dir():
            return base
        for left in CACHE.glob(f".{release}-*"):
            _delete(left)
        temporary = CACHE / f".{release}-{digest}"
        say(f"Building the base root of Debian {release}, once ...")
        try:
            _build(made_from, temporary)
        except BaseException:
            _delete(temporary)
            raise
        temporary.rename(base)
        os.utime(base)
        used = {read_json(path).get("base") for path in HOSTS.glob("*/host.json")}
        for old in CACHE.glob(f"{release}-*"):
            if str(old) not in used and old.stat().st_mtime < time.time() - KEEP_SECONDS:
                _delete(old)
    return base


def _delete(root):
    run("rm", "-rf", "--one-file-system", root)


def _build(made_from, root):
    if not shutil.which("mmdebstrap"):
        raise LabError("mmdebstrap is not installed on this machine. Try: python -m lab setup")
    log = CACHE / f"{made_from['release']}.log"
    apt = CACHE / f"{made_from['release']}.apt"
    write(apt, "\n".join(made_from["apt"]) + "\n")
    command = [
        # Bound to this process and in namespaces of its own: cut short, it leaves no mount and no process.
        *("setpriv", "--pdeathsig", "KILL", "unshare", "--mount-proc", "--pid", "--fork", "--kill-child"),
        "mmdebstrap",
        "--variant=minbase",
        "--mode=root",
        "--format=directory",
        f"--include={','.join(made_from['packages'])}",
        f"--aptopt={apt}",
        "--dpkgopt=force-unsafe-io",
        made_from["release"],
        str(root),
        *made_from["sources"],
    ]
    with open(log, "w") as output:
        streams = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": subprocess.STDOUT}
        code = subprocess.run(command, check=False, **streams).returncode
    if code:
        last = "\n  ".join(log.read_text(errors="replace").strip().splitlines()[-8:])
        raise LabError(f"The base root of {made_from['release']} cannot be built; {log} ends with:\n  {last}")
    # The sources stay as one-line entries where mmdebstrap chose them itself.
    sources = made_from["sources"] or (root / "etc/apt/sources.list").read_text().splitlines()
    write(root / "etc/apt/sources.list.d/debian.list", "\n".join(sources) + "\n")
    for number, pem in enumerate(made_from["certificates"]):
        write(root / f"usr/local/share/ca-certificates/machine-{number}.crt", pem)
    if made_from["pip"]:
        write(root / "etc/pip.conf", made_from["pip"])
    if made_from["environment"]:
        lines = (f'{name}="{value}"\n' for name, value in made_from["environment"].items())
        write(root / "etc/environment", "".join(lines))
    (root / "etc/dpkg/dpkg.cfg.d/99mmdebstrap").unlink(missing_ok=True)
    done = subprocess.run(
        ["chroot", str(root), "/bin/sh", "-c", FINISH],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"},
    )
    if done.returncode:
        raise LabError(f"The base root of {made_from['release']} cannot be finished: {done.stderr.strip()}")
