"""What holds between keys, which a schema cannot say."""

from . import formats, keys, sentences, sites, words


def faults(pillar):
    """Give (path, text) for what the schema cannot say. Wrong types are the schema's to tell."""
    if "sites" in pillar and not pillar["sites"] and isinstance(pillar["sites"], dict) and "redis" not in pillar:
        yield (
            ("sites",),
            "is empty and the pillar says nothing else; write `redis: {}` beside it if the host is to have no"
            " sites, else add its sites",
        )
    yield from _placeholders(pillar, ())
    yield from _check_backup(pillar)
    alerts = sites.mapping(pillar, "alerts")
    if "smtp" in alerts and not alerts.get("mail"):
        yield ("alerts", "smtp"), "sends mail to nobody; write `mail` beside it, or remove it"
    yield from _check_operators(pillar)
    domains = {}
    databases = {}
    for slug, site in sites.sites_of(pillar):
        yield from _check_domains(slug, site, domains)
        yield from _check_databases(slug, site, databases, pillar)
        yield from _check_own_redis(slug, site, pillar)
        yield from _check_front(slug, site)
        celery = sites.mapping(site, "celery")
        if celery.get("beat") is True and celery.get("worker", False) is False:
            yield (
                ("sites", slug, "celery", "beat"),
                "needs the worker, which is off; write `celery: {worker: true, beat: true}`",
            )
        for name in sites.mapping(site, "schedules"):
            if name in sites.mapping(site, "processes"):
                yield ("sites", slug, "schedules", name), "is among the processes as well; keep one of the two"
        for name in sites.mapping(site, "env_names"):
            if name in sites.mapping(site, "env") or name in sites.mapping(site, "secrets"):
                yield ("sites", slug, "env_names", name), "has a value in env or secrets as well; keep one of the two"
        for name, value in sites.mapping(site, "env").items():
            if value is None and name not in formats.USUAL:
                yield ("sites", slug, "env", name), "is empty; give it a value, or remove it"
            if name in sites.mapping(site, "secrets"):
                yield ("sites", slug, "env", name), "is among the secrets as well; keep one of the two"


def _placeholders(value, path):
    """What a copied block still says in the place of the operator's own word."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _placeholders(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _placeholders(item, (*path, index))
    elif isinstance(value, str) and value in words.PLACEHOLDERS:
        yield path, "is still the placeholder of a copied block; write your own, or remove the key"


def _check_operators(pillar):
    known = sorted(str(slug) for slug, _ in sites.sites_of(pillar))
    holders = {}
    for name, operator in sites.mapping(pillar, "operators").items():
        if not isinstance(operator, dict):
            continue
        named = operator.get("sites")
        for index, slug in enumerate(named if isinstance(named, list) else []):
            if isinstance(slug, str) and slug not in known:
                yield (
                    ("operators", name, "sites", index),
                    f"{words.shown(slug)} is no site of this host; name one of {', '.join(known) or 'its sites'}",
                )
        key = " ".join(str(operator.get("key")).split()[:2])
        if holders.setdefault(key, name) != name:
            yield ("operators", name, "key"), f"is the key of {holders[key]} as well; each has one of their own"


def _check_backup(pillar):
    backup = sites.mapping(pillar, "backup")
    repository = backup.get("repository", "")
    if isinstance(repository, str) and not repository.startswith("sftp:"):
        for name in ("ssh_key", "known_hosts"):
            if name in backup:
                yield ("backup", name), "is for an sftp repository, and this one is none; remove it"
    for name, limit in sites.mapping(backup, "refuse_after").items():
        warn = sites.mapping(backup, "warn_after").get(name, _default_hours(name))
        if _is_hours(limit) and _is_hours(warn) and limit <= warn:
            yield (
                ("backup", "refuse_after", name),
                f"is {limit} hours, and the warning comes after {warn} only; give more hours than warn_after has",
            )


def _is_hours(value):
    return isinstance(value, int) and not isinstance(value, bool)


def _default_hours(name):
    known = keys.load()["properties"]["backup"]["properties"]["warn_after"]["properties"]
    return known.get(name, {}).get("default")


def _check_domains(slug, site, seen):
    names = site.get("domains")
    public = site.get("tls", "acme") == "acme"
    for index, name in enumerate(names if isinstance(names, list) else []):
        if not isinstance(name, str):
            continue
        path = ("sites", slug, "domains", index)
        first = seen.setdefault(name.lower(), path)
        if first != path:
            yield path, f"{words.shown(name)} is already at {sentences.where(first)}; name each domain once on the host"
        elif public and "." not in name:
            yield (
                path,
                f"{words.shown(name)} has no dot, so no public certificate exists for it; write the whole name",
            )


def _check_databases(slug, site, seen, pillar):
    for name in ("cache", "broker"):
        number = sites.mapping(site, "redis").get(name)
        if not sites.is_database(number):
            continue
        path = ("sites", slug, "redis", name)
        first = seen.setdefault(number, path)
        if first[:2] == path[:2] and first != path:
            yield (
                path,
                f"is database {number}, and so is cache, but clearing the cache would delete Celery's queue;"
                f" give a number that nothing else on the host uses{sites.such_as(pillar)}",
            )
        elif first != path:
            yield (
                path,
                f"is database {number}, which {sentences.where(first)} has; give a number that nothing else on the"
                f" host uses{sites.such_as(pillar)}",
            )


def _check_front(slug, site):
    front = sites.mapping(site, "front")
    if front.get("allow") and front.get("proxies"):
        yield (
            ("sites", slug, "front", "allow"),
            "cannot be kept behind `proxies`: it is the proxy that comes; keep the list there, and remove it here",
        )
    for source, target in sites.mapping(front, "redirects").items():
        path = ("sites", slug, "front", "redirects", source)
        if not (isinstance(source, str) and isinstance(target, str)):
            continue
        if target.endswith("/*") and not source.endswith("/*"):
            yield path, "leads to a path that ends in /*, and does not itself; end both in /*, or none"
        elif target == source or (source.endswith("/*") and target.startswith(source[:-1])):
            yield path, "leads to itself; name another place, or remove it"
        elif source == site.get("health", "/health/"):
            yield path, "is the health path, which answers by itself; remove it"


def _check_own_redis(slug, site, pillar):
    if sites.mapping(site, "redis").get("own") is False and len(sites.sites_of(pillar)) > 1:
        yield (
            ("sites", slug, "redis", "own"),
            "is false, but on a host with several sites each has a Redis of its own; leave it out",
        )
