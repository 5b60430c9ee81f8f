# Managed by Golden Path. What a deploy does on one host, in one round trip. Applied by salt/deploy.sls.
{%- set request = pillar.get("goldenpath_deploy", {}) %}

include:
  - host

# Also where somebody applies this by itself: without PONG not even the engine is brought along.
release-redis-ping:
  goldenpath.redis_ping:
    - name: 127.0.0.1
    - failhard: True

release-redis-ready:
  goldenpath.redis_ready:
    - name: redis
    - site: {{ request.get("site") | tojson }}
    - failhard: True
    - require:
        - goldenpath: release-redis-ping
    - require_in:
        - engine: host-engine

{%- for slug in pillar.sites if request.get("site") in (none, slug) %}

release-{{ slug }}:
  release.deployed:
    - name: {{ slug }}
    - ref: {{ request.get("ref") | tojson }}
    - who: {{ request.get("who", "unknown") | tojson }}
    - wait: {{ request.get("wait", 0) | tojson }}
    - migrations: {{ request.get("migrations") | tojson }}
    - require:
        - file: host-command-goldenpath
{%- endfor %}
