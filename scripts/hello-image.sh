#!/bin/sh
# Makes the root of the demo's web image from busybox-static, as a tar file:
#
#     scripts/hello-image.sh OUT.tar       # BUSYBOX=FILE: of another kind of processor
#     kith image import OUT.tar hello:1 --cmd /bin/hello
#
# The program answers HTTP on the first free port from 8080 up with its device's name.
set -eu

out=${1:?usage: scripts/hello-image.sh OUT.tar}
own=$(command -v busybox) || {
    echo "error: busybox is missing" >&2
    echo "hint: apt-get install busybox-static" >&2
    exit 1
}
busybox=${BUSYBOX:-$own}
# A static program names no interpreter; the image has no libraries.
if grep -aq '/lib[^ ]*/ld-' "$busybox"; then
    echo "error: $busybox needs libraries that the image will not have" >&2
    echo "hint: apt-get install busybox-static" >&2
    exit 1
fi

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT INT TERM

for dir in bin dev etc proc sys tmp www; do
    mkdir "$root/$dir"
done
chmod 755 "$root"
chmod 1777 "$root/tmp"
cp "$busybox" "$root/bin/busybox"
for applet in $("$own" --list); do
    [ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"
done
echo 'root:x:0:0:root:/:/bin/sh' >"$root/etc/passwd"
echo 'root:x:0:' >"$root/etc/group"

cat >"$root/bin/hello" <<'PROGRAM'
#!/bin/sh
# Serves one page with the device's name. Copies on one device share its ports: the first free one.
echo "hello from ${NODE_NAME:-a device} (pod ${POD_NAME:-$(hostname)})" >/www/index.html
server=
# As the container's first process it gets no signal that it does not ask for.
trap 'kill "$server" 2>/dev/null; exit 0' TERM INT
port=8080
while [ "$port" -lt 8100 ]; do
    echo "serving on port $port"
    httpd -f -p "$port" -h /www &
    server=$!
    # A server that can not have the port ends at once.
    wait "$server"
    echo "port $port is taken"
    port=$((port + 1))
done
echo "no port from 8080 to 8099 is free" >&2
exit 1
PROGRAM
chmod 755 "$root/bin/hello"

# The same input makes the same bytes.
tar --create --file "$out" --directory "$root" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --format=gnu .
