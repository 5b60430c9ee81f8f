"""
Run a program as a site's own user: what a site's repository brings is never run as root.

The program dies with the deploy that started it (``setpriv --pdeathsig``, prctl(2)), so a deploy that is
killed leaves no migration or build behind.
"""

import contextlib
import os
import signal
import subprocess

from salt.exceptions import CommandExecutionError


def run(slug, argv, cwd, env=None, timeout=600, log=None, read=None, write=None, feed=None):
    """
    Run a program as ``sum-<slug>`` and wait for it.

    slug (str)
        The site.
    argv (list)
        Program and arguments; no shell is involved.
    cwd (str)
        Folder to run in.
    env (dict)
        The whole environment next to ``PATH``, ``HOME`` and the locale; values may be secrets.
    timeout (int)
        Seconds after which it is killed with all its children.
    log (str)
        File to which its output is appended.
    read (str)
        File that root opens as its standard input.
    write (str)
        File that root opens, of mode 0600, for its standard output.
    feed (function)
        Called without arguments while the program starts: what it returns is the program's standard input.

    Returns ``{"retcode": int, "output": str}``: standard output and error together, or the error alone where
    the output goes to a file. A timeout has retcode 124.
    Raises ``CommandExecutionError`` where the program cannot be started.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 site_process.run acme-kitchens '["git", "--version"]' /
    """
    user = f"sum-{slug}"
    command = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--pdeathsig=KILL", "--", *argv]
    environment = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": f"/srv/sum/{slug}/cache",
        "LANG": "C.UTF-8",
        **(env or {}),
    }
    with contextlib.ExitStack() as files:
        stdin = files.enter_context(open(read, "rb")) if read else subprocess.PIPE if feed else subprocess.DEVNULL
        stdout = subprocess.PIPE
        if write:
            stdout = files.enter_context(open(os.open(write, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb"))
        try:
            process = subprocess.Popen(
                command, cwd=cwd, env=environment, stdin=stdin, stdout=stdout,
                stderr=subprocess.PIPE if write else subprocess.STDOUT,
                text=True, errors="replace", start_new_session=True,
            )  # fmt: skip
        except OSError as exc:
            raise CommandExecutionError(f"{argv[0]} cannot be started in {cwd}: {exc.strerror}") from exc
        try:
            text = feed() if feed else None
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise
        try:
            output = "".join(text or "" for text in process.communicate(text, timeout=timeout))
            retcode = process.returncode
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output = "".join(text or "" for text in process.communicate()) + f"\nkilled after {timeout} s"
            retcode = 124
        finally:
            if write:
                os.fsync(stdout.fileno())
    if log:
        with open(log, "a", encoding="utf-8") as stream:
            stream.write(f"$ {' '.join(argv)}\n{output}")
    return {"retcode": retcode, "output": output}
