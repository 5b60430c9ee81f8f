# Managed by Golden Path. nginx between Caddy and gunicorn: it takes whole requests in, and hands them on.
include:
  - base

buffer-config:
  file.managed:
    - name: /etc/goldenpath/nginx.conf
    - source: salt://buffer/files/nginx.conf
    - template: jinja
    - context: {{ {"sites": pillar.sites} | tojson }}
    - mode: '0644'
    - require:
        - pkg: base-packages
        - file: base-state-directory

buffer-unit:
  file.managed:
    - name: /etc/systemd/system/goldenpath-buffer.service
    - source: salt://buffer/files/goldenpath-buffer.service
    - mode: '0644'
  module.run:
    - name: service.systemctl_reload
    - onchanges:
        - file: buffer-unit

buffer-service:
  unit.running:
    - name: goldenpath-buffer
    - require:
        - file: buffer-config
    - watch:
        - module: buffer-unit

# Sites only: a reload drops no connection.
buffer-reload:
  module.run:
    - name: service.reload
    - m_name: goldenpath-buffer
    - require:
        - unit: buffer-service
    - onchanges:
        - file: buffer-config
