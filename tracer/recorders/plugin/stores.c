/*
 * A TCG plugin for QEMU: which physical pages the guest's vCPUs store to, once a page and quantum.
 *
 * Arguments: out=PATH (a pipe that is read), pages=N (of 4 KiB, of the guest's RAM), quantum=NS,
 * api=N (of QEMU's plugin interface, for which this was compiled).
 *
 * Writes pairs of 32-bit numbers, in the host's byte order: the quantum, counted from the first
 * store, and the page; or one of the marks below. Rows come in the order of their quanta.
 *
 * The interface is declared here as docs/devel/tcg-plugins.rst of QEMU describes it: no header of
 * QEMU's is needed, and no other library. PLUGIN_API is its version, and from 7 on no callback gets
 * the plugin's id.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

/* -- QEMU's interface --------------------------------------------------------------------------- */

typedef uint64_t plugin_id;
typedef uint32_t meminfo;
struct tb;
struct insn;
struct hwaddr;

typedef void (*mem_callback)(unsigned int vcpu, meminfo info, uint64_t vaddr, void *data);
#if PLUGIN_API < 7
typedef void (*tb_callback)(plugin_id id, struct tb *tb);
typedef void (*exit_callback)(plugin_id id, void *data);
void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id id, tb_callback cb);
#else
typedef void (*tb_callback)(struct tb *tb, void *data);
typedef void (*exit_callback)(void *data);
void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id id, tb_callback cb, void *data);
#endif

enum { NO_REGISTERS = 0, STORES = 2 };

size_t qemu_plugin_tb_n_insns(const struct tb *tb);
struct insn *qemu_plugin_tb_get_insn(const struct tb *tb, size_t index);
void qemu_plugin_register_vcpu_mem_cb(struct insn *insn, mem_callback cb, int flags, int rw,
                                      void *data);
unsigned int qemu_plugin_mem_size_shift(meminfo info);
struct hwaddr *qemu_plugin_get_hwaddr(meminfo info, uint64_t vaddr);
bool qemu_plugin_hwaddr_is_io(const struct hwaddr *hwaddr);
uint64_t qemu_plugin_hwaddr_phys_addr(const struct hwaddr *hwaddr);
void qemu_plugin_register_atexit_cb(plugin_id id, exit_callback cb, void *data);

EXPORT int qemu_plugin_version = PLUGIN_API;

/* -- what is counted ---------------------------------------------------------------------------- */

#define PAGE_BITS 12
#define ROWS 4096
/* Marks: all rows of earlier quanta are out; stores to other memory, all stores: low, high half. */
#define MARK_QUANTUM 0xffffffffu
#define MARK_ELSEWHERE 0xfffffffeu
#define MARK_STORES 0xfffffffcu
#define MARK_END 0xfffffffau
#define VCPUS 1024

static int out = -1;
static uint64_t pages, quantum_ns = 1000000, begin_ns;
static _Atomic uint32_t quantum;
/* The quantum in which a page was last written, plus one. */
static _Atomic uint32_t *last;
static struct { uint64_t stores, elsewhere; char pad[48]; } count[VCPUS];

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint32_t rows[ROWS][2];
static size_t used;

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* The lock is held. A reader that has gone is no reason to stop the guest. */
static void flush(void)
{
    const char *at = (const char *)rows;
    size_t left = used * sizeof rows[0];
    while (left && out >= 0) {
        ssize_t done = write(out, at, left);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0) {
            close(out);
            out = -1;
            break;
        }
        at += done;
        left -= (size_t)done;
    }
    used = 0;
}

static void row(uint32_t first, uint32_t second)
{
    rows[used][0] = first;
    rows[used][1] = second;
    if (++used == ROWS)
        flush();
}

static void written(unsigned int vcpu, uint64_t address)
{
    uint64_t page = address >> PAGE_BITS;
    if (page >= pages) {
        count[vcpu % VCPUS].elsewhere++;
        return;
    }
    uint32_t stamp = atomic_load_explicit(&quantum, memory_order_relaxed) + 1;
    if (atomic_load_explicit(&last[page], memory_order_relaxed) == stamp)
        return;
    pthread_mutex_lock(&lock);
    /* The quantum moves under the lock alone, so that rows are in its order. */
    stamp = atomic_load_explicit(&quantum, memory_order_relaxed) + 1;
    if (atomic_exchange_explicit(&last[page], stamp, memory_order_relaxed) != stamp)
        row(stamp - 1, (uint32_t)page);
    pthread_mutex_unlock(&lock);
}

static void store(unsigned int vcpu, meminfo info, uint64_t vaddr, void *data)
{
    (void)data;
    count[vcpu % VCPUS].stores++;
    uint64_t end = vaddr + (1ull << qemu_plugin_mem_size_shift(info)) - 1;
    struct hwaddr *place = qemu_plugin_get_hwaddr(info, vaddr);
    if (place && !qemu_plugin_hwaddr_is_io(place))
        written(vcpu, qemu_plugin_hwaddr_phys_addr(place));
    if ((vaddr ^ end) >> PAGE_BITS) {
        place = qemu_plugin_get_hwaddr(info, end);
        if (place && !qemu_plugin_hwaddr_is_io(place))
            written(vcpu, qemu_plugin_hwaddr_phys_addr(place));
    }
}

static void translated(struct tb *tb)
{
    size_t instructions = qemu_plugin_tb_n_insns(tb);
    for (size_t i = 0; i < instructions; i++)
        qemu_plugin_register_vcpu_mem_cb(qemu_plugin_tb_get_insn(tb, i), store, NO_REGISTERS,
                                         STORES, NULL);
}

static void *tick(void *data)
{
    (void)data;
    for (;;) {
        uint64_t next = begin_ns + (atomic_load(&quantum) + 1ull) * quantum_ns;
        struct timespec until = {(time_t)(next / 1000000000u), (long)(next % 1000000000u)};
        while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR)
            ;
        pthread_mutex_lock(&lock);
        uint32_t reached = (uint32_t)((now() - begin_ns) / quantum_ns);
        atomic_store(&quantum, reached);
        row(reached, MARK_QUANTUM);
        flush();
        pthread_mutex_unlock(&lock);
        if (out < 0)
            return NULL;
    }
}

static void ended(void)
{
    uint64_t stores = 0, elsewhere = 0;
    for (size_t i = 0; i < VCPUS; i++) {
        stores += count[i].stores;
        elsewhere += count[i].elsewhere;
    }
    pthread_mutex_lock(&lock);
    uint32_t reached = (uint32_t)((now() - begin_ns) / quantum_ns);
    atomic_store(&quantum, reached);
    row((uint32_t)elsewhere, MARK_ELSEWHERE);
    row((uint32_t)(elsewhere >> 32), MARK_ELSEWHERE - 1);
    row((uint32_t)stores, MARK_STORES);
    row((uint32_t)(stores >> 32), MARK_STORES - 1);
    row(reached + 1, MARK_END);
    flush();
    pthread_mutex_unlock(&lock);
}

#if PLUGIN_API < 7
static void on_translation(plugin_id id, struct tb *tb)
{
    (void)id;
    translated(tb);
}

static void on_end(plugin_id id, void *data)
{
    (void)id;
    (void)data;
    ended();
}

static void listen(plugin_id id)
{
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
    qemu_plugin_register_atexit_cb(id, on_end, NULL);
}
#else
static void on_translation(struct tb *tb, void *data)
{
    (void)data;
    translated(tb);
}

static void on_end(void *data)
{
    (void)data;
    ended();
}

static void listen(plugin_id id)
{
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation, NULL);
    qemu_plugin_register_atexit_cb(id, on_end, NULL);
}
#endif

static bool argument(const char *text, const char *name, uint64_t *value)
{
    size_t length = strlen(name);
    if (strncmp(text, name, length) || text[length] != '=')
        return false;
    *value = strtoull(text + length + 1, NULL, 10);
    return true;
}

EXPORT int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv)
{
    (void)info;
    for (int i = 0; i < argc; i++) {
        if (!strncmp(argv[i], "out=", 4))
            out = open(argv[i] + 4, O_WRONLY | O_CLOEXEC);
        else if (!argument(argv[i], "pages", &pages) &&
                 !argument(argv[i], "quantum", &quantum_ns)) {
            fprintf(stderr, "stores: unknown argument %s\n", argv[i]);
            return -1;
        }
    }
    if (out < 0 || !pages || !quantum_ns || pages > MARK_END) {
        fprintf(stderr, "stores: wanted out=PATH, pages=N and quantum=NS\n");
        return -1;
    }
    /* A terabyte takes 1 GiB, of which the system gives what is written. */
    last = calloc(pages, sizeof *last);
    if (!last) {
        fprintf(stderr, "stores: out of memory\n");
        return -1;
    }
    begin_ns = now();
    listen(id);
    pthread_t ticker;
    if (pthread_create(&ticker, NULL, tick, NULL))
        return -1;
    pthread_detach(ticker);
    return 0;
}
