# Managed by Golden Path. A Redis of its own for each site of a host with several, as the pillar says: tried, hardened and
# proven as the host's is. Its site moves over when its environment does (settle, in the engine).
{%- from "redis/map.jinja" import redis with context %}

include:
  - redis

{%- for slug, site in pillar.sites.items() if site.redis.own %}
{%- set port = redis.first_own_port + site.redis.cache %}
{%- if loop.first %}

redis-own-unit:
  file.managed:
    - name: /etc/systemd/system/redis-server@.service.d/goldenpath.conf
    - source: salt://redis/files/redis-server.service.conf
    - template: jinja
    - context: {own: True}
    - makedirs: True
    - mode: '0644'
    - require:
        - goldenpath: redis-pong
  module.run:
    - name: service.systemctl_reload
    - onchanges:
        - file: redis-own-unit
{%- endif %}

redis-own-folder-{{ slug }}:
  file.directory:
    - name: /var/lib/redis/{{ slug }}
    - user: redis
    - group: redis
    - mode: '0700'
    - require:
        - goldenpath: redis-pong

redis-own-config-{{ slug }}:
  file.managed:
    - name: /etc/redis/goldenpath-{{ slug }}.conf
    - source: salt://redis/files/goldenpath.conf
    - template: jinja
    - context: {{ {"redis": redis, "slug": slug, "port": port,
                   "maxmemory": site.redis.get("maxmemory", redis.own) | lower,
                   "admin": "__slot__:salt:redis_server.admin()",
                   "site": "__slot__:salt:redis_server.site(" ~ slug ~ ")"} | tojson }}
    - user: root
    - group: redis
    - mode: '0640'
    - check_cmd: /opt/goldenpath/redis-try-config
    - require:
        - goldenpath: redis-pong

redis-own-service-{{ slug }}:
  unit.running:
    - name: redis-server@{{ slug }}
    - require:
        - file: redis-own-folder-{{ slug }}
        - file: redis-own-config-{{ slug }}
        - module: redis-own-unit
    - watch:
        - file: redis-own-unit

redis-own-settings-{{ slug }}:
  goldenpath.redis_settings:
    - name: redis-{{ slug }}
    - site: {{ slug }}
    - require:
        - unit: redis-own-service-{{ slug }}

redis-own-pong-{{ slug }}:
  goldenpath.redis_ping:
    - name: 127.0.0.1:{{ port }}
    - site: {{ slug }}
    - require:
        - goldenpath: redis-own-settings-{{ slug }}
{%- endfor %}
