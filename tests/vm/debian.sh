# One device on Debian with systemd.
. /vm/guest.sh
. /vm/pods.sh
introduce

step "the service starts"
start_service
ok

. /vm/limits.sh
say "all of it works"
off
