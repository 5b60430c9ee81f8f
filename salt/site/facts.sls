# Managed by Golden Path. What the engine knows of each site without a pillar, as timers and people on the host need it.
include:
  - base

{%- for slug, site in pillar.sites.items() %}
{%- set user = "sum-" ~ slug %}
{%- set root = "/srv/sum/" ~ slug %}
{%- set public = site.repo | regex_replace("^(https?://)[^/@]*@", "\\1") %}

# What modules that are called without a pillar need to know; no secrets.
site-facts-{{ slug }}:
  file.managed:
    - name: /etc/goldenpath/sites/{{ slug }}.json
    - contents: |
        {{ {"slug": slug, "user": user, "root": root, "domains": site.domains, "health": site.health,
            "tls": site.tls, "celery": site.celery, "redis": site.redis,
            "postgres": site.postgres, "workers": site.workers, "limits": site.limits, "max_body": site.max_body,
            "repo": public, "ref": site.ref,
            "directory": site.directory, "project": site.project, "settings": site.settings,
            "requirements": site.requirements, "dependencies": site.dependencies, "env_names": site.env_names, "python": site.python, "migrations": site.migrations,
            "wsgi": site.wsgi, "asgi": site.asgi, "drain": site.drain, "media": site.media, "build": site.build, "release": site.release,
            "processes": site.processes, "schedules": site.schedules,
            "secrets": site.secrets | list} | tojson }}
    - mode: '0644'
    - require:
        - file: base-state-directory

{%- if site.repo != public %}

# For a deploy that no controller began; the file of facts is for everybody to read.
site-repository-{{ slug }}:
  file.managed:
    - name: /etc/goldenpath/repositories/{{ slug }}
    - contents: {{ site.repo | tojson }}
    - contents_newline: True
    - makedirs: True
    - dir_mode: '0700'
    - mode: '0600'
    - show_changes: False
    - require:
        - file: base-state-directory
{%- endif %}
{%- endfor %}
