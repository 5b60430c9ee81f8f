# Managed by Golden Path. What a restore does on one host. Applied by salt/restore.sls.
{%- set request = pillar.get("goldenpath_deploy", {}) %}

include:
  - host

{%- for slug in pillar.sites if slug == request.get("site") %}

restore-{{ slug }}:
  backup.restored:
    - name: {{ slug }}
    - snapshot: {{ request.get("snapshot") | tojson }}
    - confirm: {{ request.get("confirm") | tojson }}
    - who: {{ request.get("who", "unknown") | tojson }}
    - wait: {{ request.get("wait", 0) | tojson }}
{%- endfor %}
