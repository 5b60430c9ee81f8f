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
{%- endif %}
