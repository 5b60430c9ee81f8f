# Managed by Golden Path. The whole gate, when Redis and the firewall are as they should be.
include:
  - redis
  - firewall

redis-ready:
  goldenpath.redis_ready:
    - name: redis
    - require:
        - goldenpath: redis-pong
        - ufw: firewall-enabled
