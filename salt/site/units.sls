# Managed by Golden Path. Per site: what runs its live release, in one sandbox.
include:
  - base
  - host
  - redis
  - postgres
  - site

{%- if pillar.sites %}

# One sandbox for every unit of every site.
site-sandbox:
  file.managed:
    - name: /etc/systemd/system/sum-.service.d/sandbox.conf
    - source: salt://host/files/lib/goldenpath/sandbox.conf
    - makedirs: True
    - mode: '0644'

site-reload:
  module.run:
    - name: service.systemctl_reload
    - onchanges:
        - file: site-sandbox
{%- endif %}

# Its workers would go on sending mail.
site-retired:
  release.retired:
    - name: sites
    - sites: {{ pillar.sites | list | tojson }}
    - require:
        - file: host-command-goldenpath

{%- for slug, site in pillar.sites.items() %}
{%- set user = "sum-" ~ slug %}
{#- A hyphen in the name of a slice makes it a part of another one (systemd.slice(5)). -#}
{%- set slice = "sum-" ~ slug | replace("-", "\\x2d") ~ ".slice" %}

site-slice-{{ slug }}:
  file.managed:
    - name: /etc/systemd/system/{{ slice }}
    - source: salt://site/files/site.slice
    - template: jinja
    - context: {{ {"slug": slug, "limits": site.limits} | tojson }}
    - mode: '0644'
    - onchanges_in:
        - module: site-reload

{%- for source, unit in [("gunicorn.socket", "gunicorn@.socket"), ("gunicorn.service", "gunicorn@.service"),
                         ("live.service", "gunicorn.service"), ("celery.service", "celery.service"),
                         ("celerybeat.service", "celerybeat.service")] %}
{%- set id = "site-unit-" ~ slug ~ "-" ~ source | replace(".", "-") %}

{{ id }}:
  file.managed:
    - name: /etc/systemd/system/{{ user }}-{{ unit }}
    - source: salt://site/files/{{ source }}
    - template: jinja
    - context: {{ {"slug": slug, "site": {"workers": site.workers, "celery": site.celery, "wsgi": site.wsgi, "asgi": site.asgi, "project": site.project}, "limits": site.limits,
                   "slice": slice,
                   "redis": "redis-server" ~ ("@" ~ slug if site.redis.own else "") ~ ".service"} | tojson }}
    - mode: '0644'
    - require:
        - pkg: base-packages
        - user: site-user-{{ slug }}
        # It gives releases of before their own, which the units read.
        - site_env: site-env-{{ slug }}
    - onchanges_in:
        - module: site-reload
    - watch_in:
        - release: site-live-{{ slug }}
{%- endfor %}

{%- set redis = "redis-server" ~ ("@" ~ slug if site.redis.own else "") ~ ".service" %}
{%- for name, process in (site.processes | dictsort) + (site.schedules | dictsort) %}
{%- for source in ["process.service"] + (["schedule.timer"] if name in site.schedules else []) %}

site-{{ source | replace(".", "-") }}-{{ slug }}-{{ name }}:
  file.managed:
    - name: /etc/systemd/system/{{ user }}-{{ name }}.{{ source.split(".") | last }}
    - source: salt://site/files/{{ source }}
    - template: jinja
    - context: {{ {"slug": slug, "name": name, "process": process, "at": process.at | default(""), "slice": slice,
                   "redis": redis} | tojson }}
    - mode: '0644'
    - require:
        - user: site-user-{{ slug }}
        - site_env: site-env-{{ slug }}
    - onchanges_in:
        - module: site-reload
    - watch_in:
        - release: site-live-{{ slug }}
{%- endfor %}
{%- endfor %}

site-live-{{ slug }}:
  release.live:
    - name: {{ slug }}
    - require:
        - goldenpath: redis-pong
        - site_database: postgres-database-{{ slug }}
        - module: site-reload
        - file: host-command-goldenpath
    - watch:
        - site_env: site-env-{{ slug }}
        - file: site-sandbox
{%- endfor %}
