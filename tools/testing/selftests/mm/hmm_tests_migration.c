// SPDX-License-Identifier: GPL-2.0-only
/* Migration: memory moves to the device and back with its contents. */
#define _GNU_SOURCE
#include <linux/mempolicy.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/syscall.h>

#include "hmm_tests.h"

MIRROR_FIXTURE(migration)

TEST_FILLED(migration, memory_moves_to_the_device_and_back)
{
	ASSERT_EQ(0, held(device, area));
	ASSERT_EQ(SOME, to_device(device, area));
	EXPECT_EQ(mirror_local(device) | HMM_DMIRROR_PROT_WRITE,
		  mirror_place(device, area->at));
	EXPECT_EQ(0, device_wrong(device, area, 1));
	EXPECT_EQ(SOME, held(device, area));
	ASSERT_EQ(0, to_system(device, area));
	EXPECT_EQ(SOME, pagemap_count(area, PAGEMAP_PRESENT));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

TEST_ON_DEVICE(migration, device_works_on_its_memory_in_place)
{
	ASSERT_EQ(0, device_fill(device, area, 2));
	EXPECT_EQ(SOME, held(device, area));
	EXPECT_EQ(0, device_wrong(device, area, 2));
	EXPECT_EQ(SOME, held(device, area));
	ASSERT_EQ(0, to_system(device, area));
	EXPECT_EQ(0, cpu_wrong(area, 2));
}

/* A new file of the device has no entries for the pages yet. */
TEST_ON_DEVICE(migration, device_finds_its_memory_by_the_mirror)
{
	struct mirror again;

	ASSERT_EQ(0, mirror_open(&again, variant->device));
	EXPECT_EQ(SOME, held(&again, area));
	EXPECT_EQ(0, device_wrong(&again, area, 1));
	ASSERT_EQ(0, device_fill(&again, area, 2));
	EXPECT_EQ(SOME, held(device, area));
	EXPECT_EQ(0, device_wrong(device, area, 2));
	mirror_close(&again);
	EXPECT_EQ(0, device_wrong(device, area, 2));
	EXPECT_EQ(0, cpu_wrong(area, 2));
}

TEST_MIRROR(migration, holes_move_as_zeroes)
{
	ASSERT_EQ(SOME, to_device(device, area));
	EXPECT_EQ(0, device_wrong(device, area, 0));
	ASSERT_EQ(0, device_fill_part(device, area, 7, 1, 1));
	EXPECT_EQ(SOME, held(device, area));
	EXPECT_EQ(0, cpu_wrong_but(area, 0, 7, 1, 1));
}

TEST_MIRROR(migration, zero_pages_move_as_zeroes)
{
	EXPECT_EQ(0, cpu_wrong(area, 0));
	ASSERT_EQ(SOME, to_device(device, area));
	EXPECT_EQ(0, device_wrong(device, area, 0));
	ASSERT_EQ(0, device_fill(device, area, 1));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

TEST_MIRROR(migration, large_areas_move)
{
	struct area large;

	ASSERT_EQ(0, area_map(&large, LARGE));
	area_fill(&large, 1);
	ASSERT_EQ(LARGE, to_device(device, &large));
	EXPECT_EQ(0, device_wrong(device, &large, 1));
	ASSERT_EQ(0, device_fill(device, &large, 2));
	ASSERT_EQ(0, to_system(device, &large));
	EXPECT_EQ(0, cpu_wrong(&large, 2));
}

TEST_MIRROR(migration, part_of_a_thp_moves_alone)
{
	struct area thp;

	SKIP_FOR(map_thp(&thp, 1));

	ASSERT_EQ(3, to_device_part(device, &thp, 100, 3));
	EXPECT_EQ(3, held(device, &thp));
	EXPECT_EQ(0, device_wrong(device, &thp, 1));
	ASSERT_EQ(0, device_fill_part(device, &thp, 101, 1, 2));
	EXPECT_EQ(3, held(device, &thp));
	EXPECT_EQ(0, cpu_wrong_but(&thp, 1, 101, 1, 2));
}

TEST_MIRROR(migration, huge_zero_page_moves_as_zeroes)
{
	struct area thp;

	SKIP_FOR(map_thp_zeroes(&thp));
	ASSERT_EQ(THP_PAGES, to_device(device, &thp));
	EXPECT_EQ(0, device_wrong(device, &thp, 0));
	ASSERT_EQ(0, device_fill_part(device, &thp, 300, 2, 1));
	EXPECT_EQ(0, cpu_wrong_but(&thp, 0, 300, 2, 1));
}

/* A change of the protection of one page splits the PMD, but not the folio. */
TEST_MIRROR(migration, pte_mapped_thp_moves)
{
	struct area thp;

	SKIP_FOR(map_thp(&thp, 1));
	ASSERT_EQ(0, area_protect_part(&thp, 77, 1, PROT_READ));
	EXPECT_EQ(0, smaps_pages(thp.at, "AnonHugePages"));
	EXPECT_EQ(0, device_wrong(device, &thp, 1));
	ASSERT_EQ(THP_PAGES, to_device(device, &thp));
	EXPECT_EQ(-EPERM, device_fill_part(device, &thp, 77, 1, 2));
	EXPECT_EQ(0, device_fill_part(device, &thp, 78, 1, 2));
	ASSERT_EQ(0, to_system(device, &thp));
	EXPECT_EQ(0, cpu_wrong_but(&thp, 1, 78, 1, 2));
	EXPECT_EQ(SIGSEGV, cpu_try(area_page(&thp, 77), CPU_WRITE));
}

#define THP_64K	"/sys/kernel/mm/transparent_hugepage/hugepages-64kB/enabled"

static bool choose_64k(const char *mode)
{
	return !race_write_file(THP_64K, mode);
}

/* The value in brackets in a sysfs file with a choice of values. */
static void chosen(const char *path, char *choice, size_t size)
{
	char line[80] = "", *from, *to;
	FILE *file = fopen(path, "r");

	choice[0] = 0;
	if (!file)
		return;
	if (fgets(line, sizeof(line), file)) {
		from = strchr(line, '[');
		to = from ? strchr(from, ']') : NULL;
		if (to)
			snprintf(choice, size, "%.*s", (int)(to - from - 1),
				 from + 1);
	}
	fclose(file);
}

TEST_MIRROR(migration, pages_of_64_kib_move)
{
	char before[24];

	chosen(THP_64K, before, sizeof(before));
	if (!before[0] || !choose_64k("always"))
		SKIP(return, "no THPs of 64 KiB");
	area_fill(area, 1);
	choose_64k(before);
	EXPECT_EQ(0, device_wrong(device, area, 1));
	ASSERT_EQ(5, to_device_part(device, area, 18, 5));
	EXPECT_EQ(5, held(device, area));
	EXPECT_EQ(0, device_wrong(device, area, 1));
	ASSERT_EQ(SOME, to_device(device, area));
	EXPECT_EQ(0, device_wrong(device, area, 1));
	ASSERT_EQ(0, device_fill(device, area, 2));
	ASSERT_EQ(0, to_system(device, area));
	EXPECT_EQ(0, cpu_wrong(area, 2));
}

/* Pages with data, holes, zero pages, and pages on the device */
TEST_MIRROR(migration, mixed_memory_moves)
{
	size_t i;

	area_advise(area, MADV_NOHUGEPAGE);
	for (i = 0; i < SOME; i++) {
		if (i % 4 == 2)
			ASSERT_EQ(0, cpu_wrong_part(area, i, 1, 0));
		if (i % 2)
			continue;
		if (i % 4 == 0)
			area_fill_part(area, i, 1, 1);
		if (i % 3 == 0)
			ASSERT_EQ(1, to_device_part(device, area, i, 1));
	}
	ASSERT_EQ(SOME, to_device(device, area));
	for (i = 0; i < SOME; i++)
		EXPECT_EQ(0, device_wrong_part(device, area, i, 1, i % 4 == 0));
	ASSERT_EQ(0, to_system(device, area));
	for (i = 0; i < SOME; i++)
		EXPECT_EQ(0, cpu_wrong_part(area, i, 1, i % 4 == 0));
}

TEST_FILLED(migration, range_of_several_mappings_moves)
{
	ASSERT_EQ(0, area_protect_part(area, 20, 9, PROT_READ));
	ASSERT_EQ(SOME, to_device(device, area));
	EXPECT_EQ(0, device_wrong(device, area, 1));
	EXPECT_EQ(-EPERM, device_fill_part(device, area, 28, 1, 2));
	EXPECT_EQ(0, device_fill_part(device, area, 29, 1, 2));
	EXPECT_EQ(SOME, held(device, area));
	ASSERT_EQ(0, to_system(device, area));
	EXPECT_EQ(0, cpu_wrong_but(area, 1, 29, 1, 2));
	EXPECT_EQ(SIGSEGV, cpu_try(area_page(area, 20), CPU_WRITE));
	EXPECT_EQ(0, cpu_try(area_page(area, 19), CPU_WRITE));
}

TEST_FILLED(migration, range_beyond_the_mapping_is_refused)
{
	unsigned char *buffer = malloc((SOME + 1) * PAGE);

	EXPECT_EQ(-EINVAL, mirror_call(device, HMM_DMIRROR_MIGRATE_TO_DEV,
				       area->at, SOME + 1, buffer));
	EXPECT_EQ(0, device_wrong(device, area, 1));
	EXPECT_EQ(-EINVAL, mirror_call(device, HMM_DMIRROR_MIGRATE_TO_SYS,
				       area->at, SOME + 1, buffer));
	EXPECT_EQ(0, cpu_wrong(area, 1));
	free(buffer);
}

TEST_FILLED(migration, memory_already_in_place_stays)
{
	ASSERT_EQ(0, ask_to_system(device, area, 0, SOME));
	EXPECT_EQ(0, device->pages);
	ASSERT_EQ(SOME, to_device(device, area));
	ask_to_device(device, area, 0, SOME);
	EXPECT_EQ(SOME, held(device, area));
	EXPECT_EQ(0, device_wrong(device, area, 1));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

struct protector {
	struct area *area;
	atomic_bool over;
};

/* Each change makes the device look up its pages again. */
static void *protect_all_the_time(void *data)
{
	struct protector *p = data;

	while (!p->over) {
		area_protect(p->area, PROT_READ);
		area_protect(p->area, PROT_READ | PROT_WRITE);
	}
	return NULL;
}

TEST_ON_DEVICE(migration, device_memory_is_found_between_invalidations)
{
	struct protector p = { .area = area };
	pthread_t thread;
	unsigned int i;
	int ret = 0;

	ASSERT_EQ(0, pthread_create(&thread, NULL, protect_all_the_time, &p));
	for (i = 0; i < 8 && !ret; i++)
		ret = mirror_call_once(device, HMM_DMIRROR_MIGRATE_TO_DEV,
				       area->at, SOME, area->buffer);
	p.over = true;
	pthread_join(thread, NULL);
	EXPECT_EQ(0, ret);
	EXPECT_EQ(SOME, held(device, area));
	EXPECT_EQ(0, device_wrong(device, area, 1));
}

static int node_of(const void *at)
{
	int node = -1;

	syscall(SYS_get_mempolicy, &node, NULL, 0, at,
		MPOL_F_NODE | MPOL_F_ADDR);
	return node;
}

static int bind_to_node(const struct area *area, int node)
{
	unsigned long mask = 1UL << node;

	return syscall(SYS_mbind, area->at, area_size(area), MPOL_BIND, &mask,
		       8 * sizeof(mask), 0) ? -errno : 0;
}

/* By a command in the first two turns, by a fault of the CPU in the others. */
TEST_MIRROR(migration, memory_returns_to_the_node_of_its_policy)
{
	unsigned int turn;
	size_t i;

	if (bind_to_node(area, 1))
		SKIP(return, "no second node: %s", strerror(errno));
	for (turn = 0; turn < 4; turn++) {
		area_fill(area, turn);
		ASSERT_EQ(SOME, to_device(device, area));
		ASSERT_EQ(0, bind_to_node(area, turn % 2));
		ASSERT_EQ(0, turn / 2 && variant->device < 2 ?
			     cpu_wrong(area, turn) : to_system(device, area));
		for (i = 0; i < SOME; i++)
			EXPECT_EQ((int)turn % 2, node_of(area_page(area, i)));
	}
}

TEST_FILLED(migration, many_round_trips_lose_nothing)
{
	uint64_t random = 1;
	unsigned int i;

	for (i = 0; i < 100; i++) {
		size_t page = race_below(&random, SOME);
		size_t pages = 1 + race_below(&random, SOME - page);

		ASSERT_EQ((long)pages,
			  to_device_part(device, area, page, pages));
		page = race_below(&random, SOME);
		pages = 1 + race_below(&random, SOME - page);
		ASSERT_EQ(0, to_system_part(device, area, page, pages));
		ASSERT_EQ(0, cpu_wrong_part(area, page, pages, 1));
	}
	EXPECT_EQ(0, device_wrong(device, area, 1));
	EXPECT_EQ(0, cpu_wrong(area, 1));
}

TEST_FILLED(migration, locked_memory_stays_locked)
{
	ASSERT_EQ(0, mlock(area->at, SOME * PAGE));
	ASSERT_EQ(SOME, smaps_pages(area->at, "Locked"));
	ASSERT_EQ(SOME, to_device(device, area));
	EXPECT_EQ(0, device_wrong(device, area, 1));
	ASSERT_EQ(0, to_system(device, area));
	EXPECT_EQ(SOME, smaps_pages(area->at, "Locked"));
	EXPECT_EQ(0, cpu_wrong(area, 1));
	EXPECT_EQ(0, munlock(area->at, SOME * PAGE));
	EXPECT_EQ(0, smaps_pages(area->at, "Locked"));
}

TEST_FILLED(migration, unmapped_locked_memory_is_not_counted)
{
	long before = pages_locked();

	ASSERT_EQ(0, mlock(area->at, SOME * PAGE));
	EXPECT_LE(before + SOME, pages_locked());
	ASSERT_EQ(SOME, to_device(device, area));
	ASSERT_EQ(0, munlock(area->at, SOME / 2 * PAGE));
	ASSERT_EQ(0, area_unmap(area));
	EXPECT_TRUE(eventually(pages_locked() <= before));
}

/* Return: the number of pages that are mapped to the same page as the first. */
static long pages_merged(const struct area *area)
{
	uint64_t first = pagemap_entry(area->at);
	long merged = 0;
	size_t i;

	if (!(first & PAGEMAP_PRESENT))
		return 0;
	for (i = 0; i < area->pages; i++)
		merged += !((pagemap_entry(area_page(area, i)) ^ first) &
			    (PAGEMAP_PRESENT | PAGEMAP_PFN));
	return merged;
}

/* ksmd may need more than a minute. */
static bool ksmd_merges(const struct area *area)
{
	unsigned int tries;

	for (tries = 0; tries < 60 * TRIES; tries++) {
		if (pages_merged(area) == (long)area->pages)
			return true;
		race_pause_elsewhere(TRY_AGAIN_MS);
	}
	return false;
}

/* Return: the number of pages that lost the common contents. */
static long unequal(const struct area *area)
{
	long wrong = 0;
	size_t i;

	for (i = 0; i < area->pages; i++)
		wrong += contents_wrong(area_page(area, i), 0, 1, 1);
	return wrong;
}

/* ksmd reads merged pages at any time. The test starts and stops it. */
TEST_MIRROR(migration, merged_pages_stay_in_system_memory)
{
	char was[24];
	bool merged;
	size_t i;

	snprintf(was, sizeof(was), "%ld",
		 race_read_number(RACE_KSM "run", NULL));
	for (i = 0; i < SOME; i++)
		contents_fill(area_page(area, i), 0, 1, 1);
	if (area_advise(area, MADV_MERGEABLE) ||
	    race_write_file(RACE_KSM "run", "1"))
		SKIP(return, "no KSM: %s", strerror(errno));
	merged = ksmd_merges(area);
	race_write_file(RACE_KSM "run", "0");
	EXPECT_TRUE(merged);
	ask_to_device(device, area, 0, SOME);
	EXPECT_EQ(0, held(device, area));
	EXPECT_EQ(SOME, pages_merged(area));
	EXPECT_EQ(0, unequal(area));
	EXPECT_EQ(0, area_advise(area, MADV_UNMERGEABLE));
	EXPECT_EQ(SOME, to_device(device, area));
	EXPECT_EQ(0, unequal(area));
	race_write_file(RACE_KSM "run", was);
}
