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
# One round trip: everything the state compares.
_READ = """
SELECT json_build_object(
  'role', (SELECT json_build_object('login', rolcanlogin, 'superuser', rolsuper, 'createdb', rolcreatedb,
                                    'createrole', rolcreaterole) FROM pg_roles WHERE rolname = '{name}'),
  'database', (SELECT json_build_object('owner', pg_get_userbyid(datdba),
                                        'encoding', pg_encoding_to_char(encoding),
                                        'public', has_database_privilege('public', oid, 'CONNECT'))
               FROM pg_database WHERE datname = '{name}'))
"""
_ROLE = {"login": True, "superuser": False, "createdb": False, "createrole": False}


def _psql(statements):
    """
    Run statements as the superuser ``postgres``, each on its own, stopping at the first error.
    """
    result = __salt__["cmd.run_all"](
        ["psql", "--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--set=ON_ERROR_STOP=1"],
        runas="postgres",
        cwd="/",
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

    Returns a dictionary with ``role`` (attributes, or ``None``) and ``database`` (owner, encoding, and
    whether everyone may connect, or ``None``). Raises ``CommandExecutionError`` when Postgres does not answer.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 site_database.get sum-acme-kitchens
    """
    return json.loads(_psql([_READ.format(name=_checked(name)) + ";"]))


def plan(name):
    """
    The differences between what a site needs and what Postgres has, as statements that mend them.

    name (str)
        Role and database: ``sum-<slug>``.

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
    if role is None:
        steps.append(("role created", f'CREATE ROLE "{name}" LOGIN;'))
    elif role != _ROLE:
        steps.append(("role attributes", f'ALTER ROLE "{name}" LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE;'))
    if database is None:
        steps.append(
            (
                "database created",
                f'CREATE DATABASE "{name}" OWNER "{name}" TEMPLATE template0 ENCODING \'UTF8\' '
                "LC_COLLATE 'C.UTF-8' LC_CTYPE 'C.UTF-8';",
            )
        )
    elif database["encoding"] != "UTF8":
        raise CommandExecutionError(
            f"The database {name} on {__grains__['id']} is encoded {database['encoding']}, a site needs UTF8. "
            f"Try: dump it, drop it, and apply again"
        )
    elif database["owner"] != name:
        steps.append(("database owner", f'ALTER DATABASE "{name}" OWNER TO "{name}";'))
    if database is None or database["public"]:
        # Otherwise every other site's role may connect to it.
        steps.append(("closed to other roles", f'REVOKE ALL ON DATABASE "{name}" FROM PUBLIC;'))
    return steps


def apply(name):
    """
    Make a site's role and database as they should be.

    name (str)
        Role and database: ``sum-<slug>``.

    Returns the sentences of what was changed, an empty list where nothing was. Raises
    ``CommandExecutionError`` with Postgres' own reason.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 site_database.apply sum-acme-kitchens
    """
    steps = plan(name)
    if steps:
        _psql([statement for _, statement in steps])
    return [sentence for sentence, _ in steps]
