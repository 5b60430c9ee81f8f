# Managed by Golden Path. What Caddy may do. One that runs is not restarted for it: `goldenpath ps` names it until its next
# start.
include:
  - base

caddy-sandbox:
  file.managed:
    - name: /etc/systemd/system/caddy.service.d/goldenpath-sandbox.conf
    - source: salt://caddy/files/sandbox.conf
    - makedirs: True
    - mode: '0644'
    - require:
        - pkg: base-packages
  module.run:
    - name: service.systemctl_reload
    - onchanges:
        - file: caddy-sandbox
