/*
 * The least that an NBD server can do, in C: bare_server SOCKET BYTES. One thread a connection, which receives a request, and its
 * payload straight into memory, and answers it with one call. There is no cache, no file, no check of what a client sends: it is
 * there to show which rates the client and the kernel leave to any server at all. It serves until it is killed.
 *
 * Protocol: NetworkBlockDevice/nbd doc/proto.md, fixed newstyle negotiation and simple replies.
 */

#include <endian.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#define PACKED __attribute__((packed))

enum { OPT_ABORT = 2, OPT_INFO = 6, OPT_GO = 7 };
enum { CMD_READ = 0, CMD_WRITE = 1, CMD_DISC = 2 };
enum { REP_ACK = 1, REP_INFO = 3 };
static const uint32_t REP_ERR_UNSUP = 0x80000001;
static const uint32_t REPLY_MAGIC = 0x67446698;
/* HAS_FLAGS, SEND_FLUSH, SEND_FUA, CAN_MULTI_CONN */
static const uint16_t EXPORT_FLAGS = 1 | 4 | 8 | 256;

struct PACKED greeting { uint64_t magic, options; uint16_t flags; };
struct PACKED option { uint64_t magic; uint32_t type, len; };
struct PACKED option_reply { uint64_t magic; uint32_t option, type, len; };
struct PACKED info { uint16_t type; uint64_t size; uint16_t flags; };
struct PACKED request { uint32_t magic; uint16_t flags, type; uint64_t cookie, off; uint32_t len; };
struct PACKED reply { uint32_t magic, error; uint64_t cookie; };

static char *memory;
static uint64_t size_bytes;

static bool take(int fd, void *to, size_t len) {
  return len == 0 || recv(fd, to, len, MSG_WAITALL) == (ssize_t)len;
}

static bool give(int fd, struct iovec *iov, int count) {
  struct msghdr message = {.msg_iov = iov, .msg_iovlen = count};
  size_t left = 0;
  for (int i = 0; i < count; i++) left += iov[i].iov_len;
  for (;;) {
    ssize_t sent = sendmsg(fd, &message, MSG_NOSIGNAL);
    if (sent < 0) return false;
    if ((left -= sent) == 0) return true;
    for (; (size_t)sent >= message.msg_iov->iov_len; message.msg_iov++, message.msg_iovlen--) {
      sent -= message.msg_iov->iov_len;
    }
    message.msg_iov->iov_base = (char *)message.msg_iov->iov_base + sent;
    message.msg_iov->iov_len -= sent;
  }
}

static bool say(int fd, uint32_t option, uint32_t type, void *data, uint32_t len) {
  struct option_reply head = {
    htobe64(0x3e889045565a9), option, htobe32(type), htobe32(len),
  };
  struct iovec iov[2] = {{&head, sizeof head}, {data, len}};
  return give(fd, iov, len > 0 ? 2 : 1);
}

static bool negotiate(int fd) {
  struct greeting greeting = {
    htobe64(0x4e42444d41474943), htobe64(0x49484156454f5054), htobe16(3),
  };
  struct iovec iov = {&greeting, sizeof greeting};
  uint32_t client_flags;
  if (!give(fd, &iov, 1) || !take(fd, &client_flags, sizeof client_flags)) return false;
  for (;;) {
    struct option option;
    char data[4096];
    if (!take(fd, &option, sizeof option) || be32toh(option.len) > sizeof data) return false;
    if (!take(fd, data, be32toh(option.len))) return false;
    const uint32_t type = be32toh(option.type);
    if (type == OPT_ABORT) return false;
    if (type != OPT_GO && type != OPT_INFO) {
      if (!say(fd, option.type, REP_ERR_UNSUP, NULL, 0)) return false;
      continue;
    }
    struct info info = {0, htobe64(size_bytes), htobe16(EXPORT_FLAGS)};
    if (!say(fd, option.type, REP_INFO, &info, sizeof info)) return false;
    if (!say(fd, option.type, REP_ACK, NULL, 0)) return false;
    if (type == OPT_GO) return true;
  }
}

static void transmit(int fd) {
  struct request request;
  while (take(fd, &request, sizeof request)) {
    const int type = be16toh(request.type);
    const uint64_t off = be64toh(request.off);
    const uint32_t len = be32toh(request.len);
    if (type == CMD_DISC || off > size_bytes || len > size_bytes - off) return;
    if (type == CMD_WRITE && !take(fd, memory + off, len)) return;
    struct reply reply = {htobe32(REPLY_MAGIC), 0, request.cookie};
    struct iovec iov[2] = {{&reply, sizeof reply}, {memory + off, len}};
    if (!give(fd, iov, type == CMD_READ ? 2 : 1)) return;
  }
}

static void *serve(void *socket) {
  const int fd = (int)(intptr_t)socket;
  if (negotiate(fd)) transmit(fd);
  close(fd);
  return NULL;
}

int main(int argc, char **argv) {
  struct sockaddr_un at = {.sun_family = AF_UNIX};
  if (argc != 3 || strlen(argv[1]) >= sizeof at.sun_path) {
    fprintf(stderr, "usage: bare_server SOCKET BYTES\n");
    return 1;
  }
  size_bytes = strtoull(argv[2], NULL, 10);
  memory = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  strcpy(at.sun_path, argv[1]);
  const int listener = socket(AF_UNIX, SOCK_STREAM, 0);
  if (memory == MAP_FAILED || bind(listener, (struct sockaddr *)&at, sizeof at) != 0 || listen(listener, 64) != 0) {
    perror("bare_server");
    return 1;
  }
  for (;;) {
    pthread_t thread;
    const int fd = accept(listener, NULL, NULL);
    if (fd < 0 || pthread_create(&thread, NULL, serve, (void *)(intptr_t)fd) != 0) return 1;
    pthread_detach(thread);
  }
}
