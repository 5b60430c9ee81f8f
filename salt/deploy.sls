# salt-run state.orchestrate deploy [pillar='{"target": "web*", "site": "acme-kitchens", "ref": "v1.5.0"}']
{%- set plan = salt["deployment.plan"]("deploy", pillar) %}

{%- if plan.errors %}

deploy-refused:
  test.fail_without_changes:
    - name: deploy
    - comment: {{ plan.errors | join("\n") | tojson }}
{%- else %}

# Without PONG from every host, and a Redis on each that can carry its sites, nothing is touched on any.
deploy-redis-ping:
  salt.function:
    - name: goldenpath.redis_ping
    # A Redis that hangs is given up soon: an operator waits for the answer.
    - kwarg: {{ {"ready": True, "timeout": 1.5, "site": plan.request.get("site")} | tojson }}
    - tgt: {{ plan.hosts | list | tojson }}
    - tgt_type: list
    - ssh: {{ plan.ssh | tojson }}

deploy-release:
  salt.state:
    - name: release
    - tgt: {{ plan.hosts | list | tojson }}
    - tgt_type: list
    - ssh: {{ plan.ssh | tojson }}
    - sls: release
    - pillar: {{ {"goldenpath_deploy": plan.request} | tojson }}
    # One at a time is said by the site's own lock, which tells who holds it and can wait.
    - concurrent: True
    - require:
        - salt: deploy-redis-ping
{%- endif %}
