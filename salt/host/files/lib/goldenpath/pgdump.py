"""A site's database as a file: dumped with its row counts from one snapshot, verified, restored beside the live one."""

# ruff: noqa: S608  names of sites and of their databases, which provisioning has checked
import json
import os
import re
import subprocess
import tempfile

from . import files, host, postgres, process, text
from .errors import Failed
from .postgres import literal, quoted

DUMP, RESTORE = "/usr/bin/pg_dump", "/usr/bin/pg_restore"
# How long a dump waits for somebody who holds a table.
LOCK_WAIT = "10min"
# Longest that one dump, or one reading of it, takes.
LONGEST = 3 * 3600

_COUNTS = r"""
SELECT format('SELECT json_build_array(%L, count(*)) FROM ONLY %I.%I;', format('%I.%I', n.nspname, c.relname),
              n.nspname, c.relname)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_temp'
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                  AND d.deptype = 'e')
ORDER BY 1
\gexec
"""
# The tables of extensions: their rows are the extension's own, except for those that a site added to them.
_MEMBERS = r"""
SELECT coalesce(json_agg(format('%I.%I', n.nspname, c.relname)), '[]')
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_depend d ON d.objid = c.oid
WHERE c.relkind = 'r' AND d.classid = 'pg_class'::regclass AND d.deptype = 'e';
"""
# As pg_restore --list names them: without quotes.
_ENTRY = re.compile(r"^\d+; \d+ \d+ (TABLE DATA|SCHEMA|EXTENSION) (\S+) (.+?)(?: \S*)?$")
_NAME = rb'(?:"(?:[^"]|"")+"|[^\s".]+)'
_EXTENSION = re.compile(r'^CREATE EXTENSION IF NOT EXISTS \S+ WITH SCHEMA ("(?:[^"]|"")+"|[^\s";]+);$', re.MULTILINE)
_COPY = re.compile(rb"COPY (" + _NAME + rb"\." + _NAME + rb") .*FROM stdin;\n\Z")


def counts(site, name):
    """The rows of every table of a database: {table: rows}."""
    return dict(json.loads(line) for line in postgres.ask(site, _COUNTS, name).splitlines())


def dump(site, path, wait=None):
    """
    Dump the live database into a file, and count every table's rows in the very same snapshot.

    wait: how long for somebody who holds a table.
    Uncompressed, so that restic finds what is unchanged since yesterday; it compresses itself.
    Returns {"tables": {table: rows}, "extensions": [name, …], "members": [table of an extension, …],
    "size": bytes of the database}.
    """
    name, wait, keeper = site.name, wait or LOCK_WAIT, postgres.keeper(site)
    # Whatever it holds, it cannot eat what Postgres and Redis need to go on writing.
    most = files.spare(os.path.dirname(path))
    argv = [postgres.PSQL, "--no-psqlrc", "-qAt", "--set=ON_ERROR_STOP=1", "--dbname", name]
    settings = postgres.options(lock_timeout=wait, statement_timeout=f"{LONGEST}s")
    with tempfile.TemporaryFile(dir=process.TEMPORARY) as errors:
        session = process.start(
            argv, user=keeper, env=settings, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        try:
            session.stdin.write(
                f"SET ROLE {quoted(name)};\n"
                "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;\n"
                "SELECT pg_export_snapshot();\n"
                "SELECT coalesce(json_agg(extname ORDER BY extname), '[]') FROM pg_extension "
                "WHERE extname <> 'plpgsql';\n"
                "SELECT pg_database_size(current_database());\n"
                + _MEMBERS.strip().replace("\n", " ") + "\n" + _COUNTS + "\\echo ::end\n"
            )  # fmt: skip
            session.stdin.flush()
            lines = []
            for line in session.stdout:
                if line.strip() == "::end":
                    break
                lines.append(line.strip())
            else:
                session.wait()
                errors.seek(0)
                raise Failed(
                    f"the tables of {name} cannot be counted: {text.reason(errors.read().decode(errors='replace'))}. "
                    "Try: systemctl status 'postgresql@*'"
                )
            code, output, _ = process.run(
                [DUMP, "--format=custom", "--compress=0", f"--role={name}", f"--snapshot={lines[0]}",
                 f"--lock-wait-timeout={wait}", "--dbname", name],
                user=keeper, env=settings, stdout=path, most=most, timeout=LONGEST,
            )  # fmt: skip
            if code and os.path.getsize(path) >= most:
                raise Failed(
                    f"pg_dump of {name} was stopped at {text.size(most)}, before it fills the disk. "
                    f"Try: df -h {os.path.dirname(path)}"
                )
            if code:
                raise Failed(f"pg_dump of {name} failed: {text.reason(output)}. Try: df -h {os.path.dirname(path)}")
            return {
                "extensions": json.loads(lines[1]), "size": int(lines[2]), "members": json.loads(lines[3]),
                "tables": dict(json.loads(line) for line in lines[4:]),
            }  # fmt: skip
        except BrokenPipeError:
            raise Failed(f"Postgres does not let {name} in. Try: systemctl status 'postgresql@*'") from None
        finally:
            session.kill()
            session.wait()


def dumped(site, path, wait=None):
    """Dump the live database, prove the dump, and give it its name only then. Returns what ``dump`` does."""
    partial = f"{path}.partial"
    try:
        held = dump(site, partial, wait)
        verify(site, partial, held)
        os.rename(partial, path)
    finally:
        files.remove(partial)
    return held


def verify(site, path, held):
    """
    Read a whole dump as a restore would, and count its rows: `pg_restore --list` passes a truncated one.

    held: what ``dump`` returned.
    """
    with open(path, "rb") as source, tempfile.TemporaryFile(dir=process.TEMPORARY) as errors:
        reader = process.start(
            [RESTORE, "--file=-"], user=postgres.keeper(site), stdin=source, stdout=subprocess.PIPE, stderr=errors
        )
        try:
            seen = copied(reader.stdout)
        except BaseException:
            reader.kill()
            raise
        reader.stdout.close()
        code = reader.wait()
        errors.seek(0)
        said = errors.read().decode(errors="replace")
    if code:
        raise Failed(f"the dump cannot be read back: {text.reason(said)}. Try: df -h {os.path.dirname(path)}")
    for name in held["members"]:
        seen.pop(name, None)
    wrong = difference(held["tables"], seen)
    if wrong:
        raise Failed(f"the dump is not what the database held: {wrong}. Try: run the backup again")


def copied(stream):
    """The rows of each table in what pg_restore prints."""
    seen, table, rows = {}, None, 0
    for line in stream:
        if table is None:
            if line.startswith(b"COPY "):
                found = _COPY.match(line)
                if found:
                    table, rows = found[1].decode(), 0
        elif line == b"\\.\n":
            seen[table] = rows
            table = None
        else:
            rows += 1
    return seen


def difference(expected, found):
    """How the rows of tables differ, in words; empty when they do not."""
    words = [f"{table} is missing" for table in sorted(expected.keys() - found.keys())]
    words += [f"{table} is not of this backup" for table in sorted(found.keys() - expected.keys())]
    words += [
        f"{table} has {found[table]} rows and not {rows}"
        for table, rows in sorted(expected.items())
        if table in found and found[table] != rows
    ]
    return ", ".join(words[:3]) + (f" and {len(words) - 3} more" if len(words) > 3 else "")


def restore(site, path, name):
    """
    Fill a new database beside the live one from a dump, as the site's own role and in one transaction.

    No entry of the dump is ever run by a superuser, whose part is what the role may not do, in words of ours: an
    extension that is not trusted is created by its name, and only where the pillar or the live database has it; and
    the role is let into an extension's tables for the rows that the site had added there. Nobody else is in that
    database until it is filled.
    """
    postgres.create(site, name)
    keeper = postgres.keeper(site)
    code, listing, _ = process.run([RESTORE, "--list"], user=keeper, stdin=path)
    if code:
        raise Failed(f"the dump cannot be read: {text.reason(listing)}. Try: another snapshot")
    # An extension's comment is its owner's to write.
    entries = [line for line in listing.splitlines() if line[:1] != ";" and " COMMENT - EXTENSION " not in line]
    kinds = {line: found.groups() for line in entries if (found := _ENTRY.match(line))}
    extensions = {line: what[2] for line, what in kinds.items() if what[0] == "EXTENSION"}
    later, members = [], set()
    if extensions:
        first = [line for line, what in kinds.items() if what[0] == "SCHEMA"]
        _load(site, path, name, first)
        trusted = _trusted(site, extensions.values())
        # In the dump's order: one may need another.
        for line, item in extensions.items():
            if item in trusted:
                _load(site, path, name, [line])
            else:
                schema = _schema(site, path, line)
                postgres.sql(f"CREATE EXTENSION IF NOT EXISTS {quoted(item)} WITH SCHEMA {schema} CASCADE;", name)
        members = set(json.loads(postgres.ask(site, _MEMBERS, name)))
        later = [
            line
            for line, what in kinds.items()
            if what[0] == "TABLE DATA" and {f"{what[1]}.{what[2]}", f"{quoted(what[1])}.{quoted(what[2])}"} & members
        ]
        done = {*first, *extensions, *later}
        entries = [line for line in entries if line not in done]
    _load(site, path, name, entries)
    if later:
        tables, role = ", ".join(sorted(members)), quoted(site.name)
        postgres.sql(f"GRANT INSERT ON {tables} TO {role};", name)
        try:
            _load(site, path, name, later)
        finally:
            postgres.sql(f"REVOKE INSERT ON {tables} FROM {role};", name)
    postgres.ask(site, "ANALYZE;", name)
    postgres.open_to(site, name)


def _trusted(site, names):
    """Which of a dump's extensions the site's role may create. Raises Failed for one that nobody may."""
    wanted = ", ".join(literal(item) for item in names)
    available = json.loads(
        postgres.sql(
            "SELECT coalesce(json_object_agg(name, trusted), '{}') FROM (SELECT name, bool_or(trusted) AS trusted "
            f"FROM pg_available_extension_versions WHERE name IN ({wanted}) GROUP BY name) AS known;"
        )
    )
    missing = sorted(set(names) - set(available))
    if missing:
        raise Failed(
            f"the extension {', '.join(missing)} of the dump is not installed on {host.name()}. "
            "Try: install its package"
        )
    allowed = {*site.facts.get("postgres", {}).get("extensions", []), *_live(site)}
    strange = sorted(item for item, trusted in available.items() if not trusted and item not in allowed)
    if strange:
        raise Failed(
            f"only a superuser creates the extension {', '.join(strange)} of the dump, and {site.slug} has it not. "
            f"Try: `postgres: {{extensions: [{', '.join(strange)}]}}` in the site's pillar, then state.apply"
        )
    return {item for item, trusted in available.items() if trusted}


def _schema(site, path, line):
    """The schema of an extension of a dump, quoted. Raises Failed for an entry that says anything else."""
    code, output, _ = _read(site, path, [line], "--file=-")
    found = None if code else _EXTENSION.search(output)
    if not found:
        raise Failed(f"the dump's entry of an extension cannot be read: {line}. Try: another snapshot")
    return quoted(found[1][1:-1].replace('""', '"') if found[1].startswith('"') else found[1])


def _live(site):
    """The extensions that a superuser gave the live database: no site creates those by itself."""
    if not postgres.exists(site.name):
        return []
    return json.loads(postgres.ask(site, "SELECT coalesce(json_agg(extname), '[]') FROM pg_extension;"))


def _load(site, path, name, entries):
    """Restore some entries of a dump's list, with the rights of the site's role."""
    if not entries:
        return
    way = ["--exit-on-error", "--single-transaction", "--no-owner", "--no-privileges", f"--role={site.name}"]
    code, output, _ = _read(site, path, entries, *way, "--dbname", name)
    if code:
        raise Failed(f"the dump cannot be restored: {text.reason(output)}. Try: another snapshot")


def _read(site, path, entries, *argv):
    """pg_restore over some entries of a dump's list."""
    with tempfile.NamedTemporaryFile("w", dir="/run", prefix="goldenpath-", encoding="utf-8") as chosen:
        chosen.writelines(f"{line}\n" for line in entries)
        chosen.flush()
        os.chmod(chosen.name, 0o644)
        return process.run(
            [RESTORE, *argv, f"--use-list={chosen.name}"], user=postgres.keeper(site), stdin=path, timeout=LONGEST
        )
