// SPDX-License-Identifier: GPL-2.0-only
/* Pages of hugetlbfs are mirrored, but do not move. */
#define _GNU_SOURCE
#include "hmm_tests.h"

#define HUGETLB_NEEDED	4

MIRROR_DATA(hugetlb);
BOTH_KINDS(hugetlb);

FIXTURE_SETUP(hugetlb)
{
	OPEN_DEVICES();
	if (!thp_bytes || race_read_number("/proc/meminfo", "Hugepagesize") !=
			  (long)(thp_bytes >> 10))
		SKIP(return, "hugetlb pages are not of PMD size");
	if (race_read_number("/proc/meminfo", "HugePages_Free") <
	    HUGETLB_NEEDED)
		SKIP(return, "fewer than %d hugetlb pages are free",
		     HUGETLB_NEEDED);
	ASSERT_EQ(0, area_map_file(&self->area, 2 * THP_PAGES,
				   PROT_READ | PROT_WRITE, MAP_PRIVATE |
				   MAP_ANONYMOUS | MAP_HUGETLB, -1));
}

FIXTURE_TEARDOWN(hugetlb)
{
	CLOSE_DEVICES();
}

TEST_FILLED(hugetlb, device_and_cpu_see_the_same)
{
	size_t page = THP_PAGES - 12;

	EXPECT_EQ(0, device_wrong(device, area, 1));
	ASSERT_EQ(0, device_fill_part(device, area, page, 100, 2));
	EXPECT_EQ(0, cpu_wrong_but(area, 1, page, 100, 2));
}

TEST_MIRROR(hugetlb, snapshot_shows_pages_as_huge)
{
	unsigned char *last = area_page(area, 2 * THP_PAGES - 1);

	EXPECT_EQ(HMM_DMIRROR_PROT_NONE, mirror_place(device, area->at));
	ASSERT_EQ(0, device_fill_part(device, area, 0, 1, 1));
	EXPECT_EQ(HMM_DMIRROR_PROT_PMD | HMM_DMIRROR_PROT_WRITE,
		  mirror_place(device, area_page(area, THP_PAGES - 1)));
	EXPECT_EQ(HMM_DMIRROR_PROT_NONE, mirror_place(device, last));
}

TEST_MIRROR(hugetlb, untouched_pages_read_as_zeroes)
{
	EXPECT_EQ(0, device_wrong(device, area, 0));
	ASSERT_EQ(0, device_fill(device, area, 1));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

TEST_FILLED(hugetlb, read_only_pages_take_no_device_write)
{
	ASSERT_EQ(0, device_fill_part(device, area, 0, 1, 1));
	ASSERT_EQ(0, area_protect(area, PROT_READ));
	EXPECT_EQ(-EPERM, device_fill_part(device, area, 0, 1, 2));
	EXPECT_EQ(0, device_wrong(device, area, 1));
}

TEST_FILLED(hugetlb, device_write_after_fork_copies)
{
	struct peer child;

	ASSERT_EQ(0, device_wrong(device, area, 1));
	ASSERT_EQ(0, peer_fork(&child));
	if (!child.pid) {
		ASSERT_TRUE(peer_hear(&child));
		EXPECT_EQ(0, cpu_wrong(area, 1));
		_exit(0);
	}
	ASSERT_EQ(0, device_fill_part(device, area, 3, 1, 2));
	ASSERT_TRUE(peer_tell(&child));
	EXPECT_EQ(0, peer_end(&child));
	EXPECT_EQ(0, cpu_wrong_part(area, 0, 3, 1));
	EXPECT_EQ(0, cpu_wrong_part(area, 3, 1, 2));
}

TEST_FILLED(hugetlb, pages_do_not_move)
{
	EXPECT_EQ(-EINVAL, ask_to_device(device, area, 0, 64));
	EXPECT_EQ(0, held(device, area));
	EXPECT_EQ(0, device_wrong(device, area, 1));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

TEST_FILLED(hugetlb, unmapped_pages_are_out_of_reach)
{
	ASSERT_EQ(0, device_wrong(device, area, 1));
	ASSERT_EQ(0, munmap(area_page(area, THP_PAGES), thp_bytes));
	EXPECT_EQ(-EFAULT, device_wrong_part(device, area, THP_PAGES, 1, 1));
	EXPECT_EQ(0, device_wrong_part(device, area, 0, THP_PAGES, 1));
}
