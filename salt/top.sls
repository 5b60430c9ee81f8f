# Order is by requisites; the list only says what a host is made of.
base:
  '*':
    - base
    - host
    - redis
    - firewall
    - redis.ready
    - postgres
    - site
    - caddy
    - alert
    - backup
