"""The example site as a git repository of its own, served to a lab host from a path on it."""

import base64
import os
import pathlib
import shutil
import subprocess

from .controller import REPOSITORY

IDENTITY = {
    "GIT_AUTHOR_NAME": "Example",
    "GIT_AUTHOR_EMAIL": "dev@acme.example",
    "GIT_COMMITTER_NAME": "Example",
    "GIT_COMMITTER_EMAIL": "dev@acme.example",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_SYSTEM": "/dev/null",
}


class SiteRepository:
    """A work tree that starts as examples/site, and its bare copy on a host.

    folder
        where the work tree is made (pathlib.Path)
    path
        where hosts read it (str)
    origin
        the work tree of another one, whose commits this one goes on from (pathlib.Path)
    """

    def __init__(self, folder, path="/srv/git/acme-kitchens.git", origin=None):
        self.folder = pathlib.Path(folder)
        self.path = path
        shutil.rmtree(self.folder, ignore_errors=True)
        if origin:
            shutil.copytree(origin, self.folder)
            return
        shutil.copytree(
            REPOSITORY / "examples/site", self.folder, ignore=shutil.ignore_patterns("__pycache__", "*.sqlite3")
        )
        self._git("init", "--quiet", "--initial-branch=main")
        self.commit("Example site", tag="v1.0.0")

    def _git(self, *words):
        done = subprocess.run(
            ["git", *words],
            cwd=self.folder,
            env={**os.environ, **IDENTITY},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    def commit(self, message, changes=None, tag=None):
        """Change files and commit them.

        message
            the commit's message (str)
        changes
            relative paths and their new text, None to delete one (dict)
        tag
            a tag for it (str)

        Returns the commit (str).
        """
        for path, text in (changes or {}).items():
            if text is None:
                (self.folder / path).unlink()
            else:
                (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
                (self.folder / path).write_text(text)
        self._git("add", "--all")
        self._git("commit", "--quiet", "--allow-empty", "--message", message)
        if tag:
            self._git("tag", "--force", tag)
        return self._git("rev-parse", "HEAD")

    def reset(self, ref):
        """Go back to a commit, so that the next one does not build on a bad one.

        ref
            what to go back to (str)
        """
        self._git("reset", "--quiet", "--hard", ref)

    def publish(self, host):
        """Bring all branches and tags to a host, as a push to its git server would.

        host
            the host (lab.Host)
        """
        bare = self.folder.with_suffix(".git")
        shutil.rmtree(bare, ignore_errors=True)
        self._git("clone", "--quiet", "--bare", str(self.folder), str(bare))
        packed = subprocess.run(["tar", "-C", str(bare), "-cz", "."], capture_output=True, check=True).stdout
        line = (
            'set -e; rm -rf "$1.new"; mkdir -p "$1.new"; base64 -d | tar -C "$1.new" -xz --no-same-owner; '
            'rm -rf "$1"; mv -T "$1.new" "$1"'
        )
        host.exec(["/bin/sh", "-c", line, "sh", self.path], input=base64.b64encode(packed).decode())
