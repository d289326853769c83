/**
 * The ublk driver's interface: numbers and layouts of `include/uapi/linux/ublk_cmd.h`, as far as they are used here.
 * Structures are seen as 32-bit words; the comments name their fields.
 *
 * @module
 */

/** The driver's control device. */
export const CONTROL_PATH = "/dev/ublk-control";

/** `_IOR` and `_IOWR` of type 'u' with the structure that each command carries. */
const CONTROL_READ = 0x8020_7500;
const CONTROL_WRITE = 0xc020_7500;
const IO_WRITE = 0xc010_7500;

// Control commands.
export const CMD_GET_DEV_INFO = CONTROL_READ | 0x02;
export const CMD_ADD_DEV = CONTROL_WRITE | 0x04;
export const CMD_DEL_DEV = CONTROL_WRITE | 0x05;
export const CMD_START_DEV = CONTROL_WRITE | 0x06;
export const CMD_STOP_DEV = CONTROL_WRITE | 0x07;
export const CMD_SET_PARAMS = CONTROL_WRITE | 0x08;
export const CMD_GET_PARAMS = CONTROL_READ | 0x09;
export const CMD_START_USER_RECOVERY = CONTROL_WRITE | 0x10;
export const CMD_END_USER_RECOVERY = CONTROL_WRITE | 0x11;
export const CMD_GET_FEATURES = CONTROL_READ | 0x13;
export const CMD_DEL_DEV_ASYNC = CONTROL_READ | 0x14;
export const CMD_UPDATE_SIZE = CONTROL_WRITE | 0x15;
export const CMD_QUIESCE_DEV = CONTROL_WRITE | 0x16;
export const CMD_TRY_STOP_DEV = CONTROL_WRITE | 0x17;

// Commands of a device's queues.
export const IO_FETCH = IO_WRITE | 0x20;
export const IO_COMMIT_AND_FETCH = IO_WRITE | 0x21;

// Features and flags of a device (UBLK_F_*). All known ones are in the lower word.
export const F_USER_RECOVERY = 1 << 3;
export const F_USER_RECOVERY_REISSUE = 1 << 4;
export const F_CMD_IOCTL_ENCODE = 1 << 6;
export const F_USER_COPY = 1 << 7;
export const F_UPDATE_SIZE = 1 << 10;
export const F_QUIESCE = 1 << 12;
export const F_SAFE_STOP_DEV = 1 << 17;

// States of a device.
export const STATE_LIVE = 1;

/** struct ublksrv_ctrl_cmd, in words from its begin: the place of each field that is used. */
export const CTRL_DEV_ID = 0;
/** Queue (-1: none) in the lower half, length of the buffer in the upper one. */
export const CTRL_QUEUE_AND_LEN = 1;
export const CTRL_ADDR = 2;
/** 64 bits. */
export const CTRL_DATA = 4;

/** struct ublksrv_ctrl_dev_info. */
export const INFO_BYTES = 64;
/** Queues in the lower half, depth in the upper one. */
export const INFO_QUEUES_AND_DEPTH = 0;
export const INFO_STATE = 1;
export const INFO_MAX_IO_BYTES = 2;
export const INFO_DEV_ID = 3;
export const INFO_FLAGS = 6;
/** The server's own: the kernel keeps it and does not look at it. */
export const INFO_SERVER_FLAGS = 8;

/** struct ublk_params, up to and including ublk_param_devt. */
export const PARAMS_BYTES = 80;
export const PARAMS_LEN = 0;
export const PARAMS_TYPES = 1;
export const PARAMS_ATTRS = 2;
/** logical, physical, optimal and minimal block size, as powers of two, a byte each. */
export const PARAMS_SHIFTS = 3;
export const PARAMS_MAX_SECTORS = 4;
export const PARAMS_DEV_SECTORS = 6;
export const PARAMS_DISCARD_GRANULARITY = 11;
export const PARAMS_MAX_DISCARD_SECTORS = 12;
export const PARAMS_MAX_ZEROES_SECTORS = 13;
export const PARAMS_MAX_DISCARD_SEGMENTS = 14;
export const PARAMS_DISK_MAJOR = 17;
export const PARAMS_DISK_MINOR = 18;

export const TYPE_BASIC = 1 << 0;
export const TYPE_DISCARD = 1 << 1;
export const TYPE_DEVT = 1 << 2;

export const ATTR_READ_ONLY = 1 << 0;
export const ATTR_ROTATIONAL = 1 << 1;
export const ATTR_VOLATILE_CACHE = 1 << 2;
export const ATTR_FUA = 1 << 3;

/** struct ublksrv_io_desc: what is asked, in a read-only mapping of the device, one for each tag. */
export const DESC_BYTES = 24;
/** Operation in the lowest byte, flags above. */
export const DESC_OP = 0;
export const DESC_SECTORS = 1;
export const DESC_START = 2;

export const OP_READ = 0;
export const OP_WRITE = 1;
export const OP_FLUSH = 2;
export const OP_DISCARD = 3;
export const OP_WRITE_ZEROES = 5;
export const OP_MASK = 0xff;
export const FLAG_FUA = 1 << 13;
export const FLAG_NOUNMAP = 1 << 15;

/** Queues are mapped at multiples of what the deepest one would take (`UBLK_MAX_QUEUE_DEPTH`), whatever their depth. */
export const QUEUE_STRIDE_BYTES = 4096 * DESC_BYTES;
/** Where a request's bytes begin in the device (USER_COPY): the queue above bit 41, the tag above bit 25. */
export const DATA_OFF_BYTES = 0x8000_0000;
export const TAG_BYTES = 2 ** 25;
export const QUEUE_BYTES = 2 ** 41;
