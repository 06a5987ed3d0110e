/* What a replay of plain pre-copy costs in C: the measure for `python -m tests.benchmark`.
 *
 * Profile `rounds`, log mode `legacy`, no free list, no zero pages; all figures of the partition.
 * usage: yardstick TIMES PAGES ROWS GUEST_PAGES PAGE_SIZE BANDWIDTH DOWNTIME_NS DURATION_NS
 * TIMES holds int64 ns, PAGES uint64 page numbers, both ascending in time.
 */
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>

#define HEADER 8
#define SECOND 1000000000LL

static uint64_t *pending, *logged, *synced, *credit;
static const int64_t *when;
static const uint64_t *which;
static int64_t rows, row, superseded;

static const void *mapped(const char *path)
{
    int file = open(path, O_RDONLY);
    struct stat about;
    if (file < 0 || fstat(file, &about) < 0) {
        perror(path);
        exit(1);
    }
    void *at = mmap(NULL, about.st_size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, file, 0);
    if (at == MAP_FAILED) {
        perror(path);
        exit(1);
    }
    return at;
}

static inline void guest_runs(int64_t until)
{
    for (; row < rows && when[row] <= until; row++) {
        uint64_t word = which[row] / 64, bit = UINT64_C(1) << which[row] % 64;
        superseded += (credit[word] & bit) != 0;
        logged[word] |= bit;
        synced[word] &= ~bit;
        credit[word] &= ~bit;
    }
}

int main(int count, char **argument)
{
    if (count != 9)
        return 2;
    when = mapped(argument[1]);
    which = mapped(argument[2]);
    rows = atoll(argument[3]);
    int64_t pages = atoll(argument[4]), size = atoll(argument[5]), bandwidth = atoll(argument[6]);
    int64_t downtime = atoll(argument[7]), duration = atoll(argument[8]);
    int64_t step = (size + HEADER) * SECOND / bandwidth, rest = (size + HEADER) * SECOND % bandwidth;
    int64_t words = (pages + 63) / 64, now = 0, sent = 0, redundant = 0, needed = 0, rounds = 0;
    struct timespec begin, end;
    bool stopped = false;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &begin);
    pending = calloc(words, 8);
    logged = calloc(words, 8);
    synced = calloc(words, 8);
    credit = calloc(words, 8);
    for (int64_t page = 0; page < pages; page++)
        pending[page / 64] |= UINT64_C(1) << page % 64;
    for (;;) {
        int64_t part = 0;
        rounds += !stopped;
        for (int64_t word = 0; word < words; word++) {
            for (uint64_t left = pending[word]; left; left &= left - 1) {
                uint64_t bit = left & -left;
                if (!stopped)
                    guest_runs(now);
                if (synced[word] & bit)
                    redundant++;
                else
                    credit[word] |= bit;
                synced[word] |= bit;
                sent++;
                now += step;
                part += rest;
                if (part >= bandwidth) {
                    part -= bandwidth;
                    now++;
                }
            }
            pending[word] = 0;
        }
        if (stopped || now > duration)
            break;
        guest_runs(now);
        int64_t dirty = 0;
        for (int64_t word = 0; word < words; word++) {
            pending[word] = logged[word];
            logged[word] = 0;
            dirty += __builtin_popcountll(pending[word]);
        }
        stopped = (__int128)dirty * size * SECOND <= (__int128)bandwidth * downtime;
    }
    guest_runs(stopped ? -1 : now);
    for (int64_t word = 0; word < words; word++)
        needed += __builtin_popcountll(credit[word]);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &end);
    printf("{\"seconds\": %.6f, \"rounds\": %ld, \"pages_sent\": %ld, \"redundant\": %ld, "
           "\"superseded\": %ld, \"needed\": %ld, \"total_ns\": %ld}\n",
           end.tv_sec - begin.tv_sec + 1e-9 * (end.tv_nsec - begin.tv_nsec), (long)rounds,
           (long)sent, (long)redundant, (long)superseded, (long)needed, (long)now);
    return 0;
}
