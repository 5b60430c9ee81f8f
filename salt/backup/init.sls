# Managed by Golden Path. Backups of every site, proven by a weekly drill; docs/backup.md.
{%- set schedule = pillar.backup.schedule %}
{#- name: what it is, the command, when it runs, the jitter -#}
{%- set jobs = {
    "backup": ["backup of every site", "backup", schedule.backup, "30min"],
    "drill": ["restore drill of every site", "drill", schedule.drill, "30min"],
    "check": ["prune and check the backups", "check", schedule.check, "30min"],
    "watch": ["look for what is down, overdue or restless", "watch", "*-*-* *:*:00", "10s"],
} %}
{%- set every = pillar.backup.every | default("") %}
{%- if every %}
{%- do jobs.update({"dump": ["dump of every database between the nights", "dump", "", ""]}) %}
{%- endif %}

include:
  - base
  - host
  - site
  - alert

backup-records:
  file.directory:
    - name: /var/lib/goldenpath/backup
    - makedirs: True
    - mode: '0755'

# Repository, password, keys and heartbeats: root's alone, and in no diff.
backup-configured:
  backup.configured:
    - name: backup
    - require:
        - pkg: base-packages
        - file: base-state-directory
        - file: backup-records

{%- for name, (description, command, calendar, jitter) in jobs.items() %}
{%- for kind in ("service", "timer") %}

backup-{{ kind }}-{{ name }}:
  file.managed:
    - name: /etc/systemd/system/goldenpath-{{ name }}.{{ kind }}
    - source: salt://backup/files/job.{{ kind }}
    - template: jinja
    - context: {{ {"description": description, "command": command, "calendar": calendar, "jitter": jitter, "every": every} | tojson }}
    - mode: '0644'
    - onchanges_in:
        - module: backup-reload
{%- endfor %}

backup-enabled-{{ name }}:
  unit.running:
    - name: goldenpath-{{ name }}.timer
    - require:
        - module: backup-reload
        - file: host-command-goldenpath
        - backup: backup-configured
    - watch:
        - file: backup-timer-{{ name }}
{%- endfor %}

{%- if not every %}

# A host whose pillar asked for it before.
backup-no-dump:
  file.absent:
    - names:
        - /etc/systemd/system/goldenpath-dump.timer
        - /etc/systemd/system/timers.target.wants/goldenpath-dump.timer
        - /etc/systemd/system/goldenpath-dump.service
    - require:
        - unit: backup-dump-stopped
    - onchanges_in:
        - module: backup-reload

backup-dump-stopped:
  unit.stopped:
    - name: goldenpath-dump.timer
{%- endif %}

# Of a host of before: a restore is a transient unit.
backup-no-restore-unit:
  file.absent:
    - name: /etc/systemd/system/goldenpath-restore@.service

{%- for kind in ("service", "path") %}

backup-heal-{{ kind }}:
  file.managed:
    - name: /etc/systemd/system/goldenpath-heal.{{ kind }}
    - source: salt://backup/files/heal.{{ kind }}
    - mode: '0644'
    - onchanges_in:
        - module: backup-reload
{%- endfor %}

backup-reload:
  module.run:
    - name: service.systemctl_reload
    - onchanges:
        - file: backup-no-restore-unit

backup-heal-enabled:
  unit.running:
    - name: goldenpath-heal.path
    - require:
        - module: backup-reload
        - file: host-command-goldenpath
        - backup: backup-configured
    - watch:
        - file: backup-heal-path
