/**
 * The manual pages pcache(8) and pcache(5), made from the one table of verbs, in the language of man(7).
 *
 * @module
 */

import config from "../deno.json" with { type: "json" };
import { TABLE_KEYS } from "../core/table.ts";
import { COMMON_FORMS, type OptionForm, VERB_FORMS, type VerbForm } from "./command_line.ts";

/** The page about the program. */
export function commandPage(): string {
  return page(8, "pcache", "persistent-memory write-back cache for block devices, in userspace", [
    section("SYNOPSIS", VERB_FORMS.map(synopsis).join("\n")),
    section("DESCRIPTION", DESCRIPTION),
    section("VERBS", VERB_FORMS.map(verbEntry).join("\n")),
    section("OPTIONS", OPTIONS_INTRODUCTION + "\n" + optionEntries()),
    section("STATUS LINE", STATUS_LINE),
    section("AT BOOT", AT_BOOT),
    section("EXIT STATUS", EXIT_STATUS),
    section("FILES", FILES),
    section("ENVIRONMENT", ENVIRONMENT),
    section("EXAMPLES", EXAMPLES),
    section("SEE ALSO", SEE_ALSO),
  ]);
}

/** The page about tables. */
export function tablePage(): string {
  return page(5, "pcache", "tables of pcache devices", [
    section("SYNOPSIS", TABLE_SYNOPSIS),
    section("DESCRIPTION", TABLE_DESCRIPTION),
    section("KEYS", keyEntries()),
    section("CONCISE FORM", CONCISE_FORM),
    section("FILES", TABLE_FILES),
    section("EXAMPLES", TABLE_EXAMPLES),
    section("SEE ALSO", ".BR pcache (8),\n.BR systemd.unit (5)"),
  ]);
}

function page(number: number, name: string, what: string, sections: string[]): string {
  return [
    `.\\" Made from the table of verbs by pack/manual.ts.`,
    `.TH ${name.toUpperCase()} ${number} "" "${name} ${config.version}" "${name}"`,
    ".nh",
    ".ad l",
    ".SH NAME",
    `${name} \\- ${what}`,
    ...sections,
  ].join("\n") + "\n";
}

function section(title: string, body: string): string {
  return `.SH ${title}\n${body.trim()}`;
}

/** The usage lines of a verb, each in one line. */
function usageLines({ names: [name], usage }: VerbForm): string[] {
  return `${name} ${usage}`.replaceAll(/\n\t {2,}/g, " ").split(/\n\t/).map((line) => line.trim());
}

function synopsis(verb: VerbForm): string {
  return usageLines(verb).map((line) => `.HP\n\\fBpcache\\fR ${markUsage(line)}`).join("\n");
}

/** What is typed as it stands is bold, what stands for something is in italics. */
function markUsage(usage: string): string {
  return usage.split(/(<[^<>]*>|[[\]| ]|\.\.\.|:)/).map((part) => {
    if (/^<.*>$/.test(part)) return `\\fI${escape(part.slice(1, -1))}\\fR`;
    return /^[\w-]+$/.test(part) ? `\\fB${escape(part)}\\fR` : escape(part);
  }).join("");
}

function verbEntry(verb: VerbForm): string {
  const [first, ...others] = usageLines(verb).map(markUsage);
  const alias = verb.names[1] === undefined
    ? ""
    : `\n.br\nAlso called \\fB${escape(verb.names[1])}\\fR.`;
  return [".TP", first, ...others.flatMap((line) => [".TQ", line])].join("\n") +
    `\n${escape(sentence(verb.help))}${alias}`;
}

/** Each option once, with the verbs that take it, unless all do. */
function optionEntries(): string {
  const entries = new Map<string, { form: OptionForm; verbs: string[] }>();
  for (const form of COMMON_FORMS) entries.set(form.words.at(-1)!, { form, verbs: [] });
  for (const { names: [name], options } of VERB_FORMS) {
    for (const form of options) {
      const key = form.words.at(-1)!;
      if (!entries.has(key)) entries.set(key, { form, verbs: [] });
      entries.get(key)!.verbs.push(name!);
    }
  }
  return [...entries].sort(([a], [b]) => a < b ? -1 : 1).map(([, { form, verbs }]) =>
    optionEntry(form, verbs)
  ).join("\n");
}

function optionEntry({ words, help, value }: OptionForm, verbs: string[]): string {
  const head = words.map((word) => `\\fB${escape(word)}\\fR`).join(", ");
  const of = verbs.length === 0 ? "" : `\n.br\nOf ${verbs.map(bold).join(", ")}.`;
  const placeholder = value === null ? "" : ` ${markUsage(value.placeholder)}`;
  return `.TP\n${head}${placeholder}\n${escape(sentence(help))}${of}`;
}

function keyEntries(): string {
  return Object.entries(TABLE_KEYS).map(([key, values]) =>
    `.TP\n${bold(key)} ${values.map(bold).join(" | ")}\n${
      KEY_TEXTS[key as keyof typeof TABLE_KEYS]
    }`
  ).join("\n");
}

function bold(text: string): string {
  return `\\fB${escape(text)}\\fR`;
}

function sentence(text: string): string {
  return text.endsWith(".") ? text : `${text}.`;
}

/** A text that stands in the page as it is. */
function escape(text: string): string {
  return text.replaceAll("\\", "\\e").replaceAll("-", "\\-").replaceAll("~", "\\(ti")
    .replaceAll("^", "\\(ha").replaceAll(/^(['.])/gm, "\\&$1");
}

const KEY_TEXTS: { readonly [K in keyof typeof TABLE_KEYS]: string } = {
  cache_mode:
    `What is done with writes, and with reads of what is not cached. It is kept in the cache device:
the default is the mode that the cache has, and \\fBwriteback\\fR for a new one. In \\fBwriteback\\fR a
write is answered when the cache has it. In \\fBwritethrough\\fR it is answered when the backing device
has it, too: what was flushed is there without the cache device. In \\fBwritearound\\fR the same holds, and
what the cache does not hold already is not put there by writes. \\fBwriteonly\\fR is \\fBwriteback\\fR,
but what is read from the backing device is not cached.`,
  data_crc:
    `A checksum for each key's data, verified before a byte leaves the cache. It is chosen when the
cache is made, and stays. The default is \\fBfalse\\fR.`,
  eviction: `What becomes of clean data when GC comes to it: \\fBfifo\\fR drops it, oldest first;
\\fBreinsert\\fR keeps what is accessed again, in the manner of S3-FIFO. It is not kept in the cache device. The default is
\\fBfifo\\fR.`,
};

const DESCRIPTION = String.raw`
.B pcache
caches a block device, or a file, on persistent memory or on anything fast. It is the sibling of the
Linux device-mapper target dm\-pcache: the same table line, the commands of
.BR dmsetup (8),
the same format on the cache device, the same promises. It needs no kernel module: the cached device is
served over NBD, or as a block device with
.B \-\-frontend ublk
or
.BR \-\-attach .
.PP
One device is one process in the background.
.B create
returns when the device answers, and
.B info
says where clients connect to it. At a terminal a bar shows how far
.B create
is while it reads a long log; Ctrl\-C leaves no device behind. A process that was killed is simply created again: every write that was
flushed is there.
.PP
Where a
.I device
is wanted, its name is, or
.B \-u
with its UUID, or
.B \-j
and
.B \-m
with its numbers. Names are 1 to 127 characters of
.BR "0\-9 A\-Z a\-z" " and " "#+\-.:=@_" .
`;

const OPTIONS_INTRODUCTION =
  "Options stand before or after the other words; after \\fB\\-\\-\\fR there are none.";

const STATUS_LINE = String.raw`
.B status
prints, for instance,
.PP
.in +4n
.EX
0 2097152 pcache 0 31 31 29 70 1182 6:2093904 0:15973104 0:15645224
.EE
.in
.PP
that is start and length in sectors of 512 bytes, the target type, and then:
.TP
.I sb_flags
Flags of the superblock, in hex.
.TP
.I seg_total
Segments of 16 MiB on the cache device.
.TP
.I cache_segs
Segments of the cache.
.TP
.I segs_used
Segments that hold data or log.
.TP
.I gc_percent
Share of segments in use at which reclaiming starts.
.TP
.I cache_flags
In hex: bit 0 data_crc, bit 1 initialised, bits 2\-5 mode, bits 6\-12 gc_percent.
.TP
.I key_head
Segment and offset where the log grows.
.TP
.I dirty_tail
Where write\-back stands; equal to
.IR key_head :
nothing is dirty.
.TP
.I key_tail
Where reclaiming stands.
`;

const AT_BOOT = String.raw`
.in +4n
.EX
mkdir \-p /etc/pcache
echo "pcache /dev/dax0.0 /dev/sdb data_crc true" > /etc/pcache/vol.table
systemctl enable \-\-now pcache@vol
.EE
.in
.PP
The unit is restarted when its process was killed. Stopping it removes the device; dirty data stays in the
cache and is found by the next start. A device that clients are still connected to after 5 s is ended by
SIGTERM, which loses nothing that was flushed; the unit counts as failed then.
.B systemctl reload
hands the device over to a process of the program that is installed now, as
.B create \-\-recover
does: whoever uses its block device waits a moment. It is refused, and the old process goes on, while NBD
clients are connected, and with
.BR "\-\-listen systemd" .
.PP
A unit that uses the device says
.B After=pcache@vol.service
and
.BR Requires=pcache@vol.service ,
and a device over an NBD server needs a drop\-in with
.BR Wants=network\-online.target .
Further options of
.B create
stand in
.IR /etc/pcache/NAME.env :
.PP
.in +4n
.EX
echo "PCACHE_CREATE_OPTIONS=\-\-listen systemd" > /etc/pcache/vol.env
systemctl enable \-\-now pcache@vol.socket
.EE
.in
.PP
starts the device when the first client comes to
.IR /run/pcache\-vol.sock ,
or to what the drop\-ins of the socket's unit say. Device names that systemd
knows consist of
.BR "0\-9 A\-Z a\-z" " and " ":\-_.@" .
`;

const EXIT_STATUS = String.raw`
.TP
.B 0
All that was asked for was done.
.TP
.B 1
Something was not. The standard error says what failed, on what, and why, and ends with
.BR "Command failed." ,
or, if the command line was wrong, with the usage. A
.B create
that failed has left nothing behind: no process, no socket, no changed byte on either device.
`;

const FILES = String.raw`
.TP
.I /run/pcache
The run directory of root. For each device that lives there is a folder with its name, and in it:
.RS
.TP
.I control
the socket that the commands talk to,
.TP
.I nbd
the socket that NBD clients connect to, unless
.B \-\-listen
said otherwise,
.TP
.I pid
the id of its process,
.TP
.I log
what the process had to say since it answered, and
.TP
.I lock
what it holds as long as it lives.
.RE
.TP
.I /etc/pcache/NAME.table
The table of the device NAME, for
.BR pcache@NAME.service .
.TP
.I /etc/pcache/NAME.env
PCACHE_CREATE_OPTIONS of the same, if there is such a file.
`;

const ENVIRONMENT = String.raw`
.TP
.BR PCACHE_RUN_DIR ", " XDG_RUNTIME_DIR
The run directory is
.IR $PCACHE_RUN_DIR ,
else
.I /run/pcache
for root,
.I $XDG_RUNTIME_DIR/pcache
for others. Only its owner may be able to write to it.
.TP
.B PCACHE_DEBUG
Anything but nothing: the same as
.BR \-v .
.TP
.B PCACHE_LOOP
Of
.BR create :
.B io_uring
insists on io_uring,
.B poll
does without it. Otherwise it is used where the kernel has it.
.TP
.B GLIBC_TUNABLES
A device process has
.B glibc.malloc.hugetlb=1
in front of it, so that large tables lie in huge pages;
.B glibc.malloc.hugetlb=0
turns that off.
.TP
.BR LC_ALL ", " LC_CTYPE ", " LANG
Of
.BR "ls \-\-tree" :
whether the lines of the tree may be drawn with UTF\-8.
.TP
.B PMEM_IS_PMEM_FORCE
For tests:
.B 1
makes libpmem take any mapping for persistent memory.
`;

const EXAMPLES = String.raw`
A cache in a file, for a file:
.PP
.in +4n
.EX
truncate \-s 512M cache.img
truncate \-s 1G backing.img
pcache create vol \-\-table "pcache cache.img backing.img data_crc true"
pcache info vol
nbdinfo "nbd+unix:///?socket=/run/pcache/vol/nbd"
pcache message vol 0 gc_percent 50
pcache remove \-\-flush vol
.EE
.in
.PP
The URI alone, for a script:
.PP
.in +4n
.EX
pcache info \-c \-\-noheadings \-o uri vol
.EE
.in
.PP
The same device under another name:
.PP
.in +4n
.EX
table=$(pcache table vol) && pcache remove vol && echo "$table" | pcache create other
.EE
.in
.PP
A cache that nobody uses, perhaps a kernel's: is it whole, and can it be brought back without being served?
.PP
.in +4n
.EX
pcache check /dev/pmem0 /dev/sdb \-\-data
pcache repair /dev/pmem0
pcache writeback /dev/pmem0 /dev/sdb
.EE
.in
.PP
Everything that goes on, as it was, after a restart of the machine:
.PP
.in +4n
.EX
pcache table \-\-concise > devices
pcache create \-\-concise "$(cat devices)"
.EE
.in
`;

const SEE_ALSO = String.raw`
.BR pcache (5),
.BR dmsetup (8),
.BR nbd\-client (8),
.BR nbdinfo (1),
.BR qemu\-img (1)
`;

const TABLE_SYNOPSIS = String.raw`
.HP
.I start length
.B pcache
.I cache_dev backing_dev
.RI [ #args
.RI [ "key value" "]...]"
.HP
.B pcache
.I cache_dev backing_dev
.RI [ #args ]
.RI [ "key value" ]...
`;

const TABLE_DESCRIPTION = String.raw`
A table says what a device is made of. It is one line;
.B pcache create
takes it from its option
.BR \-\-table ,
from a file, or from the standard input, and
.B pcache table
prints it. Empty lines and lines that begin with
.B #
are passed over.
.PP
The first form is the kernel's:
.I start
is 0,
.I length
is in sectors of 512 bytes,
.I #args
says how many words follow it. The second form takes the whole backing device.
.TP
.I cache_dev
A device or a file of at least 512 MiB, or
.IR major : minor .
What is on it decides: a cache is opened, zeroes are formatted, and anything else is refused, also a
damaged cache.
.B create \-\-format
formats over what was a cache; its dirty data is lost then.
.TP
.I backing_dev
The device or file that is cached, or
.IR major : minor ,
or an export of an NBD server:
.BI nbd:// HOST\fR[\fB:\fIPORT\fR]\fB/ EXPORT
or
.BI nbd+unix:/// EXPORT ?socket= PATH\fR,
or under TLS
.BI nbds:// HOST\fR.\|.\|.\fB?tls\-certificates= DIR
or
.BI nbds:// USER @ HOST\fR.\|.\|.\fB?tls\-psk\-file= FILE\fR.
A server may go away and come back: hits and writes go on meanwhile, misses wait up to 30 s.
.PP
Words are parted at blanks. A backslash takes the next character as it is, so that a path may hold a blank.
`;

const CONCISE_FORM = String.raw`
.B pcache table \-\-concise
prints all devices in one line, and
.B pcache create \-\-concise
makes them from it:
.PP
.in +4n
.EX
\fIname\fR,\fIuuid\fR,\fIminor\fR,\fIflags\fR,\fItable\fR[;\fIname\fR,...]
.EE
.in
.PP
.I flags
are
.B ro
or
.BR rw ;
.IR uuid ", " minor " and " flags
may be empty. A backslash takes a comma, a semicolon or a backslash as it is.
`;

const TABLE_FILES = String.raw`
.TP
.I /etc/pcache/NAME.table
The table of the device NAME, for
.BR pcache@NAME.service .
`;

const TABLE_EXAMPLES = String.raw`
.EX
# 1 GiB of /dev/sdb, cached on device DAX
0 2097152 pcache /dev/dax0.0 /dev/sdb 4 cache_mode writeback data_crc true

# all of a file with a blank in its name
pcache /mnt/dax/cache /srv/the\e image data_crc true
.EE
`;
