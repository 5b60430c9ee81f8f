"""What visitors meet beyond the health path: the site's other names, and the files of its front page."""

import pytest
from goldenpath import health, visitor
from goldenpath.site import Site

PAGE = """<link href="/static/a.css"><script src='/static/b.js?v=1'></script><img src="/static/a.css">
<a href="/elsewhere"><img src="https://cdn.example/static/c.png">"""


class Door:
    """The front door: what each name and path answers."""

    def __init__(self):
        self.answers, self.asked = {}, []

    def visit(self, site, path, domain=None, timeout=5):
        self.asked.append((domain or site.domain, path))
        found = self.answers.get((domain or site.domain, path), 200)
        if isinstance(found, str):
            raise health.Fault(found)
        code, body = found if isinstance(found, tuple) else (found, "")
        return code, {}, body.encode()


@pytest.fixture
def door(monkeypatch):
    door = Door()
    monkeypatch.setattr(health, "visit", door.visit)
    return door


@pytest.fixture
def site():
    return Site("acme", {"domains": ["acme.example", "www.acme.example", "old.example"], "health": "/up"})


def test_all_is_well(door, site):
    door.answers = {("acme.example", "/"): (200, PAGE), ("old.example", "/up"): 301}
    assert visitor.remarks(site) == []
    assert door.asked == [
        ("www.acme.example", "/up"), ("old.example", "/up"), ("acme.example", "/"),
        ("acme.example", "/static/a.css"), ("acme.example", "/static/b.js"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("key", "answer", "said"),
    [
        (("www.acme.example", "/up"), 400, "https://www.acme.example/up answered 400. Try: "),
        (("old.example", "/up"), "the certificate is not valid", "https://old.example/up is not to be had: the certif"),
        (("acme.example", "/"), 500, "https://acme.example/ answered 500. Try: "),
        (("acme.example", "/static/b.js"), 404, "the front page of acme needs /static/b.js, which answered 404"),
    ],
)
def test_what_is_wrong_is_told(door, site, key, answer, said):
    door.answers = {("acme.example", "/"): (200, PAGE), key: answer}
    (found,) = visitor.remarks(site)
    assert found.startswith(said)


def test_it_is_a_look_and_no_crawl(door, site, monkeypatch):
    door.answers = {("acme.example", "/"): (200, "".join(f'<img src="/static/{n}.png">' for n in range(50)))}
    assert visitor.remarks(site) == [] and len(door.asked) == 3 + visitor.MOST_FILES
    door.asked.clear()
    monkeypatch.setattr(visitor, "SECONDS", 0)
    assert visitor.remarks(site) == [] and door.asked == []


def test_a_site_of_one_name_without_a_page(door):
    door.answers = {("acme.example", "/"): 404}
    assert visitor.remarks(Site("acme", {"domains": ["acme.example"]})) == []
