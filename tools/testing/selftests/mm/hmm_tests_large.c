// SPDX-License-Identifier: GPL-2.0-only
/*
 * Large folios on the device: a THP moves as a whole, and in single pages where
 * there is no large folio for it. So do folios of other orders, which PTEs map.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/kernel-page-flags.h>
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

/* Looking at memory neither moves nor splits it. */
TEST_MIRROR(large, memory_stays_when_inspected)
{
	unsigned char resident[THP_PAGES];
	struct area thp;
	size_t page;

	SKIP_FOR(map_on_device(device, &thp));
	EXPECT_EQ((long)THP_PAGES, smaps_pages(thp.at, "Rss"));
	EXPECT_EQ((long)THP_PAGES, smaps_pages(thp.at, "Anonymous"));
	EXPECT_EQ((long)THP_PAGES,
		  pagemap_count(&thp, PAGEMAP_PRESENT | PAGEMAP_SWAP));
	ASSERT_EQ(0, mincore(thp.at, area_size(&thp), resident));
	for (page = 0; page < THP_PAGES; page++)
		EXPECT_EQ(1, resident[page] & 1);
	EXPECT_TRUE(whole_on_device(device, &thp));
	EXPECT_EQ(0, cpu_wrong(&thp, 1));
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

/*
 * Other orders, mapped by PTEs.
 */

/* Pages of an area: a number of folios of each order */
#define ORDER_PAGES	64L

static const unsigned int orders[] = { 2, 4 };

#define for_each_order(order)						\
	for (const unsigned int *(order) = orders;			\
	     (order) < orders + ARRAY_SIZE(orders); (order)++)

static const char *order_path(unsigned int order, const char *file)
{
	static char path[128];

	snprintf(path, sizeof(path),
		 "/sys/kernel/mm/transparent_hugepage/hugepages-%zukB/%s",
		 (PAGE << order) >> 10, file);
	return path;
}

/* A counter of the folios of an order, or -1 */
static long order_count(unsigned int order, const char *name)
{
	FILE *file = fopen(order_path(order, name), "r");
	long count = -1;

	if (file && fscanf(file, "%ld", &count) != 1)
		count = -1;
	if (file)
		fclose(file);
	return count;
}

/* Allow folios of an order. Return: what it was before, or NULL on failure. */
static const char *order_allow(unsigned int order, const char *mode)
{
	static char line[80];
	FILE *file = fopen(order_path(order, "enabled"), "r");
	char *was = NULL;

	if (file && fgets(line, sizeof(line), file))
		was = strchr(line, '[');
	if (file)
		fclose(file);
	if (!was || race_write_file(order_path(order, "enabled"), mode))
		return NULL;
	return strtok(was, "[]");
}

/* Map aligned memory in which folios of an order can be, and no larger ones. */
static const char *map_for_order(struct area *part)
{
	if (!thp_bytes)
		return "no THP support";
	if (area_map(part, THP_PAGES))
		return "cannot map memory for large folios";
	munmap(area_page(part, ORDER_PAGES),
	       (THP_PAGES - ORDER_PAGES) * PAGE);
	part->pages = ORDER_PAGES;
	return area_advise(part, MADV_HUGEPAGE) ? "MADV_HUGEPAGE fails" : NULL;
}

/* Number of large folios that are mapped and in system memory, or -1 */
static long folios_in_system(const struct area *part)
{
	int fd = open("/proc/kpageflags", O_RDONLY);
	uint64_t flags, entry;
	long heads = 0;
	size_t i;

	for (i = 0; fd >= 0 && heads >= 0 && i < part->pages; i++) {
		entry = pagemap_entry(area_page(part, i));
		if (!(entry & PAGEMAP_PRESENT))
			continue;
		if (pread(fd, &flags, sizeof(flags), (entry & PAGEMAP_PFN) *
			  sizeof(flags)) != sizeof(flags))
			heads = -1;
		else if (flags & 1 << KPF_COMPOUND_HEAD)
			heads++;
	}
	if (fd >= 0)
		close(fd);
	return fd < 0 ? -1 : heads;
}

static long order_folios(unsigned int order)
{
	return ORDER_PAGES >> order;
}

/* Fill memory with contents 1, in folios of an order. */
static const char *map_order(struct area *part, unsigned int order)
{
	const char *lack = map_for_order(part), *was;

	if (lack)
		return lack;
	was = order_allow(order, "madvise");
	if (!was)
		return "folios of this order cannot be enabled";
	area_fill(part, 1);
	race_write_file(order_path(order, "enabled"), was);
	return folios_in_system(part) == order_folios(order) ?
	       NULL : "no large folios available";
}

static long order_splits(unsigned int order)
{
	return order_count(order, "stats/split");
}

TEST_MIRROR(large, folio_of_any_order_moves_as_a_whole)
{
	struct area part;
	long splits;

	for_each_order(order) {
		SKIP_FOR(map_order(&part, *order));
		splits = order_splits(*order);
		ASSERT_EQ(ORDER_PAGES, to_device(device, &part));
		EXPECT_EQ(0, device_wrong(device, &part, 1));
		ASSERT_EQ(0, device_fill(device, &part, 2));
		ASSERT_EQ(0, to_system(device, &part));
		EXPECT_EQ(order_folios(*order), folios_in_system(&part));
		EXPECT_EQ(splits, order_splits(*order));
		EXPECT_EQ(0, cpu_wrong(&part, 2));
	}
}

/* The CPU reads coherent memory in place. */
TEST_MIRROR(large, one_access_brings_back_a_folio_of_any_order)
{
	struct area part;
	long splits, left;

	for_each_order(order) {
		SKIP_FOR(map_order(&part, *order));
		splits = order_splits(*order);
		ASSERT_EQ(ORDER_PAGES, to_device(device, &part));
		EXPECT_EQ(0, cpu_wrong_part(&part, 3, 1, 1));
		left = ORDER_PAGES - (device->coherent ? 0 : 1L << *order);
		EXPECT_EQ(left, held(device, &part));
		EXPECT_EQ(splits, order_splits(*order));
		EXPECT_EQ(0, cpu_wrong(&part, 1));
		if (!device->coherent)
			EXPECT_EQ(order_folios(*order),
				  folios_in_system(&part));
	}
}

/* One folio moves in pages, and the others whole. */
TEST_MIRROR(large, folio_of_any_order_moves_in_pages)
{
	struct area part;

	for_each_order(order) {
		SKIP_FOR(map_order(&part, *order));
		ASSERT_EQ(0, no_large_folio(device));
		ASSERT_EQ(0, ask_to_device(device, &part, 0, ORDER_PAGES));
		EXPECT_EQ(ORDER_PAGES, held(device, &part));
		EXPECT_EQ(0, device_wrong(device, &part, 1));
		EXPECT_EQ(0, cpu_wrong(&part, 1));
	}
}

TEST_MIRROR(large, folio_of_any_order_returns_in_pages)
{
	struct area part;

	for_each_order(order) {
		SKIP_FOR(map_order(&part, *order));
		ASSERT_EQ(ORDER_PAGES, to_device(device, &part));
		ASSERT_EQ(0, no_large_folio(device));
		ASSERT_EQ(0, ask_to_system(device, &part, 0, ORDER_PAGES));
		EXPECT_EQ(0, held(device, &part));
		EXPECT_EQ(0, cpu_wrong(&part, 1));
	}
}

TEST_MIRROR(large, shared_folio_of_any_order_moves)
{
	struct area part;
	struct peer peer;

	for_each_order(order) {
		SKIP_FOR(map_order(&part, *order));
		ASSERT_LE(0, peer_fork(&peer));
		if (!peer.pid) {
			if (!peer_hear(&peer))
				_exit(1);
			_exit(cpu_wrong(&part, 1) != 0);
		}
		EXPECT_EQ(ORDER_PAGES, to_device(device, &part));
		EXPECT_EQ(0, ask_to_system(device, &part, 0, 20));
		area_fill_part(&part, 7, 3, 2);
		ASSERT_TRUE(peer_tell(&peer));
		EXPECT_EQ(0, peer_end(&peer));
		EXPECT_EQ(0, cpu_wrong_but(&part, 1, 7, 3, 2));
	}
}

/* Folios at addresses that are not aligned, one of them in two page tables */
TEST_MIRROR(large, folio_of_any_order_moves_from_other_addresses)
{
	struct area part, to;
	unsigned char *at;

	for_each_order(order) {
		SKIP_FOR(map_order(&part, *order));
		to = part;
		at = area_reserve(2 * THP_PAGES);
		ASSERT_NE(NULL, at);
		to.at = at + (THP_PAGES - (2L << *order) - 1) * PAGE;
		ASSERT_EQ(0, area_move(&part, &to));
		EXPECT_EQ(ORDER_PAGES, to_device(device, &to));
		EXPECT_EQ(0, device_wrong(device, &to, 1));
		EXPECT_EQ(0, cpu_wrong(&to, 1));
		ASSERT_EQ(ORDER_PAGES, to_device(device, &to));
		EXPECT_EQ(0, to_system(device, &to));
		EXPECT_EQ(0, cpu_wrong(&to, 1));
	}
}

TEST_MIRROR(large, part_of_a_folio_of_any_order_is_unmapped)
{
	struct area part;

	for_each_order(order) {
		SKIP_FOR(map_order(&part, *order));
		ASSERT_EQ(ORDER_PAGES, to_device(device, &part));
		ASSERT_EQ(0, munmap(area_page(&part, ORDER_PAGES - 3),
				    3 * PAGE));
		part.pages -= 3;
		ASSERT_EQ(0, area_advise_part(&part, 1, 2, MADV_DONTNEED));
		EXPECT_EQ(ORDER_PAGES - 5, held(device, &part));
		EXPECT_EQ(0, device_wrong_but(device, &part, 1, 1, 2, 0));
		ASSERT_EQ(0, to_system(device, &part));
		EXPECT_EQ(0, cpu_wrong_but(&part, 1, 1, 2, 0));
	}
}

TEST_MIRROR(large, holes_are_filled_by_folios_of_any_order)
{
	struct area part;
	long folios;

	for_each_order(order) {
		SKIP_FOR(map_for_order(&part));
		folios = order_count(*order, "stats/nr_anon");
		ASSERT_EQ(0, mirror_call_once(device, HMM_DMIRROR_FLAGS, NULL,
					      HMM_DMIRROR_FLAG_HOLE_ORDER(*order),
					      NULL));
		ASSERT_EQ(ORDER_PAGES, to_device(device, &part));
		EXPECT_EQ(folios + order_folios(*order),
			  order_count(*order, "stats/nr_anon"));
		EXPECT_EQ(0, device_wrong(device, &part, 0));
		ASSERT_EQ(0, device_fill_part(device, &part, 5, 2, 1));
		EXPECT_EQ(0, cpu_wrong_but(&part, 0, 5, 2, 1));
		EXPECT_EQ(0, area_unmap(&part));
		EXPECT_TRUE(eventually(folios ==
				       order_count(*order, "stats/nr_anon")));
	}
}

TEST_MIRROR(large, device_gives_up_folios_of_any_order)
{
	struct area part;
	long splits;

	for_each_order(order) {
		SKIP_FOR(map_order(&part, *order));
		splits = order_splits(*order);
		ASSERT_EQ(ORDER_PAGES, to_device(device, &part));
		ASSERT_EQ(0, unplug(device, &part));
		EXPECT_EQ(0, held(device, &part));
		EXPECT_EQ(splits, order_splits(*order));
		EXPECT_EQ(0, cpu_wrong(&part, 1));
	}
}

TEST_MIRROR(large, device_gives_up_folios_of_any_order_in_pages)
{
	struct area part;

	for_each_order(order) {
		SKIP_FOR(map_order(&part, *order));
		ASSERT_EQ(ORDER_PAGES, to_device(device, &part));
		ASSERT_EQ(0, no_large_folio(device));
		ASSERT_EQ(0, unplug(device, &part));
		EXPECT_EQ(0, held(device, &part));
		EXPECT_EQ(0, cpu_wrong(&part, 1));
	}
}

TEST_MIRROR(large, many_threads_bring_back_folios_of_any_order)
{
	struct faulter faulters[FAULTERS];
	struct area part;
	unsigned int i;

	for_each_order(order) {
		SKIP_FOR(map_order(&part, *order));
		ASSERT_EQ(ORDER_PAGES, to_device(device, &part));
		for (i = 0; i < FAULTERS; i++) {
			faulters[i].thp = &part;
			faulters[i].page = i;
			ASSERT_EQ(0, pthread_create(&faulters[i].thread, NULL,
						    faulter_run,
						    &faulters[i]));
		}
		for (i = 0; i < FAULTERS; i++) {
			ASSERT_EQ(0, pthread_join(faulters[i].thread, NULL));
			EXPECT_EQ(0, faulters[i].wrong);
		}
		EXPECT_EQ(0, cpu_wrong(&part, 1));
	}
}
