"""A host that somebody else uses is refused as a whole, and nothing of it is touched. Costs about 10 s, a bare host."""

import pytest

from .conftest import ROOT, SLUG, World

# As hosts of shell scripts are, and what else is met.
OTHERS = f"""
useradd -m deploy
mkdir -p {ROOT}/app {ROOT}/media; echo 'DJANGO_SECRET_KEY=theirs' > {ROOT}/.env; chown -R deploy {ROOT}
printf '[Service]\\nExecStart=/bin/sleep 9d\\n' > /etc/systemd/system/sum-{SLUG}-gunicorn.service
mkdir -p /etc/caddy; echo 'shop.example' > /etc/caddy/Caddyfile
systemd-run --quiet --unit=shop python3 -m http.server 80 --directory /srv
sleep 1
"""
EVERYTHING = "find /etc /srv /opt /usr/bin /var/lib/dpkg -type f -printf '%p %s %T@ %U %m\\n' | sort | sha256sum"


@pytest.fixture
def bare(lab, tmp_path, trixie):
    name = f"{trixie.name}-fo"
    try:
        yield World(lab, name, "trixie", tmp_path)
    finally:
        lab.down(name)


def test_a_host_of_somebody_else_is_not_run_over(bare):
    # Salt itself is there by then.
    bare.salt("test.ping")
    bare.sh(OTHERS)
    before = bare.sh(EVERYTHING)
    for words in ([], ["test=True"], ["redis"]):
        states = bare.apply(*words)
        result, changes, comment = states["base-look|host"]
        assert result is False
        # A dry run goes on, and tells what would be changed.
        assert changes == {} and (words == ["test=True"] or [key for key, state in states.items() if state[1]] == [])
        assert comment.startswith(f"{bare.name} is in use by somebody else, and nothing was changed:\n")
        for told in (
            "Port 80 is held by python3 (shop.service), and caddy would need it. Try: systemctl disable --now shop",
            "/etc/caddy/Caddyfile is somebody's", f"{ROOT} is somebody's: it does not belong to root",
            f"{ROOT}/.env is somebody's", f"/etc/systemd/system/sum-{SLUG}-gunicorn.service is somebody's",
        ):  # fmt: skip
            assert told in comment
        assert bare.sh(EVERYTHING) == before, words
    assert bare.sh("command -v redis-server caddy", check=False) == ""
    # What each sentence says is enough.
    bare.sh(
        "systemctl stop shop; mv /etc/caddy/Caddyfile /root/; "
        f"mv {ROOT} /root/{SLUG}.before; mv /etc/systemd/system/sum-{SLUG}-gunicorn.service /root/"
    )
    state = bare.apply("test=True")["base-look|host"]
    assert state[0] is None and state[1]["ours"]["new"] == f"host, {SLUG}"
