"""Packages and the names that others provide, with a dpkg and an apt that answer as those of Debian 13 do."""

import pytest
from salt.exceptions import CommandExecutionError

LISTED = """\
installed|apt|3.0.3|apt-transport-https (= 3.0.3)
config-files|chrony|4.6.1-3|time-daemon
installed|libc6|2.41-12|
installed|mawk|1.3.4|awk, something:any
"""
MAGIC = "installed|libmagic1t64|1:5.46-5|libmagic1 (= 1:5.46-5)\n"
VIRTUAL = """\
Reading package lists...
Package mail-transport-agent is a virtual package provided by:
  postfix 3.10.13-0+deb13u1
  exim4-daemon-light 4.98.2-1+deb13u5

"""


class Host:
    """What is installed, and what apt does about it."""

    def __init__(self):
        self.listed, self.commands, self.refreshed = LISTED, [], []
        self.answer = {"retcode": 0, "stdout": "", "stderr": ""}
        self.brings = MAGIC

    def run(self, command, **options):
        assert options["python_shell"] is False and options["env"]["LC_ALL"] == "C"
        if command[0] == "dpkg-query":
            return {"retcode": 0, "stdout": self.listed, "stderr": ""}
        assert options["env"]["DEBIAN_FRONTEND"] == "noninteractive"
        self.commands.append(command)
        if not self.answer["retcode"]:
            self.listed += self.brings
        return self.answer


@pytest.fixture
def host():
    return Host()


@pytest.fixture
def packages(load, host):
    functions = {"cmd.run_all": host.run, "pkg.refresh_db": lambda **named: host.refreshed.append(named)}
    return load("_modules/packages.py", salt=functions)


def test_a_name_that_another_package_provides(packages, host):
    assert packages.missing(["libmagic1", "libc6", "awk", "something", "apt-transport-https"]) == ["libmagic1"]
    host.listed += MAGIC
    assert packages.missing(["libmagic1", "libmagic1t64"]) == []


def test_what_was_removed_is_missing(packages):
    assert packages.missing(["chrony", "time-daemon"]) == ["chrony", "time-daemon"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", "systemd-timesyncd"),
        ("installed|chrony|4.6.1-3|time-daemon\n", "chrony"),
        ("installed|ntpsec|1.2|ntp (= 1), time-daemon\n", "ntpsec"),
        ("installed|time-daemon|1|\n", "time-daemon"),
    ],
)
def test_the_provider_of_a_name(packages, host, line, expected):
    host.listed += line
    assert packages.provider("time-daemon", "systemd-timesyncd") == expected


def test_install(packages, host):
    assert packages.install(["libc6", "libmagic1"]) == {"libmagic1t64": {"old": "", "new": "1:5.46-5"}}
    assert [command[-1] for command in host.commands] == ["libmagic1"]
    assert "--no-remove" in host.commands[0] and "libc6" not in host.commands[0]
    assert host.refreshed == [{"cache_valid_time": packages.FRESH}]
    assert packages.install(["libmagic1"]) == {}
    assert len(host.commands) == len(host.refreshed) == 1


@pytest.mark.parametrize(
    ("stdout", "stderr", "sentence"),
    [
        (
            "",
            "E: Unable to locate package nosuch\n",
            "nosuch cannot be installed: Unable to locate package nosuch. Try: apt-get install --simulate nosuch",
        ),
        (
            VIRTUAL,
            "E: Package 'nosuch' has no installation candidate\n",
            "nosuch cannot be installed: Package 'nosuch' has no installation candidate; mail-transport-agent is a "
            "virtual package provided by: postfix, exim4-daemon-light. Try: apt-get install --simulate nosuch",
        ),
        ("", "", "nosuch cannot be installed: apt-get ended with 100. Try: apt-get install --simulate nosuch"),
    ],
)
def test_a_name_that_cannot_be_had(packages, host, stdout, stderr, sentence):
    host.answer = {"retcode": 100, "stdout": stdout, "stderr": stderr}
    with pytest.raises(CommandExecutionError) as failure:
        packages.install(["nosuch"])
    assert str(failure.value) == sentence


def test_an_apt_that_only_says_that_it_did(packages, host):
    host.brings = ""
    with pytest.raises(CommandExecutionError, match="libmagic1 cannot be installed"):
        packages.install(["libmagic1"])
