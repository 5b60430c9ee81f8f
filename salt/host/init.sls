# Managed by Golden Path. The engine, which operates the sites of this host, and its command: goldenpath --help.
host-engine:
  engine.installed:
    - name: engine
    - source: salt://host/files/lib/goldenpath

{%- for name in ("goldenpath", "backup", "alert") %}

# backup and alert: what the units of older hosts call, until their own state has replaced these.
host-command-{{ name }}:
  file.managed:
    - name: /opt/goldenpath/{{ name }}
    - source: salt://host/files/{{ name }}
    - makedirs: True
    - mode: '0755'
    - require:
        - engine: host-engine
{%- endfor %}

host-command:
  file.symlink:
    - name: /usr/local/sbin/goldenpath
    - target: /opt/goldenpath/goldenpath
    - require:
        - file: host-command-goldenpath

# Where the program of backups was before there was an engine.
host-old-library:
  file.absent:
    - name: /opt/goldenpath/lib
    - require:
        - file: host-command-backup
