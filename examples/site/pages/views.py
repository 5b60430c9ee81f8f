"""The site's pages."""

import hashlib
import math
import time

from django.conf import settings
from django.core.cache import cache
from django.core.files.storage import default_storage
from django.db.models import F
from django.http import HttpResponse, JsonResponse
from django.shortcuts import render
from django.utils import timezone
from django.utils.crypto import get_random_string
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_http_methods, require_POST, require_safe

from pages import health as site_health
from pages import heartbeat
from pages import tasks as background
from pages.models import Counter, Note, Run

MOST_TASKS = 2000
LONGEST_ANSWER = 10
LARGEST_UPLOAD = 2 * 1024 * 1024


def _number(text, least, most):
    """A number within bounds, or None for a text that is none."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and least <= value <= most else None


def _visits():
    if not Counter.objects.filter(name="visits").update(value=F("value") + 1):
        Counter.objects.get_or_create(name="visits", defaults={"value": 1})
    return Counter.objects.get(name="visits").value


@require_safe
@never_cache
def home(request):
    """What the site used to make this very page."""
    return render(
        request,
        "pages/home.html",
        {
            "domain": settings.SITE_DOMAIN,
            "visits": _visits(),
            "notes": Note.objects.count(),
            "cached": cache.get_or_set("pages:made", timezone.now, timeout=60),
            "last": Run.objects.order_by("-pk").first(),
            "worker": heartbeat.alive().first(),
            "git_sha": settings.GIT_SHA,
            "release": settings.RELEASE,
        },
    )


@require_safe
@never_cache
def health(request):
    """The state of the site: 200 while it can serve, 503 when it cannot."""
    status, checks = site_health.check()
    return JsonResponse(
        {"status": status, "checks": checks, "git_sha": settings.GIT_SHA, "release": settings.RELEASE},
        status=503 if status == "unhealthy" else 200,
    )


@require_GET
@never_cache
def slow(request):
    """An answer that takes its time: a deploy must let it finish."""
    seconds = _number(request.GET.get("seconds", "3"), 0, math.inf)
    if seconds is None:
        return JsonResponse({"error": "seconds is a number, 0 or more"}, status=400)
    seconds = min(seconds, LONGEST_ANSWER)
    time.sleep(seconds)
    return JsonResponse({"seconds": seconds, "git_sha": settings.GIT_SHA, "release": settings.RELEASE})


@csrf_exempt
@require_POST
def upload(request):
    """Keep a file among the media, under a name of ours and with no ending that a browser would run."""
    bound = f"at most {LARGEST_UPLOAD} bytes"
    # Asked before the body is read; the rest of the form is small.
    if int(request.META.get("CONTENT_LENGTH") or 0) > LARGEST_UPLOAD + 4096:
        return JsonResponse({"error": bound}, status=413)
    file = request.FILES.get("file")
    if file is None:
        return JsonResponse({"error": "send a file in the field `file`"}, status=400)
    if file.size > LARGEST_UPLOAD:
        return JsonResponse({"error": bound}, status=413)
    digest = hashlib.sha256()
    for chunk in file.chunks():
        digest.update(chunk)
    file.seek(0)
    name = default_storage.save(f"uploads/{get_random_string(20)}.bin", file)
    return JsonResponse({"url": default_storage.url(name), "sha256": digest.hexdigest(), "size": file.size}, status=201)


@csrf_exempt
@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
def tasks(request):
    """Send tasks to the queue (POST: `count`, and `seconds` for each), or count what became of them."""
    if request.method != "POST":
        return JsonResponse(background.counts())
    count = _number(request.POST.get("count", "1"), 1, MOST_TASKS)
    seconds = _number(request.POST.get("seconds", "0"), 0, background.LONGEST)
    if count is None or count != int(count):
        return JsonResponse({"error": f"count is a whole number from 1 to {MOST_TASKS}"}, status=400)
    if seconds is None:
        return JsonResponse({"error": f"seconds is a number from 0 to {background.LONGEST}"}, status=400)
    try:
        sent = background.enqueue(int(count), seconds)
    except background.QueueError as exc:
        return JsonResponse({"error": str(exc)}, status=503)
    return JsonResponse({"enqueued": len(sent), "first": sent[0][0], "last": sent[-1][0]}, status=202)


def server_error(request):
    """A page for what went wrong that itself needs neither database nor cache nor template."""
    return HttpResponse("Something went wrong here. Please try again in a moment.\n", "text/plain", status=500)
