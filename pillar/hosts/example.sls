#!yaml
# The pillar of one host, with every key there is. Copy it to pillar/hosts/<id>.sls, where <id> is the host's name in
# config/roster with underscores for dots (web1.example.net: pillar/hosts/web1_example_net.sls), and edit it there.
# git ignores those copies. What is wrong with one, all at once: salt-ssh web1 state.apply test=True
# (salt-run pillar.show_pillar keeps the secrets that it shows in the controller's job cache, in plain text.)
#
# The first line turns Jinja off, so that a password may hold {{ or {%. To keep secrets encrypted in the file, make it
# `#!yaml|gpg` and write them as PGP messages (Salt's gpg renderer; the private key stays on the controller).

redis:                          # required on every host: no key turns it off
  maxmemory: 256mb              # mb or gb, at least 16mb; without it, derived from the host's memory

sites:                          # `sites: {}` for a host without any
  acme-kitchens:                # the slug, also in user, unit and database names: at most 28 of a-z, 0-9 and -

    # Required
    domains: [acme.example, www.acme.example]     # the main one first; each belongs to one site
    repo: https://git.example/acme.git            # any git URL or absolute path that the host can read
    ref: v1.4.2                 # tag, branch or commit; a deploy releases exactly this. Quote a number: "1.10"
    project: acme_kitchens      # the package with wsgi.py and, if any, celery.py
    redis:
      cache: 0                                    # databases, 0 to 63, each used once on the host
      broker: 1
      own: true                                   # a Redis that no other site reaches; always so where there are several
      maxmemory: 128mb                            # of it; else an equal part of the host's

    # What follows shows the defaults, except where it says otherwise
    settings: acme_kitchens.settings.production   # default: <project>.settings.production
    workers: 3                  # gunicorn's processes, 1 to 64
    celery:
      worker: false             # true: run a Celery worker
      beat: false               # true: run the scheduler as well; needs the worker
      concurrency: 2            # the worker's processes, 1 to 64
    processes: {}               # further daemons, as in {rq: {command: manage.py rqworker, stop: 60}}
    # Commands that run at times, as in {sessions: {command: manage.py clearsessions, at: daily, limit: 3600}}
    schedules: {}
    directory: .                # where manage.py lies in the repository
    requirements: auto          # or a file: requirements.txt, uv.lock, poetry.lock, pyproject.toml and their like
    dependencies: {groups: [], extras: [], add: []}   # beyond it, as in add: [sentry-sdk==2.30.0]
    python: auto                # or a version, "3.13": uv brings it where the distribution has it not
    wsgi: <project>.wsgi:application              # module:name, where it is another one
    asgi: false                 # true: an ASGI application, with WebSockets; default of wsgi: <project>.asgi:application
    drain: 10                   # seconds that WebSockets of the release before get to end; for asgi
    build: []                   # commands before collectstatic, as in [npm ci, npm run build]
    release: []                 # commands after the migrations, as in [manage.py createcachetable]
    migrations: refuse          # those that the serving release cannot live with; or maintenance, accept
    packages: [libmagic1]       # from the distribution, by any name that apt knows; default: none
    postgres:
      extensions: []            # those that only a superuser creates, such as postgis; others come by migrations
    limits:                     # of the host, so that neighbours, Redis and Postgres keep theirs
      memory: 75                # per cent; default: 75 for a host's only site, 50 for each of two, 40 for more
      tasks: 1024               # processes and threads
      statement_timeout: 300    # seconds for one SQL statement of a web process
    max_body: 100mb             # the largest request; a larger one is answered with 413
    media: public               # or private: the site itself decides, by X-Accel-Redirect or X-Sendfile
    front:                      # what the front door does besides
      canonical: false          # true: the other domains redirect to the first
      redirects: {}             # as in {/old/: /new/, /blog/*: "https://blog.example/*"}
      basic_auth: {}            # names and bcrypt hashes (caddy hash-password), as in {client: "$2a$14$…"}
      allow: []                 # addresses and networks that may come; empty: everybody
      proxies: []               # networks of a CDN in front, whose word on a visitor's address counts
      noindex: false            # true: search engines leave the site out
      hsts: 31536000            # seconds for which browsers insist on https; 0: the site says so itself, or nobody
    health: /health/            # the path that answers how the site is
    tls: acme                   # or internal: Caddy's own authority, for a lab or a private network
    env:                        # further environment variables; default: none. Quote what must keep its form: "0755"
      EMAIL_HOST: smtp.example
    env_names: {}               # what the site reads by names of its own, as in {APP_SECRET: DJANGO_SECRET_KEY}
    secrets:                    # as env, for what nobody may read; default: none
      SENTRY_DSN: https://public-key@sentry.example/1
      # DJANGO_SECRET_KEY: made on the host when it is absent here

backup:                         # what follows shows the defaults, except where it says otherwise
  repository: /var/backups/goldenpath/restic    # any that restic knows; THIS ONE IS LOST WITH THE HOST. Better:
                                # sftp:backup@vault.example:/srv/restic, with `known_hosts` and perhaps `ssh_key`
  # password: default: made on the host. KEEP A COPY OF IT ELSEWHERE
  # known_hosts: vault.example ssh-ed25519 AAAA…  # for sftp; default: the first key that is seen is trusted
  # ssh_key: for sftp, a private key; default: made on the host, which shows /etc/goldenpath/backup-ssh.pub
  env: {}                       # what restic needs for other places, such as AWS_ACCESS_KEY_ID; secrets
  # every: 1h                   # dumps of the databases between the nights; default: none
  keep: {daily: 7, weekly: 4, monthly: 6}
  schedule:                     # as systemd writes calendars; up to half an hour later
    backup: "*-*-* 02:30:00"
    drill: "Sun *-*-* 04:30:00"
    check: "Sat *-*-* 04:30:00"
  warn_after: {backup: 36, drill: 216}    # hours: a deploy warns and an alert is sent
  refuse_after: {backup: 168, drill: 720}   # hours: a deploy is refused; default: never
  heartbeat:                    # asked after each job that went well; default: none
    backup: https://heartbeat.example/3f9c
    drill: https://heartbeat.example/77b1
    check: https://heartbeat.example/a02e

operators:                      # who may deploy sites without being root; default: nobody
  ada:                          # ssh goldenpath@HOST deploy acme-kitchens v1.5.0
    key: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIExampleExampleExampleExampleExampleExample00 ada@laptop
    sites: [acme-kitchens]
    until: "2027-01-31"         # the last day; default: no end

alerts:                         # failed backups, drills and units, once an hour for each; default: none
  webhook: https://hooks.example/T01/B02    # takes JSON by POST
  format: json                  # or slack, for Slack and Mattermost
  heartbeat: https://heartbeat.example/0c44   # asked every minute in which nothing is wrong; default: none
  mail: ops@acme.example        # through this server; without `smtp` through the host's own sendmail
  smtp: {host: smtp.example, port: 587, user: alerts, from: alerts@acme.example}
                                # password: in it, where `user` has one
