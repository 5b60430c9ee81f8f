"""A release's source: fetched into the site's bare mirror, resolved to one commit, checked out."""

import base64
import os
import re
from urllib.parse import unquote, urlsplit

from . import process
from .errors import Failed

GIT, FIND = "/usr/bin/git", "/usr/bin/find"
LFS = "/usr/bin/git-lfs"
_ENV = {
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_SSH_COMMAND": "ssh -o BatchMode=yes -o ConnectTimeout=10",
    # ext:: and friends would run commands that a repository's address names.
    "GIT_ALLOW_PROTOCOL": "file:git:http:https:ssh",
    "GIT_CONFIG_NOSYSTEM": "1",
}
# git-check-ref-format(1), and no leading dash, which git would read as an option.
_REF = re.compile(r"(?![-/.]|@\Z)(?!.*(\.\.|@\{|//|/\.|\.lock(/|$)|\.$|/$))[^~^:?*\[\\]{1,200}\Z")


def valid_ref(ref):
    """Whether a text can name a tag, branch or commit at all: the rule by which the pillar is judged, too."""
    return (
        isinstance(ref, str)
        and ref.isprintable()
        and not any(character.isspace() for character in ref)
        and bool(_REF.match(ref))
    )


def redacted(repo):
    """A repository's address without the credentials that an URL may carry, for messages and logs."""
    parts = urlsplit(repo)
    if parts.scheme not in ("http", "https"):
        return repo  # ssh://git@host names a user, no secret
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def fetch(site, ref, log=None):
    """
    Bring the site's mirror up to date and resolve a ref; a tag wins over a branch of the same name.

    log: a file to which git's output is appended. Returns the commit's 40-digit name. Raises Failed for a text that is
    no ref, a repository that cannot be read, and a ref that it does not have.
    """
    repo, mirror = site.facts["repo"], _mirror(site)
    shown = redacted(repo)
    if not valid_ref(ref):
        raise Failed(f"{ref!r} is no tag, branch or commit. Try: git ls-remote {shown}"[:400])
    # The site's deploys hold a lock of their own: one of git's was left by a git that was killed.
    process.run([FIND, mirror, "-name", "*.lock", "-not", "-type", "d", "-delete"], user=site.name, timeout=60, log=log)
    # Also where it is there: an init that was killed is finished.
    made = _git(site, "init", "--quiet", "--bare", mirror, log=log)
    if made.code:
        raise Failed(f"{mirror} cannot be made: {_reason(made)}. Try: df -h {mirror}")
    commit = re.fullmatch(r"[0-9a-f]{40}", ref)
    if commit and (sha := _resolve(site, ref)):
        return sha
    fetched = _git(
        site, "fetch", "--quiet", "--prune", "--force", "--no-tags", *_transport(repo), "--", shown,
        "+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*", log=log,
    )  # fmt: skip
    if fetched.code:
        raise Failed(
            f"The repository {shown} cannot be read: {_reason(fetched)}. "
            f"Try: runuser -u {site.name} -- git ls-remote {shown}"
        )
    sha = _resolve(site, ref)
    if not sha and commit:
        # A commit that no branch holds any more: servers that allow it give it by name.
        _git(site, "fetch", "--quiet", *_transport(repo), "--", shown, ref, log=log)
        sha = _resolve(site, ref)
    if not sha:
        raise Failed(f"The repository {shown} has no tag, branch or commit {ref}. Try: git ls-remote {shown}")
    return sha


def checkout(site, sha, folder, log=None):
    """
    Check a commit out of the mirror into an empty folder of the site's user, with its submodules where it has any.

    Raises Failed, also for files in Git LFS where the host has no git-lfs.
    """
    lfs = []
    if os.path.exists(LFS):
        # What `git lfs install` writes; the files come from where the repository does.
        lfs = [word for name, value in (("process", "git-lfs filter-process"), ("required", "true"))
               for word in ("-c", f"filter.lfs.{name}={value}")]  # fmt: skip
    for argv in (
        ["clone", "--quiet", "--local", "--no-checkout", _mirror(site), folder],
        ["-C", folder, "remote", "set-url", "origin", redacted(site.facts["repo"])],
        ["-C", folder, *lfs, "checkout", "--quiet", "--detach", sha],
    ):
        done = _git(site, *argv, log=log, cwd="/")
        if done.code:
            raise Failed(f"Commit {sha[:8]} cannot be checked out: {_reason(done)}")
    if not lfs and not _git(site, "-C", folder, "grep", "--quiet", "filter=lfs", "--", ".gitattributes",
                            "*/.gitattributes", cwd="/").code:  # fmt: skip
        raise Failed(
            f"Commit {sha[:8]} keeps files in Git LFS, and this host has no git-lfs. "
            "Try: `packages: [git-lfs]` in the site's pillar, then state.apply"
        )
    if os.path.exists(f"{folder}/.gitmodules"):
        done = _git(site, "-C", folder, *lfs, "submodule", "--quiet", "update", "--init", "--recursive",
                    "--depth", "1", log=log, cwd="/")  # fmt: skip
        if done.code:
            raise Failed(f"The submodules of {sha[:8]} cannot be fetched: {_reason(done)}")


def _mirror(site):
    return site.path("repo.git")


def _git(site, *argv, log=None, cwd=None):
    return process.run(
        [GIT, *argv], user=site.name, cwd=cwd or _mirror(site), timeout=300, log=log,
        env={"HOME": site.path("cache"), **_ENV, **_credentials(site.facts["repo"])},
    )  # fmt: skip


def _credentials(repo):
    """The credentials of an https address as git configuration in the environment: in argv everyone reads them."""
    parts = urlsplit(repo)
    if parts.scheme not in ("http", "https") or not parts.username:
        return {}
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {
        "GIT_CONFIG_COUNT": "1",
        # Of the whole server: private submodules lie beside the repository.
        "GIT_CONFIG_KEY_0": f"http.{urlsplit(redacted(repo))._replace(path='/', query='', fragment='').geturl()}"
        ".extraHeader",
        "GIT_CONFIG_VALUE_0": "Authorization: Basic " + base64.b64encode(pair.encode()).decode(),
    }


def _transport(repo):
    """git refuses to serve a path that another user owns (safe.directory) unless its own end is told."""
    if repo.startswith(("/", "file://")):
        return ["--upload-pack=git -c safe.directory=* upload-pack"]
    return []


def _resolve(site, ref):
    for name in (f"refs/tags/{ref}", f"refs/heads/{ref}", ref):
        found = _git(site, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
        if not found.code:
            return found.output.strip()
    return None


def _reason(done):
    """git's own first word on it, and not the advice that follows."""
    lines = [line for line in done.output.splitlines() if line.strip()]
    reasons = [line for line in lines if line.startswith(("fatal:", "error:", "ERROR:", "ssh:"))]
    return (reasons or lines or ["no message"])[0].strip().rstrip(".")
