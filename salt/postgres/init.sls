# Managed by Golden Path. One role and one database per site, over the Unix socket: no password exists.
{%- from "postgres/map.jinja" import postgres with context %}

{#- Two releases at once with all their threads, the workers' processes and the daemons, and some for a person. #}
{%- macro connections(site) -%}
{{ 2 * (4 * site.workers + site.celery.concurrency + 2 + 2 * (site.processes | length)) + 10 }}
{%- endmacro %}
{#- Root, backups and the watch have what is left. #}
{%- set all = namespace(connections=20) %}
{%- for site in pillar.sites.values() %}
{%- set all.connections = all.connections + connections(site) | int %}
{%- endfor %}

include:
  - base
  - host

postgres-config:
  file.managed:
    - name: /etc/postgresql/{{ postgres.version }}/main/conf.d/goldenpath.conf
    - source: salt://postgres/files/goldenpath.conf
    - template: jinja
    - context: {{ {"connections": all.connections} | tojson }}
    - mode: '0644'
    - require:
        - pkg: base-packages

# A Postgres that runs is not restarted for it: `goldenpath ps` names it until its next start.
postgres-sandbox:
  file.managed:
    - name: /etc/systemd/system/postgresql@{{ postgres.version }}-main.service.d/goldenpath-sandbox.conf
    - source: salt://postgres/files/sandbox.conf
    - makedirs: True
    - mode: '0644'
    - require:
        - pkg: base-packages
  module.run:
    - name: service.systemctl_reload
    - onchanges:
        - file: postgres-sandbox

postgres-service:
  unit.running:
    - name: postgresql@{{ postgres.version }}-main
    - require:
        - pkg: base-packages
        - file: postgres-config
        - module: postgres-sandbox

# Under the maintenance page where sites are live: nobody meets a database that is away.
postgres-restart:
  goldenpath.postgres_restarted:
    - name: postgresql@{{ postgres.version }}-main
    - onchanges:
        - file: postgres-config
    - require:
        - unit: postgres-service
        # The engine of this checkout knows how.
        - file: host-command-goldenpath

{%- for slug, site in pillar.sites.items() %}

postgres-database-{{ slug }}:
  site_database.present:
    - name: sum-{{ slug }}
    - extensions: {{ site.postgres.extensions | tojson }}
    - connections: {{ connections(site) }}
    - require:
        - goldenpath: postgres-restart
{%- if site.packages and site.postgres.extensions %}
        - packages: site-packages-{{ slug }}
{%- endif %}
{%- endfor %}
