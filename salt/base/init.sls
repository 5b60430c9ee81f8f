# Managed by Golden Path. What every host has: the stack's packages, uv, clock, security updates.
{%- from "base/map.jinja" import base with context %}

{%- if pillar.goldenpath_modules is defined %}

# A minion is not sent them at every run, which takes longer than the run itself: old ones are never used in silence.
base-modules:
  goldenpath.modules:
    - name: modules
    - shipped: {{ pillar.goldenpath_modules | tojson }}
    - order: first
    - failhard: True
    - require_in:
        - goldenpath: base-look
{%- endif %}

# Before the first change: a host, or a site, of somebody else is refused as a whole.
base-look:
  goldenpath.ours:
    - name: host
    - sites: {{ pillar.sites | list | tojson }}
    - order: first
    - failhard: True

# The package's own service would take port 80. One that was there before is somebody's, and is left alone.
base-no-nginx:
  packages.quiet:
    - name: nginx.service
    - program: /usr/sbin/nginx
    - require_in:
        - pkg: base-packages

base-packages:
  pkg.installed:
    - name: base-packages
    - pkgs: {{ base.packages | tojson }}
    - install_recommends: False

base-uv:
  uv.installed:
    - name: uv
    - version: {{ base.uv | tojson }}
    # A download of some seconds: the rest of the host is set up meanwhile, and Salt ends when this has.
    - parallel: True
    - require:
        - pkg: base-packages

base-state-directory:
  file.directory:
    - name: /etc/goldenpath/sites
    - makedirs: True
    - mode: '0755'

base-clock:
  clock.running:
    - name: clock
    - require:
        - pkg: base-packages

# Redis and Postgres get their fixes through security updates, inside a window (chacra#347).
base-unattended-upgrades:
  file.managed:
    - name: /etc/apt/apt.conf.d/52goldenpath
    - source: salt://base/files/apt.conf
    - mode: '0644'

base-upgrade-window:
  file.managed:
    - name: /etc/systemd/system/apt-daily-upgrade.timer.d/goldenpath.conf
    - source: salt://base/files/upgrade-window.conf
    - makedirs: True
    - mode: '0644'
  module.run:
    - service.systemctl_reload: []
    - onchanges:
        - file: base-upgrade-window
