#!/usr/bin/env bash
# Boots a whole machine, emulated, on Debian's own kernel, with kith on it, and reads what it says:
#
#   tests/vm/run.sh x86_64 PROGRAM    systemd and version 2 of cgroups alone: debian.sh
#   tests/vm/run.sh old PROGRAM       Debian 11 and its Linux 5.10, where it is installed first: old.sh
#   tests/vm/run.sh old-1 PROGRAM     the same with version 1 of cgroups
#   tests/vm/run.sh aarch64 PROGRAM   a fleet of three devices with a workload: fleet.sh
#
# Nothing is installed: the emulator, the kernel and the system are unpacked under target/tools.
# The console is kept in target/vm/KIND/console.
set -euo pipefail
shopt -s inherit_errexit
cd "$(dirname "$0")/../.."
kind=$1 program=$2
# Seconds until a machine that says nothing more is ended.
PATIENCE=${VM_PATIENCE:-1200}
tools=$PWD/target/tools
# Of the kind: the processor; Debian's name for that; another Debian than this machine's; what is run
# inside; and whether the system is Debian with systemd.
suite=() cgroups='' systemd=yes
case $kind in
    x86_64) processor=x86_64 script=debian.sh ;;
    old) processor=x86_64 script=old.sh suite=(--suite bullseye) ;;
    old-1) processor=x86_64 script=old.sh suite=(--suite bullseye) cgroups=systemd.unified_cgroup_hierarchy=0 ;;
    aarch64) processor=aarch64 script=fleet.sh systemd='' ;;
    *) echo "error: no machine of kind $kind: x86_64, old, old-1 or aarch64" >&2; exit 2 ;;
esac
case $processor in
    x86_64) architecture=amd64 emulator=qemu-system-x86 console=ttyS0 machine=(-M q35 -cpu max) ;;
    aarch64) architecture=arm64 emulator=qemu-system-arm console=ttyAMA0 machine=(-M virt -cpu cortex-a53) ;;
esac
[ "$(id -u)" = 0 ] || { echo "error: making the machine's disk needs root" >&2; exit 1; }
scripts/install.sh busybox-static mke2fs:e2fsprogs cpio >&2
scripts/unpack.sh --closed "$tools/$emulator" "$emulator"
kernel=$tools/kernel-${suite[1]:+${suite[1]}-}$architecture
scripts/unpack.sh --closed "${suite[@]}" --architecture "$architecture" "$kernel" "linux-image-cloud-$architecture" busybox-static
image=$(ls "$kernel"/boot/vmlinuz-*)
release=${image##*/vmlinuz-}

work=$PWD/target/vm/$kind
mkdir -p "$work"
mount_point=
clean_up() {
    [ -z "$mount_point" ] || umount "$mount_point"
    rm -rf "$work/initrd" "$work/own" "$work/over" "$work/whole" "$work"/*.img
}
trap clean_up EXIT
clean_up

# What finds the disk, and hands over to it.
modules=(crc16 crc32c_generic mbcache jbd2 ext4 virtio virtio_ring virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk)
mkdir -p "$work"/initrd/{bin,dev,proc,sys,root,modules}
cp "$kernel/bin/busybox" "$work/initrd/bin/"
for module in "${modules[@]}"; do
    find "$kernel/lib/modules/$release/kernel" -name "$module.ko*" -exec cp {} "$work/initrd/modules/" \;
done
cat >"$work/initrd/init" <<INIT
#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t proc proc /proc
for module in ${modules[*]}; do
    [ -e /modules/\$module.ko ] && /bin/busybox insmod /modules/\$module.ko
done
until /bin/busybox mount -t ext4 /dev/vda /root; do /bin/busybox sleep 0.1; done
/bin/busybox umount /proc
/bin/busybox mount --move /dev /root/dev
exec /bin/busybox switch_root /root /sbin/init
INIT
chmod 755 "$work/initrd/init"
(cd "$work/initrd" && find . | cpio --quiet -o -H newc) | gzip -1 >"$work/initrd.img"

# The system: Debian with systemd, or busybox alone; and what is tried.
own=$work/own
mkdir -p "$own"/{lib,usr/lib/modules,vm,usr/bin}
BUSYBOX=$kernel/bin/busybox scripts/hello-image.sh "$own/vm/rootfs.tar"
cp tests/vm/*.sh configs/examples/hello.yaml "$own/vm/"
if [ "$script" = old.sh ]; then
    # What a release has beside the program: it is installed there, from this.
    mkdir "$own/vm/kith"
    cp -r install.sh systemd configs "$own/vm/kith/"
    cp "$program" "$own/vm/kith/kith"
else
    cp "$program" "$own/usr/bin/kith"
fi
cp -r "$kernel/lib/modules/$release" "$own/usr/lib/modules/"
busybox depmod -b "$own/usr" "$release"
if [ -n "$systemd" ]; then
    system=$(scripts/debian-root.sh "${suite[@]}")
    mkdir -p "$own"/{etc/systemd/system/multi-user.target.wants,usr/lib/systemd/system,usr/sbin}
    rmdir "$own/lib"
    [ "$script" = old.sh ] || cp systemd/kith.service "$own/usr/lib/systemd/system/"
    ln -sf /bin/busybox "$own/usr/sbin/modprobe"
    cat >"$own/etc/systemd/system/vm.service" <<UNIT
[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/bin/sh /vm/$script
StandardOutput=tty
StandardError=tty
TTYPath=/dev/$console
UNIT
    ln -s ../vm.service "$own/etc/systemd/system/multi-user.target.wants/vm.service"
    mkdir -p "$work"/over "$work/whole"
    # Seen as one folder, the way that it will be.
    mount -t overlay overlay -o "lowerdir=$own:$system" "$work/whole"
    mount_point=$work/whole whole=$work/whole
else
    system=$own whole=$own
    mkdir -p "$own"/{bin,sbin,dev,proc,sys,run,tmp,root,etc,var/lib,var/log,usr/sbin}
    rmdir "$own/lib" && ln -s usr/lib "$own/lib"
    cp "$kernel/bin/busybox" "$own/bin/"
    for applet in $(busybox --list); do
        [ "$applet" = busybox ] || ln -sf /bin/busybox "$own/bin/$applet"
    done
    ln -s /bin/busybox "$own/sbin/modprobe"
    cat >"$own/sbin/init" <<INIT
#!/bin/busybox sh
export PATH=/usr/bin:/bin:/sbin HOME=/root
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t cgroup2 cgroup /sys/fs/cgroup
mount -t tmpfs run /run
mount -t tmpfs tmp /tmp
mkdir -p /dev/pts /dev/shm /dev/mqueue
mount -t devpts devpts /dev/pts
hostname device
ip link set lo up
sh /vm/$script >/dev/$console 2>&1
INIT
    chmod 755 "$own/sbin/init"
fi
mke2fs -q -F -t ext4 -d "$whole" "$work/disk.img" 2G >/dev/null
# Where kith keeps its things: small, so that it can be filled.
mke2fs -q -F -t ext4 -N 8192 "$work/data.img" 400M >/dev/null

cp "$image" "$work/kernel.img"
echo "booting $release ($kind)"
begun=$(date +%s%N)
# The emulator with its own libraries, as they lie: seen as a system of its own.
timeout "$PATIENCE" unshare --mount sh -c '
    root=$1 work=$2; shift 2
    mkdir -p "$root/dev" "$root/mnt" && mount --bind "$work" "$root/mnt" && mount --bind /dev "$root/dev" && exec chroot "$root" "$@"
    ' sh "$tools/$emulator" "$work" "/usr/bin/qemu-system-$processor" \
    "${machine[@]}" -accel tcg -smp 2 -m 1024 -nic none -display none -no-reboot \
    -serial stdio -monitor none \
    -kernel /mnt/kernel.img -initrd /mnt/initrd.img -append "console=$console root=/dev/vda rw quiet loglevel=4 panic=-1 systemd.show_status=0 $cgroups" \
    -drive "file=/mnt/disk.img,if=virtio,format=raw,cache=unsafe" \
    -drive "file=/mnt/data.img,if=virtio,format=raw,cache=unsafe" </dev/null |
    tee "$work/console" | sed -un 's/\r$//; s/^.*@ //p' || true
echo "the machine ran for $((($(date +%s%N) - begun) / 1000000000)) s"
if grep -q '@ FAILED' "$work/console" || ! grep -q '@ all of it works' "$work/console"; then
    tail -n 60 "$work/console" >&2
    echo "error: not all of it works on $kind; the whole console is in $work/console" >&2
    exit 1
fi
