/*
 * load - writes pages of its memory at a steady rate by the guest's clock.
 *
 *   load KIND [name=number ...]
 *
 * KIND is sequential, uniform, hot, phases, churn or idle. mb= is the region, rate= the pages
 * written in a second. hot: percent= of the writes go to the first share= percent of the region;
 * phases: two regions of mb=, changed every seconds=; churn: besides uniform writes to mb=, fill=
 * MB are allocated, filled and freed again and again. prefill= MB are filled and freed before.
 * Time lost beyond cap= ms in one piece is not made up for: with a small cap a throttled guest
 * writes less, as one that computes would; with a large one only a starved guest does.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define PAGE 4096
#define MB_PAGES 256
#define SECOND INT64_C(1000000000)

static int64_t mb = 64, rate = 1000, percent = 90, share = 10, seconds = 5, fill = 96, prefill,
	       cap = 1000, seed = 1;
static const struct {
	const char *name;
	int64_t *value;
} options[] = {
	{ "mb", &mb },	       { "rate", &rate }, { "percent", &percent }, { "share", &share },
	{ "seconds", &seconds }, { "fill", &fill }, { "prefill", &prefill }, { "cap", &cap },
	{ "seed", &seed },
};
static uint64_t state, stamp;

static uint64_t draw(uint64_t below)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state % below;
}

static int64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * SECOND + t.tv_nsec;
}

static char *region(int64_t pages)
{
	char *memory = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED) {
		perror("load");
		exit(1);
	}
	madvise(memory, pages * PAGE, MADV_NOHUGEPAGE);
	return memory;
}

static void touch(char *memory, int64_t page)
{
	*(volatile uint64_t *)(memory + page * PAGE) = ++stamp;
}

static void fill_and_free(int64_t pages)
{
	char *memory = region(pages);

	for (int64_t page = 0; page < pages; page++)
		memset(memory + page * PAGE, 1 + page % 255, PAGE);
	munmap(memory, pages * PAGE);
}

static int64_t next_page(char kind, int64_t pages, uint64_t n, int64_t elapsed)
{
	int64_t part = pages * share / 100;

	if (kind == 's')
		return n % pages;
	if (kind == 'h')
		return (int64_t)draw(100) < percent ? draw(part) : part + draw(pages - part);
	if (kind == 'p')
		return (elapsed / (seconds * SECOND)) % 2 * (pages / 2) + draw(pages / 2);
	return draw(pages);
}

int main(int argc, char **argv)
{
	char kind = argc > 1 ? argv[1][0] : 'i';
	int64_t begin, last, due = 0, pages;
	uint64_t n = 0;
	char *memory;

	for (int i = 2; i < argc; i++)
		for (size_t o = 0; o < sizeof options / sizeof *options; o++) {
			size_t length = strlen(options[o].name);

			if (!strncmp(argv[i], options[o].name, length) && argv[i][length] == '=')
				*options[o].value = atoll(argv[i] + length + 1);
		}
	state = 0x9e3779b97f4a7c15 * (seed + 1);
	pages = mb * MB_PAGES * (kind == 'p' ? 2 : 1);
	if (prefill)
		fill_and_free(prefill * MB_PAGES);
	memory = region(pages);
	for (int64_t page = 0; kind != 'i' && page < pages; page++)
		memset(memory + page * PAGE, 1 + page % 255, PAGE);
	printf("load: ready\n");
	fflush(stdout);
	begin = last = now();
	for (;;) {
		int64_t at = now(), lost = at - last;

		/* In units of 1/SECOND of a page, so that no fraction is lost. */
		due += rate * (lost < cap * 1000000 ? lost : cap * 1000000);
		last = at;
		for (; kind != 'i' && due >= SECOND; due -= SECOND)
			touch(memory, next_page(kind, pages, n++, at - begin));
		if (kind == 'c')
			fill_and_free(fill * MB_PAGES);
		nanosleep(&(struct timespec){ 0, 1000000 }, NULL);
	}
}
