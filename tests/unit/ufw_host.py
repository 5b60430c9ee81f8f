"""
A host for the tests of the firewall: its files, its kernel, and programs that answer as they would.

modules/ufw/ holds what ufw 0.36.2 wrote on Debian 12 and 13 (the same bytes on both): a host with ssh and the
web open, and, under spellings/, the rules of every command in spellings/show-added.
"""

import pathlib
import re
import shlex
import shutil

from _modules import packet_filter, sshd, ufw, ufw_plan

RECORDED = pathlib.Path(__file__).parent / "modules/ufw"
SPELLINGS = {
    "v4": (RECORDED / "spellings/user.rules").read_text(),
    "v6": (RECORDED / "spellings/user6.rules").read_text(),
}

# The default route over eth0 for IPv4 and over eth6 for IPv6; a network of its own behind eth9.
ROUTE = """\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth9\t0000000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
"""
PURE = ("port", "kernel", "boot", "noted")
PLAN = ("policies", "ways_in", "drift", "alone", "refusal")
_NONE = "0" * 32
ROUTE6 = f"""\
{_NONE} 00 {_NONE} 00 fd000000000000000000000000000001 00000400 00000001 00000000 00000003     eth6
{_NONE} 00 {_NONE} 00 {_NONE} ffffffff 00000001 00000000 00200200       lo
fd000000000000000000000000000000 40 {_NONE} 00 {_NONE} 00000100 00000001 00000000 00000001     eth9
"""


def blocks(text):
    """Each rule of a user.rules as ufw wrote it: its tuple and its iptables lines, by its command."""
    found = {}
    for block in re.findall(r"^### tuple ###.*\n(?:-A .*\n)*", text, re.MULTILINE):
        command = packet_filter.noted(block)[0]["rule"]
        found[command] = found.get(command, "") + block
    return found


class Host:
    """A host's files and kernel, with programs that answer as they would."""

    def __init__(self, root, monkeypatch):
        self.root = root
        self.calls = []
        self.refuses = {}
        self.sshd = "port 22\nlistenaddress [::]:22\nlistenaddress 0.0.0.0:22\n"
        self.socket = "Listen=[::]:22 (Stream)\nActiveState=inactive\nUnitFileState=disabled\n"
        self.programs = {"ufw", "sshd", "systemctl"}
        for name in ("iptables", "ip6tables"):
            self.programs |= {name, f"{name}-restore", f"{name}-save"}
        self.broken = {}
        self.kernel = {"v4": (RECORDED / "iptables-S").read_text(), "v6": (RECORDED / "ip6tables-S").read_text()}
        shutil.copytree(RECORDED, root / "etc", ignore=shutil.ignore_patterns("spellings", "*-S"))
        for name in ("proc/sys/net/ipv6", "proc/net/if_inet6", "ssh"):
            (root / name).mkdir(parents=True)
        (root / "proc/net/route").write_text(ROUTE)
        (root / "proc/net/ipv6_route").write_text(ROUTE6)
        self.grains = {"ip_interfaces": {"eth0": ["10.0.0.2"], "eth1": ["93.184.216.34"], "tailscale0": ["100.64.0.7"]}}
        for module, name, path in (
            (ufw, "RULES", "etc"),
            (ufw, "CONFIG", "etc/ufw.conf"),
            (ufw, "DEFAULTS", "etc/default"),
            (ufw, "PROC", "proc"),
            (sshd, "PROC", "proc"),
            (sshd, "CONFIG", "ssh/sshd_config"),
        ):
            monkeypatch.setattr(module, name, str(root / path))
        for module in (ufw, sshd):
            monkeypatch.setattr(module, "_program", lambda name: name if name in self.programs else None)
        self.functions = {"cmd.run_all": self.run, "file.replace": self.replace, "sshd.ports": sshd.ports}
        for module, names in ((packet_filter, PURE), (ufw_plan, PLAN)):
            self.functions |= {f"{module.__name__.split('.')[-1]}.{name}": getattr(module, name) for name in names}
        self.loader = {module: {"__salt__": self.functions, "__grains__": self.grains} for module in (ufw, sshd)}

    def replace(self, path, pattern, repl, **_):
        text = pathlib.Path(path).read_text()
        pathlib.Path(path).write_text(re.sub(pattern, repl, text, flags=re.MULTILINE))
        self.calls.append(f"write {repl}")

    def run(self, command, **options):
        assert options["python_shell"] is False and options["timeout"]
        name = command[0]
        if name in ("iptables", "ip6tables") and command[-1] == "-S":
            text = self.kernel["v6" if name == "ip6tables" else "v4"]
            if text is None:
                return {"retcode": 3, "stdout": "", "stderr": "can't initialize: Table does not exist"}
            return {"retcode": 0, "stdout": text, "stderr": ""}
        if name.endswith(("-restore", "-save")):
            return self.tables(command, options["stdin"])
        if name == "sshd":
            return {"retcode": 0 if self.sshd else 255, "stdout": self.sshd, "stderr": ""}
        if name == "systemctl":
            return {"retcode": 0, "stdout": self.socket, "stderr": ""}
        self.calls.append(" ".join(command))
        if self.calls[-1] in self.refuses:
            return {"retcode": 1, "stdout": "", "stderr": self.refuses[self.calls[-1]]}
        if name == "ufw":
            self.ufw(command[1:])
        return {"retcode": 0, "stdout": "", "stderr": ""}

    def tables(self, command, text):
        """iptables-save and iptables-restore: `broken` names a line that it does not understand."""
        family = "v6" if command[0].startswith("ip6") else "v4"
        if command[0].endswith("-save"):
            return {"retcode": 0, "stdout": self.kernel[family], "stderr": ""}
        for number, line in enumerate(text.splitlines(), 1):
            if line in self.broken:
                said = f"{self.broken[line]}\nError occurred at line: {number}\nTry `iptables-restore -h' for more.\n"
                return {"retcode": 2, "stdout": "", "stderr": said}
        if "--test" not in command:
            self.calls.append(" ".join(command))
            self.kernel[family] = text
        return {"retcode": 0, "stdout": "", "stderr": ""}

    def ufw(self, words):
        """What ufw does to its files and the kernel, for the commands that are used here."""
        conf = (self.root / "etc/ufw.conf").read_text()
        if words[-1] in ("enable", "disable"):
            state = "yes" if words[-1] == "enable" else "no"
            (self.root / "etc/ufw.conf").write_text(re.sub(r"ENABLED=\w+", f"ENABLED={state}", conf))
        elif words[0] in ("allow", "prepend"):
            port, proto = words[-1].split("/")
            for family, anywhere in (("v4", "0.0.0.0/0"), ("v6", "::/0")):
                six = "6" if family == "v6" else ""
                block = f"### tuple ### allow {proto} {port} {anywhere} any {anywhere} in\n"
                block += f"-A ufw{six}-user-input -p {proto} --dport {port} -j ACCEPT\n"
                self.insert(block, family, first=words[0] == "prepend", loaded=False)
        elif words[0] == "delete":
            self.remove(shlex.join(words[1:]))
        elif words[0] == "default":
            name, policy = {"incoming": ("INPUT", "DROP"), "outgoing": ("OUTPUT", "ACCEPT")}[words[2]]
            text = (self.root / "etc/default").read_text()
            (self.root / "etc/default").write_text(re.sub(f'{name}_POLICY="\\w+"', f'{name}_POLICY="{policy}"', text))
        self.load("ENABLED=yes" in (self.root / "etc/ufw.conf").read_text())

    def load(self, enabled):
        for family, name, six in (("v4", "iptables-S", ""), ("v6", "ip6tables-S", "6")):
            user = f"-A ufw{six}-user-input "
            lines = (RECORDED / name).read_text().splitlines(keepends=True)
            lines = [line for line in lines if not line.startswith(user)]
            written = (self.root / f"etc/user{six}.rules").read_text().splitlines(keepends=True)
            lines += [line for line in written if line.startswith(user)]
            if not enabled:
                # ufw leaves its first chains, empty, and what leads to them.
                left = self.kernel[family].replace("INPUT DROP", "INPUT ACCEPT").splitlines(keepends=True)
                lines = [line for line in left if not line.startswith("-A ufw")]
            self.kernel[family] = "".join(lines)

    def edit(self, name, old, new):
        path = self.root / "etc" / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    def insert(self, block, family, first=False, loaded=True):
        """Put a rule into ufw's file, and what it means into the kernel."""
        six = "6" if family == "v6" else ""
        mark = "### RULES ###\n" if first else "### END RULES ###\n"
        self.edit(f"user{six}.rules", mark, mark + block if first else block + mark)
        if loaded:
            lines = [line + "\n" for line in block.splitlines() if line.startswith("-A")]
            user = re.compile(rf"^-A ufw{six}-user-input ", re.MULTILINE)
            at = user.search(self.kernel[family]).start() if first else len(self.kernel[family])
            self.kernel[family] = self.kernel[family][:at] + "".join(lines) + self.kernel[family][at:]

    def forget(self, rule):
        """Take a rule out of the kernel, and leave it in the files."""
        assert f"{rule}\n" in self.kernel["v4"]
        self.kernel["v4"] = self.kernel["v4"].replace(f"{rule}\n", "")

    def add(self, command, first=False, loaded=True):
        families = [family for family in SPELLINGS if command in blocks(SPELLINGS[family])]
        assert families, command
        for family in families:
            self.insert(blocks(SPELLINGS[family])[command], family, first, loaded)
        return families

    def remove(self, command):
        for family in ("v4", "v6"):
            six = "6" if family == "v6" else ""
            block = blocks((self.root / f"etc/user{six}.rules").read_text()).get(command, "")
            self.edit(f"user{six}.rules", block, "")
