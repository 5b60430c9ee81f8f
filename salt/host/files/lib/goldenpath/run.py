"""One deploy or rollback of one site: its steps, its notes, and what it has to undo."""

import contextlib
import time

from . import files, history, postgres, progress, text
from .errors import Failed


class Run:
    """
    What the steps of a deploy or rollback share.

    site: the site. who: who asked for it. held: the site's lock, which tells others how far it is. notes: where its
    remarks go.
    """

    def __init__(self, site, who, held, notes=None):
        self.site, self.who, self.held = site, who, held
        self.began = time.time()
        self.step_name = "start"
        self.steps, self.notes = {}, [] if notes is None else notes
        # The migrations from before ours; None until ours begin.
        self.had = None
        # What they do that the serving release may not live with: [migration, what, whether that is sure].
        self.operations = []

    @contextlib.contextmanager
    def step(self, name):
        """Announce a step, and how it ended."""
        self.step_name = name
        self.held.step(name)
        progress.tell(self.site.slug, name, "begun")
        began = time.monotonic()
        try:
            yield
        except BaseException:
            progress.tell(self.site.slug, name, "failed", time.monotonic() - began)
            raise
        self.steps[name] = round(time.monotonic() - began, 2)
        progress.tell(self.site.slug, name, "done", self.steps[name])

    def masked(self, told):
        """What the site's own programs print, without what the pillar calls secret."""
        return text.masked(told, self.site.secrets())

    def why(self, exc):
        """Why something failed: one sentence, and what stands below it, both without secrets."""
        sentence, _, below = self.masked(reason(exc)).partition("\n")
        return sentence, "\n".join(part for part in (below, self.masked(getattr(exc, "tail", ""))) if part)

    def had_visitors(self):
        """Whether the site serves: an operator's maintenance page means that it does not."""
        return not self.site.maintenance()

    def seconds(self):
        """How long it took."""
        return round(time.time() - self.began, 2)

    def unfinished(self, record):
        """What a deploy that is killed leaves in its release's folder: enough to finish its record."""
        files.write_json(self.site.release(record["release"], ".unfinished"), {**record, "had": self.had}, mode=0o644)

    def migrations(self):
        """The migrations that the database has had since ours began."""
        return [name for name in postgres.applied(self.site) if name not in self.had]


def reason(exc):
    """Why something failed, as a sentence; of what nobody expected, its kind too."""
    return str(exc) if isinstance(exc, (Failed, OSError)) else f"{type(exc).__name__}: {exc}"


def remember(site, record):
    """Write a record of what failed; a full disk must not hide why."""
    with contextlib.suppress(OSError):
        history.add(site, record)
