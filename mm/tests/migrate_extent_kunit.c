// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit tests of mm/migrate_extent.c: migration of large folios that PTEs map,
 * whole and, where there is no large page for them, in single pages. Also holes
 * that large folios fill, faults on such folios and their eviction.
 *
 * The suites run on a device with private and on one with coherent memory, and
 * each test runs for a small and for a larger order. Every test ends with all
 * device pages free and no memory lost.
 */
#include <kunit/test.h>
#include <linux/delay.h>
#include <linux/memremap.h>
#include <linux/migrate.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/rmap.h>
#include <linux/swap.h>
#include <linux/swapops.h>
#include <linux/uaccess.h>
#include <linux/userfaultfd_k.h>

#include "../internal.h"
#include "kunit_device.h"
#include "kunit_mm.h"

#ifdef CONFIG_DEVICE_MIGRATION_HUGE

/* Pages of a mapping, smaller than a PMD, and entries of a migration */
#define ME_PAGES	64UL
#define ME_ENTRIES	((unsigned long)HPAGE_PMD_NR)
#define ME_FAULTERS	4
#define ME_NEW		0x5a5aUL

#define ME_LARGE	(MIGRATE_PFN_MIGRATE | MIGRATE_PFN_COMPOUND)

/* Properties of a mapped page */
#define ME_WRITE	BIT(0)
#define ME_EXCLUSIVE	BIT(1)
#define ME_SOFT_DIRTY	BIT(2)
#define ME_UFFD_WP	BIT(3)

/**
 * struct me_test - a process and a device
 * @test: the test
 * @km: address space
 * @dev: the device
 * @order: order of the folios
 * @nr: their number of pages
 * @slots: destinations: a large folio if 0, else a page for each set bit; the
 *	pages of a folio have bits from 0 on
 * @arrived: threads that are about to fault
 * @args: of the migration
 * @src: its sources
 * @dst: its destinations
 */
struct me_test {
	struct kunit *test;
	struct kunit_mm *km;
	struct kunit_device *dev;
	unsigned int order;
	unsigned long nr;
	unsigned long slots;
	atomic_t arrived;
	struct migrate_vma args;
	unsigned long *src;
	unsigned long *dst;
};

static const unsigned int me_orders[] = { 2, 4 };

static void me_describe(const unsigned int *order, char *desc)
{
	snprintf(desc, KUNIT_PARAM_DESC_SIZE, "order %u", *order);
}

KUNIT_ARRAY_PARAM(me, me_orders, me_describe);

static unsigned long me_all_slots(const struct me_test *me)
{
	return GENMASK(me->nr - 1, 0);
}

/* ---- the driver ---- */

static unsigned long me_nr(unsigned long mpfn)
{
	struct page *page = migrate_pfn_to_page(mpfn);

	if (!(mpfn & MIGRATE_PFN_COMPOUND))
		return 1;
	return page ? folio_nr_pages(page_folio(page)) : HPAGE_PMD_NR;
}

static unsigned long me_copy_one(struct kunit_device *to, struct page *from,
				 unsigned int order)
{
	struct page *page = kunit_device_copy_folio(to, from, order);

	if (!page)
		return 0;
	return migrate_pfn(page_to_pfn(page)) |
	       (order ? MIGRATE_PFN_COMPOUND : 0);
}

static void me_copy_entry(struct me_test *me, struct migrate_vma *args,
			  unsigned long i, struct kunit_device *to)
{
	struct page *from = migrate_pfn_to_page(args->src[i]);
	unsigned long k, nr = me_nr(args->src[i]);

	if (nr == 1) {
		args->dst[i] = me_copy_one(to, from, 0);
		return;
	}
	if (!me->slots) {
		args->dst[i] = me_copy_one(to, from, ilog2(nr));
		return;
	}
	for (k = 0; k < nr; k++)
		if (me->slots & BIT(k % BITS_PER_LONG))
			args->dst[i + k] = me_copy_one(to, from + k, 0);
}

/* Fill the destinations of all pages, not those of holes. */
static void me_copy(struct me_test *me, struct migrate_vma *args,
		    struct kunit_device *to)
{
	unsigned long i;

	for (i = 0; i < args->npages; i += me_nr(args->src[i]))
		if (migrate_pfn_to_page(args->src[i]) &&
		    args->src[i] & MIGRATE_PFN_MIGRATE)
			me_copy_entry(me, args, i, to);
}

/* Return: number of pages that have moved. */
static unsigned long me_moved(const struct migrate_vma *args)
{
	unsigned long i, nr, moved = 0;

	for (i = 0; i < args->npages; i += nr) {
		nr = me_nr(args->src[i]);
		if (args->src[i] & MIGRATE_PFN_MIGRATE)
			moved += nr;
	}
	return moved;
}

static unsigned long me_select_device(struct me_test *me)
{
	return MIGRATE_VMA_SELECT_COMPOUND |
	       (me->dev->pgmap->type == MEMORY_DEVICE_PRIVATE ?
		MIGRATE_VMA_SELECT_DEVICE_PRIVATE :
		MIGRATE_VMA_SELECT_DEVICE_COHERENT);
}

/* Takes the mmap lock until me_end(). */
static void me_begin(struct me_test *me, unsigned long addr, unsigned long nr,
		     unsigned long select)
{
	int ret;

	mmap_read_lock(me->km->mm);
	me->args = (struct migrate_vma) {
		.vma = vma_lookup(me->km->mm, addr),
		.start = addr,
		.end = addr + (nr << PAGE_SHIFT),
		.src = me->src,
		.dst = me->dst,
		.pgmap_owner = me->dev,
		.flags = select,
	};
	ret = migrate_vma_setup(&me->args);
	KUNIT_EXPECT_EQ(me->test, 0, ret);
}

static void me_begin_to_device(struct me_test *me, unsigned long addr,
			       unsigned long nr)
{
	me_begin(me, addr, nr, MIGRATE_VMA_SELECT_SYSTEM |
			       MIGRATE_VMA_SELECT_COMPOUND);
}

static unsigned long me_end(struct me_test *me)
{
	unsigned long moved;

	migrate_vma_pages(&me->args);
	moved = me_moved(&me->args);
	migrate_vma_finalize(&me->args);
	mmap_read_unlock(me->km->mm);
	return moved;
}

static unsigned long me_to_device(struct me_test *me, unsigned long addr,
				  unsigned long nr)
{
	me_begin_to_device(me, addr, nr);
	me_copy(me, &me->args, me->dev);
	return me_end(me);
}

static unsigned long me_to_system(struct me_test *me, unsigned long addr,
				  unsigned long nr)
{
	me_begin(me, addr, nr, me_select_device(me));
	me_copy(me, &me->args, NULL);
	return me_end(me);
}

/* Bring back all pages of the folio, as far as they are in the VMA. */
static vm_fault_t me_serve_fault(struct kunit_device *dev,
				 struct vm_fault *vmf)
{
	struct me_test *me = dev->test->priv;
	struct folio *folio = page_folio(vmf->page);
	unsigned long start = (vmf->address & PAGE_MASK) -
			      (folio_page_idx(folio, vmf->page) << PAGE_SHIFT);
	struct migrate_vma args = {
		.vma = vmf->vma,
		.start = max(start, vmf->vma->vm_start),
		.end = min(start + folio_size(folio), vmf->vma->vm_end),
		.src = me->src,
		.dst = me->dst,
		.pgmap_owner = dev,
		.flags = MIGRATE_VMA_SELECT_DEVICE_PRIVATE |
			 MIGRATE_VMA_SELECT_COMPOUND,
		.fault_page = vmf->page,
	};

	KUNIT_EXPECT_TRUE(me->test, PageLocked(vmf->page));
	if (migrate_vma_setup(&args))
		return VM_FAULT_SIGBUS;
	me_copy(me, &args, NULL);
	migrate_vma_pages(&args);
	migrate_vma_finalize(&args);
	KUNIT_EXPECT_TRUE(me->test, PageLocked(vmf->page));
	return 0;
}

/* ---- memory ---- */

static unsigned long me_pattern(unsigned long i)
{
	return 0xfee0000UL + i * 7;
}

static int me_put(unsigned long addr, unsigned long i, unsigned long word)
{
	return kunit_mm_put_word(addr, i, word);
}

static unsigned long me_get(struct me_test *me, unsigned long addr,
			    unsigned long i)
{
	return kunit_mm_get_word(me->km, addr, i);
}

static void me_expect_contents(struct me_test *me, unsigned long addr)
{
	unsigned long i;

	for (i = 0; i < ME_PAGES; i++)
		KUNIT_ASSERT_EQ(me->test, me_get(me, addr, i), me_pattern(i));
}

static void me_expect_zeroes(struct me_test *me, unsigned long addr,
			     unsigned long nr)
{
	unsigned long i;

	for (i = 0; i < nr; i++)
		KUNIT_ASSERT_EQ(me->test, me_get(me, addr, i), 0UL);
}

static pte_t me_pte(struct me_test *me, unsigned long addr, unsigned long i)
{
	return kunit_mm_pte(me->km, addr + i * PAGE_SIZE);
}

/* The page that is mapped, present or device-private; or NULL */
static struct page *me_page(struct me_test *me, unsigned long addr,
			    unsigned long i)
{
	pte_t pte = me_pte(me, addr, i);

	if (pte_present(pte))
		return pte_page(pte);
	if (!is_swap_pte(pte) ||
	    !is_device_private_entry(pte_to_swp_entry(pte)))
		return NULL;
	return pfn_swap_entry_to_page(pte_to_swp_entry(pte));
}

static struct folio *me_folio(struct me_test *me, unsigned long addr)
{
	struct page *page = me_page(me, addr, 0);

	KUNIT_ASSERT_NOT_NULL(me->test, page);
	return page_folio(page);
}

static unsigned int me_present_marks(pte_t pte)
{
	return (pte_write(pte) ? ME_WRITE : 0) |
	       (pte_soft_dirty(pte) ? ME_SOFT_DIRTY : 0) |
	       (pte_uffd_wp(pte) ? ME_UFFD_WP : 0);
}

static unsigned int me_private_marks(pte_t pte)
{
	swp_entry_t entry = pte_to_swp_entry(pte);

	return (is_writable_device_private_entry(entry) ? ME_WRITE : 0) |
	       (pte_swp_soft_dirty(pte) ? ME_SOFT_DIRTY : 0) |
	       (pte_swp_uffd_wp(pte) ? ME_UFFD_WP : 0);
}

static unsigned int me_marks(struct me_test *me, unsigned long addr,
			     unsigned long i)
{
	struct page *page = me_page(me, addr, i);
	pte_t pte = me_pte(me, addr, i);
	unsigned int marks;

	KUNIT_ASSERT_NOT_NULL(me->test, page);
	marks = pte_present(pte) ? me_present_marks(pte) :
				   me_private_marks(pte);
	return marks | (PageAnonExclusive(page) ? ME_EXCLUSIVE : 0);
}

static bool me_is_on_device(struct me_test *me, struct folio *folio)
{
	return kunit_device_has(me->dev, folio_pfn(folio));
}

/* PTEs map all pages of one folio, once, and it has no other reference. */
static void me_expect_folio(struct me_test *me, unsigned long addr)
{
	struct folio *folio = me_folio(me, addr);
	unsigned long i;

	KUNIT_ASSERT_EQ(me->test, folio_order(folio), me->order);
	KUNIT_EXPECT_EQ(me->test, folio_mapcount(folio), (int)me->nr);
	KUNIT_EXPECT_EQ(me->test, folio_ref_count(folio), (int)me->nr);
	KUNIT_EXPECT_FALSE(me->test, folio_test_locked(folio));
	for (i = 0; i < me->nr; i++)
		KUNIT_EXPECT_PTR_EQ(me->test, me_page(me, addr, i),
				    folio_page(folio, i));
}

/* All folios of the mapping, see me_expect_folio() */
static void me_expect_folios(struct me_test *me, unsigned long addr)
{
	unsigned long i;

	lru_add_drain_all();
	for (i = 0; i < ME_PAGES; i += me->nr)
		me_expect_folio(me, addr + i * PAGE_SIZE);
}

static void me_expect_used(struct me_test *me, unsigned long nr)
{
	KUNIT_EXPECT_EQ(me->test, kunit_device_used(me->dev), nr);
}

/* All folios of the mapping are on the device, or all are not. */
static void me_expect_on_device(struct me_test *me, unsigned long addr)
{
	me_expect_folios(me, addr);
	me_expect_used(me, ME_PAGES);
	KUNIT_EXPECT_TRUE(me->test, me_is_on_device(me, me_folio(me, addr)));
}

static void me_expect_in_system(struct me_test *me, unsigned long addr)
{
	me_expect_folios(me, addr);
	me_expect_used(me, 0);
}

/* Large folios with a different word in each page */
static unsigned long me_map(struct me_test *me)
{
	unsigned long i, addr = kunit_mm_map_huge(me->km, ME_PAGES);

	for (i = 0; i < ME_PAGES; i++)
		KUNIT_ASSERT_EQ(me->test, me_put(addr, i, me_pattern(i)), 0);
	for (i = 0; i < ME_PAGES; i += me->nr)
		if (folio_order(me_folio(me, addr + i * PAGE_SIZE)) !=
		    me->order)
			kunit_skip(me->test, "no large folio available");
	return addr;
}

static unsigned long me_map_on_device(struct me_test *me)
{
	unsigned long addr = me_map(me);

	KUNIT_ASSERT_EQ(me->test, me_to_device(me, addr, ME_PAGES), ME_PAGES);
	me_expect_on_device(me, addr);
	return addr;
}

static unsigned long me_map_hole(struct me_test *me)
{
	return kunit_mm_map_huge(me->km, ME_PAGES);
}

static long me_anon_pages(struct me_test *me)
{
	return percpu_counter_sum(&me->km->mm->rss_stat[MM_ANONPAGES]);
}

static void me_zap(struct me_test *me, unsigned long addr)
{
	kunit_mm_zap(me->km, addr, ME_PAGES);
	me_expect_used(me, 0);
}

/* ---- whole folios ---- */

static void folios_move_whole(struct kunit *test)
{
	struct me_test *me = test->priv;
	unsigned long i, mpfn, addr = me_map(me);
	long anon = me_anon_pages(me);
	int turn;

	me_begin_to_device(me, addr, ME_PAGES);
	KUNIT_EXPECT_EQ(test, me->args.cpages, ME_PAGES / me->nr);
	for (i = 0; i < ME_PAGES; i++) {
		mpfn = i % me->nr ? 0 : ME_LARGE | MIGRATE_PFN_WRITE |
					MIGRATE_PFN_VALID;
		KUNIT_EXPECT_EQ(test, me->src[i] & (mpfn ?: ~0UL), mpfn);
	}
	me_copy(me, &me->args, me->dev);
	KUNIT_EXPECT_EQ(test, me_end(me), ME_PAGES);

	for (turn = 0; turn < 3; turn++) {
		me_expect_on_device(me, addr);
		KUNIT_EXPECT_EQ(test, me_to_system(me, addr, ME_PAGES),
				ME_PAGES);
		me_expect_in_system(me, addr);
		me_expect_contents(me, addr);
		KUNIT_EXPECT_EQ(test, me_to_device(me, addr, ME_PAGES),
				ME_PAGES);
	}
	KUNIT_EXPECT_EQ(test, me_anon_pages(me), anon);
	me_zap(me, addr);
	KUNIT_EXPECT_EQ(test, me_anon_pages(me), anon - (long)ME_PAGES);
}

static void driver_that_does_not_ask_gets_pages(struct kunit *test)
{
	struct me_test *me = test->priv;
	unsigned long i, addr = me_map_on_device(me);

	me_begin(me, addr, ME_PAGES,
		 me_select_device(me) & ~MIGRATE_VMA_SELECT_COMPOUND);
	KUNIT_EXPECT_EQ(test, me->args.cpages, ME_PAGES);
	for (i = 0; i < ME_PAGES; i++)
		KUNIT_EXPECT_FALSE(test, me->src[i] & MIGRATE_PFN_COMPOUND);
	me_copy(me, &me->args, NULL);
	KUNIT_EXPECT_EQ(test, me_end(me), ME_PAGES);
	me_expect_used(me, 0);
	me_expect_contents(me, addr);
}

static pte_t me_read_only(pte_t pte)
{
	return pte_wrprotect(pte);
}

static pte_t me_protect(pte_t pte)
{
	return pte_mkuffd_wp(pte_wrprotect(pte));
}

static pte_t me_clean(pte_t pte)
{
	return pte_clear_soft_dirty(pte_wrprotect(pte));
}

static void me_expect_one_read_only(struct me_test *me, unsigned long addr,
				    unsigned long select, unsigned long page)
{
	unsigned long i;

	me_begin(me, addr, ME_PAGES, select & ~MIGRATE_VMA_SELECT_COMPOUND);
	KUNIT_EXPECT_EQ(me->test, me->args.cpages, ME_PAGES);
	for (i = 0; i < ME_PAGES; i++)
		KUNIT_EXPECT_EQ_MSG(me->test,
				    !!(me->src[i] & MIGRATE_PFN_WRITE),
				    i != page, "page %lu", i);
}

/* A driver maps each page with the permission of its own entry. */
static void pages_of_mixed_folio_keep_their_permission(struct kunit *test)
{
	struct me_test *me = test->priv;
	unsigned long addr = me_map(me);

	kunit_mm_change(me->km, addr + 3 * PAGE_SIZE, 1, me_read_only);
	lru_add_drain_all();
	me_expect_one_read_only(me, addr, MIGRATE_VMA_SELECT_SYSTEM, 3);
	KUNIT_EXPECT_EQ(test, me_end(me), 0UL);
	me_zap(me, addr);

	addr = me_map(me);
	kunit_mm_change(me->km, addr + 3 * PAGE_SIZE, 1, me_read_only);
	lru_add_drain_all();
	KUNIT_EXPECT_EQ(test, me_to_device(me, addr, ME_PAGES), ME_PAGES);
	me_expect_one_read_only(me, addr, me_select_device(me), 3);
	me_copy(me, &me->args, NULL);
	KUNIT_EXPECT_EQ(test, me_end(me), ME_PAGES);
	me_expect_used(me, 0);
	me_expect_contents(me, addr);
}

static void me_expect_marks(struct me_test *me, unsigned long addr,
			    const unsigned int *marks)
{
	unsigned long i;

	me_expect_folio(me, addr);
	for (i = 0; i < me->nr; i++)
		KUNIT_EXPECT_EQ_MSG(me->test, me_marks(me, addr, i), marks[i],
				    "page %lu", i);
}

/* The first folio has runs of pages with different marks. */
static void mixed_marks_survive(struct kunit *test)
{
	struct me_test *me = test->priv;
	unsigned long i, addr = me_map(me);
	unsigned int marks[16];

	kunit_mm_change(me->km, addr + PAGE_SIZE, 1, me_read_only);
	kunit_mm_change(me->km, addr + 2 * PAGE_SIZE, 1, me_protect);
	kunit_mm_change(me->km, addr + 3 * PAGE_SIZE, min(me->nr - 3, 4UL),
			me_clean);
	for (i = 0; i < me->nr; i++)
		marks[i] = me_marks(me, addr, i);
	KUNIT_EXPECT_EQ(test, marks[1], marks[0] & ~ME_WRITE);
	lru_add_drain_all();

	me_begin_to_device(me, addr, ME_PAGES);
	KUNIT_EXPECT_EQ(test, me->src[0] & (ME_LARGE | MIGRATE_PFN_WRITE),
			ME_LARGE);
	KUNIT_EXPECT_TRUE(test, me->src[me->nr] & MIGRATE_PFN_WRITE);
	me_copy(me, &me->args, me->dev);
	KUNIT_EXPECT_EQ(test, me_end(me), ME_PAGES);
	me_expect_marks(me, addr, marks);

	/* and where the folio stays */
	me_begin(me, addr, ME_PAGES, me_select_device(me));
	KUNIT_EXPECT_EQ(test, me_end(me), 0UL);
	me_expect_marks(me, addr, marks);

	KUNIT_EXPECT_EQ(test, me_to_system(me, addr, ME_PAGES), ME_PAGES);
	lru_add_drain_all();
	me_expect_marks(me, addr, marks);
	me_expect_used(me, 0);
	kunit_mm_change(me->km, addr + 2 * PAGE_SIZE, 1, pte_clear_uffd_wp);
	me_expect_contents(me, addr);
}

/* Entries change one by one during the migration. */
static void marks_set_during_migration_are_kept(struct kunit *test)
{
	struct me_test *me = test->priv;
	unsigned long addr = me_map(me);
	pte_t pte;

	if (!IS_ENABLED(CONFIG_HAVE_ARCH_USERFAULTFD_WP))
		kunit_skip(test, "no write protection by userfaultfd");
	kunit_mm_flags(me->km, addr, VM_UFFD_WP, 0);
	me_begin_to_device(me, addr, ME_PAGES);
	me_copy(me, &me->args, me->dev);
	uffd_wp_range(me->args.vma, addr + PAGE_SIZE, PAGE_SIZE, true);
	KUNIT_EXPECT_EQ(test, me_end(me), ME_PAGES);
	me_expect_on_device(me, addr);
	KUNIT_EXPECT_EQ(test, me_marks(me, addr, 1) & (ME_UFFD_WP | ME_WRITE),
			ME_UFFD_WP);
	KUNIT_EXPECT_EQ(test, me_marks(me, addr, 2) & (ME_UFFD_WP | ME_WRITE),
			ME_WRITE);
	KUNIT_EXPECT_EQ(test, me_to_system(me, addr, ME_PAGES), ME_PAGES);
	pte = me_pte(me, addr, 1);
	KUNIT_EXPECT_TRUE(test, pte_uffd_wp(pte) && !pte_write(pte));
	kunit_mm_uffd_wp(me->km, addr + PAGE_SIZE, 1, false);
	kunit_mm_flags(me->km, addr, 0, VM_UFFD_WP);
	me_expect_contents(me, addr);
}

static pte_t me_hint(pte_t pte)
{
	return pte_modify(pte, PAGE_NONE);
}

/* NUMA hinting has made one folio inaccessible, and a part of the next. */
static void hinted_folio_moves_whole(struct kunit *test)
{
	struct me_test *me = test->priv;
	unsigned long addr = me_map(me);

	if (!IS_ENABLED(CONFIG_NUMA_BALANCING))
		kunit_skip(test, "no NUMA hinting in this kernel");
	kunit_mm_change(me->km, addr, me->nr + 1, me_hint);
	KUNIT_EXPECT_EQ(test, me_to_device(me, addr, ME_PAGES), ME_PAGES);
	me_expect_on_device(me, addr);
	KUNIT_EXPECT_EQ(test, me_to_system(me, addr, ME_PAGES), ME_PAGES);
	me_expect_in_system(me, addr);
	KUNIT_EXPECT_TRUE(test, pte_write(me_pte(me, addr, 0)));
	me_expect_contents(me, addr);
}

/* The order of a PMD, but mapped by PTEs */
static void folio_of_pmd_order_moves_whole(struct kunit *test)
{
	struct me_test *me = test->priv;
	unsigned long addr = kunit_mm_map_huge(me->km, HPAGE_PMD_NR);
	unsigned long i;

	for (i = 0; i < ME_PAGES; i++)
		KUNIT_ASSERT_EQ(test, me_put(addr, i, me_pattern(i)), 0);
	if (!pmd_trans_huge(kunit_mm_pmd(me->km, addr)))
		kunit_skip(test, "no THP available");
	kunit_mm_split_pmd(me->km, addr);
	KUNIT_EXPECT_EQ(test, me_to_device(me, addr, HPAGE_PMD_NR),
			ME_ENTRIES);
	KUNIT_EXPECT_EQ(test, folio_order(me_folio(me, addr)),
			HPAGE_PMD_ORDER);
	me_expect_used(me, HPAGE_PMD_NR);
	KUNIT_EXPECT_EQ(test, me_to_system(me, addr, HPAGE_PMD_NR),
			ME_ENTRIES);
	KUNIT_EXPECT_EQ(test, folio_order(me_folio(me, addr)),
			HPAGE_PMD_ORDER);
	me_expect_used(me, 0);
	me_expect_contents(me, addr);
}

/* ---- folios that do not move whole ---- */

static void part_of_folio_moves_alone(struct kunit *test)
{
	struct me_test *me = test->priv;
	unsigned long addr = me_map_on_device(me);

	/* the last page of the first folio, and the first of the second */
	KUNIT_EXPECT_EQ(test, 2UL,
			me_to_system(me, addr + (me->nr - 1) * PAGE_SIZE, 2));
	me_expect_used(me, ME_PAGES - 2);
	KUNIT_EXPECT_EQ(test, ME_PAGES - 2, me_to_system(me, addr, ME_PAGES));
	me_expect_used(me, 0);
	me_expect_contents(me, addr);
}

static void rest_of_unmapped_folio_moves(struct kunit *test)
{
	struct me_test *me = test->priv;
	unsigned long addr = me_map_on_device(me);

	kunit_mm_zap(me->km, addr + PAGE_SIZE, 2);
	KUNIT_EXPECT_EQ(test, ME_PAGES - 2, me_to_system(me, addr, ME_PAGES));
	me_expect_used(me, 0);
	KUNIT_EXPECT_EQ(test, me_get(me, addr, 0), me_pattern(0));
	KUNIT_EXPECT_EQ(test, me_get(me, addr, 1), 0UL);
	KUNIT_EXPECT_EQ(test, me_get(me, addr, 3), me_pattern(3));

	/* the same in system memory */
	kunit_mm_zap(me->km, addr + (me->nr + 1) * PAGE_SIZE, 1);
	KUNIT_EXPECT_EQ(test, ME_PAGES - 3, me_to_device(me, addr, ME_PAGES));
	me_zap(me, addr);
}

static void folio_zapped_during_migration_is_free(struct kunit *test)
{
	struct me_test *me = test->priv;
	unsigned long addr = me_map_on_device(me);

	me_begin(me, addr, ME_PAGES, me_select_device(me));
	me_copy(me, &me->args, NULL);
	zap_page_range_single(me->args.vma, addr, ME_PAGES * PAGE_SIZE, NULL);
	me_end(me);
	me_expect_used(me, 0);
	me_expect_zeroes(me, addr, ME_PAGES);
}

/* The shrinker frees its unmapped pages when memory is short. */
static void part_zapped_during_migration_stays_zapped(struct kunit *test)
{
	struct me_test *me = test->priv;
	unsigned long addr = me_map_on_device(me);
	struct folio *folio;

	me_begin(me, addr, ME_PAGES, me_select_device(me));
	me_copy(me, &me->args, NULL);
	zap_page_range_single(me->args.vma, addr + PAGE_SIZE, PAGE_SIZE, NULL);
	KUNIT_EXPECT_EQ(test, me_end(me), ME_PAGES);
	me_expect_used(me, 0);
	folio = me_folio(me, addr);
	lru_add_drain_all();
	KUNIT_EXPECT_EQ(test, folio_order(folio), me->order);
	KUNIT_EXPECT_EQ(test, folio_ref_count(folio), (int)me->nr - 1);
	KUNIT_EXPECT_TRUE(test, folio_test_partially_mapped(folio));
	KUNIT_EXPECT_EQ(test, me_get(me, addr, 0), me_pattern(0));
	KUNIT_EXPECT_EQ(test, me_get(me, addr, 1), 0UL);
	KUNIT_EXPECT_EQ(test, me_get(me, addr, 2), me_pattern(2));
}

static void folios_without_destination_stay(struct kunit *test)
{
	struct me_test *me = test->priv;
	unsigned long addr = me_map(me);

	me_begin_to_device(me, addr, ME_PAGES);
	KUNIT_EXPECT_EQ(test, me_end(me), 0UL);
	me_expect_in_system(me, addr);
	me_expect_contents(me, addr);
	KUNIT_EXPECT_EQ(test, me_to_device(me, addr, ME_PAGES), ME_PAGES);
	me_begin(me, addr, ME_PAGES, me_select_device(me));
	KUNIT_EXPECT_EQ(test, me_end(me), 0UL);
	me_expect_on_device(me, addr);
	me_zap(me, addr);
}

static void referenced_folio_stays_whole(struct kunit *test)
{
	struct me_test *me = test->priv;
	unsigned long addr = me_map_on_device(me);
	struct folio *folio = me_folio(me, addr);

	folio_get(folio);
	KUNIT_EXPECT_EQ(test, me_to_system(me, addr, ME_PAGES),
			ME_PAGES - me->nr);
	folio_put(folio);
	me_expect_folio(me, addr);
	KUNIT_EXPECT_EQ(test, me_to_system(me, addr, ME_PAGES), me->nr);
	me_expect_in_system(me, addr);
	me_expect_contents(me, addr);
}

/* The first folio is mapped in part, and its reference prevents a split. */
static void folio_behind_one_that_stays_moves_whole(struct kunit *test)
{
	struct me_test *me = test->priv;
	unsigned long i, addr = me_map_on_device(me);
	struct folio *folio = me_folio(me, addr);

	folio_get(folio);
	kunit_mm_zap(me->km, addr, 1);
	KUNIT_EXPECT_EQ(test, me_to_system(me, addr, ME_PAGES),
			ME_PAGES - me->nr);
	folio_put(folio);
	for (i = me->nr; i < ME_PAGES; i += me->nr)
		me_expect_folio(me, addr + i * PAGE_SIZE);
	me_zap(me, addr);
}

static void locked_folio_stays_whole(struct kunit *test)
{
	struct me_test *me = test->priv;
	unsigned long addr = me_map_on_device(me);
	struct folio *folio = me_folio(me, addr);

	folio_lock(folio);
	KUNIT_EXPECT_EQ(test, me_to_system(me, addr, ME_PAGES),
			ME_PAGES - me->nr);
	folio_unlock(folio);
	KUNIT_EXPECT_EQ(test, me_to_system(me, addr, ME_PAGES), me->nr);
	me_expect_in_system(me, addr);
	me_expect_contents(me, addr);
}

/* The PTEs are those of before the attempt. */
static void pinned_folio_stays_mapped(struct kunit *test)
{
	struct me_test *me = test->priv;
	unsigned long i, addr = me_map(me);
	struct page *page;
	long nr;

	mmap_read_lock(me->km->mm);
	nr = pin_user_pages_remote(me->km->mm, addr + PAGE_SIZE, 1, FOLL_WRITE,
				   &page, NULL);
	mmap_read_unlock(me->km->mm);
	KUNIT_ASSERT_EQ(test, nr, 1L);
	KUNIT_EXPECT_EQ(test, me_to_device(me, addr, ME_PAGES),
			ME_PAGES - me->nr);
	for (i = 0; i < me->nr; i++)
		KUNIT_EXPECT_EQ(test, me_marks(me, addr, i),
				ME_WRITE | ME_EXCLUSIVE |
				(IS_ENABLED(CONFIG_MEM_SOFT_DIRTY) ?
				 ME_SOFT_DIRTY : 0));
	KUNIT_EXPECT_PTR_EQ(test, me_page(me, addr, 1), page);
	unpin_user_pages(&page, 1);
	lru_add_drain_all();
	me_expect_folio(me, addr);
	KUNIT_EXPECT_EQ(test, me_to_device(me, addr, ME_PAGES), me->nr);
	me_expect_on_device(me, addr);
	me_zap(me, addr);
}

/* ---- other processes ---- */

static void forked_folios_move_whole(struct kunit *test)
{
	struct me_test *me = test->priv;
	unsigned long addr = me_map(me);
	struct mm_struct *child, *parent;
	struct folio *folio;

	KUNIT_ASSERT_EQ(test, 0, kunit_mm_fork(me->km, addr, &child));
	KUNIT_EXPECT_EQ(test, me_to_device(me, addr, ME_PAGES), ME_PAGES);
	me_expect_used(me, ME_PAGES);
	folio = me_folio(me, addr);
	KUNIT_EXPECT_EQ(test, folio_order(folio), me->order);
	KUNIT_EXPECT_EQ(test, folio_mapcount(folio), 2 * (int)me->nr);
	KUNIT_EXPECT_EQ(test, folio_ref_count(folio), 2 * (int)me->nr);
	KUNIT_EXPECT_FALSE(test, me_marks(me, addr, 0) &
				 (ME_WRITE | ME_EXCLUSIVE));
	parent = kunit_mm_enter(me->km, child);
	KUNIT_EXPECT_PTR_EQ(test, me_folio(me, addr), folio);
	me_expect_contents(me, addr);
	kunit_mm_zap(me->km, addr, ME_PAGES);
	kunit_mm_enter(me->km, parent);
	kunit_mm_exit(me->km, child);
	me_expect_contents(me, addr);
	me_zap(me, addr);
}

/* The child has unmapped a page. Here, nothing is missing. */
static void folio_that_child_maps_in_part_moves_whole(struct kunit *test)
{
	struct me_test *me = test->priv;
	unsigned long addr = me_map(me);
	struct mm_struct *child, *parent;

	KUNIT_ASSERT_EQ(test, 0, kunit_mm_fork(me->km, addr, &child));
	parent = kunit_mm_enter(me->km, child);
	kunit_mm_zap(me->km, addr + PAGE_SIZE, 1);
	kunit_mm_enter(me->km, parent);
	KUNIT_EXPECT_EQ(test, me_to_device(me, addr, ME_PAGES), ME_PAGES);
	KUNIT_EXPECT_EQ(test, folio_order(me_folio(me, addr)), me->order);
	KUNIT_EXPECT_EQ(test, me_to_system(me, addr, ME_PAGES), ME_PAGES);
	KUNIT_EXPECT_EQ(test, folio_order(me_folio(me, addr)), me->order);
	me_expect_used(me, 0);
	me_expect_contents(me, addr);
	kunit_mm_enter(me->km, child);
	KUNIT_EXPECT_EQ(test, me_get(me, addr, 0), me_pattern(0));
	KUNIT_EXPECT_EQ(test, me_get(me, addr, 1), 0UL);
	KUNIT_EXPECT_EQ(test, me_get(me, addr, 2), me_pattern(2));
	kunit_mm_enter(me->km, parent);
	kunit_mm_exit(me->km, child);
}

static void me_expect_contents_of_child(struct me_test *me, unsigned long addr,
					struct mm_struct *child)
{
	struct mm_struct *parent = kunit_mm_enter(me->km, child);

	me_expect_contents(me, addr);
	kunit_mm_enter(me->km, parent);
	kunit_mm_exit(me->km, child);
}

static void forked_folios_move_to_pages(struct kunit *test)
{
	struct me_test *me = test->priv;
	unsigned long addr = me_map(me);
	struct mm_struct *child;

	KUNIT_ASSERT_EQ(test, 0, kunit_mm_fork(me->km, addr, &child));
	me->slots = me_all_slots(me);
	KUNIT_EXPECT_EQ(test, me_to_device(me, addr, ME_PAGES), ME_PAGES);
	me_expect_used(me, ME_PAGES);
	KUNIT_EXPECT_EQ(test, me_to_system(me, addr, ME_PAGES), ME_PAGES);
	me_expect_used(me, 0);
	me_expect_contents(me, addr);
	me_expect_contents_of_child(me, addr, child);
}

static void forked_folios_return_in_pages(struct kunit *test)
{
	struct me_test *me = test->priv;
	unsigned long addr = me_map_on_device(me);
	struct mm_struct *child;

	KUNIT_ASSERT_EQ(test, 0, kunit_mm_fork(me->km, addr, &child));
	me->slots = me_all_slots(me) & ~2UL;
	KUNIT_EXPECT_EQ(test, me_to_system(me, addr, ME_PAGES),
			ME_PAGES - ME_PAGES / me->nr);
	me_expect_used(me, ME_PAGES / me->nr);
	KUNIT_EXPECT_EQ(test, me_put(addr, 3, ME_NEW), 0);
	KUNIT_EXPECT_EQ(test, me_to_system(me, addr, ME_PAGES),
			ME_PAGES / me->nr);
	me_expect_used(me, 0);
	me_expect_contents_of_child(me, addr, child);
	KUNIT_EXPECT_EQ(test, me_get(me, addr, 3), ME_NEW);
}

/* ---- destinations that do not fit ---- */

/* One page of each folio moves, for each of its pages. */
static void folio_moves_in_pages_at_every_slot(struct kunit *test)
{
	struct me_test *me = test->priv;
	unsigned long k, addr, folios = ME_PAGES / me->nr;

	for (k = 0; k < me->nr; k++) {
		addr = me_map(me);
		me->slots = BIT(k);
		KUNIT_EXPECT_EQ(test, me_to_device(me, addr, ME_PAGES),
				folios);
		me_expect_used(me, folios);
		KUNIT_EXPECT_TRUE(test,
				  me_is_on_device(me, me_folio(me, addr + k *
							       PAGE_SIZE)));
		KUNIT_EXPECT_EQ(test, me_to_system(me, addr, ME_PAGES),
				folios);
		me_expect_used(me, 0);
		me_expect_contents(me, addr);
		me->slots = 0;
	}
}

/* All pages but one return, for each page. */
static void page_without_destination_stays_at_every_slot(struct kunit *test)
{
	struct me_test *me = test->priv;
	unsigned long k, addr, folios = ME_PAGES / me->nr;

	for (k = 0; k < me->nr; k++) {
		me->slots = 0;
		addr = me_map_on_device(me);
		me->slots = me_all_slots(me) & ~BIT(k);
		KUNIT_EXPECT_EQ(test, me_to_system(me, addr, ME_PAGES),
				ME_PAGES - folios);
		me_expect_used(me, folios);
		KUNIT_EXPECT_TRUE(test,
				  me_is_on_device(me, me_folio(me, addr + k *
							       PAGE_SIZE)));
		KUNIT_EXPECT_EQ(test, me_to_system(me, addr, ME_PAGES),
				folios);
		me_expect_used(me, 0);
		me_expect_contents(me, addr);
	}
}

static void destination_of_another_order_is_refused(struct kunit *test)
{
	struct me_test *me = test->priv;
	unsigned long addr = me_map(me);

	me_begin_to_device(me, addr, ME_PAGES);
	me->dst[0] = me_copy_one(me->dev, NULL, me->order + 1);
	me->dst[me->nr] = me_copy_one(me->dev, NULL, 3);
	KUNIT_EXPECT_EQ(test, me_end(me), 0UL);
	me_expect_in_system(me, addr);

	/* more than one, and a second one of the right order in its place */
	me_begin_to_device(me, addr, ME_PAGES);
	me_copy(me, &me->args, me->dev);
	me->dst[1] = me_copy_one(me->dev, NULL, 0);
	me->dst[me->nr - 1] = me_copy_one(me->dev, NULL, me->order);
	KUNIT_EXPECT_EQ(test, me_end(me), ME_PAGES);
	me_expect_on_device(me, addr);
	me_expect_contents(me, addr);
	me_zap(me, addr);
}

static void driver_that_gives_up_restores_folios(struct kunit *test)
{
	struct me_test *me = test->priv;
	unsigned long addr = me_map(me);

	me_begin_to_device(me, addr, ME_PAGES);
	me_copy(me, &me->args, me->dev);
	migrate_vma_finalize(&me->args);
	mmap_read_unlock(me->km->mm);
	me_expect_in_system(me, addr);
	me_expect_contents(me, addr);
}

/* ---- holes ---- */

static void me_fill_holes(struct me_test *me)
{
	unsigned long i;

	for (i = 0; i + me->nr <= me->args.npages; i += me->nr)
		me->dst[i] = me_copy_one(me->dev, NULL, me->order);
}

static void holes_are_filled_by_large_folios(struct kunit *test)
{
	struct me_test *me = test->priv;
	unsigned long addr = me_map_hole(me);
	long anon = me_anon_pages(me);

	me_begin_to_device(me, addr, ME_PAGES);
	me_fill_holes(me);
	KUNIT_EXPECT_EQ(test, me_end(me), ME_PAGES);
	me_expect_on_device(me, addr);
	KUNIT_EXPECT_EQ(test, me_anon_pages(me) - anon, (long)ME_PAGES);
	KUNIT_EXPECT_TRUE(test, me_marks(me, addr, 1) & ME_WRITE);
	KUNIT_EXPECT_TRUE(test, me_marks(me, addr, 1) & ME_EXCLUSIVE);
	me_expect_zeroes(me, addr, ME_PAGES);
	me_zap(me, addr);
	KUNIT_EXPECT_EQ(test, me_anon_pages(me), anon);
}

/* Pages and large folios fill the holes of one table in turn. */
static void holes_are_filled_by_folios_of_mixed_orders(struct kunit *test)
{
	struct me_test *me = test->priv;
	unsigned long i, addr = me_map_hole(me);

	me_begin_to_device(me, addr, ME_PAGES);
	for (i = 1; i < me->nr; i++)
		me->dst[i] = me_copy_one(me->dev, NULL, 0);
	me->dst[me->nr] = me_copy_one(me->dev, NULL, me->order);
	me->dst[2 * me->nr] = me_copy_one(me->dev, NULL, 0);
	KUNIT_EXPECT_EQ(test, me_end(me), 2 * me->nr);
	me_expect_used(me, 2 * me->nr);
	KUNIT_EXPECT_TRUE(test, pte_none(me_pte(me, addr, 0)));
	me_expect_folio(me, addr + me->nr * PAGE_SIZE);
	KUNIT_EXPECT_FALSE(test, folio_test_large(me_folio(me, addr +
							   PAGE_SIZE)));
	me_expect_zeroes(me, addr, ME_PAGES);
	me_zap(me, addr);
}

static void hole_of_pmd_is_filled_by_smaller_folios(struct kunit *test)
{
	struct me_test *me = test->priv;
	unsigned long addr = kunit_mm_map_huge(me->km, HPAGE_PMD_NR);

	me_begin_to_device(me, addr, HPAGE_PMD_NR);
	KUNIT_EXPECT_EQ(test, me->src[0], ME_LARGE);
	me_fill_holes(me);
	KUNIT_EXPECT_EQ(test, me_end(me), ME_ENTRIES);
	me_expect_used(me, HPAGE_PMD_NR);
	me_expect_folio(me, addr);
	me_expect_folio(me, addr + (HPAGE_PMD_NR - me->nr) * PAGE_SIZE);
	me_expect_zeroes(me, addr, HPAGE_PMD_NR);
	kunit_mm_zap(me->km, addr, HPAGE_PMD_NR);
	me_expect_used(me, 0);
}

static void zero_pages_are_replaced_by_large_folios(struct kunit *test)
{
	struct me_test *me = test->priv;
	unsigned long addr = me_map_hole(me);

	kunit_mm_read(me->km, addr, me->nr);
	KUNIT_ASSERT_TRUE(test, is_zero_pfn(pte_pfn(me_pte(me, addr, 0))));
	/* not all of them: this one is refused */
	kunit_mm_read(me->km, addr + me->nr * PAGE_SIZE, 1);
	me_begin_to_device(me, addr, ME_PAGES);
	me_fill_holes(me);
	KUNIT_EXPECT_EQ(test, me_end(me), ME_PAGES - me->nr);
	me_expect_used(me, ME_PAGES - me->nr);
	me_expect_folio(me, addr);
	KUNIT_EXPECT_TRUE(test, is_zero_pfn(pte_pfn(me_pte(me, addr,
							   me->nr))));
	KUNIT_EXPECT_TRUE(test, pte_none(me_pte(me, addr, me->nr + 1)));
	me_expect_zeroes(me, addr, ME_PAGES);
	me_zap(me, addr);
}

static void zero_pages_with_a_protected_one_stay(struct kunit *test)
{
	struct me_test *me = test->priv;
	unsigned long addr = me_map_hole(me);
	pte_t pte;

	if (!IS_ENABLED(CONFIG_HAVE_ARCH_USERFAULTFD_WP))
		kunit_skip(test, "no write protection by userfaultfd");
	kunit_mm_read(me->km, addr, me->nr);
	kunit_mm_change(me->km, addr + 2 * PAGE_SIZE, 1, me_protect);
	me_begin_to_device(me, addr, ME_PAGES);
	me_fill_holes(me);
	KUNIT_EXPECT_EQ(test, me_end(me), ME_PAGES - me->nr);
	me_expect_used(me, ME_PAGES - me->nr);
	pte = me_pte(me, addr, 2);
	KUNIT_EXPECT_TRUE(test, is_zero_pfn(pte_pfn(pte)) && pte_uffd_wp(pte));
	KUNIT_EXPECT_TRUE(test, is_zero_pfn(pte_pfn(me_pte(me, addr, 0))));
	me_zap(me, addr);
}

static int me_write_new(struct kunit_mm_thread *thread)
{
	return me_put(thread->addr, 0, ME_NEW);
}

/* A page that was mapped since setup is not overwritten, at every slot. */
static void holes_that_were_filled_are_refused(struct kunit *test)
{
	struct me_test *me = test->priv;
	struct kunit_mm_thread thread;
	unsigned long k, addr;

	for (k = 0; k < me->nr; k++) {
		memset(&thread, 0, sizeof(thread));
		addr = kunit_mm_map(me->km, ME_PAGES, PROT_READ | PROT_WRITE);
		me_begin_to_device(me, addr, ME_PAGES);
		me_fill_holes(me);
		kunit_mm_thread_start(&thread, me->km,
				      addr + (me->nr + k) * PAGE_SIZE,
				      me_write_new);
		kunit_mm_thread_end(&thread);
		KUNIT_EXPECT_EQ(test, thread.ret, 0);
		KUNIT_EXPECT_EQ(test, me_end(me), ME_PAGES - me->nr);
		me_expect_used(me, ME_PAGES - me->nr);
		me_expect_folio(me, addr);
		KUNIT_EXPECT_EQ(test, me_get(me, addr, me->nr + k), ME_NEW);
		me_zap(me, addr);
	}
}

/* The folio neither crosses the end of the range nor its own alignment. */
static void holes_out_of_line_are_refused(struct kunit *test)
{
	struct me_test *me = test->priv;
	unsigned long addr = me_map_hole(me);

	me_begin_to_device(me, addr + PAGE_SIZE, ME_PAGES - 2);
	me->dst[0] = me_copy_one(me->dev, NULL, me->order);
	me->dst[ME_PAGES - me->nr - 1] = me_copy_one(me->dev, NULL, me->order);
	KUNIT_EXPECT_EQ(test, me_end(me), 0UL);
	me_expect_used(me, 0);
	me_expect_zeroes(me, addr, ME_PAGES);
}

/* Another page at one of the holes, or a page that is no hole */
static void holes_with_other_entries_are_refused(struct kunit *test)
{
	struct me_test *me = test->priv;
	unsigned long addr = kunit_mm_map(me->km, ME_PAGES,
					  PROT_READ | PROT_WRITE);

	KUNIT_ASSERT_EQ(test, me_put(addr, me->nr + 1, ME_NEW), 0);
	me_begin_to_device(me, addr, ME_PAGES);
	me->dst[0] = me_copy_one(me->dev, NULL, me->order);
	me->dst[me->nr - 1] = me_copy_one(me->dev, NULL, 0);
	me->dst[me->nr] = me_copy_one(me->dev, NULL, me->order);
	/* Both folios are refused. The last hole of the first one gets its page. */
	KUNIT_EXPECT_EQ(test, me_end(me), 1UL);
	me_expect_used(me, 1);
	KUNIT_EXPECT_EQ(test, me_get(me, addr, me->nr + 1), ME_NEW);
	me_zap(me, addr);
}

/* userfaultfd is told of missing pages. */
static void holes_of_userfaultfd_are_refused(struct kunit *test)
{
	struct me_test *me = test->priv;
	unsigned long addr = me_map_hole(me);

	/* a page table, so that the walk gets there */
	KUNIT_ASSERT_EQ(test, me_put(addr, ME_PAGES - 1, ME_NEW), 0);
	kunit_mm_flags(me->km, addr, VM_UFFD_MISSING, 0);
	me_begin_to_device(me, addr, me->nr);
	me_fill_holes(me);
	KUNIT_EXPECT_EQ(test, me_end(me), 0UL);
	kunit_mm_flags(me->km, addr, 0, VM_UFFD_MISSING);
	me_expect_used(me, 0);
	KUNIT_EXPECT_TRUE(test, pte_none(me_pte(me, addr, 0)));
}

/* ---- eviction ---- */

static void me_evict(struct me_test *me, unsigned long pfn, unsigned long nr)
{
	struct migrate_vma args = {
		.src = me->src,
		.dst = me->dst,
		.npages = nr,
	};

	memset_l(me->dst, 0, ME_ENTRIES);
	migrate_device_range(me->src, pfn, nr);
	me_copy(me, &args, NULL);
	migrate_device_pages(me->src, me->dst, nr);
	migrate_device_finalize(me->src, me->dst, nr);
}

static void me_evict_all(struct me_test *me)
{
	me_evict(me, me->dev->first, ME_ENTRIES);
}

static void folios_are_evicted_whole(struct kunit *test)
{
	struct me_test *me = test->priv;
	unsigned long addr = me_map_on_device(me);

	me_evict_all(me);
	me_expect_in_system(me, addr);
	me_expect_contents(me, addr);
}

static void folios_are_evicted_in_pages(struct kunit *test)
{
	struct me_test *me = test->priv;
	unsigned long addr = me_map_on_device(me);

	me->slots = 1;
	me_evict_all(me);
	me_expect_used(me, ME_PAGES - ME_PAGES / me->nr);
	me->slots = me_all_slots(me);
	me_evict_all(me);
	me_expect_used(me, 0);
	me_expect_contents(me, addr);
}

static void forked_folios_are_evicted_in_pages(struct kunit *test)
{
	struct me_test *me = test->priv;
	unsigned long addr = me_map_on_device(me);
	struct mm_struct *child;

	KUNIT_ASSERT_EQ(test, 0, kunit_mm_fork(me->km, addr, &child));
	me->slots = me_all_slots(me);
	me_evict_all(me);
	me_expect_used(me, 0);
	me_expect_contents(me, addr);
	me_expect_contents_of_child(me, addr, child);
}

/* The range begins and ends within folios. */
static void part_of_folios_is_evicted(struct kunit *test)
{
	struct me_test *me = test->priv;
	unsigned long addr = me_map_on_device(me);
	unsigned long pfn = folio_pfn(me_folio(me, addr));

	me_evict(me, pfn + 1, 2 * me->nr);
	me_expect_used(me, ME_PAGES - 2 * me->nr);
	me_evict_all(me);
	me_expect_used(me, 0);
	me_expect_contents(me, addr);
}

/* ---- faults ---- */

static void fault_brings_back_the_folio(struct kunit *test)
{
	struct me_test *me = test->priv;
	unsigned long addr = me_map_on_device(me);

	KUNIT_EXPECT_EQ(test, me_get(me, addr, 2), me_pattern(2));
	KUNIT_EXPECT_EQ(test, me->dev->faults, 1);
	lru_add_drain_all();
	me_expect_folio(me, addr);
	me_expect_used(me, ME_PAGES - me->nr);
	me_expect_contents(me, addr);
	KUNIT_EXPECT_EQ(test, me->dev->faults, (int)(ME_PAGES / me->nr));
	me_expect_in_system(me, addr);
}

/* The fault has a reference, which must not keep the folio from a split. */
static void fault_brings_back_pages(struct kunit *test)
{
	struct me_test *me = test->priv;
	unsigned long addr = me_map_on_device(me);

	me->slots = me_all_slots(me);
	KUNIT_EXPECT_EQ(test, me_get(me, addr, 2), me_pattern(2));
	KUNIT_EXPECT_EQ(test, me->dev->faults, 1);
	me_expect_used(me, ME_PAGES - me->nr);
	me_expect_contents(me, addr);
	me_expect_used(me, 0);
}

/* The page of the access stays in the first fault, and moves in the second. */
static void fault_brings_back_some_pages(struct kunit *test)
{
	struct me_test *me = test->priv;
	unsigned long addr = me_map_on_device(me);

	me->slots = me_all_slots(me) & ~2UL;
	KUNIT_EXPECT_EQ(test, me_get(me, addr, 1), me_pattern(1));
	KUNIT_EXPECT_EQ(test, me->dev->faults, 2);
	me_expect_used(me, ME_PAGES - me->nr);
	me_expect_contents(me, addr);
	me_expect_used(me, 0);
}

static void fault_of_forked_folio_brings_back_pages(struct kunit *test)
{
	struct me_test *me = test->priv;
	unsigned long addr = me_map_on_device(me);
	struct mm_struct *child;

	KUNIT_ASSERT_EQ(test, 0, kunit_mm_fork(me->km, addr, &child));
	me->slots = me_all_slots(me);
	me_expect_contents(me, addr);
	me_expect_used(me, 0);
	me_expect_contents_of_child(me, addr, child);
	KUNIT_EXPECT_EQ(test, me->dev->faults, (int)(ME_PAGES / me->nr));
}

static void zapped_part_is_free_at_once(struct kunit *test)
{
	struct me_test *me = test->priv;
	unsigned long addr = me_map_on_device(me);

	kunit_mm_zap(me->km, addr + PAGE_SIZE, 1);
	me_expect_used(me, ME_PAGES - 1);
	KUNIT_EXPECT_EQ(test, me_get(me, addr, 1), 0UL);
	KUNIT_EXPECT_EQ(test, me_get(me, addr, 2), me_pattern(2));
	/* a whole folio needs no split */
	kunit_mm_zap(me->km, addr, me->nr);
	kunit_mm_zap(me->km, addr + me->nr * PAGE_SIZE, me->nr);
	me_expect_used(me, ME_PAGES - 2 * me->nr);
	me_zap(me, addr);
}

/* With another reference, a folio stays large when a part of it is unmapped. */
static void me_zap_pinned(struct me_test *me, unsigned long addr)
{
	struct folio *folio = me_folio(me, addr);

	folio_get(folio);
	kunit_mm_zap(me->km, addr, 1);
	me_expect_used(me, ME_PAGES);
	folio_put(folio);
}

/* A part is unmapped, so the rest returns in pages. */
static void fault_on_rest_of_folio_brings_it_back(struct kunit *test)
{
	struct me_test *me = test->priv;
	unsigned long addr = me_map_on_device(me);

	me_zap_pinned(me, addr);
	KUNIT_EXPECT_EQ(test, me_get(me, addr, 2), me_pattern(2));
	KUNIT_EXPECT_EQ(test, me->dev->faults, 1);
	me_expect_used(me, ME_PAGES - me->nr);
	me_zap(me, addr);
}

static int me_read_after_arrival(struct kunit_mm_thread *thread)
{
	struct me_test *me = thread->km->test->priv;

	atomic_inc(&me->arrived);
	return kunit_mm_try_read(thread->addr);
}

static void me_wait_for_faulters(struct kunit_device *dev, struct page *page)
{
	struct me_test *me = dev->test->priv;
	unsigned long end = jiffies + 60 * HZ;

	while (atomic_read(&me->arrived) < ME_FAULTERS &&
	       time_before(jiffies, end))
		usleep_range(500, 1000);
	msleep(50);
	/* of the mappings and of the fault: threads that wait have none */
	KUNIT_EXPECT_EQ(me->test, folio_ref_count(page_folio(page)),
			(int)me->nr + 1);
}

static void me_expect_one_fault(struct me_test *me, unsigned long slots)
{
	unsigned long addr = me_map_on_device(me);
	struct kunit_mm_thread threads[ME_FAULTERS] = {};
	int i;

	me->slots = slots;
	me->dev->on_fault = me_wait_for_faulters;
	for (i = 0; i < ME_FAULTERS; i++)
		kunit_mm_thread_start(&threads[i], me->km, addr + i * PAGE_SIZE,
				      me_read_after_arrival);
	for (i = 0; i < ME_FAULTERS; i++) {
		kunit_mm_thread_end(&threads[i]);
		KUNIT_EXPECT_EQ(me->test, 0, threads[i].ret);
	}
	me->dev->on_fault = NULL;
	KUNIT_EXPECT_EQ(me->test, me->dev->faults, 1);
	me_expect_used(me, ME_PAGES - me->nr);
	me_expect_contents(me, addr);
	me_expect_used(me, 0);
}

static void one_of_many_faults_calls_the_driver(struct kunit *test)
{
	me_expect_one_fault(test->priv, 0);
}

static void one_of_many_faults_brings_back_pages(struct kunit *test)
{
	struct me_test *me = test->priv;

	me_expect_one_fault(me, me_all_slots(me));
}

/* ---- pins ---- */

static long me_pin(struct me_test *me, unsigned long addr, unsigned long nr,
		   struct page **pages)
{
	long pinned;

	mmap_read_lock(me->km->mm);
	pinned = pin_user_pages_remote(me->km->mm, addr, nr,
				       FOLL_WRITE | FOLL_LONGTERM, pages, NULL);
	mmap_read_unlock(me->km->mm);
	return pinned;
}

/* A long-term pin of coherent memory moves it to the system first. */
static void pin_of_page_moves_the_folio(struct kunit *test)
{
	struct me_test *me = test->priv;
	unsigned long addr = me_map_on_device(me);
	struct page *page;
	long nr;

	nr = me_pin(me, addr + PAGE_SIZE, 1, &page);
	KUNIT_EXPECT_EQ(test, nr, 1L);
	if (nr > 0)
		unpin_user_pages(&page, 1);
	lru_add_drain_all();
	me_expect_folio(me, addr);
	me_expect_used(me, ME_PAGES - me->nr);
	me_expect_contents(me, addr);
	me_zap(me, addr);
}

/*
 * A page of the system between two pages of the folio. The pin fails while the
 * folio has another reference, and gives back what it has pinned by then.
 */
static void pin_of_mixed_pages_moves_the_folio(struct kunit *test)
{
	struct me_test *me = test->priv;
	unsigned long addr = me_map_on_device(me);
	struct folio *folio = me_folio(me, addr);
	struct page *pages[3];
	long nr;

	folio_get(folio);
	kunit_mm_zap(me->km, addr + PAGE_SIZE, 1);
	KUNIT_ASSERT_EQ(test, me_put(addr, 1, ME_NEW), 0);
	KUNIT_EXPECT_LT(test, me_pin(me, addr, 3, pages), 0L);
	folio_put(folio);
	nr = me_pin(me, addr, 3, pages);
	KUNIT_EXPECT_EQ(test, nr, 3L);
	if (nr > 0)
		unpin_user_pages(pages, nr);
	me_expect_used(me, ME_PAGES - me->nr);
	KUNIT_EXPECT_EQ(test, me_get(me, addr, 0), me_pattern(0));
	KUNIT_EXPECT_EQ(test, me_get(me, addr, 1), ME_NEW);
	KUNIT_EXPECT_EQ(test, me_get(me, addr, 2), me_pattern(2));
	me_zap(me, addr);
}

/* ---- suites ---- */

static void me_restore_orders(void *data)
{
	WRITE_ONCE(huge_anon_orders_madvise, (unsigned long)data);
}

/* What /sys/kernel/mm/transparent_hugepage/hugepages-*kB/enabled sets */
static void me_enable_order(struct kunit *test, unsigned int order)
{
	unsigned long was = READ_ONCE(huge_anon_orders_madvise);
	int ret;

	ret = kunit_add_action_or_reset(test, me_restore_orders, (void *)was);
	KUNIT_ASSERT_EQ(test, ret, 0);
	WRITE_ONCE(huge_anon_orders_madvise, BIT(order));
}

static unsigned long *me_alloc_entries(struct kunit *test)
{
	unsigned long *entries = kunit_kcalloc(test, ME_ENTRIES,
					       sizeof(*entries), GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, entries);
	return entries;
}

static struct me_test *me_alloc(struct kunit *test)
{
	struct me_test *me = kunit_kzalloc(test, sizeof(*me), GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, me);
	me->test = test;
	me->order = *(const unsigned int *)test->param_value;
	me->nr = 1UL << me->order;
	me->src = me_alloc_entries(test);
	me->dst = me_alloc_entries(test);
	test->priv = me;
	me_enable_order(test, me->order);
	return me;
}

static int me_init(struct kunit *test)
{
	struct me_test *me = me_alloc(test);
	phys_addr_t start = kunit_device_region(test, 2 * HPAGE_PMD_SIZE);

	me->dev = kunit_device_create(test, ALIGN(start, HPAGE_PMD_SIZE),
				      HPAGE_PMD_SIZE);
	me->dev->serve_fault = me_serve_fault;
	me->km = kunit_mm_create(test);
	return 0;
}

static int me_init_coherent(struct kunit *test)
{
	struct me_test *me = me_alloc(test);

	me->dev = kunit_device_create_coherent(test, HPAGE_PMD_SIZE);
	me->km = kunit_mm_create(test);
	return 0;
}

#define ME_COMMON_CASES							\
	KUNIT_CASE_PARAM(folios_move_whole, me_gen_params),		\
	KUNIT_CASE_PARAM(driver_that_does_not_ask_gets_pages,		\
			 me_gen_params),				\
	KUNIT_CASE_PARAM(pages_of_mixed_folio_keep_their_permission,	\
			 me_gen_params),				\
	KUNIT_CASE_PARAM(mixed_marks_survive, me_gen_params),		\
	KUNIT_CASE_PARAM(zapped_part_is_free_at_once, me_gen_params),	\
	KUNIT_CASE_PARAM(marks_set_during_migration_are_kept,		\
			 me_gen_params),				\
	KUNIT_CASE_PARAM(hinted_folio_moves_whole, me_gen_params),	\
	KUNIT_CASE_PARAM(folio_of_pmd_order_moves_whole, me_gen_params),\
	KUNIT_CASE_PARAM(part_of_folio_moves_alone, me_gen_params),	\
	KUNIT_CASE_PARAM(rest_of_unmapped_folio_moves, me_gen_params),	\
	KUNIT_CASE_PARAM(folio_zapped_during_migration_is_free,		\
			 me_gen_params),				\
	KUNIT_CASE_PARAM(part_zapped_during_migration_stays_zapped,	\
			 me_gen_params),				\
	KUNIT_CASE_PARAM(folios_without_destination_stay,		\
			 me_gen_params),				\
	KUNIT_CASE_PARAM(referenced_folio_stays_whole, me_gen_params),	\
	KUNIT_CASE_PARAM(folio_behind_one_that_stays_moves_whole,	\
			 me_gen_params),				\
	KUNIT_CASE_PARAM(locked_folio_stays_whole, me_gen_params),	\
	KUNIT_CASE_PARAM(pinned_folio_stays_mapped, me_gen_params),	\
	KUNIT_CASE_PARAM(forked_folios_move_whole, me_gen_params),	\
	KUNIT_CASE_PARAM(folio_that_child_maps_in_part_moves_whole,	\
			 me_gen_params),				\
	KUNIT_CASE_PARAM(forked_folios_move_to_pages, me_gen_params),	\
	KUNIT_CASE_PARAM(forked_folios_return_in_pages, me_gen_params),	\
	KUNIT_CASE_PARAM(folio_moves_in_pages_at_every_slot,		\
			 me_gen_params),				\
	KUNIT_CASE_PARAM(page_without_destination_stays_at_every_slot,	\
			 me_gen_params),				\
	KUNIT_CASE_PARAM(destination_of_another_order_is_refused,	\
			 me_gen_params),				\
	KUNIT_CASE_PARAM(driver_that_gives_up_restores_folios,		\
			 me_gen_params),				\
	KUNIT_CASE_PARAM(holes_are_filled_by_large_folios,		\
			 me_gen_params),				\
	KUNIT_CASE_PARAM(holes_are_filled_by_folios_of_mixed_orders,	\
			 me_gen_params),				\
	KUNIT_CASE_PARAM(hole_of_pmd_is_filled_by_smaller_folios,	\
			 me_gen_params),				\
	KUNIT_CASE_PARAM(zero_pages_are_replaced_by_large_folios,	\
			 me_gen_params),				\
	KUNIT_CASE_PARAM(zero_pages_with_a_protected_one_stay,		\
			 me_gen_params),				\
	KUNIT_CASE_PARAM(holes_that_were_filled_are_refused,		\
			 me_gen_params),				\
	KUNIT_CASE_PARAM(holes_out_of_line_are_refused, me_gen_params),	\
	KUNIT_CASE_PARAM(holes_with_other_entries_are_refused,		\
			 me_gen_params),				\
	KUNIT_CASE_PARAM(holes_of_userfaultfd_are_refused,		\
			 me_gen_params),				\
	KUNIT_CASE_PARAM(folios_are_evicted_whole, me_gen_params),	\
	KUNIT_CASE_PARAM(folios_are_evicted_in_pages, me_gen_params),	\
	KUNIT_CASE_PARAM(forked_folios_are_evicted_in_pages,		\
			 me_gen_params),				\
	KUNIT_CASE_PARAM(part_of_folios_is_evicted, me_gen_params)

static struct kunit_case me_cases[] = {
	ME_COMMON_CASES,
	KUNIT_CASE_PARAM(fault_brings_back_the_folio, me_gen_params),
	KUNIT_CASE_PARAM(fault_brings_back_pages, me_gen_params),
	KUNIT_CASE_PARAM(fault_brings_back_some_pages, me_gen_params),
	KUNIT_CASE_PARAM(fault_of_forked_folio_brings_back_pages,
			 me_gen_params),
	KUNIT_CASE_PARAM(fault_on_rest_of_folio_brings_it_back, me_gen_params),
	KUNIT_CASE_PARAM(one_of_many_faults_calls_the_driver, me_gen_params),
	KUNIT_CASE_PARAM(one_of_many_faults_brings_back_pages, me_gen_params),
	{}
};

static struct kunit_suite me_suite = {
	.name = "migrate_extent",
	.init = me_init,
	.test_cases = me_cases,
};

static struct kunit_case me_coherent_cases[] = {
	ME_COMMON_CASES,
	KUNIT_CASE_PARAM(pin_of_page_moves_the_folio, me_gen_params),
	KUNIT_CASE_PARAM(pin_of_mixed_pages_moves_the_folio, me_gen_params),
	{}
};

static struct kunit_suite me_coherent_suite = {
	.name = "migrate_extent_coherent",
	.init = me_init_coherent,
	.test_cases = me_coherent_cases,
};

kunit_test_suites(&me_suite, &me_coherent_suite);

#endif /* CONFIG_DEVICE_MIGRATION_HUGE */

MODULE_DESCRIPTION("KUnit suites of the migration of large folios");
MODULE_LICENSE("GPL");
