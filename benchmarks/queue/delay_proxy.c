// A TCP relay on loopback that hands every byte on a fixed time after it came, in both directions: latency without loss of
// bandwidth. One thread, epoll and one timer; bytes are copied once in and once out.
//   delay_proxy TARGET_PORT DELAY_MICROSECONDS      prints the port it listens on; ends with its standard input
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { CHUNK = 65536, EVENTS = 256 };

struct chunk {
  struct chunk *next;
  uint64_t due;
  size_t length, sent;
  char bytes[CHUNK];
};

// One socket with what is still to be written to it. `length` 0 in a chunk says that the other side has ended.
struct end {
  int fd;
  struct end *peer;
  struct chunk *first, *last;
  int writable_wanted, closed;
  struct end *next_busy, *previous_busy;
};

static int epoll_fd, timer_fd;
static uint64_t delay;
static struct end *busy;           // ends with chunks
static struct chunk *free_chunks;
static struct end timer_mark, listener_mark, input_mark;

static uint64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void die(const char *what) {
  perror(what);
  exit(1);
}

static void watch(int operation, struct end *end, int fd, uint32_t events) {
  struct epoll_event event = {.events = events, .data.ptr = end};
  // ENOENT: both sides have hung up, and it is not watched any more.
  if (epoll_ctl(epoll_fd, operation, fd, &event) < 0 && errno != ENOENT) die("epoll_ctl");
}

static void tune(int fd) {
  int one = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

static void unlink_busy(struct end *end) {
  if (end->previous_busy) end->previous_busy->next_busy = end->next_busy;
  else busy = end->next_busy;
  if (end->next_busy) end->next_busy->previous_busy = end->previous_busy;
  end->next_busy = end->previous_busy = NULL;
}

static void queue(struct end *to, struct chunk *chunk) {
  chunk->next = NULL;
  if (to->first) {
    to->last = to->last->next = chunk;
    return;
  }
  to->first = to->last = chunk;
  to->previous_busy = NULL;
  to->next_busy = busy;
  if (busy) busy->previous_busy = to;
  busy = to;
}

static struct chunk *take_chunk(void) {
  struct chunk *chunk = free_chunks;
  if (chunk) free_chunks = chunk->next;
  else if (!(chunk = malloc(sizeof *chunk))) die("malloc");
  chunk->sent = chunk->length = 0;
  return chunk;
}

static void give_chunk(struct chunk *chunk) {
  chunk->next = free_chunks;
  free_chunks = chunk;
}

static void receive(struct end *from) {
  for (;;) {
    struct chunk *chunk = take_chunk();
    ssize_t got = read(from->fd, chunk->bytes, CHUNK);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
      give_chunk(chunk);
      return;
    }
    chunk->length = got > 0 ? (size_t)got : 0;
    chunk->due = now() + delay;
    queue(from->peer, chunk);
    if (got <= 0) {
      from->closed = 1;
      watch(EPOLL_CTL_MOD, from, from->fd, from->writable_wanted ? EPOLLOUT : 0);
      return;
    }
    if (got < CHUNK) return;
  }
}

static void deliver(struct end *to, uint64_t at) {
  while (to->first && to->first->due <= at) {
    struct chunk *chunk = to->first;
    if (chunk->length == 0) {
      shutdown(to->fd, SHUT_WR);
    } else {
      ssize_t sent = write(to->fd, chunk->bytes + chunk->sent, chunk->length - chunk->sent);
      if (sent < 0 && errno == EAGAIN) {
        if (!to->writable_wanted) watch(EPOLL_CTL_MOD, to, to->fd, EPOLLOUT | (to->closed ? 0 : EPOLLIN));
        to->writable_wanted = 1;
        return;
      }
      if (sent > 0) chunk->sent += (size_t)sent;
      if (sent >= 0 && chunk->sent < chunk->length) continue;
    }
    to->first = chunk->next;
    if (!to->first) unlink_busy(to);
    give_chunk(chunk);
  }
  if (to->writable_wanted) {
    to->writable_wanted = 0;
    watch(EPOLL_CTL_MOD, to, to->fd, to->closed ? 0 : EPOLLIN);
  }
}

static void take(int listener, struct sockaddr_in *target) {
  int inside = accept(listener, NULL, NULL), outside = socket(AF_INET, SOCK_STREAM, 0);
  if (inside < 0 || outside < 0) die("accept");
  if (connect(outside, (struct sockaddr *)target, sizeof *target) < 0) die("connect");
  struct end *pair = calloc(2, sizeof *pair);
  if (!pair) die("calloc");
  pair[0].fd = inside, pair[0].peer = &pair[1];
  pair[1].fd = outside, pair[1].peer = &pair[0];
  for (int i = 0; i < 2; i++) {
    tune(pair[i].fd);
    watch(EPOLL_CTL_ADD, &pair[i], pair[i].fd, EPOLLIN);
  }
}

int main(int argc, char **argv) {
  if (argc != 3) return 2;
  // A client that is gone must not end the relay of the others.
  signal(SIGPIPE, SIG_IGN);
  struct sockaddr_in target = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[1]))};
  target.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  delay = strtoull(argv[2], NULL, 10) * 1000u;
  epoll_fd = epoll_create1(0);
  timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
  int listener = socket(AF_INET, SOCK_STREAM, 0);
  struct sockaddr_in here = {.sin_family = AF_INET};
  here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof here;
  if (bind(listener, (struct sockaddr *)&here, sizeof here) < 0 || listen(listener, 512) < 0) die("listen");
  getsockname(listener, (struct sockaddr *)&here, &size);
  watch(EPOLL_CTL_ADD, &listener_mark, listener, EPOLLIN);
  watch(EPOLL_CTL_ADD, &timer_mark, timer_fd, EPOLLIN);
  watch(EPOLL_CTL_ADD, &input_mark, 0, EPOLLIN | EPOLLHUP);
  printf("%d\n", ntohs(here.sin_port));
  fflush(stdout);

  uint64_t armed = 0;
  for (;;) {
    struct epoll_event events[EVENTS];
    int count = epoll_wait(epoll_fd, events, EVENTS, -1);
    for (int i = 0; i < count; i++) {
      struct end *end = events[i].data.ptr;
      char word[64];
      if (end == &input_mark) {
        if (read(0, word, sizeof word) <= 0) return 0;
      } else if (end == &timer_mark) {
        if (read(timer_fd, word, 8) == 8) armed = 0;
      } else if (end == &listener_mark) {
        take(listener, &target);
      } else {
        if (!end->closed && events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) receive(end);
        else if (end->closed && events[i].events & (EPOLLHUP | EPOLLERR)) epoll_ctl(epoll_fd, EPOLL_CTL_DEL, end->fd, NULL);
      }
    }
    uint64_t at = now(), due = UINT64_MAX;
    for (struct end *end = busy, *next; end; end = next) {
      next = end->next_busy;
      deliver(end, at);
      if (end->first && end->first->due < due && !end->writable_wanted) due = end->first->due;
    }
    if (due != UINT64_MAX && (!armed || due < armed)) {
      struct itimerspec when = {.it_value = {.tv_sec = (time_t)(due / 1000000000u), .tv_nsec = (long)(due % 1000000000u)}};
      timerfd_settime(timer_fd, TFD_TIMER_ABSTIME, &when, NULL);
      armed = due;
    }
  }
}
