"""
A site's environment file ``/srv/sum/<slug>/.env``: what its settings read, made from the pillar. It is root's, and of
mode 0640: the site reads it and does not write it. Each release has a copy of its own, as it was when that was made;
what is written here is in service when a release is made of it.

The file is read by systemd (``EnvironmentFile=``), by ``sh`` (``. .env``) and by the deploy. Its values are
double-quoted with the four escapes that all three agree on (systemd.exec(5), POSIX shell, section 2.2.3).
"""

import glob
import os
import re
import secrets

from salt.exceptions import CommandExecutionError

_LINE = re.compile(r'^([A-Za-z_][A-Za-z0-9_]*)="((?:[^"\\]|\\.)*)"$', re.MULTILINE | re.DOTALL)
# Of a release, and of a change that no release has yet. The same names: goldenpath/site.py.
VARIABLES, OWED = "site.env", "restart.owed"
_HEADER = "# Managed by Golden Path: local changes are overwritten, DJANGO_SECRET_KEY is kept.\n"


def dump(values):
    """
    Write environment variables as the text of an environment file.

    values (dict)
        Names and string values; a value may hold quotes, dollars, backslashes and line ends.

    Returns the text, sorted by name.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 site_env.dump '{"EMAIL_HOST": "smtp.example"}'
    """
    lines = []
    for name in sorted(values):
        value = re.sub(r'(["\\$`])', r"\\\1", values[name])
        lines.append(f'{name}="{value}"\n')
    return _HEADER + "".join(lines)


def load(text):
    """
    Read the text of an environment file that ``dump`` wrote.

    text (str)
        The file's text.

    Returns a dictionary of names and values. Lines of another form are passed over.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 site_env.load 'EMAIL_HOST="smtp.example"'
    """
    return {name: re.sub(r'\\(["\\$`])', r"\1", value) for name, value in _LINE.findall(text)}


def path(slug):
    """
    Where a site's environment file lies.

    slug (str)
        The site.

    Returns the absolute path.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 site_env.path acme-kitchens
    """
    return f"/srv/sum/{slug}/.env"


def wanted(slug, site, have=None):
    """
    What a site's environment file should hold.

    slug (str)
        The site.
    site (dict)
        Its pillar, with the defaults filled in.
    have (dict)
        What the file holds now; its ``DJANGO_SECRET_KEY`` is kept where the pillar names none.

    Returns a dictionary of names and values.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 state.apply site
    """
    name = f"sum-{slug}"
    root = f"/srv/sum/{slug}"
    own = site["redis"].get("own")
    redis = __salt__["redis_server.url"](slug) if own else "redis://127.0.0.1:6379"
    key = site["secrets"].get("DJANGO_SECRET_KEY") or (have or {}).get("DJANGO_SECRET_KEY")
    key = key or secrets.token_urlsafe(50)
    hosts, origins = ",".join(site["domains"]), ",".join(f"https://{domain}" for domain in site["domains"])
    # The usual spellings, for sites that were not written for this tree. The pillar's own value counts more. The
    # socket's folder as libpq's own parameter: what parses such addresses for Django hands it on.
    usual = {
        "SECRET_KEY": key,
        "DATABASE_URL": f"postgres://{name}@/{name}?host=/var/run/postgresql",
        "ALLOWED_HOSTS": hosts,
        "DJANGO_ALLOWED_HOSTS": hosts,
        "CSRF_TRUSTED_ORIGINS": origins,
        "DJANGO_CSRF_TRUSTED_ORIGINS": origins,
        "REDIS_URL": f"{redis}/{site['redis']['cache']}",
        "CELERY_BROKER_URL": f"{redis}/{site['redis']['broker']}",
        "CELERY_RESULT_BACKEND": f"{redis}/{site['redis']['broker']}",
    }
    own = {
        word: value if value is None else value.replace("{redis_base}", redis) for word, value in site["env"].items()
    }
    values = {**usual, **own, **site["secrets"], "DJANGO_SECRET_KEY": key}
    values.update(
        {
            "DJANGO_SETTINGS_MODULE": site["settings"],
            "SITE_DOMAIN": site["domains"][0],
            "DJANGO_DB_NAME": name,
            "DJANGO_DB_USER": name,
            "DJANGO_DB_PASSWORD": "",
            "DJANGO_DB_HOST": "/var/run/postgresql",
            "DJANGO_DB_PORT": "5432",
            "DJANGO_STATIC_ROOT": f"{root}/static",
            "DJANGO_MEDIA_ROOT": f"{root}/media",
        }
    )
    values.update({word: values.get(name) for word, name in site["env_names"].items()})
    return {word: value for word, value in values.items() if value is not None}


def without(slug):
    """
    The releases of a site that have no environment file of their own, as those that were made before each had one.

    slug (str)
        The site.

    Returns a sorted list of their ids.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 site_env.without acme-kitchens
    """
    made = glob.glob(f"{os.path.dirname(path(slug))}/releases/*/release.env")
    folders = sorted(map(os.path.dirname, made))
    return [os.path.basename(folder) for folder in folders if not os.path.exists(f"{folder}/{VARIABLES}")]


def read(slug):
    """
    What a site's environment file holds now. Its values are secrets: use it from modules and states.

    slug (str)
        The site.

    Returns a dictionary, empty where there is no file. Raises ``CommandExecutionError`` when it cannot be read.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 state.apply site
    """
    try:
        with open(path(slug), encoding="utf-8") as stream:
            return load(stream.read())
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as exc:
        reason = getattr(exc, "strerror", None) or "it is not UTF-8"
        raise CommandExecutionError(
            f"{path(slug)} on {__grains__['id']} cannot be read: {reason}. Try: ls -l {path(slug)}"
        ) from exc


def facts(slug):
    """
    Owner and mode of a site's environment file.

    slug (str)
        The site.

    Returns ``{"mode": "0640", "user": …, "group": …}``, or an empty dictionary where there is no file.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 site_env.facts acme-kitchens
    """
    if not os.path.exists(path(slug)):
        return {}
    return {
        "mode": __salt__["file.get_mode"](path(slug)),
        "user": __salt__["file.get_user"](path(slug)),
        "group": __salt__["file.get_group"](path(slug)),
    }


def write(slug, values):
    """
    Replace a site's environment file in one step, of mode 0640, root's and its group the site's. Releases that have
    none of their own get the one of before.

    slug (str)
        The site.
    values (dict)
        Names and values.

    Returns ``True``. Raises ``CommandExecutionError`` when it cannot be written.

    CLI Example:

    .. code-block:: bash

        salt-ssh web1 state.apply site
    """
    target = path(slug)
    folder = os.path.dirname(target)
    try:
        for release in without(slug):
            # With what it runs now, which the tree of before kept while another one was not proven.
            kept = f"{target}.before" if os.path.exists(f"{target}.before") else target
            with open(kept, encoding="utf-8") as stream:
                _put(slug, f"{folder}/releases/{release}/{VARIABLES}", stream.read)
        if os.path.lexists(f"{folder}/current") and read(slug) != values:
            # First: whoever is killed in between has only a release too many.
            with open(f"{folder}/{OWED}", "w", encoding="utf-8"):
                pass
        _put(slug, target, lambda: dump(values))
    except (OSError, TypeError, UnicodeDecodeError) as exc:
        raise CommandExecutionError(
            f"{target} on {__grains__['id']} cannot be written: {exc}. Try: df -h {os.path.dirname(target)}"
        ) from exc
    return True


def _put(slug, target, text):
    with open(os.open(f"{target}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as out:
        os.fchown(out.fileno(), 0, __salt__["file.group_to_gid"](f"sum-{slug}"))
        os.fchmod(out.fileno(), 0o640)
        out.write(text())
        out.flush()
        os.fsync(out.fileno())
    os.replace(f"{target}.new", target)
