// SPDX-License-Identifier: GPL-2.0-only
/* A device whose memory is full, or whose allocations fail. */
#define _GNU_SOURCE
#include <fcntl.h>

#include "hmm_tests.h"

MIRROR_FIXTURE(scarcity)

TEST_MIRROR(scarcity, full_device_loses_nothing)
{
	const size_t step = 512;
	size_t page, here = 0;
	struct area large;

	ASSERT_EQ(0, area_map(&large, MORE_THAN_A_DEVICE / PAGE));
	for (page = 0; page < large.pages; page += step) {
		area_fill_part(&large, page, 1, 1);
		ask_to_device(device, &large, page, step);
		here += held_part(device, &large, page, step);
	}
	EXPECT_LT(0, here);
	if (device->coherent)
		EXPECT_GT(large.pages, here);
	EXPECT_EQ(held(device, &large), (long)here);
	for (page = 0; page < large.pages; page += step) {
		ASSERT_EQ(0, device_wrong_part(device, &large, page, 1, 1));
		ASSERT_EQ(0, device_fill_part(device, &large, page + 1, 1, 2));
		ASSERT_EQ(0, cpu_wrong_part(&large, page, 1, 1));
		ASSERT_EQ(0, cpu_wrong_part(&large, page + 1, 1, 2));
		ASSERT_EQ(0, cpu_wrong_part(&large, page + 2, 2, 0));
	}
	ASSERT_EQ(0, area_unmap(&large));
	area_fill(area, 3);
	EXPECT_EQ(SOME, to_device(device, area));
	EXPECT_EQ(0, cpu_wrong(area, 3));
}

/*
 * Make the next allocation for a migration by this file fail. Return: NULL, or
 * the reason why that is impossible.
 */
static const char *fail_next(struct mirror *m)
{
	return mirror_call_once(m, HMM_DMIRROR_FLAGS, NULL,
				HMM_DMIRROR_FLAG_FAIL_ALLOC, NULL) ?
	       "the driver has no HMM_DMIRROR_FLAGS" : NULL;
}

TEST_FILLED(scarcity, failed_allocation_keeps_memory_in_the_system)
{
	long there;

	SKIP_FOR(fail_next(device));
	EXPECT_EQ(-ENOMEM, ask_to_device(device, area, 0, 1));
	EXPECT_EQ(0, held(device, area));
	EXPECT_EQ(0, cpu_wrong(area, 1));

	ASSERT_EQ(NULL, fail_next(device));
	ask_to_device(device, area, 0, SOME);
	there = held(device, area);
	EXPECT_GT(SOME, there);
	EXPECT_EQ(0, device_wrong(device, area, 1));
	EXPECT_EQ(there, held(device, area));
	EXPECT_EQ(0, cpu_wrong(area, 1));
	EXPECT_EQ(SOME, to_device(device, area));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

TEST_MIRROR(scarcity, failed_allocation_leaves_holes)
{
	SKIP_FOR(fail_next(device));
	ask_to_device(device, area, 0, 1);
	EXPECT_EQ(0, held(device, area));
	EXPECT_EQ(0, pagemap_count(area, PAGEMAP_PRESENT | PAGEMAP_SWAP));
	EXPECT_EQ(SOME, to_device(device, area));
	EXPECT_EQ(0, cpu_wrong(area, 0));
}

TEST_ON_DEVICE(scarcity, failed_allocation_keeps_memory_in_the_device)
{
	long there;

	SKIP_FOR(fail_next(device));
	EXPECT_EQ(-ENOMEM, ask_to_system(device, area, 0, SOME));
	there = held(device, area);
	EXPECT_LT(0, there);
	EXPECT_EQ(0, device_wrong(device, area, 1));
	EXPECT_EQ(there, held(device, area));
	ASSERT_EQ(0, to_system(device, area));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

#define FAIL_PAGES	"/sys/kernel/debug/fail_page_alloc/"

/* Make the @nth allocation in a CPU access fail. Return: whether it did. */
static bool fail_in_access(int nth_fd, void *at, unsigned int nth, int *signal)
{
	char left = 0, text[16];
	int length = snprintf(text, sizeof(text), "%u", nth);

	if (pwrite(nth_fd, text, length, 0) != length)
		return false;
	*signal = cpu_try(at, CPU_READ);
	if (pread(nth_fd, &left, 1, 0) != 1 || pwrite(nth_fd, "0", 1, 0) != 1)
		return false;
	return left == '0';
}

/*
 * HMM_DMIRROR_FLAGS affects commands only, so this uses fault injection. The
 * access gets SIGBUS, or the kernel retries; the next access succeeds.
 */
TEST_MIRROR(scarcity, failed_allocation_in_a_cpu_fault_loses_nothing)
{
	int fd = open("/proc/thread-self/fail-nth", O_RDWR), signal = 0;
	unsigned int i, failed = 0;

	if (fd < 0 || race_write_file(FAIL_PAGES "ignore-gfp-wait", "N"))
		SKIP(return, "no fault injection");
	race_write_file(FAIL_PAGES "ignore-gfp-highmem", "N");
	race_write_file(FAIL_PAGES "min-order", "0");
	race_write_file(FAIL_PAGES "verbose", "0");
	area_fill(area, 1);
	ASSERT_EQ(SOME, to_device(device, area));
	for (i = 0; i < SOME; i++) {
		failed += fail_in_access(fd, area_page(area, i), 1 + i % 8,
					 &signal);
		EXPECT_TRUE(!signal || signal == SIGBUS);
	}
	EXPECT_EQ(0, cpu_wrong(area, 1));
	race_write_file(FAIL_PAGES "verbose", "2");
	race_write_file(FAIL_PAGES "min-order", "1");
	race_write_file(FAIL_PAGES "ignore-gfp-highmem", "Y");
	race_write_file(FAIL_PAGES "ignore-gfp-wait", "Y");
	close(fd);
	if (variant->device < 2)
		EXPECT_NE(0, failed);
}

TEST_ON_DEVICE(scarcity, unplugging_succeeds_without_memory)
{
	SKIP_FOR(fail_next(device));
	ASSERT_EQ(0, unplug(device, area));
	EXPECT_EQ(0, held(device, area));
	EXPECT_EQ(0, cpu_wrong(area, 1));
	/* the flag is used up, so an allocation failed */
	EXPECT_NE(-ENOMEM, ask_to_device(device, area, 0, SOME));
}
