"""A Postgres of a test's own: a cluster on a private socket, on which the engine's users are roles."""

import contextlib
import glob
import os
import pathlib
import pwd
import shutil
import subprocess
import tempfile

PORT = "54321"
PROGRAMS = sorted(glob.glob("/usr/lib/postgresql/*/bin"))


class Cluster:
    """
    A running Postgres. What the engine runs as a Unix user runs here as the current one, who may be any role, and is
    the role of that name.
    """

    def __init__(self):
        assert PROGRAMS, "there is no Postgres on this machine. Try: make servers"
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="gp-pg-", dir="/tmp"))
        # A server refuses to be root's.
        self.owner = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        if self.owner:
            os.chown(self.folder, self.owner.pw_uid, self.owner.pw_gid)
        self.folder.chmod(0o711)
        try:
            self._program(
                "initdb", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync",
                f"--pgdata={self.folder}/data",
            )  # fmt: skip
            self._program(
                "pg_ctl", f"--pgdata={self.folder}/data", "--wait", f"--log={self.folder}/log", "start", "-o",
                f"-p {PORT} -k {self.folder} -c listen_addresses= -c fsync=off -c shared_buffers=16MB",
            )  # fmt: skip
        except BaseException:
            self.stop()
            raise

    def _program(self, name, *argv):
        who = {"user": self.owner.pw_uid, "group": self.owner.pw_gid, "extra_groups": []} if self.owner else {}
        subprocess.run(
            [f"{PROGRAMS[-1]}/{name}", *argv], check=True, cwd="/", env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
            stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, **who,
        )  # fmt: skip

    def stop(self):
        """End the server, and remove all that it wrote."""
        with contextlib.suppress(subprocess.CalledProcessError):
            self._program("pg_ctl", f"--pgdata={self.folder}/data", "--mode=immediate", "stop")
        shutil.rmtree(self.folder, ignore_errors=True)

    def _env(self, user, env):
        return {"PGHOST": str(self.folder), "PGPORT": PORT, **({"PGUSER": user} if user else {}), **(env or {})}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self, real):
        """The engine's ``process.start`` on this cluster; real: what it is without."""
        return lambda argv, user=None, env=None, cwd="/", **more: real(argv, None, self._env(user, env), cwd, **more)

    def psql(self, statements, user="postgres", database="postgres", options=""):
        """What somebody types; returns the answer, or raises ``AssertionError`` with what Postgres said."""
        done = subprocess.run(
            ["psql", "--no-psqlrc", "-qAt", "--set=ON_ERROR_STOP=1", "--dbname", database], input=statements, text=True,
            env={"PATH": os.environ["PATH"], "PGOPTIONS": options, **self._env(user, {})}, capture_output=True,
            check=False,
        )  # fmt: skip
        assert not done.returncode, done.stderr
        return done.stdout.strip()
