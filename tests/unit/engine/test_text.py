"""What people read, and what nobody may read."""

import json

import pytest
from goldenpath import text
from goldenpath.errors import Failed

CANARY = "s3cr3t-canary"


@pytest.mark.parametrize("secret", ["abcd", "s3cr3t", "a longer one", "it's $odd"])
def test_one_masking_rule_from_four_characters_on(secret):
    assert text.masked(f"<{secret}>", [secret]) == f"<{text.STARS}>"


def test_a_word_of_three_letters_is_no_secret():
    assert text.masked("yes and yes", ["yes"]) == "yes and yes"


def test_every_line_of_a_secret_is_masked():
    key = "-----BEGIN KEY-----\nfirst-line\nsecond-line\n"
    assert "line" not in text.masked("first-line; second-line", [key])


def test_the_longer_secret_goes_first():
    assert text.masked("abcdef", ["abcd", "abcdef"]) == text.STARS


def test_a_password_in_an_url_is_masked_whoever_put_it_there():
    assert text.masked("https://user:pa55@x.example/y", []) == f"https://user:{text.STARS}@x.example/y"


@pytest.mark.parametrize(
    ("output", "why"),
    [
        ("", "it said nothing"),
        ("one\ntwo.\n", "two"),
        ("note\nERROR: no table\nHINT: make it\n", "ERROR: no table"),
        ("Traceback (most recent call last):\n  raise ValueError\nValueError: bad\n", "ValueError: bad"),
        ("::manage migrate 1\nlast words\n", "last words"),
    ],
)
def test_the_line_that_says_why(output, why):
    assert text.reason(output) == why


def test_a_terminal_is_told_nothing():
    assert text.printable("a\x1b[2J\x07b\x9b1m\tc\n") == "a?[2J?b?1m\tc\n"
    assert "\x1b" not in text.reason("error: \x1b]52;c;Y2xpcA==\x07")


def test_a_tail_leaves_our_own_lines_out():
    assert text.tail("a\n::manage x 0\nb\n", 3) == "a\nb"


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(5, "5 seconds"), (119, "119 seconds"), (120, "2 minutes"), (7200, "2 hours"), (1e6, "11 days")],
)
def test_seconds_for_people(seconds, told):
    assert text.duration(seconds) == told


def test_an_age_is_counted_from_either_spelling():
    for when in (text.now(), text.now().replace("Z", ".123456789+00:00")):
        assert 0 <= text.age(when) < 60


def test_nothing_that_a_terminal_obeys_is_in_a_sentence_or_an_answer():
    evil = "\x1b]52;c;ZXZpbA==\x07clear\x1b[2J\x9b1m\r"
    failed = Failed(f"{evil} is no ref", tail=f"last\nlines {evil}")
    for told in (str(failed), failed.tail, json.dumps(text.shown({evil: [evil, {"a": (evil, 1, None)}]}))):
        assert not set(told) & {"\x1b", "\x07", "\x9b", "\r"}
    assert failed.tail.count("\n") == 1 and text.shown(7) == 7


@pytest.mark.parametrize(
    ("output", "packages"),
    [
        ("Error: pg_config executable not found.", "build-essential, python3-dev, libpq-dev"),
        ("./psycopg/psycopg.h:36:10: fatal error: libpq-fe.h: No such file or directory", "libpq-dev"),
        ("src/x.c:1:10: fatal error: Python.h: No such file or directory", "build-essential, python3-dev"),
        ("error: command 'x86_64-linux-gnu-gcc' failed: No such file or directory", "build-essential, python3-dev"),
        ("error: command 'gcc' failed: No such file or directory", "build-essential, python3-dev"),
        ("Exception: Can not find valid pkg-config name.", "build-essential, default-libmysqlclient-dev, pkg-config"),
        ("RequiredDependencyException: The headers or library files could not be found for jpeg,",
         "build-essential, zlib1g-dev, libjpeg-dev"),
        ("error: can't find Rust compiler", "build-essential, cargo, rustc"),
        ("Git executable was not found", "git"),
        ("Because there is no version of nosuch and you require nosuch, we can conclude", ""),
        ("error: [Errno 2] No such file or directory: 'README.md'", ""),
    ],
)  # fmt: skip
def test_what_a_build_lacks(output, packages):
    assert text.lacks(f"Building wheel\n{output}\nhint: x") == packages
