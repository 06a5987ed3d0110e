#!/bin/sh
# Record with nothing but tracefs, and print what `dirtylog import` reads. As root.
#
#   sh ftrace.sh ring SECONDS > ring.txt    on the host: guests with a dirty ring
#   sh ftrace.sh log SECONDS > log.txt      on the host: guests with the ordinary dirty log
#   sh ftrace.sh kmem SECONDS > kmem.txt    inside the guest: the free list
#
# An instance of its own leaves other users of the tracer alone. %dx as in trace-cmd.sh.
set -eu
root=/sys/kernel/tracing
here=$root/instances/dirtylog-$$
case $1 in
ring) events="kvm/kvm_dirty_ring_push kvm/kvm_dirty_ring_reset" ;;
log) events="dirtylog/mark_page_dirty_in_slot dirtylog/kvm_arch_sync_dirty_log" ;;
kmem) events="kmem/mm_page_alloc kmem/mm_page_free" ;;
*)
	echo "ftrace.sh: ring, log or kmem" >&2
	exit 2
	;;
esac
mode=$1
cleanup() {
	for event in $events; do echo 0 > "$here/events/$event/enable" || true; done
	rmdir "$here" || true
	if [ "$mode" = log ]; then
		echo '-:dirtylog/mark_page_dirty_in_slot' >> $root/kprobe_events || true
		echo '-:dirtylog/kvm_arch_sync_dirty_log' >> $root/kprobe_events || true
	fi
}
if [ "$mode" = log ]; then
	echo 'p:dirtylog/mark_page_dirty_in_slot mark_page_dirty_in_slot gfn=%dx:x64' >> $root/kprobe_events
	echo 'p:dirtylog/kvm_arch_sync_dirty_log kvm_arch_sync_dirty_log' >> $root/kprobe_events
fi
mkdir "$here"
trap cleanup EXIT
trap 'exit 130' INT TERM
echo 65536 > "$here/buffer_size_kb"
# So that each event says which guest's process it is of.
echo 1 > "$here/options/record-tgid" || true
echo mono > "$here/trace_clock"
for event in $events; do echo 1 > "$here/events/$event/enable"; done
sleep "$2"
echo 0 > "$here/tracing_on"
cat "$here/trace"
