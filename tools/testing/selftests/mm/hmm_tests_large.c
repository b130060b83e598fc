// SPDX-License-Identifier: GPL-2.0-only
/*
 * Large folios on the device: a THP moves as a whole, and in single pages where
 * there is no large folio for it.
 */
#define _GNU_SOURCE
#include <linux/mempolicy.h>
#include <pthread.h>
#include <sys/syscall.h>

#include "hmm_tests.h"

MIRROR_FIXTURE(large)

#define FAULTERS	8

/* Is the THP one folio in the memory of the device? */
static bool whole_on_device(struct mirror *m, const struct area *thp)
{
	return held(m, thp) == (long)THP_PAGES &&
	       mirror_place(m, thp->at) & HMM_DMIRROR_PROT_PMD &&
	       mirror_place(m, area_page(thp, THP_PAGES / 2 + 1)) &
	       HMM_DMIRROR_PROT_PMD;
}

static bool whole_in_system(const struct area *thp)
{
	return smaps_pages(thp->at, "AnonHugePages") == (long)THP_PAGES;
}

/* Make the next allocation for a migration fail: that of a large folio. */
static int no_large_folio(struct mirror *m)
{
	return mirror_call_once(m, HMM_DMIRROR_FLAGS, NULL,
				HMM_DMIRROR_FLAG_FAIL_ALLOC, NULL);
}

/*
 * Map a THP and move it to the device as a whole. A reference that is held for
 * a moment, or memory that is short, may keep it from that: then try again.
 */
static const char *map_on_device(struct mirror *m, struct area *thp)
{
	const char *lack = map_thp(thp, 1);

	if (lack)
		return lack;
	to_device(m, thp);
	return whole_on_device(m, thp) ? NULL : "no large folio on the device";
}

TEST_MIRROR(large, thp_moves_as_a_whole)
{
	struct area thp;

	SKIP_FOR(map_thp(&thp, 1));
	ASSERT_EQ((long)THP_PAGES, to_device(device, &thp));
	EXPECT_TRUE(whole_on_device(device, &thp));
	EXPECT_EQ(mirror_local(device) | HMM_DMIRROR_PROT_WRITE |
		  HMM_DMIRROR_PROT_PMD, mirror_place(device, thp.at));
	EXPECT_EQ(0, device_wrong(device, &thp, 1));
	ASSERT_EQ(0, device_fill(device, &thp, 2));
	EXPECT_TRUE(whole_on_device(device, &thp));
	ASSERT_EQ(0, to_system(device, &thp));
	EXPECT_TRUE(whole_in_system(&thp));
	EXPECT_EQ(0, cpu_wrong(&thp, 2));
}

/* The CPU reads coherent memory in place. */
TEST_MIRROR(large, one_access_brings_back_the_whole)
{
	struct area thp;

	SKIP_FOR(map_on_device(device, &thp));
	EXPECT_EQ(0, cpu_wrong_part(&thp, 100, 1, 1));
	if (device->coherent) {
		EXPECT_TRUE(whole_on_device(device, &thp));
	} else {
		EXPECT_EQ(0, held(device, &thp));
		EXPECT_TRUE(whole_in_system(&thp));
	}
	EXPECT_EQ(0, cpu_wrong(&thp, 1));
}

TEST_MIRROR(large, hole_is_filled_by_one_folio)
{
	struct area thp;

	SKIP_FOR(map_thp(&thp, 1));
	ASSERT_EQ(0, area_advise(&thp, MADV_DONTNEED));
	ASSERT_EQ((long)THP_PAGES, to_device(device, &thp));
	EXPECT_TRUE(whole_on_device(device, &thp));
	EXPECT_EQ(0, device_wrong(device, &thp, 0));
	ASSERT_EQ(0, device_fill_part(device, &thp, 300, 2, 1));
	EXPECT_EQ(0, cpu_wrong_but(&thp, 0, 300, 2, 1));
}

TEST_MIRROR(large, huge_zero_page_is_replaced_by_one_folio)
{
	struct area thp;

	SKIP_FOR(map_thp_zeroes(&thp));
	ASSERT_EQ((long)THP_PAGES, to_device(device, &thp));
	EXPECT_TRUE(whole_on_device(device, &thp));
	EXPECT_EQ(0, device_wrong(device, &thp, 0));
	EXPECT_EQ(0, cpu_wrong(&thp, 0));
}

/* Without a large folio all pages move, to the device and back. */
TEST_MIRROR(large, pages_move_without_a_large_folio)
{
	struct area thp;

	SKIP_FOR(map_thp(&thp, 1));
	ASSERT_EQ(0, no_large_folio(device));
	ASSERT_EQ(0, ask_to_device(device, &thp, 0, THP_PAGES));
	EXPECT_EQ((long)THP_PAGES, held(device, &thp));
	EXPECT_FALSE(whole_on_device(device, &thp));
	EXPECT_EQ(0, device_wrong(device, &thp, 1));
	ASSERT_EQ(0, to_system(device, &thp));
	EXPECT_EQ(0, cpu_wrong(&thp, 1));
}

TEST_MIRROR(large, pages_fill_a_hole_without_a_large_folio)
{
	struct area thp;

	SKIP_FOR(map_thp(&thp, 1));
	ASSERT_EQ(0, area_advise(&thp, MADV_DONTNEED));
	ASSERT_EQ(0, no_large_folio(device));
	ASSERT_EQ(0, ask_to_device(device, &thp, 0, THP_PAGES));
	EXPECT_EQ((long)THP_PAGES, held(device, &thp));
	EXPECT_EQ(0, device_wrong(device, &thp, 0));
	EXPECT_EQ(0, cpu_wrong(&thp, 0));
}

TEST_MIRROR(large, pages_replace_the_huge_zero_page)
{
	struct area thp;

	SKIP_FOR(map_thp_zeroes(&thp));
	ASSERT_EQ(0, no_large_folio(device));
	ASSERT_EQ(0, ask_to_device(device, &thp, 0, THP_PAGES));
	EXPECT_EQ((long)THP_PAGES, held(device, &thp));
	EXPECT_EQ(0, device_wrong(device, &thp, 0));
	EXPECT_EQ(0, cpu_wrong(&thp, 0));
}

TEST_MIRROR(large, folio_returns_in_pages)
{
	struct area thp;

	SKIP_FOR(map_on_device(device, &thp));
	ASSERT_EQ(0, no_large_folio(device));
	ASSERT_EQ(0, ask_to_system(device, &thp, 0, THP_PAGES));
	EXPECT_EQ(0, held(device, &thp));
	EXPECT_FALSE(whole_in_system(&thp));
	EXPECT_EQ(0, cpu_wrong(&thp, 1));
}

/* The child has a PMD of the folio, too. */
TEST_MIRROR(large, shared_folio_returns_in_pages)
{
	struct peer peer;
	struct area thp;

	SKIP_FOR(map_on_device(device, &thp));
	ASSERT_LE(0, peer_fork(&peer));
	if (!peer.pid) {
		if (!peer_hear(&peer))
			_exit(1);
		_exit(cpu_wrong(&thp, 1) != 0);
	}
	ASSERT_EQ(0, no_large_folio(device));
	EXPECT_EQ(0, ask_to_system(device, &thp, 0, THP_PAGES));
	EXPECT_EQ(0, held(device, &thp));
	area_fill_part(&thp, 7, 3, 2);
	ASSERT_TRUE(peer_tell(&peer));
	EXPECT_EQ(0, peer_end(&peer));
	EXPECT_EQ(0, cpu_wrong_but(&thp, 1, 7, 3, 2));
}

TEST_MIRROR(large, fork_copies_what_is_on_the_device)
{
	struct peer peer;
	struct area thp;

	SKIP_FOR(map_on_device(device, &thp));
	ASSERT_LE(0, peer_fork(&peer));
	if (!peer.pid) {
		area_fill_part(&thp, 11, 2, 3);
		_exit(cpu_wrong_but(&thp, 1, 11, 2, 3) != 0);
	}
	EXPECT_EQ(0, peer_end(&peer));
	EXPECT_EQ(0, cpu_wrong(&thp, 1));
	ASSERT_EQ(0, device_fill_part(device, &thp, 12, 2, 2));
	EXPECT_EQ(0, cpu_wrong_but(&thp, 1, 12, 2, 2));
}

TEST_MIRROR(large, device_gives_up_whole_folios)
{
	struct area thp;

	SKIP_FOR(map_on_device(device, &thp));
	ASSERT_EQ(0, unplug(device, &thp));
	EXPECT_EQ(0, held(device, &thp));
	EXPECT_EQ(0, cpu_wrong(&thp, 1));
}

TEST_MIRROR(large, device_gives_up_folios_in_pages)
{
	struct area thp;

	SKIP_FOR(map_on_device(device, &thp));
	ASSERT_EQ(0, no_large_folio(device));
	ASSERT_EQ(0, unplug(device, &thp));
	EXPECT_EQ(0, held(device, &thp));
	EXPECT_FALSE(whole_in_system(&thp));
	EXPECT_EQ(0, cpu_wrong(&thp, 1));
}

TEST_MIRROR(large, part_of_a_folio_is_freed)
{
	struct area thp;

	SKIP_FOR(map_on_device(device, &thp));
	ASSERT_EQ(0, area_advise_part(&thp, 33, 5, MADV_DONTNEED));
	EXPECT_EQ((long)THP_PAGES - 5, held(device, &thp));
	EXPECT_EQ(0, device_wrong_but(device, &thp, 1, 33, 5, 0));
	EXPECT_EQ(0, cpu_wrong_but(&thp, 1, 33, 5, 0));
}

TEST_MIRROR(large, part_of_a_folio_is_unmapped)
{
	struct area thp, half;

	SKIP_FOR(map_on_device(device, &thp));
	half = thp;
	half.pages = THP_PAGES / 2;
	ASSERT_EQ(0, munmap(area_page(&thp, half.pages), half.pages * PAGE));
	EXPECT_EQ((long)half.pages, held(device, &half));
	EXPECT_EQ(0, device_wrong(device, &half, 1));
	EXPECT_EQ(0, cpu_wrong(&half, 1));
}

TEST_MIRROR(large, part_of_a_folio_is_protected)
{
	struct area thp;

	SKIP_FOR(map_on_device(device, &thp));
	ASSERT_EQ(0, area_protect_part(&thp, 77, 1, PROT_READ));
	EXPECT_EQ(-EPERM, device_fill_part(device, &thp, 77, 1, 2));
	EXPECT_EQ(0, device_fill_part(device, &thp, 78, 1, 2));
	EXPECT_EQ(SIGSEGV, cpu_try(area_page(&thp, 77), CPU_WRITE));
	EXPECT_EQ(0, cpu_wrong_but(&thp, 1, 78, 1, 2));
}

TEST_MIRROR(large, folio_is_moved_to_other_addresses)
{
	struct area thp, to;

	SKIP_FOR(map_on_device(device, &thp));
	ASSERT_EQ(0, area_map(&to, THP_PAGES));
	ASSERT_EQ(0, area_move(&thp, &to));
	EXPECT_EQ((long)THP_PAGES, held(device, &to));
	EXPECT_EQ(0, device_wrong(device, &to, 1));
	EXPECT_EQ(0, cpu_wrong(&to, 1));
}

TEST_MIRROR(large, locked_folio_is_not_counted_on_the_device)
{
	long before = pages_locked();
	struct area thp;

	SKIP_FOR(map_on_device(device, &thp));
	ASSERT_EQ(0, mlock(thp.at, area_size(&thp)));
	ASSERT_EQ(0, munlock(thp.at, area_size(&thp)));
	ASSERT_EQ(0, mlock(thp.at, area_size(&thp)));
	if (device->coherent)
		EXPECT_TRUE(whole_on_device(device, &thp));
	EXPECT_EQ(0, cpu_wrong(&thp, 1));
	ASSERT_EQ(0, munmap(thp.at, area_size(&thp)));
	EXPECT_TRUE(eventually(pages_locked() <= before));
}

/* The device is on one of the nodes, so that it is not on the other. */
TEST_MIRROR(large, policy_passes_over_the_device)
{
	unsigned long mask;
	struct area thp;

	SKIP_FOR(map_on_device(device, &thp));
	for (mask = 1; mask <= 2; mask <<= 1) {
		if (!syscall(SYS_mbind, thp.at, area_size(&thp), MPOL_BIND,
			     &mask, 8 * sizeof(mask),
			     MPOL_MF_STRICT | MPOL_MF_MOVE))
			continue;
		if (errno != EIO)
			SKIP(return, "no second node: %s", strerror(errno));
		EXPECT_NE(EIO, errno);
	}
	EXPECT_TRUE(whole_on_device(device, &thp));
	EXPECT_EQ(0, cpu_wrong(&thp, 1));
}

/**
 * struct faulter - a thread that reads one page
 * @thread: the thread
 * @thp: the memory
 * @page: the page
 * @wrong: result of cpu_wrong_part()
 */
struct faulter {
	pthread_t thread;
	struct area *thp;
	size_t page;
	long wrong;
};

static void *faulter_run(void *arg)
{
	struct faulter *faulter = arg;

	faulter->wrong = cpu_wrong_part(faulter->thp, faulter->page, 1, 1);
	return NULL;
}

TEST_MIRROR(large, many_threads_bring_back_one_folio)
{
	struct faulter faulters[FAULTERS];
	unsigned int i, turn;
	struct area thp;

	SKIP_FOR(map_on_device(device, &thp));
	for (turn = 0; turn < 20; turn++) {
		for (i = 0; i < FAULTERS; i++) {
			faulters[i].thp = &thp;
			faulters[i].page = i * (THP_PAGES / FAULTERS) + turn;
			ASSERT_EQ(0, pthread_create(&faulters[i].thread, NULL,
						    faulter_run,
						    &faulters[i]));
		}
		for (i = 0; i < FAULTERS; i++) {
			ASSERT_EQ(0, pthread_join(faulters[i].thread, NULL));
			EXPECT_EQ(0, faulters[i].wrong);
		}
		if (!device->coherent)
			EXPECT_EQ(0, held(device, &thp));
		ASSERT_EQ((long)THP_PAGES, to_device(device, &thp));
	}
	EXPECT_EQ(0, cpu_wrong(&thp, 1));
}
