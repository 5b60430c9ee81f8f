# Managed by Golden Path. Where Caddy reads the sites' files: no link is followed there.
caddy-web-folder:
  file.directory:
    - names: [/srv/sum, /opt/goldenpath/web]
    - makedirs: True
    # One and the same, once it is mounted: to go through, and not to look around.
    - mode: '0711'

caddy-web-unit:
  file.managed:
    - name: /etc/systemd/system/opt-goldenpath-web.mount
    - source: salt://caddy/files/web.mount
    - mode: '0644'
  module.run:
    - name: service.systemctl_reload
    - onchanges:
        - file: caddy-web-unit

caddy-web:
  unit.running:
    - name: opt-goldenpath-web.mount
    - require:
        - file: caddy-web-folder
        - module: caddy-web-unit
