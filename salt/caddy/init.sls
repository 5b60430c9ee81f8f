# Managed by Golden Path. TLS, static files and media; everything else goes to the site's live release.
{#- As Caddy's own user: what a check makes (certificates, folders) must be Caddy's. -#}
{%- set validate = "/opt/goldenpath/caddy-validate" %}

# `site` comes first and points to the static files of live releases; where a site cannot be settled, Caddy's part is
# done all the same.
include:
  - base
  - buffer
  - site
  - caddy.web
  - caddy.proven
  - caddy.sandbox

caddy-validate:
  file.managed:
    - name: {{ validate }}
    - source: salt://caddy/files/validate.sh
    - makedirs: True
    - mode: '0755'

# The stock admin endpoint on localhost:2019 is open to every site's code; a socket of caddy's own is not.
caddy-unit:
  file.managed:
    - name: /etc/systemd/system/caddy.service.d/goldenpath.conf
    - source: salt://caddy/files/caddy.service.conf
    - makedirs: True
    - mode: '0644'
    - require:
        - pkg: base-packages
  module.run:
    - name: service.systemctl_reload
    - onchanges:
        - file: caddy-unit

caddy-sites-folder:
  file.directory:
    - name: /etc/caddy/sites
    - mode: '0755'
    # A site that has left the pillar is no longer served.
    - clean: True
    - require:
        - pkg: base-packages
{%- for slug in pillar.sites %}
        - file: caddy-site-{{ slug }}
{%- endfor %}

{%- for slug, site in pillar.sites.items() %}

caddy-site-{{ slug }}:
  file.managed:
    - name: /etc/caddy/sites/{{ slug }}.caddy
    - source: salt://caddy/files/site.caddy
    - template: jinja
    - context: {{ {"slug": slug, "domains": site.domains, "tls": site.tls, "health": site.health, "media": site.media,
                   "front": site.front} | tojson }}
    - makedirs: True
    # Hashes of passwords are in it.
    - group: caddy
    - mode: '0640'
{%- if site.front.basic_auth %}
    - show_changes: False
{%- endif %}
    # A file that Caddy's own parser refuses never replaces one that it served.
    - check_cmd: {{ validate }}
    - require:
        - pkg: base-packages
        - file: caddy-validate
        - unit: caddy-web
        - module: buffer-reload
{%- endfor %}

caddy-config:
  file.managed:
    - name: /etc/caddy/Caddyfile
    - source: salt://caddy/files/Caddyfile
    - mode: '0644'
    - check_cmd: {{ validate }}
    - require:
        - file: caddy-sites-folder
        - file: caddy-local-folder

caddy-service:
  unit.running:
    - name: caddy
    - require:
        - file: caddy-config
        - module: caddy-sandbox
    - watch:
        - file: caddy-unit

# A reload drops no connection.
caddy-reload:
  module.run:
    - name: service.reload
    - m_name: caddy
    - require:
        - unit: caddy-service
    - onchanges:
        - file: caddy-config
        - file: caddy-sites-folder
{%- for slug in pillar.sites %}
        - file: caddy-site-{{ slug }}
{%- endfor %}
