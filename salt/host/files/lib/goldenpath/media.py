"""A site's media: listed with checksums, frozen for a backup, sampled and compared in a drill."""

import contextlib
import hashlib
import os
import random
import shutil

from .errors import Failed

SAMPLE = 50
# No sample fills the disk: what is larger is left to restic's own check.
SAMPLE_BYTES = 256 << 20


def listing(folder, known=None):
    """
    Every file below a folder: {path: [size, mtime_ns, sha256]}; a link has its target for a checksum.

    known: such a list from before; what has the same size and time is not read again.
    """
    found = {}
    for base, folders, names in os.walk(folder):
        for name in sorted(names + [item for item in folders if os.path.islink(f"{base}/{item}")]):
            path = f"{base}/{name}"
            relative = os.path.relpath(path, folder)
            facts = os.lstat(path)
            if os.path.islink(path):
                found[relative] = [0, 0, "-> " + os.readlink(path)]
                continue
            if not os.path.isfile(path):
                continue
            before = (known or {}).get(relative)
            if before and before[:2] == [facts.st_size, facts.st_mtime_ns]:
                found[relative] = before
            else:
                found[relative] = [facts.st_size, facts.st_mtime_ns, checksum(path)]
    return found


def checksum(path):
    """A file's sha256."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def freeze(source, target):
    """
    The media as they are now, in a folder of links: what is replaced or deleted from here on does not matter.

    Media on a filesystem of their own cannot be linked to, and are copied.
    """

    def copy(one, other, **_):
        with contextlib.suppress(FileNotFoundError):
            try:
                os.link(one, other, follow_symlinks=False)
            except OSError:
                shutil.copy2(one, other, follow_symlinks=False)
        return other

    try:
        shutil.copytree(source, target, symlinks=True, copy_function=copy)
    except shutil.Error as exc:
        # A file that was deleted while it was looked at is not there; everything else is a fault.
        lost = [text for path, _, text in exc.args[0] if os.path.lexists(path)]
        if lost:
            raise Failed(f"the media in {source} cannot be read: {lost[0]}. Try: df -h {source}") from None


def stats(site):
    """Size and time of every file of a site's media, as ``listing`` has them."""
    folder, found = site.path("media"), {}
    for base, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                facts = os.lstat(f"{base}/{name}")
                found[os.path.relpath(f"{base}/{name}", folder)] = [facts.st_size, facts.st_mtime_ns]
    return found


def size(site):
    """The bytes of a site's media."""
    return sum(bytes_ for bytes_, _ in stats(site).values())


def differences(wanted, found):
    """How fetched media differ from the list that was made with the backup: a few words for each file."""
    words = [f"{name} is missing" for name in wanted if name not in found]
    words += [f"{name} differs" for name in wanted if name in found and found[name][2] != wanted[name][2]]
    return words + [f"{name} is not of this backup" for name in found if name not in wanted]


def choice(listed):
    """The names of a sample: half of it the newest, the rest by chance, and together no more than fits."""
    newest = sorted(listed, key=lambda item: listed[item][1], reverse=True)[: SAMPLE // 2]
    rest = sorted(set(listed) - set(newest))
    chosen, left = [], SAMPLE_BYTES
    for name in newest + random.sample(rest, min(len(rest), SAMPLE - len(newest))):
        if listed[name][0] <= left:
            left -= listed[name][0]
            chosen.append(name)
    return chosen


def own(site, folder):
    """Media belong to the site's user, whose number differs from host to host."""
    owner = site.owner()
    for base, folders, names in os.walk(folder):
        for name in [".", *folders, *names]:
            os.lchown(f"{base}/{name}", *owner)
    os.chmod(folder, 0o755)  # noqa: S103  Caddy reads them
