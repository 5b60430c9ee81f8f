"""What a text of the pillar has to look like: each check raises ValueError(problem) or ValueError(problem, hint)."""

import datetime
import ipaddress
import keyword
import posixpath
import re
import shlex

from . import words

# Set by the tree itself: a second value would break the site or, worse, half of it.
OWN_VARIABLES = re.compile(
    r"DJANGO_(SETTINGS_MODULE|STATIC_ROOT|MEDIA_ROOT|DB_.*)|SITE_DOMAIN"
    r"|GIT_SHA|RELEASE|APP_DIR|PROJECT|VENV|VIRTUAL_ENV|WEB_(APPLICATION|WORKER)"
    r"|PATH|PYTHON(PATH|HOME|STARTUP)|LD_.*|HOME|USER|LOGNAME|SHELL|PWD"
    r"|(NOTIFY|LISTEN|WATCHDOG|INVOCATION)_.*|(RUNTIME|STATE|CACHE|LOGS|CREDENTIALS|CONFIGURATION)_DIRECTORY|MAINPID"
)

# What modules/site_env gives every site under the usual names, unless the pillar says otherwise.
USUAL = (
    "SECRET_KEY", "DATABASE_URL", "ALLOWED_HOSTS", "DJANGO_ALLOWED_HOSTS", "CSRF_TRUSTED_ORIGINS",
    "DJANGO_CSRF_TRUSTED_ORIGINS", "REDIS_URL", "CELERY_BROKER_URL", "CELERY_RESULT_BACKEND",
)  # fmt: skip


def _slug(name):
    if not isinstance(name, str):
        raise ValueError(f"must be text, but YAML reads the name as {words.kind(name)}", "put the name in quotes")
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise ValueError("is not a slug")
    if len(name) > 28:
        raise ValueError(f"is not a slug, with {len(name)} characters")


def _redis_memory(text):
    found = re.fullmatch(r"([1-9][0-9]{0,6})(mb|gb)", text.lower()) if isinstance(text, str) else None
    if isinstance(text, str) and not found:
        raise ValueError("is not an amount of memory")
    if found and found[2] == "mb" and int(found[1]) < 16:
        raise ValueError("is too little for Redis")


def _domain(text):
    if not isinstance(text, str):
        return
    name = text.lower()
    if not text.isascii():
        raise ValueError("is not ASCII", f"write it in its ASCII form, {_punycode(name)}")
    if "://" in name:
        raise ValueError("has a scheme")
    if "*" in name:
        raise ValueError("is a wildcard", "name each host by itself")
    if re.fullmatch(r"[0-9.]+|\[?[0-9a-f.]*:[0-9a-f.]*:[0-9a-f:.]*]?", name):
        raise ValueError("is an address, and certificates are for names")
    if re.search(r":\d*$", name):
        raise ValueError("has a port")
    label = r"(?!-)[a-z0-9-]{1,63}(?<!-)"
    if len(name) > 253 or not re.fullmatch(rf"{label}(\.{label})*", name):
        raise ValueError("is not a host name")


def _punycode(name):
    try:
        return name.encode("idna").decode()
    except UnicodeError:
        return "as in xn--…"


def _git_repository(text):
    if not isinstance(text, str):
        return
    if re.match(r"[^/@:]*::", text):
        raise ValueError("names a remote helper, which git would run as a program")
    if not text or text.startswith("-") or words.has_space(text):
        raise ValueError("is not the address of a repository")
    url = re.fullmatch(r"(\w[\w+.-]*)://(.*)", text)
    if url and url[1] == "file":
        right = url[2].startswith("/")
    elif url:
        host = url[2].split("/", 1)[0].rpartition("@")[2]
        right = url[1] in ("https", "http", "ssh", "git") and bool(host) and not host.startswith("-")
    else:
        right = text.startswith("/") or re.fullmatch(r"([^@:/-][^@:/]*@)?[^@:/-][^@:/]*:[^:].*", text)
    if not right:
        raise ValueError("is neither a URL that git knows nor an absolute path")


def _git_ref(text):
    if not isinstance(text, str):
        return
    if not 1 <= len(text) <= 200:
        raise ValueError(f"has {len(text)} characters, and a ref has 1 to 200")
    found = next((bad for bad in ("..", "@{", "//", *"~^:?*[\\") if bad in text), None)
    if found:
        raise ValueError(f"contains {found!r}, which git refuses in names")
    if words.has_space(text):
        raise ValueError("contains a space or a control character, which git refuses in names")
    if text.startswith(("-", "/", ".")) or text.endswith(("/", ".")) or text == "@":
        raise ValueError("begins or ends with a character that git refuses there")
    if any(part.startswith(".") or part.endswith(".lock") for part in text.split("/")):
        raise ValueError("has a part that begins with a dot or ends in .lock, which git refuses")


def _python_name(text):
    if not isinstance(text, str):
        return
    parts = text.split(".")
    if len(text) > 200 or not all(p.isascii() and p.isidentifier() and not keyword.iskeyword(p) for p in parts):
        raise ValueError("is not a Python name")


def _inner_path(text):
    if not isinstance(text, str):
        return
    if text.startswith(("/", "~")) or ".." in text.split("/"):
        raise ValueError("leads out of the repository")
    if not re.fullmatch(r"[A-Za-z0-9._@+][A-Za-z0-9._@+/-]{0,199}", text):
        raise ValueError("is not a path of letters, digits and ._@+-/")


def _inner_file(text):
    _inner_path(text)
    if isinstance(text, str) and (text.endswith("/") or posixpath.normpath(text) == "."):
        raise ValueError("is a folder and not a file")


def _matching(pattern, fault):
    """A format that is one regular expression; what is no text is the type's to tell."""

    def check(text):
        if isinstance(text, str) and not re.fullmatch(pattern, text):
            raise ValueError(fault)

    return check


# apt takes `name-` for "remove name": so could a site's packages take Redis away.
_debian_package = _matching(r"[a-z0-9][a-z0-9+.-]*[a-z0-9+.]", "is not the name of a Debian package")

_postgres_extension = _matching(r"[a-z][a-z0-9_-]{0,62}", "is not the name of a Postgres extension")


def _process_name(name):
    if not (isinstance(name, str) and re.fullmatch(r"[a-z][a-z0-9]{0,19}", name)):
        raise ValueError("is not a name for a process", "use up to 20 lower-case letters and digits, a letter first")
    if name in ("gunicorn", "celery", "celerybeat", "run"):
        raise ValueError("is a name of the tree's own", "choose another one")


_dependency_name = _matching(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?", "is not the name of a group or an extra")

_wsgi = _matching(r"(<project>|[A-Za-z_]\w*)(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\(\))?", "is not module:name")

_python_version = _matching(r"auto|3\.\d{1,2}(\.\d{1,2})?", "is no version of Python")


def _requirement(text):
    if not isinstance(text, str):
        return
    if not text.strip() or text.lstrip().startswith("-") or re.search(r"[\x00-\x1f\x7f]", text):
        raise ValueError("is not one requirement")
    if re.search(r"https?://[^/\s]*@", text):
        raise ValueError(
            "holds credentials, which every list of processes would show",
            "name the index in the host's /etc/pip.conf, or give the host a key for the repository",
        )


def _command(text):
    if not isinstance(text, str):
        return
    try:
        words = shlex.split(text)
    except ValueError as exc:
        raise ValueError(f"cannot be split into words: {exc}".lower()) from None
    if not words or words[0].startswith("-") or re.search(r"[\x00-\x1f\x7f]", text):
        raise ValueError("is not a command")
    if any(word in ("&&", "||", "|", ";", ">", "<", ">>") for word in words):
        raise ValueError("is a line of shell", "write each command by itself, or call a script of the repository")


_moved_path = _matching(r"/(?!/)[A-Za-z0-9._~%@+,-][A-Za-z0-9._~/%@+,-]{0,199}\*?", "is not the path of a page")


def _moved_to(text):
    if not isinstance(text, str):
        return
    if not re.fullmatch(
        r"(https?://[A-Za-z0-9.-]+(:\d{1,5})?)?(/(?!/)[A-Za-z0-9._~/?&=%@:;+,#-]{0,300}(/\*)?|/\*)?", text
    ):
        raise ValueError("is neither a path nor a URL")
    if not text:
        raise ValueError("is empty")


# Types that sshd of today takes; options before the type would be a way around the door.
_public_key = _matching(
    r"(ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(256|384|521)|sk-ssh-ed25519@openssh\.com|sk-ecdsa-sha2-nistp256@openssh\.com)"
    r" [A-Za-z0-9+/]{40,2000}={0,3}( [^\n\"]{0,100})?",
    "is no public key",
)


def _day(text):
    if not isinstance(text, str):
        return
    try:
        datetime.date.fromisoformat(text)
    except ValueError:
        raise ValueError("is no day") from None
    if len(text) != 10:
        raise ValueError("is no day")


_user_name = _matching(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}", "is not the name of a user")


_password_hash = _matching(r"\$2[aby]\$(0[4-9]|1\d)\$[./A-Za-z0-9]{53}", "is not a bcrypt hash")


def _network(text):
    if not isinstance(text, str):
        return
    try:
        ipaddress.ip_network(text)
    except ValueError as exc:
        raise ValueError(
            "is neither an address nor a network" if "host bits" not in str(exc) else "has bits beyond its mask"
        ) from None


_body_size = _matching(r"[1-9][0-9]{0,4}[mMgG][bB]", "is not a size in mb or gb")

_url_path = _matching(r"/(?!/)[A-Za-z0-9._~=:@%/?&+,-]{0,199}", "is not a path of a URL")


def _variable(name):
    if not (isinstance(name, str) and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name)):
        raise ValueError("is not a name for an environment variable", "use letters, digits and underscores")
    if OWN_VARIABLES.fullmatch(name.upper()):
        raise ValueError("is set by Golden Path itself", "remove it here")
    if name in ("DJANGO_SECRET_KEY", "SECRET_KEY"):
        raise ValueError("is a secret", "move it to secrets, or remove it and the host makes one")


def _secret(name):
    if name not in ("DJANGO_SECRET_KEY", "SECRET_KEY"):
        _variable(name)


def _variable_value(value):
    if isinstance(value, str) and re.search(r"[^\n\t\x20-\x7e\x80-\U0010ffff]|[\x80-\x9f]", value):
        raise ValueError("contains a control character", "remove it; line breaks and tabs may stay")
    if isinstance(value, str) and len(value) > 32768:
        raise ValueError(f"has {len(value)} characters", "keep it under 32768")


def _restic_repository(text):
    if not isinstance(text, str):
        return
    if not text or words.has_space(text):
        raise ValueError("is empty or has a space")
    kinds = r"sftp:(//)?[^-/:@\s][^:\s]*[:/].+|s3:.+|rest:https?://[^/]+/.*|rclone:.+|(b2|azure|gs|swift):.+"
    if not re.fullmatch(r"/[A-Za-z0-9._/-]+", text) and not re.fullmatch(kinds, text):
        raise ValueError("is no place that restic knows")
    if ".." in text.split("/") or re.match(r"/(srv/sum|etc|proc|sys|dev|run|tmp)(/|\Z)", text):
        raise ValueError("is a place for other things")


def _restic_variable(name):
    if not (isinstance(name, str) and re.fullmatch(r"[A-Z][A-Z0-9_]*", name)):
        raise ValueError("is not a name for an environment variable", "use capitals, digits and underscores")
    if re.fullmatch(r"RESTIC_(REPOSITORY|PASSWORD|CACHE).*|PATH|HOME|LANG|LD_.*|PYTHON.*", name):
        raise ValueError("is set by Golden Path itself", "remove it here")


# systemd-analyze has the last word on the host; here only what would break a unit file.
_calendar = _matching(r"[A-Za-z0-9*][A-Za-z0-9*:,./~ _-]{0,79}", "is no calendar of systemd")


def _interval(text):
    found = re.fullmatch(r"([1-9][0-9]{0,3})([mh])", text) if isinstance(text, str) else None
    minutes = int(found[1]) * {"m": 1, "h": 60}[found[2]] if found else 0
    if isinstance(text, str) and not 15 <= minutes <= 720:
        raise ValueError("is not between 15m and 12h")


_web_address = _matching(r"https?://[A-Za-z0-9.:@%_\[\]~-]+(/[!-~]*)?", "is not the address of a web server")

_login_name = _matching(r"[!-~]{1,200}", "is not a name without spaces")


_mail_address = _matching(r"[A-Za-z0-9._%+][A-Za-z0-9._%+-]*(@[A-Za-z0-9.-]+)?", "is not a mail address")


def _secret_text(text):
    _variable_value(text)
    if isinstance(text, str) and len(text.strip()) < 12:
        raise ValueError("is too short")


def _private_key(text):
    _variable_value(text)
    if isinstance(text, str) and not re.match(r"\s*-----BEGIN [A-Z ]*PRIVATE KEY-----\n", text):
        raise ValueError("is no private key")


FORMATS = {
    "slug": _slug,
    "redis-memory": _redis_memory,
    "domain": _domain,
    "git-repository": _git_repository,
    "git-ref": _git_ref,
    "python-name": _python_name,
    "inner-path": _inner_path,
    "inner-file": _inner_file,
    "dependency-name": _dependency_name,
    "requirement": _requirement,
    "python-version": _python_version,
    "process-name": _process_name,
    "wsgi-application": _wsgi,
    "command": _command,
    "debian-package": _debian_package,
    "postgres-extension": _postgres_extension,
    "body-size": _body_size,
    "moved-path": _moved_path,
    "moved-to": _moved_to,
    "user-name": _user_name,
    "public-key": _public_key,
    "day": _day,
    "password-hash": _password_hash,
    "network": _network,
    "url-path": _url_path,
    "variable": _variable,
    "secret": _secret,
    "variable-value": _variable_value,
    "restic-repository": _restic_repository,
    "restic-variable": _restic_variable,
    "calendar": _calendar,
    "interval": _interval,
    "web-address": _web_address,
    "mail-address": _mail_address,
    "login-name": _login_name,
    "secret-text": _secret_text,
    "private-key": _private_key,
}
