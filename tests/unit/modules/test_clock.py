"""The clock's unit, as systemctl tells it."""

import pytest
from salt.exceptions import CommandExecutionError


class Host:
    def __init__(self):
        self.daemon, self.commands, self.refuses = "chrony", [], {}
        self.shown = {
            "ActiveState": "active",
            "UnitFileState": "enabled",
            "ConditionResult": "yes",
            "ConditionTimestampMonotonic": "100",
        }

    def run(self, command, **options):
        assert command[0] == "systemctl" and options["python_shell"] is False
        if command[1] == "show":
            return {"retcode": 0, "stdout": "".join(f"{key}={value}\n" for key, value in self.shown.items())}
        self.commands.append(" ".join(command[1:]))
        return self.refuses.get(command[1], {"retcode": 0, "stdout": "", "stderr": ""})


@pytest.fixture
def host():
    return Host()


@pytest.fixture
def clock(load, host):
    functions = {"cmd.run_all": host.run, "packages.provider": lambda name: name == "time-daemon" and host.daemon}
    return load("_modules/clock.py", salt=functions)


@pytest.mark.parametrize(
    ("shown", "told"),
    [
        ({}, (True, True, False)),
        ({"UnitFileState": "disabled"}, (False, True, False)),
        ({"UnitFileState": "masked"}, (False, True, False)),
        ({"ActiveState": "inactive"}, (True, False, False)),
        ({"ActiveState": "failed"}, (True, False, False)),
        ({"ActiveState": "inactive", "ConditionResult": "no"}, (True, False, True)),
        # Nobody has tried to start it yet: the condition has not been asked.
        (
            {"ActiveState": "inactive", "ConditionResult": "no", "ConditionTimestampMonotonic": "0"},
            (True, False, False),
        ),
    ],
)
def test_status(clock, host, shown, told):
    host.shown.update(shown)
    status = clock.status()
    assert status.pop("unit") == "chrony.service"
    assert tuple(status.values()) == told


def test_no_daemon(clock, host):
    host.daemon = None
    assert clock.status() == {}
    with pytest.raises(CommandExecutionError, match=r"^No time daemon is installed. Try: apt-get install "):
        clock.start()


def test_start(clock, host):
    assert clock.start() is True
    assert host.commands == ["unmask --quiet chrony.service", "enable --now --quiet chrony.service"]


def test_start_that_fails(clock, host):
    host.refuses["enable"] = {"retcode": 1, "stdout": "", "stderr": "Job for chrony.service failed.\nSee more\n"}
    with pytest.raises(CommandExecutionError) as failure:
        clock.start()
    assert str(failure.value) == (
        "The clock cannot be kept: Job for chrony.service failed. Try: systemctl status chrony.service"
    )
