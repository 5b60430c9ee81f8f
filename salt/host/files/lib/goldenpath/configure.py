"""
What changed for a site, its variables, secrets, workers or units, is a release: of the live one's commit, without a
build, proven beside it and switched to as a deploy's.
"""

from . import activate, history, progress, run, steps, text
from . import release as releases
from .errors import Failed


def configure(site, held, who="state.apply"):
    """
    Release the live commit with the environment and the units of now. The steps: clean, share, static, start, prove,
    switch, front door, celery, drain, prune.

    held: the site's lock. who: who asked for it, for the history. Returns the record that went into the history. Raises
    Failed; the release before is serving then, with the environment that it had.
    """
    with progress.shown(site.slug) as told:
        this = run.Run(site, who, held, told.notes)
        with this.step("clean"):
            steps.clean(this)
        before = site.current
        made = history.built(site, before) or {}
        record = {"release": None, "action": "configure", "ref": made.get("ref", "?"), "sha": made.get("sha"),
                  "who": who, "when": text.now(), "migrations": [], "dump": None, "from": before}  # fmt: skip
        try:
            with this.step("share"):
                release, sha = steps.again(this, before)
                record.update(release=release, sha=sha)
                this.unfinished(record)
            with this.step("static"):
                if steps.static(this, release):
                    raise Failed(
                        f"migrations are pending with what changed. Try: goldenpath deploy {site.slug} {record['ref']}"
                    )
            activate.activate(this, release, sha, before)
        except Exception as exc:
            raise releases.failed(this, record, before, exc) from exc
        releases.finished(this, record)
        told.said = f"{releases.lives(site.slug, record)}, with what changed"
    return {**record, "steps": this.steps, "notes": this.notes, "before": before}
