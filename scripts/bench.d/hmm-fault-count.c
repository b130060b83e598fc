// SPDX-License-Identifier: GPL-2.0-only
/*
 * Threads fault on the same device pages at the same time. The driver must be
 * called once per page.
 *
 * A range of pages migrates to the dummy device (lib/test_hmm.c), then all
 * threads read all of it, in the same order. The module test_hmm_calls, which
 * must be loaded, counts the calls of migrate_to_ram(). Only one thread may
 * call the driver for a page, the others must wait for it. If they take a
 * reference to the page instead, the migration fails, and the driver is called
 * again.
 *
 * Without an argument there are ROUNDS rounds. With a larger number as argument
 * the test goes on until a round fails: that is for a kernel with the fault,
 * where a failure is a matter of chance.
 */
#define _GNU_SOURCE
#include <limits.h>
#include <pthread.h>
#include <sys/mman.h>

#include "hmm_race_common.h"
#include "kselftest.h"

#define CALLS	"/sys/module/test_hmm_calls/parameters/calls"
#define PAGES	256
#define THREADS	8
#define ROUNDS	20

static struct {
	pthread_barrier_t start;
	pthread_barrier_t end;
	size_t page_size;
	char *area;
	unsigned long wrong;	/* words, over all threads and rounds */
	long fewest, most;	/* calls per round */
	bool over;
} test;

static uint64_t word_of(unsigned int round, unsigned int page)
{
	return race_mix((uint64_t)round << 32 | page);
}

static uint64_t *page_at(unsigned int page)
{
	return (uint64_t *)(test.area + page * test.page_size);
}

static void *reader(void *arg)
{
	for (unsigned int round = 0;; round++) {
		unsigned long wrong = 0;

		pthread_barrier_wait(&test.start);
		if (test.over)
			return NULL;
		for (unsigned int i = 0; i < PAGES; i++)
			wrong += *(volatile uint64_t *)page_at(i) !=
				 word_of(round, i);
		__atomic_fetch_add(&test.wrong, wrong, __ATOMIC_RELAXED);
		pthread_barrier_wait(&test.end);
	}
}

static void to_device(int fd, unsigned int round, void *buffer)
{
	unsigned char seen[PAGES];
	size_t moved;

	for (unsigned int i = 0; i < PAGES; i++)
		*page_at(i) = word_of(round, i);
	if (race_device(fd, HMM_DMIRROR_MIGRATE_TO_DEV, test.area, PAGES,
			buffer))
		ksft_exit_fail_msg("migration to the device: %s\n",
				   strerror(errno));
	moved = race_count_pages(fd, test.area, PAGES,
				 HMM_DMIRROR_PROT_DEV_PRIVATE_LOCAL, seen);
	if (moved != PAGES)
		ksft_exit_fail_msg("%zu of %d pages are on the device\n",
				   moved, PAGES);
}

static void count_round(int fd, unsigned int round, void *buffer)
{
	long calls;

	to_device(fd, round, buffer);
	if (race_write_file(CALLS, "0"))
		ksft_exit_fail_msg("%s: %s\n", CALLS, strerror(errno));
	pthread_barrier_wait(&test.start);
	pthread_barrier_wait(&test.end);
	calls = race_read_number(CALLS, NULL);
	test.fewest = calls < test.fewest ? calls : test.fewest;
	test.most = calls > test.most ? calls : test.most;
}

static bool once_a_page(void)
{
	return test.fewest == PAGES && test.most == PAGES;
}

/* Return: the number of rounds. */
static unsigned int count_rounds(int fd, unsigned int limit, void *buffer)
{
	unsigned int round = 0;

	test.fewest = LONG_MAX;
	while (round < ROUNDS || (round < limit && once_a_page()))
		count_round(fd, round++, buffer);
	test.over = true;
	pthread_barrier_wait(&test.start);
	return round;
}

static char *memory(void)
{
	size_t size = PAGES * test.page_size;
	char *addr = mmap(NULL, size, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (addr == MAP_FAILED)
		ksft_exit_fail_msg("mmap: %s\n", strerror(errno));
	madvise(addr, size, MADV_NOHUGEPAGE);
	return addr;
}

int main(int argc, char **argv)
{
	unsigned int rounds, limit = argc > 1 ? atoi(argv[1]) : ROUNDS;
	pthread_t threads[THREADS];
	int fd = race_open_device(0);
	char *buffer;

	ksft_print_header();
	if (fd < 0)
		ksft_exit_skip("no /dev/hmm_dmirror0\n");
	if (race_read_number(CALLS, NULL) < 0)
		ksft_exit_skip("no " CALLS "\n");
	ksft_set_plan(2);
	test.page_size = sysconf(_SC_PAGESIZE);
	test.area = memory();
	buffer = memory();
	pthread_barrier_init(&test.start, NULL, THREADS + 1);
	pthread_barrier_init(&test.end, NULL, THREADS + 1);
	for (unsigned int i = 0; i < THREADS; i++)
		if (pthread_create(&threads[i], NULL, reader, NULL))
			ksft_exit_fail_msg("no thread\n");
	rounds = count_rounds(fd, limit, buffer);
	for (unsigned int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);

	ksft_print_msg("%d threads, %d pages, %u rounds: %ld to %ld calls\n",
		       THREADS, PAGES, rounds, test.fewest, test.most);
	ksft_test_result(!test.wrong, "every word is the one written\n");
	ksft_test_result(once_a_page(), "the driver is called once per page\n");
	ksft_finished();
}
