/**
 * Numbers of the NBD protocol, by the names that its document gives them (doc/proto.md of
 * github.com/NetworkBlockDevice/nbd). All integers on the wire are big-endian.
 *
 * @module
 */

// "Fixed newstyle negotiation". 64-bit magics as two 32-bit words, high word first.
export const INIT_MAGIC_HI = 0x4e42444d; // "NBDMAGIC"
export const INIT_MAGIC_LO = 0x41474943;
export const OLDSTYLE_MAGIC_HI = 0x00004202; // the server has fixed the export before it was asked
export const OLDSTYLE_MAGIC_LO = 0x81861253;
export const OPTION_MAGIC_HI = 0x49484156; // "IHAVEOPT"
export const OPTION_MAGIC_LO = 0x454f5054;
export const OPTION_REPLY_MAGIC_HI = 0x0003e889;
export const OPTION_REPLY_MAGIC_LO = 0x045565a9;

// "Handshake flags" (server) and "Client flags": the same bits.
export const FLAG_FIXED_NEWSTYLE = 1 << 0;
export const FLAG_NO_ZEROES = 1 << 1;

// "Option types" that this server knows.
export const OPT_EXPORT_NAME = 1;
export const OPT_ABORT = 2;
export const OPT_LIST = 3;
export const OPT_STARTTLS = 5;
export const OPT_INFO = 6;
export const OPT_GO = 7;
export const OPT_STRUCTURED_REPLY = 8;
export const OPT_LIST_META_CONTEXT = 9;
export const OPT_SET_META_CONTEXT = 10;
export const OPT_EXTENDED_HEADERS = 11;

// "Option reply types".
export const REP_ACK = 1;
export const REP_SERVER = 2;
export const REP_INFO = 3;
export const REP_META_CONTEXT = 4;
export const REP_ERR_UNSUP = 0x80000001;
export const REP_ERR_POLICY = 0x80000002;
export const REP_ERR_INVALID = 0x80000003;
export const REP_ERR_TLS_REQD = 0x80000005;
export const REP_ERR_UNKNOWN = 0x80000006;
export const REP_ERR_SHUTDOWN = 0x80000007;
export const REP_ERR_TOO_BIG = 0x80000009;
export const REP_ERR_EXT_HEADER_REQD = 0x8000000a;

// Information types of NBD_REP_INFO.
export const INFO_EXPORT = 0;
export const INFO_NAME = 1;
export const INFO_DESCRIPTION = 2;
export const INFO_BLOCK_SIZE = 3;

// "Transmission flags".
export const FLAG_HAS_FLAGS = 1 << 0;
export const FLAG_READ_ONLY = 1 << 1;
export const FLAG_SEND_FLUSH = 1 << 2;
export const FLAG_SEND_FUA = 1 << 3;
export const FLAG_ROTATIONAL = 1 << 4;
export const FLAG_SEND_TRIM = 1 << 5;
export const FLAG_SEND_WRITE_ZEROES = 1 << 6;
export const FLAG_SEND_DF = 1 << 7;
export const FLAG_CAN_MULTI_CONN = 1 << 8;
export const FLAG_SEND_CACHE = 1 << 10;
export const FLAG_SEND_FAST_ZERO = 1 << 11;

// "Request message" and "Simple reply message".
export const REQUEST_MAGIC = 0x25609513;
export const REQUEST_BYTES = 28;
export const SIMPLE_REPLY_MAGIC = 0x67446698;
export const SIMPLE_REPLY_BYTES = 16;

// "Structured reply chunk message".
export const STRUCTURED_REPLY_MAGIC = 0x668e33ef;
export const STRUCTURED_REPLY_BYTES = 20;

// "Extended request message" and "Extended reply chunk message".
export const EXTENDED_REQUEST_MAGIC = 0x21e41c71;
export const EXTENDED_REQUEST_BYTES = 32;
export const EXTENDED_REPLY_MAGIC = 0x6e8a278c;
export const EXTENDED_REPLY_BYTES = 32;

// "Structured reply flags" and "Structured reply types" that this server sends.
export const REPLY_FLAG_DONE = 1 << 0;
export const REPLY_TYPE_NONE = 0;
export const REPLY_TYPE_OFFSET_DATA = 1;
export const REPLY_TYPE_OFFSET_HOLE = 2;
export const REPLY_TYPE_BLOCK_STATUS = 5;
export const REPLY_TYPE_BLOCK_STATUS_EXT = 6;
export const REPLY_TYPE_ERROR = 0x8001;

// "Request types" that this server knows.
export const CMD_READ = 0;
export const CMD_WRITE = 1;
export const CMD_DISC = 2;
export const CMD_FLUSH = 3;
export const CMD_TRIM = 4;
export const CMD_CACHE = 5;
export const CMD_WRITE_ZEROES = 6;
export const CMD_BLOCK_STATUS = 7;

// "Command flags" that this server knows.
export const CMD_FLAG_FUA = 1 << 0;
export const CMD_FLAG_NO_HOLE = 1 << 1;
export const CMD_FLAG_DF = 1 << 2;
export const CMD_FLAG_REQ_ONE = 1 << 3;
export const CMD_FLAG_FAST_ZERO = 1 << 4;
export const CMD_FLAG_PAYLOAD_LEN = 1 << 5;

// "Error values" besides those of core/errors.ts.
export const EPERM = 1;
export const EOVERFLOW = 75;

// "Block size constraints", as announced. Requests at any offset and of any length are served nevertheless.
export const MIN_BLOCK_BYTES = 512;
export const PREFERRED_BLOCK_BYTES = 4096;
/** Longest read and longest write; a small cache may announce less. */
export const MAX_REQUEST_BYTES = 32 * 1024 * 1024;
/** Longest TRIM and WRITE_ZEROES: what a header with 32 bits of length can say. */
export const MAX_ZERO_BYTES = 2 ** 32 - 1;
/** The payload of a refused write is skipped up to this length; a longer one ends the connection. */
export const MAX_SKIPPED_BYTES = 2 * MAX_REQUEST_BYTES;

// Our limits for the negotiation.
/** Longest export name ("String values": 4096). */
export const MAX_NAME_BYTES = 4096;
/** Longest data of an option that is looked at; up to `MAX_SKIPPED_OPTION_BYTES` it is skipped and refused. */
export const MAX_OPTION_BYTES = 16 * 1024;
/** An option with more data than this ends the connection. */
export const MAX_SKIPPED_OPTION_BYTES = 1024 * 1024;
/** A client that has not reached the transmission phase after so many options is dropped. */
export const MAX_OPTIONS = 32;
