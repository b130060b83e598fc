// SPDX-License-Identifier: GPL-2.0-only
/*
 * A user of device memory that is mapped from a file: a file on file system
 * DAX, a device DAX node, or the p2pmem/allocate attribute of a PCI device.
 * zone_device_users.sh combines it with the removal of the device.
 *
 *	zone_device_user COMMAND FILE [OTHER]
 *
 * check	write by the CPU, read back through a second mapping
 * direct	O_DIRECT from the mapping to OTHER and from OTHER to the mapping
 * truncate	shrink and grow the file under O_DIRECT out of its mapping
 * hold-map	access, wait for SIGUSR1, access again: must be SIGBUS then
 * keep-map	the same, but the memory must have its contents
 * hold-pipe	hold pages in a pipe until SIGUSR1, then read them from the pipe
 * hold-pin	hold a long-term pin until SIGUSR1, then read the pages by it
 * load		O_DIRECT from OTHER until the memory or OTHER is removed
 * slow		one large O_DIRECT from OTHER, which should be a slow device
 *
 * Commands that wait print "ready" once they hold the pages. The exit status is
 * 0 on success, 4 if the file or the kernel lacks something, and 1 otherwise.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <mm/gup_test.h>

#define MAP_BYTES	(2UL << 20)	/* fits every alignment of device DAX */
#define PIPE_BYTES	(8 * page_bytes)
#define CHUNK_BYTES	(128UL << 10)
#define GUP_TEST	"/sys/kernel/debug/gup_test"

#ifndef ARRAY_SIZE
#define ARRAY_SIZE(a)	(sizeof(a) / sizeof((a)[0]))
#endif

struct user {
	const char *file;
	const char *other;
	int fd;
	int other_fd;
	unsigned char *map;
	unsigned char *plain;		/* ordinary memory of the same size */
};

static size_t page_bytes;
static sigjmp_buf on_sigbus;

static void fail(int status, const char *fmt, ...)
{
	int error = errno;
	va_list ap;

	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fprintf(stderr, " (%s)\n", strerror(error));
	exit(status);
}

static void put_byte(unsigned char *p, unsigned char value)
{
	__atomic_store_n(p, value, __ATOMIC_SEQ_CST);
}

static unsigned char get_byte(unsigned char *p)
{
	return __atomic_load_n(p, __ATOMIC_SEQ_CST);
}

static uint64_t pattern(size_t at, unsigned int seed)
{
	return (at + 1) * 0x9e3779b97f4a7c15ULL + seed;
}

static void fill(unsigned char *p, size_t len, unsigned int seed)
{
	size_t i;

	for (i = 0; i < len; i += sizeof(uint64_t))
		*(uint64_t *)(p + i) = pattern(i, seed);
}

static bool filled(const unsigned char *p, size_t len, unsigned int seed)
{
	size_t i;

	for (i = 0; i < len; i += sizeof(uint64_t))
		if (*(uint64_t *)(p + i) != pattern(i, seed))
			return false;
	return true;
}

static void open_user(struct user *u)
{
	struct stat st;

	u->fd = open(u->file, O_RDWR);
	if (u->fd < 0 && errno == ENOENT)
		u->fd = open(u->file, O_RDWR | O_CREAT, 0600);
	if (u->fd < 0)
		fail(4, "open %s", u->file);
	if (!fstat(u->fd, &st) && S_ISREG(st.st_mode) &&
	    !strstr(u->file, "p2pmem") && ftruncate(u->fd, MAP_BYTES))
		fail(4, "ftruncate %s", u->file);

	u->map = mmap(NULL, MAP_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED,
		      u->fd, 0);
	if (u->map == MAP_FAILED)
		fail(4, "mmap %s", u->file);
	if (posix_memalign((void **)&u->plain, page_bytes, MAP_BYTES))
		fail(4, "memory");
	if (!u->other)
		return;
	u->other_fd = open(u->other, O_RDWR | O_DIRECT);
	if (u->other_fd < 0)
		fail(4, "open %s with O_DIRECT", u->other);
}

static void need(ssize_t got, size_t want, const char *what)
{
	if (got != (ssize_t)want)
		fail(1, "%s: %zd of %zu bytes", what, got, want);
}

/* Ignore the notice that memory failed; return only from an access. */
static void sigbus(int sig, siginfo_t *info, void *context)
{
	if (info->si_code != BUS_MCEERR_AO)
		siglongjmp(on_sigbus, 1);
}

static void catch_sigbus(void)
{
	struct sigaction sa = {
		.sa_sigaction = sigbus,
		.sa_flags = SA_SIGINFO | SA_NODEFER,
	};

	sigaction(SIGBUS, &sa, NULL);
}

static void ready_until_usr1(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	printf("ready\n");
	fflush(stdout);
	while (sigwaitinfo(&set, NULL) < 0 && errno == EINTR)
		;
}

/* The commands */

static void check(struct user *u)
{
	unsigned char *again;

	fill(u->map, MAP_BYTES, 1);
	again = mmap(NULL, MAP_BYTES, PROT_READ, MAP_SHARED, u->fd, 0);
	/* each mapping of peer-to-peer memory is a new allocation */
	if (again == MAP_FAILED)
		fail(1, "second mapping");
	if (!filled(u->map, MAP_BYTES, 1))
		fail(1, "the mapping has other contents");
	if (!strstr(u->file, "p2pmem") && !filled(again, MAP_BYTES, 1))
		fail(1, "the second mapping has other contents");
	munmap(again, MAP_BYTES);
}

static void direct(struct user *u)
{
	fill(u->map, MAP_BYTES, 2);
	need(pwrite(u->other_fd, u->map, MAP_BYTES, 0), MAP_BYTES,
	     "O_DIRECT write from the mapping");
	need(pread(u->other_fd, u->plain, MAP_BYTES, 0), MAP_BYTES, "read");
	if (!filled(u->plain, MAP_BYTES, 2))
		fail(1, "wrong data written from the mapping");

	fill(u->plain, MAP_BYTES, 3);
	need(pwrite(u->other_fd, u->plain, MAP_BYTES, 0), MAP_BYTES, "write");
	need(pread(u->other_fd, u->map, MAP_BYTES, 0), MAP_BYTES,
	     "O_DIRECT read into the mapping");
	if (!filled(u->map, MAP_BYTES, 3))
		fail(1, "wrong data read into the mapping");
}

static bool stop;

static void *direct_thread(void *arg)
{
	struct user *u = arg;
	long done = 0;

	/* -EFAULT while the file is too short */
	while (!__atomic_load_n(&stop, __ATOMIC_SEQ_CST))
		done += pread(u->other_fd, u->map, CHUNK_BYTES, 0) > 0;
	return (void *)done;
}

static void truncate_file(struct user *u)
{
	pthread_t thread;
	void *done;
	int i;

	fill(u->plain, MAP_BYTES, 4);
	need(pwrite(u->other_fd, u->plain, MAP_BYTES, 0), MAP_BYTES, "write");
	if (pthread_create(&thread, NULL, direct_thread, u))
		fail(1, "thread");
	for (i = 0; i < 60; i++) {
		if (ftruncate(u->fd, i % 7 * 4 * page_bytes) ||
		    ftruncate(u->fd, MAP_BYTES))
			fail(1, "truncate");
		usleep(i % 5 * 1000);
	}
	__atomic_store_n(&stop, true, __ATOMIC_SEQ_CST);
	pthread_join(thread, &done);
	if (!done)
		fail(1, "no transfer reached the mapping");

	if (ftruncate(u->fd, 0))
		fail(1, "truncate");
	if (!sigsetjmp(on_sigbus, 1)) {
		get_byte(u->map);
		fail(1, "a page of the empty file is still mapped");
	}
	printf("%ld transfers\n", (long)done);
}

static void hold_map(struct user *u)
{
	fill(u->map, MAP_BYTES, 5);
	ready_until_usr1();
	if (!sigsetjmp(on_sigbus, 1)) {
		get_byte(u->map + page_bytes);
		fail(1, "memory of a removed device is still mapped");
	}
}

static void keep_map(struct user *u)
{
	fill(u->map, MAP_BYTES, 9);
	ready_until_usr1();
	if (!filled(u->map, MAP_BYTES, 9))
		fail(1, "mapped memory has other contents");
}

static void hold_pipe(struct user *u)
{
	struct iovec iov = { u->map + page_bytes, PIPE_BYTES };
	int ends[2];

	fill(u->map + page_bytes, PIPE_BYTES, 6);
	if (pipe(ends))
		fail(4, "pipe");
	need(vmsplice(ends[1], &iov, 1, 0), PIPE_BYTES, "vmsplice");
	ready_until_usr1();
	need(read(ends[0], u->plain, PIPE_BYTES), PIPE_BYTES, "pipe");
	if (!filled(u->plain, PIPE_BYTES, 6))
		fail(1, "pages in a pipe have other contents");
}

static void hold_pin(struct user *u)
{
	struct pin_longterm_test pin = {
		.addr = (uintptr_t)u->map,
		.size = PIPE_BYTES,
		.flags = PIN_LONGTERM_TEST_FLAG_USE_WRITE,
	};
	__u64 to = (uintptr_t)u->plain;
	int gup = open(GUP_TEST, O_RDWR);

	if (gup < 0)
		fail(4, "open %s", GUP_TEST);
	fill(u->map, MAP_BYTES, 7);
	if (ioctl(gup, PIN_LONGTERM_TEST_START, &pin))
		fail(1, "long-term pin");
	ready_until_usr1();
	if (ioctl(gup, PIN_LONGTERM_TEST_READ, &to))
		fail(1, "read by the pin");
	if (!filled(u->plain, PIPE_BYTES, 7))
		fail(1, "pinned pages have other contents");
	if (ioctl(gup, PIN_LONGTERM_TEST_STOP))
		fail(1, "unpin");
}

/* Ends only when the memory or the other device is removed. */
static void load(struct user *u)
{
	static long done;
	static const char *end = "SIGBUS";

	if (!sigsetjmp(on_sigbus, 1)) {
		printf("ready\n");
		fflush(stdout);
		while (pread(u->other_fd, u->map, MAP_BYTES, 0) > 0) {
			done++;
			put_byte(u->map, done);
		}
		end = strerror(errno);
	}
	printf("%ld transfers, then %s\n", done, end);
	if (!done)
		exit(1);
}

static void slow(struct user *u)
{
	fill(u->plain, MAP_BYTES, 8);
	put_byte(u->map, 1);
	printf("ready\n");
	fflush(stdout);
	need(pread(u->other_fd, u->map, MAP_BYTES, 0), MAP_BYTES,
	     "large O_DIRECT read");
	printf("done\n");
}

static const struct command {
	const char *name;
	void (*run)(struct user *u);
	bool needs_other;
} commands[] = {
	{ "check", check, false },
	{ "direct", direct, true },
	{ "truncate", truncate_file, true },
	{ "hold-map", hold_map, false },
	{ "keep-map", keep_map, false },
	{ "hold-pipe", hold_pipe, false },
	{ "hold-pin", hold_pin, false },
	{ "load", load, true },
	{ "slow", slow, true },
};

int main(int argc, char **argv)
{
	static struct user u = { .fd = -1, .other_fd = -1 };
	static size_t i;
	sigset_t set;

	page_bytes = sysconf(_SC_PAGESIZE);
	if (argc < 3)
		fail(4, "usage: zone_device_user COMMAND FILE [OTHER]");
	u.file = argv[2];
	u.other = argv[3];
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigprocmask(SIG_BLOCK, &set, NULL);

	for (i = 0; i < ARRAY_SIZE(commands); i++) {
		if (strcmp(argv[1], commands[i].name))
			continue;
		if (commands[i].needs_other && !u.other)
			fail(4, "%s needs OTHER", argv[1]);
		open_user(&u);
		catch_sigbus();
		if (sigsetjmp(on_sigbus, 1))
			fail(1, "unexpected SIGBUS");
		commands[i].run(&u);
		return 0;
	}
	fail(4, "no command %s", argv[1]);
}
