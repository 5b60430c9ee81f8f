"""A release's source: fetched into the site's bare mirror, resolved to one commit, checked out."""

import base64
import os
import re
from urllib.parse import unquote, urlsplit

from . import sandbox
from .errors import Failed
from .text import without_credentials

GIT, FIND = "/usr/bin/git", "/usr/bin/find"
LFS = "/usr/bin/git-lfs"
# What a site, or its repository, could have git run by a configuration that lies about (git-config(1)).
_OFF = {"core.hooksPath": "/dev/null", "core.fsmonitor": "false", "credential.helper": ""}
_ENV = {
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_SSH_COMMAND": "ssh -o BatchMode=yes -o ConnectTimeout=10",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "HOME": "/nonexistent",
}
# ext:: and friends would run commands that an address names; a path is for an address that the pillar gives as one.
_PROTOCOLS = "git:http:https:ssh"
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


def fetch(site, ref, log=None):
    """
    Bring the site's mirror up to date and resolve a ref; a tag wins over a branch of the same name.

    log: a file to which git's output is appended. Returns the commit's 40-digit name. Raises Failed for a text that is
    no ref, a repository that cannot be read, and a ref that it does not have.
    """
    repo, mirror = site.facts["repo"], _mirror(site)
    shown = without_credentials(repo)
    if not valid_ref(ref):
        raise Failed(f"{ref!r} is no tag, branch or commit. Try: git ls-remote {shown}"[:400])
    commit, paths = re.fullmatch(r"[0-9a-f]{40}", ref), _is_path(repo)
    tidied = [
        # The site's deploys hold a lock of their own: one of git's was left by a git that was killed.
        ([FIND, mirror, "-name", "*.lock", "-not", "-type", "d", "-delete"], "/", True),
        # Also where it is there: an init that was killed is finished.
        ([GIT, "init", "--quiet", "--bare", mirror], "/", False),
    ]
    here = _resolving(mirror, ref)
    if commit:
        done = _git(site, [*tidied, *here], log, paths)
        _made(mirror, done)
        if sha := _resolved(done[-len(here) :]):
            return sha
        tidied = []
    done = _git(site, [*tidied, _fetching(mirror, repo, _EVERYTHING), *here], log, paths)
    if tidied:
        _made(mirror, done)
    _fetched(site, done[len(tidied) :][:1] or done[-1:], shown)
    sha = _resolved(done[-len(here) :])
    if not sha and commit:
        # A commit that no branch holds any more: servers that allow it give it by name.
        done = _git(site, [_fetching(mirror, repo, [ref], optional=True), *here], log, paths)
        sha = _resolved(done[-len(here) :])
    if not sha:
        raise Failed(f"The repository {shown} has no tag, branch or commit {ref}. Try: git ls-remote {shown}")
    return sha


def between(site, old, new):
    """
    What lies between two commits of the mirror.

    Returns ``ahead`` and ``behind`` (of the old one, a line for each commit, newest first) and ``files`` (status letter
    and path of what differs). Raises Failed where the mirror has not both.
    """
    mirror = _mirror(site)
    line = "--format=%h %s (%an, %ad)"
    asked = [
        [GIT, "log", "--date=short", "--max-count=200", line, f"{old}..{new}", "--"],
        [GIT, "log", "--date=short", "--max-count=200", line, f"{new}..{old}", "--"],
        [GIT, "diff", "--name-status", "--no-renames", "--no-ext-diff", "--no-textconv", old, new, "--"],
    ]
    done = _git(site, [(argv, mirror, False) for argv in asked], None)
    if len(done) < len(asked) or any(each.code for each in done):
        raise Failed(f"{old[:8]} and {new[:8]} cannot be compared: {_reason(done[-1])}. Try: deploy once more")
    ahead, behind, changed = (each.output.splitlines() for each in done)
    return {"ahead": ahead, "behind": behind, "files": [tuple(each.split("\t", 1)) for each in changed if "\t" in each]}


_EVERYTHING = ("--prune", "--force", "--no-tags", "+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")


def _fetching(mirror, repo, wanted, optional=False):
    options = [word for word in wanted if word.startswith("--")]
    refs = [word for word in wanted if not word.startswith("--")]
    argv = [GIT, "fetch", "--quiet", *options, *_transport(repo), "--", without_credentials(repo), *refs]
    return argv, mirror, optional


def _resolving(mirror, ref):
    names = (f"refs/tags/{ref}", f"refs/heads/{ref}", ref)
    verify = [GIT, "rev-parse", "--verify", "--quiet", "--end-of-options"]
    return [([*verify, f"{name}^{{commit}}"], mirror, True) for name in names]


def _resolved(answers):
    found = [each.output.strip() for each in answers if not each.code]
    return found[0] if found and re.fullmatch(r"[0-9a-f]{40}", found[0]) else None


def _made(mirror, done):
    made = done[1] if len(done) > 1 else done[-1]
    if made.code:
        raise Failed(f"{mirror} cannot be made: {_reason(made)}. Try: df -h {mirror}")


def _fetched(site, answers, shown):
    if answers[0].code:
        raise Failed(
            f"The repository {shown} cannot be read: {_reason(answers[0])}. "
            f"Try: the address, and whether {site.path('.ssh')} holds a key that is let in there"
        )


def checkout(site, sha, folder, log=None):
    """
    Check a commit out of the mirror into an empty folder of the site's user, with its submodules where it has any.

    Raises Failed, also for files in Git LFS where the host has no git-lfs.
    """
    lfs = []
    if os.path.exists(LFS):
        # What `git lfs install` writes; the files come from where the repository does.
        lfs = [word for name, value in (("process", f"{LFS} filter-process"), ("required", "true"))
               for word in ("-c", f"filter.lfs.{name}={value}")]  # fmt: skip
    done = _git(
        site,
        [
            ([GIT, "clone", "--quiet", "--local", "--no-checkout", _mirror(site), folder], "/", False),
            ([GIT, "-C", folder, "remote", "set-url", "origin", without_credentials(site.facts["repo"])], "/", False),
            ([GIT, "-C", folder, *lfs, "checkout", "--quiet", "--detach", sha], "/", False),
            # Asked last, and only where it matters.
            *([] if lfs else [([GIT, "-C", folder, "grep", "--quiet", "filter=lfs", "--", ".gitattributes",
                                "*/.gitattributes"], "/", True)]),
        ],
        log, paths=True,
    )  # fmt: skip
    if any(each.code for each in done[:3]):
        raise Failed(f"Commit {sha[:8]} cannot be checked out: {_reason(done[-1])}")
    if not lfs and not done[-1].code:
        raise Failed(
            f"Commit {sha[:8]} keeps files in Git LFS, and this host has no git-lfs. "
            "Try: `packages: [git-lfs]` in the site's pillar, then state.apply"
        )
    if os.path.exists(f"{folder}/.gitmodules"):
        update = [GIT, "-C", folder, *lfs, "submodule", "--quiet", "update", "--init", "--recursive", "--depth", "1"]
        (done,) = _git(site, [(update, "/", False)], log)
        if done.code:
            raise Failed(f"The submodules of {sha[:8]} cannot be fetched: {_reason(done)}")


def _mirror(site):
    return site.path("repo.git")


def _git(site, commands, log, paths=False):
    """Run commands of git in the site's sandbox. paths: whether a path is an address, as the pillar's own may be."""
    allowed = f"file:{_PROTOCOLS}" if paths else _PROTOCOLS
    settings = {**_OFF, **_credentials(site.facts["repo"])}
    env = {**_ENV, "GIT_ALLOW_PROTOCOL": allowed, "GIT_CONFIG_COUNT": str(len(settings))}
    for number, (name, value) in enumerate(settings.items()):
        env.update({f"GIT_CONFIG_KEY_{number}": name, f"GIT_CONFIG_VALUE_{number}": value})
    # A repository of this host may lie where the sandbox shows nothing else.
    repo = site.facts["repo"]
    more = ("ProtectHome=read-only", f"BindReadOnlyPaths=-{repo}") if paths and _is_path(repo) else ()
    return sandbox.run_all(site, commands, env, timeout=600, log=log, more=more)


def _is_path(repo):
    return repo.startswith("/")


def _credentials(repo):
    """The credentials of an https address as git configuration in the environment: in argv everyone reads them."""
    parts = urlsplit(repo)
    if parts.scheme not in ("http", "https") or not parts.username:
        return {}
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    # Of the whole server: private submodules lie beside the repository.
    server = urlsplit(without_credentials(repo))._replace(path="/", query="", fragment="").geturl()
    return {f"http.{server}.extraHeader": "Authorization: Basic " + base64.b64encode(pair.encode()).decode()}


def _transport(repo):
    """git refuses to serve a path that another user owns (safe.directory) unless its own end is told."""
    if _is_path(repo):
        return ["--upload-pack=git -c safe.directory=* upload-pack"]
    return []


def _reason(done):
    """git's own first word on it, and not the advice that follows."""
    lines = [line for line in done.output.splitlines() if line.strip()]
    reasons = [line for line in lines if line.startswith(("fatal:", "error:", "ERROR:", "ssh:"))]
    return (reasons or lines or ["no message"])[0].strip().rstrip(".")
