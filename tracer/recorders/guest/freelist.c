/*
 * freelist - samples the free list of a Linux guest from inside, for dirtylog.
 *
 *   cc -O2 -static -o freelist freelist.c
 *   freelist [-p MILLISECONDS] [-n SAMPLES] [-s] [-o PORT]
 *
 * A sample is one walk over /proc/kpageflags (so: as root): the runs of page frames that carry
 * KPF_BUDDY, as `start+count` in hex, between a line with the walk's begin and end and a last one.
 * -p  pause between two samples (200)
 * -n  stop after so many samples (never)
 * -s  instead of further samples, every page that is taken or given back, as the kernel's events
 *     kmem:mm_page_alloc and mm_page_free in ftrace's text, on the clock of the sample (mono)
 * -o  where to write, a file, a serial or a virtio port (standard output)
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define KPF_BUDDY (UINT64_C(1) << 10)
#define FRAMES 32768
#define TRACEFS "/sys/kernel/tracing"
/* An instance of our own: whoever else traces is not disturbed. */
#define TRACE TRACEFS "/instances/dirtylog"

struct run {
	uint64_t start, count;
};

static struct run *runs;
static size_t used, room;
static uint64_t flags[FRAMES];

static void die(const char *what)
{
	fprintf(stderr, "freelist: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void append(uint64_t start, uint64_t count)
{
	if (used == room) {
		room = room ? 2 * room : 4096;
		runs = realloc(runs, room * sizeof *runs);
		if (!runs)
			die("runs of free pages");
	}
	runs[used++] = (struct run){ start, count };
}

/* Fills `runs` and returns how many page frames there are. */
static uint64_t walk(int file)
{
	uint64_t frame = 0, start = 0;
	int inside = 0;
	ssize_t got;

	used = 0;
	while ((got = pread(file, flags, sizeof flags, frame * 8)) > 0) {
		for (ssize_t i = 0; i < got / 8; i++, frame++) {
			int buddy = (flags[i] & KPF_BUDDY) != 0;

			if (buddy && !inside)
				start = frame;
			else if (!buddy && inside)
				append(start, frame - start);
			inside = buddy;
		}
	}
	if (got < 0)
		die("/proc/kpageflags");
	if (inside)
		append(start, frame - start);
	return frame;
}

static void print_time(FILE *out, const char *name, struct timespec t)
{
	fprintf(out, " %s=%lld.%06ld", name, (long long)t.tv_sec, t.tv_nsec / 1000);
}

static void sample(int file, FILE *out)
{
	struct timespec begin, end, real;
	uint64_t frames;

	clock_gettime(CLOCK_MONOTONIC, &begin);
	frames = walk(file);
	clock_gettime(CLOCK_MONOTONIC, &end);
	clock_gettime(CLOCK_REALTIME, &real);
	fputs("FREELIST begin", out);
	print_time(out, "mono", begin);
	print_time(out, "end", end);
	print_time(out, "real", real);
	fprintf(out, " pfns=%" PRIu64 "\n", frames);
	for (size_t i = 0; i < used; i++)
		fprintf(out, "%" PRIx64 "+%" PRIx64 "\n", runs[i].start, runs[i].count);
	fputs("FREELIST done\n", out);
	if (fflush(out))
		die("output");
}

/* A terminal would turn line ends around and echo what the host says. */
static void make_raw(int port)
{
	struct termios settings;

	if (!tcgetattr(port, &settings)) {
		cfmakeraw(&settings);
		cfsetspeed(&settings, B115200);
		tcsetattr(port, TCSANOW, &settings);
	}
}

static void set(const char *name, const char *value)
{
	char path[256];
	int file;

	snprintf(path, sizeof path, TRACE "/%s", name);
	file = open(path, O_WRONLY | O_TRUNC);
	if (file < 0 || write(file, value, strlen(value)) < 0)
		die(path);
	close(file);
}

static void nothing(int number)
{
	(void)number;
}

/* Copies events to the output until a signal comes or nobody reads. */
static void stream(int file, FILE *out)
{
	static const char *const events[] = { "events/kmem/mm_page_alloc/enable",
					      "events/kmem/mm_page_free/enable" };
	struct sigaction stop = { .sa_handler = nothing };
	static char text[1 << 16];
	ssize_t got;
	int pipe;

	sigaction(SIGINT, &stop, NULL);
	sigaction(SIGTERM, &stop, NULL);
	signal(SIGPIPE, SIG_IGN);
	if (access(TRACEFS "/instances", F_OK))
		mount("tracefs", TRACEFS, "tracefs", 0, NULL);
	if (mkdir(TRACE, 0700) && errno != EEXIST)
		die(TRACE);
	set("trace_clock", "mono");
	set("buffer_size_kb", "16384");
	pipe = open(TRACE "/trace_pipe", O_RDONLY | O_CLOEXEC);
	if (pipe < 0)
		die(TRACE "/trace_pipe");
	/* Events first: what happens during the walk is in both, not in neither. */
	for (int i = 0; i < 2; i++)
		set(events[i], "1");
	sample(file, out);
	while ((got = read(pipe, text, sizeof text)) > 0)
		if (fwrite(text, 1, got, out) != (size_t)got || fflush(out))
			break;
	for (int i = 0; i < 2; i++)
		set(events[i], "0");
	close(pipe);
	rmdir(TRACE);
}

static long number(const char *text)
{
	char *end;
	long value = strtol(text, &end, 10);

	if (*end || end == text || value < 0) {
		fprintf(stderr, "freelist: '%s' is no number\n", text);
		exit(2);
	}
	return value;
}

int main(int argc, char **argv)
{
	long pause = 200, samples = -1;
	const char *port = NULL;
	FILE *out = stdout;
	int option, file, streaming = 0;

	while ((option = getopt(argc, argv, "p:n:so:")) != -1) {
		if (option == 'p')
			pause = number(optarg);
		else if (option == 'n')
			samples = number(optarg);
		else if (option == 's')
			streaming = 1;
		else if (option == 'o')
			port = optarg;
		else
			return 2;
	}
	file = open("/proc/kpageflags", O_RDONLY | O_CLOEXEC);
	if (file < 0)
		die("/proc/kpageflags (root only)");
	if (port && !(out = fopen(port, "w")))
		die(port);
	make_raw(fileno(out));
	setvbuf(out, NULL, _IOFBF, 1 << 16);
	if (streaming) {
		stream(file, out);
		return 0;
	}
	for (long n = 0; samples < 0 || n < samples; n++) {
		if (n)
			nanosleep(&(struct timespec){ pause / 1000, pause % 1000 * 1000000 }, NULL);
		sample(file, out);
	}
	return 0;
}
