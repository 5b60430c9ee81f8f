# salt-run state.orchestrate restore pillar='{"target": "web1", "site": "acme-kitchens", "confirm": "acme-kitchens"}'
# Without `confirm` it says what it would do, and changes nothing.
{%- set plan = salt["deployment.plan"]("restore", pillar) %}

{%- if plan.errors %}

restore-refused:
  test.fail_without_changes:
    - name: restore
    - comment: {{ plan.errors | join("\n") | tojson }}
{%- else %}

restore-site:
  salt.state:
    - name: restore
    - tgt: {{ plan.hosts | list | tojson }}
    - tgt_type: list
    - ssh: {{ plan.ssh | tojson }}
    - sls: backup.restore
    - pillar: {{ {"goldenpath_deploy": plan.request} | tojson }}
    # One at a time is said by the site's own lock, which tells who holds it and can wait.
    - concurrent: True
{%- endif %}
