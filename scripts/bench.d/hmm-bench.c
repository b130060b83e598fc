// SPDX-License-Identifier: GPL-2.0
/*
 * Run the rows of /dev/hmm_bench (test_hmm_bench.c) and print the figures,
 * one line for each phase of a row:
 *
 *	result ROW PHASE units=N instructions=N [calls=N]
 *	result ROW PHASE units=N tlb_flushes=N rmap_walks=N ...
 *	unavailable ROW
 *	failed ROW STEP: ERROR
 *
 * A unit is a base page of the area, or a notifier. Each round of a row runs in
 * a new process: state that a row leaves in the mm, such as an mmu notifier,
 * would slow down the next row.
 *
 * Usage: hmm-bench [PATTERN...]	(shell patterns of row names; default: all)
 */
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include <x86intrin.h>

#include "test_hmm_bench_uapi.h"

#define PMD_SIZE	(2UL << 20)
#define PMD_ORDER	9
#define THP		"/sys/kernel/mm/transparent_hugepage/"
#define ROUNDS		2

enum outcome {
	DONE,
	UNAVAILABLE,
	FAILED,
};

static const char *const event_names[HMM_BENCH_NR_EVENTS] = {
	[HMM_BENCH_TLB_FLUSH] = "tlb_flushes",
	[HMM_BENCH_RMAP_WALK] = "rmap_walks",
	[HMM_BENCH_LRU_LOCK] = "lru_locks",
	[HMM_BENCH_LRU_DRAIN] = "lru_drains",
	[HMM_BENCH_PTE_TABLE] = "pte_tables",
	[HMM_BENCH_FAULT] = "faults",
};

static enum outcome row_failed(const struct hmm_bench_row *row,
			       const char *step)
{
	if (errno == EOPNOTSUPP) {
		printf("unavailable %s\n", row->name);
		return UNAVAILABLE;
	}
	printf("failed %s %s: %s\n", row->name, step, strerror(errno));
	return FAILED;
}

static void setting(const char *path, const char *value)
{
	int fd = open(path, O_WRONLY);

	if (fd < 0)
		return;
	if (write(fd, value, strlen(value)) < 0)
		perror(path);
	close(fd);
}

/* A size that the kernel does not have is noticed by the check of the area. */
static void thp_set(unsigned int order, const char *value)
{
	char path[128];

	snprintf(path, sizeof(path), THP "hugepages-%ukB/enabled", 4U << order);
	setting(path, value);
}

/*
 * Make the runs repeatable. Let khugepaged sleep for weeks. Give the per-CPU
 * lists of the page allocator a fixed size that holds an area: otherwise they
 * are trimmed at arbitrary times, when a page is freed.
 */
static void quiet(void)
{
	setting("/proc/sys/vm/percpu_pagelist_high_fraction", "8");
	setting(THP "khugepaged/scan_sleep_millisecs", "4294967295");
}

static void thp_choose(unsigned int order)
{
	thp_set(PMD_ORDER, order == PMD_ORDER ? "madvise" : "never");
	if (order && order != PMD_ORDER)
		thp_set(order, "madvise");
}

static void thp_restore(unsigned int order)
{
	thp_set(PMD_ORDER, "inherit");
	if (order && order != PMD_ORDER)
		thp_set(order, "never");
}

/* Aligned. The rest at both ends stays mapped and is not used. */
static char *area_map(const struct hmm_bench_row *row)
{
	size_t size = row->area_size + PMD_SIZE;
	char *map;

	map = mmap(NULL, size, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (map == MAP_FAILED)
		return NULL;
	if (madvise(map, size, row->order ? MADV_HUGEPAGE : MADV_NOHUGEPAGE))
		return NULL;
	return (char *)(((uintptr_t)map + PMD_SIZE - 1) & -PMD_SIZE);
}

#define PAGE	4096UL

static void pages_read(const char *area, uint64_t size, uint64_t step)
{
	uint64_t at;

	for (at = 0; at < size; at += step)
		__asm__ __volatile__("" : : "q" (area[at]));
}

static void pages_write(char *area, uint64_t size, uint64_t step)
{
	uint64_t at;

	for (at = 0; at < size; at += step)
		area[at] = 1;
}

/* In an order that gives adjacent pages distant pfns. */
static void pages_scatter(char *area, uint64_t size)
{
	uint64_t nr = size / PAGE, i;

	for (i = 0; i < nr; i++)
		area[i * 4099 % nr * PAGE] = 1;
}

static int pages_protect(char *area, uint64_t size)
{
	uint64_t at;

	for (at = PAGE; at < size; at += 2 * PAGE)
		if (mprotect(area + at, PAGE, PROT_READ))
			return -1;
	return 0;
}

static int area_fill(const struct hmm_bench_row *row, char *area)
{
	if (row->content == HMM_BENCH_HOLES)
		return 0;
	switch (row->layout) {
	case HMM_BENCH_ZERO:
		pages_read(area, row->area_size, PAGE);
		return 0;
	case HMM_BENCH_ZERO_PRESENT:
		pages_write(area + PAGE, row->area_size, 2 * PAGE);
		pages_read(area, row->area_size, 2 * PAGE);
		return 0;
	case HMM_BENCH_ZERO_HOLES:
		pages_read(area, row->area_size, 2 * PAGE);
		return 0;
	case HMM_BENCH_HOLES_PRESENT:
		pages_write(area + PAGE, row->area_size, 2 * PAGE);
		return 0;
	case HMM_BENCH_SCATTERED:
		pages_scatter(area, row->area_size);
		return 0;
	case HMM_BENCH_STRIPES:
		pages_write(area, row->area_size, PAGE);
		return pages_protect(area, row->area_size);
	default:
		pages_write(area, row->area_size, PAGE);
		return 0;
	}
}

/* A child that shares the pages until the row has finished. */
static pid_t area_share(const struct hmm_bench_row *row)
{
	pid_t pid;

	if (row->layout != HMM_BENCH_FORKED)
		return 0;
	pid = fork();
	if (!pid) {
		pause();
		_exit(0);
	}
	return pid;
}

static void area_unshare(pid_t pid)
{
	if (pid <= 0)
		return;
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

static uint64_t touch_one(const char *addr)
{
	uint64_t began = __rdtsc();
	char value;

	__asm__ __volatile__("movb %1, %0" : "=q" (value) : "m" (*addr));
	return __rdtsc() - began;
}

static uint64_t area_touch(const struct hmm_bench_row *row, const char *area)
{
	char present = 1;	/* on the stack, hence in memory already */
	uint64_t at, ticks = 0, nothing = touch_one(&present);

	for (at = 0; at < row->area_size; at += row->touch_step)
		ticks += touch_one(area + at) - nothing;
	return ticks;
}

static void phase_print(const struct hmm_bench_row *row,
			const struct hmm_bench_phase *phase)
{
	unsigned int i;

	printf("result %s %s units=%llu", row->name, phase->name, phase->units);
	if (!row->counting)
		printf(" instructions=%llu", phase->instructions);
	if (phase->calls)
		printf(" calls=%llu", phase->calls);
	for (i = 0; row->counting && i < HMM_BENCH_NR_EVENTS; i++)
		printf(" %s=%llu", event_names[i], phase->events[i]);
	printf("\n");
}

/* Do the work on the filled area: in the module, or by reading it here. */
static enum outcome row_measure(int fd, const struct hmm_bench_row *row,
				char *area, struct hmm_bench_finish *finish)
{
	struct hmm_bench_start start = {
		.row = row->row,
		.addr = (uintptr_t)area,
	};

	if (ioctl(fd, HMM_BENCH_START, &start))
		return row_failed(row, "start");
	if (row->touch_step)
		finish->touch_ticks = area_touch(row, area);
	else if (ioctl(fd, HMM_BENCH_WORK))
		return row_failed(row, "work");
	if (ioctl(fd, HMM_BENCH_FINISH, finish))
		return row_failed(row, "check");
	return DONE;
}

static enum outcome row_round(int fd, const struct hmm_bench_row *row,
			      int report)
{
	struct hmm_bench_finish finish = {};
	char *area = area_map(row);
	enum outcome outcome;
	unsigned int i;
	pid_t sharer;

	if (!area)
		return row_failed(row, "map");
	if (area_fill(row, area))
		return row_failed(row, "fill");
	sharer = area_share(row);
	if (sharer < 0)
		return row_failed(row, "share");
	outcome = row_measure(fd, row, area, &finish);
	area_unshare(sharer);
	if (outcome != DONE)
		return outcome;
	for (i = 0; report && i < HMM_BENCH_MAX_PHASES; i++)
		if (finish.phases[i].name[0])
			phase_print(row, &finish.phases[i]);
	return DONE;
}

static enum outcome row_process(int fd, const struct hmm_bench_row *row,
				int report)
{
	int status = 0;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (!pid) {
		status = row_round(fd, row, report);
		fflush(stdout);
		_exit(status);
	}
	if (pid < 0 || waitpid(pid, &status, 0) < 0)
		return row_failed(row, "fork");
	if (!WIFEXITED(status)) {
		printf("failed %s process: signal %d\n", row->name,
		       WTERMSIG(status));
		return FAILED;
	}
	return WEXITSTATUS(status);
}

/* The first round warms up allocators and caches. */
static enum outcome row_run(int fd, const struct hmm_bench_row *row)
{
	enum outcome outcome = DONE;
	int round;

	thp_choose(row->order);
	for (round = 1; round <= ROUNDS && outcome == DONE; round++)
		outcome = row_process(fd, row, round == ROUNDS);
	thp_restore(row->order);
	return outcome;
}

static int wanted(const char *name, int argc, char **argv)
{
	int i;

	for (i = 1; i < argc; i++)
		if (!fnmatch(argv[i], name, 0))
			return 1;
	return argc == 1;
}

int main(int argc, char **argv)
{
	struct hmm_bench_row row = {};
	unsigned int done = 0, failures = 0;
	int fd = open("/dev/hmm_bench", O_RDWR);

	if (fd < 0) {
		perror("/dev/hmm_bench");
		return 1;
	}
	quiet();
	for (; !ioctl(fd, HMM_BENCH_ROW, &row); row.row++) {
		if (!wanted(row.name, argc, argv))
			continue;
		done++;
		if (row_run(fd, &row) == FAILED)
			failures++;
	}
	if (errno != ENOENT) {
		perror("HMM_BENCH_ROW");
		return 1;
	}
	printf("done rows=%u failed=%u\n", done, failures);
	return failures || !done;
}
