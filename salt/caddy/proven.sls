# Managed by Golden Path. What the operator has put beside our files, and whether visitors get through.
include:
  - base
  - buffer
  - caddy

# The operator's own: whole sites here, lines of one site in a folder of its name. Nothing of it is ours.
caddy-local-folder:
  file.directory:
    - name: /etc/caddy/local
    - mode: '0755'
    - require:
        - pkg: base-packages

# With a mistake in there Caddy would not start again after a reboot.
caddy-local-valid:
  goldenpath.caddy_valid:
    - name: /etc/caddy/local
    - validate: /opt/goldenpath/caddy-validate
    - require:
        - file: caddy-config
{%- for slug in pillar.sites %}

# What a reload may have broken: each site's own socket tells nothing of it.
caddy-served-{{ slug }}:
  goldenpath.served:
    - name: {{ slug }}
    - onchanges:
        - module: caddy-reload
        - module: buffer-reload
{%- endfor %}
