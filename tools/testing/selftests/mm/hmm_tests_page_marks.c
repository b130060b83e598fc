// SPDX-License-Identifier: GPL-2.0-only
/* Marks of pages (soft-dirty, dirty, ...) survive a round trip. */
#define _GNU_SOURCE
#include "hmm_tests.h"

MIRROR_FIXTURE(page_marks)

static bool clear_marks(const char *what)
{
	return !race_write_file("/proc/self/clear_refs", what);
}

TEST_FILLED(page_marks, soft_dirty_survives)
{
	if (!pagemap_count(area, PAGEMAP_SOFT_DIRTY))
		SKIP(return, "no CONFIG_MEM_SOFT_DIRTY");
	ASSERT_TRUE(clear_marks("4"));
	ASSERT_EQ(0, pagemap_count(area, PAGEMAP_SOFT_DIRTY));
	area_fill_part(area, 10, 5, 2);
	ASSERT_EQ(5, pagemap_count(area, PAGEMAP_SOFT_DIRTY));
	ASSERT_EQ(SOME, to_device(device, area));
	EXPECT_EQ(5, pagemap_count(area, PAGEMAP_SOFT_DIRTY));
	EXPECT_EQ(0, device_wrong_part(device, area, 0, 10, 1));
	ASSERT_EQ(0, to_system(device, area));
	EXPECT_EQ(5, pagemap_count(area, PAGEMAP_SOFT_DIRTY));
	area_fill_part(area, 20, 2, 2);
	EXPECT_EQ(7, pagemap_count(area, PAGEMAP_SOFT_DIRTY));
}

/* Reads of the device leave pages clean; it writes four pages. */
static void check_device_write(struct __test_metadata *_metadata,
			       struct mirror *m, struct area *area)
{
	ASSERT_TRUE(clear_marks("4"));
	ASSERT_EQ(0, pagemap_count(area, PAGEMAP_SOFT_DIRTY));
	ASSERT_EQ(0, device_wrong(m, area, 1));
	EXPECT_EQ(0, pagemap_count(area, PAGEMAP_SOFT_DIRTY));
	ASSERT_EQ(0, device_fill_part(m, area, 3, 4, 2));
	EXPECT_EQ(4, pagemap_count(area, PAGEMAP_SOFT_DIRTY));
}

TEST_FILLED(page_marks, soft_dirty_shows_device_writes)
{
	ASSERT_EQ(0, device_fill(device, area, 1));
	if (!pagemap_count(area, PAGEMAP_SOFT_DIRTY))
		SKIP(return, "no CONFIG_MEM_SOFT_DIRTY");
	check_device_write(_metadata, device, area);
}

/* Device writes are visible in pagemap while the page is on the device. */
TEST_FILLED(page_marks, soft_dirty_shows_writes_to_device_memory)
{
	if (!pagemap_count(area, PAGEMAP_SOFT_DIRTY))
		SKIP(return, "no CONFIG_MEM_SOFT_DIRTY");
	ASSERT_EQ(SOME, to_device(device, area));
	check_device_write(_metadata, device, area);
	EXPECT_EQ(0, cpu_wrong_part(area, 3, 4, 2));
	EXPECT_EQ(4, pagemap_count(area, PAGEMAP_SOFT_DIRTY));
	area_fill_part(area, 3, 8, 3);
	EXPECT_EQ(8, pagemap_count(area, PAGEMAP_SOFT_DIRTY));
}

TEST_FILLED(page_marks, referenced_survives)
{
	ASSERT_EQ(SOME, smaps_pages(area->at, "Referenced"));
	ASSERT_EQ(SOME, to_device(device, area));
	ASSERT_EQ(0, to_system(device, area));
	EXPECT_EQ(SOME, smaps_pages(area->at, "Referenced"));
}

TEST_ON_DEVICE(page_marks, dirty_survives)
{
	ASSERT_EQ(0, to_system(device, area));
	EXPECT_EQ(SOME, smaps_pages(area->at, "Private_Dirty"));
	ASSERT_EQ(SOME, to_device(device, area));
	EXPECT_EQ(0, cpu_wrong(area, 1));
	EXPECT_EQ(SOME, smaps_pages(area->at, "Private_Dirty"));
}

TEST_ON_DEVICE(page_marks, write_permission_survives)
{
	unsigned char places[SOME];
	size_t i;

	ASSERT_EQ(0, to_system(device, area));
	ASSERT_EQ(0, mirror_call(device, HMM_DMIRROR_SNAPSHOT, area->at, SOME,
				 places));
	for (i = 0; i < SOME; i++)
		EXPECT_EQ(HMM_DMIRROR_PROT_WRITE, places[i]);
}

TEST_FILLED(page_marks, exclusive_ownership_survives)
{
	uint64_t pfn;

	ASSERT_EQ(SOME, pagemap_count(area, PAGEMAP_EXCLUSIVE));
	ASSERT_EQ(SOME, to_device(device, area));
	ASSERT_EQ(0, to_system(device, area));
	EXPECT_EQ(SOME, pagemap_count(area, PAGEMAP_EXCLUSIVE));
	/* so removing and restoring write permission does not copy */
	pfn = pagemap_entry(area->at) & PAGEMAP_PFN;
	ASSERT_EQ(0, area_protect(area, PROT_READ));
	ASSERT_EQ(0, area_protect(area, PROT_READ | PROT_WRITE));
	area_fill(area, 2);
	EXPECT_EQ(pfn, pagemap_entry(area->at) & PAGEMAP_PFN);
}

TEST_MIRROR(page_marks, lazily_freed_memory_returns_as_ordinary)
{
	ASSERT_TRUE(area_free_lazily(area));
	ASSERT_EQ(SOME, to_device(device, area));
	EXPECT_EQ(0, device_wrong(device, area, 1));
	EXPECT_EQ(0, smaps_pages(area->at, "LazyFree"));
	ASSERT_EQ(0, to_system(device, area));
	EXPECT_EQ(0, smaps_pages(area->at, "LazyFree"));
	EXPECT_EQ(SOME, smaps_pages(area->at, "Private_Dirty"));
	area_advise(area, MADV_PAGEOUT);
	EXPECT_EQ(0, cpu_wrong(area, 1));
}
