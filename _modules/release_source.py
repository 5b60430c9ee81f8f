"""
A release's source: fetched into the site's bare mirror, resolved to one commit, checked out.
"""

import base64
import contextlib
import glob
import os
import re
from urllib.parse import unquote, urlsplit

from salt.exceptions import CommandExecutionError

_GIT_ENV = {
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_SSH_COMMAND": "ssh -o BatchMode=yes -o ConnectTimeout=10",
    # ext:: and friends would run commands that a repository's address names.
    "GIT_ALLOW_PROTOCOL": "file:git:http:https:ssh",
    "GIT_CONFIG_NOSYSTEM": "1",
}
_LFS = "/usr/bin/git-lfs"
# git-check-ref-format(1), and no leading dash, which git would read as an option.
_REF = re.compile(r"(?![-/.]|@\Z)(?!.*(\.\.|@\{|//|/\.|\.lock(/|$)|\.$|/$))[^\x00-\x20\x7f~^:?*\[\\]{1,200}\Z")


def valid_ref(ref):
    """
    Whether a text can name a tag, branch or commit at all.

    ref (str)
        The text.

    Returns a boolean.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 release_source.valid_ref v1.4.2
    """
    # What cannot be seen in a ref is taken by nobody: the rule of the pillar's judge.
    return isinstance(ref, str) and ref.isprintable() and bool(_REF.match(ref))


def redacted(repo):
    """
    A repository's address without the credentials that an URL may carry.

    repo (str)
        URL or path.

    Returns the text for messages and logs.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 release_source.redacted https://git.example/acme.git
    """
    parts = urlsplit(repo)
    if parts.scheme not in ("http", "https"):
        return repo  # ssh://git@host names a user, no secret
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _credentials(repo):
    """
    The credentials of an https address as git configuration in the environment: in argv everyone reads them.
    """
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


def _git(slug, repo, *argv, timeout=300, log=None, cwd=None):
    return __salt__["site_process.run"](
        slug,
        ["git", *argv],
        cwd or f"/srv/sum/{slug}/repo.git",
        env={**_GIT_ENV, **_credentials(repo)},
        timeout=timeout,
        log=log,
    )


def _transport(repo):
    """
    git refuses to serve a path that another user owns (safe.directory) unless its own end is told.
    """
    if repo.startswith(("/", "file://")):
        return ["--upload-pack=git -c safe.directory=* upload-pack"]
    return []


def _resolve(slug, repo, ref):
    for name in (f"refs/tags/{ref}", f"refs/heads/{ref}", ref):
        found = _git(slug, repo, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
        if found["retcode"] == 0:
            return found["output"].strip()
    return None


def fetch(slug, repo, ref, log=None):
    """
    Bring a site's mirror up to date and resolve a ref to the commit it names.

    slug (str)
        The site.
    repo (str)
        Any git URL or path that the site's user can read.
    ref (str)
        Tag, branch or commit; a tag wins over a branch of the same name.
    log (str)
        File to which git's output is appended.

    Returns the commit's 40-digit name. Raises ``CommandExecutionError`` with one sentence for a text that is
    no ref, a repository that cannot be read, and a ref that it does not have.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 release_source.fetch acme-kitchens https://git.example/acme.git v1.4.2
    """
    shown = redacted(repo)
    if not valid_ref(ref):
        raise CommandExecutionError(f"{ref!r} is no tag, branch or commit. Try: git ls-remote {shown}"[:400])
    mirror = f"/srv/sum/{slug}/repo.git"
    # The site's deploys hold a lock of their own: one of git's was left by a git that was killed.
    for lock in glob.glob(f"{mirror}/**/*.lock", recursive=True):
        with contextlib.suppress(OSError):
            os.unlink(lock)
    # Also where it is there: an init that was killed is finished.
    made = _git(slug, repo, "init", "--quiet", "--bare", mirror, log=log)
    if made["retcode"]:
        raise CommandExecutionError(f"{mirror} cannot be made: {_last(made)}. Try: df -h {mirror}")
    commit = re.fullmatch(r"[0-9a-f]{40}", ref)
    if commit and (sha := _resolve(slug, repo, ref)):
        return sha
    fetched = _git(
        slug, repo, "fetch", "--quiet", "--prune", "--force", "--no-tags", *_transport(repo), "--", shown,
        "+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*", log=log,
    )  # fmt: skip
    if fetched["retcode"]:
        raise CommandExecutionError(
            f"The repository {shown} cannot be read: {_last(fetched)}. "
            f"Try: runuser -u sum-{slug} -- git ls-remote {shown}"
        )
    sha = _resolve(slug, repo, ref)
    if not sha and commit:
        # A commit that no branch holds any more: servers that allow it give it by name.
        _git(slug, repo, "fetch", "--quiet", *_transport(repo), "--", shown, ref, log=log)
        sha = _resolve(slug, repo, ref)
    if not sha:
        raise CommandExecutionError(
            f"The repository {shown} has no tag, branch or commit {ref}. Try: git ls-remote {shown}"
        )
    return sha


def checkout(slug, repo, sha, folder, log=None):
    """
    Check a commit out of the site's mirror, with its submodules where it has any.

    slug (str)
        The site.
    repo (str)
        Address of the repository, against which relative submodule addresses are resolved.
    sha (str)
        The commit.
    folder (str)
        An empty folder that the site's user owns.
    log (str)
        File to which git's output is appended.

    Returns ``True``. Raises ``CommandExecutionError`` with one sentence, also for files in Git LFS where the host
    has no git-lfs.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 release_source.checkout acme-kitchens https://git.example/acme.git SHA /tmp/acme
    """
    mirror = f"/srv/sum/{slug}/repo.git"
    lfs = []
    if os.path.exists(_LFS):
        # What `git lfs install` writes; the files come from where the repository does.
        lfs = [word for name, value in (("process", "git-lfs filter-process"), ("required", "true"))
               for word in ("-c", f"filter.lfs.{name}={value}")]  # fmt: skip
    steps = [
        ["clone", "--quiet", "--local", "--no-checkout", mirror, folder],
        ["-C", folder, "remote", "set-url", "origin", redacted(repo)],
        ["-C", folder, *lfs, "checkout", "--quiet", "--detach", sha],
    ]
    for argv in steps:
        done = _git(slug, repo, *argv, log=log, cwd="/")
        if done["retcode"]:
            raise CommandExecutionError(f"Commit {sha[:8]} cannot be checked out: {_last(done)}")
    if not lfs and _git(slug, repo, "-C", folder, "grep", "--quiet", "filter=lfs", "--", ".gitattributes",
                        "*/.gitattributes", cwd="/")["retcode"] == 0:  # fmt: skip
        raise CommandExecutionError(
            f"Commit {sha[:8]} keeps files in Git LFS, and this host has no git-lfs. "
            "Try: `packages: [git-lfs]` in the site's pillar, then state.apply"
        )
    if os.path.exists(f"{folder}/.gitmodules"):
        done = _git(slug, repo, "-C", folder, *lfs, "submodule", "--quiet", "update", "--init", "--recursive",
                    "--depth", "1", log=log, cwd="/")  # fmt: skip
        if done["retcode"]:
            raise CommandExecutionError(f"The submodules of {sha[:8]} cannot be fetched: {_last(done)}")
    return True


def _last(result):
    lines = [line for line in result["output"].splitlines() if line.strip()]
    reasons = [line for line in lines if line.startswith(("fatal:", "error:", "ERROR:", "ssh:"))]
    return (reasons or lines or ["no message"])[0].strip().rstrip(".")
