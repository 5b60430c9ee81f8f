# Order is by requisites; the list only says what a host is made of.
base:
  '*':
    - base
    - redis
    - firewall
    - redis.ready
    - postgres
    - site
    - caddy
    - alert
    - backup
