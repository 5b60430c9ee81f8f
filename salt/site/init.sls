# Managed by Golden Path. Per site: its user, folders and environment; its units are in site/units.sls, what the host
# knows of it without a pillar in site/facts.sls.
# A release comes by deploy.
include:
  - base
  - site.facts
  - site.units

{%- for slug, site in pillar.sites.items() %}
{%- set user = "sum-" ~ slug %}
{%- set root = "/srv/sum/" ~ slug %}

{%- if site.packages %}

# A name that apt does not know fails this site, and nothing else on the host.
site-packages-{{ slug }}:
  packages.installed:
    - name: {{ slug }}
    - packages: {{ site.packages | tojson }}
    - require:
        - pkg: base-packages
    - require_in:
        - release: site-live-{{ slug }}
{%- endif %}

site-user-{{ slug }}:
  user.present:
    - name: {{ user }}
    - usergroup: True
    - system: True
    - home: {{ root }}
    - createhome: False
    - shell: /usr/sbin/nologin

# root owns the frame, so that nothing a site does can move its releases or links. Neighbours and Caddy may go
# through it and not look around.
site-root-{{ slug }}:
  file.directory:
    - names:
        - {{ root }}
        - {{ root }}/releases
    - makedirs: True
    - user: root
    - group: root
    - mode: '0711'
    - require:
        - user: site-user-{{ slug }}

site-media-{{ slug }}:
  file.directory:
    - name: {{ root }}/media
    - user: {{ user }}
    # Caddy reads them, and no neighbour.
    - group: caddy
    - mode: '0750'
    - require:
        - pkg: base-packages
        - file: site-root-{{ slug }}

site-folders-{{ slug }}:
  file.directory:
    - names: {{ [root ~ "/repo.git", root ~ "/venvs", root ~ "/cache", root ~ "/tmp", root ~ "/.ssh"] | tojson }}
    - user: {{ user }}
    - group: {{ user }}
    - mode: '0700'
    - require:
        - file: site-root-{{ slug }}

site-backups-{{ slug }}:
  file.directory:
    - name: {{ root }}/backups
    - user: root
    - group: root
    - mode: '0700'
    - require:
        - file: site-root-{{ slug }}

# Resolves once a release is live; each release is collected into a folder of its own.
site-static-{{ slug }}:
  file.symlink:
    - name: {{ root }}/static
    - target: current/static
    - require:
        - file: site-root-{{ slug }}

site-env-{{ slug }}:
  site_env.managed:
    - name: {{ slug }}
    - require:
        - file: site-root-{{ slug }}
        - goldenpath: redis-{{ "own-pong-" ~ slug if site.redis.own else "pong" }}
{%- endfor %}
