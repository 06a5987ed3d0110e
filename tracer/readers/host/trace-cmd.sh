#!/bin/sh
# Record with trace-cmd, and print what `dirtylog import` reads. As root.
#
#   sh trace-cmd.sh ring PID SECONDS > ring.txt    on the host: a guest with a dirty ring
#   sh trace-cmd.sh log PID SECONDS > log.txt      on the host: a guest with the ordinary dirty log
#   sh trace-cmd.sh kmem SECONDS > kmem.txt        inside the guest: the free list
#
# %dx is the third argument of a function on x86-64; on arm64 it is %x2.
set -eu
data=$(mktemp)
probes=/sys/kernel/tracing/kprobe_events
mode=$1
cleanup() {
	rm -f "$data"
	if [ "$mode" = log ]; then
		echo '-:dirtylog/mark_page_dirty_in_slot' >> $probes || true
		echo '-:dirtylog/kvm_arch_sync_dirty_log' >> $probes || true
	fi
}
trap cleanup EXIT
trap 'exit 130' INT TERM
case $mode in
ring)
	trace-cmd record -q -b 65536 -o "$data" -e kvm:kvm_dirty_ring_push -e kvm:kvm_dirty_ring_reset -P "$2" -c sleep "$3"
	;;
log)
	echo 'p:dirtylog/mark_page_dirty_in_slot mark_page_dirty_in_slot gfn=%dx:x64' >> $probes
	echo 'p:dirtylog/kvm_arch_sync_dirty_log kvm_arch_sync_dirty_log' >> $probes
	trace-cmd record -q -b 65536 -o "$data" -e dirtylog:mark_page_dirty_in_slot -e dirtylog:kvm_arch_sync_dirty_log -P "$2" -c sleep "$3"
	;;
kmem)
	trace-cmd record -q -b 65536 -o "$data" -e kmem:mm_page_alloc -e kmem:mm_page_free sleep "$2"
	;;
*)
	echo "trace-cmd.sh: ring, log or kmem" >&2
	exit 2
	;;
esac
trace-cmd report -t -i "$data"
