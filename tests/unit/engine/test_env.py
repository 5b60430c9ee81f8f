"""Environment files, as systemd, sh and the engine read them."""

import os
import subprocess

import pytest
from goldenpath import env
from goldenpath.errors import Failed

ODD = {
    "PLAIN": "value", "EMPTY": "", "QUOTES": 'say "hi"', "DOLLAR": "pa$$w0rd ${HOME} `id`", "SLASH": "back\\slash\\",
    "SPACE": "  two words ", "HASH": "a#b", "LINES": "-----BEGIN-----\nabc\n-----END-----\n", "UMLAUT": "größe",
    "INSIDE": 'x\nPLAIN="y"',
}  # fmt: skip


def test_what_is_written_is_read_back():
    assert env.load(env.dump(ODD)) == ODD


def test_a_shell_reads_the_same(tmp_path):
    path = tmp_path / "env"
    path.write_text(env.dump(ODD))
    for name, value in ODD.items():
        told = subprocess.run(
            ["sh", "-c", f'. "$1"; printf "%s|" "${name}"', "sh", path], capture_output=True, text=True, check=True
        ).stdout
        assert told == value + "|", name


def test_one_value_changes_and_no_other_line():
    text = "# Managed by Golden Path\n" + env.dump(ODD)
    changed = env.with_value(text, "PLAIN", 'a "new" $one')
    assert env.load(changed) == {**ODD, "PLAIN": 'a "new" $one'}
    assert changed.startswith("# Managed by Golden Path\n")


def test_a_value_changes_under_all_its_names():
    """As the key of Django, which a site may read by a name of its own."""
    text = env.dump(
        {"DJANGO_SECRET_KEY": "old", "SECRET_KEY": "old", "APP_SECRET": "old", "OTHER": "older", "NONE": ""}
    )
    changed = env.load(env.with_value(text, "DJANGO_SECRET_KEY", "new"))
    assert changed == {
        "DJANGO_SECRET_KEY": "new",
        "SECRET_KEY": "new",
        "APP_SECRET": "new",
        "OTHER": "older",
        "NONE": "",
    }
    # Of an empty one nothing is known.
    assert env.load(env.with_value(env.dump({"A": "", "B": ""}), "A", "x")) == {"A": "x", "B": ""}


def test_no_file_has_no_variables(tmp_path):
    assert env.read(str(tmp_path / "none")) == {}


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    path = tmp_path / "env"
    path.write_bytes(b'A="\xff"\n')
    with pytest.raises(Failed, match=rf"{path} cannot be read: it is not UTF-8\. Try: ls -l {path}"):
        env.read(str(path))
    os.unlink(path)
    path.mkdir()
    with pytest.raises(Failed, match="Is a directory"):
        env.read(str(path))
