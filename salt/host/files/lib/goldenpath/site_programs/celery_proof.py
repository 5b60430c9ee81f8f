# Managed by Golden Path: local changes are overwritten.
"""
Proves that a site's new Celery worker runs tasks: PROJECT SECONDS, the worker's process id on standard input.

Asks the worker (by its process, so that it is the new one) to read a queue of its own for a moment, and sends one of
Celery's built-in tasks there: what waits in the site's queues does not come first. A worker that is busy with the
site's own tasks has proven the same. A worker that takes no commands cannot be asked, and that is told.

It runs under the site's own interpreter and imports nothing of the engine.
"""

import sys
import time
import uuid

# The folder that is worked in, and not this program's.
sys.path[0] = ""

from celery.app.utils import find_app  # noqa: E402

project, seconds = sys.argv[1], float(sys.argv[2])
app = find_app(project)
queue = f"proof-{uuid.uuid4().hex}"
pid = int(sys.stdin.read())
if not app.conf.worker_enable_remote_control:
    print("::unproven its Celery has worker_enable_remote_control off")
    sys.exit()
# Found by its process and not by its name: the host may have got another one since the unit was read.
ask = app.control.inspect(timeout=0.2, limit=1)
end, asked = time.monotonic() + seconds, False
why = "it does not answer"
while time.monotonic() < end:
    node, stats = next(iter((ask.stats() or {}).items()), (None, None))
    if stats and stats["pid"] == pid:
        if stats["total"]:
            break
        why = "it takes none"
        if not asked:
            app.control.add_consumer(queue, destination=[node], reply=True, timeout=2, limit=1)
            app.send_task("celery.accumulate", args=[1], queue=queue, expires=60, ignore_result=True)
            asked = True
    time.sleep(0.05)
else:
    sys.exit(why)
if asked:
    app.control.cancel_consumer(queue, destination=[node], reply=True, timeout=2, limit=1)
