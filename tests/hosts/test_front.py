"""What the front door does by pillar, asked from outside; and an ASGI site whose WebSockets live through a deploy."""

import copy
import json
import subprocess

import pytest

from lab.load import Load

from .conftest import DOMAIN, ROOT, SLUG

OLD = "old.example"
ASGI = """
import json, os
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "example_site.settings.production")
from django.core.asgi import get_asgi_application
pages = get_asgi_application()

async def application(scope, receive, send):
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (got := await receive())["type"] == "websocket.receive":
            told = [got["text"], scope["client"][0], os.environ["RELEASE"]]
            await send({"type": "websocket.send", "text": json.dumps(told)})
        return
    path = scope["path"] if scope["type"] == "http" else ""
    headers = {"/who": [], "/mine": [(b"x-accel-redirect", b"/media/mine.txt")],
               "/sent": [(b"x-sendfile", b"/srv/sum/acme-kitchens/media/mine.txt")],
               "/theirs": [(b"x-accel-redirect", b"/media/../.env")],
               "/linked": [(b"x-accel-redirect", b"/media/link")]}.get(path)
    if headers is None:
        return await pages(scope, receive, send)
    headers = [*headers, (b"content-type", b"text/plain"), (b"content-disposition", b"attachment; filename=yours")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": scope["client"][0].encode() if path == "/who" else b""})
"""
# Under the site's own interpreter, which has the library by now. Opens so many, and tells how long each lived.
SOCKETS = """
import asyncio, json, ssl, sys, time
import websockets

async def one(context, found):
    async with websockets.connect("wss://acme.example/ws", host="127.0.0.1", ssl=context) as socket:
        began = time.time()
        try:
            while not found["end"].is_set():
                await socket.send("ping")
                text, client, release = json.loads(await asyncio.wait_for(socket.recv(), 5))
                found["releases"].add(release)
                found["clients"].add(client)
                found["echoes"] += text == "ping"
                await asyncio.sleep(0.25)
        except websockets.ConnectionClosed as closed:
            found["closed"].append([closed.rcvd.code if closed.rcvd else None, time.time()])

async def main(number):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    found = {"end": asyncio.Event(), "releases": set(), "clients": set(), "echoes": 0, "closed": []}
    tasks = [asyncio.create_task(one(context, found)) for _ in range(number)]
    await asyncio.sleep(2)
    print("open", sum(not task.done() for task in tasks), flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    found["end"].set()
    failed = [repr(each) for each in await asyncio.gather(*tasks, return_exceptions=True) if each]
    print(json.dumps({**found, "end": 0, "releases": sorted(found["releases"]), "clients": sorted(found["clients"]),
                      "failed": failed}))

asyncio.run(asyncio.wait_for(main(int(sys.argv[1])), 120))
"""


class Front:
    """The host, whose pillar these tests change, and a visitor."""

    def __init__(self, world):
        self.world, self.before = world, copy.deepcopy(world.pillar["sites"][SLUG])
        self.hash = world.sh("caddy hash-password --plaintext 'open sesame'")

    def set(self, **front):
        """Give the site this front door, and nothing else of one."""
        self.world.write_pillar(front=front)
        states = self.world.apply("caddy")
        assert {key: state for key, state in states.items() if state[0] is not True} == {}
        return states

    def get(self, url, *options):
        """Ask from outside. Returns (status, headers by lower-case name, body)."""
        names = (DOMAIN, f"www.{DOMAIN}", OLD)
        resolve = [word for name in names for word in ("--resolve", f"{name}:443:{self.world.host.address}")]
        argv = ["curl", "-sk", "--max-time", "15", "-D", "/dev/stderr", *resolve, *options, url]
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
        head = done.stderr.strip().splitlines()
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if ": " in line)
        return int(head[0].split()[1]), headers, done.stdout

    def close(self):
        self.world.pillar["sites"][SLUG] = self.before
        self.world.write_pillar()
        status, output = self.world.deploy(ref="v1.0.0")
        assert status == 0, output
        self.world.apply()


@pytest.fixture(scope="module")
def front(trixie):
    front = Front(trixie)
    trixie.write_pillar(domains=[DOMAIN, f"www.{DOMAIN}", OLD])
    trixie.apply()
    yield front
    front.close()


def test_other_names_lead_to_the_first(front):
    front.set(canonical=True)
    for name in (f"www.{DOMAIN}", OLD):
        code, headers, _ = front.get(f"https://{name}/a/b%20c?x=1&y=2")
        assert (code, headers["location"]) == (308, f"https://{DOMAIN}/a/b%20c?x=1&y=2")
    assert front.get(f"https://{DOMAIN}/")[0] == 200
    # A deploy asks every name, and is content with that.
    status, output = front.world.deploy(ref="v1.0.0")
    assert status == 0 and OLD not in output, output
    front.set()
    assert front.get(f"https://{OLD}/")[0] == 200


def test_a_domain_is_renamed(front):
    """As docs/day.md has it: both serve, then the old one leads to the new one."""
    world = front.world
    try:
        for domains, door in (([DOMAIN, OLD], {}), ([OLD, DOMAIN], {"canonical": True})):
            world.write_pillar(domains=domains, front=door)
            states = world.apply()
            assert {key: state for key, state in states.items() if state[0] is not True} == {}
            assert front.get(f"https://{OLD}/")[0] == 200
            code, headers, _ = front.get(f"https://{DOMAIN}/a?x=1")
            assert (code, headers.get("location")) == ((308, f"https://{OLD}/a?x=1") if door else (404, None))
        assert world.sh(f"grep ^SITE_DOMAIN= {ROOT}/.env") == f'SITE_DOMAIN="{OLD}"'
        # What is at hand is asked by the new name: a deploy goes on as before.
        status, output = world.deploy(ref="v1.0.0")
        assert status == 0, output
    finally:
        world.write_pillar(domains=[DOMAIN, f"www.{DOMAIN}", OLD], front={})
        world.apply()


@pytest.mark.parametrize(
    ("asked", "place"),
    [
        ("/shop/", "/store/"), ("/shop/?page=2", "/store/?page=2"), ("/sale?a=1", "/store/?from=sale&a=1"),
        ("/blog/2020/x%20y?z", "https://blog.example/x/2020/x%20y?z"), ("/blog/", "https://blog.example/x/"),
        ("/gone/for/good", "/"), ("/shop", None), ("/blogs/", None),
    ],
)  # fmt: skip
def test_what_has_moved(front, asked, place):
    moved = {"/shop/": "/store/", "/sale": "/store/?from=sale", "/blog/*": "https://blog.example/x/*", "/gone/*": "/"}
    if front.world.pillar["sites"][SLUG].get("front") != {"redirects": moved}:
        front.set(redirects=moved)
    code, headers, _ = front.get(f"https://{DOMAIN}{asked}")
    assert (code, headers.get("location")) == ((301, place) if place else (404, None))


def test_a_door_with_a_password(front):
    states = front.set(basic_auth={"client": front.hash}, noindex=True, hsts=600)
    assert front.hash not in str(states), "no hash on the screen"
    assert front.get(f"https://{DOMAIN}/")[0] == 401
    assert front.get(f"https://{DOMAIN}/", "-u", "client:sesame")[0] == 401
    assert front.get(f"https://{DOMAIN}/static/x.css")[0] == 401
    code, headers, _ = front.get(f"https://{DOMAIN}/", "-u", "client:open sesame")
    assert (code, headers["x-robots-tag"]) == (200, "noindex, nofollow")
    assert front.get(f"https://{DOMAIN}/health/")[0] == 200, "monitors and deploys ask it"
    held = front.world.sh(f"stat -c '%U:%G %a' /etc/caddy/sites/{SLUG}.caddy")
    assert held == "root:caddy 640"


def test_a_door_for_some_addresses_alone(front):
    front.set(allow=["203.0.113.0/24"])
    for path in ("/", "/static/x.css", "/media/x.txt", "/admin/"):
        assert front.get(f"https://{DOMAIN}{path}")[::2] == (403, "403 Forbidden")
    assert front.get(f"https://{DOMAIN}/health/")[0] == 200
    ours = front.world.host.address.rpartition(".")[0] + ".0/24"
    front.set(allow=["203.0.113.0/24", ours])
    assert front.get(f"https://{DOMAIN}/")[0] == 200


def test_files_of_the_operators_own(front):
    world = front.world
    front.set()
    world.host.write(f"/etc/caddy/local/{SLUG}/teapot.caddy", "handle /teapot {\n\trespond 418\n}\n")
    try:
        front.set(noindex=True)
        assert front.get(f"https://{DOMAIN}/teapot")[0] == 418
        world.host.write("/etc/caddy/local/more.caddy", "broken {\n")
        failed = [state[2] for state in world.apply("caddy").values() if state[0] is False]
        assert len(failed) == 1 and "/etc/caddy/local/more.caddy:" in failed[0] and "Try: mend what" in failed[0]
        assert front.get(f"https://{DOMAIN}/teapot")[0] == 418, "what Caddy has goes on"
    finally:
        world.sh("rm -rf /etc/caddy/local/*")
    front.set()
    assert front.get(f"https://{DOMAIN}/teapot")[0] == 404


@pytest.fixture(scope="module")
def asgi(front):
    """The site as an ASGI one whose visitors' files are its own to show."""
    world = front.world
    world.repository.reset("v1.0.0")
    world.repository.commit("ASGI", {"example_site/asgi.py": ASGI}, tag="asgi")
    world.repository.publish(world.host)
    world.write_pillar(front={}, asgi=True, drain=4, media="private", ref="asgi")
    status, output = world.deploy()
    assert status == 0, output
    world.apply()
    world.sh(
        f"cd {ROOT}/media && echo mine > mine.txt && chown sum-{SLUG}: mine.txt && ln -sf {ROOT}/.env link; "
        f"chown -h sum-{SLUG}: link"
    )
    yield front
    world.sh(f"rm -f {ROOT}/media/link {ROOT}/media/mine.txt")


def test_visitors_of_an_asgi_site(asgi):
    world = asgi.world
    assert world.health() == (200, "ok")
    assert "UvicornWorker" in world.sh(f"ps -u sum-{SLUG} -o args")
    # The visitor's own address, and no word of a visitor's about it.
    ours = asgi.get(f"https://{DOMAIN}/who")[2]
    assert ours == world.sh('journalctl -u caddy -o cat | grep -o \'"remote_ip":"[0-9.]*"\' | tail -n 1').split('"')[3]
    assert asgi.get(f"https://{DOMAIN}/who", "-H", "X-Forwarded-For: 192.0.2.7")[2] == ours
    asgi.set(proxies=[f"{ours}/32"])
    assert asgi.get(f"https://{DOMAIN}/who", "-H", "X-Forwarded-For: 192.0.2.66, 192.0.2.7")[2] == "192.0.2.7"
    assert asgi.get(f"https://{DOMAIN}/who")[2] == ours
    asgi.set()


def test_private_media(asgi):
    assert asgi.get(f"https://{DOMAIN}/media/mine.txt")[0] == 404
    for path in ("/mine", "/sent"):
        code, headers, body = asgi.get(f"https://{DOMAIN}{path}")
        assert (code, body) == (200, "mine\n")
        assert headers["content-disposition"] == "attachment; filename=yours"
        assert "x-accel-redirect" not in headers and "x-sendfile" not in headers
    secret = asgi.world.sh(f"head -c 40 {ROOT}/.env")
    for path in ("/theirs", "/linked"):
        code, _, body = asgi.get(f"https://{DOMAIN}{path}")
        assert code >= 400 and secret not in body


def test_websockets_live_through_a_deploy(asgi):
    """Fifty stay connected for `drain` seconds, are told to come again, and no request fails meanwhile."""
    world = asgi.world
    before = world.live()
    world.host.write("/root/sockets.py", SOCKETS)
    argv = world.host.enter_command(
        f"exec {ROOT}/current/venv/bin/python -I /root/sockets.py 50 2>&1 || true; :"
    )  # fmt: skip
    world.sh(f"grep -q {DOMAIN} /etc/hosts || echo 127.0.0.1 {DOMAIN} >> /etc/hosts")
    client = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert client.stdout.readline() == "open 50\n"
        world.repository.commit("news", {"NEWS": "news\n"})
        world.repository.publish(world.host)
        with Load(world.host, DOMAIN, clients=4, seconds=120) as load:
            status, output = world.deploy(ref="main")
        assert status == 0, output
        out, _ = client.communicate("\n", timeout=60)
        told = json.loads(out)
    finally:
        client.kill()
        world.sh("rm -f /root/sockets.py")
    assert (load.failed, told["failed"]) == (0, []) and load.requests > 50
    assert told["releases"] == [before] and len(told["closed"]) == 50
    assert {code for code, _ in told["closed"]} == {1012}, "service restart: come again"
    drained = json.loads(world.sh(f"tail -n 1 {ROOT}/releases.jsonl"))["steps"]["drain"]
    assert 4 <= drained < 15
    assert told["echoes"] > 50 * 10


def test_a_drain_ends_with_the_last_connection(asgi):
    asgi.world.write_pillar(drain=60)
    status, output = asgi.world.deploy(ref="main")
    assert status == 0, output
    assert json.loads(asgi.world.sh(f"tail -n 1 {ROOT}/releases.jsonl"))["steps"]["drain"] < 20


def test_a_rollback_from_asgi_serves_the_wsgi_release(asgi):
    status, output = asgi.world.deploy("rollback", target=asgi.world.name, site=SLUG, release=_wsgi(asgi.world))
    assert status == 0, output
    assert asgi.world.health() == (200, "ok") and "gthread" in asgi.world.sh(f"ps -u sum-{SLUG} -o args")
    status, output = asgi.world.deploy(ref="main")
    assert status == 0, output
    assert asgi.world.health() == (200, "ok")


def _wsgi(world):
    found = [json.loads(line) for line in world.sh(f"cat {ROOT}/releases.jsonl").splitlines()]
    return [each["release"] for each in found if each["ref"] == "v1.0.0" and each["outcome"] == "live"][-1]
