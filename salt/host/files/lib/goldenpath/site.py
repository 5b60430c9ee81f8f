"""A site: where its parts lie, what is live, and what provisioning wrote down about it."""

import contextlib
import glob
import grp
import html
import os
import pwd
import urllib.parse

from . import env, files, host, text
from .errors import Failed, Refused

SRV = "/srv/sum"
# The same without links: salt/caddy/files/web.mount.
WEB = "/opt/goldenpath/web"
# Files of a site's folder whose form is a contract with hosts of any age.
LOCK = "deploy.lock"
HISTORY = "releases.jsonl"
# What changed since the live release was made is not in service yet.
OWED = "restart.owed"
# The variables of a release, as they were when it was made. The same name: _modules/site_env.py.
VARIABLES = "site.env"
# Of hosts of before that: with what the live release ran while another environment was not yet proven.
BEFORE = ".env.before"
MAINTENANCE = "maintenance"
# What visitors read instead of the usual words, where an operator has some.
PAGE = "maintenance.html"
_PAGE = "<!doctype html><html><meta charset=utf-8><title>Back soon</title><p>{words}</p></html>\n"
OPERATOR, OURS = "operator", "deploy"
# What a host knows of a site without a pillar: what it was provisioned with, and what a deploy needs.
_PROVISIONED = ("domains", "health", "tls", "celery", "redis", "postgres", "workers", "limits", "max_body", "wsgi",
                "processes", "schedules", "media")  # fmt: skip
_RELEASED = ("repo", "ref", "directory", "project", "settings", "requirements", "dependencies", "python", "migrations",
             "env_names", "build", "release", "asgi", "drain")  # fmt: skip


class Site:
    """
    One site of this host.

    slug: its name. facts: its pillar, or what ``/etc/goldenpath/sites/<slug>.json`` has of it. written: what that file
    has, where the facts are a pillar's.
    """

    def __init__(self, slug, facts, written=None):
        self.slug, self.facts, self.written = slug, facts, written or {}
        self.root = f"{SRV}/{slug}"
        # Unix user, Postgres role and database have one name.
        self.name = f"sum-{slug}"

    @property
    def slice(self):
        """The slice of all that runs of it. A hyphen would make it a part of another one (systemd.slice(5))."""
        return "sum-" + self.slug.replace("-", "\\x2d") + ".slice"

    def path(self, *parts):
        """A path below the site's folder."""
        return os.path.join(self.root, *parts)

    def release(self, release, *parts):
        """A path below a release's folder."""
        return os.path.join(self.root, "releases", release, *parts)

    @property
    def current(self):
        """The live release's id, or None."""
        return files.linked(self.path("current"))

    @property
    def previous(self):
        """The id of the release that was live before, or None."""
        return files.linked(self.path("previous"))

    def point(self, current, previous=None):
        """``current``, and where it is given ``previous``, name these releases; each by one rename."""
        if previous:
            files.link(f"releases/{previous}", self.path("previous"))
        files.link(f"releases/{current}", self.path("current"))
        self.serve()

    def unserved(self):
        """What Caddy should read as static files and does not: names of links, and where they should lead."""
        wanted = {"served": self.current, "served-before": self.previous}
        places = {name: f"{WEB}/{self.slug}/releases/{release}/static" for name, release in wanted.items() if release}
        return {name: place for name, place in places.items() if files.target(self.path(name)) != place}

    def serve(self):
        """Caddy reads the static files of these releases, where it follows no link of the site's."""
        for name, place in self.unserved().items():
            files.link(place, self.path(name))

    def lender(self, release):
        """The release in whose folder a release's checkout lies: another one's, where only its environment is new."""
        lent = files.target(self.release(release, "src"))
        return os.path.basename(os.path.dirname(lent)) if lent else release

    @property
    def domain(self):
        """The first domain, by which its own questions are asked."""
        return self.facts["domains"][0]

    @property
    def celery(self):
        """Which of Celery's programs run: ``{"worker": bool, "beat": bool}``."""
        return {"worker": False, "beat": False, **self.facts.get("celery", {})}

    def application(self):
        """What gunicorn serves: module:name."""
        return self.facts.get("wsgi", "<project>.wsgi:application").replace("<project>", self.facts.get("project", ""))

    def owner(self):
        """The numbers of the site's user and group, which differ from host to host."""
        try:
            found = pwd.getpwnam(self.name)
        except KeyError:
            raise Failed(f"{host.name()} has no user {self.name}. Try: {host.command('state.apply')}") from None
        return found.pw_uid, found.pw_gid

    def show(self, folder):
        """A folder of the site's that Caddy serves: the site writes it, Caddy reads it, no neighbour does either."""
        try:
            caddy = grp.getgrnam("caddy").gr_gid
        except KeyError:
            raise Failed(f"{host.name()} has no group caddy. Try: {host.command('state.apply')}") from None
        os.chown(folder, self.owner()[0], caddy)
        os.chmod(folder, 0o750)  # noqa: S103  Caddy is its group

    def secure(self):
        """The environment is root's: the site reads it and does not write it, also on a host of before that was so."""
        with contextlib.suppress(FileNotFoundError):
            os.chown(self.path(".env"), 0, self.owner()[1])
            os.chmod(self.path(".env"), 0o640)

    def provisioned(self):
        """Raise Refused unless provisioning has made the site's folder."""
        if not os.path.isdir(self.root):
            raise Refused(
                f"{self.slug} is not provisioned on {host.name()}: there is no {self.root}. "
                f"Try: {host.command('state.apply')}"
            )

    def variables(self, release=None):
        """The file of a release's variables: the site's, where it is of before each had its own."""
        own = self.release(release, VARIABLES) if release else None
        return own if own and os.path.exists(own) else self.path(".env")

    def every_variables(self):
        """All of these files, the site's first."""
        return [self.path(".env"), *sorted(glob.glob(self.path("releases", "*", VARIABLES)))]

    def write_variables(self, path, written):
        """Replace one of these files. written: its text."""
        files.replace(path, written, mode=0o640, owner=(0, self.owner()[1]))

    def environment(self, release=None):
        """The site's variables as the pillar has them; of a release as it was made, and its own on top."""
        values = env.read(self.variables(release))
        if release:
            values.update(env.read(self.release(release, "release.env")))
        return values

    def secrets(self):
        """The values that no output may show: those of its releases, too."""
        every = map(self._secrets, map(env.read, self.every_variables()))
        return list(dict.fromkeys(value for each in every for value in each))

    def _secrets(self, values):
        named = self.facts.get("secrets")
        # Of its own Redis, by whichever name the site reads it.
        redis = [urllib.parse.urlsplit(value).password for value in values.values() if value.startswith("redis")]
        if named is None:
            # A host that saw no state.apply of today: everything but what the tree itself sets.
            found = [value for name, value in values.items() if not _is_plain(name)]
        else:
            found = [value for name, value in values.items() if name == "DJANGO_SECRET_KEY" or name in named]
        return [*found, *sorted({each for each in redis if each})]

    def remember(self):
        """
        Write down what a run's pillar says and this host does not know yet, as one that saw no state.apply of today. No
        secret, but their names.
        """
        path = f"{host.SITES}/{self.slug}.json"
        known = files.read_json(path)
        told = {key: self.facts[key] for key in (*_PROVISIONED, *_RELEASED) if key in self.facts and key not in known}
        if "repo" in told:
            told["repo"] = text.without_credentials(told["repo"])
        if "secrets" not in known:
            told.update(slug=self.slug, secrets=sorted(self.facts["secrets"]))
        if told:
            files.write_json(path, {**known, **told}, 0o644)

    def unprovisioned(self):
        """What this run's pillar says otherwise than the host was provisioned with: a remark, or an empty string."""
        names = [key for key in _PROVISIONED if key in self.written and self.written[key] != self.facts.get(key)]
        if not names:
            return ""
        return (
            f"{host.name()} was provisioned with another value of {', '.join(names)} for {self.slug}; the pillar's "
            f"counts for this run. Try: {host.command('state.apply')}"
        )

    # The maintenance page: Caddy shows it while the file is there; its text is who put it up.

    def maintenance(self):
        """Who put the maintenance page up; an empty string where it is not up."""
        return (files.read(self.path(MAINTENANCE)) or "") if os.path.exists(self.path(MAINTENANCE)) else ""

    def maintenance_on(self, who, words=None):
        """Put the maintenance page up. An operator's stays the operator's. words: what visitors read, in text."""
        if words:
            files.replace(self.path(PAGE), _PAGE.format(words=html.escape(words)), mode=0o644)
        elif who == OPERATOR:
            files.remove(self.path(PAGE))
        if self.maintenance() != OPERATOR:
            files.replace(self.path(MAINTENANCE), who, mode=0o644)

    def maintenance_off(self, who):
        """Take the maintenance page down, but for the operator's own, which only the operator takes down."""
        if who == OPERATOR or self.maintenance() != OPERATOR:
            files.remove(self.path(MAINTENANCE))
            files.remove(self.path(PAGE))


def _is_plain(name):
    return name.startswith(("DJANGO_DB_", "CELERY_")) or name in (
        "DJANGO_SETTINGS_MODULE", "DJANGO_STATIC_ROOT", "DJANGO_MEDIA_ROOT", "ALLOWED_HOSTS", "SITE_DOMAIN",
        "REDIS_URL", "DATABASE_URL", "DJANGO_ALLOWED_HOSTS", "CSRF_TRUSTED_ORIGINS", "DJANGO_CSRF_TRUSTED_ORIGINS",
    )  # fmt: skip


def load(slug, pillar=None):
    """
    A site of this host.

    pillar: what the run's pillar says of it; it wins over what is written down. Raises Refused for a site that
    neither knows.
    """
    written = files.read_json(f"{host.SITES}/{slug}.json")
    if not written and not pillar:
        known = ", ".join(host.slugs()) or "none"
        raise Refused(f"{host.name()} has no site {slug!r:.80}. Known: {known}. Try: one of them")
    return Site(slug, {**written, **_address(slug, written), **(pillar or {})}, written if pillar else None)


def _address(slug, written):
    """The repository's address with its credentials, where the host has them for this very address."""
    found = (files.read(f"{host.REPOSITORIES}/{slug}") or "").strip()
    return {"repo": found} if found and text.without_credentials(found) == written.get("repo") else {}


def every():
    """All sites of this host."""
    return [load(slug) for slug in host.slugs()]


def ever():
    """All sites whose folder is on this host, also those that have left the pillar: their secrets are still secrets."""
    found = glob.glob(f"{SRV}/*/.env")
    slugs = sorted(os.path.basename(os.path.dirname(path)) for path in found)
    return [Site(slug, files.read_json(f"{host.SITES}/{slug}.json")) for slug in slugs]


def backed_up(slug=None):
    """The sites whose backups are made: the one that is asked for, or all. Raises Refused for one that is not known."""
    known = [each for each in host.backup()["sites"] if each in host.slugs()]
    if slug is not None and slug not in known:
        raise Refused(
            f"{host.name()} has no site {slug!r:.80}. Known: {', '.join(known) or 'none'}. "
            "Try: one of them, or none for all"
        )
    return [load(each) for each in known if slug in (None, each)]
