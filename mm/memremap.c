// SPDX-License-Identifier: GPL-2.0-only
/*
 * Device memory: hotplug into ZONE_DEVICE, the lifetime of a dev_pagemap, and
 * allocation and freeing of device folios.
 *
 * A pagemap owns its physical ranges from memremap_pages() until
 * memunmap_pages() returns. pgmap_array has the state of each page frame:
 *
 *	nothing ----> claimed ----> live ----> claimed ----> nothing
 *	         check       plug in     drain        remove
 *
 * A claimed frame may or may not have a memory map, so lookups find no pagemap
 * there. It still counts as device memory, so that it is not taken for online
 * System RAM of the same section. A claim is the first side effect of
 * memremap_pages() and the last that is undone. A live frame has an initialised
 * struct page, and its entry is the pagemap.
 *
 * Reference counts. Lookups hold a short-term reference to dev_pagemap.ref. A
 * folio of 2^n pages of private or coherent memory holds 2^n references from
 * zone_device_folio_init() to the end of free_zone_device_folio(); while it is
 * free, its own reference count is zero. Pages of the other types always exist.
 * They have a count of one when idle and hold no reference to the pagemap:
 * their users only raise the count of the page. PCI peer-to-peer memory also
 * holds a reference to the pagemap for each allocation, as an allocated page
 * may have a count of one.
 *
 * Folios. A folio of 2^n pages stores its pagemap in word 1 of the first page.
 * In the tail pages that word points to the first page, and the next words of
 * the first two tail pages hold counters and a list. free_zone_device_folio()
 * and a split give each page its own state back: a free page of private or
 * coherent memory has its pagemap, no mapping, no private data, no mapcount and
 * no anonymous-exclusive mark, whatever its last folio was. So any aligned run
 * of free pages can be the next folio.
 *
 * Two things are still those of the last folio, as folio_order() must work in
 * folio_free(): PG_head of its first page, and the order in its second page,
 * which shares its storage with PG_locked. No one may test these in a free
 * page. zone_device_folio_init() resets both in each page that it takes, and
 * not in the others: the callback may already have handed those out.
 *
 * Word 1 of a page changes from a pagemap to a pointer to a page of the same
 * pagemap or back, and each change is one store. Hence page_pgmap() works
 * without a reference, while the folio of the page is initialised, split or
 * freed.
 *
 * Removal, in this order:
 *  1. Change the frames from live to claimed and kill the ref. From now on no
 *     lookup gets a reference, so none turns a page-table entry into a
 *     reference to a page. (The driver has unmapped the memory and does not map
 *     it again. Page-table entries without the devmap bit, which need no
 *     lookup, hold a reference to the page.)
 *  2. Wait for the ref to drop to zero. No lookup is running any more, and page
 *     counts can only fall. Hence checking each page once is enough: an idle
 *     page stays idle.
 *  3. Wait for each page that has an idle count of one. Dropping the last
 *     reference to a page of generic memory wakes nobody, so sleep for a
 *     bounded time and check again. The wakeup of file system DAX only shortens
 *     that sleep, so it does not matter if it is missed. A page of file system
 *     DAX is also in use while it belongs to a file: the entries of the file
 *     hold no reference, but lead to the struct page. A file system that keeps
 *     its files when the device goes away blocks removal until it is unmounted.
 *  4. Wait for a grace period. Page-table walks read page->pgmap under RCU
 *     without a reference, and a task that dropped the last reference may still
 *     be in put_page(), or one that removed the page from its file may still
 *     use it.
 *  5. Remove the memory map and the linear mapping, then the claims.
 *
 * Locks: pgmap_claim_mutex makes the check for a conflict and the claim atomic.
 * Only the lock of the array nests inside. The hotplug lock is taken alone.
 */
#define pr_fmt(fmt) "memremap: " fmt

#include <linux/cleanup.h>
#include <linux/device.h>
#include <linux/kasan.h>
#include <linux/memcontrol.h>
#include <linux/memory_hotplug.h>
#include <linux/memremap.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/nodemask.h>
#include <linux/wait_bit.h>
#include <linux/xarray.h>
#include "internal.h"

/* Rules that each type has */
#define KIND_BUILT_IN		BIT(0)
#define KIND_NEEDS_OWNER	BIT(1)
#define KIND_NEEDS_FREE		BIT(2)
#define KIND_NEEDS_MIGRATE	BIT(3)
#define KIND_CPU_MAPPED		BIT(4)	/* part of the linear mapping */

#define KIND_IF(cond)		((cond) ? KIND_BUILT_IN : 0)

struct pgmap_kind {
	const char *name;
	unsigned int rules;
};

static const struct pgmap_kind pgmap_kinds[] = {
	[0] = { "unknown", 0 },
	[MEMORY_DEVICE_PRIVATE] = {
		"private", KIND_IF(IS_ENABLED(CONFIG_DEVICE_PRIVATE)) |
		KIND_NEEDS_OWNER | KIND_NEEDS_FREE | KIND_NEEDS_MIGRATE,
	},
	[MEMORY_DEVICE_COHERENT] = {
		"coherent", KIND_BUILT_IN | KIND_CPU_MAPPED |
		KIND_NEEDS_OWNER | KIND_NEEDS_FREE,
	},
	[MEMORY_DEVICE_FS_DAX] = {
		"fs-dax", KIND_IF(!IS_ENABLED(CONFIG_FS_DAX_LIMITED)) |
		KIND_CPU_MAPPED,
	},
	[MEMORY_DEVICE_GENERIC] = {
		"generic", KIND_BUILT_IN | KIND_CPU_MAPPED,
	},
	[MEMORY_DEVICE_PCI_P2PDMA] = {
		"p2pdma", KIND_BUILT_IN | KIND_CPU_MAPPED | KIND_NEEDS_FREE,
	},
};

/* The limit of a pagemap from kmalloc() */
#define PGMAP_MAX_RANGES	(KMALLOC_MAX_SIZE / sizeof(struct range))
#define PGMAP_MAX_SHIFT		ilog2(MAX_FOLIO_NR_PAGES)

/*
 * Folios of private and coherent memory hold anonymous memory only, so their
 * orders are those of anonymous memory: 0, and 2 to the order of a PMD. Order 1
 * has no page for the list of the deferred split.
 */
#ifdef CONFIG_TRANSPARENT_HUGEPAGE
#define PGMAP_MAX_FOLIO_ORDER	HPAGE_PMD_ORDER
#else
#define PGMAP_MAX_FOLIO_ORDER	0
#endif

#define PGMAP_POLL_PERIOD	(HZ / 10)
#define PGMAP_FIRST_REPORT	(10 * HZ)
#define PGMAP_REPORT_PERIOD	(60 * HZ)
#define PGMAP_REPORT_FOLIOS	4

/* Number of pages between two calls of cond_resched() */
#define PGMAP_PASS_BATCH	PAGES_PER_SUBSECTION

#define PGMAP_CLAIMED		xa_mk_value(0)

static DEFINE_XARRAY(pgmap_array);
static DEFINE_MUTEX(pgmap_claim_mutex);

static const struct pgmap_kind *pgmap_kind(const struct dev_pagemap *pgmap)
{
	unsigned int type = pgmap->type;

	return &pgmap_kinds[type < ARRAY_SIZE(pgmap_kinds) ? type : 0];
}

static bool pgmap_has_rule(const struct dev_pagemap *pgmap, unsigned int rule)
{
	return pgmap_kind(pgmap)->rules & rule;
}

static bool pgmap_counts_from_zero(const struct dev_pagemap *pgmap)
{
	return pgmap->type == MEMORY_DEVICE_PRIVATE ||
	       pgmap->type == MEMORY_DEVICE_COHERENT;
}

static bool pgmap_can_free(const struct dev_pagemap *pgmap)
{
	return pgmap->ops && (pgmap->ops->folio_free || pgmap->ops->page_free);
}

/* ---- ranges of a pagemap ---- */

static unsigned long range_pfn(const struct range *range)
{
	return PHYS_PFN(range->start);
}

static unsigned long range_nr_pages(const struct range *range)
{
	return PHYS_PFN(range_len(range));
}

static unsigned long range_end_pfn(const struct range *range)
{
	return range_pfn(range) + range_nr_pages(range);
}

/* The first page behind a memory map that lies in the range itself. */
static unsigned long pgmap_first_pfn(struct dev_pagemap *pgmap, int i)
{
	unsigned long pfn = range_pfn(&pgmap->ranges[i]);

	return i ? pfn : pfn + vmem_altmap_offset(pgmap_altmap(pgmap));
}

static int pgmap_find_range(const struct dev_pagemap *pgmap, unsigned long pfn)
{
	int i;

	for (i = 0; i < pgmap->nr_range; i++) {
		const struct range *range = &pgmap->ranges[i];

		if (pfn - range_pfn(range) < range_nr_pages(range))
			return i;
	}
	return -1;
}

/**
 * pgmap_pfn_valid - check for a device page at a page frame
 * @pgmap: a pagemap for which memremap_pages() succeeded
 * @pfn: any page frame number
 *
 * Context: Any. The caller holds a reference to @pgmap or prevents its removal.
 * Return: true if @pfn is in a range of @pgmap and not part of its memory map
 */
bool pgmap_pfn_valid(struct dev_pagemap *pgmap, unsigned long pfn)
{
	int i = pgmap_find_range(pgmap, pfn);

	return i >= 0 && pfn >= pgmap_first_pfn(pgmap, i);
}

#ifndef CONFIG_ARCH_HAS_MEMREMAP_COMPAT_ALIGN
/**
 * memremap_compat_align - alignment of a namespace for all uses
 *
 * memremap() takes single pages, memremap_pages() does not. Persistent memory
 * works with both if its start and size are multiples of this alignment.
 *
 * Return: the alignment in bytes
 */
unsigned long memremap_compat_align(void)
{
	return SUBSECTION_SIZE;
}
EXPORT_SYMBOL_GPL(memremap_compat_align);
#endif

/* ---- validation of a pagemap ---- */

/* Log why a pagemap is refused. Return: @error, for the caller to return. */
static int pgmap_refuse(const struct dev_pagemap *pgmap, int i, int error,
			const char *why)
{
	const struct range *range = &pgmap->ranges[i];

	pr_err("%s pagemap (type %d) [mem %#llx-%#llx]: %s (%d)\n",
	       pgmap_kind(pgmap)->name, pgmap->type, range->start, range->end,
	       why, error);
	return error;
}

static int pgmap_check_kind(const struct dev_pagemap *pgmap)
{
	const struct dev_pagemap_ops *ops = pgmap->ops;
	const char *why = NULL;

	if (!pgmap_has_rule(pgmap, KIND_BUILT_IN))
		why = "unknown type, or not supported by this kernel";
	else if (pgmap_has_rule(pgmap, KIND_NEEDS_OWNER) && !pgmap->owner)
		why = "no owner";
	else if (pgmap_has_rule(pgmap, KIND_NEEDS_FREE) &&
		 !pgmap_can_free(pgmap))
		why = "no folio_free() or page_free()";
	else if (pgmap_has_rule(pgmap, KIND_NEEDS_MIGRATE) &&
		 !ops->migrate_to_ram)
		why = "no migrate_to_ram()";

	return why ? pgmap_refuse(pgmap, 0, -EINVAL, why) : 0;
}

static int pgmap_check_layout(struct dev_pagemap *pgmap, int nid)
{
	const char *why = NULL;

	if (pgmap->nr_range < 1 || pgmap->nr_range > PGMAP_MAX_RANGES)
		why = "invalid number of ranges";
	else if (pgmap->flags & ~PGMAP_ALTMAP_VALID)
		why = "unknown flags";
	else if (pgmap->vmemmap_shift > PGMAP_MAX_SHIFT)
		why = "vmemmap_shift is too large";
	else if (pgmap->vmemmap_shift && pgmap_counts_from_zero(pgmap))
		why = "vmemmap_shift is not supported for this type";
	else if (nid >= MAX_NUMNODES || (nid >= 0 && !node_possible(nid)))
		why = "no such node";

	return why ? pgmap_refuse(pgmap, 0, -EINVAL, why) : 0;
}

static int pgmap_check_altmap(struct dev_pagemap *pgmap)
{
	const struct vmem_altmap *altmap = pgmap_altmap(pgmap);
	unsigned long nr = range_nr_pages(&pgmap->range);
	const char *why = NULL;

	if (!altmap)
		return 0;

	if (!pgmap_has_rule(pgmap, KIND_CPU_MAPPED))
		why = "no CPU can write a memory map to this memory";
	else if (pgmap->nr_range > 1)
		why = "an altmap requires a single range";
	else if (altmap->base_pfn != range_pfn(&pgmap->range))
		why = "the altmap does not start with the range";
	else if (altmap->reserve >= nr || altmap->free >= nr - altmap->reserve)
		why = "the altmap leaves no page of the range";

	return why ? pgmap_refuse(pgmap, 0, -EINVAL, why) : 0;
}

static int pgmap_check_range(struct dev_pagemap *pgmap, int i)
{
	const struct range *range = &pgmap->ranges[i];
	struct range limit =
		mhp_get_pluggable_range(pgmap_has_rule(pgmap, KIND_CPU_MAPPED));

	if (range->start > range->end)
		return pgmap_refuse(pgmap, i, -EINVAL,
				    "the range is empty or wraps around");
	if (!IS_ALIGNED(range->start | (range->end + 1), SUBSECTION_SIZE))
		return pgmap_refuse(pgmap, i, -EINVAL,
				    "the range is not aligned to subsections");
	if (range->start < limit.start || range->end > limit.end)
		return pgmap_refuse(pgmap, i, -EINVAL,
				    "the range exceeds the addressable memory");
	if (region_intersects(range->start, range_len(range),
			      IORESOURCE_SYSTEM_RAM,
			      IORES_DESC_NONE) != REGION_DISJOINT)
		return pgmap_refuse(pgmap, i, -ENXIO,
				    "the range overlaps System RAM");
	return 0;
}

/*
 * Refuse a range that ends within a compound page whose tail pages share their
 * memory map: the next range would share it, too. With an altmap nothing is
 * shared, so the altmap must have been checked before. Accept a page of at
 * least a section: ranges of device DAX may end within a page of 1 GiB.
 */
static int pgmap_check_compound(struct dev_pagemap *pgmap, int i)
{
	unsigned long nr = range_end_pfn(&pgmap->ranges[i]) -
			   pgmap_first_pfn(pgmap, i);

	if (IS_ALIGNED(nr, pgmap_vmemmap_nr(pgmap)) ||
	    pgmap->vmemmap_shift >= PFN_SECTION_SHIFT ||
	    !vmemmap_can_optimize(pgmap_altmap(pgmap), pgmap))
		return 0;
	return pgmap_refuse(pgmap, i, -EINVAL,
			    "the range ends within a compound page");
}

static int pgmap_check(struct dev_pagemap *pgmap, int nid)
{
	int ret, i;

	ret = pgmap_check_kind(pgmap);
	if (!ret)
		ret = pgmap_check_layout(pgmap, nid);
	for (i = 0; !ret && i < pgmap->nr_range; i++)
		ret = pgmap_check_range(pgmap, i);
	if (!ret)
		ret = pgmap_check_altmap(pgmap);
	for (i = 0; !ret && i < pgmap->nr_range; i++)
		ret = pgmap_check_compound(pgmap, i);
	return ret;
}

/* ---- ownership of page frames ---- */

static int pgmap_array_store(const struct range *range, void *entry)
{
	return xa_err(xa_store_range(&pgmap_array, range_pfn(range),
				     range_end_pfn(range) - 1, entry,
				     GFP_KERNEL));
}

static void pgmap_release_claim(const struct range *range)
{
	pgmap_array_store(range, NULL);
}

static const char *pgmap_conflict(const struct dev_pagemap *pgmap, int i)
{
	const struct range *range = &pgmap->ranges[i];

	while (i--) {
		const struct range *other = &pgmap->ranges[i];

		if (range->start <= other->end && other->start <= range->end)
			return "the range overlaps another one of the pagemap";
	}
	return "the range overlaps other device memory";
}

/*
 * Page frames whose struct pages are in one page of the memory map. With base
 * pages of 64 KiB these are more than a subsection.
 */
static unsigned long pgmap_map_unit(void)
{
	unsigned long nr = PAGE_SIZE / sizeof(struct page);

	return max(PAGES_PER_SUBSECTION, roundup_pow_of_two(nr));
}

/*
 * Return: why the range cannot be claimed, or NULL if it can. Removal frees
 * whole pages of the memory map, so no other range may have a part of them.
 */
static const char *pgmap_claimed(const struct dev_pagemap *pgmap, int i)
{
	const struct range *range = &pgmap->ranges[i];
	unsigned long unit = pgmap_map_unit();
	unsigned long first = range_pfn(range), end = range_end_pfn(range);

	if (xa_find(&pgmap_array, &first, end - 1, XA_PRESENT))
		return pgmap_conflict(pgmap, i);
	first = round_down(range_pfn(range), unit);
	if (xa_find(&pgmap_array, &first, round_up(end, unit) - 1, XA_PRESENT))
		return "the range shares a page of the memory map";
	return NULL;
}

static int pgmap_claim(const struct dev_pagemap *pgmap, int i)
{
	const struct range *range = &pgmap->ranges[i];
	const char *why;
	int ret;

	guard(mutex)(&pgmap_claim_mutex);
	why = pgmap_claimed(pgmap, i);
	if (why)
		return pgmap_refuse(pgmap, i, -EBUSY, why);

	ret = pgmap_array_store(range, PGMAP_CLAIMED);
	if (!ret)
		return 0;
	/* part of the range may have been stored */
	pgmap_release_claim(range);
	return pgmap_refuse(pgmap, i, ret, "no memory to claim the range");
}

static void pgmap_release_claims(const struct dev_pagemap *pgmap, int nr)
{
	int i;

	for (i = 0; i < nr; i++)
		pgmap_release_claim(&pgmap->ranges[i]);
}

static int pgmap_claim_all(const struct dev_pagemap *pgmap)
{
	int ret, i;

	for (i = 0; i < pgmap->nr_range; i++) {
		ret = pgmap_claim(pgmap, i);
		if (ret) {
			pgmap_release_claims(pgmap, i);
			return ret;
		}
	}
	return 0;
}

/*
 * Change the ranges from claimed to live or back. This cannot fail: the claims
 * have allocated the nodes of the xarray.
 */
static void pgmap_replace_entries(const struct dev_pagemap *pgmap, void *entry)
{
	int i;

	for (i = 0; i < pgmap->nr_range; i++)
		WARN_ON_ONCE(pgmap_array_store(&pgmap->ranges[i], entry));
}

/**
 * pfn_is_device_memory - check whether a pagemap owns a page frame
 * @pfn: any page frame number
 *
 * Context: Any.
 * Return: true from before memremap_pages() plugs memory in at @pfn until after
 * its removal, whether or not the memory can be used
 */
bool pfn_is_device_memory(unsigned long pfn)
{
	return xa_load(&pgmap_array, pfn);
}

/**
 * get_dev_pagemap - find the pagemap of a page frame
 * @pfn: any page frame number
 * @pgmap: NULL, or the result of an earlier call for another page frame
 *
 * A caller that iterates over page frames passes the previous result in @pgmap.
 * If that pagemap owns @pfn as well, it is returned without a lookup, and the
 * caller keeps its reference. If not, the reference to @pgmap is dropped.
 *
 * Context: Any but NMI.
 * Return: the live pagemap of @pfn with a reference; NULL if there is none or
 * its removal has begun
 */
struct dev_pagemap *get_dev_pagemap(unsigned long pfn,
				    struct dev_pagemap *pgmap)
{
	void *entry;

	if (pgmap) {
		if (pgmap_find_range(pgmap, pfn) >= 0)
			return pgmap;
		put_dev_pagemap(pgmap);
	}

	guard(rcu)();
	entry = xa_load(&pgmap_array, pfn);
	if (!entry || entry == PGMAP_CLAIMED)
		return NULL;
	pgmap = entry;
	return percpu_ref_tryget_live_rcu(&pgmap->ref) ? pgmap : NULL;
}
EXPORT_SYMBOL_GPL(get_dev_pagemap);

/* ---- plugging in and removing ---- */

static pgprot_t pgmap_pgprot(const struct dev_pagemap *pgmap)
{
	switch (pgmap->type) {
	case MEMORY_DEVICE_FS_DAX:
		return pgprot_decrypted(PAGE_KERNEL);
	case MEMORY_DEVICE_PCI_P2PDMA:
		return pgprot_noncached(PAGE_KERNEL);
	default:
		return PAGE_KERNEL;
	}
}

static int plug_cpu_mapped(const struct range *range, int nid,
			   struct mhp_params *params)
{
	u64 size = range_len(range);
	void *start = __va(range->start);
	int ret;

	ret = kasan_add_zero_shadow(start, size);
	if (ret)
		return ret;
	ret = arch_add_memory(nid, range->start, size, params);
	if (ret)
		kasan_remove_zero_shadow(start, size);
	return ret;
}

/* Add the memory map, a linear mapping if CPUs can access it, and the zone. */
static int plug_into_zone(const struct range *range, int nid,
			  struct mhp_params *params)
{
	unsigned long pfn = range_pfn(range), nr = range_nr_pages(range);
	int ret;

	mem_hotplug_begin();
	if (pgmap_has_rule(params->pgmap, KIND_CPU_MAPPED))
		ret = plug_cpu_mapped(range, nid, params);
	else
		ret = add_pages(nid, pfn, nr, params);
	if (!ret)
		move_pfn_range_to_zone(&NODE_DATA(nid)->node_zones[ZONE_DEVICE],
				       pfn, nr, params->altmap,
				       MIGRATE_MOVABLE);
	mem_hotplug_done();
	return ret;
}

static int pgmap_plug(struct dev_pagemap *pgmap, int i, int nid)
{
	const struct range *range = &pgmap->ranges[i];
	struct mhp_params params = {
		.altmap = pgmap_altmap(pgmap),
		.pgmap = pgmap,
		.pgprot = pgmap_pgprot(pgmap),
	};
	int ret;

	ret = track_pfn_remap(NULL, &params.pgprot, range_pfn(range), 0,
			      range_len(range));
	if (ret)
		return ret;

	ret = plug_into_zone(range, nid, &params);
	if (ret) {
		untrack_pfn(NULL, range_pfn(range), range_len(range), true);
		return ret;
	}

	/* slow for large ranges, therefore outside the hotplug lock */
	memmap_init_zone_device(&NODE_DATA(nid)->node_zones[ZONE_DEVICE],
				range_pfn(range), range_nr_pages(range), pgmap);
	return 0;
}

static void pgmap_unplug(struct dev_pagemap *pgmap, int i)
{
	const struct range *range = &pgmap->ranges[i];
	unsigned long pfn = range_pfn(range), nr = range_nr_pages(range);
	struct page *page = pfn_to_page(pgmap_first_pfn(pgmap, i));

	mem_hotplug_begin();
	remove_pfn_range_from_zone(page_zone(page), pfn, nr);
	if (pgmap_has_rule(pgmap, KIND_CPU_MAPPED)) {
		arch_remove_memory(range->start, range_len(range),
				   pgmap_altmap(pgmap), pgmap);
		kasan_remove_zero_shadow(__va(range->start), range_len(range));
	} else {
		__remove_pages(pfn, nr, NULL, pgmap);
	}
	mem_hotplug_done();

	untrack_pfn(NULL, pfn, range_len(range), true);
}

/* Unplug the first @nr ranges, which are idle, after a grace period. */
static void pgmap_unplug_ranges(struct dev_pagemap *pgmap, int nr)
{
	struct vmem_altmap *altmap = pgmap_altmap(pgmap);
	int i;

	for (i = 0; i < nr; i++)
		pgmap_unplug(pgmap, i);
	if (!altmap)
		return;
	WARN_ONCE(altmap->alloc, "altmap still has pages in use\n");
	altmap->align = 0;
}

static int pgmap_plug_all(struct dev_pagemap *pgmap, int nid)
{
	const int nr_range = pgmap->nr_range;
	int ret = 0, i;

	for (i = 0; i < nr_range; i++) {
		/* vmemmap code takes the current range from nr_range */
		pgmap->nr_range = i;
		ret = pgmap_plug(pgmap, i, nid);
		if (ret)
			break;
	}
	pgmap->nr_range = nr_range;
	if (!ret)
		return 0;

	pgmap_refuse(pgmap, i, ret, "memory cannot be plugged in");
	synchronize_rcu();
	pgmap_unplug_ranges(pgmap, i);
	return ret;
}

/* ---- waiting for idle pages ---- */

struct pgmap_drain {
	struct dev_pagemap *pgmap;
	unsigned long begun;		/* jiffies */
	unsigned long next_report;	/* jiffies */
};

static int pgmap_idle_count(const struct dev_pagemap *pgmap)
{
	return pgmap_counts_from_zero(pgmap) ? 0 : 1;
}

static bool folio_belongs_to_file(const struct dev_pagemap *pgmap,
				  struct folio *folio)
{
	return pgmap->type == MEMORY_DEVICE_FS_DAX && READ_ONCE(folio->mapping);
}

static bool folio_has_users(const struct dev_pagemap *pgmap,
			    struct folio *folio)
{
	return folio_ref_count(folio) > pgmap_idle_count(pgmap) ||
	       folio_belongs_to_file(pgmap, folio);
}

static void report_folio(const struct dev_pagemap *pgmap, struct folio *folio)
{
	pr_warn("  pfn %#lx: %s, order %u, refcount %d%s%s\n", folio_pfn(folio),
		pgmap_kind(pgmap)->name, folio_order(folio),
		folio_ref_count(folio),
		folio_maybe_dma_pinned(folio) ? ", pinned for DMA" : "",
		folio_belongs_to_file(pgmap, folio) ? ", part of a file" : "");
}

/* Report up to @left folios that are in use. Return: their number. */
static int report_range(struct dev_pagemap *pgmap, int i, int left)
{
	unsigned long pfn = pgmap_first_pfn(pgmap, i);
	unsigned long end = range_end_pfn(&pgmap->ranges[i]);
	int found = 0;

	for (; pfn < end && found < left; pfn += pgmap_vmemmap_nr(pgmap)) {
		struct page *page = pfn_to_page(pfn);

		if (!(pfn % PGMAP_PASS_BATCH))
			cond_resched();
		if (PageTail(page))
			continue;
		if (!folio_has_users(pgmap, page_folio(page)))
			continue;
		report_folio(pgmap, page_folio(page));
		found++;
	}
	return found;
}

static void pgmap_drain_report(struct pgmap_drain *drain)
{
	struct dev_pagemap *pgmap = drain->pgmap;
	int i, found = 0;

	if (time_before(jiffies, drain->next_report))
		return;

	pr_warn("%s pagemap [mem %#llx-%#llx]: removal waits for users for %u s\n",
		pgmap_kind(pgmap)->name, pgmap->range.start, pgmap->range.end,
		jiffies_to_msecs(jiffies - drain->begun) / 1000);
	for (i = 0; i < pgmap->nr_range && found < PGMAP_REPORT_FOLIOS; i++)
		found += report_range(pgmap, i, PGMAP_REPORT_FOLIOS - found);
	if (!found)
		pr_warn("  no page is in use, but the pagemap is referenced\n");
	drain->next_report = jiffies + PGMAP_REPORT_PERIOD;
}

static void pgmap_drain_folio(struct pgmap_drain *drain, struct folio *folio)
{
	while (!wait_var_event_timeout(&folio->_refcount,
				       !folio_has_users(drain->pgmap, folio),
				       PGMAP_POLL_PERIOD))
		pgmap_drain_report(drain);
}

static void pgmap_drain_range(struct pgmap_drain *drain, int i)
{
	struct dev_pagemap *pgmap = drain->pgmap;
	unsigned long pfn = pgmap_first_pfn(pgmap, i);
	unsigned long end = range_end_pfn(&pgmap->ranges[i]);

	for (; pfn < end; pfn += pgmap_vmemmap_nr(pgmap)) {
		pgmap_drain_folio(drain, pfn_folio(pfn));
		if (!(pfn % PGMAP_PASS_BATCH))
			cond_resched();
	}
}

static void pgmap_drain(struct dev_pagemap *pgmap)
{
	struct pgmap_drain drain = {
		.pgmap = pgmap,
		.begun = jiffies,
		.next_report = jiffies + PGMAP_FIRST_REPORT,
	};
	int i;

	percpu_ref_kill(&pgmap->ref);
	while (!wait_for_completion_timeout(&pgmap->done, PGMAP_FIRST_REPORT))
		pgmap_drain_report(&drain);

	if (pgmap_counts_from_zero(pgmap))
		return;
	for (i = 0; i < pgmap->nr_range; i++)
		pgmap_drain_range(&drain, i);
}

static void pgmap_ref_release(struct percpu_ref *ref)
{
	complete(&container_of(ref, struct dev_pagemap, ref)->done);
}

/* ---- FS_DAX: wakeup when a page becomes idle ---- */

#ifdef CONFIG_FS_DAX
DEFINE_STATIC_KEY_FALSE(devmap_managed_key);
EXPORT_SYMBOL(devmap_managed_key);

static void pgmap_watch_puts(const struct dev_pagemap *pgmap)
{
	if (pgmap->type == MEMORY_DEVICE_FS_DAX)
		static_branch_inc(&devmap_managed_key);
}

static void pgmap_unwatch_puts(const struct dev_pagemap *pgmap)
{
	if (pgmap->type == MEMORY_DEVICE_FS_DAX)
		static_branch_dec(&devmap_managed_key);
}

/*
 * The slow path of put_devmap_managed_folio_refs(). Do not access the folio
 * after dropping the references: its memory map may be freed.
 */
bool __put_devmap_managed_folio_refs(struct folio *folio, int refs)
{
	struct dev_pagemap *pgmap = page_pgmap(&folio->page);
	bool managed = pgmap->type == MEMORY_DEVICE_FS_DAX;

	if (managed && folio_ref_sub_return(folio, refs) == 1)
		wake_up_var(&folio->_refcount);
	return managed;
}
EXPORT_SYMBOL(__put_devmap_managed_folio_refs);
#else
static void pgmap_watch_puts(const struct dev_pagemap *pgmap) { }
static void pgmap_unwatch_puts(const struct dev_pagemap *pgmap) { }
#endif /* CONFIG_FS_DAX */

/* ---- the lifetime of a pagemap ---- */

static int pgmap_begin(struct dev_pagemap *pgmap)
{
	int ret;

	init_completion(&pgmap->done);
	ret = percpu_ref_init(&pgmap->ref, pgmap_ref_release, 0, GFP_KERNEL);
	if (ret)
		return pgmap_refuse(pgmap, 0, ret, "no memory for the ref");
	pgmap_watch_puts(pgmap);
	return 0;
}

static void pgmap_end(struct dev_pagemap *pgmap)
{
	pgmap_unwatch_puts(pgmap);
	percpu_ref_exit(&pgmap->ref);
}

/**
 * memremap_pages - create struct pages for device memory
 * @pgmap: describes the memory; must stay unchanged until memunmap_pages()
 * @nid: the node of the memory, or NUMA_NO_NODE for the local one
 *
 * Each range must consist of whole subsections (2 MiB on most architectures).
 * The caller must have requested its physical addresses.
 *
 * On success @pgmap is live, its pages are initialised, and the callbacks of
 * @pgmap may be called. Pages of private and coherent memory are free, with a
 * reference count of zero; other pages are idle, with a count of one.
 *
 * On failure all changes are undone, @pgmap is as before the call, and one line
 * in the log has the reason.
 *
 * Context: Process context, may sleep. Takes the memory hotplug lock.
 * Return: the address of the first range in the linear mapping (private memory
 * has none, do not access that address), or an ERR_PTR:
 * -EINVAL: @pgmap is not valid, or there is no node @nid;
 * -ENXIO: a range overlaps System RAM;
 * -EBUSY: a range overlaps another range of this or of another pagemap, or its
 * struct pages share a base page with those of another range;
 * -EEXIST: part of the memory already has a memory map;
 * -ENOMEM: out of memory;
 * or an error of the memory hotplug of the architecture
 */
void *memremap_pages(struct dev_pagemap *pgmap, int nid)
{
	int ret;

	ret = pgmap_check(pgmap, nid);
	if (ret)
		return ERR_PTR(ret);
	ret = pgmap_claim_all(pgmap);
	if (ret)
		return ERR_PTR(ret);

	ret = pgmap_begin(pgmap);
	if (ret)
		goto release;
	ret = pgmap_plug_all(pgmap, nid < 0 ? numa_mem_id() : nid);
	if (ret)
		goto end;

	pgmap_replace_entries(pgmap, pgmap);
	return __va(pgmap->range.start);
end:
	pgmap_end(pgmap);
release:
	pgmap_release_claims(pgmap, pgmap->nr_range);
	return ERR_PTR(ret);
}
EXPORT_SYMBOL_GPL(memremap_pages);

/**
 * memunmap_pages - remove device memory
 * @pgmap: a pagemap for which memremap_pages() succeeded
 *
 * The driver must prevent new references before the call: it does not allocate
 * pages any more, and has unmapped the memory from all processes for good.
 *
 * Wait, uninterruptibly, until all references to the pagemap are dropped and
 * all pages are idle. After ten seconds, and then every minute, the log reports
 * pages that are still in use. Afterwards the caller may free @pgmap or pass it
 * to memremap_pages() again.
 *
 * Context: Process context, sleeps. Takes the memory hotplug lock. The caller
 * must not hold a reference to the memory, nor a lock that others need to drop
 * theirs.
 */
void memunmap_pages(struct dev_pagemap *pgmap)
{
	pgmap_replace_entries(pgmap, PGMAP_CLAIMED);
	pgmap_drain(pgmap);
	/* Expedited: removing the memory map sends IPIs to all CPUs anyway. */
	synchronize_rcu_expedited();
	pgmap_unplug_ranges(pgmap, pgmap->nr_range);
	pgmap_end(pgmap);
	pgmap_release_claims(pgmap, pgmap->nr_range);
}
EXPORT_SYMBOL_GPL(memunmap_pages);

static void devm_unmap_action(void *pgmap)
{
	memunmap_pages(pgmap);
}

/**
 * devm_memremap_pages - managed memremap_pages()
 * @dev: the device; the memory belongs to its node
 * @pgmap: as for memremap_pages(); must exist as long as the driver is bound
 *
 * The memory is removed when the driver is unbound, in reverse order with the
 * other managed resources of @dev, or by devm_memunmap_pages().
 *
 * Context: Process context, may sleep.
 * Return: as memremap_pages()
 */
void *devm_memremap_pages(struct device *dev, struct dev_pagemap *pgmap)
{
	void *addr = memremap_pages(pgmap, dev_to_node(dev));
	int ret;

	if (IS_ERR(addr))
		return addr;
	ret = devm_add_action_or_reset(dev, devm_unmap_action, pgmap);
	if (ret)
		return ERR_PTR(pgmap_refuse(pgmap, 0, ret,
					    "no memory for the device resource"));
	return addr;
}
EXPORT_SYMBOL_GPL(devm_memremap_pages);

/**
 * devm_memunmap_pages - undo devm_memremap_pages() early
 * @dev: the device passed to devm_memremap_pages()
 * @pgmap: the pagemap passed to devm_memremap_pages()
 *
 * Context: As memunmap_pages().
 */
void devm_memunmap_pages(struct device *dev, struct dev_pagemap *pgmap)
{
	devm_release_action(dev, devm_unmap_action, pgmap);
}
EXPORT_SYMBOL_GPL(devm_memunmap_pages);

/* ---- allocation and freeing of folios ---- */

/*
 * A driver must not allocate pages after removal has begun. If it does, take
 * the references anyway while the ref is not yet zero: removal then waits until
 * the folio is freed.
 */
static void pgmap_get_for_folio(struct dev_pagemap *pgmap, unsigned long nr)
{
	if (likely(percpu_ref_tryget_live(&pgmap->ref))) {
		if (nr > 1)
			percpu_ref_get_many(&pgmap->ref, nr - 1);
		return;
	}
	pr_err_ratelimited("%s pagemap [mem %#llx-%#llx]: page handed out during removal\n",
			   pgmap_kind(pgmap)->name, pgmap->range.start,
			   pgmap->range.end);
	percpu_ref_tryget_many(&pgmap->ref, nr);
}

/*
 * Set the low byte of the flags, and leave the others alone. The byte has the
 * order of a folio in its second page, else PG_locked, PG_head and PG_waiters.
 * memory_failure() may set PG_hwpoison concurrently, so the store must not
 * cover it.
 */
static void device_page_set_low_flags(struct page *page, u8 flags)
{
	u8 *bytes = (u8 *)&page->flags;

	BUILD_BUG_ON(PG_locked > 7 || PG_head > 7 || PG_waiters > 7);
	WRITE_ONCE(bytes[IS_ENABLED(CONFIG_CPU_BIG_ENDIAN) ?
			 sizeof(page->flags) - 1 : 0], flags);
}

static void device_page_set_head(struct page *page, struct folio *folio)
{
	WRITE_ONCE(page->compound_head, (unsigned long)folio | 1);
}

static void device_page_set_pgmap(struct page *page, struct dev_pagemap *pgmap)
{
	WRITE_ONCE(page->pgmap, pgmap);
}

/*
 * The lock is set before the count is raised: others may find the folio from
 * then on. No one waits for the lock of a free page: tasks that wait without a
 * reference were woken before the last reference was dropped.
 */
static __always_inline void device_page_init(struct folio *folio,
					     struct dev_pagemap *pgmap)
{
	pgmap_get_for_folio(pgmap, 1);
	device_page_set_low_flags(&folio->page, BIT(PG_locked));
	folio_ref_unfreeze(folio, 1);
}

/* The tail pages must lead to a first page that is complete. */
static void device_folio_init(struct folio *folio, struct dev_pagemap *pgmap,
			      unsigned int order)
{
	struct page *page = &folio->page;
	struct page *end = page + (1UL << order);

	pgmap_get_for_folio(pgmap, 1UL << order);
	device_page_set_pgmap(page, pgmap);
	device_page_set_low_flags(page, BIT(PG_locked) | BIT(PG_head));
	prep_compound_head(page, order);
	folio_set_large_rmappable(folio);
	/* Order the first page before the pointers to it. */
	smp_wmb();

	device_page_set_head(page + 1, folio);
	device_page_set_low_flags(page + 2, 0);
	device_page_set_head(page + 2, folio);
	for (page += 3; page < end; page++) {
		device_page_set_low_flags(page, 0);
		page->mapping = TAIL_MAPPING;
		device_page_set_head(page, folio);
	}
	folio_ref_unfreeze(folio, 1);
}

/* Return: why a large folio cannot be initialised; NULL if it can. */
static const char *device_folio_refusal(struct folio *folio,
					struct dev_pagemap *pgmap,
					unsigned int order)
{
	unsigned long pfn = folio_pfn(folio);
	int i = pgmap_find_range(pgmap, pfn);

	if (order > PGMAP_MAX_FOLIO_ORDER)
		return "the order is too large";
	if (order == 1)
		return "anonymous memory does not have this order";
	if (!IS_ALIGNED(pfn, 1UL << order))
		return "the folio is not aligned";
	if (i < 0 || pfn < pgmap_first_pfn(pgmap, i) ||
	    range_end_pfn(&pgmap->ranges[i]) - pfn < 1UL << order)
		return "the folio exceeds the pagemap";
	return NULL;
}

/**
 * zone_device_page_init - initialise a free page of private or coherent memory
 * @page: a free page
 *
 * As zone_device_folio_init() for a folio of order 0.
 *
 * Context: Any. The caller prevents concurrent allocation of the same page.
 */
void zone_device_page_init(struct page *page)
{
	device_page_init((struct folio *)page, page->pgmap);
}
EXPORT_SYMBOL_GPL(zone_device_page_init);

/**
 * zone_device_folio_init - initialise a folio of private or coherent memory
 * @folio: the first of 2^@order free pages
 * @pgmap: the pagemap of these pages
 * @order: 0, or from 2 to the order of a PMD
 *
 * The pages may have been part of other folios, of any order, before. On return
 * the folio is locked and has one reference, which belong to the caller. It
 * holds 2^@order references to @pgmap until it is freed. The driver data of the
 * first page is unchanged. That of the second and third page cannot be used in
 * a large folio, as its counters and its list are stored there.
 *
 * The first page must be aligned to 2^@order pages, and all of them must lie in
 * one range of @pgmap. There is no order 1, and none above 0 without
 * CONFIG_TRANSPARENT_HUGEPAGE. If @order is refused, an error is logged and the
 * first page is initialised as a folio of order 0, which can be unlocked and put
 * as usual; the other pages stay free. Check folio_order() for the result.
 *
 * Context: Any. The caller prevents concurrent allocation of the same pages.
 */
void zone_device_folio_init(struct folio *folio, struct dev_pagemap *pgmap,
			    unsigned int order)
{
	const char *why;

	if (!order) {
		device_page_set_pgmap(&folio->page, pgmap);
		device_page_init(folio, pgmap);
		return;
	}
	why = device_folio_refusal(folio, pgmap, order);
	if (!why) {
		device_folio_init(folio, pgmap, order);
		return;
	}
	pr_err_ratelimited("%s pagemap: pfn %#lx: folio of order %u: %s\n",
			   pgmap_kind(pgmap)->name, folio_pfn(folio), order,
			   why);
	device_page_init(folio, folio->page.pgmap);
}
EXPORT_SYMBOL_GPL(zone_device_folio_init);

/**
 * zone_device_split_page - make a tail page the first page of a folio
 * @folio: folio of private or coherent memory that is split
 * @page: one of its tail pages, with its new flags, mapping and index
 *
 * Takes the place of clear_compound_head(), and restores the state
 * that the split does not know: the pagemap, PG_reserved and the driver data,
 * which in the first two tail pages shares its storage with counters and a list.
 *
 * Context: the reference count of @folio is frozen.
 */
void zone_device_split_page(struct folio *folio, struct page *page)
{
	page->flags |= folio->flags & BIT(PG_reserved);
	page->zone_device_data = folio->page.zone_device_data;
	device_page_set_pgmap(page, folio->page.pgmap);
}

/**
 * zone_device_split_notify - tell the driver about a split
 * @folio: folio of private or coherent memory that is split
 * @new_folio: folio that was part of it; NULL after the last one
 *
 * Context: the reference counts of both are frozen, and interrupts are disabled.
 */
void zone_device_split_notify(struct folio *folio, struct folio *new_folio)
{
	const struct dev_pagemap_ops *ops = folio->page.pgmap->ops;

	if (ops && ops->folio_split)
		ops->folio_split(folio, new_folio);
}

#if defined(CONFIG_PAGE_IDLE_FLAG) && defined(CONFIG_64BIT)
#define DEVICE_FOLIO_AGE_FLAGS	(BIT(PG_young) | BIT(PG_idle))
#else
#define DEVICE_FOLIO_AGE_FLAGS	0UL
#endif

/* Flags of anonymous folios, copied by migration or set on the device. */
#define DEVICE_FOLIO_USER_FLAGS						\
	(BIT(PG_referenced) | BIT(PG_dirty) | BIT(PG_active) |		\
	 BIT(PG_workingset) | BIT(PG_reclaim) | BIT(PG_swapbacked) |	\
	 BIT(PG_unevictable) | DEVICE_FOLIO_AGE_FLAGS)

/* Reset all state of the previous user, but that in the tail pages. */
static void device_folio_reset(struct folio *folio)
{
	mem_cgroup_uncharge(folio);
	if (folio_test_anon(folio)) {
		if (folio_test_large(folio))
			mod_mthp_stat(folio_order(folio), MTHP_STAT_NR_ANON,
				      -1);
		__ClearPageAnonExclusive(&folio->page);
		/* atomic: memory_failure() may set PG_hwpoison concurrently */
		set_mask_bits(&folio->flags, DEVICE_FOLIO_USER_FLAGS, 0);
	}
	folio->mapping = NULL;
	folio->private = NULL;
}

/* Flags of a folio that are stored in its second page, but for the order */
#define DEVICE_FOLIO_SECOND_FLAGS	(PAGE_FLAGS_SECOND & ~0xffUL)

/*
 * Make each tail page a free page. folio_order() and folio_nr_pages() still
 * work for the folio.
 */
static void device_folio_restore_tails(struct folio *folio,
				       struct dev_pagemap *pgmap)
{
	struct page *page = &folio->page;
	struct page *end = page + folio_nr_pages(folio);

	VM_WARN_ON_ONCE_FOLIO(folio_mapped(folio), folio);
	set_mask_bits(&page[1].flags, DEVICE_FOLIO_SECOND_FLAGS, 0);
	page[1].zone_device_data = NULL;
	page[2].zone_device_data = NULL;
	for (page++; page < end; page++) {
		if (unlikely(page->flags & BIT(PG_anon_exclusive)))
			clear_bit(PG_anon_exclusive, &page->flags);
		page->mapping = NULL;
		device_page_set_pgmap(page, pgmap);
	}
}

/* Return: false if the pagemap has no callback. */
static bool device_folio_call_free(const struct dev_pagemap_ops *ops,
				   struct folio *folio)
{
	if (ops && ops->folio_free)
		ops->folio_free(folio);
	else if (ops && ops->page_free)
		ops->page_free(folio_page(folio, 0));
	else
		return false;
	return true;
}

/*
 * Called when the last reference to a device folio is dropped. The callback of
 * the driver may reuse or remove the memory, so do not access the folio after
 * it. Compound pages of the memory map, which other types may have, stay as
 * they are.
 */
void free_zone_device_folio(struct folio *folio)
{
	struct dev_pagemap *pgmap = folio->page.pgmap;
	unsigned long nr = folio_nr_pages(folio);
	bool from_zero = pgmap_counts_from_zero(pgmap);

	device_folio_reset(folio);
	if (!from_zero)
		folio_ref_unfreeze(folio, 1);
	else if (nr > 1)
		device_folio_restore_tails(folio, pgmap);

	if (unlikely(!device_folio_call_free(pgmap->ops, folio)))
		pr_err_ratelimited("%s pagemap: pfn %#lx: put once too often\n",
				   pgmap_kind(pgmap)->name, folio_pfn(folio));
	if (from_zero)
		percpu_ref_put_many(&pgmap->ref, nr);
}
