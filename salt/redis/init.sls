# Managed by Golden Path. The host's Redis: on loopback, persistent, and proven by PONG before anything uses it.
{%- from "redis/map.jinja" import redis with context %}

include:
  - base
  - redis.own

# Saving forks; without it the kernel may refuse although there is memory enough.
redis-memory-overcommit:
  goldenpath.sysctl:
    - name: vm.overcommit_memory
    - value: 1
    - config: /etc/sysctl.d/60-goldenpath-redis.conf
    - without: Redis may fail to save where memory is short; leave it more of it

redis-try-config:
  file.managed:
    - name: /opt/goldenpath/redis-try-config
    - source: salt://redis/files/redis-try-config.py
    - makedirs: True
    - mode: '0755'

redis-config:
  file.managed:
    - name: /etc/redis/goldenpath.conf
    - source: salt://redis/files/goldenpath.conf
    - template: jinja
    # What the tree's own user of Redis is known by: made on the host, when the state runs.
    - context: {{ {"redis": redis, "slug": "", "port": 6379, "maxmemory": redis.maxmemory,
                   "admin": "__slot__:salt:redis_server.admin()", "site": ""} | tojson }}
    - user: root
    - group: redis
    - mode: '0640'
    # The installed redis-server really starts with it, elsewhere, before the one that serves sees it; and nothing
    # is lost that only the package's file said, which ours included once.
    - check_cmd: /opt/goldenpath/redis-try-config
    - require:
        - pkg: base-packages
        - file: redis-try-config

# A copy of the package's file, from when ours included it.
redis-kept-copy:
  file.absent:
    - name: /var/lib/goldenpath/redis.conf.dist
    - require:
        - file: redis-config

# Before the restart into `appendonly yes`: Redis reads that file alone, and an older one would win.
redis-append-only:
  goldenpath.redis_append_only:
    - name: redis
    - require:
        - pkg: base-packages
        - file: redis-config

redis-unit:
  file.managed:
    - name: /etc/systemd/system/redis-server.service.d/goldenpath.conf
    - source: salt://redis/files/redis-server.service.conf
    - template: jinja
    - context: {own: False}
    - makedirs: True
    - mode: '0644'
    - require:
        - file: redis-config
  module.run:
    - name: service.systemctl_reload
    - onchanges:
        - file: redis-unit

redis-unmasked:
  service.unmasked:
    - name: redis-server
    - require:
        - pkg: base-packages

redis-service:
  unit.running:
    - name: redis-server
    - require:
        - service: redis-unmasked
        - file: redis-config
        - goldenpath: redis-append-only
        - goldenpath: redis-memory-overcommit
    - watch:
        - file: redis-unit

# What the file says and the server does not do yet, or does not do any more: by CONFIG SET, and by a restart
# only for what Redis does not change while it runs.
redis-settings:
  goldenpath.redis_settings:
    - name: redis
    - require:
        - unit: redis-service

# Everything that needs Redis requires this one.
redis-pong:
  goldenpath.redis_ping:
    - name: 127.0.0.1
    - require:
        - goldenpath: redis-settings
