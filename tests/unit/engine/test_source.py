"""A release's source, by real git from real repositories; git runs as the current user and not as the site's."""

import base64
import contextlib
import http.server
import os
import pathlib
import signal
import socket
import subprocess
import threading
import time

import pytest
from goldenpath import process, sandbox, source, text
from goldenpath import site as sites
from goldenpath.errors import Failed

SLUG = "acme"
AUTHOR = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "a"), ("EMAIL", "a@acme.example"), ("DATE", "2026-01-01T00:00:00Z"))
}
CLEAN = {
    "PATH": os.environ["PATH"],
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "HOME": "/nonexistent",
}


def git(folder, *argv, **env):
    return subprocess.run(
        ["git", *argv], cwd=folder, env={**CLEAN, **AUTHOR, **env}, capture_output=True, text=True, check=True
    ).stdout.strip()


def git_version():
    return tuple(int(part) for part in git("/", "version").split()[2].split(".")[:2])


class Repository:
    """Somebody's repository, with a work tree to commit in."""

    def __init__(self, path):
        self.path = path
        path.mkdir()
        git(path, "init", "--quiet", "--initial-branch=main")
        self.first = self.commit("first")

    def commit(self, text, name="file"):
        (self.path / name).write_text(text)
        git(self.path, "add", "--all")
        git(self.path, "commit", "--quiet", "--message", text)
        return git(self.path, "rev-parse", "HEAD")

    def git(self, *argv):
        return git(self.path, *argv)


class Site:
    """The site acme below a folder of the test; every program that it ran is kept."""

    def __init__(self, folder, monkeypatch):
        monkeypatch.setattr(sites, "SRV", str(folder))
        self.root = folder / SLUG
        (self.root / "repo.git").mkdir(parents=True)
        self.calls = []
        self.environment = {}
        self.module = source
        self.real = sandbox.run_all
        monkeypatch.setattr(sandbox, "run_all", self.run_all)

    def run_all(self, site, commands, env, timeout, log, more):
        assert site.slug == SLUG
        self.calls += [(argv, dict(env)) for argv, _, _ in commands]
        return self.real(site, commands, {**CLEAN, **env, **self.environment}, 60, log, more)

    def site(self, repo):
        return sites.Site(SLUG, {"repo": str(getattr(repo, "path", repo))})

    def fetch(self, repo, ref, log=None):
        return source.fetch(self.site(repo), ref, log)

    def checkout(self, repo, sha):
        folder = self.root / "src"
        folder.mkdir(exist_ok=True)
        source.checkout(self.site(repo), sha, str(folder))
        return folder

    def refused(self, repo, ref):
        with pytest.raises(Failed) as told:
            self.fetch(repo, ref)
        return str(told.value)


@pytest.fixture
def repository(tmp_path):
    return Repository(tmp_path / "upstream")


@pytest.fixture
def site(tmp_path, monkeypatch):
    return Site(tmp_path, monkeypatch)


# Refs

GOOD = [
    "main", "v1.4.2", "1.10", "release/2026-11", "feature/a_b.c", "a" * 200, "0123456", "f" * 40, "grün", "a-",
    "a.b.c",     "HEAD", "user@host", "a@b{c", "{a}", "#1", "a'b", 'a"b', "$(id)", "a;b", "a|b", "%s", "+a",
    "a.lockx", "lock", "@a",
]  # fmt: skip
BAD = [
    "", " ", "-", "-x", "--upload-pack=evil", "a b", "a\tb", "a\nb", "main\n", "\nmain", "a\x00b", "a\x7fb",
    "a..b", "a~1", "a^", "a^{tree}", "main:file", "a?", "a*", "[a]", "a\\b", "a@{1}", "@{-1}", "@{u}", "a//b",
    "/a", "a/", "a.", "@", "a/.b", ".a", "a.lock", "a.lock/b", "..", "a" * 201,
]  # fmt: skip


@pytest.mark.parametrize("ref", GOOD)
def test_good_refs(site, ref):
    assert site.module.valid_ref(ref)


@pytest.mark.parametrize("ref", [*BAD, None, 7, 1.5, True, ["main"], {}])
def test_bad_refs(site, ref):
    assert not site.module.valid_ref(ref)


@pytest.mark.parametrize("ref", ["v1\u200b", "v1\u00a0", "\u202ev1", "v1\u0085", "v\ufeff1"])
def test_one_rule_for_refs_what_cannot_be_seen_is_refused(site, ref):
    assert not site.module.valid_ref(ref)


def test_as_git_itself_judges(site):
    """A name that git would not take for a tag or branch is refused, and only such."""
    for ref in GOOD + [each for each in BAD if "\0" not in each]:
        # HEAD is a commit's name to git, and no branch's; @{-1} it would look up in the reflog.
        words = ["--allow-onelevel", f"refs/heads/{ref}"] if ref != "HEAD" else ["--allow-onelevel", ref]
        judged = subprocess.run(["git", "check-ref-format", *words], check=False).returncode == 0
        branch = subprocess.run(["git", "check-ref-format", "--branch", ref], check=False, capture_output=True)
        if site.module.valid_ref(ref):
            assert judged, ref
            assert branch.returncode == 0 or ref == "HEAD", ref
        else:
            # @ is HEAD, and would release whatever the mirror has there.
            assert not judged or ref.startswith("-") or ref == "@" or len(ref) > 200, ref


@pytest.mark.parametrize("ref", BAD)
def test_a_bad_ref_reaches_no_git(site, ref):
    assert "is no tag, branch or commit. Try: git ls-remote /srv/git/acme" in site.refused("/srv/git/acme", ref)[:600]
    assert site.calls == []


def test_branch_tag_commit(site, repository):
    repository.git("tag", "v1")
    repository.git("tag", "--annotate", "--message", "two", "v2")
    second = repository.commit("second")
    assert site.fetch(repository, "main") == second
    assert site.fetch(repository, "v1") == repository.first
    # The commit, and not the tag's own object.
    assert site.fetch(repository, "v2") == repository.first
    assert site.fetch(repository, second) == second
    assert site.fetch(repository, second[:8]) == second


def test_a_tag_wins_over_a_branch(site, repository):
    repository.git("tag", "both")
    repository.git("checkout", "--quiet", "-b", "both")
    repository.commit("second")
    assert site.fetch(repository, "both") == repository.first


def test_a_branch_wins_over_a_commit(site, repository):
    name = repository.first[:8]
    repository.git("checkout", "--quiet", "-b", name)
    second = repository.commit("second")
    assert site.fetch(repository, name) == second


def test_refs_that_move(site, repository):
    repository.git("tag", "v1")
    assert site.fetch(repository, "main") == repository.first
    second = repository.commit("second")
    repository.git("tag", "--force", "v1")
    assert site.fetch(repository, "main") == site.fetch(repository, "v1") == second
    # Also backwards: history that was rewritten.
    repository.git("reset", "--quiet", "--hard", repository.first)
    assert site.fetch(repository, "main") == repository.first


def test_refs_that_went_away(site, repository):
    repository.git("branch", "old")
    repository.git("tag", "gone")
    site.fetch(repository, "main")
    repository.git("branch", "--delete", "old")
    repository.git("tag", "--delete", "gone")
    for ref in ("old", "gone"):
        assert f"has no tag, branch or commit {ref}." in site.refused(repository, ref)


def test_a_commit_that_is_there_needs_no_repository(site, repository):
    site.fetch(repository, "main")
    repository.path.rename(repository.path.with_name("away"))
    assert site.fetch(repository, repository.first) == repository.first
    assert "cannot be read" in site.refused(repository, "main")


def test_a_commit_of_no_branch(site, repository):
    second = repository.commit("second")
    repository.git("reset", "--quiet", "--hard", repository.first)
    assert site.fetch(repository, second) == second


def test_no_such_ref(site, repository):
    assert site.refused(repository, "v9") == (
        f"The repository {repository.path} has no tag, branch or commit v9. Try: git ls-remote {repository.path}"
    )
    assert "has no tag, branch or commit " + "0" * 40 in site.refused(repository, "0" * 40)


def test_a_tag_of_a_file_is_no_commit(site, repository):
    repository.git("tag", "blob", repository.git("rev-parse", "HEAD:file"))
    assert "has no tag, branch or commit blob" in site.refused(repository, "blob")


def test_no_such_repository(site, tmp_path):
    sentence = site.refused(tmp_path / "gone", "main")
    assert sentence.startswith(f"The repository {tmp_path}/gone cannot be read: fatal: ")
    assert sentence.endswith(f"Try: the address, and whether {site.root}/.ssh holds a key that is let in there")
    assert "\n" not in sentence


def test_a_repository_without_a_commit(site, tmp_path):
    (tmp_path / "empty").mkdir()
    git(tmp_path / "empty", "init", "--quiet")
    assert "has no tag, branch or commit main" in site.refused(tmp_path / "empty", "main")


def test_a_repository_of_another_user(site, repository, tmp_path, monkeypatch):
    """git refuses such a path (safe.directory) unless its serving end is told; the mirror is the site's own."""
    config = tmp_path / "gitconfig"
    config.write_text(f"[safe]\n\tdirectory = {site.root}/repo.git\n")
    site.environment = {"GIT_TEST_ASSUME_DIFFERENT_OWNER": "1", "GIT_CONFIG_GLOBAL": str(config)}
    assert site.fetch(repository, "main") == repository.first
    monkeypatch.setattr(source, "_transport", lambda repo: [])
    repository.commit("second")
    # The check is real: without the option it is refused, but for git of 2.45.2 and later (its release notes).
    if git_version() < (2, 45):
        assert "cannot be read" in site.refused(repository, "main")
    else:
        assert site.fetch(repository, "main")


@pytest.mark.parametrize(
    "repo", ["ext::sh -c touch% {evil}", "--upload-pack=touch {evil}", "-oProxyCommand=touch {evil}", "fd::17"]
)
def test_an_address_runs_nothing(site, tmp_path, repo):
    evil = tmp_path / "evil"
    assert "cannot be read" in site.refused(repo.format(evil=evil), "main")
    assert not evil.exists()


def test_git_never_asks(site, repository):
    site.fetch(repository, "main")
    for argv, env in site.calls:
        if argv[0] != source.GIT:
            continue
        assert env["GIT_TERMINAL_PROMPT"] == "0"
        assert "BatchMode=yes" in env["GIT_SSH_COMMAND"]


# Credentials


def test_redacted(site):
    for repo, shown in (
        ("https://user:word@git.example/acme.git", "https://git.example/acme.git"),
        ("https://token@git.example:8443/acme.git", "https://git.example:8443/acme.git"),
        ("https://user:w%40rd@git.example/a@b.git", "https://git.example/a@b.git"),
        ("https://git.example/acme.git", "https://git.example/acme.git"),
        ("ssh://git@git.example/acme.git", "ssh://git@git.example/acme.git"),
        ("git@git.example:acme.git", "git@git.example:acme.git"),
        ("/srv/git/acme.git", "/srv/git/acme.git"),
    ):
        assert text.without_credentials(repo) == shown


@contextlib.contextmanager
def web(status):
    """A web server that notes each path with its Authorization header."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, self.headers.get("Authorization")))
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1], asked
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("status", [404, 401])
def test_credentials_reach_the_server_and_nobody_else(site, tmp_path, status):
    log = tmp_path / "log"
    with web(status) as (port, asked), pytest.raises(Failed) as told:
        site.fetch(f"http://user:s3cr%40t@127.0.0.1:{port}/acme.git", "main", str(log))
    header = base64.b64encode(b"user:s3cr@t").decode()
    assert asked[0] == ("/acme.git/info/refs?service=git-upload-pack", f"Basic {header}")
    words = " ".join(word for argv, _ in site.calls for word in argv)
    for shown in (words, str(told.value), log.read_text()):
        assert f"127.0.0.1:{port}/acme.git" in shown or shown is words
        for secret in ("s3cr", "user:", header):
            assert secret not in shown
    assert "s3cr" not in "".join(
        path.read_text(errors="replace") for path in (site.root / "repo.git").rglob("*") if path.is_file()
    )


def test_no_credentials_no_header(site):
    with web(404) as (port, asked):
        site.refused(f"http://127.0.0.1:{port}/acme.git", "main")
    assert asked[0][1] is None


# Checkout


def test_checkout(site, repository):
    second = repository.commit("second")
    site.fetch(repository, "main")
    folder = site.checkout(repository, repository.first)
    assert (folder / "file").read_text() == "first"
    assert git(folder, "rev-parse", "HEAD") == repository.first != second


def test_checkout_of_an_unknown_commit(site, repository):
    site.fetch(repository, "main")
    with pytest.raises(Failed, match=r"^Commit 00000000 cannot be checked out: "):
        site.checkout(repository, "0" * 40)


@contextlib.contextmanager
def daemon(folder):
    """git's own server for all repositories of a folder, on loopback. Yields its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    argv = ["git", "daemon", "--export-all", f"--base-path={folder}", "--listen=127.0.0.1", f"--port={port}"]
    with subprocess.Popen(argv, env=CLEAN | {"GIT_TEST_ASSUME_DIFFERENT_OWNER": ""}, start_new_session=True) as server:
        try:
            for _ in range(100):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                time.sleep(0.05)
            yield f"git://127.0.0.1:{port}"
        finally:
            os.killpg(server.pid, signal.SIGTERM)


def with_submodule(repository, tmp_path, address="../library"):
    library = Repository(tmp_path / "library")
    # Added by its path, and named as the site's repository names it.
    repository.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(library.path), "lib")
    repository.git("config", "--file", ".gitmodules", "submodule.lib.url", address)
    return library, repository.commit("with a submodule")


def test_submodules_with_a_relative_address(site, repository, tmp_path):
    library, sha = with_submodule(repository, tmp_path)
    library.commit("newer, and not what the site names")
    with daemon(tmp_path) as address:
        site.fetch(f"{address}/upstream", "main")
        folder = site.checkout(f"{address}/upstream", sha)
    assert (folder / "lib/file").read_text() == "first"


@pytest.mark.parametrize("address", ["{folder}/library", "file://{folder}/library", "../library", "ext::sh -c id"])
def test_a_submodule_is_no_folder_of_the_host(site, repository, tmp_path, address):
    """Also where the pillar's own address is one: what a repository names, its authors name."""
    _, sha = with_submodule(repository, tmp_path, address.format(folder=tmp_path))
    site.fetch(repository, "main")
    with pytest.raises(Failed, match=f"^The submodules of {sha[:8]} cannot be fetched: .*not allowed"):
        site.checkout(repository, sha)


def test_a_submodule_that_is_gone(site, repository, tmp_path):
    library, sha = with_submodule(repository, tmp_path)
    library.path.rename(tmp_path / "away")
    with daemon(tmp_path) as address:
        site.fetch(f"{address}/upstream", "main")
        with pytest.raises(Failed, match=f"^The submodules of {sha[:8]} cannot be fetched: "):
            site.checkout(f"{address}/upstream", sha)


PLANTED = {
    "core.hooksPath": "{hooks}",
    "core.fsmonitor": "touch {evil}",
    "core.sshCommand": "touch {evil}",
    "credential.helper": "!touch {evil}",
    "filter.evil.smudge": "touch {evil}",
    "filter.evil.process": "touch {evil}",
    "uploadpack.packObjectsHook": "touch {evil}",
}


@pytest.mark.parametrize("name", PLANTED)
@pytest.mark.parametrize("where", ["home", "mirror"])
def test_what_a_running_site_plants_is_not_run(site, repository, tmp_path, name, where):
    """A configuration in its own home, or in the mirror that it can write."""
    evil, hooks = tmp_path / "evil", tmp_path / "hooks"
    hooks.mkdir()
    for hook in ("post-checkout", "reference-transaction", "post-index-change"):
        (hooks / hook).write_text(f"#!/bin/sh\ntouch {evil}\n")
        (hooks / hook).chmod(0o755)
    (repository.path / ".gitattributes").write_text("* filter=evil\n")
    repository.commit("filtered")
    site.fetch(repository, "main")
    section, _, key = name.rpartition(".")
    config = site.root / ("cache/.gitconfig" if where == "home" else "repo.git/config")
    config.parent.mkdir(exist_ok=True)
    site.environment = {}
    git(tmp_path, "config", "--file", str(config), f"{section}.{key}", PLANTED[name].format(evil=evil, hooks=hooks))
    sha = repository.commit("next")
    site.fetch(repository, "main")
    site.checkout(repository, sha)
    assert not evil.exists()


def test_a_mirror_that_cannot_be_made(site, repository, monkeypatch):
    site.root.joinpath("repo.git").rmdir()
    pathlib.Path(site.root / "repo.git").write_text("a file")
    failed = process.Done(128, "fatal: no space\nmore\n", "")
    monkeypatch.setattr(sandbox, "run_all", lambda *_, **__: [process.Done(0, "", ""), failed])
    assert site.refused(repository, "main") == (
        f"{site.root}/repo.git cannot be made: fatal: no space. Try: df -h {site.root}/repo.git"
    )
