// SPDX-License-Identifier: GPL-2.0-only
/* Copy on write and fork() work as they do without a device. */
#define _GNU_SOURCE
#include "hmm_tests.h"

MIRROR_FIXTURE(cow)

enum writer { PARENT_CPU, PARENT_DEVICE, CHILD_CPU, CHILD_DEVICE };

/* The child. Writes of one process must not be visible in the other. */
static void cow_child(struct __test_metadata *_metadata, struct area *area,
		      struct peer *parent, unsigned int node,
		      enum writer writer)
{
	struct mirror own;

	ASSERT_EQ(0, mirror_open(&own, node));
	ASSERT_TRUE(peer_hear(parent));
	if (writer == CHILD_CPU)
		area_fill(area, 2);
	else if (writer == CHILD_DEVICE)
		ASSERT_EQ(0, device_fill(&own, area, 2));
	EXPECT_EQ(0, device_wrong(&own, area, writer >= CHILD_CPU ? 2 : 1));
	EXPECT_EQ(0, cpu_wrong(area, writer >= CHILD_CPU ? 2 : 1));
	ASSERT_TRUE(peer_tell(parent));
	ASSERT_TRUE(peer_hear(parent));
	_exit(0);
}

static void check_cow(struct __test_metadata *_metadata, struct mirror *m,
		      unsigned int node, struct area *area, enum place place,
		      enum writer writer)
{
	struct peer child;

	area_fill(area, 1);
	if (place == IN_DEVICE)
		ASSERT_EQ(SOME, to_device(m, area));
	ASSERT_EQ(0, peer_fork(&child));
	if (!child.pid)
		cow_child(_metadata, area, &child, node, writer);

	if (place == IN_DEVICE)
		EXPECT_EQ(SOME, held(m, area));
	if (writer == PARENT_CPU)
		area_fill(area, 2);
	else if (writer == PARENT_DEVICE)
		ASSERT_EQ(0, device_fill(m, area, 2));
	ASSERT_TRUE(peer_tell(&child));
	ASSERT_TRUE(peer_hear(&child));
	EXPECT_EQ(0, device_wrong(m, area, writer >= CHILD_CPU ? 1 : 2));
	EXPECT_EQ(0, cpu_wrong(area, writer >= CHILD_CPU ? 1 : 2));
	ASSERT_TRUE(peer_tell(&child));
	EXPECT_EQ(0, peer_end(&child));
}

#define CHECK_COW(place, writer)					\
	check_cow(_metadata, device, variant->device, area, place, writer)

TEST_MIRROR(cow, parent_write_is_private)
{
	CHECK_COW(IN_SYSTEM, PARENT_CPU);
}

TEST_MIRROR(cow, parents_device_write_is_private)
{
	CHECK_COW(IN_SYSTEM, PARENT_DEVICE);
}

TEST_MIRROR(cow, child_write_is_private)
{
	CHECK_COW(IN_SYSTEM, CHILD_CPU);
}

TEST_MIRROR(cow, childs_device_write_is_private)
{
	CHECK_COW(IN_SYSTEM, CHILD_DEVICE);
}

TEST_MIRROR(cow, parent_write_to_device_memory_is_private)
{
	CHECK_COW(IN_DEVICE, PARENT_CPU);
}

TEST_MIRROR(cow, parents_device_write_to_device_memory_is_private)
{
	CHECK_COW(IN_DEVICE, PARENT_DEVICE);
}

TEST_MIRROR(cow, child_write_to_device_memory_is_private)
{
	CHECK_COW(IN_DEVICE, CHILD_CPU);
}

TEST_MIRROR(cow, childs_device_write_to_device_memory_is_private)
{
	CHECK_COW(IN_DEVICE, CHILD_DEVICE);
}

/* Return: the number of pages that both processes map. */
static long pages_shared(const struct area *area, pid_t pid)
{
	long shared = 0;
	size_t i;

	for (i = 0; i < area->pages; i++) {
		uint64_t mine = pagemap_entry(area_page(area, i));
		uint64_t theirs = pagemap_of(pid, area_page(area, i));

		shared += (mine & theirs & PAGEMAP_PRESENT) &&
			  (mine & PAGEMAP_PFN) == (theirs & PAGEMAP_PFN);
	}
	return shared;
}

TEST_FILLED(cow, reading_leaves_pages_shared)
{
	struct peer child;

	ASSERT_EQ(0, peer_fork(&child));
	if (!child.pid) {
		peer_hear(&child);
		_exit(0);
	}
	ASSERT_EQ(SOME, pages_shared(area, child.pid));
	EXPECT_EQ(0, device_wrong(device, area, 1));
	EXPECT_EQ(SOME, pages_shared(area, child.pid));
	ASSERT_EQ(0, device_fill_part(device, area, 0, 1, 2));
	EXPECT_EQ(SOME - 1, pages_shared(area, child.pid));
	EXPECT_EQ(0, peer_end(&child));
}

TEST_ON_DEVICE(cow, device_memory_stays_for_both_after_fork)
{
	struct mirror own;
	struct peer child;

	ASSERT_EQ(0, peer_fork_device(&child, &own, variant->device));
	if (!child.pid) {
		EXPECT_EQ(SOME, held(&own, area));
		EXPECT_EQ(0, device_wrong(&own, area, 1));
		EXPECT_EQ(SOME, held(&own, area));
		peer_tell(&child);
		peer_hear(&child);
		_exit(0);
	}
	ASSERT_TRUE(peer_hear(&child));
	EXPECT_EQ(SOME, held(device, area));
	EXPECT_EQ(mirror_local(device) | HMM_DMIRROR_PROT_READ,
		  mirror_place(device, area->at));
	EXPECT_EQ(0, device_wrong(device, area, 1));
	EXPECT_EQ(SOME, held(device, area));
	EXPECT_EQ(0, peer_end(&child));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

TEST_MIRROR(cow, memory_shared_by_fork_moves_for_both)
{
	struct mirror own;
	struct peer child;

	area_advise(area, MADV_NOHUGEPAGE);
	area_fill(area, 1);
	ASSERT_EQ(0, peer_fork_device(&child, &own, variant->device));
	if (!child.pid) {
		ASSERT_TRUE(peer_hear(&child));
		EXPECT_EQ(SOME, held(&own, area));
		EXPECT_EQ(0, cpu_wrong(area, 1));
		area_fill(area, 2);
		_exit(0);
	}
	ASSERT_EQ(SOME, to_device(device, area));
	ASSERT_TRUE(peer_tell(&child));
	ASSERT_EQ(false, peer_hear(&child));
	EXPECT_EQ(0, device_wrong(device, area, 1));
	EXPECT_EQ(0, cpu_wrong(area, 1));
	EXPECT_EQ(0, peer_end(&child));
}

TEST_ON_DEVICE(cow, device_memory_outlives_the_child)
{
	ASSERT_EQ(0, fork_and_exit());
	EXPECT_EQ(SOME, held(device, area));
	EXPECT_EQ(0, device_wrong(device, area, 1));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

/* The process that moved the memory exits before its child. */
static void move_and_exit(struct __test_metadata *_metadata, unsigned int node,
			  struct area *area, struct peer *parent)
{
	struct mirror own;
	struct peer grandchild;

	ASSERT_EQ(0, mirror_open(&own, node));
	area_fill(area, 1);
	ASSERT_EQ(SOME, to_device(&own, area));
	ASSERT_EQ(0, peer_fork(&grandchild));
	if (grandchild.pid)
		_exit(0);
	mirror_close(&own);
	ASSERT_EQ(false, peer_hear(&grandchild));
	EXPECT_EQ(0, cpu_wrong(area, 1));
	area_fill(area, 2);
	ASSERT_EQ(0, mirror_open(&own, node));
	EXPECT_EQ(0, device_wrong(&own, area, 2));
	EXPECT_EQ(SOME, to_device(&own, area));
	EXPECT_EQ(0, cpu_wrong(area, 2));
	peer_tell(parent);
	_exit(0);
}

TEST_MIRROR(cow, device_memory_outlives_the_parent)
{
	struct peer child;

	ASSERT_EQ(0, peer_fork(&child));
	if (!child.pid)
		move_and_exit(_metadata, variant->device, area, &child);
	/* from the grandchild, which has the child's end of the socket */
	EXPECT_TRUE(peer_hear(&child));
	EXPECT_EQ(0, peer_end(&child));
}

/* Each generation writes one page and sees the others as its parent does. */
static void check_generations(struct __test_metadata *_metadata,
			      struct mirror *m, struct area *area,
			      unsigned int node, unsigned int left)
{
	size_t page = left;
	struct mirror own;
	struct peer child;

	ASSERT_EQ(SOME, to_device(m, area));
	ASSERT_EQ(0, peer_fork(&child));
	if (!child.pid) {
		area_fill_part(area, page, 1, 2);
		ASSERT_EQ(0, mirror_open(&own, node));
		if (left)
			check_generations(_metadata, &own, area, node,
					  left - 1);
		EXPECT_EQ(0, device_wrong_part(&own, area, page, 1, 2));
		EXPECT_EQ(0, cpu_wrong_part(area, 0, page, 1));
		_exit(0);
	}
	ASSERT_EQ(0, peer_end(&child));
	EXPECT_EQ(0, device_wrong_part(m, area, 0, page + 1, 1));
	EXPECT_EQ(0, cpu_wrong_part(area, 0, page + 1, 1));
}

TEST_FILLED(cow, each_generation_has_its_own_copy)
{
	check_generations(_metadata, device, area, variant->device, 4);
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

TEST_FILLED(cow, child_gets_no_memory_that_madvise_withholds)
{
	struct peer child;

	ASSERT_EQ(0, area_advise_part(area, 10, 10, MADV_WIPEONFORK));
	ASSERT_EQ(0, area_advise_part(area, 30, 10, MADV_DONTFORK));
	ASSERT_EQ(SOME, to_device(device, area));
	ASSERT_EQ(0, peer_fork(&child));
	if (!child.pid) {
		EXPECT_EQ(0, cpu_wrong_part(area, 0, 10, 1));
		EXPECT_EQ(0, cpu_wrong_part(area, 10, 10, 0));
		EXPECT_EQ(0, cpu_wrong_part(area, 20, 10, 1));
		EXPECT_EQ(SIGSEGV, cpu_try(area_page(area, 30), CPU_READ));
		EXPECT_EQ(0, cpu_wrong_part(area, 40, SOME - 40, 1));
		_exit(0);
	}
	EXPECT_EQ(0, peer_end(&child));
	/* pages that the child did not get are still on the device */
	EXPECT_LE(20, held(device, area));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

TEST_MIRROR(cow, zero_page_is_never_written)
{
	struct area twin;

	ASSERT_EQ(0, area_map(&twin, SOME));
	EXPECT_EQ(0, cpu_wrong(area, 0));
	EXPECT_EQ(0, cpu_wrong(&twin, 0));
	ASSERT_EQ(0, device_fill(device, area, 1));
	EXPECT_EQ(0, cpu_wrong(area, 1));
	EXPECT_EQ(0, cpu_wrong(&twin, 0));
	EXPECT_EQ(0, device_wrong(device, &twin, 0));
}
