"""The engine's version tells two engines apart."""

from tests.lint import engine_version


def test_it_was_raised_with_the_engine():
    assert " ".join(engine_version.now()) == engine_version.RECORD.read_text().strip(), (
        "the engine has changed since its version was raised. Try: python -m tests.lint.engine_version"
    )


def test_a_change_is_found():
    before = {"a.py": b"x = 1\n", "__init__.py": b'VERSION = "0.2.0"\nPROTOCOL = 1\n'}
    assert engine_version.digest(before) != engine_version.digest({**before, "a.py": b"x = 2\n"})
    assert engine_version.digest(before) != engine_version.digest({**before, "b.py": b""})
    assert engine_version.digest(before) == engine_version.digest(
        {**before, "__init__.py": b'VERSION = "0.2.1"\nPROTOCOL = 1\n'}
    )


def test_a_change_raises_the_version(tmp_path, monkeypatch, capsys):
    init = tmp_path / engine_version.INIT
    init.parent.mkdir(parents=True)
    init.write_text('VERSION = "0.2.9"\n')
    monkeypatch.setattr(engine_version, "ROOT", tmp_path)
    monkeypatch.setattr(engine_version, "RECORD", tmp_path / "record")
    monkeypatch.setattr(engine_version, "files", lambda folder: [f"{folder}/__init__.py", f"{folder}/a.py"])
    (init.parent / "a.py").write_text("x = 1\n")
    engine_version.main()
    (init.parent / "a.py").write_text("x = 2\n")
    engine_version.main()
    engine_version.main()
    assert init.read_text() == 'VERSION = "0.2.10"\n'
    assert (tmp_path / "record").read_text() == " ".join(engine_version.now()) + "\n"
    assert "unchanged" in capsys.readouterr().out
