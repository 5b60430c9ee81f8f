"""
Questions about all hosts, asked from the controller: ``salt-run goldenpath.…``.
"""

import asyncio
import errno
import ipaddress
import os
import pathlib
import re
import runpy
import socket
import tempfile

import salt.client
import salt.client.ssh.client
import salt.roster
import salt.utils.minions
import salt.utils.network
from salt.exceptions import SaltException

TIMEOUT = 3  # seconds, for each connection; they all run at once
AT_ONCE = 500  # connections; the usual limit of open files is 1024
OPEN = {80: "http", 443: "https"}
CLOSED = {
    2019: "caddy admin",
    3306: "mysql",
    5432: "postgres",
    5555: "flower",
    5672: "amqp",
    6379: "redis",
    8000: "app server",
    8080: "app server",
    9000: "app server",
    11211: "memcached",
    27017: "mongodb",
}


def exposed(target="*"):
    """
    Connect from here to each host's public addresses, and tell which ports answer: those of ssh and the web
    may, those of Redis, Postgres and their like must not. Hosts come from the roster, or from the accepted
    minions where the configuration says ``goldenpath: {transport: minion}``. They are asked for their further
    addresses, IPv6 included: a firewall can be right on one of them alone.

    :param target: a glob over host ids.
    :return: dict with ``hosts`` (for each id ``addresses`` and ``ports``: one dict per address and port with
        ``address``, ``port``, ``service``, ``state``: open, refused, filtered, unreachable or not tried, and
        ``ok``, which is None where an address as a whole did not answer), ``faults`` and ``remarks`` (a sentence
        each) and ``retcode``: 1 if a port is open that should not be, if a host cannot be resolved or reached or
        does not tell its addresses, or if no host matches. On the command line a table, unless ``--out`` is given.

    CLI Example:

    .. code-block:: bash

        salt-run goldenpath.exposed 'web*'
    """
    try:
        hosts = _hosts(target)
        faults = {} if hosts else {"exposed": [_no_host(target)]}
    except (SaltException, OSError, ValueError) as exc:
        hosts, faults = {}, {"exposed": [f"The hosts cannot be listed: {exc}. Try: {_listing()}"]}
    silent = _ask_addresses(hosts) if _transport() == "ssh" else []
    found = asyncio.run(_probe_all(hosts))
    remarks = {}
    for host, data in found.items():
        faults[host] = _faults(host, data)
        if host in silent and not faults[host]:
            faults[host] = [
                f"{host} did not tell its addresses, and only {', '.join(data['addresses'])} was tried. "
                f"Try: {_command(host)} test.ping"
            ]
        remarks[host] = _remarks(host, data)
    rows = {host: [_row(port) for port in data["ports"]] for host, data in found.items()}
    return _shown({"hosts": found}, rows, faults, remarks)


def releases(target="*", site=None, limit=10):
    """
    What was released to each host, when, by whom, how long it took and how it ended; the live release is marked.

    :param target: a glob over host ids.
    :param site: only this site.
    :param limit: the last so many releases of each site.
    :return: dict with ``hosts`` (for each id its sites with ``live``, ``good`` and ``history``), ``faults``
        (a sentence each) and ``retcode``: 1 if a host does not answer or none matches. On the command line a
        table, unless ``--out`` is given.

    CLI Example:

    .. code-block:: bash

        salt-run goldenpath.releases 'web*' site=acme-kitchens
    """
    told, faults = _answers("releases", target, "release.report", [str(int(limit))])
    hosts, rows = {}, {}
    for host, sites in told.items():
        if not isinstance(sites, dict) or "_error" in sites or "stderr" in sites:
            faults[host] = [f"{host} does not answer. Try: {_command(host)} test.ping"]
            continue
        hosts[host] = {slug: facts for slug, facts in sites.items() if site in (None, slug)}
        rows[host] = [
            _release_row(slug, facts["live"], record)
            for slug, facts in hosts[host].items()
            for record in facts["history"]
        ]
    return _shown({"hosts": hosts}, rows, faults)


def drift(target="*"):
    """
    What of each host is not as its pillar wants it, asked by a dry run of all states; nothing is changed.

    :param target: a glob over host ids.
    :return: dict with ``hosts`` (for each id ``drifted``: what would change, a triple each of the state's function, its
        name and what it would do), ``faults`` (a sentence each) and ``retcode``: 0 where all is in order, 2 where
        something drifted, 1 where a host could not be asked or a state failed. On the command line a table, unless
        ``--out`` is given.

    CLI Example:

    .. code-block:: bash

        salt-run goldenpath.drift 'web*'
    """
    judge = _beside("drift_table.py")
    told, faults = _answers("drift", target, "state.apply", [], {"test": True})
    hosts, remarks = {}, {}
    for host, states in told.items():
        drifted, failed = judge["rows"](states)
        hosts[host] = {"drifted": drifted}
        if failed:
            faults[host] = [f"{host}: {each}. Try: {_command(host)} state.apply test=True" for each in failed]
        elif drifted:
            remarks[host] = [f"{len(drifted)} of {host} have drifted. Try: {_command(host)} state.apply"]
        else:
            remarks[host] = [f"{host} is in order."]
    found = any(each["drifted"] for each in hosts.values())
    return _shown({"hosts": hosts}, {host: each["drifted"] for host, each in hosts.items()}, faults, remarks, 2 * found)


def _release_row(slug, live, record):
    outcome = record["outcome"]
    if outcome == "live" and record["release"] == live:
        outcome = "LIVE"
    return (
        slug,
        record["when"],
        record["action"],
        record["ref"],
        (record["sha"] or "-")[:8],
        record["release"] or "-",
        record["who"],
        f"{record.get('seconds', 0):.1f} s",
        f"{len(record['migrations'])} migrations",
        outcome if outcome != "failed" else f"failed at {record.get('step', '?')}",
    )


def _beside(name):
    """What a file of this folder defines: Salt's loader gives a runner no package to import it from."""
    return runpy.run_path(str(pathlib.Path(__file__).resolve().with_name(name)))


def _answers(runner, target, function, arguments, named=None):
    """
    What the hosts that a target matches answer to an execution function: (answers by id, None for who gave none; the
    faults that the runner begins with).
    """
    try:
        ids = sorted(_hosts(target))
        if not ids:
            return {}, {runner: [_no_host(target)]}
        told = _ask(ids, function, arguments, named)
        return {host: told.get(host) for host in ids}, {}
    except (SaltException, OSError, ValueError) as exc:
        return {}, {runner: [f"The hosts cannot be asked: {exc}. Try: {_listing()}"]}


def _ask(ids, function, arguments, named=None):
    """One execution function on several hosts, over ssh or by their minions. named: its keyword arguments."""
    if _transport() == "ssh":
        client = salt.client.ssh.client.SSHClient(mopts=__opts__)
        answers = client.cmd(ids, function, arguments, tgt_type="list", kwarg=named)
        return {host: answer.get("return", answer) for host, answer in answers.items()}
    with salt.client.get_local_client(mopts=__opts__) as client:
        return client.cmd(ids, function, arguments, tgt_type="list", kwarg=named)


def _command(host):
    return f"{'salt-ssh' if _transport() == 'ssh' else 'salt'} {host}"


def _transport():
    return (__opts__.get("goldenpath") or {}).get("transport", "minion")


def _hosts(target):
    """For each id that the target matches: its names or addresses, and the port of its sshd."""
    if _transport() == "ssh":
        roster = salt.roster.Roster(__opts__, "flat").targets(target, "glob")
        return {host: ([data.get("host") or host], int(data.get("port") or 22)) for host, data in roster.items()}
    ids = sorted(salt.utils.minions.CkMinions(__opts__).check_minions(target, "glob")["minions"])
    grains = {host: salt.utils.minions.get_minion_data(host, __opts__)[1] or {} for host in ids}
    unknown = [host for host in ids if not grains[host].get("ipv4")]
    if unknown:
        with salt.client.get_local_client(mopts=__opts__) as client:
            told = client.cmd(unknown, "grains.item", ["ipv4", "ipv6", "fqdn"], tgt_type="list")
        grains.update({host: each for host, each in told.items() if isinstance(each, dict)})
    return {host: (_public(grains[host]), 22) for host in ids}


def _ask_addresses(hosts):
    """Add to each host the addresses that it tells over ssh. Returns the hosts that do not tell any."""
    # What is no host of ours here would have ssh wait: it is told by its ports.
    there = asyncio.run(_ssh_answers(hosts))
    try:
        told = _ask(there, "grains.item", ["ipv4", "ipv6"]) if there else {}
    except (SaltException, OSError):
        told = {}
    silent = []
    for host in there:
        grains = told.get(host)
        if not (isinstance(grains, dict) and grains.get("ipv4")):
            silent.append(host)
            continue
        names, _ = hosts[host]
        here = {*salt.utils.network.ip_addrs(include_loopback=True), *salt.utils.network.ip_addrs6()}
        for address in _public(grains):
            # A private address means the same host only where the roster has it, or one beside it, as well.
            beside = any(each in grains["ipv4"] + grains.get("ipv6", []) for each in names)
            if address not in [*names, *here] and (beside or ipaddress.ip_address(address).is_global):
                names.append(address)
    return silent


async def _ssh_answers(hosts):
    gate = asyncio.Semaphore(AT_ONCE)

    async def answers(names, port):
        async with gate:
            try:
                reader, writer = await asyncio.wait_for(asyncio.open_connection(names[0], port), TIMEOUT)
                try:
                    return await asyncio.wait_for(reader.readexactly(4), TIMEOUT) == b"SSH-"
                finally:
                    writer.close()
            except (OSError, UnicodeError, EOFError):
                return False

    told = await asyncio.gather(*(answers(*each) for each in hosts.values()))
    return [host for host, answered in zip(hosts, told, strict=True) if answered]


def _public(grains):
    """
    A minion's public addresses; on a private network all that are not its own loopback or link; its name
    where it told none.
    """
    told = [ipaddress.ip_address(each) for each in [*grains.get("ipv4", []), *grains.get("ipv6", [])]]
    told = [each for each in told if not (each.is_loopback or each.is_link_local)]
    chosen = [each for each in told if each.is_global] or told
    return [str(each) for each in chosen] or [each for each in [grains.get("fqdn")] if each]


def _no_host(target):
    known = sorted(_hosts("*"))
    return f"No host matches '{target}'. Known: {', '.join(known) or 'none'}. Try: {_listing()}"


def _listing():
    """The command that shows which hosts there are."""
    return f"cat {__opts__.get('roster_file')}" if _transport() == "ssh" else "salt-key --list-all"


async def _probe_all(hosts):
    gate = asyncio.Semaphore(AT_ONCE)
    found = await asyncio.gather(*(_probe(names, ssh, gate) for names, ssh in hosts.values()))
    return dict(zip(hosts, found, strict=True))


async def _probe(names, ssh, gate):
    """Resolve a host's names and try each of its ports."""
    addresses, error = [], "it has told no address"
    for name in names:
        try:
            told = await asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_STREAM)
            addresses += [info[4][0] for info in told if info[4][0] not in addresses]
        except (OSError, UnicodeError) as exc:
            error = f"{name}: {getattr(exc, 'strerror', None) or exc}"
    services = {**CLOSED, **OPEN, ssh: "ssh"}
    pairs = [(address, port) for address in addresses for port in sorted(services)]
    states = await asyncio.gather(*(_state(address, port, gate) for address, port in pairs))
    ports = [
        {
            "address": address,
            "port": port,
            "service": services[port],
            "state": state,
            "ok": state != "open" or port == ssh or port in OPEN,
        }
        for (address, port), state in zip(pairs, states, strict=True)
    ]
    return {"addresses": addresses, "ports": ports, **({} if addresses else {"error": error})}


async def _state(address, port, gate):
    async with gate:
        try:
            _, writer = await asyncio.wait_for(asyncio.open_connection(address, port), TIMEOUT)
        except TimeoutError:
            return "filtered"
        except ConnectionRefusedError:
            return "refused"
        except OSError as exc:
            # This machine itself has no way to such addresses: that says nothing of the host.
            away = exc.errno in (errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
            return "not tried" if away and ":" in address else "unreachable"
        writer.close()
        return "open"


def _faults(host, data):
    ssh = _transport() == "ssh"
    if "error" in data:
        where = _listing() if ssh else f"salt {host} network.ip_addrs"
        return [f"{host} cannot be resolved: {data['error']}. Try: {where}"]
    command = _command(host)
    if not any(port["state"] in ("open", "refused") for port in data["ports"]):
        return [f"{host} answers on no port of {', '.join(data['addresses'])}. Try: {command} test.ping"]
    return [
        f"{host} answers from outside on port {port['port']} ({port['service']}) of {port['address']}. "
        f"Try: {command} state.apply firewall"
        for port in data["ports"]
        if port["ok"] is False
    ]


def inspect(repo, ref=None, slug=None, domain=None):
    """
    Read a repository, without running anything of it, and print the pillar block of its site; what an operator has to
    choose is marked.

    :param repo: an address that git knows, or a local folder.
    :param ref: a tag or a branch; the repository's own where it is left out.
    :param slug: what the site is to be called; by default as the repository.
    :param domain: its first name; ``<slug>.example`` where it is left out.
    :return: str, the block. The exit status is 1, and the answer a sentence, where the repository cannot be read or
        holds no Django project.

    CLI Example:

    .. code-block:: bash

        salt-run goldenpath.inspect https://git.example/acme.git v1.4.2 domain=acme.example
    """
    tools = _beside("inspection.py")
    repo = str(repo)
    name = re.sub(r"[^a-z0-9]+", "-", repo.rstrip("/").rpartition("/")[2].removesuffix(".git").lower()).strip("-")[:28]
    slug = slug or name or "site"
    try:
        with tempfile.TemporaryDirectory(prefix="goldenpath-") as folder:
            local = os.path.isdir(repo) and ref is None
            branch = "main" if local else tools["cloned"](repo, ref, folder)
            # A host reads none of the operator's own folders.
            address = "" if os.path.isdir(repo) else repo
            place = repo if local else folder
            text = tools["inspect"](place, slug, domain or f"{slug}.example", address, ref or branch)
    except tools["Nothing"] as exc:
        return _shown({}, {}, {slug: [str(exc)]})
    return {"data": text, "outputter": "txt"} if __opts__.get("__cli") == "salt-run" else text


def _remarks(host, data):
    """An address that is silent on every port, that of ssh too, has not been judged: perhaps no way leads there."""
    answered = {port["address"] for port in data["ports"] if port["state"] in ("open", "refused")}
    silent = {port["address"]: port["state"] for port in data["ports"] if port["address"] not in answered}
    for port in data["ports"]:
        port["ok"] = None if port["address"] in silent else port["ok"]
    return [
        f"{address} of {host} was not tried: from here no route leads to IPv6."
        if state == "not tried"
        else f"{address} of {host} answers on no port, so nothing is known of it: perhaps no way leads there from here."
        for address, state in silent.items()
        if answered
    ]


def _row(port):
    verdict = "MUST BE CLOSED" if port["ok"] is False else ""
    return port["address"], str(port["port"]), port["service"], port["state"], verdict


def _shown(data, rows, faults, remarks=None, otherwise=0):
    """
    What a runner here returns. For a human: a table, its first column the host, and the faults under it; for
    `--out` and for other programs the data. salt-run takes its exit status from the key `retcode` alone.
    """
    told = [sentence for sentences in faults.values() for sentence in sentences]
    retcode = 1 if told else otherwise
    __context__["retcode"] = retcode
    if remarks is not None:
        data = {**data, "remarks": [each for some in remarks.values() for each in some]}
    data = {**data, "faults": told, "retcode": retcode}
    if __opts__.get("__cli") != "salt-run":
        return data
    if __opts__.get("output"):
        return {"data": data, "outputter": "nested"}
    cells = [row for host in rows for row in rows[host]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = {}
    for host in {**rows, **faults}:
        table = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows.get(host, [])
        ]
        lines[host] = "\n".join([*table, *faults.get(host, []), *(remarks or {}).get(host, [])])
    return {"data": {**lines, "retcode": retcode}, "outputter": "goldenpath"}
