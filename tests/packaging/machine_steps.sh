# The steps of tests/packaging/test_packaging_machine.py, each a function that runs in a bash of its own (set -euxo pipefail) in
# a machine with systemd and podman 5.4; what is shown here holds if every command of a step succeeds. Sourced, not run.
# /job is the host's folder: old.rpm, new.rpm, registry.yml with its storage, reader.sh.

registry=127.0.0.1:5000
plain=$registry/plain:1
lazy=$registry/lazy:1
storage=/var/lib/containers/storage
reads=/var/reads
# What the machine's own package manager installed, rpm does not know of.
rpm_here() { rpm --nodeps "$@"; }

# A command has to fail; bash goes on after `!`.
not() { if "$@"; then return 1; fi; }
# Wait until a command succeeds.
until_so() {
  local - n
  set +x
  for ((n = 0; n < 300; n++)); do "$@" && return 0; sleep 0.2; done
  echo "not within a minute: $*"
  return 1
}
nothing_failed() { test -z "$(systemctl --failed --no-legend --plain)"; }
# All of them; systemctl is content with one.
is_active() { local unit; for unit in "$@"; do systemctl --quiet is-active "$unit" || return 1; done; }
main_pid() { systemctl show --property MainPID --value als.service; }
# Another process serves than the one named.
replaced() { local pid; pid=$(main_pid); [ "$pid" != 0 ] && [ "$pid" != "$1" ] && is_active als.service; }
not_served() { [ -z "$(served_by)" ]; }
served_by() { findmnt --noheadings --output FSTYPE /var/lib/als/store || :; }
count() { wc -l <"$reads/$1"; }
has_read() { [ "$(count "$1")" -ge "$2" ]; }
# How many files of the lazy image are here.
here() { find /var/lib/als/lazy/*/diff1/.als -type f | wc -l; }
still_lazy() { [ "$(here)" -lt "$(cat /job/files)" ]; }
# Both containers read on, and whatever they read until now was right.
readers_go_on() {
  local name
  for name in sealed lazy; do
    until_so has_read $name $(($(count $name) + 4))
    test -z "$(grep -v ^right $reads/$name)"
  done
}
start_registry() { systemd-run --quiet --unit registry docker-registry serve /job/registry.yml; until_so curl_registry; }
curl_registry() { (exec 3<>/dev/tcp/127.0.0.1/5000) 2>/dev/null; }
# No layer's files are podman's own: a layer that it has of the store has no files there.
no_layers_of_podmans_own() { test -z "$(find $storage/overlay -path '*/diff/*' -name busybox)"; }

# Installing changes nothing for podman, starts nothing, and makes what storage.conf will name.
install() {
  find /etc/containers /usr/share/containers -type f -exec sha256sum {} + >/root/before
  rpm_here --install /job/old.rpm
  nothing_failed
  local unit
  for unit in als.service als-mount.service als-gc.timer; do
    [ "$(systemctl is-enabled $unit)" = disabled ]
    not is_active $unit
  done
  id als
  test -d /var/lib/als/store -a -d /var/lib/als/is4 -a -d /var/lib/als/image-store
  sha256sum --check --quiet /root/before
  podman images
  systemd-analyze verify --man=no als.service als-mount.service als-gc.service als-gc.timer 2>&1 | tee /root/verified
  not grep als /root/verified
}

# As docs/install.md has it.
switch_on() {
  start_registry
  printf '[[registry]]\nlocation = "%s"\ninsecure = true\n' $registry >/etc/containers/registries.conf
  find /etc/containers /usr/share/containers -type f -exec sha256sum {} + >/root/before
  printf 'lazy = "always"\nbackground = false\nrecord_profiles = false\n' >/etc/als/als.toml
  # One that hangs is to be killed sooner here.
  mkdir -p /run/systemd/system/als.service.d
  printf '[Service]\nWatchdogSec=10\n' >/run/systemd/system/als.service.d/test.conf
  systemctl daemon-reload
  systemctl enable --now als-mount.service als.service als-gc.timer
  is_active als-mount.service als.service als-gc.timer
  als setup --registry $registry --apply
  als doctor
  nothing_failed
}

# An ordinary pull and run; the image is the store's.
run() {
  podman pull --quiet $plain
  [ "$(podman run --rm --network none $plain cat /srv/text)" = plain ]
  als layers
  [ "$(als layers --json | wc -l)" -ge 2 ]
  no_layers_of_podmans_own
  podman run --rm --network none $plain grep ' / ' /proc/mounts | grep /var/lib/als/image-store/overlay
}

# Two containers that read for ever: files of which all is here, and of which nothing is before they ask.
start_readers() {
  mkdir -p $reads
  cp /job/reader.sh $reads/
  podman run --detach --name sealed --network none --volume $reads:/out $plain sh /out/reader.sh /srv/d /out/sealed
  podman pull --quiet $lazy
  podman run --detach --name lazy --network none --volume $reads:/out $lazy sh /out/reader.sh /d /out/lazy
  readers_go_on
  no_layers_of_podmans_own
  als status $lazy | grep -w lazy
}

# The new package's daemon takes the connection over; no read fails.
upgrade() {
  local before
  before=$(main_pid)
  sha256sum /etc/als/als.toml >/root/settings
  still_lazy
  rpm_here --upgrade /job/new.rpm
  rpm --query als | grep -- -2
  sha256sum --check --quiet /root/settings
  until_so replaced $before
  is_active als-mount.service als-gc.timer
  readers_go_on
}

restart() {
  local before
  before=$(main_pid)
  still_lazy
  systemctl restart als.service
  replaced $before
  readers_go_on
}

kill_it() {
  local before
  before=$(main_pid)
  still_lazy
  kill -KILL $before
  until_so replaced $before
  readers_go_on
}

# A daemon that hangs is killed and started anew by systemd: nobody else would.
watchdog() {
  local before
  before=$(main_pid)
  still_lazy
  kill -STOP $before
  until_so replaced $before
  readers_go_on
}

# Events are found by their fields, which name image, layer and registry; nothing of all this was worth a warning.
journal() {
  test -z "$(journalctl --quiet --identifier als --priority warning)"
  journalctl --output json ALS_EVENT=published | grep "\"ALS_IMAGE\":\"$plain\""
  journalctl --output json ALS_EVENT=lazy ALS_IMAGE=$lazy | grep '"ALS_LAYER":"sha256:' | grep "\"ALS_HOST\":\"$registry\""
  nothing_failed
}

# What has to come up with the machine. The registry does not.
before_the_reboot() {
  # What `systemctl enable` does, but for a target that this machine boots into.
  systemctl add-wants multi-user.target podman-restart.service
  podman create --name web --restart always --network none --volume $reads:/out $plain sh /out/reader.sh /srv/d /out/web
  podman start web
}

# The container is there although its registry is not, and what mounts for it was ready before it.
reboot() {
  not curl_registry
  nothing_failed
  is_active als-mount.service als.service podman-restart.service
  local mounted served started
  mounted=$(systemctl show --property ActiveEnterTimestampMonotonic --value als-mount.service)
  served=$(systemctl show --property ActiveEnterTimestampMonotonic --value als.service)
  started=$(systemctl show --property InactiveExitTimestampMonotonic --value podman-restart.service)
  test 0 -lt $mounted -a $mounted -le $served -a $served -le $started
  [ "$(podman inspect --format '{{.State.Status}} {{.HostConfig.RestartPolicy.Name}}' web)" = "running always" ]
  until_so has_read web $(($(count web) + 4))
  test -z "$(grep -v ^right $reads/web)"
  no_layers_of_podmans_own
}

# What was half here when the machine went down comes when the registry is there again.
lazy_after_the_reboot() {
  # What it read while the machine went down: the registry lost its storage first.
  rm $reads/lazy
  start_registry
  podman start lazy sealed
  readers_go_on
}

# als ends at every start: systemd gives it up, and podman finds no dead mount in its way.
given_up() {
  [ "$(served_by)" = fuse.als ]
  # A start that fails takes half a minute here, without KVM: of these there never are six in a minute.
  mkdir -p /run/systemd/system/als.service.d
  printf '[Unit]\nStartLimitIntervalSec=15min\nStartLimitBurst=2\n' >/run/systemd/system/als.service.d/limit.conf
  systemctl daemon-reload
  printf 'root = 7\n' >/etc/als/als.toml
  systemctl kill --signal KILL --kill-whom main als.service
  until_so systemctl --quiet is-failed als.service
  until_so not_served
  ls /var/lib/als/store
  podman images
  [ "$(podman run --rm --network none $plain cat /srv/text)" = plain ]
  until_so has_read sealed $(($(count sealed) + 4))
  # It comes back when what was wrong is mended.
  printf 'lazy = "always"\nbackground = false\n' >/etc/als/als.toml
  systemctl reset-failed als.service
  systemctl start als.service
  [ "$(served_by)" = fuse.als ]
  nothing_failed
}

# podman works as if als had never been there; containers go on; what was stored stays.
remove() {
  rpm_here --erase als
  not_served
  nothing_failed
  not command -v als
  sha256sum --check --quiet /root/before
  test -d /var/lib/als/objects
  test -f /etc/als/als.toml.rpmsave
  until_so has_read sealed $(($(count sealed) + 4))
  test -z "$(grep -v ^right $reads/sealed $reads/web)"
  podman rm --force --time 0 --all
  podman pull --quiet $plain
  [ "$(podman run --rm --network none $plain cat /srv/text)" = plain ]
  not no_layers_of_podmans_own
}
