#!/bin/sh
# Record with perf, and print what `dirtylog import` reads. As root.
#
#   sh perf.sh ring PID SECONDS > ring.txt    on the host: a guest with a dirty ring
#   sh perf.sh log PID SECONDS > log.txt      on the host: a guest with the ordinary dirty log
#   sh perf.sh kmem SECONDS > kmem.txt        inside the guest: the free list
#
# The probes of `log` need kprobes and KVM's debug symbols or BTF; without them, in their place:
#   echo 'p:mark_page_dirty_in_slot mark_page_dirty_in_slot gfn=%dx:x64' >> /sys/kernel/tracing/kprobe_events
set -eu
data=$(mktemp)
mode=$1
cleanup() {
	rm -f "$data"
	if [ "$mode" = log ]; then
		perf probe -q --del 'mark_page_dirty_in_slot*' --del 'kvm_arch_sync_dirty_log*' || true
	fi
}
trap cleanup EXIT
trap 'exit 130' INT TERM
case $mode in
ring)
	perf record -q -m 4096 -o "$data" -e kvm:kvm_dirty_ring_push -e kvm:kvm_dirty_ring_reset -p "$2" -- sleep "$3"
	;;
log)
	perf probe -q -m kvm --add 'mark_page_dirty_in_slot gfn' --add 'kvm_arch_sync_dirty_log'
	perf record -q -m 4096 -o "$data" -e probe:mark_page_dirty_in_slot -e probe:kvm_arch_sync_dirty_log -p "$2" -- sleep "$3"
	;;
kmem)
	perf record -q -m 4096 -o "$data" -a -e kmem:mm_page_alloc -e kmem:mm_page_free -- sleep "$2"
	;;
*)
	echo "perf.sh: ring, log or kmem" >&2
	exit 2
	;;
esac
perf script --ns -i "$data"
