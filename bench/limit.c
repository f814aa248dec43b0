/*
 * The limit: what one core can do at most when everything but moving the bytes is left out. An iSCSI target that lets anybody log
 * in, knows what a client asks before it reads, and reads: no writes, no digests, no checks, no second disk.
 * One thread, one recv and one send for all that came in together, pread from the page cache into the buffer that is sent.
 *
 *     cc -O2 -o limit limit.c && ./limit ADDRESS PORT FILE
 *
 * Never to be reached from outside: it believes all that it is told.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { header_bytes = 48, block_bytes = 512, input_bytes = 64 * 1024, output_bytes = 4 * 1024 * 1024, window = 127 };

struct connection {
    int fd;
    uint32_t status_number;
    uint32_t expected_command;
    size_t filled;
    uint8_t input[input_bytes];
};

static int disk;
static uint64_t disk_blocks;
static uint8_t output[output_bytes];
static size_t output_filled;

static void put16(uint8_t *at, uint32_t value) { at[0] = value >> 8; at[1] = value; }
static void put32(uint8_t *at, uint32_t value) { put16(at, value >> 16); put16(at + 2, value); }
static void put64(uint8_t *at, uint64_t value) { put32(at, value >> 32); put32(at + 4, value); }
static uint32_t get32(const uint8_t *at) { return (uint32_t)at[0] << 24 | at[1] << 16 | at[2] << 8 | at[3]; }
static uint64_t get64(const uint8_t *at) { return (uint64_t)get32(at) << 32 | get32(at + 4); }

/* Blocking: a client of a bench reads what it asked for. */
static int send_all(int fd) {
    size_t sent = 0;
    while (sent < output_filled) {
        ssize_t count = send(fd, output + sent, output_filled - sent, MSG_NOSIGNAL);
        if (count < 0) return -1;
        sent += count;
    }
    output_filled = 0;
    return 0;
}

/* An answer's header, with room for `data` bytes behind it; RFC 7143 section 11. */
static uint8_t *begin(struct connection *to, const uint8_t *request, uint8_t opcode, uint8_t flags, uint32_t data) {
    if (output_filled + header_bytes + data + 3 > output_bytes) send_all(to->fd);
    uint8_t *answer = output + output_filled;
    memset(answer, 0, header_bytes);
    answer[0] = opcode;
    answer[1] = flags;
    put32(answer + 4, data);
    memcpy(answer + 16, request + 16, 4);
    put32(answer + 24, to->status_number++);
    put32(answer + 28, to->expected_command);
    put32(answer + 32, to->expected_command + window);
    memset(answer + header_bytes + data, 0, 3);
    output_filled += header_bytes + ((data + 3) & ~3u);
    return answer;
}

static void login(struct connection *to, const uint8_t *request) {
    static const char security[] = "AuthMethod=None";
    static const char operational[] = "HeaderDigest=None\0DataDigest=None\0MaxRecvDataSegmentLength=262144\0"
                                      "MaxBurstLength=262144\0TargetPortalGroupTag=1";
    int is_security = (request[1] >> 2 & 3) == 0;
    const char *text = is_security ? security : operational;
    uint32_t text_bytes = is_security ? sizeof security : sizeof operational;
    to->expected_command = get32(request + 24);
    uint8_t *answer = begin(to, request, 0x23, request[1] & 0x8f, text_bytes);
    memcpy(answer + 8, request + 8, 6);
    answer[15] = 1;
    memcpy(answer + header_bytes, text, text_bytes);
}

/* Data-In that carries GOOD, with what is missing of the expected length as residual. */
static uint8_t *data_in(struct connection *to, const uint8_t *request, uint32_t data) {
    uint32_t expected = get32(request + 20);
    if (data > expected) data = expected;
    uint8_t *answer = begin(to, request, 0x25, 0x81 | (data < expected ? 2 : 0), data);
    put32(answer + 20, 0xffffffff);
    put32(answer + 44, expected - data);
    memset(answer + header_bytes, 0, data > 64 ? 0 : data);
    return answer + header_bytes;
}

static void check_condition(struct connection *to, const uint8_t *request) {
    uint8_t *answer = begin(to, request, 0x21, 0x80, 20);
    answer[3] = 2;
    static const uint8_t sense[20] = {0, 18, 0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x20};
    memcpy(answer + header_bytes, sense, sizeof sense);
}

static void command(struct connection *to, const uint8_t *request) {
    const uint8_t *cdb = request + 32;
    uint8_t scratch[64] = {0};
    switch (cdb[0]) {
    case 0x28: /* READ (10) */
    case 0x88: /* READ (16) */ {
        uint64_t block = cdb[0] == 0x28 ? get32(cdb + 2) : get64(cdb + 2);
        uint32_t bytes = (cdb[0] == 0x28 ? (uint32_t)(cdb[7] << 8 | cdb[8]) : get32(cdb + 10)) * block_bytes;
        if (pread(disk, data_in(to, request, bytes), bytes, block * block_bytes) != (ssize_t)bytes) abort();
        return;
    }
    case 0x12: /* INQUIRY; of the pages only the list of them */
        if (cdb[1] & 1) scratch[3] = 1;
        else memcpy(scratch, (uint8_t[]){0, 0, 5, 2, 31}, 5);
        memcpy(data_in(to, request, cdb[1] & 1 ? 5 : 36), scratch, 5);
        return;
    case 0x25: /* READ CAPACITY (10) */
        put32(scratch, disk_blocks - 1);
        put32(scratch + 4, block_bytes);
        memcpy(data_in(to, request, 8), scratch, 8);
        return;
    case 0x9e: /* READ CAPACITY (16) */
        put64(scratch, disk_blocks - 1);
        put32(scratch + 8, block_bytes);
        memcpy(data_in(to, request, 32), scratch, 32);
        return;
    case 0xa0: /* REPORT LUNS: LUN 0 */
        put32(scratch, 8);
        memcpy(data_in(to, request, 16), scratch, 16);
        return;
    case 0x1a: /* MODE SENSE (6): write protected, no pages */
        memcpy(data_in(to, request, 4), (uint8_t[]){3, 0, 0x80, 0}, 4);
        return;
    case 0x00: /* TEST UNIT READY */
        begin(to, request, 0x21, 0x80, 0);
        return;
    default:
        check_condition(to, request);
    }
}

static int handle(struct connection *to, const uint8_t *request) {
    uint8_t opcode = request[0] & 0x3f;
    if (!(request[0] & 0x40)) to->expected_command = get32(request + 24) + 1;
    if (opcode == 0x01) command(to, request);
    else if (opcode == 0x03) login(to, request);
    else if (opcode == 0x06) begin(to, request, 0x26, 0x80, 0);
    else if (opcode == 0x00 && get32(request + 16) != 0xffffffff) put32(begin(to, request, 0x20, 0x80, 0) + 20, 0xffffffff);
    else if (opcode != 0x00) return -1;
    return 0;
}

/* All that came in together is answered together. */
static int readable(struct connection *from) {
    ssize_t count = recv(from->fd, from->input + from->filled, input_bytes - from->filled, 0);
    if (count <= 0) return -1;
    from->filled += count;
    size_t at = 0;
    while (from->filled - at >= header_bytes) {
        const uint8_t *request = from->input + at;
        size_t bytes = header_bytes + request[4] * 4 + (((get32(request + 4) & 0xffffff) + 3) & ~3u);
        if (from->filled - at < bytes) break;
        if (handle(from, request) < 0) return -1;
        at += bytes;
    }
    memmove(from->input, from->input + at, from->filled - at);
    from->filled -= at;
    return send_all(from->fd);
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

int main(int count, char **words) {
    if (count != 4) return fprintf(stderr, "limit ADDRESS PORT FILE\n"), 2;
    struct stat stat;
    disk = open(words[3], O_RDONLY);
    if (disk < 0 || fstat(disk, &stat) < 0) fail(words[3]);
    disk_blocks = stat.st_size / block_bytes;
    int yes = 1, listener = socket(AF_INET, SOCK_STREAM, 0), loop = epoll_create1(0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(words[2]))};
    inet_pton(AF_INET, words[1], &address.sin_addr);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0 || listen(listener, 128) < 0) fail("listen");
    struct epoll_event event = {.events = EPOLLIN}, events[64];
    epoll_ctl(loop, EPOLL_CTL_ADD, listener, &event);
    printf("ready\n");
    fflush(stdout);
    for (;;) {
        int ready = epoll_wait(loop, events, 64, -1);
        if (ready < 0 && errno != EINTR) fail("epoll_wait");
        for (int i = 0; i < ready; i++) {
            struct connection *from = events[i].data.ptr;
            if (from == NULL) {
                from = calloc(1, sizeof *from);
                from->fd = accept(listener, NULL, NULL);
                if (from->fd < 0) fail("accept");
                setsockopt(from->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
                event.data.ptr = from;
                epoll_ctl(loop, EPOLL_CTL_ADD, from->fd, &event);
            } else if (readable(from) < 0) {
                close(from->fd);
                free(from);
            }
        }
    }
}
