# Managed by Golden Path. Who may deploy a site without being an administrator: a key that opens the engine's door, and
# nothing else. Administrators use salt-ssh.
{%- set home = "/var/lib/goldenpath-door" %}

include:
  - base
  - host

{%- if not pillar.operators %}

operators-none:
  file.absent:
    - names: {{ [home ~ "/.ssh/authorized_keys", "/etc/goldenpath/operators.json"] | tojson }}
{%- else %}

operators-user:
  user.present:
    - name: goldenpath
    - fullname: Golden Path's door
    - usergroup: True
    - system: True
    - home: {{ home }}
    - createhome: False
    # sshd runs a key's forced command by the shell of its user.
    - shell: /bin/sh

# All of it is root's: whoever comes in writes nothing here.
operators-home:
  file.directory:
    - names: {{ [home, home ~ "/.ssh"] | tojson }}
    - mode: '0755'
    - require:
        - user: operators-user

operators-known:
  file.managed:
    - name: /etc/goldenpath/operators.json
    - contents: |
        {{ pillar.operators | tojson }}
    - mode: '0600'
    - require:
        - file: base-state-directory

operators-door:
  file.managed:
    - name: /opt/goldenpath/door
    - source: salt://operators/files/door
    - mode: '0755'
    - require:
        - file: host-command-goldenpath

operators-units:
  file.managed:
    - names:
        - /etc/systemd/system/goldenpath-door.socket:
            - source: salt://operators/files/goldenpath-door.socket
        - /etc/systemd/system/goldenpath-door@.service:
            - source: salt://operators/files/goldenpath-door@.service
    - mode: '0644'
  module.run:
    - name: service.systemctl_reload
    - onchanges:
        - file: operators-units

operators-socket:
  unit.running:
    - name: goldenpath-door.socket
    - require:
        - file: operators-door
        - user: operators-user
        - module: operators-units

# Last: a key opens what is there.
operators-keys:
  file.managed:
    - name: {{ home }}/.ssh/authorized_keys
    - source: salt://operators/files/authorized_keys
    - template: jinja
    - context: {{ {"operators": pillar.operators} | tojson }}
    - mode: '0644'
    - require:
        - file: operators-home
        - file: operators-known
        - unit: operators-socket
{%- endif %}

# A key that is gone closes what it had open; a deploy that it began is a unit of its own, and goes on.
operators-gone:
  cmd.run:
    - name: pkill -KILL -U goldenpath || true
    - onchanges:
        - file: {{ "operators-keys" if pillar.operators else "operators-none" }}
