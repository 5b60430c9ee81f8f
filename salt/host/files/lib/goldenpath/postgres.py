"""A site's database: dumped with its row counts from one snapshot, verified, restored beside the live one."""

# ruff: noqa: S608  names of sites and their databases, which provisioning has checked
import json
import os
import re
import subprocess
import tempfile

from . import files, host, process, text
from .errors import Failed

# No site can have such a name: a slug has no dot.
PSQL, DUMP, RESTORE = "/usr/bin/psql", "/usr/bin/pg_dump", "/usr/bin/pg_restore"
DRILL, NEW, OLD = ".drill", ".new", ".old"
# How long a dump waits for somebody who holds a table.
LOCK_WAIT = "10min"
# How often a database is exchanged in which somebody is just then.
TRIES = 20

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
_COPY = re.compile(rb"COPY (" + _NAME + rb"\." + _NAME + rb") .*FROM stdin;\n\Z")


def quoted(name):
    """A name as SQL takes it."""
    return '"' + name.replace('"', '""') + '"'


class InUse(Failed):
    """Somebody is connected to a database that must have nobody."""


def sql(statements, database="postgres", user="postgres", timeout=3600):
    """Run statements, each on its own, stopping at the first error; returns the answer. Raises Failed, or InUse."""
    done = process.run(
        [PSQL, "--no-psqlrc", "-qAt", "--set=ON_ERROR_STOP=1", "--dbname", database],
        user=user, text=statements + "\n", timeout=timeout, apart=True,
    )  # fmt: skip
    if done.code:
        kind = InUse if "being accessed by other users" in done.errors else Failed
        raise kind(f"Postgres refused: {text.reason(done.errors)}. Try: systemctl status 'postgresql@*'")
    return done.output.strip()


def exists(name):
    """Whether there is a database of this name."""
    return sql(f"SELECT 1 FROM pg_database WHERE datname = '{name}';") == "1"


def size_of(name):
    """The size of a database, 0 where there is none."""
    return int(sql(f"SELECT coalesce((SELECT pg_database_size(oid) FROM pg_database WHERE datname = '{name}'), 0);"))


def applied(site):
    """The migrations that a site's database has, in their order; none where Django was never there."""
    if sql("SELECT to_regclass('django_migrations');", site.name, site.name, timeout=15) == "":
        return []
    return sql("SELECT app || '.' || name FROM django_migrations ORDER BY id;", site.name, site.name, 15).splitlines()


def size(site):
    """The bytes of a site's database, as its own user is told. Raises Failed where Postgres does not let it in."""
    try:
        return int(sql(f"SELECT pg_database_size({literal(site.name)});", site.name, site.name, timeout=15))
    except Failed as exc:
        why = text.reason(str(exc).split(": ", 1)[1])
        raise Failed(f"Postgres does not let {site.slug} in: {why}") from None


def drop(name):
    """Drop a database that is not live, with whoever is connected to it."""
    if "." not in name:
        raise Failed(f"{name} is a live database and is not dropped")
    sql(f"DROP DATABASE IF EXISTS {quoted(name)} WITH (FORCE);")


def create(site, name):
    """An empty database beside the live one, as provisioning makes them: the site's own, closed to others."""
    drop(name)
    locale = sql(f"SELECT datcollate || ' ' || datctype FROM pg_database WHERE datname = '{site.name}';").split() or [
        "C.UTF-8",
        "C.UTF-8",
    ]
    sql(
        f"CREATE DATABASE {quoted(name)} OWNER {quoted(site.name)} TEMPLATE template0 ENCODING 'UTF8' "
        f"LC_COLLATE '{locale[0]}' LC_CTYPE '{locale[1]}';\n"
        f"REVOKE ALL ON DATABASE {quoted(name)} FROM PUBLIC;"
    )


def counts(site, name):
    """The rows of every table of a database: {table: rows}."""
    return dict(json.loads(line) for line in sql(_COUNTS, name, site.name).splitlines())


def dump(site, path, wait=None):
    """
    Dump the live database into a file, and count every table's rows in the very same snapshot.

    wait: how long for somebody who holds a table.
    Uncompressed, so that restic finds what is unchanged since yesterday; it compresses itself.
    Returns {"tables": {table: rows}, "extensions": [name, …], "members": [table of an extension, …],
    "size": bytes of the database}.
    """
    name, wait = site.name, wait or LOCK_WAIT
    # Whatever it holds, it cannot eat what Postgres and Redis need to go on writing.
    most = files.spare(os.path.dirname(path))
    argv = [PSQL, "--no-psqlrc", "-qAt", "--set=ON_ERROR_STOP=1", "--dbname", name]
    with tempfile.TemporaryFile() as errors:
        session = process.start(
            argv, user=name, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        try:
            session.stdin.write(
                "SET idle_in_transaction_session_timeout = 0;\nSET statement_timeout = 0;\n"
                f"SET lock_timeout = '{wait}';\n"
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
                [DUMP, "--format=custom", "--compress=0", f"--snapshot={lines[0]}",
                 f"--lock-wait-timeout={wait}", "--dbname", name],
                user=name, stdout=path, most=most,
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
    with open(path, "rb") as source, tempfile.TemporaryFile() as errors:
        reader = process.start(
            [RESTORE, "--file=-"], user=site.name, stdin=source, stdout=subprocess.PIPE, stderr=errors
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


def data_directory():
    """Where Postgres keeps its databases."""
    return sql("SHOW data_directory;")


def restore(site, path, name):
    """
    Fill a new database beside the live one from a dump, as the site's own role and in one transaction.

    Only what is not the role's to write is Postgres' own part: extensions that are not trusted, and the rows that a
    site added to an extension's tables.
    """
    create(site, name)
    code, listing, _ = process.run([RESTORE, "--list"], user=site.name, stdin=path)
    if code:
        raise Failed(f"the dump cannot be read: {text.reason(listing)}. Try: another snapshot")
    # An extension's comment is its owner's to write.
    entries = [line for line in listing.splitlines() if line[:1] != ";" and " COMMENT - EXTENSION " not in line]
    kinds = {line: found.groups() for line in entries if (found := _ENTRY.match(line))}
    extensions = {line: what[2] for line, what in kinds.items() if what[0] == "EXTENSION"}
    later = []
    if extensions:
        names = ", ".join(literal(item) for item in extensions.values())
        available = json.loads(
            sql(
                "SELECT coalesce(json_object_agg(name, trusted), '{}') FROM (SELECT name, bool_or(trusted) AS trusted "
                f"FROM pg_available_extension_versions WHERE name IN ({names}) GROUP BY name) AS known;"
            )
        )
        missing = sorted(set(extensions.values()) - set(available))
        if missing:
            raise Failed(
                f"the extension {', '.join(missing)} of the dump is not installed on {host.name()}. "
                "Try: install its package"
            )
        first = [line for line, what in kinds.items() if what[0] == "SCHEMA"]
        _load(path, name, first, site.name)
        # In the dump's order: one may need another.
        for line, item in extensions.items():
            _load(path, name, [line], site.name if available[item] else "postgres")
        members = set(json.loads(sql(_MEMBERS, name)))
        later = [
            line
            for line, what in kinds.items()
            if what[0] == "TABLE DATA" and {f"{what[1]}.{what[2]}", f"{quoted(what[1])}.{quoted(what[2])}"} & members
        ]
        done = {*first, *extensions, *later}
        entries = [line for line in entries if line not in done]
    _load(path, name, entries, site.name)
    _load(path, name, later, "postgres")
    sql("ANALYZE;", name, site.name)


def _load(path, name, entries, user):
    """Restore some entries of a dump's list."""
    if not entries:
        return
    with tempfile.NamedTemporaryFile("w", dir="/run", prefix="goldenpath-", encoding="utf-8") as chosen:
        chosen.writelines(f"{line}\n" for line in entries)
        chosen.flush()
        os.chmod(chosen.name, 0o644)
        code, output, _ = process.run(
            [RESTORE, "--exit-on-error", "--single-transaction", "--no-owner", "--no-privileges",
             f"--use-list={chosen.name}", "--dbname", name],
            user=user, stdin=path,
        )  # fmt: skip
    if code:
        raise Failed(f"the dump cannot be restored: {text.reason(output)}. Try: another snapshot")


def alone(site):
    """Nobody else is in the live database: whoever holds a lock there would keep a dump waiting."""
    sql(f"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = {literal(site.name)};")


def unsaved(site):
    """What the live database has and no dump of it: settings of the database, and other roles' rights. Words."""
    name = site.name
    if not exists(name):
        return []
    settings = sql(
        "SELECT coalesce(string_agg(split_part(item, '=', 1), ', '), '') FROM pg_db_role_setting, unnest(setconfig) AS "
        f"item WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = {literal(name)});"
    )
    roles = sql(
        "SELECT coalesce(string_agg(DISTINCT rolname, ', '), '') FROM (SELECT relacl AS acl FROM pg_class UNION ALL "
        "SELECT nspacl FROM pg_namespace UNION ALL SELECT datacl FROM pg_database WHERE datname = current_database()) "
        "AS acls, aclexplode(acl) JOIN pg_roles ON oid = grantee "
        f"WHERE rolname NOT IN ('postgres', {literal(name)}) AND rolname !~ '^pg_';",
        name,
    )
    words = [f"the database's own settings ({settings})"] if settings else []
    return words + ([f"the rights of other roles ({roles})"] if roles else [])


def literal(text):
    """A text as SQL takes it."""
    return "'" + text.replace("'", "''") + "'"


def swap(site, back=False):
    """
    Exchange the live database and the one beside it in one transaction: at every moment there is one, whole.

    Without ``back`` the new one becomes live and the live one becomes the old one, with it the reverse.
    """
    name = site.name
    aside, comes = (NEW, OLD) if back else (OLD, NEW)
    renames = ""
    if exists(name):
        renames += f"ALTER DATABASE {quoted(name)} RENAME TO {quoted(name + aside)};\n"
    renames += f"ALTER DATABASE {quoted(name + comes)} RENAME TO {quoted(name)};\n"
    for attempt in range(TRIES):
        try:
            sql(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname IN "
                f"('{name}', '{name}{comes}');\nBEGIN;\n{renames}COMMIT;"
            )
            return
        except InUse:
            # Somebody connected in between.
            if attempt == TRIES - 1:
                raise
