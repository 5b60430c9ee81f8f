import textwrap

import pytest

from lab import LabError, base

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
DEB822 = textwrap.dedent(
    f"""\
    # The distribution's own
    Types: deb deb-src
    URIs: http://mirror.example/debian
    # a snapshot
    Suites: bookworm bookworm-updates
     bookworm-backports
    Components: main contrib
    Signed-By: {KEYRING}

    Types: deb
    URIs: https://mirror.example/debian-security
    Suites: bookworm-security
    Components: main
    Signed-By: {KEYRING}

    Enabled: no
    Types: deb
    URIs: https://off.example/debian
    Suites: bookworm
    Components: main
    """
)
ONE_LINE = textwrap.dedent(
    """\
    # deb http://old.example/debian bookworm main
    deb http://mirror.example/debian bookworm main contrib # the mirror
    deb [arch=amd64 trusted=yes] http://mirror.example/debian-security bookworm-security main
    deb-src http://mirror.example/debian bookworm main
    """
)


def certificate(text):
    return f"-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n"


class TestReleaseName:
    @pytest.mark.parametrize("given", ["bookworm", "12", 12])
    def test_known(self, given):
        assert base.release_name(given) == "bookworm"

    def test_unknown_is_refused(self):
        with pytest.raises(LabError, match=r"10 is not known.*bullseye.*bookworm.*trixie.*forky"):
            base.release_name("10")


class TestSources:
    def test_deb822(self):
        assert base.guest_sources(base.deb822_sources(DEB822), "trixie") == [
            f"deb [signed-by={KEYRING}] http://mirror.example/debian trixie main contrib",
            f"deb [signed-by={KEYRING}] http://mirror.example/debian trixie-updates main contrib",
            f"deb [signed-by={KEYRING}] https://mirror.example/debian-security trixie-security main",
        ]

    def test_one_line(self):
        assert base.guest_sources(base.one_line_sources(ONE_LINE), "bookworm") == [
            f"deb [signed-by={KEYRING}] http://mirror.example/debian bookworm main contrib",
            "deb [trusted=yes] http://mirror.example/debian-security bookworm-security main",
        ]

    @pytest.mark.parametrize(
        "line",
        [
            "deb [signed-by=/etc/apt/keyrings/other.gpg] https://packages.example/deb bookworm main",
            "deb https://packages.example/apt bookworm-pgdg main",
            "deb https://packages.example/linux/debian bookworm stable",
            "deb http://archive.example/ubuntu noble main universe",
            "deb file:///srv/mirror bookworm main",
            "deb http://mirror.example/debian-security bookworm-security main",
        ],
        ids=["foreign key", "foreign suite", "foreign component", "Ubuntu", "local", "security alone"],
    )
    def test_no_debian_archive(self, line):
        assert base.guest_sources(base.one_line_sources(line), "bookworm") == []

    def test_both_forms_are_read_from_the_machine(self, tmp_path):
        (tmp_path / "sources.list.d").mkdir()
        (tmp_path / "sources.list").write_text(ONE_LINE)
        (tmp_path / "sources.list.d/debian.sources").write_text(DEB822)
        (tmp_path / "sources.list.d/off.list.disabled").write_text("deb http://off.example/debian bookworm main\n")
        uris = {uri for entry in base.machine_sources(tmp_path) for uri in entry["uris"]}
        assert uris == {
            "http://mirror.example/debian",
            "http://mirror.example/debian-security",
            "https://mirror.example/debian-security",
        }


class TestCertificates:
    def test_only_what_the_distribution_lacks(self):
        packaged = certificate("AAAA") + certificate("BBBB")
        bundle = certificate("AAAA") + certificate("CCCC") + certificate("BBBB") + certificate("CCCC")
        assert base.extra_certificates(bundle, packaged) == [certificate("CCCC")]

    def test_line_breaks_make_no_difference(self):
        assert base.extra_certificates(certificate("AA\nAA"), certificate("AAAA")) == []


def test_a_base_is_bare():
    for package in ("redis-server", "caddy", "git", "postgresql", "ufw", "curl", "python3-venv"):
        assert package not in base.PACKAGES


def test_a_failed_build_shows_the_end_of_its_log(tmp_path, monkeypatch):
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, script in (
        ("mmdebstrap", "for n in 1 2 3 4 5 6 7 8 9; do echo line $n; done; echo E: no such suite; exit 25"),
        ("setpriv", 'while [ "$1" != mmdebstrap ]; do shift; done; exec "$@"'),
    ):
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.setattr(base, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(base, "HOSTS", tmp_path / "hosts")
    with pytest.raises(LabError, match=r"(?s)trixie cannot be built.*line 9\n  E: no such suite$") as error:
        base.ensure("trixie")
    assert "line 1\n" not in str(error.value)
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
