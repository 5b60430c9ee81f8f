# salt-run state.orchestrate rollback pillar='{"target": "web1", "site": "acme-kitchens"}'
{%- set plan = salt["deployment.plan"]("rollback", pillar) %}

{%- if plan.errors %}

rollback-refused:
  test.fail_without_changes:
    - name: rollback
    - comment: {{ plan.errors | join("\n") | tojson }}
{%- else %}

rollback-release:
  salt.state:
    - name: release.back
    - tgt: {{ plan.hosts | list | tojson }}
    - tgt_type: list
    - ssh: {{ plan.ssh | tojson }}
    - sls: release.back
    - pillar: {{ {"goldenpath_deploy": plan.request} | tojson }}
    # One at a time is said by the site's own lock, which tells who holds it and can wait.
    - concurrent: True
{%- endif %}
