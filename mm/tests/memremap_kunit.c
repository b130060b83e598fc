// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit tests of mm/memremap.c.
 *
 * The physical addresses come from request_free_mem_region(), also for the
 * types of memory that CPUs can access. There is no memory at these addresses,
 * but the tests access struct pages only.
 *
 * A removal that must wait runs in a thread. If it does not finish, the test
 * does not free what the thread uses.
 */
#include <kunit/device.h>
#include <kunit/test.h>
#include <linux/bitmap.h>
#include <linux/debugfs.h>
#include <linux/delay.h>
#include <linux/fault-inject.h>
#include <linux/ioport.h>
#include <linux/kmsg_dump.h>
#include <linux/kthread.h>
#include <linux/memblock.h>
#include <linux/memcontrol.h>
#include <linux/memory_hotplug.h>
#include <linux/memremap.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/prandom.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include <linux/vmstat.h>
#ifdef CONFIG_X86_64
#include <asm/pgtable_types.h>
#endif

#include "../internal.h"
#include "kunit_device.h"

#define SECTION		BIT_ULL(SECTION_SIZE_BITS)
/* Room for three PMDs at an aligned address, which matters with large pages */
#define REGION_SIZE	max_t(u64, 2 * SECTION, 4 * (u64)PMD_SIZE)
#define MAX_RANGES	3
/* A subsection, or more where pagemaps must not share a page of their maps */
#define SUB		((u64)KUNIT_DEVICE_UNIT)

/* A removal that fails to wait ends in less. Longer is only more likely. */
#define WAITS		msecs_to_jiffies(300)
/* A guard against a hang. A virtual CPU may not run for a while. */
#define FINISHES	(120 * HZ)

struct memremap_test {
	struct kunit *test;
	struct resource *res;
	u64 base;
	atomic_t nr_freed;
	int count_in_free;
	bool by_folio;
	struct dev_pagemap *pgmap;
	void *data;	/* of a group of tests */
};

/* A pagemap with room for MAX_RANGES, and its test */
struct test_pgmap {
	struct memremap_test *t;
	struct dev_pagemap pgmap;
	struct range more[MAX_RANGES - 1];
};

static struct memremap_test *pgmap_test(struct dev_pagemap *pgmap)
{
	return container_of(pgmap, struct test_pgmap, pgmap)->t;
}

static void count_free(struct page *page, bool by_folio)
{
	struct memremap_test *t = pgmap_test(page_pgmap(page));

	t->count_in_free = page_ref_count(page);
	t->by_folio = by_folio;
	atomic_inc(&t->nr_freed);
}

static void test_page_free(struct page *page)
{
	count_free(page, false);
}

static void test_folio_free(struct folio *folio)
{
	count_free(&folio->page, true);
}

static vm_fault_t test_migrate_to_ram(struct vm_fault *vmf)
{
	return VM_FAULT_SIGBUS;
}

static const struct dev_pagemap_ops page_ops = {
	.page_free = test_page_free,
	.migrate_to_ram = test_migrate_to_ram,
};

static const struct dev_pagemap_ops folio_ops = {
	.folio_free = test_folio_free,
	.migrate_to_ram = test_migrate_to_ram,
};

static const struct dev_pagemap_ops both_ops = {
	.page_free = test_page_free,
	.folio_free = test_folio_free,
	.migrate_to_ram = test_migrate_to_ram,
};

static const struct dev_pagemap_ops no_free_ops = {
	.migrate_to_ram = test_migrate_to_ram,
};

static const struct dev_pagemap_ops no_migrate_ops = {
	.page_free = test_page_free,
};

static struct dev_pagemap *new_pgmap(struct memremap_test *t,
				     enum memory_type type)
{
	struct test_pgmap *tp = kzalloc(sizeof(*tp), GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(t->test, tp);
	tp->t = t;
	tp->pgmap.type = type;
	if (type != MEMORY_DEVICE_GENERIC && type != MEMORY_DEVICE_FS_DAX)
		tp->pgmap.ops = &page_ops;
	tp->pgmap.owner = t;
	tp->pgmap.nr_range = 1;
	tp->pgmap.range.start = t->base;
	tp->pgmap.range.end = t->base + SUB - 1;
	return &tp->pgmap;
}

static void free_pgmap(struct dev_pagemap *pgmap)
{
	kfree(container_of(pgmap, struct test_pgmap, pgmap));
}

static void set_range(struct dev_pagemap *pgmap, int i, u64 start, u64 size)
{
	pgmap->ranges[i].start = start;
	pgmap->ranges[i].end = start + size - 1;
	pgmap->nr_range = max(pgmap->nr_range, i + 1);
}

static unsigned long first_pfn(struct dev_pagemap *pgmap, int i)
{
	return PHYS_PFN(pgmap->ranges[i].start);
}

static unsigned long last_pfn(struct dev_pagemap *pgmap, int i)
{
	return PHYS_PFN(pgmap->ranges[i].end);
}

static void must_map(struct memremap_test *t, struct dev_pagemap *pgmap)
{
	void *addr = memremap_pages(pgmap, NUMA_NO_NODE);

	KUNIT_ASSERT_FALSE_MSG(t->test, IS_ERR(addr), "memremap_pages: %ld",
			       PTR_ERR(addr));
	KUNIT_EXPECT_PTR_EQ(t->test, addr, __va(pgmap->ranges[0].start));
}

#ifdef CONFIG_X86_64
static bool in_linear_mapping(u64 phys)
{
	unsigned int level;
	pte_t *pte = lookup_address((unsigned long)__va(phys), &level);

	return pte && !pte_none(*pte);
}
#else
static bool in_linear_mapping(u64 phys)
{
	return false;
}
#endif

static void expect_pfn_gone(struct memremap_test *t, unsigned long pfn)
{
	KUNIT_EXPECT_FALSE(t->test, pfn_is_device_memory(pfn));
	KUNIT_EXPECT_NULL(t->test, get_dev_pagemap(pfn, NULL));
	KUNIT_EXPECT_FALSE(t->test, pfn_valid(pfn));
	KUNIT_EXPECT_FALSE(t->test, in_linear_mapping(PFN_PHYS(pfn)));
}

/* Nothing is left in the region, and all of it can be plugged in. */
static void expect_nothing_left(struct memremap_test *t)
{
	struct dev_pagemap *pgmap;
	u64 at;

	for (at = t->base; at < t->base + REGION_SIZE; at += SUB)
		expect_pfn_gone(t, PHYS_PFN(at));

	pgmap = new_pgmap(t, MEMORY_DEVICE_GENERIC);
	set_range(pgmap, 0, t->base, REGION_SIZE);
	must_map(t, pgmap);
	memunmap_pages(pgmap);
	free_pgmap(pgmap);
}

static void remove_pgmap(struct memremap_test *t, struct dev_pagemap *pgmap)
{
	memunmap_pages(pgmap);
	free_pgmap(pgmap);
	expect_nothing_left(t);
}

/* ---- messages in the log ---- */

static unsigned int log_mark;

static void mark_log(void)
{
	pr_info("memremap_kunit: mark %u\n", ++log_mark);
}

/* Return: lines of memremap since the mark; @matches: those with @word. */
static int count_log(const char *word, int *matches)
{
	struct kmsg_dump_iter iter;
	char mark[40], line[256];
	bool marked = false;
	int lines = 0;
	size_t len;

	snprintf(mark, sizeof(mark), "memremap_kunit: mark %u", log_mark);
	*matches = 0;
	kmsg_dump_rewind(&iter);
	while (kmsg_dump_get_line(&iter, false, line, sizeof(line) - 1, &len)) {
		line[len] = '\0';
		if (!marked) {
			marked = strstr(line, mark);
		} else if (strstr(line, "memremap: ")) {
			lines++;
			*matches += !!strstr(line, word);
		}
	}
	return marked ? lines : -1;
}

static void expect_one_line(struct memremap_test *t, const char *word)
{
	int matches, lines = count_log(word, &matches);

	KUNIT_EXPECT_EQ(t->test, lines, 1);
	KUNIT_EXPECT_EQ_MSG(t->test, matches, 1, "no line with '%s'", word);
}

static void expect_no_line(struct memremap_test *t)
{
	int matches;

	KUNIT_EXPECT_EQ(t->test, count_log("", &matches), 0);
}

/* ---- removal in a thread ---- */

struct removal {
	struct dev_pagemap *pgmap;
	struct completion done;
};

static int remove_thread(void *data)
{
	struct removal *removal = data;

	memunmap_pages(removal->pgmap);
	complete(&removal->done);
	return 0;
}

static struct removal *start_removal(struct memremap_test *t,
				     struct dev_pagemap *pgmap)
{
	struct removal *removal = kzalloc(sizeof(*removal), GFP_KERNEL);
	struct task_struct *task;

	KUNIT_ASSERT_NOT_NULL(t->test, removal);
	removal->pgmap = pgmap;
	init_completion(&removal->done);
	task = kthread_run(remove_thread, removal, "memremap_kunit");
	KUNIT_ASSERT_FALSE(t->test, IS_ERR(task));
	return removal;
}

static void expect_waits(struct memremap_test *t, struct removal *removal)
{
	KUNIT_EXPECT_EQ_MSG(t->test,
			    wait_for_completion_timeout(&removal->done, WAITS),
			    0, "removed under a user");
}

static void expect_finishes(struct memremap_test *t, struct removal *removal)
{
	unsigned long left;

	left = wait_for_completion_timeout(&removal->done, FINISHES);
	KUNIT_ASSERT_NE_MSG(t->test, left, 0UL, "removal hangs");
	kfree(removal);
}

static void remove_in_thread(struct memremap_test *t,
			     struct dev_pagemap *pgmap)
{
	expect_finishes(t, start_removal(t, pgmap));
	free_pgmap(pgmap);
}

/* ---- life of a pagemap, for each type ---- */

static const enum memory_type all_types[] = {
	MEMORY_DEVICE_PRIVATE,
	MEMORY_DEVICE_COHERENT,
	MEMORY_DEVICE_FS_DAX,
	MEMORY_DEVICE_GENERIC,
	MEMORY_DEVICE_PCI_P2PDMA,
};

static void type_to_desc(const enum memory_type *type, char *desc)
{
	static const char * const names[] = {
		"?", "private", "coherent", "fs-dax", "generic", "p2pdma",
	};

	strscpy(desc, names[*type], KUNIT_PARAM_DESC_SIZE);
}

KUNIT_ARRAY_PARAM(type, all_types, type_to_desc);

/* for slow tests: one type for each way to count references */
static const enum memory_type two_types[] = {
	MEMORY_DEVICE_PRIVATE,
	MEMORY_DEVICE_GENERIC,
};

KUNIT_ARRAY_PARAM(two_type, two_types, type_to_desc);

/* A pagemap of the type that the case is for */
static struct dev_pagemap *param_pgmap(struct kunit *test)
{
	const enum memory_type *type = test->param_value;

	return new_pgmap(test->priv, *type);
}

static bool counts_from_zero(enum memory_type type)
{
	return type == MEMORY_DEVICE_PRIVATE || type == MEMORY_DEVICE_COHERENT;
}

static void expect_live_page(struct memremap_test *t,
			     struct dev_pagemap *pgmap, unsigned long pfn)
{
	struct page *page = pfn_to_page(pfn);
	struct dev_pagemap *found;

	KUNIT_ASSERT_TRUE(t->test, pfn_valid(pfn));
	KUNIT_EXPECT_TRUE(t->test, is_zone_device_page(page));
	KUNIT_EXPECT_PTR_EQ(t->test, page_pgmap(page), pgmap);
	KUNIT_EXPECT_EQ(t->test, page_ref_count(page),
			counts_from_zero(pgmap->type) ? 0 : 1);
	KUNIT_EXPECT_TRUE(t->test, pfn_is_device_memory(pfn));
	KUNIT_EXPECT_TRUE(t->test, pgmap_pfn_valid(pgmap, pfn));
	KUNIT_EXPECT_NULL(t->test, pfn_to_online_page(pfn));

	found = get_dev_pagemap(pfn, NULL);
	KUNIT_EXPECT_PTR_EQ(t->test, found, pgmap);
	put_dev_pagemap(found);
}

static void pagemap_is_live_until_removed(struct kunit *test)
{
	struct memremap_test *t = test->priv;
	enum memory_type type = *(const enum memory_type *)test->param_value;
	struct dev_pagemap *pgmap = param_pgmap(test);
	unsigned long pfn;

	mark_log();
	set_range(pgmap, 0, t->base, 3 * SUB);
	must_map(t, pgmap);
	for (pfn = first_pfn(pgmap, 0); pfn <= last_pfn(pgmap, 0);
	     pfn += PAGES_PER_SUBSECTION / 2 - 1)
		expect_live_page(t, pgmap, pfn);
	expect_live_page(t, pgmap, last_pfn(pgmap, 0));
	KUNIT_EXPECT_FALSE(test,
			   pgmap_pfn_valid(pgmap, first_pfn(pgmap, 0) - 1));
	KUNIT_EXPECT_FALSE(test,
			   pgmap_pfn_valid(pgmap, last_pfn(pgmap, 0) + 1));
	KUNIT_EXPECT_NULL(test, get_dev_pagemap(last_pfn(pgmap, 0) + 1, NULL));

	pfn = first_pfn(pgmap, 0);
	KUNIT_EXPECT_EQ(test, is_device_private_page(pfn_to_page(pfn)),
			type == MEMORY_DEVICE_PRIVATE);
	KUNIT_EXPECT_EQ(test, is_device_coherent_page(pfn_to_page(pfn)),
			type == MEMORY_DEVICE_COHERENT);
	KUNIT_EXPECT_EQ(test, in_linear_mapping(t->base),
			IS_ENABLED(CONFIG_X86_64) &&
			type != MEMORY_DEVICE_PRIVATE);

	memunmap_pages(pgmap);
	expect_no_line(t);
	free_pgmap(pgmap);
	expect_nothing_left(t);
}

/* Is the struct page as if it had never been used? */
static bool page_is_pristine(const struct page *page, int nid, int count)
{
	return page_zonenum(page) == ZONE_DEVICE && page_to_nid(page) == nid &&
	       PageReserved(page) && !PageLocked(page) && !PageLRU(page) &&
	       page_ref_count(page) == count &&
	       atomic_read(&page->_mapcount) == -1 &&
	       !page->mapping && !page->index && !page->private;
}

static bool free_page_is_pristine(const struct page *page,
				  struct dev_pagemap *pgmap, int nid)
{
	int count = counts_from_zero(pgmap->type) ? 0 : 1;

	return page_is_pristine(page, nid, count) && !PageCompound(page) &&
	       page->pgmap == pgmap && !page->zone_device_data;
}

/* The second range crosses the end of a section. */
static void every_page_is_initialized(struct kunit *test)
{
	struct memremap_test *t = test->priv;
	struct dev_pagemap *pgmap = param_pgmap(test);
	unsigned long pfn, wrong = 0;

	set_range(pgmap, 0, t->base, SUB);
	set_range(pgmap, 1, t->base + SECTION - SUB, 2 * SUB);
	must_map(t, pgmap);
	for (pfn = first_pfn(pgmap, 0); pfn <= last_pfn(pgmap, 0); pfn++)
		wrong += !free_page_is_pristine(pfn_to_page(pfn), pgmap,
						numa_mem_id());
	for (pfn = first_pfn(pgmap, 1); pfn <= last_pfn(pgmap, 1); pfn++)
		wrong += !free_page_is_pristine(pfn_to_page(pfn), pgmap,
						numa_mem_id());
	KUNIT_EXPECT_EQ(test, wrong, 0UL);
	remove_pgmap(t, pgmap);
}

static bool tail_is_pristine(struct page *page, struct page *head)
{
	return PageTail(page) && compound_head(page) == head &&
	       page_zonenum(page) == ZONE_DEVICE && PageReserved(page) &&
	       !page_ref_count(page) && atomic_read(&page->_mapcount) == -1;
}

static void every_tail_page_is_initialized(struct kunit *test)
{
	struct memremap_test *t = test->priv;
	struct dev_pagemap *pgmap = new_pgmap(t, MEMORY_DEVICE_GENERIC);
	struct list_head *list;
	unsigned long pfn, i, wrong = 0;

	pgmap->vmemmap_shift = ilog2(PAGES_PER_SUBSECTION);
	set_range(pgmap, 0, t->base + SECTION - SUB, 2 * SUB);
	must_map(t, pgmap);
	for (pfn = first_pfn(pgmap, 0); pfn < last_pfn(pgmap, 0);
	     pfn += PAGES_PER_SUBSECTION) {
		struct page *head = pfn_to_page(pfn);

		KUNIT_EXPECT_TRUE(test, PageHead(head));
		KUNIT_EXPECT_EQ(test, page_ref_count(head), 1);
		KUNIT_EXPECT_EQ(test, compound_order(head),
				pgmap->vmemmap_shift);
		list = &page_folio(head)->_deferred_list;
		KUNIT_EXPECT_TRUE(test, list_empty(list));
		for (i = 1; i < PAGES_PER_SUBSECTION; i++)
			wrong += !tail_is_pristine(head + i, head);
	}
	KUNIT_EXPECT_EQ(test, wrong, 0UL);
	remove_pgmap(t, pgmap);
}

/* As by a driver that is unbound and bound */
static void pagemap_is_mapped_again(struct kunit *test)
{
	struct memremap_test *t = test->priv;
	struct dev_pagemap *pgmap = new_pgmap(t, MEMORY_DEVICE_COHERENT);
	int i;

	for (i = 0; i < 20; i++) {
		must_map(t, pgmap);
		expect_live_page(t, pgmap, last_pfn(pgmap, 0));
		memunmap_pages(pgmap);
		expect_pfn_gone(t, last_pfn(pgmap, 0));
	}
	free_pgmap(pgmap);
}

static void pagemap_has_several_ranges(struct kunit *test)
{
	struct memremap_test *t = test->priv;
	struct dev_pagemap *pgmap = new_pgmap(t, MEMORY_DEVICE_PRIVATE);
	struct dev_pagemap *found;
	struct removal *removal;
	unsigned long pfn;
	int i;

	set_range(pgmap, 0, t->base + SECTION, 2 * SUB);
	set_range(pgmap, 1, t->base, SUB);
	set_range(pgmap, 2, t->base + 5 * SUB, SUB);
	must_map(t, pgmap);
	KUNIT_EXPECT_EQ(test, pgmap->nr_range, 3);

	/* one reference, carried over all ranges and back */
	found = NULL;
	for (i = 0; i < 3; i++) {
		expect_live_page(t, pgmap, first_pfn(pgmap, i));
		expect_live_page(t, pgmap, last_pfn(pgmap, i));
		found = get_dev_pagemap(last_pfn(pgmap, i), found);
		KUNIT_EXPECT_PTR_EQ(test, found, pgmap);
	}
	found = get_dev_pagemap(first_pfn(pgmap, 0), found);
	KUNIT_EXPECT_PTR_EQ(test, found, pgmap);

	for (i = 0; i < 3; i++) {
		pfn = last_pfn(pgmap, i) + 1;
		KUNIT_EXPECT_FALSE(test, pgmap_pfn_valid(pgmap, pfn));
		KUNIT_EXPECT_FALSE(test, pfn_is_device_memory(pfn));
	}

	removal = start_removal(t, pgmap);
	expect_waits(t, removal);
	/* a caller with a reference still finds the pagemap in each range */
	for (i = 0; i < 3; i++) {
		pfn = first_pfn(pgmap, i);
		found = get_dev_pagemap(pfn, found);
		KUNIT_EXPECT_PTR_EQ(test, found, pgmap);
		KUNIT_EXPECT_NULL(test, get_dev_pagemap(pfn, NULL));
		KUNIT_EXPECT_TRUE(test, pfn_is_device_memory(pfn));
	}
	put_dev_pagemap(found);
	expect_finishes(t, removal);
	free_pgmap(pgmap);
	expect_nothing_left(t);
}

/* A cached pagemap that does not cover the pfn loses its reference. */
static void cached_pagemap_of_other_range_is_released(struct kunit *test)
{
	struct memremap_test *t = test->priv;
	struct dev_pagemap *a = new_pgmap(t, MEMORY_DEVICE_GENERIC);
	struct dev_pagemap *b = new_pgmap(t, MEMORY_DEVICE_PRIVATE);
	struct dev_pagemap *found;

	set_range(b, 0, t->base + SUB, SUB);
	must_map(t, a);
	must_map(t, b);

	found = get_dev_pagemap(first_pfn(a, 0), NULL);
	KUNIT_EXPECT_PTR_EQ(test, found, a);
	found = get_dev_pagemap(first_pfn(b, 0), found);
	KUNIT_EXPECT_PTR_EQ(test, found, b);
	expect_finishes(t, start_removal(t, a));
	KUNIT_EXPECT_NULL(test, get_dev_pagemap(first_pfn(a, 0), found));
	expect_finishes(t, start_removal(t, b));
	free_pgmap(a);
	free_pgmap(b);
}

/* Pagemaps in one section come and go one by one. */
static void subsections_are_independent(struct kunit *test)
{
	struct memremap_test *t = test->priv;
	struct dev_pagemap *pgmap[4];
	int i;

	for (i = 0; i < 4; i++) {
		pgmap[i] = new_pgmap(t, i & 1 ? MEMORY_DEVICE_GENERIC :
						MEMORY_DEVICE_PRIVATE);
		set_range(pgmap[i], 0, t->base + i * SUB, SUB);
		must_map(t, pgmap[i]);
	}
	memunmap_pages(pgmap[1]);
	expect_pfn_gone(t, first_pfn(pgmap[1], 0));
	expect_pfn_gone(t, last_pfn(pgmap[1], 0));
	expect_live_page(t, pgmap[0], last_pfn(pgmap[0], 0));
	expect_live_page(t, pgmap[2], first_pfn(pgmap[2], 0));

	must_map(t, pgmap[1]);
	for (i = 0; i < 4; i++) {
		expect_live_page(t, pgmap[i], first_pfn(pgmap[i], 0));
		expect_live_page(t, pgmap[i], last_pfn(pgmap[i], 0));
	}
	for (i = 3; i >= 0; i--) {
		memunmap_pages(pgmap[i]);
		free_pgmap(pgmap[i]);
	}
	expect_nothing_left(t);
}

static void pagemap_has_compound_pages(struct kunit *test)
{
	struct memremap_test *t = test->priv;
	struct dev_pagemap *pgmap = new_pgmap(t, MEMORY_DEVICE_GENERIC);
	struct removal *removal;
	struct folio *folio;
	unsigned long pfn;

	pgmap->vmemmap_shift = ilog2(PAGES_PER_SUBSECTION);
	set_range(pgmap, 0, t->base, 3 * SUB);
	set_range(pgmap, 1, t->base + SECTION, SUB);
	must_map(t, pgmap);
	for (pfn = first_pfn(pgmap, 0); pfn <= last_pfn(pgmap, 0);
	     pfn += PAGES_PER_SUBSECTION / 8) {
		folio = pfn_folio(pfn);
		KUNIT_EXPECT_EQ(test, folio_order(folio), pgmap->vmemmap_shift);
		KUNIT_EXPECT_EQ(test, folio_pfn(folio),
				round_down(pfn, PAGES_PER_SUBSECTION));
		KUNIT_EXPECT_EQ(test, folio_ref_count(folio), 1);
		KUNIT_EXPECT_PTR_EQ(test, page_pgmap(pfn_to_page(pfn)), pgmap);
		KUNIT_EXPECT_TRUE(test,
				  page_is_device_type(pfn_to_page(pfn),
						      MEMORY_DEVICE_GENERIC));
	}

	pfn = last_pfn(pgmap, 1) - 3;
	folio_get(pfn_folio(pfn));
	removal = start_removal(t, pgmap);
	expect_waits(t, removal);
	put_page(pfn_to_page(pfn));
	expect_finishes(t, removal);
	free_pgmap(pgmap);
	expect_nothing_left(t);
}

/* As with device DAX, whose last page of 1 GiB may be partial */
static void last_compound_page_may_be_partial(struct kunit *test)
{
	struct memremap_test *t = test->priv;
	struct dev_pagemap *pgmap = new_pgmap(t, MEMORY_DEVICE_GENERIC);
	struct folio *folio;

	set_range(pgmap, 0, t->base, SECTION);
	pgmap->vmemmap_shift = PUD_SHIFT - PAGE_SHIFT;
	must_map(t, pgmap);
	folio = pfn_folio(first_pfn(pgmap, 0));
	KUNIT_EXPECT_EQ(test, folio_order(folio), pgmap->vmemmap_shift);
	KUNIT_EXPECT_EQ(test, folio_ref_count(folio), 1);
	KUNIT_EXPECT_PTR_EQ(test, folio_page(folio, 0)->pgmap, pgmap);
	KUNIT_EXPECT_TRUE(test, PageTail(folio_page(folio, 77)));
	remove_in_thread(t, pgmap);
	expect_nothing_left(t);
}

/* ---- invalid pagemaps ---- */

struct bad_case {
	const char *name;
	enum memory_type type;
	int error;
	const char *says;
	void (*spoil)(struct memremap_test *t, struct dev_pagemap *pgmap);
};

static u64 behind_pluggable(bool need_mapping)
{
	return mhp_get_pluggable_range(need_mapping).end + 1;
}

/* A function that makes one change to a valid pagemap */
#define SPOIL(name, change)						\
static void name(struct memremap_test *t, struct dev_pagemap *pgmap)	\
{									\
	change;								\
}

SPOIL(no_owner, pgmap->owner = NULL)
SPOIL(no_ops, pgmap->ops = NULL)
SPOIL(no_free, pgmap->ops = &no_free_ops)
SPOIL(no_migrate, pgmap->ops = &no_migrate_ops)
SPOIL(no_type, pgmap->type = 0)
SPOIL(next_type, pgmap->type = MEMORY_DEVICE_PCI_P2PDMA + 1)
SPOIL(negative_type, pgmap->type = -1)
SPOIL(bad_flags, pgmap->flags = BIT(7))
SPOIL(no_ranges, pgmap->nr_range = 0)
SPOIL(negative_ranges, pgmap->nr_range = -1)
SPOIL(absurd_ranges, pgmap->nr_range = INT_MAX)
SPOIL(empty_range, pgmap->range.end = pgmap->range.start - 1)
SPOIL(empty_second, set_range(pgmap, 1, t->base + SECTION / 2, 0))
SPOIL(range_wraps, set_range(pgmap, 0, t->base, -t->base + SUB))
SPOIL(range_is_all, pgmap->range.end = U64_MAX)
SPOIL(range_too_high, set_range(pgmap, 0, behind_pluggable(true), SUB))
SPOIL(range_too_long, pgmap->range.end = behind_pluggable(false) + SUB - 1)
SPOIL(start_is_off, pgmap->range.start += PAGE_SIZE)
SPOIL(end_is_off, pgmap->range.end -= PAGE_SIZE)
SPOIL(range_is_ram, set_range(pgmap, 0, round_down(__pa(t), SUB), SUB))
SPOIL(second_is_ram, set_range(pgmap, 1, round_down(__pa(t), SUB), SUB))
SPOIL(shift_too_large, pgmap->vmemmap_shift = ilog2(MAX_FOLIO_NR_PAGES) + 1)
SPOIL(shift_is_absurd, pgmap->vmemmap_shift = BITS_PER_LONG)
SPOIL(shift_of_private, pgmap->vmemmap_shift = 2)

static void part_of_compound(struct memremap_test *t, struct dev_pagemap *pgmap)
{
	pgmap->vmemmap_shift = ilog2(PHYS_PFN(SUB)) + 1;
	set_range(pgmap, 0, t->base, 3 * SUB);
}

static void twice_the_same(struct memremap_test *t, struct dev_pagemap *pgmap)
{
	set_range(pgmap, 1, t->base + SECTION / 2, SUB);
	set_range(pgmap, 2, t->base, SUB);
}

static void range_in_range(struct memremap_test *t, struct dev_pagemap *pgmap)
{
	set_range(pgmap, 0, t->base + 2 * SUB, SUB);
	set_range(pgmap, 1, t->base, 8 * SUB);
}

static void set_altmap(struct dev_pagemap *pgmap, unsigned long base_pfn,
		       unsigned long reserve, unsigned long nr_free)
{
	struct vmem_altmap altmap = {
		.base_pfn = base_pfn,
		.reserve = reserve,
		.free = nr_free,
		.end_pfn = base_pfn + reserve + nr_free - 1,
	};

	memcpy(&pgmap->altmap, &altmap, sizeof(altmap));
	pgmap->flags |= PGMAP_ALTMAP_VALID;
}

SPOIL(altmap_elsewhere, set_altmap(pgmap, first_pfn(pgmap, 0) + 1, 0, 8))
SPOIL(altmap_wraps, set_altmap(pgmap, first_pfn(pgmap, 0), 8, ULONG_MAX - 4))
SPOIL(altmap_of_private, set_altmap(pgmap, first_pfn(pgmap, 0), 0, 8))

static void altmap_takes_all(struct memremap_test *t,
			     struct dev_pagemap *pgmap)
{
	set_altmap(pgmap, first_pfn(pgmap, 0), 8, PHYS_PFN(SUB) - 8);
}

static void altmap_of_two(struct memremap_test *t, struct dev_pagemap *pgmap)
{
	set_altmap(pgmap, first_pfn(pgmap, 0), 0, 8);
	set_range(pgmap, 1, t->base + SECTION / 2, SUB);
}

static void altmap_too_small(struct memremap_test *t, struct dev_pagemap *pgmap)
{
	/* less than a section does without its altmap on some architectures */
	set_range(pgmap, 0, t->base, SECTION);
	set_altmap(pgmap, first_pfn(pgmap, 0), 0, 1);
}

#define PRIVATE		MEMORY_DEVICE_PRIVATE
#define COHERENT	MEMORY_DEVICE_COHERENT
#define FS_DAX		MEMORY_DEVICE_FS_DAX
#define GENERIC		MEMORY_DEVICE_GENERIC
#define P2PDMA		MEMORY_DEVICE_PCI_P2PDMA

static const struct bad_case bad_cases[] = {
	{ "private_no_owner", PRIVATE, -EINVAL, "owner", no_owner },
	{ "coherent_no_owner", COHERENT, -EINVAL, "owner", no_owner },
	{ "private_no_ops", PRIVATE, -EINVAL, "folio_free", no_ops },
	{ "coherent_no_ops", COHERENT, -EINVAL, "folio_free", no_ops },
	{ "p2pdma_no_ops", P2PDMA, -EINVAL, "folio_free", no_ops },
	{ "private_no_free", PRIVATE, -EINVAL, "folio_free", no_free },
	{ "coherent_no_free", COHERENT, -EINVAL, "folio_free", no_free },
	{ "p2pdma_no_free", P2PDMA, -EINVAL, "folio_free", no_free },
	{ "private_no_migrate", PRIVATE, -EINVAL,
	  "migrate_to_ram", no_migrate },
	{ "no_type", GENERIC, -EINVAL, "type", no_type },
	{ "next_type", GENERIC, -EINVAL, "type", next_type },
	{ "negative_type", GENERIC, -EINVAL, "type", negative_type },
	{ "bad_flags", GENERIC, -EINVAL, "flags", bad_flags },
	{ "no_ranges", GENERIC, -EINVAL, "number of ranges", no_ranges },
	{ "negative_ranges", GENERIC, -EINVAL,
	  "number of ranges", negative_ranges },
	{ "absurd_ranges", FS_DAX, -EINVAL, "number of ranges", absurd_ranges },
	{ "empty_range", FS_DAX, -EINVAL, "empty", empty_range },
	{ "empty_second", PRIVATE, -EINVAL, "empty", empty_second },
	{ "range_wraps", GENERIC, -EINVAL, "wraps", range_wraps },
	{ "range_is_all", GENERIC, -EINVAL, "exceeds", range_is_all },
	{ "range_too_high", GENERIC, -EINVAL, "exceeds", range_too_high },
	{ "range_too_long", PRIVATE, -EINVAL, "exceeds", range_too_long },
	{ "start_is_off", GENERIC, -EINVAL, "subsections", start_is_off },
	{ "end_is_off", PRIVATE, -EINVAL, "subsections", end_is_off },
	{ "range_is_ram", GENERIC, -ENXIO, "System RAM", range_is_ram },
	{ "private_is_ram", PRIVATE, -ENXIO, "System RAM", range_is_ram },
	{ "second_is_ram", COHERENT, -ENXIO, "System RAM", second_is_ram },
	{ "shift_too_large", GENERIC, -EINVAL,
	  "vmemmap_shift", shift_too_large },
	{ "shift_is_absurd", GENERIC, -EINVAL,
	  "vmemmap_shift", shift_is_absurd },
	{ "shift_of_private", PRIVATE, -EINVAL,
	  "vmemmap_shift", shift_of_private },
	{ "shift_of_coherent", COHERENT, -EINVAL,
	  "vmemmap_shift", shift_of_private },
	{ "part_of_compound", GENERIC, -EINVAL, "compound", part_of_compound },
	{ "twice_the_same", PRIVATE, -EBUSY,
	  "another one of the pagemap", twice_the_same },
	{ "range_in_range", GENERIC, -EBUSY,
	  "another one of the pagemap", range_in_range },
	{ "altmap_elsewhere", FS_DAX, -EINVAL, "altmap", altmap_elsewhere },
	{ "altmap_takes_all", FS_DAX, -EINVAL, "altmap", altmap_takes_all },
	{ "altmap_wraps", FS_DAX, -EINVAL, "altmap", altmap_wraps },
	{ "altmap_of_private", PRIVATE, -EINVAL,
	  "memory map", altmap_of_private },
	{ "altmap_of_two", GENERIC, -EINVAL, "altmap", altmap_of_two },
	{ "altmap_too_small", GENERIC, -ENOMEM,
	  "plugged in", altmap_too_small },
};

KUNIT_ARRAY_PARAM_DESC(bad, bad_cases, name);

static void invalid_pagemap_is_refused(struct kunit *test)
{
	const struct bad_case *bad = test->param_value;
	struct memremap_test *t = test->priv;
	struct dev_pagemap *pgmap = new_pgmap(t, bad->type);
	struct test_pgmap before;
	void *addr;

	bad->spoil(t, pgmap);
	if (bad->spoil == part_of_compound &&
	    !vmemmap_can_optimize(NULL, pgmap)) {
		free_pgmap(pgmap);
		kunit_skip(test, "tail pages do not share their memory map");
	}
	memcpy(&before, container_of(pgmap, struct test_pgmap, pgmap),
	       sizeof(before));
	mark_log();
	addr = memremap_pages(pgmap, NUMA_NO_NODE);
	KUNIT_EXPECT_EQ(test, PTR_ERR_OR_ZERO(addr), bad->error);
	if (!IS_ERR(addr))
		memunmap_pages(pgmap);
	expect_one_line(t, bad->says);
	KUNIT_EXPECT_EQ(test, pgmap->nr_range, before.pgmap.nr_range);
	KUNIT_EXPECT_MEMEQ(test, &pgmap->altmap, &before.pgmap.altmap,
			   sizeof(pgmap->altmap));
	KUNIT_EXPECT_MEMEQ(test, &pgmap->range, &before.pgmap.range,
			   sizeof(struct range) * MAX_RANGES);
	free_pgmap(pgmap);
	expect_nothing_left(t);
}

static void invalid_node_is_refused(struct kunit *test)
{
	struct memremap_test *t = test->priv;
	struct dev_pagemap *pgmap = new_pgmap(t, MEMORY_DEVICE_GENERIC);
	void *addr;

	mark_log();
	addr = memremap_pages(pgmap, MAX_NUMNODES);
	KUNIT_EXPECT_EQ(test, PTR_ERR_OR_ZERO(addr), -EINVAL);
	expect_one_line(t, "no such node");
	free_pgmap(pgmap);
	expect_nothing_left(t);
}

/* Every way in which a range can overlap that of a live pagemap */
static void overlapping_range_is_refused(struct kunit *test)
{
	static const struct { int start, nr; } across[] = {
		{ 4, 4 }, { 3, 2 }, { 7, 2 }, { 5, 1 }, { 2, 9 },
	};
	struct memremap_test *t = test->priv;
	struct dev_pagemap *live = new_pgmap(t, MEMORY_DEVICE_GENERIC);
	struct dev_pagemap *pgmap = new_pgmap(t, MEMORY_DEVICE_PRIVATE);
	void *addr;
	int i;

	set_range(live, 0, t->base + 4 * SUB, 4 * SUB);
	must_map(t, live);
	for (i = 0; i < ARRAY_SIZE(across); i++) {
		set_range(pgmap, 0, t->base + SECTION + 4 * SUB, SUB);
		set_range(pgmap, 1, t->base + across[i].start * SUB,
			  across[i].nr * SUB);
		mark_log();
		addr = memremap_pages(pgmap, NUMA_NO_NODE);
		KUNIT_EXPECT_EQ(test, PTR_ERR_OR_ZERO(addr), -EBUSY);
		expect_one_line(t, "other device memory");
		expect_pfn_gone(t, first_pfn(pgmap, 0));
	}
	/* mapping a live pagemap again does no harm */
	addr = memremap_pages(live, NUMA_NO_NODE);
	KUNIT_EXPECT_EQ(test, PTR_ERR_OR_ZERO(addr), -EBUSY);

	expect_live_page(t, live, first_pfn(live, 0));
	expect_live_page(t, live, last_pfn(live, 0));
	expect_finishes(t, start_removal(t, live));
	free_pgmap(live);
	free_pgmap(pgmap);
	expect_nothing_left(t);
}

/* Removal of one range would take struct pages of the other. */
static void shared_page_of_memory_map_is_refused(struct kunit *test)
{
	struct memremap_test *t = test->priv;
	struct dev_pagemap *live, *pgmap;
	void *addr;

	if (SUB == SUBSECTION_SIZE)
		kunit_skip(test, "subsections share no page of the memory map");
	live = new_pgmap(t, MEMORY_DEVICE_GENERIC);
	set_range(live, 0, t->base, SUBSECTION_SIZE);
	must_map(t, live);

	pgmap = new_pgmap(t, MEMORY_DEVICE_GENERIC);
	set_range(pgmap, 0, t->base + SUBSECTION_SIZE, SUBSECTION_SIZE);
	mark_log();
	addr = memremap_pages(pgmap, NUMA_NO_NODE);
	KUNIT_EXPECT_EQ(test, PTR_ERR_OR_ZERO(addr), -EBUSY);
	expect_one_line(t, "shares a page of the memory map");

	expect_live_page(t, live, first_pfn(live, 0));
	expect_finishes(t, start_removal(t, live));
	free_pgmap(live);
	free_pgmap(pgmap);
	expect_nothing_left(t);
}

/* The range stays taken while the removal waits. */
static void range_of_dying_pagemap_is_refused(struct kunit *test)
{
	struct memremap_test *t = test->priv;
	struct dev_pagemap *dying = new_pgmap(t, MEMORY_DEVICE_GENERIC);
	struct dev_pagemap *pgmap = new_pgmap(t, MEMORY_DEVICE_GENERIC);
	struct removal *removal;
	struct page *page;
	void *addr;

	must_map(t, dying);
	page = pfn_to_page(first_pfn(dying, 0));
	get_page(page);
	removal = start_removal(t, dying);
	expect_waits(t, removal);
	addr = memremap_pages(pgmap, NUMA_NO_NODE);
	KUNIT_EXPECT_EQ(test, PTR_ERR_OR_ZERO(addr), -EBUSY);
	put_page(page);
	expect_finishes(t, removal);

	must_map(t, pgmap);
	memunmap_pages(pgmap);
	free_pgmap(pgmap);
	free_pgmap(dying);
	expect_nothing_left(t);
}

/*
 * The third of three ranges already has a memory map that only hotplug knows
 * of. The failure must undo the two ranges before it.
 */
static void failure_in_third_range_is_undone(struct kunit *test)
{
	struct memremap_test *t = test->priv;
	struct mhp_params params = { .pgprot = PAGE_KERNEL };
	struct dev_pagemap *pgmap = param_pgmap(test);
	void *addr;
	u64 at;
	int ret;

	set_range(pgmap, 0, t->base, SUB);
	set_range(pgmap, 1, t->base + 4 * SUB, 2 * SUB);
	/* reaches over the end of a section, and fails in the second one */
	set_range(pgmap, 2, t->base + SECTION - 2 * SUB, 4 * SUB);

	params.pgmap = pgmap;
	mem_hotplug_begin();
	ret = __add_pages(numa_mem_id(), PHYS_PFN(t->base + SECTION),
			  PHYS_PFN(SUB), &params);
	mem_hotplug_done();
	KUNIT_ASSERT_EQ(test, ret, 0);

	mark_log();
	addr = memremap_pages(pgmap, NUMA_NO_NODE);
	KUNIT_EXPECT_EQ(test, PTR_ERR_OR_ZERO(addr), -EEXIST);
	expect_one_line(t, "plugged in");
	KUNIT_EXPECT_EQ(test, pgmap->nr_range, 3);
	expect_pfn_gone(t, first_pfn(pgmap, 0));
	expect_pfn_gone(t, first_pfn(pgmap, 1));
	expect_pfn_gone(t, last_pfn(pgmap, 1));
	KUNIT_EXPECT_FALSE(test, pfn_valid(first_pfn(pgmap, 2)));
	KUNIT_EXPECT_FALSE(test, pfn_is_device_memory(last_pfn(pgmap, 2)));
	for (at = pgmap->ranges[2].start; at < pgmap->ranges[2].end; at += SUB)
		KUNIT_EXPECT_FALSE(test, in_linear_mapping(at));

	mem_hotplug_begin();
	__remove_pages(PHYS_PFN(t->base + SECTION), PHYS_PFN(SUB), NULL, pgmap);
	mem_hotplug_done();

	/* now nothing is in the way */
	must_map(t, pgmap);
	remove_pgmap(t, pgmap);
}

/* Another user plugged in memory in the middle of the range. */
static void memory_of_others_keeps_its_mapping(struct kunit *test)
{
	struct memremap_test *t = test->priv;
	struct mhp_params params = { .pgprot = PAGE_KERNEL };
	struct dev_pagemap *pgmap;
	u64 present = t->base + SECTION;
	void *addr;
	int ret;

	/* A live PTE of a contiguous block is a BUG to arch_add_memory(). */
	if (IS_ENABLED(CONFIG_ARM64_64K_PAGES))
		kunit_skip(test, "arm64 cannot map such memory again");
	pgmap = new_pgmap(t, MEMORY_DEVICE_GENERIC);
	params.pgmap = pgmap;
	mem_hotplug_begin();
	ret = arch_add_memory(numa_mem_id(), present, SUB, &params);
	mem_hotplug_done();
	KUNIT_ASSERT_EQ(test, ret, 0);

	set_range(pgmap, 0, present - 2 * SUB, 4 * SUB);
	addr = memremap_pages(pgmap, NUMA_NO_NODE);
	KUNIT_EXPECT_EQ(test, PTR_ERR_OR_ZERO(addr), -EEXIST);
	KUNIT_EXPECT_TRUE(test, pfn_valid(PHYS_PFN(present)));
	KUNIT_EXPECT_EQ(test, in_linear_mapping(present),
			IS_ENABLED(CONFIG_X86_64));
	expect_pfn_gone(t, PHYS_PFN(present - 2 * SUB));
	expect_pfn_gone(t, PHYS_PFN(present - SUB));
	expect_pfn_gone(t, PHYS_PFN(present + SUB));

	mem_hotplug_begin();
	arch_remove_memory(present, SUB, NULL, pgmap);
	mem_hotplug_done();
	free_pgmap(pgmap);
	expect_nothing_left(t);
}

/*
 * Each allocation fails once. Fault injection must include allocations that
 * may sleep, which only files in debugfs can set. Single pages are left out,
 * because page tables of the kernel must not fail.
 */
#if defined(CONFIG_FAILSLAB) && defined(CONFIG_FAIL_PAGE_ALLOC) && \
	defined(CONFIG_FAULT_INJECTION_DEBUG_FS)
static void *injection_setting(const char *kind, const char *name)
{
	struct dentry *dir = debugfs_lookup(kind, NULL);
	struct dentry *file = NULL;
	void *setting = NULL;

	if (!IS_ERR_OR_NULL(dir))
		file = debugfs_lookup(name, dir);
	if (!IS_ERR_OR_NULL(file)) {
		setting = d_inode(file)->i_private;
		dput(file);
	}
	if (!IS_ERR_OR_NULL(dir))
		dput(dir);
	return setting;
}

struct injection_switch {
	bool *ignores;
	bool was;
};

static void inject_as_before(void *data)
{
	struct injection_switch *sw = data;

	*sw->ignores = sw->was;
}

static void inject_where_it_may_wait(struct kunit *test, const char *kind)
{
	struct injection_switch *sw;

	sw = kunit_kzalloc(test, sizeof(*sw), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, sw);
	sw->ignores = injection_setting(kind, "ignore-gfp-wait");
	KUNIT_ASSERT_NOT_NULL(test, sw->ignores);
	sw->was = *sw->ignores;
	KUNIT_ASSERT_EQ(test, 0,
			kunit_add_action_or_reset(test, inject_as_before, sw));
	*sw->ignores = false;
}

static void failed_allocation_is_undone(struct kunit *test)
{
	struct memremap_test *t = test->priv;
	struct dev_pagemap *pgmap = new_pgmap(t, MEMORY_DEVICE_FS_DAX);
	int nth, injected, nr_failed = 0;
	void *addr;

	set_range(pgmap, 0, t->base, SUB);
	set_range(pgmap, 1, t->base + SECTION - SUB, 2 * SUB);
	inject_where_it_may_wait(test, "failslab");
	inject_where_it_may_wait(test, "fail_page_alloc");
	for (nth = 1; nth < 1000; nth++) {
		mark_log();
		current->fail_nth = nth;
		addr = memremap_pages(pgmap, NUMA_NO_NODE);
		injected = !current->fail_nth;
		current->fail_nth = 0;

		if (!IS_ERR(addr)) {
			memunmap_pages(pgmap);
		} else {
			KUNIT_EXPECT_TRUE(test, injected);
			KUNIT_EXPECT_EQ(test, PTR_ERR(addr), -ENOMEM);
			expect_one_line(t, "(-12)");
			nr_failed++;
		}
		KUNIT_EXPECT_EQ(test, pgmap->nr_range, 2);
		expect_pfn_gone(t, first_pfn(pgmap, 0));
		expect_pfn_gone(t, first_pfn(pgmap, 1));
		expect_pfn_gone(t, last_pfn(pgmap, 1));
		if (!injected)
			break;
	}
	free_pgmap(pgmap);
	expect_nothing_left(t);
	KUNIT_EXPECT_NE(test, nr_failed, 0);
	kunit_info(test, "%d allocations, %d failures\n", nth - 1, nr_failed);
}
#else
static void failed_allocation_is_undone(struct kunit *test)
{
	kunit_skip(test, "needs CONFIG_FAILSLAB and CONFIG_FAIL_PAGE_ALLOC");
}
#endif

/* ---- one caller gets the memory, the others an error ---- */

struct racer {
	struct dev_pagemap *pgmap;
	atomic_t *inside;
	int nr_mapped;
	int nr_bad;
	struct completion done;
};

static int race_thread(void *data)
{
	struct racer *racer = data;
	void *addr;
	int i;

	for (i = 0; i < 50; i++) {
		addr = memremap_pages(racer->pgmap, NUMA_NO_NODE);
		if (IS_ERR(addr)) {
			racer->nr_bad += PTR_ERR(addr) != -EBUSY;
			cond_resched();
			continue;
		}
		racer->nr_mapped++;
		racer->nr_bad += atomic_inc_return(racer->inside) != 1;
		schedule_timeout_uninterruptible(1);
		atomic_dec(racer->inside);
		memunmap_pages(racer->pgmap);
	}
	complete(&racer->done);
	return 0;
}

static void one_of_many_callers_gets_the_range(struct kunit *test)
{
	struct memremap_test *t = test->priv;
	atomic_t inside = ATOMIC_INIT(0);
	struct task_struct *task;
	struct racer racers[4];
	int i, nr_mapped = 0;

	for (i = 0; i < ARRAY_SIZE(racers); i++) {
		racers[i] = (struct racer) { .inside = &inside };
		racers[i].pgmap = new_pgmap(t, all_types[i]);
		set_range(racers[i].pgmap, 0, t->base + i * SUB, 4 * SUB);
		init_completion(&racers[i].done);
		task = kthread_run(race_thread, &racers[i], "memremap_race%d",
				   i);
		KUNIT_ASSERT_FALSE(test, IS_ERR(task));
	}
	for (i = 0; i < ARRAY_SIZE(racers); i++) {
		/* the threads use this stack frame */
		wait_for_completion(&racers[i].done);
		KUNIT_EXPECT_EQ(test, racers[i].nr_bad, 0);
		nr_mapped += racers[i].nr_mapped;
		free_pgmap(racers[i].pgmap);
	}
	KUNIT_EXPECT_GT(test, nr_mapped, 0);
	expect_nothing_left(t);
}

/* ---- life of a folio ---- */

static void expect_handed_out(struct memremap_test *t, struct folio *folio)
{
	KUNIT_EXPECT_EQ(t->test, folio_ref_count(folio), 1);
	KUNIT_EXPECT_EQ(t->test, folio_order(folio), 0);
	KUNIT_EXPECT_TRUE(t->test, folio_test_locked(folio));
}

static void page_is_freed_to_its_driver(struct kunit *test)
{
	struct memremap_test *t = test->priv;
	struct dev_pagemap *pgmap = new_pgmap(t, MEMORY_DEVICE_PRIVATE);
	struct folio *folio;
	int i;

	must_map(t, pgmap);
	folio = pfn_folio(first_pfn(pgmap, 0) + 7);
	for (i = 0; i < 3; i++) {
		zone_device_page_init(&folio->page);
		expect_handed_out(t, folio);
		folio_unlock(folio);
		folio_get(folio);
		folio_put(folio);
		KUNIT_EXPECT_EQ(test, atomic_read(&t->nr_freed), i);
		folio_put(folio);
		KUNIT_EXPECT_EQ(test, atomic_read(&t->nr_freed), i + 1);
		KUNIT_EXPECT_EQ(test, folio_ref_count(folio), 0);
		KUNIT_EXPECT_EQ(test, t->count_in_free, 0);
		KUNIT_EXPECT_FALSE(test, t->by_folio);
	}
	remove_in_thread(t, pgmap);
}

/* State of a user page is gone when the driver gets the folio back. */
static void freed_folio_keeps_no_user_state(struct kunit *test)
{
	struct memremap_test *t = test->priv;
	struct dev_pagemap *pgmap = new_pgmap(t, MEMORY_DEVICE_COHERENT);
	struct folio *folio;

	must_map(t, pgmap);
	folio = pfn_folio(first_pfn(pgmap, 0));
	zone_device_page_init(&folio->page);
	folio->mapping = (void *)((unsigned long)t | PAGE_MAPPING_ANON);
	SetPageAnonExclusive(&folio->page);
	KUNIT_EXPECT_EQ(test, mem_cgroup_charge(folio, NULL, GFP_KERNEL), 0);
#ifdef CONFIG_MEMCG
	KUNIT_EXPECT_EQ(test, folio_memcg_charged(folio),
			!mem_cgroup_disabled());
#endif
	folio_unlock(folio);
	folio_put(folio);

	KUNIT_EXPECT_EQ(test, atomic_read(&t->nr_freed), 1);
	KUNIT_EXPECT_NULL(test, folio->mapping);
	KUNIT_EXPECT_FALSE(test, test_bit(PG_anon_exclusive, &folio->flags));
#ifdef CONFIG_MEMCG
	KUNIT_EXPECT_FALSE(test, folio_memcg_charged(folio));
#endif
	memunmap_pages(pgmap);
	free_pgmap(pgmap);
}

static void free_one_folio(struct memremap_test *t,
			   const struct dev_pagemap_ops *ops)
{
	struct dev_pagemap *pgmap = new_pgmap(t, MEMORY_DEVICE_PRIVATE);
	struct folio *folio;

	pgmap->ops = ops;
	must_map(t, pgmap);
	folio = pfn_folio(last_pfn(pgmap, 0));
	zone_device_folio_init(folio, pgmap, 0);
	expect_handed_out(t, folio);
	KUNIT_EXPECT_PTR_EQ(t->test, page_pgmap(&folio->page), pgmap);
	folio_unlock(folio);
	folio_put(folio);
	memunmap_pages(pgmap);
	free_pgmap(pgmap);
}

static void folio_free_comes_before_page_free(struct kunit *test)
{
	struct memremap_test *t = test->priv;

	free_one_folio(t, &folio_ops);
	KUNIT_EXPECT_EQ(test, atomic_read(&t->nr_freed), 1);
	KUNIT_EXPECT_TRUE(test, t->by_folio);
	free_one_folio(t, &both_ops);
	KUNIT_EXPECT_EQ(test, atomic_read(&t->nr_freed), 2);
	KUNIT_EXPECT_TRUE(test, t->by_folio);
	free_one_folio(t, &page_ops);
	KUNIT_EXPECT_EQ(test, atomic_read(&t->nr_freed), 3);
	KUNIT_EXPECT_FALSE(test, t->by_folio);
}

/* The driver may put the page into a pool, so it has its idle count. */
static void p2pdma_page_is_freed_with_idle_count(struct kunit *test)
{
	struct memremap_test *t = test->priv;
	struct dev_pagemap *pgmap = new_pgmap(t, MEMORY_DEVICE_PCI_P2PDMA);
	struct page *page;

	must_map(t, pgmap);
	page = pfn_to_page(first_pfn(pgmap, 0));
	get_page(page);
	put_page(page);
	KUNIT_EXPECT_EQ(test, atomic_read(&t->nr_freed), 0);
	put_page(page);
	KUNIT_EXPECT_EQ(test, atomic_read(&t->nr_freed), 1);
	KUNIT_EXPECT_EQ(test, t->count_in_free, 1);
	KUNIT_EXPECT_EQ(test, page_ref_count(page), 1);
	remove_in_thread(t, pgmap);
}

static void extra_put_is_reported(struct kunit *test)
{
	struct memremap_test *t = test->priv;
	struct dev_pagemap *pgmap = new_pgmap(t, MEMORY_DEVICE_GENERIC);
	struct page *page;

	must_map(t, pgmap);
	page = pfn_to_page(first_pfn(pgmap, 0));
	mark_log();
	put_page(page);
	expect_one_line(t, "once too often");
	KUNIT_EXPECT_EQ(test, page_ref_count(page), 1);
	remove_in_thread(t, pgmap);
}

/* Its tail pages share their memory map, and stay what they are. */
static void extra_put_leaves_compound_page_alone(struct kunit *test)
{
	struct memremap_test *t = test->priv;
	struct dev_pagemap *pgmap = new_pgmap(t, MEMORY_DEVICE_GENERIC);
	unsigned long i, wrong = 0;
	struct page *head;

	pgmap->vmemmap_shift = ilog2(PAGES_PER_SUBSECTION);
	must_map(t, pgmap);
	head = pfn_to_page(first_pfn(pgmap, 0));
	mark_log();
	put_page(head);
	expect_one_line(t, "once too often");
	KUNIT_EXPECT_EQ(test, page_ref_count(head), 1);
	KUNIT_EXPECT_EQ(test, compound_order(head), pgmap->vmemmap_shift);
	for (i = 1; i < PAGES_PER_SUBSECTION; i++)
		wrong += !tail_is_pristine(head + i, head);
	KUNIT_EXPECT_EQ(test, wrong, 0UL);
	remove_in_thread(t, pgmap);
}

static void page_handed_out_late_is_waited_for(struct kunit *test)
{
	struct memremap_test *t = test->priv;
	struct dev_pagemap *pgmap = new_pgmap(t, MEMORY_DEVICE_PRIVATE);
	struct folio *early, *late;
	struct removal *removal;

	must_map(t, pgmap);
	early = pfn_folio(first_pfn(pgmap, 0));
	late = pfn_folio(last_pfn(pgmap, 0));
	zone_device_page_init(&early->page);
	folio_unlock(early);
	removal = start_removal(t, pgmap);
	expect_waits(t, removal);

	mark_log();
	zone_device_page_init(&late->page);
	expect_one_line(t, "handed out");
	folio_unlock(late);
	folio_put(early);
	expect_waits(t, removal);
	folio_put(late);
	expect_finishes(t, removal);
	KUNIT_EXPECT_EQ(test, atomic_read(&t->nr_freed), 2);
	free_pgmap(pgmap);
	expect_nothing_left(t);
}

/* ---- large folios ---- */

/* The tests read the statistics that sysfs has. */
#if defined(CONFIG_TRANSPARENT_HUGEPAGE) && defined(CONFIG_SYSFS)
#define LARGE_PAGES	((unsigned long)HPAGE_PMD_NR)

/**
 * struct large_test - memory for a folio of the order of a PMD, and its driver
 * @t: the test
 * @pgmap: the memory
 * @page: the first page
 * @again: called by folio_free(), to hand the memory out again
 * @freed_order: order of the last folio that was freed
 * @freed_pages: sum of the pages of all folios that were freed
 * @split_calls: calls of folio_split() with a new folio
 * @split_ends: calls of folio_split() without
 * @split_wrong: calls that found an unexpected state
 * @new_order: order that a folio is split to
 */
struct large_test {
	struct memremap_test *t;
	struct dev_pagemap *pgmap;
	struct page *page;
	void (*again)(struct large_test *lt, struct folio *folio);
	int freed_order;
	unsigned long freed_pages;
	int split_calls;
	int split_ends;
	int split_wrong;
	unsigned int new_order;
};

static struct large_test *pgmap_large(struct dev_pagemap *pgmap)
{
	return pgmap_test(pgmap)->data;
}

static void large_folio_free(struct folio *folio)
{
	struct large_test *lt = pgmap_large(folio->page.pgmap);

	lt->freed_order = folio_order(folio);
	lt->freed_pages += folio_nr_pages(folio);
	if (lt->again)
		lt->again(lt, folio);
}

static void large_page_free(struct page *page)
{
	large_folio_free((struct folio *)page);
}

static bool split_folio_is_right(struct large_test *lt, struct folio *head,
				 struct folio *tail)
{
	return irqs_disabled() && !folio_ref_count(head) &&
	       !folio_ref_count(tail) && tail->page.pgmap == lt->pgmap &&
	       tail->mapping == head->mapping &&
	       tail->page.zone_device_data == head->page.zone_device_data &&
	       folio_order(tail) == lt->new_order && folio_test_locked(tail) &&
	       IS_ALIGNED(folio_pfn(tail), 1UL << lt->new_order);
}

static void large_folio_split(struct folio *head, struct folio *tail)
{
	struct large_test *lt = pgmap_large(head->page.pgmap);

	if (!tail) {
		lt->split_ends++;
		lt->split_wrong += folio_order(head) != lt->new_order ||
				   folio_ref_count(head);
		return;
	}
	lt->split_calls++;
	lt->split_wrong += !split_folio_is_right(lt, head, tail);
	tail->page.zone_device_data = &tail->page;
}

static const struct dev_pagemap_ops large_ops = {
	.folio_free = large_folio_free,
	.migrate_to_ram = test_migrate_to_ram,
};

static const struct dev_pagemap_ops large_page_ops = {
	.page_free = large_page_free,
	.migrate_to_ram = test_migrate_to_ram,
};

static const struct dev_pagemap_ops split_ops = {
	.folio_free = large_folio_free,
	.folio_split = large_folio_split,
	.migrate_to_ram = test_migrate_to_ram,
};

static struct large_test *large_create_type(struct kunit *test,
					    enum memory_type type,
					    const struct dev_pagemap_ops *ops)
{
	struct memremap_test *t = test->priv;
	struct large_test *lt = kunit_kzalloc(test, sizeof(*lt), GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, lt);
	lt->t = t;
	t->data = lt;
	lt->pgmap = new_pgmap(t, type);
	lt->pgmap->ops = ops;
	set_range(lt->pgmap, 0, ALIGN(t->base, HPAGE_PMD_SIZE),
		  max_t(u64, SUB, HPAGE_PMD_SIZE));
	must_map(t, lt->pgmap);
	lt->page = pfn_to_page(first_pfn(lt->pgmap, 0));
	return lt;
}

static struct large_test *large_create(struct kunit *test,
				       const struct dev_pagemap_ops *ops)
{
	return large_create_type(test, MEMORY_DEVICE_PRIVATE, ops);
}

static void large_remove(struct large_test *lt)
{
	remove_in_thread(lt->t, lt->pgmap);
}

/* Migration makes a folio anonymous, and counts it. */
static void large_make_anon(struct large_test *lt, struct folio *folio)
{
	folio->mapping = (void *)((unsigned long)lt | PAGE_MAPPING_ANON);
	folio->index = 0x12345;
	mod_mthp_stat(folio_order(folio), MTHP_STAT_NR_ANON, 1);
}

static struct folio *large_init(struct large_test *lt, unsigned long nr,
				unsigned int order)
{
	struct folio *folio = (struct folio *)(lt->page + nr);

	zone_device_folio_init(folio, lt->pgmap, order);
	return folio;
}

static void large_put(struct folio *folio)
{
	folio_unlock(folio);
	folio_put(folio);
}

static long large_count(unsigned int order, enum mthp_stat_item item)
{
	long sum = 0;
	int cpu;

	for_each_possible_cpu(cpu)
		sum += (long)per_cpu(mthp_stats, cpu).stats[order][item];
	return sum;
}

/*
 * A free page, but for what folio_order() needs. Flags that a page of the order
 * 0 may still have are not looked at.
 */
static bool page_is_free(struct large_test *lt, struct page *page)
{
	const unsigned long low = 0xff, kept = BIT(PG_reserved);
	unsigned long flags = page->flags & (BIT(NR_PAGEFLAGS) - 1) & ~low;

	return READ_ONCE(page->pgmap) == lt->pgmap && !page->mapping &&
	       !page->private && !page_ref_count(page) &&
	       atomic_read(&page->_mapcount) == -1 && flags == kept;
}

static void expect_all_free(struct large_test *lt)
{
	unsigned long i, wrong = 0;

	for (i = 0; i < LARGE_PAGES; i++)
		wrong += !page_is_free(lt, lt->page + i);
	KUNIT_EXPECT_EQ(lt->t->test, wrong, 0UL);
}

static bool large_tail_is_right(struct large_test *lt, struct folio *folio,
				unsigned long i)
{
	struct page *page = folio_page(folio, i);

	return PageTail(page) && !PageHead(page) &&
	       page_folio(page) == folio && page_pgmap(page) == lt->pgmap &&
	       !page_ref_count(page) && !page->private &&
	       atomic_read(&page->_mapcount) == -1 &&
	       (i == 1 || !(page->flags & 0xff)) &&
	       (i <= 2 || page->mapping == TAIL_MAPPING) &&
	       !test_bit(PG_anon_exclusive, &page->flags);
}

static void expect_large(struct large_test *lt, struct folio *folio,
			 unsigned int order)
{
	struct kunit *test = lt->t->test;
	unsigned long i, wrong = 0;

	KUNIT_ASSERT_EQ(test, folio_order(folio), order);
	KUNIT_EXPECT_EQ(test, folio_ref_count(folio), 1);
	KUNIT_EXPECT_TRUE(test, folio_test_locked(folio));
	KUNIT_EXPECT_FALSE(test, folio_test_writeback(folio));
	KUNIT_EXPECT_FALSE(test, folio_test_dirty(folio));
	KUNIT_EXPECT_NULL(test, folio->mapping);
	KUNIT_EXPECT_EQ(test, folio_mapcount(folio), 0);
	KUNIT_EXPECT_PTR_EQ(test, folio->page.pgmap, lt->pgmap);
	if (!order)
		return;
	KUNIT_EXPECT_TRUE(test, folio_test_large_rmappable(folio));
	KUNIT_EXPECT_FALSE(test, folio_test_partially_mapped(folio));
	KUNIT_EXPECT_TRUE(test, list_empty(&folio->_deferred_list));
	KUNIT_EXPECT_EQ(test, folio_entire_mapcount(folio), 0);
	KUNIT_EXPECT_EQ(test, atomic_read(&folio->_nr_pages_mapped), 0);
	KUNIT_EXPECT_EQ(test, atomic_read(&folio->_pincount), 0);
	for (i = 1; i < folio_nr_pages(folio); i++)
		wrong += !large_tail_is_right(lt, folio, i);
	KUNIT_EXPECT_EQ_MSG(test, wrong, 0UL, "tail pages of order %u", order);
}

/* Leave traces of a user, as migration and rmap do. */
static void large_use(struct large_test *lt, struct folio *folio,
		      struct rnd_state *rnd)
{
	unsigned long i;

	large_make_anon(lt, folio);
	folio_mark_uptodate(folio);
	folio_set_swapbacked(folio);
	folio_set_dirty(folio);
	folio->page.zone_device_data = lt;
	if (folio_test_large(folio))
		folio_set_has_hwpoisoned(folio);
	for (i = 0; i < folio_nr_pages(folio); i++)
		if (prandom_u32_state(rnd) & 1)
			SetPageAnonExclusive(folio_page(folio, i));
}

static unsigned int large_random_order(struct rnd_state *rnd)
{
	unsigned int order = prandom_u32_state(rnd) % (HPAGE_PMD_ORDER + 1);

	return order == 1 ? 0 : order;
}

/* Hand all memory out as folios of random orders, then free all of them. */
static void large_fill_and_free(struct large_test *lt, struct rnd_state *rnd)
{
	unsigned long nr, next, freed = lt->freed_pages;
	struct folio *folio;
	unsigned int order;

	for (nr = 0; nr < LARGE_PAGES; nr += 1UL << order) {
		do {
			order = large_random_order(rnd);
		} while (!IS_ALIGNED(nr, 1UL << order));
		folio = large_init(lt, nr, order);
		expect_large(lt, folio, order);
		large_use(lt, folio, rnd);
	}
	for (nr = 0; nr < LARGE_PAGES; nr = next) {
		folio = page_folio(lt->page + nr);
		order = folio_order(folio);
		next = nr + folio_nr_pages(folio);
		large_put(folio);
		KUNIT_EXPECT_EQ(lt->t->test, lt->freed_order, order);
	}
	KUNIT_EXPECT_EQ(lt->t->test, lt->freed_pages - freed, LARGE_PAGES);
	expect_all_free(lt);
}

struct free_variant {
	const char *name;
	enum memory_type type;
	const struct dev_pagemap_ops *ops;
};

static const struct free_variant free_variants[] = {
	{ "private, folio_free", MEMORY_DEVICE_PRIVATE, &large_ops },
	{ "private, page_free", MEMORY_DEVICE_PRIVATE, &large_page_ops },
	{ "coherent, folio_free", MEMORY_DEVICE_COHERENT, &large_ops },
};

static void free_variant_to_desc(const struct free_variant *variant,
				 char *desc)
{
	strscpy(desc, variant->name, KUNIT_PARAM_DESC_SIZE);
}

KUNIT_ARRAY_PARAM(free_variant, free_variants, free_variant_to_desc);

/* A page can be part of a folio of any order, after one of any other. */
static void page_is_reused_in_any_order(struct kunit *test)
{
	const struct free_variant *variant = test->param_value;
	struct large_test *lt;
	struct rnd_state rnd;
	int i;

	lt = large_create_type(test, variant->type, variant->ops);
	prandom_seed_state(&rnd, 13);
	for (i = 0; i < 200; i++)
		large_fill_and_free(lt, &rnd);
	large_remove(lt);
}

static void again_page_1_then_0(struct large_test *lt, struct folio *folio)
{
	lt->again = NULL;
	zone_device_page_init(lt->page + 1);
	zone_device_page_init(lt->page);
}

static void again_smaller_folio(struct large_test *lt, struct folio *folio)
{
	lt->again = NULL;
	large_init(lt, 0, 2);
}

static void again_same_order(struct large_test *lt, struct folio *folio)
{
	lt->again = NULL;
	large_init(lt, 0, HPAGE_PMD_ORDER);
}

static void again_last_page(struct large_test *lt, struct folio *folio)
{
	lt->again = NULL;
	zone_device_page_init(lt->page + LARGE_PAGES - 1);
}

/* The order of a PMD is not a constant on all architectures. */
static unsigned int large_order(int order)
{
	return order < 0 ? HPAGE_PMD_ORDER + 1 + order : order;
}

static unsigned long large_nr(long nr)
{
	return nr < 0 ? LARGE_PAGES + nr : nr;
}

/**
 * struct again - what folio_free() of a large folio hands out
 * @name: for messages
 * @again: the callback
 * @nr_folios: folios that there are afterwards
 * @nr: their first pages, see large_nr()
 * @order: their order, see large_order()
 */
struct again {
	const char *name;
	void (*again)(struct large_test *lt, struct folio *folio);
	int nr_folios;
	long nr[2];
	int order;
};

static const struct again again_cases[] = {
	{ "page 1 then page 0", again_page_1_then_0, 2, { 1, 0 }, 0 },
	{ "folio of order 2", again_smaller_folio, 1, { 0 }, 2 },
	{ "folio of the same order", again_same_order, 1, { 0 }, -1 },
	{ "last page", again_last_page, 1, { -1 }, 0 },
};

static void again_to_desc(const struct again *again, char *desc)
{
	strscpy(desc, again->name, KUNIT_PARAM_DESC_SIZE);
}

KUNIT_ARRAY_PARAM(again, again_cases, again_to_desc);

static struct folio *again_folio(struct large_test *lt,
				 const struct again *again, int i)
{
	return (struct folio *)(lt->page + large_nr(again->nr[i]));
}

/* Nothing of a folio is accessed after its callback. */
static void memory_is_handed_out_in_folio_free(struct kunit *test)
{
	const struct again *again = test->param_value;
	struct large_test *lt = large_create(test, &large_ops);
	struct rnd_state rnd;
	struct folio *folio;
	int i;

	prandom_seed_state(&rnd, 9);
	folio = large_init(lt, 0, HPAGE_PMD_ORDER);
	large_use(lt, folio, &rnd);
	lt->again = again->again;
	large_put(folio);
	KUNIT_EXPECT_EQ(test, lt->freed_order, HPAGE_PMD_ORDER);
	KUNIT_EXPECT_EQ(test, lt->freed_pages, LARGE_PAGES);

	for (i = 0; i < again->nr_folios; i++)
		expect_large(lt, again_folio(lt, again, i),
			     large_order(again->order));
	for (i = 0; i < again->nr_folios; i++) {
		folio = again_folio(lt, again, i);
		large_use(lt, folio, &rnd);
		large_put(folio);
		KUNIT_EXPECT_EQ(test, lt->freed_order,
				large_order(again->order));
	}
	expect_all_free(lt);
	large_remove(lt);
}

/* Of the references to the pagemap, take all but one away behind its back. */
static void large_folio_holds_one_reference_per_page(struct kunit *test)
{
	struct large_test *lt = large_create(test, &large_ops);
	struct folio *folio = large_init(lt, 0, HPAGE_PMD_ORDER);
	struct removal *removal = start_removal(lt->t, lt->pgmap);

	expect_waits(lt->t, removal);
	percpu_ref_put_many(&lt->pgmap->ref, LARGE_PAGES - 1);
	expect_waits(lt->t, removal);
	KUNIT_EXPECT_FALSE(test, percpu_ref_is_zero(&lt->pgmap->ref));
	percpu_ref_get_many(&lt->pgmap->ref, LARGE_PAGES - 1);
	large_put(folio);
	expect_finishes(lt->t, removal);
	free_pgmap(lt->pgmap);
	expect_nothing_left(lt->t);
}

static void large_folio_handed_out_late_is_waited_for(struct kunit *test)
{
	struct large_test *lt = large_create(test, &large_ops);
	struct folio *early, *late;
	struct removal *removal;

	early = large_init(lt, 0, 0);
	removal = start_removal(lt->t, lt->pgmap);
	expect_waits(lt->t, removal);
	mark_log();
	late = large_init(lt, 4, 2);
	expect_one_line(lt->t, "handed out");
	large_put(early);
	expect_waits(lt->t, removal);
	large_put(late);
	expect_finishes(lt->t, removal);
	free_pgmap(lt->pgmap);
	expect_nothing_left(lt->t);
}

static void large_folio_is_counted_until_freed(struct kunit *test)
{
	struct large_test *lt = large_create(test, &large_ops);
	unsigned int order;

	for (order = 2; order <= HPAGE_PMD_ORDER; order++) {
		long before = large_count(order, MTHP_STAT_NR_ANON);
		struct folio *folio = large_init(lt, 0, order);

		large_make_anon(lt, folio);
		KUNIT_EXPECT_EQ(test, mem_cgroup_charge(folio, NULL,
							GFP_KERNEL), 0);
		large_put(folio);
		KUNIT_EXPECT_EQ(test, large_count(order, MTHP_STAT_NR_ANON),
				before);
#ifdef CONFIG_MEMCG
		KUNIT_EXPECT_EQ(test, folio->memcg_data, 0UL);
#endif
		/* never anonymous: a migration that failed */
		large_put(large_init(lt, 0, order));
		KUNIT_EXPECT_EQ(test, large_count(order, MTHP_STAT_NR_ANON),
				before);
	}
	expect_all_free(lt);
	large_remove(lt);
}

static void device_folio_is_not_queued_for_split(struct kunit *test)
{
	struct large_test *lt = large_create(test, &large_ops);
	struct folio *folio = large_init(lt, 0, HPAGE_PMD_ORDER);
	const enum mthp_stat_item item = MTHP_STAT_NR_ANON_PARTIALLY_MAPPED;
	long before = large_count(HPAGE_PMD_ORDER, item);

	large_make_anon(lt, folio);
	deferred_split_folio(folio, true);
	KUNIT_EXPECT_TRUE(test, list_empty(&folio->_deferred_list));
	KUNIT_EXPECT_FALSE(test, folio_test_partially_mapped(folio));
	KUNIT_EXPECT_EQ(test, large_count(HPAGE_PMD_ORDER, item), before);
	folio_ref_freeze(folio, 1);
	folio_unqueue_deferred_split(folio);
	folio_ref_unfreeze(folio, 1);
	large_put(folio);
	expect_all_free(lt);
	large_remove(lt);
}

/* ---- orders and pages that are refused ---- */

/**
 * struct refusal - arguments of zone_device_folio_init() that are refused
 * @word: part of the message
 * @nr: the first page, see large_nr()
 * @order: the order, see large_order()
 * @more: added to the order
 */
struct refusal {
	const char *word;
	long nr;
	int order;
	int more;
};

static const struct refusal refusals[] = {
	{ "too large", 0, -1, 1 },
	{ "too large", 0, 64 },
	{ "too large", 0, INT_MAX },
	{ "does not have this order", 0, 1 },
	{ "not aligned", 1, 2 },
	{ "not aligned", -2, 2 },
	{ "not aligned", 4, -1 },
};

static void refusal_to_desc(const struct refusal *refusal, char *desc)
{
	snprintf(desc, KUNIT_PARAM_DESC_SIZE, "order %u at page %lu",
		 large_order(refusal->order) + refusal->more,
		 large_nr(refusal->nr));
}

KUNIT_ARRAY_PARAM(refusal, refusals, refusal_to_desc);

/* Neither the page nor a reference may be lost, and no other page changes. */
static void refused_order_is_handed_out_as_a_page(struct kunit *test)
{
	const struct refusal *refusal = test->param_value;
	struct large_test *lt = large_create(test, &large_ops);
	unsigned long i, wrong = 0, nr = large_nr(refusal->nr);
	struct folio *folio;

	mark_log();
	folio = large_init(lt, nr,
			   large_order(refusal->order) + refusal->more);
	expect_one_line(lt->t, refusal->word);
	expect_large(lt, folio, 0);
	for (i = 0; i < LARGE_PAGES; i++)
		wrong += i != nr && !page_is_free(lt, lt->page + i);
	KUNIT_EXPECT_EQ(test, wrong, 0UL);
	large_put(folio);
	KUNIT_EXPECT_EQ(test, lt->freed_pages, 1UL);
	expect_all_free(lt);
	large_remove(lt);
}

/* A folio of another pagemap stays there. */
static void folio_beyond_the_pagemap_is_refused(struct kunit *test)
{
	struct large_test *lt = large_create(test, &large_ops);
	struct memremap_test *t = test->priv;
	struct dev_pagemap *next = new_pgmap(t, MEMORY_DEVICE_PRIVATE);
	struct folio *folio;

	set_range(next, 0, lt->pgmap->range.end + 1,
		  max_t(u64, SUB, HPAGE_PMD_SIZE));
	must_map(t, next);
	folio = pfn_folio(first_pfn(next, 0));
	mark_log();
	zone_device_folio_init(folio, lt->pgmap, HPAGE_PMD_ORDER);
	expect_one_line(t, "exceeds the pagemap");
	KUNIT_EXPECT_PTR_EQ(test, folio->page.pgmap, next);
	expect_handed_out(t, folio);
	large_put(folio);
	KUNIT_EXPECT_EQ(test, atomic_read(&t->nr_freed), 1);
	remove_in_thread(t, next);
	large_remove(lt);
}

/* ---- split ---- */

static const int split_orders[] = { 0, 2, 4, -2 };

static void split_order_to_desc(const int *order, char *desc)
{
	snprintf(desc, KUNIT_PARAM_DESC_SIZE, "to order %u",
		 large_order(*order));
}

KUNIT_ARRAY_PARAM(split_order, split_orders, split_order_to_desc);

static bool split_result_is_right(struct large_test *lt, unsigned long nr,
				  bool callback)
{
	struct page *page = lt->page + nr;
	struct folio *folio = page_folio(page);
	void *data = callback && nr ? (void *)page : lt;

	return &folio->page == page && folio_order(folio) == lt->new_order &&
	       folio_ref_count(folio) == 1 && folio_test_locked(folio) &&
	       folio_test_anon(folio) && folio->index == 0x12345 + nr &&
	       folio->page.pgmap == lt->pgmap && PageReserved(page) &&
	       page->zone_device_data == data && !page->private &&
	       atomic_read(&page->_mapcount) == -1 && folio_test_dirty(folio) &&
	       (!lt->new_order || (folio_test_large_rmappable(folio) &&
				   list_empty(&folio->_deferred_list)));
}

static void expect_split(struct large_test *lt, bool callback)
{
	unsigned long nr, wrong = 0, step = 1UL << lt->new_order;
	struct kunit *test = lt->t->test;

	for (nr = 0; nr < LARGE_PAGES; nr++)
		wrong += nr % step ?
			 !large_tail_is_right(lt, page_folio(lt->page + nr),
					      nr % step) :
			 !split_result_is_right(lt, nr, callback);
	KUNIT_EXPECT_EQ(test, wrong, 0UL);
	KUNIT_EXPECT_EQ(test, lt->split_calls,
			callback ? LARGE_PAGES / step - 1 : 0);
	KUNIT_EXPECT_EQ(test, lt->split_ends, callback ? 1 : 0);
	KUNIT_EXPECT_EQ(test, lt->split_wrong, 0);
}

static struct folio *large_new_user(struct large_test *lt)
{
	struct folio *folio = large_init(lt, 0, HPAGE_PMD_ORDER);
	struct rnd_state rnd;
	unsigned long i;

	prandom_seed_state(&rnd, 5);
	large_use(lt, folio, &rnd);
	folio_clear_has_hwpoisoned(folio);
	/* as after unmapping */
	for (i = 0; i < LARGE_PAGES; i++)
		ClearPageAnonExclusive(lt->page + i);
	return folio;
}

static void split_and_free(struct kunit *test,
			   const struct dev_pagemap_ops *ops)
{
	struct large_test *lt = large_create(test, ops);
	struct folio *folio = large_new_user(lt);
	unsigned int order = large_order(*(const int *)test->param_value);
	unsigned long nr, step = 1UL << order;
	long large = large_count(HPAGE_PMD_ORDER, MTHP_STAT_NR_ANON);
	long small = large_count(order, MTHP_STAT_NR_ANON);

	lt->new_order = order;
	KUNIT_ASSERT_EQ(test, folio_split_unmapped(folio, order), 0);
	KUNIT_EXPECT_FALSE(test, irqs_disabled());
	expect_split(lt, ops->folio_split);
	KUNIT_EXPECT_EQ(test, large_count(HPAGE_PMD_ORDER, MTHP_STAT_NR_ANON),
			large - 1);
	KUNIT_EXPECT_EQ(test, large_count(order, MTHP_STAT_NR_ANON),
			order ? small + (long)(LARGE_PAGES / step) : small);

	for (nr = 0; nr < LARGE_PAGES; nr += step) {
		large_put(page_folio(lt->page + nr));
		KUNIT_EXPECT_EQ(test, lt->freed_order, order);
	}
	KUNIT_EXPECT_EQ(test, lt->freed_pages, LARGE_PAGES);
	KUNIT_EXPECT_EQ(test, large_count(order, MTHP_STAT_NR_ANON), small);
	expect_all_free(lt);
	large_remove(lt);
}

static void split_folio_is_freed_in_parts(struct kunit *test)
{
	split_and_free(test, &large_ops);
}

static void driver_is_told_of_each_new_folio(struct kunit *test)
{
	split_and_free(test, &split_ops);
}

/* Number of splits that failed since the boot */
static unsigned long large_failed_splits(struct kunit *test)
{
	unsigned long *events = kunit_kcalloc(test, NR_VM_EVENT_ITEMS,
					      sizeof(*events), GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, events);
	all_vm_events(events);
	return events[THP_SPLIT_PAGE_FAILED];
}

/* A folio with other users, or of another kind, stays whole. */
static void split_is_refused(struct kunit *test)
{
	struct large_test *lt = large_create(test, &split_ops);
	struct folio *folio = large_new_user(lt);
	unsigned long failed = large_failed_splits(test);

	KUNIT_EXPECT_EQ(test, folio_split_unmapped(folio, 1), -EINVAL);
	KUNIT_EXPECT_EQ(test, folio_split_unmapped(folio, HPAGE_PMD_ORDER),
			-EINVAL);
	folio_get(folio);
	KUNIT_EXPECT_EQ(test, folio_split_unmapped(folio, 0), -EAGAIN);
	folio_put(folio);
	atomic_inc(&folio->_large_mapcount);
	atomic_inc(&folio->_entire_mapcount);
	KUNIT_EXPECT_EQ(test, folio_split_unmapped(folio, 0), -EAGAIN);
	atomic_dec(&folio->_entire_mapcount);
	atomic_dec(&folio->_large_mapcount);
	KUNIT_EXPECT_EQ(test, folio_order(folio), HPAGE_PMD_ORDER);
	KUNIT_EXPECT_EQ(test, lt->split_calls + lt->split_ends, 0);
	KUNIT_EXPECT_FALSE(test, irqs_disabled());
	if (IS_ENABLED(CONFIG_VM_EVENT_COUNTERS))
		KUNIT_EXPECT_EQ(test, large_failed_splits(test), failed + 2);
	large_put(folio);

	folio = large_init(lt, 0, HPAGE_PMD_ORDER);
	KUNIT_EXPECT_EQ(test, folio_split_unmapped(folio, 0), -EINVAL);
	large_put(folio);
	expect_all_free(lt);
	large_remove(lt);
}

/* ---- readers without a reference ---- */

/**
 * struct pfn_race - an allocator of all orders, and a walk of its pages
 * @lt: the memory
 * @lock: of @used
 * @used: a bit for each page that is not free
 * @done: the walk is over
 * @wrong_pgmaps: pages that had another pagemap
 * @wrong_folios: folios that were not of a piece, despite a reference
 * @taken: folios that it got a reference to
 * @looks: pages that it looked at
 */
struct pfn_race {
	struct large_test *lt;
	spinlock_t lock;	/* of @used */
	unsigned long *used;
	struct completion done;
	unsigned long wrong_pgmaps;
	unsigned long wrong_folios;
	unsigned long taken;
	unsigned long looks;
};

static struct pfn_race *pfn_race;

static void pfn_race_free(struct large_test *lt, struct folio *folio)
{
	unsigned long flags;

	spin_lock_irqsave(&pfn_race->lock, flags);
	bitmap_clear(pfn_race->used, &folio->page - lt->page,
		     folio_nr_pages(folio));
	spin_unlock_irqrestore(&pfn_race->lock, flags);
}

static bool pfn_race_take(struct pfn_race *race, unsigned long nr,
			  unsigned int order)
{
	unsigned long end = nr + (1UL << order);
	bool taken;

	spin_lock_irq(&race->lock);
	taken = find_next_bit(race->used, end, nr) >= end;
	if (taken)
		bitmap_set(race->used, nr, 1UL << order);
	spin_unlock_irq(&race->lock);
	return taken;
}

/* Who holds a reference finds a folio of a piece. */
static bool pfn_race_folio_is_right(struct pfn_race *race, struct folio *folio,
				    struct page *page)
{
	unsigned int order = folio_order(folio);

	return order <= HPAGE_PMD_ORDER && order != 1 &&
	       folio_nr_pages(folio) == 1UL << order &&
	       IS_ALIGNED(folio_pfn(folio), 1UL << order) &&
	       page - &folio->page < 1L << order &&
	       folio->page.pgmap == race->lt->pgmap;
}

static void pfn_race_look(struct pfn_race *race, struct page *page)
{
	struct folio *folio;

	rcu_read_lock();
	race->wrong_pgmaps += page_pgmap(page) != race->lt->pgmap;
	folio = page_folio(page);
	race->wrong_pgmaps += page_pgmap(&folio->page) != race->lt->pgmap;
	race->looks++;
	if (!folio_try_get(folio)) {
		rcu_read_unlock();
		return;
	}
	rcu_read_unlock();
	if (page_folio(page) == folio) {
		race->taken++;
		race->wrong_folios += !pfn_race_folio_is_right(race, folio,
							       page);
	}
	folio_put(folio);
}

static int pfn_race_walk(void *data)
{
	struct pfn_race *race = data;
	unsigned long nr = 0;

	while (!kthread_should_stop()) {
		pfn_race_look(race, race->lt->page + nr);
		nr = (nr + 1) % LARGE_PAGES;
		if (!nr)
			cond_resched();
	}
	return 0;
}

/* Allocate a folio; split every fourth; free what there is. */
static void pfn_race_turn(struct pfn_race *race, struct rnd_state *rnd)
{
	unsigned int order = large_random_order(rnd);
	unsigned long nr, end;
	struct folio *folio;

	nr = round_down(prandom_u32_state(rnd) % LARGE_PAGES, 1UL << order);
	end = nr + (1UL << order);
	if (!pfn_race_take(race, nr, order))
		return;
	folio = large_init(race->lt, nr, order);
	large_make_anon(race->lt, folio);
	if (order && prandom_u32_state(rnd) % 4 == 0)
		folio_split_unmapped(folio, 0);
	while (nr < end) {
		folio = page_folio(race->lt->page + nr);
		nr += folio_nr_pages(folio);
		large_put(folio);
	}
}

static void pfn_walk_races_with_init_split_and_free(struct kunit *test)
{
	struct large_test *lt = large_create(test, &large_ops);
	unsigned long end = jiffies + 3 * HZ;
	struct task_struct *task;
	struct rnd_state rnd;
	struct pfn_race *race;

	race = kunit_kzalloc(test, sizeof(*race), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, race);
	race->used = kunit_kcalloc(test, BITS_TO_LONGS(LARGE_PAGES),
				   sizeof(long), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, race->used);
	race->lt = lt;
	spin_lock_init(&race->lock);
	pfn_race = race;
	lt->again = pfn_race_free;
	prandom_seed_state(&rnd, 3);

	task = kthread_run(pfn_race_walk, race, "memremap_kunit");
	KUNIT_ASSERT_FALSE(test, IS_ERR(task));
	while (time_before(jiffies, end)) {
		pfn_race_turn(race, &rnd);
		cond_resched();
	}
	kthread_stop(task);
	KUNIT_EXPECT_EQ(test, race->wrong_pgmaps, 0UL);
	KUNIT_EXPECT_EQ(test, race->wrong_folios, 0UL);
	KUNIT_EXPECT_GT(test, race->taken, 0UL);
	kunit_info(test, "%lu pages looked at, %lu folios taken", race->looks,
		   race->taken);
	KUNIT_EXPECT_TRUE(test, bitmap_empty(race->used, LARGE_PAGES));
	large_remove(lt);
}
#endif /* CONFIG_TRANSPARENT_HUGEPAGE && CONFIG_SYSFS */

/* ---- removal waits for all users ---- */

static struct page *take_page(struct dev_pagemap *pgmap, unsigned long pfn)
{
	struct page *page = pfn_to_page(pfn);

	if (counts_from_zero(pgmap->type)) {
		zone_device_page_init(page);
		unlock_page(page);
	} else {
		get_page(page);
	}
	return page;
}

static void removal_waits_for_page(struct kunit *test)
{
	struct memremap_test *t = test->priv;
	struct dev_pagemap *pgmap = param_pgmap(test);
	struct page *first, *last;
	struct removal *removal;

	set_range(pgmap, 1, t->base + 4 * SUB, SUB);
	must_map(t, pgmap);
	first = take_page(pgmap, first_pfn(pgmap, 0) + 3);
	last = take_page(pgmap, last_pfn(pgmap, 1));
	removal = start_removal(t, pgmap);
	expect_waits(t, removal);
	KUNIT_EXPECT_NULL(test, get_dev_pagemap(first_pfn(pgmap, 0), NULL));
	KUNIT_EXPECT_TRUE(test, pfn_is_device_memory(first_pfn(pgmap, 0)));
	KUNIT_EXPECT_NULL(test, pfn_to_online_page(first_pfn(pgmap, 0)));
	put_page(last);
	expect_waits(t, removal);
	KUNIT_EXPECT_PTR_EQ(test, page_pgmap(first), pgmap);
	put_page(first);
	expect_finishes(t, removal);
	free_pgmap(pgmap);
	expect_nothing_left(t);
}

static void removal_waits_for_pagemap_reference(struct kunit *test)
{
	struct memremap_test *t = test->priv;
	struct dev_pagemap *pgmap = param_pgmap(test), *found;
	struct removal *removal;

	must_map(t, pgmap);
	found = get_dev_pagemap(last_pfn(pgmap, 0), NULL);
	KUNIT_ASSERT_PTR_EQ(test, found, pgmap);
	removal = start_removal(t, pgmap);
	expect_waits(t, removal);
	put_dev_pagemap(found);
	expect_finishes(t, removal);
	free_pgmap(pgmap);
	expect_nothing_left(t);
}

/* An entry of the page cache leads to the page without a reference. */
static void removal_waits_for_file_mapping(struct kunit *test)
{
	struct memremap_test *t = test->priv;
	struct dev_pagemap *pgmap = new_pgmap(t, MEMORY_DEVICE_FS_DAX);
	struct address_space mapping = {};
	struct removal *removal;
	struct page *page;

	must_map(t, pgmap);
	page = pfn_to_page(first_pfn(pgmap, 0) + 9);
	WRITE_ONCE(page->mapping, &mapping);
	removal = start_removal(t, pgmap);
	expect_waits(t, removal);
	WRITE_ONCE(page->mapping, NULL);
	expect_finishes(t, removal);
	free_pgmap(pgmap);
	expect_nothing_left(t);
}

/* Every function that puts the last reference */
static void removal_waits_for_batched_puts(struct kunit *test)
{
	struct memremap_test *t = test->priv;
	struct dev_pagemap *pgmap = param_pgmap(test);
	struct folio_batch batch;
	struct removal *removal;
	struct page *pages[8];
	int i;

	must_map(t, pgmap);
	folio_batch_init(&batch);
	for (i = 0; i < ARRAY_SIZE(pages); i++)
		pages[i] = take_page(pgmap, first_pfn(pgmap, 0) + 3 * i);
	for (i = 0; i < 4; i++)
		folio_batch_add(&batch, page_folio(pages[i]));
	removal = start_removal(t, pgmap);
	expect_waits(t, removal);
	folios_put(&batch);
	release_pages(pages + 4, 3);
	expect_waits(t, removal);
	folio_put(page_folio(pages[7]));
	expect_finishes(t, removal);
	free_pgmap(pgmap);
	expect_nothing_left(t);
}

struct putter {
	struct page *page;
	atomic_t stop;
	struct completion done;
};

/* Takes further references while it has one, as splitting a bio does. */
static int put_thread(void *data)
{
	struct putter *putter = data;

	while (!atomic_read(&putter->stop)) {
		get_page(putter->page);
		put_page(putter->page);
		cond_resched();
	}
	put_page(putter->page);
	complete(&putter->done);
	return 0;
}

/* The last put comes at a different moment of each removal. */
static void removal_notices_the_last_put(struct kunit *test)
{
	struct memremap_test *t = test->priv;
	struct dev_pagemap *pgmap = param_pgmap(test);
	struct putter putter;
	struct removal *removal;
	int i;

	for (i = 0; i < 40; i++) {
		must_map(t, pgmap);
		putter.page = take_page(pgmap, first_pfn(pgmap, 0) + i % 8);
		atomic_set(&putter.stop, 0);
		init_completion(&putter.done);
		KUNIT_ASSERT_FALSE(test, IS_ERR(kthread_run(put_thread, &putter,
							    "memremap_put")));
		removal = start_removal(t, pgmap);
		usleep_range(i * 1000, i * 1000 + 100);
		atomic_set(&putter.stop, 1);
		wait_for_completion(&putter.done);
		expect_finishes(t, removal);
	}
	free_pgmap(pgmap);
	expect_nothing_left(t);
}

/* When the removal reports users for the first time, see mm/memremap.c */
#define FIRST_REPORT	(10 * HZ)

/* No check if it took longer to get here. */
static void expect_no_line_before(struct memremap_test *t, unsigned long time)
{
	int matches, lines = count_log("", &matches);

	if (time_before(jiffies, time))
		KUNIT_EXPECT_EQ(t->test, lines, 0);
}

static void wait_for_lines(int nr)
{
	int matches, tries;

	for (tries = 0; tries < 1200 && count_log("", &matches) < nr; tries++)
		msleep(100);
}

static void removal_reports_pinned_page(struct kunit *test)
{
	struct memremap_test *t = test->priv;
	struct dev_pagemap *pgmap = param_pgmap(test);
	struct page *page;
	struct removal *removal;
	unsigned long begun;
	char pfn[40];
	int matches;

	set_range(pgmap, 1, t->base + 4 * SUB, SUB);
	must_map(t, pgmap);
	page = take_page(pgmap, first_pfn(pgmap, 1) + 5);
	page_ref_add(page, GUP_PIN_COUNTING_BIAS);
	snprintf(pfn, sizeof(pfn), "pfn %#lx:", page_to_pfn(page));

	mark_log();
	begun = jiffies;
	removal = start_removal(t, pgmap);
	msleep(8000);
	expect_no_line_before(t, begun + FIRST_REPORT);
	wait_for_lines(2);
	KUNIT_EXPECT_EQ(test, count_log("removal waits", &matches), 2);
	KUNIT_EXPECT_EQ(test, matches, 1);
	count_log(pfn, &matches);
	KUNIT_EXPECT_EQ(test, matches, 1);
	count_log("pinned for DMA", &matches);
	KUNIT_EXPECT_EQ(test, matches, 1);

	page_ref_sub(page, GUP_PIN_COUNTING_BIAS);
	put_page(page);
	expect_finishes(t, removal);
	free_pgmap(pgmap);
}

/* Return: a subsection without RAM in a section that has some, or 0. */
static unsigned long find_hole_in_section(struct mem_section *ms,
					  unsigned long first)
{
	unsigned long pfn;

	for (pfn = first; pfn < first + PAGES_PER_SECTION;
	     pfn += PAGES_PER_SUBSECTION)
		if (!pfn_section_valid(ms, pfn) &&
		    region_intersects(PFN_PHYS(pfn), SUB,
				      IORESOURCE_SYSTEM_RAM,
				      IORES_DESC_NONE) == REGION_DISJOINT)
			return pfn;
	return 0;
}

/* Earlier tests may have raised max_pfn far above all RAM. */
static unsigned long find_hole_beside_ram(void)
{
	unsigned long nr, hole, end = pfn_to_section_nr(max_pfn - 1) + 1;

	for (nr = 0; nr < end; nr++) {
		cond_resched();
		if (!online_section_nr(nr) ||
		    !early_section(__nr_to_section(nr)))
			continue;
		hole = find_hole_in_section(__nr_to_section(nr),
					    section_nr_to_pfn(nr));
		if (hole)
			return hole;
	}
	return 0;
}

/* Also after the pagemap was killed */
static void device_page_beside_ram_is_not_online(struct kunit *test)
{
	struct memremap_test *t = test->priv;
	unsigned long hole = find_hole_beside_ram();
	struct dev_pagemap *pgmap;
	struct removal *removal;
	struct page *page;

	if (!hole)
		kunit_skip(test, "no hole beside RAM, see memmap=");

	pgmap = new_pgmap(t, MEMORY_DEVICE_GENERIC);
	set_range(pgmap, 0, PFN_PHYS(hole), SUB);
	must_map(t, pgmap);
	expect_live_page(t, pgmap, hole);
	page = take_page(pgmap, hole + 3);
	removal = start_removal(t, pgmap);
	expect_waits(t, removal);
	KUNIT_EXPECT_TRUE(test, pfn_valid(hole));
	KUNIT_EXPECT_NULL(test, pfn_to_online_page(hole));
	KUNIT_EXPECT_NULL(test, pfn_to_online_page(hole + 3));
	put_page(page);
	expect_finishes(t, removal);
	KUNIT_EXPECT_NULL(test, pfn_to_online_page(hole));
	KUNIT_EXPECT_FALSE(test, pfn_is_device_memory(hole));
	free_pgmap(pgmap);
}

struct hotplugger {
	atomic_t stop;
	struct completion done;
};

static int hotplug_thread(void *data)
{
	struct hotplugger *hotplugger = data;

	while (!atomic_read(&hotplugger->stop)) {
		mem_hotplug_begin();
		mem_hotplug_done();
		usleep_range(50, 100);
	}
	complete(&hotplugger->done);
	return 0;
}

/*
 * A reader under RCU may read the pagemap of a device page after the last
 * reference was dropped, so the removal must wait for a grace period. The
 * hotplug lock implies one if it was idle. A thread keeps the lock busy, so
 * that only the grace period of the removal itself counts.
 */
static void removal_waits_for_rcu_readers(struct kunit *test)
{
	struct memremap_test *t = test->priv;
	struct dev_pagemap *pgmap, *seen = NULL;
	struct hotplugger hotplugger = {};
	struct removal *removal;
	struct page *page;
	bool done;
	int ret;

	if (num_online_cpus() < 2)
		kunit_skip(test, "needs a second CPU for the removal");

	init_completion(&hotplugger.done);
	KUNIT_ASSERT_FALSE(test, IS_ERR(kthread_run(hotplug_thread, &hotplugger,
						    "memremap_plug")));
	pgmap = param_pgmap(test);
	must_map(t, pgmap);
	page = take_page(pgmap, first_pfn(pgmap, 0));
	removal = start_removal(t, pgmap);
	expect_waits(t, removal);

	rcu_read_lock();
	put_page(page);
	mdelay(400);
	done = completion_done(&removal->done);
	ret = copy_from_kernel_nofault(&seen, &page->pgmap, sizeof(seen));
	rcu_read_unlock();

	atomic_set(&hotplugger.stop, 1);
	wait_for_completion(&hotplugger.done);
	KUNIT_EXPECT_FALSE(test, done);
	KUNIT_EXPECT_EQ(test, ret, 0);
	KUNIT_EXPECT_PTR_EQ(test, seen, pgmap);
	expect_finishes(t, removal);
	free_pgmap(pgmap);
	expect_nothing_left(t);
}

/* ---- devm ---- */

static void devm_pagemap_ends_with_its_device(struct kunit *test)
{
	struct memremap_test *t = test->priv;
	struct dev_pagemap *pgmap = new_pgmap(t, MEMORY_DEVICE_GENERIC);
	struct dev_pagemap *early = new_pgmap(t, MEMORY_DEVICE_PRIVATE);
	struct device *dev = kunit_device_register(test, "memremap_kunit");
	void *addr;

	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, dev);
	set_range(early, 0, t->base + SUB, SUB);
	addr = devm_memremap_pages(dev, pgmap);
	KUNIT_ASSERT_EQ(test, PTR_ERR_OR_ZERO(addr), 0);
	addr = devm_memremap_pages(dev, early);
	KUNIT_ASSERT_EQ(test, PTR_ERR_OR_ZERO(addr), 0);
	addr = devm_memremap_pages(dev, early);
	KUNIT_EXPECT_EQ(test, PTR_ERR_OR_ZERO(addr), -EBUSY);
	expect_live_page(t, pgmap, last_pfn(pgmap, 0));
	expect_live_page(t, early, last_pfn(early, 0));

	devm_memunmap_pages(dev, early);
	expect_pfn_gone(t, first_pfn(early, 0));
	expect_live_page(t, pgmap, last_pfn(pgmap, 0));

	kunit_device_unregister(test, dev);
	expect_pfn_gone(t, first_pfn(pgmap, 0));
	free_pgmap(early);
	free_pgmap(pgmap);
	expect_nothing_left(t);
}

/* ---- the suite ---- */

static int memremap_test_init(struct kunit *test)
{
	struct memremap_test *t = kunit_kzalloc(test, sizeof(*t), GFP_KERNEL);

	if (!t)
		return -ENOMEM;
	t->test = test;
	t->res = request_free_mem_region(&iomem_resource, REGION_SIZE,
					 "memremap_kunit");
	if (IS_ERR(t->res))
		return PTR_ERR(t->res);
	t->base = t->res->start;
	test->priv = t;
	return 0;
}

static void memremap_test_exit(struct kunit *test)
{
	struct memremap_test *t = test->priv;

	if (t)
		release_mem_region(t->base, resource_size(t->res));
}

static struct kunit_case memremap_cases[] = {
	KUNIT_CASE_PARAM(pagemap_is_live_until_removed, type_gen_params),
	KUNIT_CASE_PARAM(every_page_is_initialized, type_gen_params),
	KUNIT_CASE(every_tail_page_is_initialized),
	KUNIT_CASE(pagemap_is_mapped_again),
	KUNIT_CASE(pagemap_has_several_ranges),
	KUNIT_CASE(cached_pagemap_of_other_range_is_released),
	KUNIT_CASE(subsections_are_independent),
	KUNIT_CASE(pagemap_has_compound_pages),
	KUNIT_CASE(last_compound_page_may_be_partial),
	KUNIT_CASE_PARAM(invalid_pagemap_is_refused, bad_gen_params),
	KUNIT_CASE(invalid_node_is_refused),
	KUNIT_CASE(overlapping_range_is_refused),
	KUNIT_CASE(shared_page_of_memory_map_is_refused),
	KUNIT_CASE(range_of_dying_pagemap_is_refused),
	KUNIT_CASE_PARAM(failure_in_third_range_is_undone, type_gen_params),
	KUNIT_CASE(memory_of_others_keeps_its_mapping),
	KUNIT_CASE(failed_allocation_is_undone),
	KUNIT_CASE(one_of_many_callers_gets_the_range),
	KUNIT_CASE(page_is_freed_to_its_driver),
	KUNIT_CASE(freed_folio_keeps_no_user_state),
	KUNIT_CASE(folio_free_comes_before_page_free),
#if defined(CONFIG_TRANSPARENT_HUGEPAGE) && defined(CONFIG_SYSFS)
	KUNIT_CASE_PARAM(page_is_reused_in_any_order, free_variant_gen_params),
	KUNIT_CASE_PARAM(memory_is_handed_out_in_folio_free, again_gen_params),
	KUNIT_CASE(large_folio_holds_one_reference_per_page),
	KUNIT_CASE(large_folio_handed_out_late_is_waited_for),
	KUNIT_CASE(large_folio_is_counted_until_freed),
	KUNIT_CASE(device_folio_is_not_queued_for_split),
	KUNIT_CASE_PARAM(refused_order_is_handed_out_as_a_page,
			 refusal_gen_params),
	KUNIT_CASE(folio_beyond_the_pagemap_is_refused),
	KUNIT_CASE_PARAM(split_folio_is_freed_in_parts, split_order_gen_params),
	KUNIT_CASE_PARAM(driver_is_told_of_each_new_folio,
			 split_order_gen_params),
	KUNIT_CASE(split_is_refused),
	KUNIT_CASE(pfn_walk_races_with_init_split_and_free),
#endif
	KUNIT_CASE(p2pdma_page_is_freed_with_idle_count),
	KUNIT_CASE(extra_put_is_reported),
	KUNIT_CASE(extra_put_leaves_compound_page_alone),
	KUNIT_CASE(page_handed_out_late_is_waited_for),
	KUNIT_CASE_PARAM(removal_waits_for_page, type_gen_params),
	KUNIT_CASE_PARAM(removal_waits_for_pagemap_reference, type_gen_params),
	KUNIT_CASE(removal_waits_for_file_mapping),
	KUNIT_CASE_PARAM(removal_waits_for_batched_puts, type_gen_params),
	KUNIT_CASE_PARAM(removal_notices_the_last_put, type_gen_params),
	KUNIT_CASE(device_page_beside_ram_is_not_online),
	KUNIT_CASE_PARAM(removal_waits_for_rcu_readers, type_gen_params),
	KUNIT_CASE_PARAM_ATTR(removal_reports_pinned_page, two_type_gen_params,
			      { .speed = KUNIT_SPEED_SLOW }),
	KUNIT_CASE(devm_pagemap_ends_with_its_device),
	{}
};

static struct kunit_suite memremap_suite = {
	.name = "memremap",
	.init = memremap_test_init,
	.exit = memremap_test_exit,
	.test_cases = memremap_cases,
};

kunit_test_suite(memremap_suite);

MODULE_DESCRIPTION("KUnit suite of device memory hotplug and lifetime");
MODULE_LICENSE("GPL");
