"""The sites of a pillar that may be wrong elsewhere, and which numbers of Redis' databases are free on the host."""

DATABASES = 64  # as the schema's maximum says


def sites_of(pillar):
    """The sites that are mappings, by slug."""
    sites = mapping(pillar, "sites")
    return sorted(((slug, site) for slug, site in sites.items() if isinstance(site, dict)), key=lambda s: str(s[0]))


def mapping(owner, key):
    value = owner.get(key)
    return value if isinstance(value, dict) else {}


def is_database(value):
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < DATABASES


def _free(pillar):
    used = [mapping(site, "redis").get(name) for _, site in sites_of(pillar) for name in ("cache", "broker")]
    return [number for number in range(DATABASES) if number not in used]


def such_as(pillar):
    return "".join(f", such as {number}" for number in _free(pillar)[:1])


def pair(pillar):
    cache, broker = (*_free(pillar), 0, 1)[:2]
    return f"write `redis: {{cache: {cache}, broker: {broker}}}`"
