"""A controller's configuration for lab hosts: the checkout's own, with absolute paths and a roster of its own."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import yaml

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent


class Controller:
    """The Salt commands as an operator of these hosts would run them.

    folder
        where its configuration, caches and logs go (pathlib.Path); made if absent
    hosts
        lab hosts that its roster names (list of lab.Host)
    """

    def __init__(self, folder, hosts=()):
        self.folder = pathlib.Path(folder).resolve()
        self.hosts = {}
        for name in ("config", "pillar/hosts", "state/log", "state/cache/proc"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        os.chmod(self.folder, 0o700)
        # config/master's ControlPath is relative to the checkout, where the commands run.
        (REPOSITORY / ".salt").mkdir(exist_ok=True)
        shutil.copy(REPOSITORY / "pillar/top.sls", self.folder / "pillar/top.sls")
        self._write_config()
        for host in hosts:
            self.add(host)

    @property
    def config_dir(self):
        return self.folder / "config"

    def _write_config(self, **options):
        """The checkout's config/master, so that what is tried here is what is shipped."""
        config = yaml.safe_load((REPOSITORY / "config/master").read_text())
        state = self.folder / "state"
        # An entry's own options replace the default ones: it names both.
        self._ssh_options = config["roster_defaults"]["ssh_options"]
        config.update(
            root_dir=str(state),
            file_roots={"base": [str(REPOSITORY / "salt")]},
            pillar_roots={"base": [str(self.folder / "pillar")]},
            roster_file=str(self.config_dir / "roster"),
            **{
                key: [str(REPOSITORY / each) for each in value]
                for key, value in config.items()
                if key.endswith("_dirs")
            },
        )
        config.update(options)
        config["ssh_minion_opts"]["states_dirs"] = [str(REPOSITORY / "_states")]
        for name, path in (("pki_dir", "pki"), ("cachedir", "cache"), ("sock_dir", "run"),
                           ("extension_modules", "extmods"), ("log_file", "log/master"),
                           ("key_logfile", "log/key"), ("ssh_log_file", "log/ssh")):  # fmt: skip
            config[name] = str(state / path)
        (self.config_dir / "master").write_text(yaml.safe_dump(config))

    def add(self, host, id=None, **entry):
        """Name a host in the roster. Its host key was recorded when it was made, and is checked.

        host
            the host (lab.Host)
        id
            its id in roster and pillar (str); its name by default
        entry
            further keys of the roster entry, such as user and sudo
        """
        self.hosts[id or host.name] = {
            "host": host.address,
            "user": "root",
            "priv": str(host.ssh_key),
            "ssh_options": [
                *self._ssh_options,
                f"UserKnownHostsFile={host.known_hosts}",
                "StrictHostKeyChecking=yes",
            ],
            **entry,
        }
        (self.config_dir / "roster").write_text(yaml.safe_dump(self.hosts))

    def pillar(self, id, data):
        """Give a host its pillar.

        id
            the host's id (str)
        data
            the pillar (dict), or its text (str)
        """
        text = data if isinstance(data, str) else yaml.safe_dump(data, sort_keys=False)
        path = self.folder / "pillar/hosts" / f"{id.replace('.', '_')}.sls"
        path.write_text(text)
        path.chmod(0o600)

    def run(self, program, *words, timeout=900, **options):
        """Run a Salt program with this configuration.

        program
            its name (str), such as salt-ssh
        words
            its arguments
        timeout
            seconds until it is killed (int)

        Returns a subprocess.CompletedProcess with text output.
        """
        options = {"capture_output": True, "text": True, "stdin": subprocess.DEVNULL, **options}
        return subprocess.run(self.command(program, *words), cwd=REPOSITORY, timeout=timeout, check=False, **options)

    def command(self, program, *words):
        """The words of a Salt command with this configuration, for one that is not just waited for.

        program
            its name (str), such as salt-run
        words
            its arguments

        Returns a list of words.
        """
        return [str(pathlib.Path(sys.executable).with_name(program)), "-c", str(self.config_dir), *words]

    def salt_ssh(self, target, *words, **options):
        """salt-ssh TARGET WORDS…"""
        return self.run("salt-ssh", target, *words, **options)

    def salt_run(self, *words, **options):
        """salt-run WORDS…"""
        return self.run("salt-run", *words, **options)

    def orchestrate(self, sls, pillar=None, **options):
        """salt-run state.orchestrate SLS pillar=…"""
        words = ["state.orchestrate", sls]
        if pillar is not None:
            words.append(f"pillar={json.dumps(pillar)}")
        return self.salt_run(*words, **options)
