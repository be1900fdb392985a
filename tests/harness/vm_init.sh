#!/bin/sh
# The first process of a machine that runs on a copy-on-write view of the host's root (tests/harness/vm.py, QuickVM).
# als.job=FOLDER: the host's folder with `script`; `output` and `status` go there. als.modules=FOLDER: for modprobe -d.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
given() { tr ' ' '\n' </proc/cmdline | sed -n "s/^als\.$1=//p"; }
job=$(given job) modules=$(given modules) release=$(uname -r)
for name in overlay virtio_blk loop erofs fuse; do modprobe -d "$modules" $name; done

# Only the job's folder is the host's own; whatever else is written stays in memory and ends with the machine.
mount -t tmpfs -o mode=755,size=80% tmpfs /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work root /mnt/root
for name in proc sys dev; do mount --move /$name /mnt/root/$name; done
mount --bind "$job" "/mnt/root$job"
cd /mnt/root || exit 1
mkdir -p dev/pts dev/shm "lib/modules/$release"
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount -t tmpfs -o mode=755 tmpfs run
mkdir run/lock
mount -t cgroup2 -o nsdelegate cgroup2 sys/fs/cgroup
# So that the kernel finds this kernel's modules when it wants one itself.
mount --bind "$modules/lib/modules/$release" "lib/modules/$release"
ip link set lo up 2>/dev/null || ifconfig lo up
echo vm >proc/sys/kernel/hostname
# Not chroot alone: what was called by it may make no user namespaces.
pivot_root . mnt && umount -l /mnt
exec chroot . /bin/sh -c '
  cd / && setsid -w bash "$1/script" </dev/null >"$1/output" 2>&1
  echo $? >"$1/status"
  sync
  echo o >/proc/sysrq-trigger
  sleep 60' sh "$job"
