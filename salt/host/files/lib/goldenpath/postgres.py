"""
A site's database in the host's Postgres.

A superuser's session stays in the database ``postgres``, where no site can leave anything, but for what is said at the
functions that need one elsewhere. What a site could have a hand in is asked as its own role, by a Unix user of its own
that no site is (``keeper``), with a fixed search path and a time limit.
"""

# ruff: noqa: S608  names of sites and their databases, which provisioning has checked
import json

from . import host, process, text
from .errors import Failed

PSQL, USERADD = "/usr/bin/psql", "/usr/sbin/useradd"
# No site can have such a name: a slug has no dot.
DRILL, NEW, OLD = ".drill", ".new", ".old"
# Databases belong to a role that nobody can be, so that no site changes or drops its own.
OWNER = "goldenpath"
# What a session of root's does not leave to a database's settings.
SETTINGS = {
    "search_path": "pg_catalog",
    "client_min_messages": "warning",
    "default_transaction_read_only": "off",
    "idle_in_transaction_session_timeout": "0",
    "lock_timeout": "0",
    "row_security": "off",
    "statement_timeout": "1h",
}
# The sites whose keeper was seen by this process.
_KEPT = set()
# How often a database is exchanged in which somebody is just then.
TRIES = 20


def quoted(name):
    """A name as SQL takes it."""
    return '"' + name.replace('"', '""') + '"'


def literal(text):
    """A text as SQL takes it."""
    return "'" + text.replace("'", "''") + "'"


class InUse(Failed):
    """Somebody is connected to a database that must have nobody."""


def options(**more):
    """The environment of a program that asks Postgres for root: settings that no database's own ones change."""
    return {"PGOPTIONS": " ".join(f"-c {name}={value}" for name, value in {**SETTINGS, **more}.items())}


def sql(statements, database="postgres", user="postgres", timeout=3600, role=None):
    """
    Run statements, each on its own, stopping at the first error. role: as which one they are run.

    Returns the answer. Raises Failed, or InUse.
    """
    first = f"SET ROLE {quoted(role)};\n" if role else ""
    # What it says is compared with words of ours; only a superuser chooses the language.
    more = {"lc_messages": "C"} if user == "postgres" else {}
    done = process.run(
        [PSQL, "--no-psqlrc", "-qAt", "--set=ON_ERROR_STOP=1", "--dbname", database],
        user=user, text=f"{first}{statements}\n", timeout=timeout, apart=True, env=options(**more),
    )  # fmt: skip
    if done.code:
        kind = InUse if "being accessed by other users" in done.errors else Failed
        raise kind(f"Postgres refused: {text.reason(done.errors)}. Try: systemctl status 'postgresql@*'")
    return done.output.strip()


def ask(site, statements, database=None, timeout=3600):
    """Run statements with a site's own rights, in its database or another one of it. Returns the answer."""
    return sql(statements, database or site.name, keeper(site), timeout, role=site.name)


def keeper(site):
    """
    The Unix user and role that dumps a site's database and reads dumps back; made where it is not there. It has the
    rights of the site's role and no others, and is nobody that a site could stop, trace or take a file from.
    """
    name = f"dmp-{site.slug}"
    if name in _KEPT:
        return name
    if not process.known(name):
        made = process.run(
            [USERADD, "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent",
             "--shell", "/usr/sbin/nologin", "--comment", f"dumps of {site.slug}", name]
        )  # fmt: skip
        if made.code:
            raise Failed(f"the user {name} cannot be made: {text.reason(made.output)}. Try: getent passwd")
    known = sql(
        f"SELECT (SELECT pg_has_role(oid, {literal(site.name)}, 'MEMBER') FROM pg_roles WHERE rolname = "
        f"{literal(name)}), (SELECT has_database_privilege({literal(name)}, oid, 'CONNECT') FROM pg_database "
        f"WHERE datname = {literal(site.name)} AND EXISTS (SELECT FROM pg_roles WHERE rolname = {literal(name)}));"
    )
    if known not in ("t|t", "t|"):
        there = f"WHERE EXISTS (SELECT FROM pg_database WHERE datname = {literal(site.name)})"
        sql(
            f"SELECT {literal(f'CREATE ROLE {quoted(name)} LOGIN NOINHERIT')} "
            f"WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {literal(name)}) \\gexec\n"
            f"GRANT {quoted(site.name)} TO {quoted(name)};\n"
            f"SELECT {literal(f'GRANT CONNECT ON DATABASE {quoted(site.name)} TO {quoted(name)}')} {there} \\gexec"
        )
    _KEPT.add(name)
    return name


def exists(name):
    """Whether there is a database of this name."""
    return sql(f"SELECT 1 FROM pg_database WHERE datname = {literal(name)};") == "1"


def size_of(name):
    """The size of a database, 0 where there is none."""
    return int(
        sql(f"SELECT coalesce((SELECT pg_database_size(oid) FROM pg_database WHERE datname = {literal(name)}), 0);")
    )


def data_directory():
    """Where Postgres keeps its databases."""
    return sql("SHOW data_directory;")


def applied(site):
    """
    The migrations that a site's database has, in their order; none where Django was never there. Of a site that keeps
    its tables in a schema of its own choice, the one that comes first in its search path counts.
    """
    found = ask(
        site,
        "SELECT format('%I.%I', nspname, relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE relname = 'django_migrations' AND relkind IN ('r', 'p') ORDER BY "
        "array_position(ARRAY(SELECT trim(both '\" ' FROM part) FROM pg_db_role_setting, unnest(setconfig) AS item, "
        "regexp_split_to_table(split_part(item, '=', 2), ',') AS part WHERE item LIKE 'search_path=%' AND setrole = "
        f"{literal(site.name)}::regrole), nspname::text), nspname <> 'public', nspname LIMIT 1;",
        timeout=15,
    )
    if not found:
        return []
    return ask(site, f"SELECT app || '.' || name FROM {found} ORDER BY id;", timeout=15).splitlines()


def invalid_indexes(site):
    """Indexes of a site that a broken CREATE INDEX CONCURRENTLY left, with their schemas."""
    found = ask(
        site,
        "SELECT format('%I.%I', nspname, relname) FROM pg_index JOIN pg_class c ON c.oid = indexrelid "
        "JOIN pg_namespace n ON n.oid = c.relnamespace WHERE NOT indisvalid ORDER BY 1;",
        timeout=15,
    )
    return found.splitlines()


def size(site):
    """The bytes of a site's database. Raises Failed where Postgres does not let the site in."""
    name = literal(site.name)
    try:
        told = sql(
            f"SELECT (SELECT rolcanlogin FROM pg_roles WHERE rolname = {name}), (SELECT has_database_privilege({name}, "
            f"oid, 'CONNECT') FROM pg_database WHERE datname = {name} AND EXISTS (SELECT FROM pg_roles WHERE rolname = "
            f"{name})), (SELECT pg_database_size(oid) FROM pg_database WHERE datname = {name});",
            timeout=15,
        )
    except Failed as exc:
        why = text.reason(str(exc).split(": ", 1)[1])
        raise Failed(f"Postgres does not let {site.slug} in: {why}") from None
    login, connect, bytes_ = told.split("|")
    if not bytes_:
        why = f"there is no database {site.name}"
    elif login != "t":
        why = f"the role {site.name} {'may not log in' if login else 'does not exist'}"
    elif connect != "t":
        why = f"the role {site.name} may not connect to its database"
    else:
        return int(bytes_)
    raise Failed(f"Postgres does not let {site.slug} in: {why}. Try: {host.command('state.apply postgres')}")


def drop(name, live=False):
    """
    Drop a database, with whoever is connected to it.

    live
        a site's live one, too, which nothing but the site's removal means (bool)
    """
    if "." not in name and not live:
        raise Failed(f"{name} is a live database and is not dropped")
    sql(f"DROP DATABASE IF EXISTS {quoted(name)} WITH (FORCE);")


def create(site, name):
    """
    An empty database beside the live one. Nobody but the keeper gets in before ``open_to`` the site: what is filled
    there cannot be met by what the site does meanwhile.
    """
    drop(name)
    locale = sql(f"SELECT datcollate || ' ' || datctype FROM pg_database WHERE datname = {literal(site.name)};").split()
    collate, ctype = locale or ["C.UTF-8", "C.UTF-8"]
    role = quoted(site.name)
    sql(
        f"SELECT 'CREATE ROLE {OWNER} NOLOGIN' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{OWNER}') "
        "\\gexec\n"
        f"CREATE DATABASE {quoted(name)} OWNER {OWNER} TEMPLATE template0 ENCODING 'UTF8' "
        f"LC_COLLATE {literal(collate)} LC_CTYPE {literal(ctype)};\n"
        f"REVOKE ALL ON DATABASE {quoted(name)} FROM PUBLIC;\n"
        f"GRANT CREATE, TEMPORARY ON DATABASE {quoted(name)} TO {role};\n"
        f"GRANT CONNECT ON DATABASE {quoted(name)} TO {quoted(keeper(site))};"
    )
    # It is empty: there is nothing of the site's that a superuser could meet.
    sql(f"ALTER SCHEMA public OWNER TO {role};", name)


def open_to(site, name):
    """Let the site into a database of it."""
    sql(f"GRANT CONNECT ON DATABASE {quoted(name)} TO {quoted(site.name)};")


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
    ours = ", ".join(map(literal, ("postgres", OWNER, name, keeper(site))))
    roles = ask(
        site,
        "SELECT coalesce(json_agg(DISTINCT rolname), '[]') FROM (SELECT relacl AS acl FROM pg_class UNION ALL "
        "SELECT nspacl FROM pg_namespace UNION ALL SELECT datacl FROM pg_database WHERE datname = current_database()) "
        "AS acls, aclexplode(acl) JOIN pg_roles ON oid = grantee "
        f"WHERE rolname NOT IN ({ours}) AND rolname !~ '^pg_';",
    )
    words = [f"the database's own settings ({settings})"] if settings else []
    others = ", ".join(json.loads(roles))
    return words + ([f"the rights of other roles ({others})"] if others else [])


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
                f"({literal(name)}, {literal(name + comes)});\nBEGIN;\n{renames}COMMIT;"
            )
            return
        except InUse:
            # Somebody connected in between.
            if attempt == TRIES - 1:
                raise
