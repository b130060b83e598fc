// SPDX-License-Identifier: GPL-2.0-only
/* Functions that the tests of device memory share, see hmm_race_common.h. */
#define _GNU_SOURCE
#include <signal.h>
#include <sys/wait.h>

#include "hmm_race_common.h"

/* Random numbers */

uint64_t race_mix(uint64_t x)
{
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ULL;
	x = (x ^ x >> 27) * 0x94d049bb133111ebULL;
	return x ^ x >> 31;
}

uint32_t race_below(uint64_t *state, uint32_t limit)
{
	*state += 0x9e3779b97f4a7c15ULL;
	return (uint32_t)(race_mix(*state) >> 33) % limit;
}

/* Notes */

static bool say(const char *tag, const char *format, va_list args)
{
	char text[512];
	int length, start = snprintf(text, sizeof(text), "# %s", tag);

	length = start + vsnprintf(text + start, sizeof(text) - start, format,
				   args);
	if (length > (int)sizeof(text) - 1)
		length = sizeof(text) - 1;
	return write(STDOUT_FILENO, text, length) >= 0;
}

bool race_note(const char *format, ...)
{
	va_list args;
	bool said;

	va_start(args, format);
	said = say("", format, args);
	va_end(args);
	return said;
}

bool race_finding(const char *format, ...)
{
	va_list args;
	bool said;

	va_start(args, format);
	said = say("FINDING: ", format, args);
	va_end(args);
	return said;
}

/* Waiting */

void race_pause_ms(unsigned int ms)
{
	struct timespec time = { ms / 1000, ms % 1000 * 1000000L };

	while (nanosleep(&time, &time) && errno == EINTR)
		;
}

/*
 * Wait, and continue on another CPU. A page stays in a batch of the CPU that
 * touched it until the batch is added to the LRU, where reclaim and migration
 * find it. madvise() drains only the batches of its own CPU, so an operation
 * that fails because of a batch may go on failing on that CPU.
 */
void race_pause_elsewhere(unsigned int ms)
{
	cpu_set_t all, next;
	int cpu = sched_getcpu();

	race_pause_ms(ms);
	if (cpu < 0 || sched_getaffinity(0, sizeof(all), &all))
		return;
	do
		cpu = (cpu + 1) % CPU_SETSIZE;
	while (!CPU_ISSET(cpu, &all));
	CPU_ZERO(&next);
	CPU_SET(cpu, &next);
	sched_setaffinity(0, sizeof(next), &next);
	sched_setaffinity(0, sizeof(all), &all);
}

time_t race_now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec;
}

/* Return: false if the child still runs after @seconds. */
bool race_wait_child(pid_t pid, unsigned long seconds, int *status)
{
	return race_wait_for(waitpid(pid, status, WNOHANG) == pid, seconds);
}

/* Memory */

/* The size of a PMD-mapped huge page, 0 if the kernel has none. */
size_t race_huge_size(void)
{
	long size = race_read_number("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size",
				     NULL);

	return size > 0 ? size : 0;
}

/* For tests whose memory is smaller than a PMD-mapped huge page. */
void race_note_huge_size(size_t size)
{
	race_note("PMD-mapped huge pages of %zu KiB are too large to take part\n",
		  size >> 10);
}

/* Return: NULL if there is no room. */
char *race_reserve(size_t size, size_t align, int prot)
{
	char *addr = mmap(NULL, size + align, prot,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (addr == MAP_FAILED)
		return NULL;
	return (char *)(((uintptr_t)addr + align - 1) & ~(align - 1));
}

/* The dummy device */

int race_open_device(unsigned int nr)
{
	char path[32];

	snprintf(path, sizeof(path), "/dev/hmm_dmirror%u", nr);
	return open(path, O_RDWR);
}

/*
 * @buffer has room for @pages pages. @done is how many of them the device has
 * completed, even after an error. Return: 0, or -1 with errno.
 */
int race_device_counted(int fd, unsigned long request, void *addr,
			size_t pages, void *buffer, size_t *done)
{
	struct hmm_dmirror_cmd cmd = {
		.addr = (uintptr_t)addr,
		.ptr = (uintptr_t)buffer,
		.npages = pages,
	};
	int ret;

	do {
		ret = ioctl(fd, request, &cmd);
	} while (ret && errno == EINTR);
	*done = cmd.cpages;
	return ret ? -1 : 0;
}

int race_device(int fd, unsigned long request, void *addr, size_t pages,
		void *buffer)
{
	size_t done;

	return race_device_counted(fd, request, addr, pages, buffer, &done);
}

/*
 * Remove a device's memory, which waits for all its pages to be free. A child
 * does it, so that a page that is never freed does not stop the caller.
 * Return: the child's status, -1 if pages are still in use after @seconds.
 */
int race_release_device(unsigned int nr, unsigned long seconds)
{
	pid_t pid = fork();
	int status;

	if (!pid) {
		int fd = race_open_device(nr);

		_exit(fd < 0 || race_device(fd, HMM_DMIRROR_RELEASE, NULL, 1,
					    NULL));
	}
	if (pid < 0)
		return -1;
	if (race_wait_child(pid, seconds, &status))
		return status;
	race_write_file("/proc/sysrq-trigger", "w");
	kill(pid, SIGKILL);
	return -1;
}

/*
 * The number of pages in device memory of the kind @kind, for the device of
 * @fd, such as HMM_DMIRROR_PROT_DEV_PRIVATE_LOCAL. @seen has a byte a page.
 */
size_t race_count_pages(int fd, void *addr, size_t pages, unsigned char kind,
			unsigned char *seen)
{
	size_t found = 0;

	if (race_device(fd, HMM_DMIRROR_SNAPSHOT, addr, pages, seen))
		return 0;
	for (size_t i = 0; i < pages; i++)
		found += (seen[i] & RACE_DEVICE_MASK) == kind;
	return found;
}

/* The pages in this device's own memory. @seen has a byte a page. */
struct race_local race_local_pages(int fd, void *addr, size_t pages,
				   unsigned char *seen)
{
	struct race_local found = {};

	if (race_device(fd, HMM_DMIRROR_SNAPSHOT, addr, pages, seen))
		return found;
	for (size_t i = 0; i < pages; i++) {
		unsigned char kind = seen[i] & RACE_DEVICE_MASK;

		if (kind != HMM_DMIRROR_PROT_DEV_PRIVATE_LOCAL &&
		    kind != HMM_DMIRROR_PROT_DEV_COHERENT_LOCAL)
			continue;
		found.pages++;
		found.writable += !!(seen[i] & HMM_DMIRROR_PROT_WRITE);
	}
	return found;
}

/* Files */

int race_write_file(const char *path, const char *text)
{
	size_t size = strlen(text);
	int fd = open(path, O_WRONLY);
	bool ok = fd >= 0 && write(fd, text, size) == (ssize_t)size;
	int error = errno;

	if (fd >= 0)
		close(fd);
	errno = error;
	return ok ? 0 : -1;
}

/* The number of the line "KEY NUMBER"; without a key the first. -1 if none. */
long race_read_number(const char *path, const char *key)
{
	size_t length = key ? strlen(key) : 0;
	char line[512];
	long value = -1;
	FILE *file = fopen(path, "r");

	if (!file)
		return -1;
	while (value < 0 && fgets(line, sizeof(line), file))
		if (!key || (!strncmp(line, key, length) &&
			     strchr(" :\t", line[length])))
			value = strtol(line + length + (key ? 1 : 0), NULL, 10);
	fclose(file);
	return value;
}

/* With a scanner that is quick; @run is as in the file of that name. */
int race_run_ksm(const char *run)
{
	race_write_file(RACE_KSM "sleep_millisecs", "1");
	race_write_file(RACE_KSM "pages_to_scan", "2000");
	return race_write_file(RACE_KSM "run", run);
}

/*
 * Swap on compressed memory, for systems without swap. race_swap_end() undoes
 * race_swap_begin().
 */

bool race_swap_exists(void)
{
	char line[256];
	int lines = 0;
	FILE *file = fopen("/proc/swaps", "r");

	while (file && fgets(line, sizeof(line), file))
		lines++;
	if (file)
		fclose(file);
	return lines > 1;
}

/* One page: version and index of the last page at 1 KiB, then the magic. */
static bool swap_format(void)
{
	size_t size = sysconf(_SC_PAGESIZE);
	int fd = open(RACE_SWAP_DEVICE, O_WRONLY);
	uint32_t info[2] = { 1, RACE_SWAP_SIZE / size - 1 };
	bool ok = fd >= 0 &&
		  pwrite(fd, info, sizeof(info), 1024) == sizeof(info) &&
		  pwrite(fd, "SWAPSPACE2", 10, size - 10) == 10 && !fsync(fd);

	if (fd >= 0)
		close(fd);
	return ok;
}

void race_swap_end(bool ours)
{
	if (!ours)
		return;
	swapoff(RACE_SWAP_DEVICE);
	race_write_file("/sys/block/zram0/reset", "1");
}

/* Return: NULL if there is swap now, otherwise why there is none. */
const char *race_swap_begin(bool *ours)
{
	char size[24];

	*ours = false;
	if (race_swap_exists())
		return NULL;
	if (access(RACE_SWAP_DEVICE, W_OK))
		return "no swap, and no " RACE_SWAP_DEVICE;
	snprintf(size, sizeof(size), "%lu", RACE_SWAP_SIZE);
	if (race_write_file("/sys/block/zram0/disksize", size))
		return "no swap, and " RACE_SWAP_DEVICE " takes no size";
	*ours = true;
	if (swap_format() && !swapon(RACE_SWAP_DEVICE, 0))
		return NULL;
	race_swap_end(true);
	*ours = false;
	return "no swap, and " RACE_SWAP_DEVICE " does not work as swap";
}
