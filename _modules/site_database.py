"""
A site's role and database in the host's Postgres, read and made through the Unix socket.

Role, database and operating-system user have one name (``sum-<slug>``), so peer authentication lets a site
in as itself and nobody else, and no password exists.
"""

import json
import logging
import re

from salt.exceptions import CommandExecutionError

log = logging.getLogger(__name__)

_NAME = re.compile(r"sum-[a-z][a-z0-9-]{0,58}\Z")
# Databases belong to a role that nobody can be: no site changes or drops its own. Only pg_catalog's names are known
# to a session of root's, whatever the database says of its search path.
OWNER = "goldenpath"
_ENV = {"PGOPTIONS": "-c search_path=pg_catalog -c client_min_messages=warning -c statement_timeout=5min"}
# One round trip: everything the state compares.
_READ = """
SELECT json_build_object(
  'role', (SELECT json_build_object('login', rolcanlogin, 'superuser', rolsuper, 'createdb', rolcreatedb,
                                    'createrole', rolcreaterole) FROM pg_roles WHERE rolname = '{name}'),
  'limits', (SELECT json_build_object(
               'connections', rolconnlimit,
               'temporary', (SELECT max(split_part(item, '=', 2)::bigint) FROM unnest(rolconfig) AS item
                             WHERE item ~ '^temp_file_limit=[0-9]+$'),
               'size', coalesce((SELECT pg_database_size(oid) / 1024 FROM pg_database WHERE datname = '{name}'), 0))
             FROM pg_roles WHERE rolname = '{name}'),
  'owner', (SELECT rolcanlogin FROM pg_roles WHERE rolname = '{owner}'),
  'open', (SELECT coalesce(json_agg(datname ORDER BY datname), '[]') FROM pg_database
           WHERE datname IN ('postgres', 'template1') AND has_database_privilege('public', oid, 'CONNECT')),
  'database', (SELECT json_build_object('owner', pg_get_userbyid(datdba),
                                        'encoding', pg_encoding_to_char(encoding),
                                        'public', has_database_privilege('public', oid, 'CONNECT'),
                                        'granted', (SELECT count(*) = 3 FROM pg_roles, aclexplode(datacl)
                                                    WHERE rolname = '{name}' AND grantee = pg_roles.oid),
                                        'settings', (SELECT count(*) FROM pg_db_role_setting
                                                     WHERE setdatabase = pg_database.oid AND setrole = 0))
               FROM pg_database WHERE datname = '{name}'))
"""
_ROLE = {"login": True, "superuser": False, "createdb": False, "createrole": False}
# Kilobytes that the sorts of a session may write, at least; never less than the whole database.
_TEMPORARY = 5 << 20
# What a site left on its database becomes its role's: it works as before, and no session of root's meets it.
_MOVE_SETTINGS = """
SELECT format('ALTER ROLE %I SET %s TO %s;', '{name}', split_part(item, '=', 1),
              CASE WHEN split_part(item, '=', 1) IN ('search_path', 'DateStyle', 'temp_tablespaces')
                   THEN substr(item, strpos(item, '=') + 1)
                   ELSE quote_literal(substr(item, strpos(item, '=') + 1)) END)
FROM pg_db_role_setting, unnest(setconfig) AS item
WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = '{name}') AND setrole = 0
  AND NOT EXISTS (SELECT FROM pg_db_role_setting AS own, unnest(own.setconfig) AS known
                  WHERE own.setrole = '"{name}"'::regrole AND split_part(known, '=', 1) = split_part(item, '=', 1))
\\gexec
ALTER DATABASE "{name}" RESET ALL;
"""
# Other people's roles stay let in by name.
_CLOSE = """
SELECT format('GRANT CONNECT ON DATABASE %I TO %I;', '{database}', rolname) FROM pg_roles
WHERE rolcanlogin AND NOT rolsuper AND rolname !~ '^(sum|dmp)-' \\gexec
REVOKE ALL ON DATABASE {database} FROM PUBLIC;
"""


# `public` is the site's, with all that is in it. In one transaction: a new owner takes the rights of the last one.
_OWN = """\\connect "{name}"
SELECT 'ALTER SCHEMA public OWNER TO "{name}";' FROM pg_namespace WHERE nspname = 'public' \\gexec
\\connect postgres
BEGIN;
ALTER DATABASE "{name}" OWNER TO {owner};
GRANT CONNECT, CREATE, TEMPORARY ON DATABASE "{name}" TO "{name}";
COMMIT;"""
# The script of an extension is run by a superuser, and finds names: none of them may be the site's.
_EXTEND = """\\connect "{name}"
DO $$ BEGIN
  IF EXISTS (SELECT FROM pg_proc WHERE proowner = '"{name}"'::regrole UNION ALL
             SELECT FROM pg_operator WHERE oprowner = '"{name}"'::regrole) THEN
    RAISE EXCEPTION '{name} has functions or operators of its own, which a superuser must not meet';
  END IF;
END $$;
CREATE EXTENSION IF NOT EXISTS "{extension}" WITH SCHEMA public CASCADE;
\\connect postgres"""


def _psql(statements):
    """
    Run statements as the superuser ``postgres``, each on its own, stopping at the first error.
    """
    result = __salt__["cmd.run_all"](
        ["psql", "--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--set=ON_ERROR_STOP=1"],
        runas="postgres",
        cwd="/",
        env=_ENV,
        stdin="\n".join(statements),
        python_shell=False,
        ignore_retcode=True,
    )
    if result["retcode"]:
        reason = (result["stderr"].strip().splitlines() or ["no message"])[0]
        raise CommandExecutionError(
            f"Postgres on {__grains__['id']} refused: {reason}. Try: systemctl status 'postgresql@*'"
        )
    return result["stdout"]


def _checked(name):
    if not _NAME.match(name):
        raise CommandExecutionError(f"{name!r} is no site's database name. Try: sum-<slug>")
    return name


def get(name):
    """
    What Postgres has under a site's name.

    name (str)
        Role and database: ``sum-<slug>``.

    Returns a dictionary with ``role`` (attributes, or ``None``), ``limits`` (of the role, in kilobytes), ``owner``
    (whether the role that owns databases may log in, or ``None``), ``open`` (which of ``postgres`` and ``template1``
    everyone may connect to) and ``database`` (owner, encoding, whether everyone may connect, whether the site has its
    rights, how many settings of its own it has, or ``None``). Raises ``CommandExecutionError`` when Postgres does not
    answer.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 site_database.get sum-acme-kitchens
    """
    return json.loads(_psql([_READ.format(name=_checked(name), owner=OWNER) + ";"]))


def _extensions(name):
    return _psql([f'\\connect "{name}"', "SELECT extname FROM pg_extension;"]).split()


def _limited(name, limits, connections):
    """
    What a role may have of the server, so that root and the neighbours get in and find room.
    """
    limits, steps = limits or {"connections": -1, "temporary": None, "size": 0}, []
    if connections is not None and limits["connections"] != connections:
        steps.append(("connection limit", f'ALTER ROLE "{name}" CONNECTION LIMIT {int(connections)};'))
    if (limits["temporary"] or 0) < max(_TEMPORARY, limits["size"]):
        most = max(_TEMPORARY, 2 * limits["size"])
        steps.append(("limit of temporary files", f'ALTER ROLE "{name}" SET temp_file_limit = {most};'))
    return steps


def plan(name, extensions=(), connections=None):
    """
    The differences between what a site needs and what Postgres has, as statements that mend them.

    name (str)
        Role and database: ``sum-<slug>``.
    extensions (list)
        Extensions that the database has, also those that only a superuser creates.
    connections (int)
        Connections that the role may have at once; as many as there are where it is left out.

    Returns a list of pairs: a sentence of two or three words, and the SQL statement. Nothing is changed.
    Raises ``CommandExecutionError`` when Postgres does not answer, or when a database of that name has
    another encoding than UTF8, which cannot be mended in place.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 site_database.plan sum-acme-kitchens
    """
    have = get(name)
    role, database = have["role"], have["database"]
    steps = []
    if have["owner"] is not False:
        statement = "ALTER ROLE {} NOLOGIN;" if have["owner"] else "CREATE ROLE {} NOLOGIN;"
        steps.append(("owner of databases", statement.format(OWNER)))
    for each in have["open"]:
        steps.append((f"{each} closed to sites", _CLOSE.format(database=each)))
    if role is None:
        steps.append(("role created", f'CREATE ROLE "{name}" LOGIN;'))
    elif role != _ROLE:
        steps.append(("role attributes", f'ALTER ROLE "{name}" LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE;'))
    steps += _limited(name, have["limits"], connections)
    if database is None:
        steps.append(
            (
                "database created",
                f"CREATE DATABASE \"{name}\" OWNER {OWNER} TEMPLATE template0 ENCODING 'UTF8' "
                "LC_COLLATE 'C.UTF-8' LC_CTYPE 'C.UTF-8';",
            )
        )
    elif database["encoding"] != "UTF8":
        raise CommandExecutionError(
            f"The database {name} on {__grains__['id']} is encoded {database['encoding']}, a site needs UTF8. "
            f"Try: dump it, drop it, and apply again"
        )
    elif database["settings"] and database["owner"] != OWNER:
        steps.append(("settings of the database are its role's", _MOVE_SETTINGS.format(name=name)))
    if database is None or database["public"]:
        # Otherwise every other site's role may connect to it.
        steps.append(("closed to other roles", f'REVOKE ALL ON DATABASE "{name}" FROM PUBLIC;'))
    if database and database["owner"] == OWNER and not database["granted"]:
        steps.append(("rights", f'GRANT CONNECT, CREATE, TEMPORARY ON DATABASE "{name}" TO "{name}";'))
    there = _extensions(name) if database and extensions else []
    missing = [each for each in extensions if each not in there]
    steps += [(f"extension {each}", _EXTEND.format(name=name, extension=each)) for each in missing]
    if database is None or database["owner"] != OWNER:
        # The last step: where one before it fails, all of them are done again.
        steps.append(("database owner", _OWN.format(name=name, owner=OWNER)))
    return steps


def apply(name, extensions=(), connections=None):
    """
    Make a site's role and database as they should be.

    name (str)
        Role and database: ``sum-<slug>``.
    extensions (list)
        Extensions that the database has, also those that only a superuser creates.
    connections (int)
        Connections that the role may have at once; as many as there are where it is left out.

    Returns the sentences of what was changed, an empty list where nothing was. Raises
    ``CommandExecutionError`` with Postgres' own reason.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 site_database.apply sum-acme-kitchens
    """
    steps = plan(name, extensions, connections)
    if steps:
        _psql([statement for _, statement in steps])
    return [sentence for sentence, _ in steps]
