// SPDX-License-Identifier: GPL-2.0-only
/* Swap: memory moves between swap and the device without loss. */
#define _GNU_SOURCE
#include "hmm_tests.h"

MIRROR_DATA(swapping, bool swap_is_ours;);
BOTH_KINDS(swapping);

FIXTURE_SETUP(swapping)
{
	OPEN_DEVICES();
	ASSERT_EQ(0, area_map(&self->area, SOME));
	SKIP_FOR(race_swap_begin(&self->swap_is_ours));
}

FIXTURE_TEARDOWN(swapping)
{
	CLOSE_DEVICES();
	race_swap_end(self->swap_is_ours);
}

/* Return: true if no page is mapped afterwards. */
static bool page_out(const struct area *area)
{
	return eventually(!area_advise(area, MADV_PAGEOUT) &&
			  !pagemap_count(area, PAGEMAP_PRESENT));
}

/* Return: the number of pages in swap. */
static long swap_out(const struct area *area)
{
	page_out(area);
	return pagemap_count(area, PAGEMAP_SWAP);
}

TEST_FILLED(swapping, device_reads_swapped_memory)
{
	ASSERT_EQ(0, device_wrong(device, area, 1));
	ASSERT_EQ(SOME, swap_out(area));
	EXPECT_EQ(HMM_DMIRROR_PROT_NONE, mirror_place(device, area->at));
	EXPECT_EQ(0, device_wrong(device, area, 1));
	EXPECT_NE(0, device->faults);
}

TEST_FILLED(swapping, device_writes_swapped_memory)
{
	ASSERT_EQ(SOME, swap_out(area));
	ASSERT_EQ(0, device_fill_part(device, area, 0, SOME / 2, 2));
	ASSERT_EQ(SOME, swap_out(area));
	EXPECT_EQ(0, cpu_wrong_but(area, 1, 0, SOME / 2, 2));
}

/* After swap-in, a page may be writable and clean, with a copy in swap. */
TEST_FILLED(swapping, device_write_to_a_clean_page_is_not_dropped)
{
	unsigned int turn;

	for (turn = 2; turn < 6; turn++) {
		ASSERT_EQ(SOME, swap_out(area));
		ASSERT_EQ(0, cpu_wrong(area, turn - 1));
		ASSERT_EQ(0, device_fill(device, area, turn));
		ASSERT_EQ(SOME, swap_out(area));
		ASSERT_EQ(0, device_wrong(device, area, turn));
	}
	EXPECT_EQ(0, cpu_wrong(area, turn - 1));
}

/* A page of a file that was read in again is writable and clean. */
TEST_MIRROR(swapping, device_write_to_a_clean_page_of_a_file_is_not_dropped)
{
	int fd = memfd_create("hmm", MFD_CLOEXEC);
	struct area file;

	ASSERT_NE(-1, fd);
	ASSERT_EQ(0, ftruncate(fd, SOME * PAGE));
	ASSERT_EQ(0, area_map_file(&file, SOME, PROT_READ | PROT_WRITE,
				   MAP_SHARED, fd));
	area_fill(&file, 1);
	ASSERT_TRUE(page_out(&file));
	ASSERT_EQ(0, cpu_wrong(&file, 1));
	ASSERT_EQ(0, device_fill(device, &file, 2));
	ASSERT_TRUE(page_out(&file));
	EXPECT_EQ(0, cpu_wrong(&file, 2));
	close(fd);
}

TEST_FILLED(swapping, device_write_to_freed_memory_is_not_dropped)
{
	ASSERT_EQ(0, device_fill(device, area, 1));
	ASSERT_EQ(0, area_advise(area, MADV_FREE));
	ASSERT_EQ(0, device_fill(device, area, 2));
	ASSERT_EQ(SOME, swap_out(area));
	EXPECT_EQ(0, cpu_wrong(area, 2));
}

TEST_FILLED(swapping, moving_swapped_memory_loses_nothing)
{
	ASSERT_EQ(SOME, swap_out(area));
	ask_to_device(device, area, 0, SOME);
	EXPECT_EQ(0, cpu_wrong(area, 1));
	ASSERT_EQ(SOME, to_device(device, area));
	EXPECT_EQ(0, device_wrong(device, area, 1));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

TEST_FILLED(swapping, memory_back_from_swap_moves)
{
	ASSERT_EQ(SOME, swap_out(area));
	ASSERT_EQ(0, device_wrong(device, area, 1));
	ASSERT_EQ(SOME, to_device(device, area));
	EXPECT_EQ(0, smaps_pages(area->at, "Swap"));
	ASSERT_EQ(0, device_fill(device, area, 2));
	ASSERT_EQ(0, to_system(device, area));
	ASSERT_EQ(SOME, swap_out(area));
	EXPECT_EQ(0, cpu_wrong(area, 2));
}

/* After a read fault, a page keeps its swap slot while others need it. */
TEST_FILLED(swapping, memory_moves_once_its_swap_is_unused)
{
	struct peer child;

	ASSERT_EQ(SOME, swap_out(area));
	ASSERT_EQ(0, peer_fork(&child));
	if (!child.pid)
		_exit(peer_hear(&child));
	ASSERT_EQ(0, cpu_wrong(area, 1));
	ask_to_device(device, area, 0, SOME);
	EXPECT_EQ(0, held(device, area));
	EXPECT_EQ(0, device_wrong(device, area, 1));
	EXPECT_EQ(0, cpu_wrong(area, 1));

	EXPECT_EQ(0, peer_end(&child));
	EXPECT_EQ(SOME, to_device(device, area));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

TEST_ON_DEVICE(swapping, memory_back_from_the_device_is_swapped)
{
	ASSERT_EQ(0, device_fill(device, area, 2));
	ASSERT_EQ(0, to_system(device, area));
	ASSERT_EQ(SOME, swap_out(area));
	EXPECT_EQ(0, device_wrong(device, area, 2));
}

TEST_MIRROR(swapping, lazily_freed_memory_is_not_dropped_after_a_round_trip)
{
	ASSERT_TRUE(area_free_lazily(area));
	ASSERT_EQ(SOME, to_device(device, area));
	ASSERT_EQ(0, to_system(device, area));
	ASSERT_EQ(SOME, swap_out(area));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

/* The device may have written, even if the memory is read-only afterwards. */
TEST_MIRROR(swapping, lazily_freed_memory_is_not_dropped_after_exclusive_access)
{
	ASSERT_TRUE(area_free_lazily(area));
	ASSERT_EQ(0, make_exclusive(device, area));
	ASSERT_EQ(0, area_protect(area, PROT_READ));
	ASSERT_EQ(0, cpu_wrong(area, 1));
	ASSERT_EQ(SOME, swap_out(area));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

TEST_MIRROR(swapping, swapoff_works_while_memory_is_on_the_device)
{
	if (!self->swap_is_ours)
		SKIP(return, "the system has swap of its own");
	area_fill(area, 1);
	ASSERT_EQ(SOME, swap_out(area));
	ASSERT_EQ(SOME / 2, (device_wrong_part(device, area, 0, SOME / 2, 1),
			     to_device_part(device, area, 0, SOME / 2)));
	ASSERT_EQ(0, swapoff(RACE_SWAP_DEVICE));
	EXPECT_EQ(0, device_wrong(device, area, 1));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}
