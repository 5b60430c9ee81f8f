#!jinja|yaml
{#- Each host reads its own file and no other: pillar/hosts/<id>.sls, with underscores for the id's dots.
    opts.id is the id that the controller knows the host by. grains.id is what the host says of itself, and with
    it a host could ask for another one's secrets. A file that is missing is reported by _pillar/goldenpath.py. #}
{%- set id = opts["id"] %}
{%- if id is match("[A-Za-z0-9][A-Za-z0-9.-]*\\Z") %}
base:
  "*":
    - {{ ("hosts." ~ id | replace(".", "_")) | tojson }}
    - ignore_missing: True
{%- else %}
base: {}
{%- endif %}
