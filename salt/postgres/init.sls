# Managed by Golden Path. One role and one database per site, over the Unix socket: no password exists.
{%- from "postgres/map.jinja" import postgres with context %}

include:
  - base

postgres-config:
  file.managed:
    - name: /etc/postgresql/{{ postgres.version }}/main/conf.d/goldenpath.conf
    - source: salt://postgres/files/goldenpath.conf
    - mode: '0644'
    - require:
        - pkg: base-packages

postgres-service:
  service.running:
    - name: postgresql@{{ postgres.version }}-main
    - enable: True
    - require:
        - pkg: base-packages
    - watch:
        - file: postgres-config

{%- for slug, site in pillar.sites.items() %}

postgres-database-{{ slug }}:
  site_database.present:
    - name: sum-{{ slug }}
    - extensions: {{ site.postgres.extensions | tojson }}
    # Two releases at once with all their threads, the workers' processes, and some for a person; the rest of the
    # hundred that a server has is for root and the neighbours.
    - connections: {{ [2 * (4 * site.workers + site.celery.concurrency + 2) + 10, 80] | min }}
    - require:
        - service: postgres-service
{%- if site.packages and site.postgres.extensions %}
        - packages: site-packages-{{ slug }}
{%- endif %}
{%- endfor %}
