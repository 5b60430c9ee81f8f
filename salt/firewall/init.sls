# Managed by Golden Path. ufw: nothing in but ssh and the web, and Redis and Postgres never.
include:
  - base

firewall-enabled:
  ufw.enabled:
    - name: ufw
    - allow: [80/tcp, 443/tcp, 443/udp]     # 443/udp: HTTP/3
    - closed: [6379, 5432]                  # asked of ufw's files and of the kernel, in every spelling
    - require:
        - pkg: base-packages

# The rules are in the kernel already; this is what brings them back after a boot.
firewall-service:
  unit.running:
    - name: ufw
    - unmask: True
    - require:
        - ufw: firewall-enabled
