// SPDX-License-Identifier: GPL-2.0-only
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../../../lib/test_hmm_uapi.h"
#include "../kselftest.h"
#include "rxe_odp_events.h"

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

static uint64_t pagemap_entry(uint8_t *p)
{
	int fd = open("/proc/self/pagemap", O_RDONLY);
	uint64_t entry = 0;

	if (pread(fd, &entry, 8, (uintptr_t)p / PAGE * 8) != 8)
		ksft_exit_fail_msg("pagemap: %s\n", strerror(errno));
	close(fd);
	return entry;
}

static size_t count(uint8_t *p, size_t size, uint64_t bit)
{
	size_t i, nr = 0;

	for (i = 0; i < size; i += PAGE)
		nr += !!(pagemap_entry(p + i) & bit);
	return nr;
}

/* Number of pages that are present */
size_t resident(uint8_t *p, size_t size)
{
	return count(p, size, 1ULL << 63);
}

static long move_to(uint8_t *p, size_t size, int node)
{
	size_t i, nr = size / PAGE;
	void **pages = calloc(nr, sizeof(*pages));
	int *nodes = calloc(nr, sizeof(*nodes));
	int *status = calloc(nr, sizeof(*status));
	long there = 0;

	for (i = 0; i < nr; i++) {
		pages[i] = p + i * PAGE;
		nodes[i] = node;
	}
	if (syscall(__NR_move_pages, 0, nr, pages, nodes, status, 2) < 0)
		there = -1;
	for (i = 0; i < nr && there >= 0; i++)
		there += status[i] == node;
	free(pages);
	free(nodes);
	free(status);
	return there;
}

/* Moving a page puts those of all CPUs on the LRU lists first. */
static void drain_to_lru(void)
{
	static uint8_t *page;

	if (!page)
		page = memory(PAGE);
	*page = 1;
	move_to(page, PAGE, 0);
}

/* Pages on their way to the LRU lists cannot be swapped out. */
bool swap_out(uint8_t *p, size_t size)
{
	int tries;

	for (tries = 0; tries < 5; tries++) {
		madvise(p, size, MADV_PAGEOUT);
		if (count(p, size, 1ULL << 62) == size / PAGE)
			return true;
		drain_to_lru();
	}
	return false;
}

/* At least one of them: beside traffic, others are faulted back at once. */
static bool some_swap(uint8_t *p, size_t size)
{
	return !madvise(p, size, MADV_PAGEOUT);
}

static bool migrates(uint8_t *p, size_t size)
{
	static int node;

	node = !node;
	return move_to(p, size, node) > 0;
}

static bool collapses(uint8_t *p, size_t size)
{
	int tries;

	for (tries = 0; tries < 20; tries++) {
		if (!madvise(p, size, MADV_COLLAPSE))
			return true;
		usleep(10000);
	}
	return false;
}

/* Make one page of each huge page read-only, and writable again. */
static bool splits(uint8_t *p, size_t size)
{
	size_t i;

	collapses(p, size);
	for (i = 0; i < size; i += HUGE_PAGE)
		if (mprotect(p + i + PAGE, PAGE, PROT_READ) ||
		    mprotect(p + i + PAGE, PAGE, PROT_READ | PROT_WRITE))
			return false;
	return true;
}

static void touch(volatile uint8_t *p, size_t size)
{
	size_t i;

	for (i = 0; i < size; i += PAGE)
		p[i] = p[i];
}

/* A child that writes to all of its pages */
static bool is_forked_and_child_writes(uint8_t *p, size_t size)
{
	pid_t pid = fork();
	int status;

	if (!pid) {
		memset(p, 0x5a, size);
		_exit(0);
	}
	return waitpid(pid, &status, 0) == pid && !status;
}

/* A parent that writes to all of its pages while the child lives */
static bool is_forked_and_parent_writes(uint8_t *p, size_t size)
{
	int ends[2], status;
	pid_t pid;
	char c;

	if (pipe(ends))
		return false;
	pid = fork();
	if (!pid) {
		close(ends[1]);
		_exit(read(ends[0], &c, 1) != 0);
	}
	touch(p, size);
	close(ends[0]);
	close(ends[1]);
	return waitpid(pid, &status, 0) == pid && !status;
}

static pid_t sleeper;

/* A child that shares all pages until the next event of this kind */
static bool is_shared_with_a_child(uint8_t *p, size_t size)
{
	(void)p;
	(void)size;
	if (sleeper > 0) {
		kill(sleeper, SIGKILL);
		waitpid(sleeper, NULL, 0);
	}
	sleeper = fork();
	if (!sleeper) {
		pause();
		_exit(0);
	}
	return sleeper > 0;
}

static long ksm_merged(void)
{
	FILE *f = fopen("/proc/self/ksm_merging_pages", "r");
	long nr = 0;

	if (!f || fscanf(f, "%ld", &nr) != 1)
		nr = -1;
	if (f)
		fclose(f);
	return nr;
}

/* With a copy that has the same contents */
static bool is_merged(uint8_t *p, size_t size)
{
	size_t some = size < 64 * PAGE ? size : 64 * PAGE;
	uint8_t *copy = memory(some);
	int tries;

	madvise(p, some, MADV_NOHUGEPAGE);
	madvise(copy, some, MADV_NOHUGEPAGE);
	memcpy(copy, p, some);
	madvise(copy, some, MADV_MERGEABLE);
	madvise(p, some, MADV_MERGEABLE);
	write_file("/sys/kernel/mm/ksm/smart_scan", "0");
	write_file("/sys/kernel/mm/ksm/pages_to_scan", "1000");
	write_file("/sys/kernel/mm/ksm/sleep_millisecs", "0");
	write_file("/sys/kernel/mm/ksm/run", "1");
	for (tries = 0; tries < 200 && ksm_merged() <= 0; tries++)
		usleep(20000);
	write_file("/sys/kernel/mm/ksm/run", "0");
	madvise(p, some, MADV_HUGEPAGE);
	munmap(copy, some);
	return tries < 200;
}

/* Away and back again: the pages are the same, at the same address. */
static bool is_moved_by_mremap(uint8_t *p, size_t size)
{
	uint8_t *other = memory(size);

	if (mremap(p, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, other) != other)
		return false;
	return mremap(other, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, p) == p;
}

/* And refilled with what was there */
static bool is_zapped_and_refilled(uint8_t *p, size_t size)
{
	uint8_t *copy = malloc(size);

	memcpy(copy, p, size);
	madvise(p, size, MADV_DONTNEED);
	memcpy(p, copy, size);
	free(copy);
	return true;
}

/* And mapped anew, with what was there */
static bool is_unmapped_and_mapped(uint8_t *p, size_t size)
{
	uint8_t *copy = malloc(size);
	bool ok;

	memcpy(copy, p, size);
	munmap(p, size);
	ok = mmap(p, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS |
		  MAP_FIXED, -1, 0) == p;
	if (ok)
		memcpy(p, copy, size);
	free(copy);
	return ok;
}

static bool is_protected_and_unprotected(uint8_t *p, size_t size)
{
	return !mprotect(p, size, PROT_NONE) &&
	       !mprotect(p, size, PROT_READ | PROT_WRITE);
}

static int mirror = -1;

/* The dummy device of HMM, which mirrors this process, too */
bool have_mirror(void)
{
	if (mirror < 0)
		mirror = open("/dev/hmm_dmirror0", O_RDWR);
	return mirror >= 0;
}

static bool command(unsigned long nr, uint8_t *p, uint8_t *data, size_t size)
{
	struct hmm_dmirror_cmd cmd = {
		.addr = (uintptr_t)p,
		.ptr = (uintptr_t)data,
		.npages = size / PAGE,
	};

	return have_mirror() && !ioctl(mirror, nr, &cmd) &&
	       cmd.cpages == size / PAGE;
}

bool mirror_reads(uint8_t *p, uint8_t *data, size_t size)
{
	return command(HMM_DMIRROR_READ, p, data, size);
}

bool mirror_writes(uint8_t *p, uint8_t *data, size_t size)
{
	return command(HMM_DMIRROR_WRITE, p, data, size);
}

/* Number of pages that the dummy device has in its memory */
size_t in_device_memory(uint8_t *p, size_t size)
{
	size_t i, nr = 0, pages = size / PAGE;
	uint8_t *prot = malloc(pages);

	if (command(HMM_DMIRROR_SNAPSHOT, p, prot, size))
		for (i = 0; i < pages; i++)
			nr += (prot[i] & 0xf0) ==
			      HMM_DMIRROR_PROT_DEV_PRIVATE_LOCAL;
	free(prot);
	return nr;
}

bool migrate_to_device(uint8_t *p, size_t size)
{
	uint8_t *copy = malloc(size);
	int tries;

	for (tries = 0; tries < 5; tries++) {
		command(HMM_DMIRROR_MIGRATE_TO_DEV, p, copy, size);
		if (in_device_memory(p, size) == size / PAGE)
			break;
	}
	free(copy);
	return tries < 5;
}

const struct event events[] = {
	{ "swapped_out", swap_out, false },
	{ "swapped_out_in_part", some_swap, true },
	{ "migrated", migrates, true },
	{ "collapsed", collapses, true },
	{ "split", splits, true },
	{ "written_by_forked_child", is_forked_and_child_writes, true },
	{ "written_after_fork", is_forked_and_parent_writes, false },
	{ "shared_with_child", is_shared_with_a_child, true },
	{ "merged", is_merged, false },
	{ "mremapped", is_moved_by_mremap, false },
	{ "zapped_and_refilled", is_zapped_and_refilled, false },
	{ "unmapped_and_mapped", is_unmapped_and_mapped, false },
	{ "protected_and_unprotected", is_protected_and_unprotected, false },
	{ "migrated_to_device", migrate_to_device, false },
};

const unsigned int nr_events = sizeof(events) / sizeof(*events);
