#!/usr/bin/env bash
# Boots this machine's own systemd, in namespaces, on a copy-on-write view of this machine's files, with no network but
# loopback. What it does is gone when it ends, and it ends when standard input does. Needs root.
#
#   boot.sh CHECKOUT PYTHON PACKAGES    prints the process id of the systemd, as seen here
#
# In there, CHECKOUT's packages, PYTHON (what sys.base_prefix is) and PACKAGES (its site-packages) are in /opt/otahsm:
# here they may be where only one user can read them.
set -euo pipefail

outside() {
    # Its cgroup is a child of the root of cgroup2, which may be mounted nowhere here.
    view=$(mktemp --directory --tmpdir otahsm-machine-XXXXXX)
    mount --make-rprivate /
    mount -t tmpfs -o mode=755 tmpfs "$view"
    mkdir "$view/cgroup" "$view/machine"
    mount -t cgroup2 cgroup2 "$view/cgroup"
    group=$view/cgroup/otahsm-test-$$
    mkdir "$group"
    (
        echo "$BASHPID" >"$group/cgroup.procs"
        exec unshare --mount --pid --ipc --uts --net --cgroup --fork --kill-child "$0" --inside "$view/machine" "$@"
    ) </dev/null >"$view/log" 2>&1 &
    parent=$!
    until init=$(cat "/proc/$parent/task/$parent/children" 2>/dev/null) && [ -n "$init" ]; do
        kill -0 "$parent" || { cat "$view/log" >&2; exit 1; }
    done
    echo "${init% }"
    cat >/dev/null
    kill -9 "${init% }" || true  # all that runs in there ends with it
    wait "$parent" || true
    until find "$group" -depth -type d -exec rmdir {} + 2>/dev/null; do [ -d "$group" ] || break; done
    umount --lazy "$view"
    rmdir "$view"
}

inside() {
    view=$1 checkout=$2 python=$3 packages=$4
    mkdir "$view"/{upper,work,root}
    mount -t overlay -o "lowerdir=/,upperdir=$view/upper,workdir=$view/work" overlay "$view/root"
    cd "$view/root"
    mkdir -p opt/otahsm/{python,packages}
    cp -a "$checkout/otahsm" "$checkout/softhsm" "$checkout/deploy" opt/otahsm
    chmod -R a+rX opt/otahsm
    mount --bind "$python" opt/otahsm/python
    mount --bind "$packages" opt/otahsm/packages
    cat >usr/local/bin/otahsm <<"END"
#!/bin/sh
export LD_LIBRARY_PATH=/opt/otahsm/python/lib
PYTHONPATH=/opt/otahsm:/opt/otahsm/packages exec /opt/otahsm/python/bin/python3 -P -m otahsm "$@"
END
    chmod 755 usr/local/bin/otahsm
    mount -t proc proc proc
    mount -o bind,ro proc/sys proc/sys
    mount -t tmpfs -o mode=755 tmpfs run
    mount -t tmpfs -o mode=1777 tmpfs tmp
    mount -t sysfs -o ro sysfs sys
    mount -t tmpfs -o mode=755 tmpfs sys/fs/cgroup
    mount -t cgroup2 cgroup2 sys/fs/cgroup
    mount -t tmpfs -o mode=755 tmpfs dev
    mkdir dev/shm dev/pts
    mount -t tmpfs -o mode=1777 tmpfs dev/shm
    mount -t devpts -o newinstance,mode=620,ptmxmode=666 devpts dev/pts
    for device in null zero full random urandom tty; do
        touch "dev/$device"
        mount --bind "/dev/$device" "dev/$device"
    done
    ln -s pts/ptmx dev/ptmx
    ln -s /proc/self/fd dev/fd
    for unit in systemd-logind.service dbus.service dbus.socket systemd-networkd-wait-online.service; do
        ln -sf /dev/null "etc/systemd/system/$unit"
    done
    mkdir -p old
    pivot_root . old
    umount --lazy /old
    # What reaches beyond namespaces is not for it.
    exec env --ignore-environment container=otahsm-test PATH=/usr/sbin:/usr/bin:/sbin:/bin \
        setpriv --bounding-set=-sys_time,-sys_module,-sys_boot,-syslog,-sys_rawio,-wake_alarm,-audit_control \
        /lib/systemd/systemd --system --unit=basic.target --log-target=console --show-status=no
}

case $1 in
--inside) shift && inside "$@" ;;
--outside) shift && outside "$@" ;;
*) exec unshare --mount "$0" --outside "$@" ;;
esac
