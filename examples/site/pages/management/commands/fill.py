"""Give the site some content, as a backup or a restore wants it."""

import hashlib
import json

from django.core.files.base import ContentFile
from django.core.files.storage import default_storage
from django.core.management.base import BaseCommand, CommandError

from pages.models import Note


class Command(BaseCommand):
    """`manage.py fill 1000 20`"""

    help = "Add rows to the database and files to the media; each file holds its own content's pattern."

    def add_arguments(self, parser):
        """Arguments of the command."""
        parser.add_argument("rows", type=int, help="how many notes to add")
        parser.add_argument("media", type=int, help="how many files to add under media/fill/")
        parser.add_argument("--size", type=int, default=4096, help="bytes of each file")

    def handle(self, *args, rows, media, size, **options):
        """Add them."""
        if min(rows, media, size) < 0:
            raise CommandError("rows, media and --size are 0 or more")
        start = Note.objects.count()
        notes = (
            Note(title=f"Note {n}", body=hashlib.sha256(b"%d" % n).hexdigest() * 4) for n in range(start, start + rows)
        )
        Note.objects.bulk_create(notes, batch_size=1000)
        for n in range(media):
            pattern = hashlib.sha256(b"%d %d" % (start, n)).digest()
            default_storage.save("fill/file.bin", ContentFile((pattern * (size // 32 + 1))[:size]))
        files = len(default_storage.listdir("fill")[1]) if default_storage.exists("fill") else 0
        self.stdout.write(json.dumps({"rows": start + rows, "media": files}))
