#!/bin/sh
# What a user of dmsetup writes, with pcache in its place. PCACHE names the program; the first argument is an empty folder,
# where the devices' files are made. The run directory is the caller's (PCACHE_RUN_DIR).
set -eu

: "${PCACHE:?names the program}"
dir=${1:?a folder is wanted}
cd "$dir"

fail() {
	echo "session.sh: $*" >&2
	exit 1
}

# same WHAT GOT WANTED
same() {
	[ "$2" = "$3" ] || fail "$1: got \"$2\", wanted \"$3\""
}

# refused TEXT COMMAND...: it must end with status 1 and say TEXT on stderr, nothing on stdout.
refused() {
	text=$1
	shift
	if out=$("$@" 2>refused.txt); then fail "$*: it was not refused"; fi
	same "$* (stdout)" "$out" ""
	grep -qF -- "$text" refused.txt || fail "$*: said $(cat refused.txt), wanted $text"
}

trap '"$PCACHE" remove_all --force >/dev/null 2>&1 || true' EXIT

truncate -s 512M fast0 fast1
truncate -s 64M slow0
truncate -s 32M slow1

# Two devices, each from a file with comments.
cat >vol0.table <<TABLE
# the first volume
0 131072 pcache $dir/fast0 $dir/slow0 4 cache_mode writeback data_crc true

# that was it
TABLE
printf '  # short form, from the standard input\n\n  pcache %s/fast1 %s/slow1  \n' "$dir" "$dir" >vol1.table

same "ls before" "$("$PCACHE" ls)" "No devices found"
"$PCACHE" create vol0 vol0.table
"$PCACHE" create vol1 -u SESSION-1 <vol1.table

# Every device, one after another.
seen=
for name in $("$PCACHE" ls | cut -f 1); do
	seen="$seen $name"
	"$PCACHE" status "$name" | grep -q '^0 [0-9]* pcache 0 31 31 ' || fail "status of $name"
	"$PCACHE" deps "$name" | grep -q '^2 dependencies	: (' || fail "deps of $name"
done
same "ls" "$seen" " vol0 vol1"

# Fields for the shell.
same "attr" "$("$PCACHE" info -c --noheadings -o name,attr vol0)" "vol0:L--w"
eval "$("$PCACHE" info -c --noheadings --nameprefixes --separator ' ' -o name,uuid,open,events vol1)"
same "DM_NAME" "$DM_NAME" vol1
same "DM_UUID" "$DM_UUID" SESSION-1
same "DM_OPEN" "$DM_OPEN" 0
same "selection" "$("$PCACHE" info -c --noheadings -o name -S 'uuid=~^SESSION && open=0')" vol1
pid=$("$PCACHE" info -c --noheadings -o pid vol0)
kill -0 "$pid" || fail "no process $pid"

# A setting, and an event that somebody waits for.
event=$("$PCACHE" info -c --noheadings -o events vol0)
"$PCACHE" wait vol0 "$event" &
waiter=$!
"$PCACHE" message vol0 0 gc_percent 42
wait "$waiter" || fail "wait"
same "gc_percent" "$("$PCACHE" status vol0 | cut -d ' ' -f 8)" 42
refused "pcache: message on vol0 failed: Invalid argument" "$PCACHE" message vol0 0 gc_percent 91

# Suspended and resumed, with a table that makes it read-only.
"$PCACHE" suspend vol1
same "suspended" "$("$PCACHE" info -c --noheadings -o suspended vol1)" Suspended
"$PCACHE" table vol1 | "$PCACHE" load vol1 -r
same "loaded" "$("$PCACHE" info -c --noheadings -o attr vol1)" LIsw
"$PCACHE" resume vol1
same "resumed" "$("$PCACHE" info -c --noheadings -o attr vol1)" L--r

# The same device under another name, from its own table; the setting is still there.
table=$("$PCACHE" table vol0)
"$PCACHE" remove vol0
refused "Device does not exist." "$PCACHE" status vol0
printf '%s\n' "$table" | "$PCACHE" create again
same "table | create" "$("$PCACHE" table again)" "$table"
same "gc_percent later" "$("$PCACHE" status again | cut -d ' ' -f 8)" 42
"$PCACHE" rename again vol0
refused "pcache: rename on again failed: No such device or address" "$PCACHE" rename again x

# All of it in one line, and back.
concise=$("$PCACHE" table --concise)
"$PCACHE" remove_all
same "ls between" "$("$PCACHE" ls)" "No devices found"
"$PCACHE" create --concise "$concise"
same "concise" "$("$PCACHE" table --concise)" "$concise"
same "read-only again" "$("$PCACHE" info -c --noheadings -o name,attr,uuid)" "vol0:L--w:
vol1:L--r:SESSION-1"

refused "pcache: create on vol0 failed: Device or resource busy" "$PCACHE" create vol0 vol0.table
"$PCACHE" remove --retry --flush vol0 vol1
same "ls after" "$("$PCACHE" ls)" "No devices found"
refused "pcache: remove on vol0 failed: No such device or address" "$PCACHE" remove vol0
rm -f refused.txt
echo "session.sh: ok"
