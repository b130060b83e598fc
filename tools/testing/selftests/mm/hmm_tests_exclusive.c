// SPDX-License-Identifier: GPL-2.0-only
/* Exclusive access, for a device's atomic operations. */
#define _GNU_SOURCE
#include "hmm_tests.h"

MIRROR_FIXTURE(exclusive)

TEST_FILLED(exclusive, device_reads_what_the_cpu_wrote)
{
	EXPECT_EQ(0, check_exclusive(device, area, 0, SOME));
	ASSERT_EQ(0, make_exclusive(device, area));
	EXPECT_EQ(0, contents_wrong(area->buffer, 0, SOME, 1));
	EXPECT_EQ(-EPERM, check_exclusive(device, area, 0, 1));
	EXPECT_EQ(-EPERM, check_exclusive(device, area, SOME - 1, 1));
	EXPECT_EQ(0, pagemap_count(area, PAGEMAP_PRESENT));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

TEST_FILLED(exclusive, cpu_access_revokes_page_by_page)
{
	ASSERT_EQ(0, make_exclusive(device, area));
	EXPECT_EQ(0, cpu_wrong_part(area, 4, 1, 1));
	EXPECT_EQ(0, check_exclusive(device, area, 4, 1));
	area_fill_part(area, 6, 1, 2);
	EXPECT_EQ(0, check_exclusive(device, area, 6, 1));
	EXPECT_EQ(-EPERM, check_exclusive(device, area, 3, 1));
	EXPECT_EQ(-EPERM, check_exclusive(device, area, 5, 1));
	EXPECT_EQ(-EPERM, check_exclusive(device, area, 7, 1));
	EXPECT_EQ(0, device_wrong_part(device, area, 6, 1, 2));
	EXPECT_EQ(0, cpu_wrong_but(area, 1, 6, 1, 2));
	EXPECT_EQ(0, check_exclusive(device, area, 0, SOME));
}

TEST_MIRROR(exclusive, exclusive_access_can_be_repeated)
{
	unsigned int turn;

	for (turn = 1; turn < 10; turn++) {
		area_fill(area, turn);
		ASSERT_EQ(0, make_exclusive(device, area));
		ASSERT_EQ(0, contents_wrong(area->buffer, 0, SOME, turn));
		ASSERT_EQ(0, make_exclusive(device, area));
		ASSERT_EQ(0, contents_wrong(area->buffer, 0, SOME, turn));
		ASSERT_EQ(-EPERM, check_exclusive(device, area, 0, 1));
	}
	EXPECT_EQ(0, cpu_wrong(area, turn - 1));
}

TEST_FILLED(exclusive, device_keeps_access_when_it_reads_the_range)
{
	size_t page;

	for (page = 5; page < SOME; page += 7)
		ASSERT_EQ(0, make_exclusive_part(device, area, page, 1));
	EXPECT_EQ(0, device_wrong(device, area, 1));
	for (page = 0; page < SOME; page++)
		EXPECT_EQ(page % 7 == 5 ? -EPERM : 0,
			  check_exclusive(device, area, page, 1));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

TEST_FILLED(exclusive, another_device_takes_access_over)
{
	ASSERT_EQ(0, make_exclusive(device, area));
	ASSERT_EQ(0, make_exclusive(other, area));
	EXPECT_EQ(0, contents_wrong(area->buffer, 0, SOME, 1));
	EXPECT_EQ(0, check_exclusive(device, area, 0, SOME));
	EXPECT_EQ(-EPERM, check_exclusive(other, area, 0, 1));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

TEST_FILLED(exclusive, read_of_another_device_revokes_access)
{
	ASSERT_EQ(0, make_exclusive(device, area));
	EXPECT_EQ(0, device_wrong(other, area, 1));
	EXPECT_EQ(0, check_exclusive(device, area, 0, SOME));
}

TEST_MIRROR(exclusive, holes_become_zeroes)
{
	ASSERT_EQ(0, make_exclusive(device, area));
	EXPECT_EQ(0, contents_wrong(area->buffer, 0, SOME, 0));
	EXPECT_EQ(0, cpu_wrong(area, 0));
}

TEST_MIRROR(exclusive, pages_of_a_thp_become_exclusive)
{
	struct area thp;

	SKIP_FOR(map_thp(&thp, 1));
	ASSERT_EQ(0, make_exclusive_part(device, &thp, 200, SOME));
	EXPECT_EQ(0, contents_wrong(thp.buffer, 200, SOME, 1));
	EXPECT_EQ(-EPERM, check_exclusive(device, &thp, 200, 1));
	EXPECT_EQ(-EPERM, check_exclusive(device, &thp, 200 + SOME - 1, 1));
	EXPECT_EQ(0, check_exclusive(device, &thp, 199, 1));
	EXPECT_EQ(0, cpu_wrong(&thp, 1));
}

TEST_ON_DEVICE(exclusive, device_memory_returns_before_access)
{
	ASSERT_EQ(0, make_exclusive(device, area));
	EXPECT_EQ(0, contents_wrong(area->buffer, 0, SOME, 1));
	EXPECT_EQ(-EPERM, check_exclusive(device, area, 0, 1));
	EXPECT_EQ(0, cpu_wrong(area, 1));
	EXPECT_EQ(0, held(device, area));
	EXPECT_EQ(0, device_wrong(device, area, 1));
}

TEST_FILLED(exclusive, read_only_memory_is_refused)
{
	ASSERT_EQ(0, area_protect(area, PROT_READ));
	EXPECT_NE(0, make_exclusive(device, area));
	EXPECT_EQ(0, check_exclusive(device, area, 0, SOME));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

TEST_FILLED(exclusive, protection_holds_after_exclusive_access)
{
	ASSERT_EQ(0, make_exclusive(device, area));
	ASSERT_EQ(0, area_protect(area, PROT_READ));
	EXPECT_EQ(0, check_exclusive(device, area, 0, SOME));
	EXPECT_EQ(SIGSEGV, cpu_try(area->at, CPU_WRITE));
	EXPECT_EQ(-EPERM, device_fill(device, area, 2));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

TEST_MIRROR(exclusive, shared_memory_is_refused)
{
	struct area shared;

	ASSERT_EQ(0, area_map_file(&shared, SOME, PROT_READ | PROT_WRITE,
				   MAP_SHARED | MAP_ANONYMOUS, -1));
	area_fill(&shared, 1);
	EXPECT_NE(0, make_exclusive(device, &shared));
	EXPECT_EQ(0, cpu_wrong(&shared, 1));
	EXPECT_EQ(0, device_wrong(device, &shared, 1));
}

TEST_MIRROR(exclusive, private_file_mapping_is_copied)
{
	int fd = memfd_create("hmm-tests", 0);
	struct area copy, file;

	ASSERT_EQ(0, ftruncate(fd, SOME * PAGE));
	ASSERT_EQ(0, area_map_file(&file, SOME, PROT_READ | PROT_WRITE,
				   MAP_SHARED, fd));
	ASSERT_EQ(0, area_map_file(&copy, SOME, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE, fd));
	area_fill(&file, 1);
	EXPECT_EQ(0, cpu_wrong_part(&copy, 0, SOME / 2, 1));
	ASSERT_EQ(0, make_exclusive(device, &copy));
	EXPECT_EQ(0, contents_wrong(copy.buffer, 0, SOME, 1));
	EXPECT_EQ(-EPERM, check_exclusive(device, &copy, 0, 1));
	area_fill(&copy, 2);
	EXPECT_EQ(0, check_exclusive(device, &copy, 0, SOME));
	EXPECT_EQ(0, cpu_wrong(&file, 1));
	close(fd);
}

/* Code that moves pages skips exclusive pages, or notifies the device. */
TEST_FILLED(exclusive, compaction_and_reclaim_notify_the_device)
{
	size_t i;

	ASSERT_EQ(0, make_exclusive(device, area));
	race_write_file("/proc/sys/vm/compact_memory", "1");
	area_advise(area, MADV_COLD);
	area_advise(area, MADV_PAGEOUT);
	for (i = 0; i < SOME; i++) {
		unsigned char *at = area_page(area, i);

		if (check_exclusive(device, area, i, 1) == -EPERM)
			EXPECT_EQ(0, pagemap_entry(at) & PAGEMAP_PRESENT);
	}
	EXPECT_EQ(0, cpu_wrong(area, 1));
	EXPECT_EQ(0, check_exclusive(device, area, 0, SOME));
}

TEST_FILLED(exclusive, fork_gives_both_the_contents)
{
	struct peer child;

	ASSERT_EQ(0, make_exclusive(device, area));
	ASSERT_EQ(0, peer_fork(&child));
	if (!child.pid) {
		EXPECT_EQ(0, cpu_wrong(area, 1));
		area_fill(area, 2);
		ASSERT_TRUE(peer_tell(&child));
		ASSERT_TRUE(peer_hear(&child));
		EXPECT_EQ(0, cpu_wrong(area, 2));
		_exit(0);
	}
	ASSERT_TRUE(peer_hear(&child));
	EXPECT_EQ(0, check_exclusive(device, area, 0, SOME));
	EXPECT_EQ(0, cpu_wrong(area, 1));
	ASSERT_EQ(0, make_exclusive(device, area));
	ASSERT_EQ(0, device_fill(device, area, 3));
	EXPECT_EQ(0, cpu_wrong(area, 3));
	ASSERT_TRUE(peer_tell(&child));
	EXPECT_EQ(0, peer_end(&child));
}

TEST_MIRROR(exclusive, access_ends_with_the_mapping)
{
	struct area to;

	ASSERT_EQ(0, area_map(&to, SOME));
	area_fill(area, 1);
	ASSERT_EQ(0, make_exclusive(device, area));
	ASSERT_EQ(0, area_advise_part(area, 0, 1, MADV_DONTNEED));
	EXPECT_EQ(0, check_exclusive(device, area, 0, 1));
	EXPECT_EQ(0, cpu_wrong_part(area, 0, 1, 0));
	ASSERT_EQ(0, area_move(area, &to));
	EXPECT_EQ(0, check_exclusive(device, area, 0, SOME));
	EXPECT_EQ(0, cpu_wrong_part(&to, 1, SOME - 1, 1));
	ASSERT_EQ(0, make_exclusive(device, &to));
	ASSERT_EQ(0, area_unmap(&to));
	EXPECT_EQ(0, check_exclusive(device, &to, 0, SOME));
}

TEST_FILLED(exclusive, exclusive_memory_can_migrate)
{
	ASSERT_EQ(0, make_exclusive(device, area));
	ask_to_device(device, area, 0, SOME);
	EXPECT_EQ(0, cpu_wrong(area, 1));
	ASSERT_EQ(SOME, to_device(device, area));
	EXPECT_EQ(0, device_wrong(device, area, 1));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

/*
 * The device has exclusive access to pages 0 to 7, and lost it for pages 8 to
 * 15. All are in system memory, so they can be collapsed.
 */
TEST_MIRROR(exclusive, exclusive_memory_is_collapsed)
{
	struct area range;

	SKIP_FOR(map_for_collapse(&range));
	ASSERT_EQ(0, make_exclusive_part(device, &range, 8, 8));
	ASSERT_EQ(0, area_protect_part(&range, 8, 8, PROT_READ));
	ASSERT_EQ(0, area_protect_part(&range, 8, 8, PROT_READ | PROT_WRITE));
	ASSERT_EQ(0, make_exclusive_part(device, &range, 0, 8));
	EXPECT_EQ(-EPERM, check_exclusive(device, &range, 7, 1));
	EXPECT_EQ(0, check_exclusive(device, &range, 8, 8));
	EXPECT_EQ(THP_PAGES - 16, pagemap_count(&range, PAGEMAP_PRESENT));
	ASSERT_EQ(0, area_advise(&range, MADV_HUGEPAGE));
	EXPECT_TRUE(eventually(!area_advise(&range, MADV_COLLAPSE)));
	EXPECT_EQ(THP_PAGES, smaps_pages(range.at, "AnonHugePages"));
	EXPECT_EQ(0, check_exclusive(device, &range, 0, 16));
	EXPECT_EQ(0, cpu_wrong(&range, 1));
}

TEST_MIRROR(exclusive, exit_ends_access)
{
	struct peer child;
	struct mirror own;

	ASSERT_EQ(0, peer_fork_device(&child, &own, variant->device));
	if (!child.pid) {
		area_fill(area, 1);
		ASSERT_EQ(0, make_exclusive(&own, area));
		ASSERT_EQ(-EPERM, check_exclusive(&own, area, 0, 1));
		_exit(0);
	}
	EXPECT_EQ(0, peer_end(&child));
}
