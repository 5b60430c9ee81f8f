"""A site's media: listed with checksums, frozen for a backup, sampled and compared in a drill."""

import contextlib
import hashlib
import os
import random
import shutil
import stat

from . import tree
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
    for path, descriptor, name, facts in tree.walk(folder):
        if stat.S_ISLNK(facts.st_mode):
            found[path] = [0, 0, "-> " + os.readlink(name, dir_fd=descriptor)]
        elif stat.S_ISREG(facts.st_mode):
            before = (known or {}).get(path)
            if before and before[:2] == [facts.st_size, facts.st_mtime_ns]:
                found[path] = before
            elif stream := tree.open_file(name, descriptor):
                with stream:
                    found[path] = [facts.st_size, facts.st_mtime_ns, _digest(stream)]
    return found


def checksum(path):
    """The sha256 of a file of root's."""
    with open(path, "rb") as stream:
        return _digest(stream)


def _digest(stream):
    digest = hashlib.sha256()
    while block := stream.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def freeze(source, target):
    """
    The media as they are now, in a folder of links: what is replaced or deleted from here on does not matter.

    Media on a filesystem of their own cannot be linked to, and are copied. What is no file, link or folder is left out.
    """
    os.makedirs(target, 0o700)
    folders = []
    try:
        for path, descriptor, name, facts in tree.walk(source):
            there = f"{target}/{path}"
            if stat.S_ISDIR(facts.st_mode):
                os.mkdir(there, 0o700)
                folders.append((there, facts))
            elif stat.S_ISLNK(facts.st_mode) or stat.S_ISREG(facts.st_mode):
                with contextlib.suppress(FileNotFoundError):
                    _link(name, descriptor, there, facts)
    except OSError as exc:
        raise Failed(f"the media in {source} cannot be read: {exc}. Try: df -h {source}") from None
    # Last, because a folder that nobody may write to takes no files.
    for there, facts in reversed(folders):
        os.chmod(there, stat.S_IMODE(facts.st_mode))
        os.utime(there, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def _link(name, descriptor, there, facts):
    try:
        os.link(name, there, src_dir_fd=descriptor, follow_symlinks=False)
    except FileNotFoundError:
        raise
    except OSError:
        if stat.S_ISLNK(facts.st_mode):
            os.symlink(os.readlink(name, dir_fd=descriptor), there)
        elif stream := tree.open_file(name, descriptor):
            with stream, open(there, "xb") as copy:
                shutil.copyfileobj(stream, copy, 1 << 20)
            os.chmod(there, stat.S_IMODE(facts.st_mode))
            os.utime(there, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def completed(site, path):
    """What a restore fetched into ``media`` becomes what is there, with what was missing."""
    brought, whole = f"{path}/media.missing", f"{path}/media"
    os.rename(whole, brought)
    freeze(site.path("media"), whole)
    for name in listing(brought):
        folder = os.path.dirname(name)
        # A link of the site's leads to anywhere: what lay behind it stays away.
        if not os.path.lexists(f"{whole}/{name}") and _is_within(whole, folder):
            os.makedirs(f"{whole}/{folder}", exist_ok=True)
            os.rename(f"{brought}/{name}", f"{whole}/{name}")
    own(site, whole)


def _is_within(whole, folder):
    parts = folder.split("/") if folder else []
    above = ["/".join([whole, *parts[: at + 1]]) for at in range(len(parts))]
    return not any(os.path.islink(each) or os.path.isfile(each) for each in above)


def stats(site):
    """Size and time of every file of a site's media, as ``listing`` has them."""
    folder = site.path("media")
    if not os.path.isdir(folder):
        return {}
    return {
        path: [facts.st_size, facts.st_mtime_ns]
        for path, _, _, facts in tree.walk(folder)
        if not stat.S_ISDIR(facts.st_mode)
    }


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
    """Media belong to the site's user, whose number differs from host to host; Caddy reads them, no neighbour does."""
    uid, gid = site.owner()
    for _, descriptor, name, _ in tree.walk(folder):
        os.chown(name, uid, gid, dir_fd=descriptor, follow_symlinks=False)
    site.show(folder)
