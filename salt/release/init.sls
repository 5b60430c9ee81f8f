# Managed by Golden Path. What a deploy does on one host, in one round trip. Applied by salt/deploy.sls.
{%- set request = pillar.get("goldenpath_deploy", {}) %}

include:
  - host

{%- for slug in pillar.sites if request.get("site") in (none, slug) %}

release-{{ slug }}:
  release.deployed:
    - name: {{ slug }}
    - ref: {{ request.get("ref") | tojson }}
    - who: {{ request.get("who", "unknown") | tojson }}
    - wait: {{ request.get("wait", 0) | tojson }}
    - require:
        - file: host-command-goldenpath
{%- endfor %}
