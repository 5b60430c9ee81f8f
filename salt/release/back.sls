# Managed by Golden Path. What a rollback does on one host. Applied by salt/rollback.sls.
{%- set request = pillar.get("goldenpath_deploy", {}) %}

# Brought along, and not required: what fails to be installed must not stop a way back.
include:
  - host

{%- for slug in pillar.sites if request.get("site") in (none, slug) %}

rollback-{{ slug }}:
  release.rolled_back:
    - name: {{ slug }}
    - release: {{ request.get("release") | tojson }}
    - who: {{ request.get("who", "unknown") | tojson }}
    - wait: {{ request.get("wait", 0) | tojson }}
    - restore_database: {{ request.get("restore_database", False) | tojson }}
{%- endfor %}
