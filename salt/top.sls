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
    - buffer
    - caddy
    - operators
    - alert
    - backup
