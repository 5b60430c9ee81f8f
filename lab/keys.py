"""ssh keys: the lab's own, and those of its hosts."""

import subprocess

from .common import KEY, KNOWN_HOSTS, STATE, LabError, run, write


def ensure():
    """Make the key that root and admin of all hosts let in, where there is none yet."""
    if not KEY.exists():
        temporary = STATE / ".id_ed25519.new"
        for path in (temporary, temporary.with_name(temporary.name + ".pub")):
            path.unlink(missing_ok=True)
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "goldenpath-lab", "-f", temporary)
        temporary.with_name(temporary.name + ".pub").rename(KEY.with_suffix(".pub"))
        temporary.rename(KEY)


def make(folder, record):
    """Make a host's own keys, and know them: it is never asked for them over the network."""
    folder.mkdir(mode=0o700)
    making = [
        subprocess.Popen(
            ["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", f"root@{record['name']}", "-f", str(path)],
            stdin=subprocess.DEVNULL,
        )
        for kind, path in ((kind, folder / f"ssh_host_{kind}_key") for kind in ("ed25519", "ecdsa"))
    ]
    if any(process.wait() for process in making):
        raise LabError(f"The ssh host keys of {record['name']} cannot be made. Try: python -m lab setup")
    lines = KNOWN_HOSTS.read_text().splitlines() if KNOWN_HOSTS.exists() else []
    for public in sorted(folder.glob("*.pub")):
        lines.append(f"{record['address']},{record['address6']},{record['name']} {public.read_text().strip()}")
    write(KNOWN_HOSTS, "\n".join(lines) + "\n")


def forget(name):
    """A host that is gone is known no more."""
    if KNOWN_HOSTS.exists():
        lines = KNOWN_HOSTS.read_text().splitlines()
        kept = [line for line in lines if name not in line.split()[0].split(",")]
        if kept != lines:
            write(KNOWN_HOSTS, "".join(line + "\n" for line in kept))
