"""The runbook's commands, run as they are written: on a host, and from its controller."""

import re
import shlex

import pytest

from tests.lint.repository import text

RUNBOOK = text("docs/vps-golden-path.md")
# What changes the site is run by other tests.
CHANGES = re.compile(r"rollback|maintenance|orchestrate|state\.apply(?!.*test=True)")


def lines(title):
    """The commands in the blocks below one heading."""
    part = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", RUNBOOK, re.MULTILINE | re.DOTALL)[1]
    blocks = re.findall(r"^ *```bash\n(.*?)^ *```", part, re.MULTILINE | re.DOTALL)
    return [line.split(" #")[0].strip() for block in blocks for line in block.splitlines() if line.strip()]


SECTIONS = ("What the gate says", "Health", "Ops smoke checklist", "Drift", "Rollback", "At three in the morning")
SALT = sorted(
    {line for title in SECTIONS for line in lines(title) if line.startswith("salt-") and not CHANGES.search(line)}
)
ON_HOST = [line for line in lines("Ops smoke checklist") if not line.startswith("salt-")]


@pytest.mark.parametrize("line", SALT)
def test_from_the_controller(trixie, line):
    program, *words = [word.replace("web1", trixie.name) for word in shlex.split(line)]
    done = trixie.controller.run(program, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip() and "MUST BE CLOSED" not in done.stdout and "Result: False" not in done.stdout


@pytest.mark.parametrize("line", ON_HOST)
def test_on_the_host(trixie, line):
    answer = trixie.sh(line)
    assert answer == "PONG" if line == "redis-cli ping" else answer


def test_manage_by_hand(trixie):
    shell, psql = lines("Where things lie")
    assert "no issues" in trixie.sh(shell.replace(" shell", " check"))
    assert trixie.sh(f"echo 'SELECT current_user' | {psql} -qAt") == "sum-acme-kitchens"


def test_a_key_for_a_private_repository(trixie):
    commands = [line for line in lines("Private repositories") if not line.startswith("ssh root@")]
    here = "\n".join(commands[:3])
    try:
        assert trixie.sh(here).startswith("ssh-ed25519 ")
        refused = trixie.sh(
            "; ".join([commands[0], commands[-1].replace("git.example", "127.0.0.1")]) + " 2>&1", check=False
        )
        assert "Host key verification failed" in refused
    finally:
        trixie.sh("rm -f /srv/sum/acme-kitchens/.ssh/*")
