// SPDX-License-Identifier: GPL-2.0-only
/* Faulting back: the CPU can access memory wherever it is. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>

#include "hmm_tests.h"

MIRROR_FIXTURE(faulting_back)

TEST_ON_DEVICE(faulting_back, cpu_read_brings_one_page_back)
{
	EXPECT_EQ(0, cpu_wrong_part(area, 5, 1, 1));
	EXPECT_EQ(left_after(device, 1), held(device, area));
	EXPECT_EQ(device->coherent, held_part(device, area, 5, 1));
	EXPECT_EQ(0, device_wrong(device, area, 1));
	EXPECT_EQ(0, cpu_wrong(area, 1));
	EXPECT_EQ(left_after(device, SOME), held(device, area));
}

TEST_ON_DEVICE(faulting_back, device_sees_what_the_cpu_writes_next)
{
	area_fill_part(area, 5, 3, 2);
	EXPECT_EQ(left_after(device, 3), held(device, area));
	EXPECT_EQ(0, device_wrong_but(device, area, 1, 5, 3, 2));
}

TEST_ON_DEVICE(faulting_back, system_calls_read_device_memory)
{
	int pair[2];
	size_t i;

	ASSERT_EQ(0, pipe(pair));
	for (i = 0; i < SOME; i++) {
		ASSERT_EQ(PAGE, write(pair[1], area_page(area, i), PAGE));
		ASSERT_EQ(PAGE, read(pair[0], area->buffer, PAGE));
		ASSERT_EQ(0, contents_wrong(area->buffer, i, 1, 1));
	}
	EXPECT_EQ(left_after(device, SOME), held(device, area));
}

TEST_ON_DEVICE(faulting_back, system_calls_write_device_memory)
{
	int pair[2];
	size_t i;

	ASSERT_EQ(0, pipe(pair));
	contents_fill(area->buffer, 0, SOME, 2);
	for (i = 0; i < SOME; i++) {
		ASSERT_EQ(PAGE, write(pair[1], area->buffer + i * PAGE, PAGE));
		ASSERT_EQ(PAGE, read(pair[0], area_page(area, i), PAGE));
	}
	EXPECT_EQ(0, device_wrong(device, area, 2));
	EXPECT_EQ(0, cpu_wrong(area, 2));
}

/* Through /proc/PID/mem, as a debugger does it. */
TEST_ON_DEVICE(faulting_back, another_process_accesses_device_memory)
{
	char path[32];
	int mem;

	snprintf(path, sizeof(path), "/proc/%d/mem", getpid());
	mem = open(path, O_RDWR);
	ASSERT_NE(-1, mem);
	ASSERT_EQ(SOME * PAGE, pread(mem, area->buffer, SOME * PAGE,
				     (uintptr_t)area->at));
	EXPECT_EQ(0, contents_wrong(area->buffer, 0, SOME, 1));
	EXPECT_EQ(left_after(device, SOME), held(device, area));

	ASSERT_EQ(SOME, to_device(device, area));
	contents_fill(area->buffer, 0, SOME, 2);
	ASSERT_EQ(SOME * PAGE, pwrite(mem, area->buffer, SOME * PAGE,
				      (uintptr_t)area->at));
	EXPECT_EQ(0, device_wrong(device, area, 2));
	EXPECT_EQ(0, cpu_wrong(area, 2));
	close(mem);
}

TEST_ON_DEVICE(faulting_back, populating_brings_memory_back)
{
	if (area_advise(area, MADV_POPULATE_READ))
		SKIP(return, "no MADV_POPULATE_READ: %s", strerror(errno));
	EXPECT_EQ(left_after(device, SOME), held(device, area));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

TEST_ON_DEVICE(faulting_back, locking_brings_memory_back)
{
	ASSERT_EQ(0, mlock(area->at, SOME * PAGE));
	EXPECT_EQ(left_after(device, SOME), held(device, area));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

TEST_ON_DEVICE(faulting_back, read_only_memory_returns_read_only)
{
	ASSERT_EQ(0, area_protect(area, PROT_READ));
	EXPECT_EQ(SIGSEGV, cpu_try(area_page(area, 3), CPU_WRITE));
	EXPECT_EQ(0, cpu_wrong(area, 1));
	EXPECT_EQ(SIGSEGV, cpu_try(area_page(area, 3), CPU_WRITE));
	ASSERT_EQ(0, area_protect(area, PROT_READ | PROT_WRITE));
	area_fill(area, 2);
	EXPECT_EQ(0, device_wrong(device, area, 2));
}

TEST_ON_DEVICE(faulting_back, device_memory_can_be_discarded)
{
	ASSERT_EQ(0, area_advise_part(area, 9, 9, MADV_DONTNEED));
	EXPECT_EQ(SOME - 9, held(device, area));
	EXPECT_EQ(0, device_wrong_part(device, area, 9, 9, 0));
	EXPECT_EQ(0, cpu_wrong_but(area, 1, 9, 9, 0));
}

TEST_ON_DEVICE(faulting_back, device_memory_can_be_unmapped)
{
	ASSERT_EQ(0, area_unmap(area));
	EXPECT_EQ(-EFAULT, device_wrong(device, area, 1));
	ASSERT_EQ(area->at,
		  mmap(area->at, SOME * PAGE, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
	EXPECT_EQ(0, device_wrong(device, area, 0));
	EXPECT_EQ(0, cpu_wrong(area, 0));
}

TEST_MIRROR(faulting_back, device_memory_can_be_moved)
{
	struct area to;

	ASSERT_EQ(0, area_map(&to, SOME));
	area_fill(area, 1);
	ASSERT_EQ(SOME, to_device(device, area));
	ASSERT_EQ(0, area_move(area, &to));
	EXPECT_EQ(SOME, held(device, &to));
	EXPECT_EQ(-EFAULT, device_wrong(device, area, 1));
	EXPECT_EQ(0, device_wrong(device, &to, 1));
	EXPECT_EQ(SOME, held(device, &to));
	EXPECT_EQ(0, cpu_wrong(&to, 1));
}

TEST_ON_DEVICE(faulting_back, reclaim_leaves_device_memory_alone)
{
	area_advise(area, MADV_COLD);
	area_advise(area, MADV_PAGEOUT);
	EXPECT_EQ(SOME, held(device, area));
	EXPECT_EQ(0, device_wrong(device, area, 1));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

#define FAULTERS	4

/* Threads that read each page of an area at the same time. */
struct faulters {
	struct area *area;
	pthread_barrier_t barrier;
	atomic_long wrong;
};

static void *fault_on_every_page(void *data)
{
	struct faulters *f = data;
	size_t i;

	for (i = 0; i < f->area->pages; i++) {
		pthread_barrier_wait(&f->barrier);
		atomic_fetch_add(&f->wrong, cpu_wrong_part(f->area, i, 1, 1));
	}
	return NULL;
}

TEST_MIRROR(faulting_back, threads_fault_on_one_page_at_once)
{
	struct faulters f = { .area = area };
	pthread_t thread[FAULTERS];
	unsigned int i;

	pthread_barrier_init(&f.barrier, NULL, FAULTERS);
	area_fill(f.area, 1);
	ASSERT_EQ(SOME, to_device(device, f.area));
	for (i = 0; i < FAULTERS; i++)
		ASSERT_EQ(0, pthread_create(&thread[i], NULL,
					    fault_on_every_page, &f));
	for (i = 0; i < FAULTERS; i++)
		pthread_join(thread[i], NULL);
	EXPECT_EQ(0, f.wrong);
	EXPECT_EQ(left_after(device, SOME), held(device, f.area));
}

struct count {
	atomic_long *counter;
	atomic_bool *over;
	long own;
};

/* Pause now and then, so that the page can move to the device. */
static void *count_up(void *data)
{
	struct count *count = data;

	while (!*count->over) {
		atomic_fetch_add(count->counter, 1);
		if (!(++count->own % 200))
			race_pause_ms(1);
	}
	return NULL;
}

TEST_MIRROR(faulting_back, counters_are_exact_while_their_memory_moves)
{
	unsigned int i, tries = 0, moved = 0;
	struct count count[2];
	pthread_t thread[2];
	atomic_bool over = false;

	for (i = 0; i < 2; i++) {
		count[i] = (struct count) {
			.counter = (void *)area->at,
			.over = &over,
		};
		ASSERT_EQ(0, pthread_create(&thread[i], NULL, count_up,
					    &count[i]));
	}
	while (moved < 30 && tries++ < 5000) {
		moved += !mirror_call_once(device, HMM_DMIRROR_MIGRATE_TO_DEV,
					   area->at, 1, area->buffer);
		ask_to_system(device, area, 0, 1);
	}
	over = true;
	for (i = 0; i < 2; i++)
		pthread_join(thread[i], NULL);
	EXPECT_EQ(count[0].own + count[1].own, *(long *)area->at);
	EXPECT_EQ(30, moved);
}
