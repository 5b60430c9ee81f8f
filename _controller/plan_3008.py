"""
What the pillars of many hosts have in common, looked up once while a plan is made: the names of files. Each host still
gets loaders and a file client of its own, with its own options, so that no value can go from one to another.

====================================  ==================================================  ==============
what                                  why                                                 seen in
====================================  ==================================================  ==============
``LazyLoader._refresh_file_mapping``  27 listings of Salt's own folders for each host     3008.3
``Pillar.__gather_avail``             a listing of all pillar files for each host         3008.3
``get_file_client``                   a file server for each host, which no pillar asks   3008.3
====================================  ==================================================  ==============

With any other Salt than 3008 all stays as Salt has it, and afterwards in any case.
"""

import contextlib
import copy

import salt.fileclient
import salt.loader.lazy
import salt.pillar
import salt.version

_AVAILABLE = "_Pillar__gather_avail"


def __virtual__():
    return False, "it is no grain: _modules/deployment.py loads it"


@contextlib.contextmanager
def shared():
    """
    Compile pillars within it: the second one is quicker. Not for a process that goes on: what is added to a folder
    meanwhile is not seen.
    """
    if not salt.version.__version__.startswith("3008."):
        yield
        return
    loader, pillar, client = salt.loader.lazy.LazyLoader, salt.pillar.Pillar, salt.fileclient.get_file_client
    theirs = loader._refresh_file_mapping, getattr(pillar, _AVAILABLE)
    loader._refresh_file_mapping = _once(theirs[0], _folders, ("file_mapping", "suffix_map", "suffix_order"))
    setattr(pillar, _AVAILABLE, _listed(theirs[1]))
    salt.fileclient.get_file_client = lambda opts, own=False: client(opts, own) if own else _Later(client, opts)
    try:
        yield
    finally:
        loader._refresh_file_mapping = theirs[0]
        setattr(pillar, _AVAILABLE, theirs[1])
        salt.fileclient.get_file_client = client


def _folders(loader):
    """All that decides which files a loader finds."""
    switches = [loader.opts.get(each, True) for each in ("cython_enable", "enable_zip_modules")]
    return repr([
        loader.module_dirs, loader.static_modules, sorted(loader.disabled), loader.suffix_order,
        loader.opts["optimization_order"], switches,
    ])  # fmt: skip


def _once(theirs, key, names):
    known = {}

    def refresh(self):
        asked = key(self)
        if asked not in known:
            theirs(self)
            known[asked] = {name: copy.copy(getattr(self, name)) for name in names}
        for name in names:
            # Of its own: a loader adds what it is sent to what it has.
            setattr(self, name, copy.copy(known[asked][name]))

    return refresh


def _listed(theirs):
    known = {}

    def available(self):
        asked = repr((self.opts["pillar_roots"], self._get_envs(), self.opts.get("file_ignore_regex"),
                      self.opts.get("file_ignore_glob")))  # fmt: skip
        if asked not in known:
            known[asked] = theirs(self)
        return {env: list(names) for env, names in known[asked].items()}

    return available


class _Later:
    """A host's file client, made when somebody asks it."""

    def __init__(self, make, opts):
        self._make, self._opts, self._client = make, opts, None

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        if self._client is None:
            self._client = self._make(self._opts, False)
        return getattr(self._client, name)

    def destroy(self):
        if self._client is not None:
            self._client.destroy()
