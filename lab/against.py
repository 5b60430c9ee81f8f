"""make bench AGAINST=COMMIT: this checkout and another commit in turn, each on an equal host; medians of pairs."""

import pathlib
import statistics
import sys
import tempfile
import time
import types

from . import Lab, controller, demo, earlier, master, siterepo
from .bench import bounded, over_ssh, say, timed

PAIRS = 5
# What is slower by more than both is named.
SHARE, SECONDS = 1.05, 0.1


class Side:
    """One checkout, with its host, its controller, its master and its copy of the example site."""

    def __init__(self, lab, name, modules, folder, release):
        self.host = lab.up(name, release=release)
        self.pillar = modules.demo.PILLAR
        self._modules, self._folder, self.master = modules, folder, None
        folder.mkdir()
        self.ssh = modules.controller.Controller(folder / "c", [self.host])
        self.ssh.pillar(name, self.pillar)
        self.site = modules.siterepo.SiteRepository(folder / "site")
        self.site.publish(self.host)

    def begin(self):
        """Provision, deploy, and admit the host as a minion. Returns the seconds of the first two (list of float)."""
        name = self.host.name
        seconds = [
            timed(lambda: self.ssh.salt_ssh(name, "state.apply")),
            timed(lambda: self.ssh.orchestrate("deploy")),
        ]
        self.master = self._modules.master.Master(self._folder / "m").start()
        self.master.pillar(name, self.pillar)
        self.master.admit(self.host)
        timed(lambda: self.master.salt(name, "saltutil.sync_all"))
        return seconds

    def _news(self):
        self.site.commit("news", {"NEWS": f"{time.monotonic()}\n"})
        self.site.publish(self.host)

    def _refused(self, way):
        self.host.exec("systemctl stop redis-server")
        try:
            return timed(lambda: way.orchestrate("deploy"), fails=True)
        finally:
            self.host.exec("systemctl start redis-server")

    def _deploy(self, way):
        self._news()
        return timed(lambda: way.orchestrate("deploy", {"ref": "main"}))

    def _rollback(self, way):
        self._deploy(way)  # the release that is left is bad from then on
        return timed(lambda: way.orchestrate("rollback"))

    def measures(self):
        """What is asked of both in turn (dict of callables that return seconds)."""
        name = self.host.name
        return {
            "state.apply, nothing to do, salt-ssh": lambda: timed(lambda: self.ssh.salt_ssh(name, "state.apply")),
            "state.apply, nothing to do, minion": lambda: timed(lambda: self.master.salt(name, "state.apply")),
            "deploy, warm, salt-ssh": lambda: self._deploy(self.ssh),
            "deploy, warm, minion": lambda: self._deploy(self.master),
            "rollback, minion": lambda: self._rollback(self.master),
            "deploy refused, Redis stopped, salt-ssh": lambda: self._refused(self.ssh),
            "deploy refused, Redis stopped, minion": lambda: self._refused(self.master),
            "backup": lambda: timed(lambda: over_ssh(self.host, "systemctl start goldenpath-backup")),
        }

    def end(self):
        if self.master:
            self.master.stop()


def compare(name, new, old):
    """Say one measure of both sides, and whether this checkout is slower than noise explains."""
    ours, theirs = statistics.median(new), statistics.median(old)
    slower = {"slower": True} if ours > theirs * SHARE and ours - theirs > SECONDS else {}
    say(name, new, old, beside_is="the other commit", **slower)


def run(commit, release="bookworm"):
    """Measure both.

    commit
        the other one (str)
    release
        the hosts' Debian (str): whose Python is the controller's, for the minion is a copy of it
    """
    ours = types.SimpleNamespace(controller=controller, demo=demo, master=master, siterepo=siterepo)
    with Lab(lambda line: print(line, file=sys.stderr)) as lab, tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "tree").mkdir()
        theirs = earlier.checkout(commit, folder / "tree")
        sides = []
        try:
            for name, modules in (("against-new", ours), ("against-old", theirs)):
                sides.append(Side(lab, name, modules, folder / name[-3:], release))
            begun = [side.begin() for side in sides]
            for number, name in enumerate(("provision", "first deploy")):
                compare(name, *([seconds[number]] for seconds in begun))
            asked = [side.measures() for side in sides]
            for name in asked[0]:
                for each in asked:
                    each[name]()  # once unmeasured: what is loaded for the first time
                pairs = [[each[name]() for each in asked] for _ in range(PAIRS)]
                compare(name, *zip(*pairs, strict=True))
        finally:
            for side in sides:
                side.end()


if __name__ == "__main__":
    raise SystemExit(bounded(lambda: run(sys.argv[1])))
