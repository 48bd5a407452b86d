/* loadgen: drives many connections against a swarm dht node or against Redis, and measures both with the same code.
 *
 *     cc -O2 -Wall -Wextra -o loadgen loadgen.c
 *     taskset -c 1 ./loadgen --protocol swarm --port 10001 --connections 50 --pipeline 16 --operation put
 *
 * Load. Every connection sends a burst of --pipeline requests in one write, waits for all answers, and sends the next
 * burst (a closed loop, like redis-benchmark -P). The number of requests is rounded up to whole bursts. For swarm a burst
 * is one frame of --pipeline messages, as the project's clients send it, or with --frame-each one frame a request.
 *
 * Keys. Key i, for i from 0 to --keys - 1, is splitmix64(i) as 16 lower-case hex digits, so that another program can fill
 * a store with the same keys. Key 0 is "e220a8397b1dcdaf". In unsigned 64-bit arithmetic, splitmix64(i) is:
 *     z = i + 0x9e3779b97f4a7c15;          z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
 *     z = (z ^ (z >> 27)) * 0x94d049bb133111eb;          splitmix64(i) = z ^ (z >> 31)
 * Every request takes a pseudo-random i. Values are incompressible bytes, made once, another one for each place in a burst.
 *
 * Figures, one JSON object on stdout:
 *     requests_per_s   requests of completed bursts by the wall time from the first write to the last answer
 *     p50_us .. max_us latency of a whole burst, from its write to its last answer. In a closed loop that keeps the server
 *                      busy it is mostly waiting in queues: about connections * pipeline / requests_per_s.
 *     busy             CPU time of this program (user + system) by wall time. Near 1 the generator is the bottleneck, and
 *                      the server may be faster than it looks. On loopback it includes delivery to the server's sockets.
 *                      On a shared machine a low figure proves less, since time spent waiting for the core does not
 *                      count: there compare with echo in the same minutes.
 *     misses           gets that found nothing
 *     errors           0; or 1: the first wrong answer or other failure is told on stderr, and ends the run
 * --protocol echo runs the same load, as Redis' protocol, against a child process on --echo-cpu that only counts bytes and
 * sends prepared answers: the ceiling of generator and kernel on this machine. What is well below it is the server's own.
 *
 * --seconds-max ends a run early, which is told on stderr; the figures are then of the bursts completed by then. It is an
 * error when the server has not completed a burst for 2 s at that time.
 * Exit status: 0 all answers were right, 1 an error occurred, 2 bad usage. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { KEY_BYTES = 16, EVENTS = 512, MIB = 1 << 20, STALLED_SECONDS = 2, CODE_PUT = 16, CODE_GET = 18 };
static const uint64_t GOLDEN = 0x9e3779b97f4a7c15, SECOND = 1000000000; /* ns */

static struct {
    const char *protocol, *host, *port, *operation, *channel;
    uint64_t connections, pipeline, requests, keys, value_bytes, seed, seconds_max, echo_cpu;
    bool swarm, echo, put, frame_each;
} options = {.protocol = "", .operation = "", .host = "127.0.0.1", .channel = "bench", .connections = 50, .pipeline = 16,
             .requests = 500000, .keys = 1000000, .value_bytes = 100, .seed = 1, .seconds_max = 60};

/* A burst of options.pipeline requests, encoded once. Every connection has a copy, and fills in keys before it sends it. */
static struct { uint8_t *bytes; size_t size, *key_at; } pattern;

struct connection {
    int fd;
    bool wants_write;               /* registered for EPOLLOUT: the burst is sent in part */
    uint8_t *out, *in;              /* the burst; what was received and is not yet a whole answer */
    size_t sent, in_size, in_used;
    uint64_t started, answered;     /* when the burst was sent; answers so far: options.pipeline when nothing is awaited */
    uint32_t burst, *seen;          /* seen[id - 1] == burst: request id of this burst has been answered (swarm) */
};

static struct {
    int epoll;
    bool failed;
    struct connection *connections;
    uint64_t bursts_left, bursts_waiting, answered, misses, random, first_write, last_answer;
} run;

/* Latencies in ns: 64 buckets for each power of two, so a percentile is exact to 1%. */
static struct { uint64_t bucket[64 * 64], count, maximum; } histogram;

/* ---- small things ---- */

static void die(const char *what, const char *why) { fprintf(stderr, "loadgen: %s: %s\n", what, why); exit(1); }

static void usage(const char *problem, const char *what)
{
    fprintf(stderr, "loadgen: %s%s\nusage: loadgen --protocol swarm|redis|echo --operation put|get --port N (not for echo)\n"
            "  [--host 127.0.0.1] [--connections 50] [--pipeline 16] [--requests 500000] [--keys 1000000] [--value-bytes 100]\n"
            "  [--channel bench] [--frame-each] [--seed 1] [--seconds-max 60] [--echo-cpu 0]\n", problem, what);
    exit(2);
}

/* The first error ends the run: what is measured after it would mean little. */
static void fail(const char *format, ...)
{
    if (run.failed) return;
    run.failed = true;
    va_list arguments;
    va_start(arguments, format);
    fputs("loadgen: error: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
}

static void *allocate(void *old, size_t size)
{
    void *memory = realloc(old, size);
    if (!memory) die("allocate", strerror(errno));
    return old ? memory : memset(memory, 0, size);
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

static double cpu_seconds(void)
{
    struct rusage r;
    getrusage(RUSAGE_SELF, &r);
    return (double)(r.ru_utime.tv_sec + r.ru_stime.tv_sec) + (double)(r.ru_utime.tv_usec + r.ru_stime.tv_usec) / 1e6;
}

static uint64_t splitmix64(uint64_t i)
{
    uint64_t z = i + GOLDEN;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
}

static uint64_t next_random(void) { return splitmix64(run.random += GOLDEN); }

static void record_latency(uint64_t ns)
{
    unsigned shift = ns < 64 ? 0 : 57 - (unsigned)__builtin_clzll(ns); /* so that 64 <= ns >> shift < 128 */
    histogram.bucket[shift * 64 + (ns >> shift)]++;
    histogram.count++;
    if (ns > histogram.maximum) histogram.maximum = ns;
}

static double percentile_us(double share)
{
    uint64_t rank = (uint64_t)(share * (double)histogram.count), passed = 0;
    for (unsigned i = 0; i < 64 * 64; i++) {
        if ((passed += histogram.bucket[i]) <= rank) continue;
        unsigned shift = i < 128 ? 0 : i / 64 - 1;
        uint64_t middle = ((uint64_t)(i - shift * 64) << shift) + (1ull << shift) / 2;
        return (double)(middle < histogram.maximum ? middle : histogram.maximum) / 1e3;
    }
    return (double)histogram.maximum / 1e3;
}

/* ---- requests: the burst, encoded once ---- */

static void add(const void *bytes, size_t size) { memcpy(pattern.bytes + pattern.size, bytes, size); pattern.size += size; }
static void add_byte(unsigned byte) { pattern.bytes[pattern.size++] = (uint8_t)byte; }
static void add_big_endian(uint64_t n, int bytes) { while (bytes--) add_byte(n >> (8 * bytes) & 255); }
static void add_key(size_t number) { pattern.key_at[number] = pattern.size; pattern.size += KEY_BYTES; }
static void add_value(void) { for (uint64_t i = 0; i < options.value_bytes; i++) add_byte(next_random() & 255); }

/* msgpack: the type (0: there is none of that size) followed by n in 1, 2 or 4 bytes, whichever is the shortest. */
static void add_sized(unsigned type8, unsigned type16, unsigned type32, uint64_t n)
{
    int bytes = type8 && n <= 0xff ? 1 : n <= 0xffff ? 2 : 4;
    add_byte(bytes == 1 ? type8 : bytes == 2 ? type16 : type32);
    add_big_endian(n, bytes);
}

static void add_array(uint64_t n) { if (n < 16) add_byte(0x90 | (unsigned)n); else add_sized(0, 0xdc, 0xdd, n); }
static void add_integer(uint64_t n) { if (n < 128) add_byte((unsigned)n); else add_sized(0xcc, 0xcd, 0xce, n); }

static void add_swarm_message(size_t number)
{
    size_t length = strlen(options.channel);
    add_array(options.put ? 5 : 4);
    add_integer(number + 1);
    add_integer(options.put ? CODE_PUT : CODE_GET);
    if (length < 32) add_byte(0xa0 | (unsigned)length); else add_sized(0xd9, 0xda, 0xdb, length);
    add(options.channel, length);
    add_sized(0xc4, 0xc5, 0xc6, KEY_BYTES);
    add_key(number);
    if (!options.put) return;
    add_sized(0xc4, 0xc5, 0xc6, options.value_bytes);
    add_value();
}

static void add_swarm_frame(size_t first, size_t messages)
{
    size_t begin = pattern.size;
    add_big_endian(0, 4);
    add_array(messages);
    for (size_t i = 0; i < messages; i++) add_swarm_message(first + i);
    size_t end = pattern.size, length = end - begin - 4;
    if (length > MIB && messages > 1) usage("a burst of more than 1 MiB needs ", "--frame-each");
    pattern.size = begin;
    add_big_endian(length, 4);
    pattern.size = end;
}

static void add_redis_request(size_t number)
{
    char header[32];
    add(options.put ? "*3\r\n$3\r\nSET\r\n$16\r\n" : "*2\r\n$3\r\nGET\r\n$16\r\n", 18);
    add_key(number);
    add("\r\n", 2);
    if (!options.put) return;
    add(header, (size_t)sprintf(header, "$%" PRIu64 "\r\n", options.value_bytes));
    add_value();
    add("\r\n", 2);
}

static void encode_pattern(void)
{
    size_t n = options.pipeline;
    pattern.bytes = allocate(NULL, n * (options.value_bytes + strlen(options.channel) + 96) + 64);
    pattern.key_at = allocate(NULL, n * sizeof *pattern.key_at);
    if (options.swarm && !options.frame_each) add_swarm_frame(0, n);
    else for (size_t i = 0; i < n; i++) options.swarm ? add_swarm_frame(i, 1) : add_redis_request(i);
}

static void fill_keys(uint8_t *burst)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < options.pipeline; i++) {
        uint64_t hash = splitmix64((next_random() >> 32) * options.keys >> 32);
        uint8_t *key = burst + pattern.key_at[i];
        for (int digit = KEY_BYTES; digit--; hash >>= 4) key[digit] = (uint8_t)digits[hash & 15];
    }
}

/* ---- answers: both parsers take the whole answers at the begin of bytes, and return how many bytes these were ---- */

static void count_answer(struct connection *c)
{
    if (c->answered == options.pipeline) fail("more answers than requests");
    else if (!run.failed) c->answered++;
}

static size_t take_redis(struct connection *c, const uint8_t *bytes, size_t size)
{
    const uint8_t *p = bytes, *end = bytes + size, *line_end;
    while (!run.failed && p < end && (line_end = memchr(p, '\n', (size_t)(end - p)))) {
        const uint8_t *next = line_end + 1;
        if (*p == '$' && !options.put) {
            long length = strtol((const char *)p + 1, NULL, 10);
            if (length >= 0 && end - next - 2 < length) break;
            if (length >= 0) next += length + 2; else run.misses++;
        } else if (*p == '-') {
            fail("answer: %.*s", (int)(line_end - p - 1), (const char *)p);
        } else if (!options.put || next - p != 5 || memcmp(p, "+OK\r\n", 5)) {
            fail("unexpected answer: %.*s", (int)(line_end - p), (const char *)p);
        }
        count_answer(c);
        p = next;
    }
    return (size_t)(p - bytes);
}

/* Reads msgpack. When it meets the end, or something else than asked for, it turns bad for good. */
struct reader { const uint8_t *p, *end; bool bad; };

static uint64_t read_big_endian(struct reader *r, size_t bytes)
{
    uint64_t n = 0;
    if ((size_t)(r->end - r->p) < bytes) r->bad = true;
    else while (bytes--) n = n << 8 | *r->p++;
    return n;
}

/* The number at the head of a value: in the type byte itself, where its bits above fix_bits are those of fix, or behind a
 * type from first to last, in smallest bytes for the first of them, and twice as many for each further one. */
static uint64_t read_head(struct reader *r, unsigned fix, unsigned fix_bits, unsigned first, unsigned last, size_t smallest)
{
    unsigned type = (unsigned)read_big_endian(r, 1);
    if (type >> fix_bits == fix >> fix_bits) return type - fix;
    if (type >= first && type <= last) return read_big_endian(r, smallest << (type - first));
    r->bad = true;
    return 0;
}

static uint64_t read_integer(struct reader *r) { return read_head(r, 0x00, 7, 0xcc, 0xcf, 1); }
static uint64_t read_array(struct reader *r) { return read_head(r, 0x90, 4, 0xdc, 0xdd, 2); }
static uint64_t read_str(struct reader *r) { return read_head(r, 0xa0, 5, 0xd9, 0xdb, 1); }
static uint64_t read_bin(struct reader *r) { return read_head(r, 0xfff, 0, 0xc4, 0xc6, 1); } /* never in the type byte */

static void skip_bytes(struct reader *r, uint64_t n) { if (n > (uint64_t)(r->end - r->p)) r->bad = true; else r->p += n; }

/* Fails with what an error answer or a notice (id 0) says: its result is [text, details]. */
static void fail_with_status(struct reader *r, uint64_t id, uint64_t status)
{
    read_array(r);
    uint64_t length = read_str(r), most = (uint64_t)(r->end - r->p);
    if (length > most) length = most;
    fail("%s %" PRIu64 ": status %" PRIu64 ": %.*s", id ? "answer" : "notice", id, status, (int)length, (const char *)r->p);
}

static void take_swarm_message(struct connection *c, struct reader *r)
{
    uint64_t parts = read_array(r), id = read_integer(r), status = read_integer(r);
    if (r->bad || parts != 3 || r->p == r->end) { fail("an answer is not [id, status, result]"); return; }
    if (id == 0 || status != 0) { fail_with_status(r, id, status); return; }
    if (id > options.pipeline || c->seen[id - 1] == c->burst) { fail("answer %" PRIu64 " to no open request", id); return; }
    c->seen[id - 1] = c->burst;
    if (*r->p == 0xc0) r->p++, run.misses += !options.put;
    else skip_bytes(r, read_bin(r)), r->bad |= options.put;
    if (r->bad) fail("answer %" PRIu64 ": the result has a wrong type", id);
    count_answer(c);
}

static size_t take_swarm(struct connection *c, const uint8_t *bytes, size_t size)
{
    const uint8_t *p = bytes, *end = bytes + size;
    while (!run.failed && end - p >= 4) {
        uint64_t length = read_big_endian(&(struct reader){p, end, false}, 4);
        if (length == 0 || length > 33 * MIB) { fail("frame header %08" PRIx64, length); break; }
        if ((uint64_t)(end - p - 4) < length) break;
        struct reader body = {p + 4, p + 4 + length, false};
        for (uint64_t n = read_array(&body); n && !body.bad && !run.failed; n--) take_swarm_message(c, &body);
        if (!run.failed && (body.bad || body.p != body.end)) fail("a frame is not one msgpack array");
        p += 4 + length;
    }
    return (size_t)(p - bytes);
}

/* ---- connections ---- */

static void flush_burst(struct connection *c)
{
    ssize_t n = send(c->fd, c->out + c->sent, pattern.size - c->sent, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && errno != EAGAIN) { fail("send: %s", strerror(errno)); return; }
    if (n > 0) c->sent += (size_t)n;
    bool wants_write = c->sent < pattern.size;
    if (wants_write == c->wants_write) return;
    c->wants_write = wants_write;
    struct epoll_event event = {.events = EPOLLIN | (wants_write ? EPOLLOUT : 0), .data.ptr = c};
    if (epoll_ctl(run.epoll, EPOLL_CTL_MOD, c->fd, &event)) die("epoll_ctl", strerror(errno));
}

static void start_burst(struct connection *c)
{
    if (run.bursts_left == 0) return;
    run.bursts_left--;
    run.bursts_waiting++;
    fill_keys(c->out);
    c->burst++;
    c->sent = c->answered = 0;
    c->started = now_ns();
    flush_burst(c);
}

static void finish_burst(struct connection *c)
{
    if (c->sent < pattern.size) { fail("answers to requests that were not sent"); return; }
    run.last_answer = now_ns();
    record_latency(run.last_answer - c->started);
    run.bursts_waiting--;
    run.answered += options.pipeline;
    start_burst(c);
}

static void receive(struct connection *c)
{
    if (c->in_used == c->in_size) c->in = allocate(c->in, c->in_size = 2 * c->in_size + 16384);
    ssize_t n = recv(c->fd, c->in + c->in_used, c->in_size - c->in_used, MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) { fail("connection closed by the server: %s", n ? strerror(errno) : "end of stream"); return; }
    c->in_used += (size_t)n;
    bool was_waiting = c->answered < options.pipeline;
    size_t taken = (options.swarm ? take_swarm : take_redis)(c, c->in, c->in_used);
    c->in_used -= taken;
    if (c->in_used && taken) memmove(c->in, c->in + taken, c->in_used);
    if (was_waiting && c->answered == options.pipeline && !run.failed) finish_burst(c);
}

static void exchange_hellos(int fd)
{
    static const char hello[] = "\0\0\0\x22\x91\x93\xa5swarm\x01\x82\xa6" "client\xa7loadgen\xa4kind\xa3" "dht";
    uint8_t answer[65536];
    struct timeval patience = {.tv_sec = 10};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (send(fd, hello, sizeof hello - 1, MSG_NOSIGNAL) < 0) die("send hello", strerror(errno));
    if (recv(fd, answer, 4, MSG_WAITALL) != 4) die("hello", "the node did not answer");
    uint64_t length = read_big_endian(&(struct reader){answer, answer + 4, false}, 4);
    if (length > sizeof answer || recv(fd, answer, length, MSG_WAITALL) != (ssize_t)length) die("hello", "no frame of the swarm");
    struct reader r = {answer, answer + length, false};
    uint64_t messages = read_array(&r), parts = read_array(&r);
    if (!r.bad && messages == 1 && parts >= 2 && r.end - r.p >= 7 && !memcmp(r.p, "\xa5swarm\x01", 7)) return;
    uint64_t id = read_integer(&r), status = read_integer(&r);
    if (!r.bad) fail_with_status(&r, id, status);
    die("hello", "the node refused it, or is no node of the swarm");
}

static void open_connection(struct connection *c)
{
    static struct addrinfo *address; /* looked up once */
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    int one = 1, problem = address ? 0 : getaddrinfo(options.host, options.port, &hints, &address);
    if (problem) die(options.host, gai_strerror(problem));
    c->fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0 || connect(c->fd, address->ai_addr, address->ai_addrlen)) die("connect", strerror(errno));
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (options.swarm) exchange_hellos(c->fd);
    c->out = memcpy(allocate(NULL, pattern.size), pattern.bytes, pattern.size);
    c->seen = allocate(NULL, options.pipeline * sizeof *c->seen);
    c->answered = options.pipeline;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    if (epoll_ctl(run.epoll, EPOLL_CTL_ADD, c->fd, &event)) die("epoll_ctl", strerror(errno));
}

/* ---- the echo server: a child that counts bytes, and sends for every request what Redis would answer ---- */

static void serve_echo(int listener)
{
    static char received[65536];
    char head[32] = "+OK\r\n";
    if (!options.put) sprintf(head, "$%" PRIu64 "\r\n", options.value_bytes);
    size_t request = pattern.size / options.pipeline, answer = strlen(head) + (options.put ? 0 : options.value_bytes + 2);
    size_t most = sizeof received / request + 1, *rest = allocate(NULL, (options.connections + 64) * sizeof *rest);
    char *answers = memset(allocate(NULL, most * answer), 'v', most * answer);
    for (char *a = answers; a < answers + most * answer; a += answer) {
        memcpy(a + answer - 2, "\r\n", 2);
        memcpy(a, head, strlen(head));
    }
    struct epoll_event events[EVENTS];
    int set = epoll_create1(0);
    for (uint64_t i = 0; i < options.connections; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.fd = accept(listener, NULL, NULL)};
        if (epoll_ctl(set, EPOLL_CTL_ADD, event.data.fd, &event)) die("echo server", strerror(errno));
    }
    for (;;) {
        for (int i = epoll_wait(set, events, EVENTS, -1); i-- > 0;) {
            int fd = events[i].data.fd;
            ssize_t n = recv(fd, received, sizeof received, 0);
            if (n <= 0) _exit(0);
            size_t requests = (rest[fd] + (size_t)n) / request;
            rest[fd] = (rest[fd] + (size_t)n) % request;
            if (requests && send(fd, answers, requests * answer, MSG_NOSIGNAL) < 0) _exit(0);
        }
    }
}

static void start_echo_server(void)
{
    static char port[8];
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (struct sockaddr *)&address, size) || listen(listener, 4096)) die("echo server", strerror(errno));
    getsockname(listener, (struct sockaddr *)&address, &size);
    pid_t parent = getpid(), child = fork();
    if (child < 0) die("fork", strerror(errno));
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() == parent) serve_echo(listener);
        _exit(0);
    }
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    CPU_SET(options.echo_cpu, &cpus);
    if (sched_setaffinity(child, sizeof cpus, &cpus)) die("--echo-cpu", strerror(errno));
    close(listener);
    sprintf(port, "%d", ntohs(address.sin_port));
    options.host = "127.0.0.1";
    options.port = port;
}

/* ---- the run ---- */

static void drive(void)
{
    struct epoll_event events[EVENTS];
    uint64_t now = run.first_write = run.last_answer = now_ns(), deadline = now + options.seconds_max * SECOND;
    for (uint64_t i = 0; i < options.connections && !run.failed; i++) start_burst(&run.connections[i]);
    for (; run.bursts_waiting && !run.failed && now < deadline; now = now_ns()) {
        int n = epoll_wait(run.epoll, events, EVENTS, (int)((deadline - now) / 1000000) + 1);
        if (n < 0 && errno != EINTR) die("epoll_wait", strerror(errno));
        for (int i = 0; i < n && !run.failed; i++) {
            if (events[i].events & EPOLLOUT) flush_burst(events[i].data.ptr);
            if (events[i].events & ~(uint32_t)EPOLLOUT && !run.failed) receive(events[i].data.ptr);
        }
    }
    if (run.failed || !run.bursts_waiting) return;
    fprintf(stderr, "loadgen: stopped after %" PRIu64 " s\n", options.seconds_max);
    if (run.answered == 0 || now - run.last_answer > STALLED_SECONDS * SECOND) fail("the server no longer answers");
}

static void print_figures(double busy_seconds)
{
    double seconds = (double)(run.last_answer - run.first_write) / 1e9;
    printf("{\"protocol\": \"%s\", \"operation\": \"%s\", \"connections\": %" PRIu64 ", \"pipeline\": %" PRIu64 ", ",
           options.protocol, options.operation, options.connections, options.pipeline);
    printf("\"requests\": %" PRIu64 ", \"seconds\": %.3f, \"requests_per_s\": %.0f, ", run.answered, seconds,
           seconds > 0 ? (double)run.answered / seconds : 0.0);
    printf("\"p50_us\": %.1f, \"p90_us\": %.1f, \"p99_us\": %.1f, \"p999_us\": %.1f, \"max_us\": %.1f, ", percentile_us(0.5),
           percentile_us(0.9), percentile_us(0.99), percentile_us(0.999), (double)histogram.maximum / 1e3);
    printf("\"busy\": %.3f, \"misses\": %" PRIu64 ", \"errors\": %d}\n", seconds > 0 ? busy_seconds / seconds : 0.0,
           run.misses, (int)run.failed);
}

/* ---- the command line ---- */

static void set_option(const char *name, const char *value)
{
    const struct { const char *name; const char **text; uint64_t *number, minimum, maximum; } known[] = {
        {"--protocol", &options.protocol, 0, 0, 0}, {"--host", &options.host, 0, 0, 0}, {"--port", &options.port, 0, 0, 0},
        {"--operation", &options.operation, 0, 0, 0}, {"--channel", &options.channel, 0, 0, 0},
        {"--connections", 0, &options.connections, 1, 50000}, {"--pipeline", 0, &options.pipeline, 1, 100000},
        {"--requests", 0, &options.requests, 1, 1ull << 60}, {"--keys", 0, &options.keys, 1, 1ull << 32},
        {"--value-bytes", 0, &options.value_bytes, 1, 32 * MIB}, {"--seed", 0, &options.seed, 0, UINT64_MAX},
        {"--seconds-max", 0, &options.seconds_max, 1, 1000000}, {"--echo-cpu", 0, &options.echo_cpu, 0, CPU_SETSIZE - 1}};
    size_t i = 0;
    while (i < sizeof known / sizeof *known && strcmp(known[i].name, name)) i++;
    if (i == sizeof known / sizeof *known) usage("unknown option ", name);
    if (!value) usage("no value for ", name);
    if (known[i].text) { *known[i].text = value; return; }
    char *end;
    errno = 0;
    uint64_t n = *known[i].number = strtoull(value, &end, 10);
    bool number = *value >= '0' && *value <= '9' && !*end && !errno;
    if (!number || n < known[i].minimum || n > known[i].maximum) usage("bad value for ", name);
}

static void read_options(int count, char **arguments)
{
    for (int i = 1; i < count; i++) {
        if (!strcmp(arguments[i], "--frame-each")) options.frame_each = true;
        else { set_option(arguments[i], arguments[i + 1]); i++; }
    }
    options.swarm = !strcmp(options.protocol, "swarm");
    options.echo = !strcmp(options.protocol, "echo");
    options.put = !strcmp(options.operation, "put");
    bool redis = !strcmp(options.protocol, "redis");
    if (!options.swarm && !options.echo && !redis) usage("--protocol must be swarm, redis or echo", "");
    if (!options.put && strcmp(options.operation, "get")) usage("--operation must be put or get", "");
    if (!options.port && !options.echo) usage("--port is missing", "");
    if (strlen(options.channel) < 1 || strlen(options.channel) > 128) usage("bad value for ", "--channel");
}

int main(int count, char **arguments)
{
    read_options(count, arguments);
    struct rlimit files;
    if (!getrlimit(RLIMIT_NOFILE, &files)) setrlimit(RLIMIT_NOFILE, &(struct rlimit){files.rlim_max, files.rlim_max});
    run.random = splitmix64(2 * options.seed + options.put); /* gets must not ask in the order in which puts wrote */
    run.bursts_left = (options.requests + options.pipeline - 1) / options.pipeline;
    encode_pattern();
    if (options.echo) start_echo_server();
    run.epoll = epoll_create1(EPOLL_CLOEXEC);
    run.connections = allocate(NULL, options.connections * sizeof *run.connections);
    for (uint64_t i = 0; i < options.connections; i++) open_connection(&run.connections[i]);
    double cpu = cpu_seconds();
    drive();
    print_figures(cpu_seconds() - cpu);
    return run.failed ? 1 : 0;
}
