# Managed by Golden Path. Failed units of ours reach the pillar's `alerts`.
{%- set watched = ["caddy", "redis-server", "postgresql@"] %}

include:
  - base
  - host

alert-configured:
  backup.configured:
    - name: alert
    - require:
        - file: base-state-directory

alert-unit:
  file.managed:
    - name: /etc/systemd/system/goldenpath-alert@.service
    - source: salt://alert/files/alert.service
    - mode: '0644'
    - require:
        - file: host-command-goldenpath
        - backup: alert-configured

{%- for name in watched %}

alert-on-{{ name | replace("@", "") }}:
  file.managed:
    - name: /etc/systemd/system/{{ name }}.service.d/goldenpath-alert.conf
    - source: salt://alert/files/on-failure.conf
    - makedirs: True
    - mode: '0644'
    - onchanges_in:
        - module: alert-reload
{%- endfor %}

alert-reload:
  module.run:
    - name: service.systemctl_reload
    - onchanges:
        - file: alert-unit
