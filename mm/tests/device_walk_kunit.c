// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit tests for the device page-table walk.
 *
 * Each test maps entries of one kind in its own address space, walks them in
 * both modes, and compares the extents with the expected ones. Entries that
 * need a device, a swap area or broken memory are planted; the others are real.
 * The last test compares random layouts, page by page, with the generic walk of
 * mm/pagewalk.c.
 *
 * Every locked walk also checks the page-table lock at each extent, and counts
 * the tables.
 */
#include <kunit/test.h>
#include <linux/hugetlb.h>
#include <linux/mman.h>
#include <linux/pagewalk.h>
#include <linux/pfn_t.h>
#include <linux/prandom.h>
#include <linux/rmap.h>
#include <linux/swap.h>
#include <linux/swapops.h>

#include "../internal.h"
#include "../device_walk.h"
#include "kunit_device.h"
#include "kunit_mm.h"

#define RW	(PROT_READ | PROT_WRITE)
#define PERM_RW	(DEVICE_EXTENT_WRITE | DEVICE_EXTENT_DIRTY)
#define PMD_NR	((unsigned long)(PMD_SIZE >> PAGE_SHIFT))

/* The largest layout is the random one. Each of its pages may be an extent. */
#define WALK_PMDS	6
#define WALK_EXTENTS	(WALK_PMDS * MAX_PTRS_PER_PTE)

/**
 * struct walk_test - state of a test
 * @km: the address space
 * @walk: the walk in progress
 * @locked: the walk holds page-table locks
 * @nr: number of recorded extents
 * @stop: end the walk at this extent, counted from 1; 0: do not
 * @consume: lower @nr of extents to this, where allowed; 0: do not
 * @refuse: consume nothing of the extent that ends the walk
 * @take: number of PTEs that the operation @ptes handles at most
 * @taken: number of PTEs that it has handled
 * @unlocked: number of extents reported without the lock of their table
 * @in_table: the walk is between @table_begin and @table_end
 * @unpaired: number of calls of these two that do not match
 * @tables: number of tables between such calls
 * @table_start: address of the first extent in the table
 * @extents: the recorded extents
 */
struct walk_test {
	struct kunit_mm *km;
	struct device_walk walk;
	bool locked;
	unsigned int nr;
	unsigned int stop;
	unsigned long consume;
	bool refuse;
	unsigned long take;
	unsigned long taken;
	unsigned int unlocked;
	bool in_table;
	unsigned int unpaired;
	unsigned int tables;
	unsigned long table_start;
	struct device_extent extents[WALK_EXTENTS];
};

#define WALK_STOPPED	7

static bool walk_is_locked(spinlock_t *ptl)
{
	if (!spin_trylock(ptl))
		return true;
	spin_unlock(ptl);
	return false;
}

static bool walk_lock_held(struct walk_test *t, struct device_extent *ext)
{
	if (!ext->pmdp)
		return true;
	if (ext->ptep)
		return walk_is_locked(pte_lockptr(t->km->mm, ext->pmdp));
	if (ext->kind == DEVICE_EXTENT_HOLE)
		return true;
	return walk_is_locked(pmd_lockptr(t->km->mm, ext->pmdp));
}

/* Only the last extent may be shortened if it is not a run of PTEs. */
static void walk_shorten(struct walk_test *t, struct device_extent *ext,
			 bool last)
{
	if (t->consume && (last || ext->ptep))
		ext->nr = min(ext->nr, t->consume);
	if (t->refuse && last)
		ext->nr = 0;
}

static int walk_record(struct device_walk *walk, struct device_extent *ext)
{
	struct walk_test *t = container_of(walk, struct walk_test, walk);
	bool last = t->stop && t->nr + 1 >= t->stop;

	if (t->nr == WALK_EXTENTS)
		return -ENOSPC;
	if (t->locked) {
		t->unlocked += !walk_lock_held(t, ext);
		t->unpaired += t->in_table != !!ext->ptep;
	}
	if (t->in_table && !t->table_start)
		t->table_start = ext->addr;
	walk_shorten(t, ext, last);
	t->extents[t->nr++] = *ext;
	return last ? WALK_STOPPED : 0;
}

static void walk_table_begin(struct device_walk *walk)
{
	struct walk_test *t = container_of(walk, struct walk_test, walk);

	t->unpaired += t->in_table;
	t->in_table = true;
	t->table_start = 0;
}

static void walk_table_end(struct device_walk *walk, unsigned long start,
			   unsigned long end)
{
	struct walk_test *t = container_of(walk, struct walk_test, walk);
	struct device_extent *last = &t->extents[t->nr - 1];

	t->unpaired += !t->in_table || start != t->table_start ||
		       end != device_extent_end(last);
	t->in_table = false;
	t->tables++;
}

/* Record each writable PTE as an extent. */
static __always_inline unsigned long
walk_take(struct device_walk *walk, unsigned long addr, pte_t *ptep,
	  unsigned long max)
{
	struct walk_test *t = container_of(walk, struct walk_test, walk);
	struct device_extent ext = {
		.addr = addr,
		.nr = 1,
		.kind = DEVICE_EXTENT_PRESENT,
		.perm = DEVICE_EXTENT_WRITE,
	};
	pte_t first = ptep_get(ptep);
	struct pte_template template = pte_template_of(first);
	unsigned long nr;

	if (!device_pte_ordinary(walk, first) || !pte_write(first))
		return 0;
	if (pte_dirty(first))
		ext.perm |= DEVICE_EXTENT_DIRTY;
	max = min3(max, t->take, WALK_EXTENTS - t->nr);
	for (nr = 0; nr < max; nr++, ext.addr += PAGE_SIZE) {
		if (!pte_template_match(template, ptep_get(ptep + nr),
					&ext.pfn))
			break;
		t->extents[t->nr++] = ext;
	}
	t->taken += nr;
	return nr;
}

static const struct device_walk_ops walk_lockless_ops = {
	.mode = DEVICE_WALK_LOCKLESS,
	.present = walk_record,
	.extent = walk_record,
};

static const struct device_walk_ops walk_locked_ops = {
	.mode = DEVICE_WALK_LOCKED,
	.present = walk_record,
	.extent = walk_record,
	.table_begin = walk_table_begin,
	.table_end = walk_table_end,
};

static const struct device_walk_ops walk_taking_ops = {
	.mode = DEVICE_WALK_LOCKLESS,
	.ptes = walk_take,
	.present = walk_record,
	.extent = walk_record,
};

/* Runs a walk with the mmap lock held. */
typedef int walk_fn(struct walk_test *t, unsigned long start,
		    unsigned long end);

static int walk_lockless(struct walk_test *t, unsigned long start,
			 unsigned long end)
{
	t->locked = false;
	return device_walk_range(&t->walk, start, end, &walk_lockless_ops);
}

static int walk_locked(struct walk_test *t, unsigned long start,
		       unsigned long end)
{
	int ret;

	t->locked = true;
	ret = device_walk_range(&t->walk, start, end, &walk_locked_ops);
	KUNIT_EXPECT_EQ(t->km->test, t->unlocked, 0);
	KUNIT_EXPECT_EQ(t->km->test, t->unpaired, 0);
	KUNIT_EXPECT_FALSE(t->km->test, t->in_table);
	return ret;
}

static int walk_taking(struct walk_test *t, unsigned long start,
		       unsigned long end)
{
	t->locked = false;
	return device_walk_range(&t->walk, start, end, &walk_taking_ops);
}

static int walk_run(struct walk_test *t, unsigned long start, unsigned long end,
		    walk_fn *way)
{
	int ret;

	t->nr = 0;
	t->tables = 0;
	t->taken = 0;
	t->walk.mm = t->km->mm;
	mmap_read_lock(t->km->mm);
	ret = way(t, start, end);
	mmap_read_unlock(t->km->mm);
	return ret;
}

/* An expected extent. @pfn is 0 if there is none, or if it is not known. */
struct want {
	enum device_extent_kind kind;
	unsigned long nr;
	unsigned int order;
	unsigned int perm;
	unsigned long pfn;
};

static void walk_compare(struct walk_test *t, unsigned long addr,
			 const struct want *want, unsigned int nr)
{
	struct kunit *test = t->km->test;
	unsigned int i;

	KUNIT_EXPECT_EQ(test, t->nr, nr);
	for (i = 0; i < min(nr, t->nr); i++, want++) {
		struct device_extent *ext = &t->extents[i];

		KUNIT_EXPECT_EQ_MSG(test, ext->addr, addr, "extent %u", i);
		KUNIT_EXPECT_EQ_MSG(test, ext->kind, want->kind, "extent %u", i);
		KUNIT_EXPECT_EQ_MSG(test, ext->nr, want->nr, "extent %u", i);
		KUNIT_EXPECT_EQ_MSG(test, ext->order, want->order, "extent %u", i);
		KUNIT_EXPECT_EQ_MSG(test, ext->perm, want->perm, "extent %u", i);
		if (want->pfn)
			KUNIT_EXPECT_EQ_MSG(test, ext->pfn, want->pfn,
					    "extent %u", i);
		addr = device_extent_end(ext);
	}
}

/* Walk the range of @want, which starts at @addr, in both modes. */
static void walk_expect(struct walk_test *t, unsigned long addr,
			const struct want *want, unsigned int nr)
{
	unsigned long end = addr;
	unsigned int i;

	for (i = 0; i < nr; i++)
		end += want[i].nr << PAGE_SHIFT;
	KUNIT_EXPECT_EQ(t->km->test, 0,
			walk_run(t, addr, end, walk_locked));
	walk_compare(t, addr, want, nr);
	KUNIT_EXPECT_EQ(t->km->test, 0,
			walk_run(t, addr, end, walk_lockless));
	walk_compare(t, addr, want, nr);
}

KUNIT_DEFINE_ACTION_WRAPPER(walk_kvfree, kvfree, void *);

static void *walk_alloc(struct kunit *test, size_t size)
{
	void *p = kvzalloc(size, GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, p);
	KUNIT_ASSERT_EQ(test, 0, kunit_add_action_or_reset(test, walk_kvfree,
							   p));
	return p;
}

static int walk_test_init(struct kunit *test)
{
	struct walk_test *t = walk_alloc(test, sizeof(*t));

	t->km = kunit_mm_create(test);
	test->priv = t;
	return 0;
}

/* Holes and VMAs */

static void hole_in_page_table_is_one_extent(struct kunit *test)
{
	struct walk_test *t = test->priv;
	unsigned long addr = kunit_mm_map(t->km, 16, RW);
	const struct want want[] = {
		{ DEVICE_EXTENT_HOLE, 3 },
		{ DEVICE_EXTENT_PRESENT, 1, .perm = PERM_RW },
		{ DEVICE_EXTENT_HOLE, 12 },
	};

	kunit_mm_write(t->km, addr + 3 * PAGE_SIZE, 1);
	walk_expect(t, addr, want, ARRAY_SIZE(want));
	KUNIT_EXPECT_NOT_NULL(test, t->extents[0].ptep);
}

static void missing_page_tables_are_one_hole(struct kunit *test)
{
	struct walk_test *t = test->priv;
	unsigned long addr = kunit_mm_map(t->km, 4 * PMD_NR, RW);
	const struct want before[] = {
		{ DEVICE_EXTENT_HOLE, 4 * PMD_NR, PMD_ORDER },
	};
	const struct want after[] = {
		{ DEVICE_EXTENT_HOLE, PMD_NR, PMD_ORDER },
		{ DEVICE_EXTENT_PRESENT, 1, .perm = PERM_RW },
		{ DEVICE_EXTENT_HOLE, PMD_NR - 1 },
		{ DEVICE_EXTENT_HOLE, 2 * PMD_NR, PMD_ORDER },
	};

	walk_expect(t, addr, before, ARRAY_SIZE(before));
	KUNIT_EXPECT_NULL(test, t->extents[0].ptep);
	kunit_mm_write(t->km, addr + PMD_SIZE, 1);
	walk_expect(t, addr, after, ARRAY_SIZE(after));
}

/* The second PUD is empty. The first one has a table, with an empty PMD. */
static void missing_tables_of_two_levels_are_one_hole(struct kunit *test)
{
	struct walk_test *t = test->priv;
	unsigned long addr = ALIGN(t->km->cursor + 1, PUD_SIZE) - 2 * PMD_SIZE;
	const struct want want[] = {
		{ DEVICE_EXTENT_PRESENT, 1, .perm = PERM_RW },
		{ DEVICE_EXTENT_HOLE, PMD_NR - 1 },
		{ DEVICE_EXTENT_HOLE, 2 * PMD_NR, PMD_ORDER },
	};

	kunit_mm_map_fixed(t->km, addr, 3 * PMD_NR, RW);
	kunit_mm_write(t->km, addr, 1);
	walk_expect(t, addr, want, ARRAY_SIZE(want));
}

static void gaps_between_vmas_are_extents(struct kunit *test)
{
	struct walk_test *t = test->priv;
	unsigned long addr = kunit_mm_map(t->km, 16, RW);
	const struct want want[] = {
		{ DEVICE_EXTENT_NO_VMA, 2, PMD_ORDER },
		{ DEVICE_EXTENT_PRESENT, 1, .perm = PERM_RW },
		{ DEVICE_EXTENT_HOLE, 3 },
		{ DEVICE_EXTENT_NO_VMA, 4, PMD_ORDER },
		{ DEVICE_EXTENT_HOLE, 8 },
		{ DEVICE_EXTENT_NO_VMA, 5, PMD_ORDER },
	};

	kunit_mm_write(t->km, addr, 1);
	KUNIT_ASSERT_EQ(test, 0, vm_munmap(addr + 4 * PAGE_SIZE, 4 * PAGE_SIZE));
	walk_expect(t, addr - 2 * PAGE_SIZE, want, ARRAY_SIZE(want));
}

static void range_without_vma_is_one_extent(struct kunit *test)
{
	struct walk_test *t = test->priv;
	const struct want want[] = {
		{ DEVICE_EXTENT_NO_VMA, 3 * PMD_NR, PMD_ORDER },
	};

	walk_expect(t, t->km->cursor, want, ARRAY_SIZE(want));
	KUNIT_EXPECT_NULL(test, t->walk.vma);
}

static void extents_do_not_cross_vmas(struct kunit *test)
{
	struct walk_test *t = test->priv;
	unsigned long addr = kunit_mm_map(t->km, 2 * PMD_NR, RW);
	const struct want want[] = {
		{ DEVICE_EXTENT_HOLE, 8, PMD_ORDER },
		{ DEVICE_EXTENT_HOLE, 2 * PMD_NR - 8, PMD_ORDER },
	};

	kunit_mm_protect(t->km, addr, 8, VM_READ);
	walk_expect(t, addr, want, ARRAY_SIZE(want));
}

static bool walk_skip_readonly(struct device_walk *walk)
{
	return !(walk->vma->vm_flags & VM_WRITE);
}

static const struct device_walk_ops walk_skip_ops = {
	.mode = DEVICE_WALK_LOCKLESS,
	.present = walk_record,
	.extent = walk_record,
	.skip_vma = walk_skip_readonly,
};

static void skipped_vma_is_one_special_extent(struct kunit *test)
{
	struct walk_test *t = test->priv;
	unsigned long addr = kunit_mm_map(t->km, 16, RW);
	const struct want want[] = {
		{ DEVICE_EXTENT_PRESENT, 1, .perm = PERM_RW },
		{ DEVICE_EXTENT_SPECIAL, 8, PMD_ORDER },
		{ DEVICE_EXTENT_HOLE, 7 },
	};
	int ret;

	kunit_mm_write(t->km, addr, 1);
	kunit_mm_protect(t->km, addr + PAGE_SIZE, 8, VM_READ);
	t->walk.mm = t->km->mm;
	mmap_read_lock(t->km->mm);
	ret = device_walk_range(&t->walk, addr, addr + 16 * PAGE_SIZE,
				&walk_skip_ops);
	mmap_read_unlock(t->km->mm);
	KUNIT_EXPECT_EQ(test, ret, 0);
	walk_compare(t, addr, want, ARRAY_SIZE(want));
}

/* Present pages */

static void zero_page_is_reported_as_zero(struct kunit *test)
{
	struct walk_test *t = test->priv;
	unsigned long addr = kunit_mm_map(t->km, 4, RW);
	unsigned long pfn = page_to_pfn(ZERO_PAGE(0));
	const struct want want[] = {
		{ DEVICE_EXTENT_ZERO, 1, .pfn = pfn },
		{ DEVICE_EXTENT_ZERO, 1, .pfn = pfn },
		{ DEVICE_EXTENT_HOLE, 2 },
	};

	kunit_mm_read(t->km, addr, 2);
	walk_expect(t, addr, want, ARRAY_SIZE(want));
}

static void read_only_pages_lack_write_permission(struct kunit *test)
{
	struct walk_test *t = test->priv;
	unsigned long addr = kunit_mm_map(t->km, 4, RW);
	struct want want[] = {
		{ DEVICE_EXTENT_PRESENT, 1, .perm = DEVICE_EXTENT_DIRTY },
	};

	kunit_mm_write(t->km, addr, 1);
	kunit_mm_protect(t->km, addr, 4, VM_READ);
	want[0].pfn = kunit_mm_pfn(t->km, addr);
	walk_expect(t, addr, want, ARRAY_SIZE(want));
}

static void clean_pages_lack_dirty_permission(struct kunit *test)
{
	struct walk_test *t = test->priv;
	struct file *file = kunit_mm_shmem(test, 4);
	unsigned long addr = kunit_mm_map_file(t->km, file, 4, RW, MAP_SHARED);
	struct want want[] = {
		{ DEVICE_EXTENT_PRESENT, 1, .perm = DEVICE_EXTENT_WRITE },
	};

	kunit_mm_read(t->km, addr, 1);
	want[0].pfn = kunit_mm_pfn(t->km, addr);
	walk_expect(t, addr, want, ARRAY_SIZE(want));
}

static void private_file_page_is_reported_as_present(struct kunit *test)
{
	struct walk_test *t = test->priv;
	struct file *file = kunit_mm_shmem(test, 4);
	unsigned long addr = kunit_mm_map_file(t->km, file, 4, RW, MAP_PRIVATE);
	const struct want want[] = {
		{ DEVICE_EXTENT_PRESENT, 1 },
	};

	kunit_mm_read(t->km, addr, 1);
	walk_expect(t, addr, want, ARRAY_SIZE(want));
}

/* Map a THP. Skip the test if that fails. */
static unsigned long walk_map_thp(struct walk_test *t, unsigned long nr)
{
	unsigned long addr = kunit_mm_map_huge(t->km, nr * PMD_NR);
	unsigned long i;

	for (i = 0; i < nr; i++) {
		kunit_mm_write(t->km, addr + i * PMD_SIZE, 1);
		if (!pmd_trans_huge(kunit_mm_pmd(t->km, addr + i * PMD_SIZE)))
			kunit_skip(t->km->test, "no THP available");
	}
	return addr;
}

static void thp_is_one_extent(struct kunit *test)
{
	struct walk_test *t = test->priv;
	unsigned long addr = walk_map_thp(t, 2);
	unsigned long pfn = kunit_mm_pfn(t->km, addr);
	const struct want whole[] = {
		{ DEVICE_EXTENT_PRESENT, PMD_NR, PMD_ORDER, PERM_RW, pfn },
		{ DEVICE_EXTENT_PRESENT, PMD_NR, PMD_ORDER, PERM_RW,
		  kunit_mm_pfn(t->km, addr + PMD_SIZE) },
	};
	const struct want part[] = {
		{ DEVICE_EXTENT_PRESENT, 5, PMD_ORDER, PERM_RW, pfn + 7 },
	};

	walk_expect(t, addr, whole, ARRAY_SIZE(whole));
	KUNIT_EXPECT_NULL(test, t->extents[0].ptep);
	KUNIT_EXPECT_NOT_NULL(test, t->extents[0].pmdp);
	walk_expect(t, addr + 7 * PAGE_SIZE, part, ARRAY_SIZE(part));
}

static void huge_zero_page_is_reported_as_zero(struct kunit *test)
{
	struct walk_test *t = test->priv;
	unsigned long addr = kunit_mm_map_huge(t->km, PMD_NR);
	const struct want want[] = {
		{ DEVICE_EXTENT_ZERO, PMD_NR, PMD_ORDER },
	};

	kunit_mm_read(t->km, addr, 1);
	if (!is_huge_zero_pmd(kunit_mm_pmd(t->km, addr)))
		kunit_skip(test, "no huge zero page available");
	walk_expect(t, addr, want, ARRAY_SIZE(want));
}

static void large_folio_mapped_by_ptes_is_one_extent(struct kunit *test)
{
	struct walk_test *t = test->priv;
	unsigned long addr = walk_map_thp(t, 1);
	unsigned long pfn = kunit_mm_pfn(t->km, addr);
	const struct want want[] = {
		{ DEVICE_EXTENT_PRESENT, PMD_NR, 0, PERM_RW, pfn },
	};

	kunit_mm_split_pmd(t->km, addr);
	walk_expect(t, addr, want, ARRAY_SIZE(want));
	KUNIT_EXPECT_NOT_NULL(test, t->extents[0].ptep);
}

/* Boundaries of extents */

static void extent_ends_where_pfns_are_not_contiguous(struct kunit *test)
{
	struct walk_test *t = test->priv;
	unsigned long addr = walk_map_thp(t, 1);
	unsigned long pfn = kunit_mm_pfn(t->km, addr);
	struct want want[] = {
		{ DEVICE_EXTENT_PRESENT, 5, 0, PERM_RW, pfn },
		{ DEVICE_EXTENT_PRESENT, 1, 0, PERM_RW },
		{ DEVICE_EXTENT_PRESENT, PMD_NR - 6, 0, PERM_RW, pfn + 6 },
	};

	kunit_mm_split_pmd(t->km, addr);
	kunit_mm_zap(t->km, addr + 5 * PAGE_SIZE, 1);
	kunit_mm_write(t->km, addr + 5 * PAGE_SIZE, 1);
	want[1].pfn = kunit_mm_pfn(t->km, addr + 5 * PAGE_SIZE);
	KUNIT_ASSERT_NE(test, want[1].pfn, pfn + 5);
	walk_expect(t, addr, want, ARRAY_SIZE(want));
}

static void extent_ends_where_write_permission_changes(struct kunit *test)
{
	struct walk_test *t = test->priv;
	unsigned long addr = walk_map_thp(t, 1);
	unsigned long pfn = kunit_mm_pfn(t->km, addr);
	const struct want want[] = {
		{ DEVICE_EXTENT_PRESENT, 9, 0, PERM_RW, pfn },
		{ DEVICE_EXTENT_PRESENT, 4, 0, DEVICE_EXTENT_DIRTY, pfn + 9 },
		{ DEVICE_EXTENT_PRESENT, PMD_NR - 13, 0, PERM_RW, pfn + 13 },
	};

	kunit_mm_split_pmd(t->km, addr);
	kunit_mm_change(t->km, addr + 9 * PAGE_SIZE, 4, pte_wrprotect);
	walk_expect(t, addr, want, ARRAY_SIZE(want));
}

static void extent_ends_where_dirty_bit_changes(struct kunit *test)
{
	struct walk_test *t = test->priv;
	unsigned long addr = walk_map_thp(t, 1);
	unsigned long pfn = kunit_mm_pfn(t->km, addr);
	const struct want want[] = {
		{ DEVICE_EXTENT_PRESENT, 1, 0, DEVICE_EXTENT_WRITE, pfn },
		{ DEVICE_EXTENT_PRESENT, PMD_NR - 1, 0, PERM_RW, pfn + 1 },
	};

	kunit_mm_split_pmd(t->km, addr);
	kunit_mm_change(t->km, addr, 1, pte_mkclean);
	walk_expect(t, addr, want, ARRAY_SIZE(want));
}

static void pte_template_ignores_the_pfn_only(struct kunit *test)
{
	const pgprot_t prot[] = { PAGE_SHARED, PAGE_READONLY, PAGE_NONE };
	unsigned long pfn, first = PHYS_PFN(SZ_1G) + 5, found;
	struct pte_template template;
	unsigned int i, bit;
	pte_t pte, odd;

	for (i = 0; i < ARRAY_SIZE(prot); i++) {
		template = pte_template_of(pfn_pte(first, prot[i]));
		for (bit = 0; bit < 20; bit++) {
			pfn = BIT(bit);
			pte = pfn_pte(pfn, prot[i]);
			KUNIT_EXPECT_TRUE(test, pte_template_match(template,
								   pte, &found));
			KUNIT_EXPECT_EQ(test, found, pfn);
			odd = pte_mkyoung(pte_mkdirty(pte_mkwrite_novma(pte)));
			KUNIT_EXPECT_FALSE(test, pte_template_match(template,
								    odd, &found));
		}
		KUNIT_EXPECT_FALSE(test, pte_template_match(template, __pte(0),
							    &found));
		odd = pfn_pte(first, prot[(i + 1) % ARRAY_SIZE(prot)]);
		KUNIT_EXPECT_FALSE(test, pte_template_match(template, odd,
							    &found));
	}
}

/* PTEs that match a template need not have contiguous pfns. */
static void ptes_operation_handles_matching_ptes(struct kunit *test)
{
	struct walk_test *t = test->priv;
	unsigned long addr = walk_map_thp(t, 1), i;
	unsigned long end = addr + 16 * PAGE_SIZE;

	kunit_mm_split_pmd(t->km, addr);
	kunit_mm_zap(t->km, addr + 2 * PAGE_SIZE, 1);
	kunit_mm_write(t->km, addr + 2 * PAGE_SIZE, 1);
	kunit_mm_change(t->km, addr, PMD_NR, pte_mkdirty);
	kunit_mm_change(t->km, addr, PMD_NR, pte_mkyoung);
	kunit_mm_change(t->km, addr + 5 * PAGE_SIZE, 2, pte_wrprotect);
	t->take = 16;
	KUNIT_EXPECT_EQ(test, walk_run(t, addr, end, walk_taking), 0);

	KUNIT_EXPECT_EQ(test, t->taken, 14);
	KUNIT_ASSERT_EQ(test, t->nr, 14 + 1);
	KUNIT_EXPECT_EQ(test, t->extents[5].nr, 2);
	KUNIT_EXPECT_EQ(test, t->extents[5].perm, DEVICE_EXTENT_DIRTY);
	for (i = 0; i < t->nr; i++)
		KUNIT_EXPECT_EQ(test, t->extents[i].pfn,
				kunit_mm_pfn(t->km, t->extents[i].addr));
	KUNIT_EXPECT_EQ(test, device_extent_end(&t->extents[14]), end);
	KUNIT_EXPECT_EQ(test, t->walk.addr, end);
}

static pte_t walk_swap_pte(unsigned long nr)
{
	return swp_entry_to_pte(swp_entry(0, 100 + nr));
}

static pte_t walk_private_pte(unsigned long pfn)
{
	return swp_entry_to_pte(make_writable_device_private_entry(pfn));
}

/* Contiguous pfns in adjacent tables. */
static void extent_ends_at_end_of_page_table(struct kunit *test)
{
	struct walk_test *t = test->priv;
	unsigned long addr = kunit_mm_map(t->km, 2 * PMD_NR, RW);
	unsigned long start = addr + PMD_SIZE - 3 * PAGE_SIZE, i;
	const struct want want[] = {
		{ DEVICE_EXTENT_PRIVATE, 3, 0, DEVICE_EXTENT_WRITE, 0x1000 },
		{ DEVICE_EXTENT_PRIVATE, 4, 0, DEVICE_EXTENT_WRITE, 0x1003 },
	};

	for (i = 0; i < 7; i++)
		kunit_mm_plant(t->km, start + i * PAGE_SIZE,
			       walk_private_pte(0x1000 + i));
	walk_expect(t, start, want, ARRAY_SIZE(want));
	KUNIT_ASSERT_EQ(test, 0, walk_run(t, start, start + 7 * PAGE_SIZE,
					  walk_locked));
	KUNIT_EXPECT_EQ(test, t->tables, 2);
}

/* Entries that are not present */

static void swap_entry_is_reported_as_swap(struct kunit *test)
{
	struct walk_test *t = test->priv;
	unsigned long addr = kunit_mm_map(t->km, 4, RW);
	const struct want want[] = {
		{ DEVICE_EXTENT_HOLE, 1 },
		{ DEVICE_EXTENT_SWAP, 1 },
		{ DEVICE_EXTENT_SWAP, 1 },
		{ DEVICE_EXTENT_HOLE, 1 },
	};

	kunit_mm_plant(t->km, addr + PAGE_SIZE, walk_swap_pte(0));
	kunit_mm_plant(t->km, addr + 2 * PAGE_SIZE, walk_swap_pte(1));
	walk_expect(t, addr, want, ARRAY_SIZE(want));
	KUNIT_EXPECT_EQ(test, t->extents[1].pfn, 0);
}

/* Lock the folio at @addr, get a reference and install migration entries. */
static struct folio *walk_unmap_for_migration(struct walk_test *t,
					      unsigned long addr)
{
	struct folio *folio = pfn_folio(kunit_mm_pfn(t->km, addr));

	folio_get(folio);
	folio_lock(folio);
	try_to_migrate(folio, 0);
	return folio;
}

static void walk_end_migration(struct folio *folio)
{
	remove_migration_ptes(folio, folio, 0);
	folio_unlock(folio);
	folio_put(folio);
}

static void migration_entry_is_reported_as_migration(struct kunit *test)
{
	struct walk_test *t = test->priv;
	unsigned long addr = kunit_mm_map(t->km, 2, RW), pfn;
	struct want want[] = {
		{ DEVICE_EXTENT_MIGRATION, 1, .perm = DEVICE_EXTENT_WRITE },
		{ DEVICE_EXTENT_HOLE, 1 },
	};
	const struct want after[] = {
		{ DEVICE_EXTENT_PRESENT, 1, .perm = PERM_RW },
		{ DEVICE_EXTENT_HOLE, 1 },
	};
	struct folio *folio;

	if (!IS_ENABLED(CONFIG_MIGRATION))
		kunit_skip(test, "needs page migration");
	kunit_mm_write(t->km, addr, 1);
	pfn = kunit_mm_pfn(t->km, addr);
	want[0].pfn = pfn;
	folio = walk_unmap_for_migration(t, addr);
	walk_expect(t, addr, want, ARRAY_SIZE(want));
	walk_end_migration(folio);
	walk_expect(t, addr, after, ARRAY_SIZE(after));
}

static void huge_migration_entry_is_reported_as_migration(struct kunit *test)
{
	struct walk_test *t = test->priv;
	unsigned long addr = walk_map_thp(t, 1);
	unsigned long pfn = kunit_mm_pfn(t->km, addr);
	const struct want want[] = {
		{ DEVICE_EXTENT_MIGRATION, PMD_NR, PMD_ORDER,
		  DEVICE_EXTENT_WRITE, pfn },
	};
	const struct want part[] = {
		{ DEVICE_EXTENT_MIGRATION, 2, PMD_ORDER,
		  DEVICE_EXTENT_WRITE, pfn + 4 },
	};
	struct folio *folio;

	if (!thp_migration_supported())
		kunit_skip(test, "needs migration of huge pages");
	folio = walk_unmap_for_migration(t, addr);
	walk_expect(t, addr, want, ARRAY_SIZE(want));
	walk_expect(t, addr + 4 * PAGE_SIZE, part, ARRAY_SIZE(part));
	walk_end_migration(folio);
}

static void exclusive_entry_is_reported_as_exclusive(struct kunit *test)
{
	struct walk_test *t = test->priv;
	unsigned long addr = kunit_mm_map(t->km, 2, RW);
	const struct want want[] = {
		{ DEVICE_EXTENT_EXCLUSIVE, 1, 0, DEVICE_EXTENT_WRITE, 0x1000 },
		{ DEVICE_EXTENT_EXCLUSIVE, 1, 0, 0, 0x1001 },
	};
	swp_entry_t entry;

	entry = make_writable_device_exclusive_entry(0x1000);
	kunit_mm_plant(t->km, addr, swp_entry_to_pte(entry));
	entry = make_readable_device_exclusive_entry(0x1001);
	kunit_mm_plant(t->km, addr + PAGE_SIZE, swp_entry_to_pte(entry));
	walk_expect(t, addr, want, ARRAY_SIZE(want));
}

static void userfaultfd_marker_is_reported_as_marker(struct kunit *test)
{
	struct walk_test *t = test->priv;
	unsigned long addr = kunit_mm_map(t->km, 2, RW);
	const struct want want[] = {
		{ DEVICE_EXTENT_MARKER, 1 },
		{ DEVICE_EXTENT_HOLE, 1 },
	};

	kunit_mm_plant(t->km, addr, make_pte_marker(PTE_MARKER_UFFD_WP));
	walk_expect(t, addr, want, ARRAY_SIZE(want));
}

static void poison_marker_is_reported_as_poison(struct kunit *test)
{
	struct walk_test *t = test->priv;
	unsigned long addr = kunit_mm_map(t->km, 2, RW);
	const struct want want[] = {
		{ DEVICE_EXTENT_POISON, 1 },
		{ DEVICE_EXTENT_POISON, 1 },
	};

	kunit_mm_plant(t->km, addr, make_pte_marker(PTE_MARKER_POISONED));
	kunit_mm_plant(t->km, addr + PAGE_SIZE,
		       make_pte_marker(PTE_MARKER_POISONED | PTE_MARKER_UFFD_WP));
	walk_expect(t, addr, want, ARRAY_SIZE(want));
}

static void hwpoison_entry_is_reported_as_poison(struct kunit *test)
{
	struct walk_test *t = test->priv;
	unsigned long addr = kunit_mm_map(t->km, 2, RW);
	const struct want want[] = {
		{ DEVICE_EXTENT_POISON, 1 },
		{ DEVICE_EXTENT_HOLE, 1 },
	};
	swp_entry_t entry;
	struct page *page;

	if (!IS_ENABLED(CONFIG_MEMORY_FAILURE))
		kunit_skip(test, "needs memory failure handling");
	page = alloc_page(GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, page);
	lock_page(page);
	entry = make_hwpoison_entry(page);
	unlock_page(page);
	kunit_mm_plant(t->km, addr, swp_entry_to_pte(entry));
	walk_expect(t, addr, want, ARRAY_SIZE(want));
	__free_page(page);
}

/* Device-private pages */

static void device_private_run_is_one_extent(struct kunit *test)
{
	struct walk_test *t = test->priv;
	unsigned long addr = kunit_mm_map(t->km, 16, RW), i;
	const struct want want[] = {
		{ DEVICE_EXTENT_PRIVATE, 6, 0, DEVICE_EXTENT_WRITE, 0x1000 },
		{ DEVICE_EXTENT_PRIVATE, 4, 0, 0, 0x1006 },
		{ DEVICE_EXTENT_PRIVATE, 3, 0, 0, 0x2000 },
		{ DEVICE_EXTENT_PRIVATE, 1, 0, 0, 0x1fff },
		{ DEVICE_EXTENT_HOLE, 2 },
	};
	swp_entry_t entry;

	for (i = 0; i < 6; i++)
		kunit_mm_plant(t->km, addr + i * PAGE_SIZE,
			       walk_private_pte(0x1000 + i));
	for (; i < 14; i++) {
		entry = make_readable_device_private_entry(i < 10 ? 0x1000 + i :
							   i < 13 ? 0x1ff6 + i :
							   0x1fff);
		kunit_mm_plant(t->km, addr + i * PAGE_SIZE,
			       swp_entry_to_pte(entry));
	}
	walk_expect(t, addr, want, ARRAY_SIZE(want));
}

/* Contiguous entries of two pagemaps. */
static void private_run_ends_at_pagemap_boundary(struct kunit *test)
{
	const unsigned long half = KUNIT_DEVICE_UNIT;
	struct walk_test *t = test->priv;
	unsigned long addr = kunit_mm_map(t->km, 16, RW), pfn, i;
	struct kunit_device *first, *second;
	struct device_extent ext;
	phys_addr_t region;

	region = kunit_device_region(test, 2 * half);
	first = kunit_device_create(test, region, half);
	second = kunit_device_create(test, region + half, half);
	pfn = PHYS_PFN(region + half) - 6;
	for (i = 0; i < 16; i++)
		kunit_mm_plant(t->km, addr + i * PAGE_SIZE,
			       walk_private_pte(pfn + i));

	KUNIT_ASSERT_EQ(test, 0, walk_run(t, addr, addr + 16 * PAGE_SIZE,
					  walk_lockless));
	KUNIT_ASSERT_EQ(test, t->nr, 1);
	ext = t->extents[0];
	KUNIT_EXPECT_EQ(test, ext.nr, 16);
	KUNIT_EXPECT_PTR_EQ(test, device_extent_pgmap(&ext), first->pgmap);
	KUNIT_EXPECT_EQ(test, ext.nr, 6);

	ext.pfn += 6;
	ext.nr = 10;
	KUNIT_EXPECT_PTR_EQ(test, device_extent_pgmap(&ext), second->pgmap);
	KUNIT_EXPECT_EQ(test, ext.nr, 10);

	ext.pfn -= 6;
	ext.nr = 6;
	KUNIT_EXPECT_PTR_EQ(test, device_extent_pgmap(&ext), first->pgmap);
	KUNIT_EXPECT_EQ(test, ext.nr, 6);
}

/* A sub-section boundary inside a pagemap does not cut a run. */
static void private_run_spans_subsections_of_a_pagemap(struct kunit *test)
{
	const unsigned long half = PAGES_PER_SUBSECTION << PAGE_SHIFT;
	phys_addr_t region = kunit_device_region(test, 2 * half);
	struct device_extent ext = {
		.pfn = PHYS_PFN(region + half) - 6,
		.nr = 16,
		.kind = DEVICE_EXTENT_PRIVATE,
	};
	struct kunit_device *dev;

	dev = kunit_device_create(test, region, 2 * half);
	KUNIT_EXPECT_PTR_EQ(test, device_extent_pgmap(&ext), dev->pgmap);
	KUNIT_EXPECT_EQ(test, ext.nr, 16);
}

/* Mappings of driver memory */

/* A file with one block of pages, freed when the file is. */
struct walk_pages {
	struct page *page;
	unsigned int order;
};

static int walk_pages_release(struct inode *inode, struct file *file)
{
	struct walk_pages *pages = file->private_data;
	unsigned long i;

	for (i = 0; i < 1UL << pages->order; i++)
		__free_page(pages->page + i);
	kfree(pages);
	return 0;
}

static struct page *walk_file_page(struct file *file)
{
	struct walk_pages *pages = file->private_data;

	return pages->page;
}

static struct file *walk_pages_file(struct kunit *test, unsigned int order,
				    const struct file_operations *fops)
{
	struct walk_pages *pages = kmalloc(sizeof(*pages), GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, pages);
	pages->order = order;
	pages->page = alloc_pages(GFP_KERNEL | __GFP_NOWARN, order);
	if (!pages->page) {
		kfree(pages);
		kunit_skip(test, "no free block of pages");
	}
	split_page(pages->page, order);
	return kunit_mm_file(test, fops, pages);
}

static int walk_pfnmap_mmap(struct file *file, struct vm_area_struct *vma)
{
	return remap_pfn_range(vma, vma->vm_start,
			       page_to_pfn(walk_file_page(file)),
			       vma->vm_end - vma->vm_start, vma->vm_page_prot);
}

static const struct file_operations walk_pfnmap_fops = {
	.mmap = walk_pfnmap_mmap,
	.release = walk_pages_release,
};

static void pfnmap_is_reported_as_special(struct kunit *test)
{
	struct walk_test *t = test->priv;
	struct file *file = walk_pages_file(test, 1, &walk_pfnmap_fops);
	unsigned long addr = kunit_mm_map_file(t->km, file, 2, RW, MAP_SHARED);
	const struct want want[] = {
		{ DEVICE_EXTENT_SPECIAL, 1, .perm = DEVICE_EXTENT_WRITE },
		{ DEVICE_EXTENT_SPECIAL, 1, .perm = DEVICE_EXTENT_WRITE },
	};

	walk_expect(t, addr, want, ARRAY_SIZE(want));
	KUNIT_EXPECT_EQ(test, t->extents[0].pfn, 0);
}

/* Map the first page as a page and the second one as a pfn. */
static int walk_mixed_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct page *page = walk_file_page(file);
	int ret;

	vm_flags_set(vma, VM_MIXEDMAP);
	ret = vm_insert_page(vma, vma->vm_start, page);
	if (ret)
		return ret;
	if (vmf_insert_mixed(vma, vma->vm_start + PAGE_SIZE,
			     pfn_to_pfn_t(page_to_pfn(page) + 1)) !=
	    VM_FAULT_NOPAGE)
		return -EFAULT;
	return 0;
}

static const struct file_operations walk_mixed_fops = {
	.mmap = walk_mixed_mmap,
	.release = walk_pages_release,
};

static void mixedmap_is_reported_as_present_or_special(struct kunit *test)
{
	struct walk_test *t = test->priv;
	struct file *file = walk_pages_file(test, 1, &walk_mixed_fops);
	unsigned long addr = kunit_mm_map_file(t->km, file, 3, RW, MAP_SHARED);
	const struct want want[] = {
		{ DEVICE_EXTENT_PRESENT, 1, 0, DEVICE_EXTENT_WRITE,
		  page_to_pfn(walk_file_page(file)) },
		{ DEVICE_EXTENT_SPECIAL, 1, 0, DEVICE_EXTENT_WRITE },
		{ DEVICE_EXTENT_HOLE, 1 },
	};

	if (!IS_ENABLED(CONFIG_ARCH_HAS_PTE_SPECIAL))
		kunit_skip(test, "needs special PTEs");
	walk_expect(t, addr, want, ARRAY_SIZE(want));
}

static vm_fault_t walk_huge_pfn_fault(struct vm_fault *vmf, unsigned int order)
{
	struct page *page = walk_file_page(vmf->vma->vm_file);

	if (order != PMD_ORDER)
		return VM_FAULT_FALLBACK;
	return vmf_insert_pfn_pmd(vmf, pfn_to_pfn_t(page_to_pfn(page)),
				  vmf->flags & FAULT_FLAG_WRITE);
}

static vm_fault_t walk_no_fault(struct vm_fault *vmf)
{
	return VM_FAULT_SIGBUS;
}

static const struct vm_operations_struct walk_huge_pfn_ops = {
	.fault = walk_no_fault,
	.huge_fault = walk_huge_pfn_fault,
};

static int walk_huge_pfn_mmap(struct file *file, struct vm_area_struct *vma)
{
	vm_flags_set(vma, VM_PFNMAP | VM_HUGEPAGE);
	vma->vm_ops = &walk_huge_pfn_ops;
	return 0;
}

static const struct file_operations walk_huge_pfn_fops = {
	.mmap = walk_huge_pfn_mmap,
	.release = walk_pages_release,
};

static void huge_pfnmap_is_reported_as_special(struct kunit *test)
{
	const struct want want[] = {
		{ DEVICE_EXTENT_SPECIAL, PMD_NR, PMD_ORDER, PERM_RW },
	};
	struct walk_test *t = test->priv;
	unsigned long addr;
	struct file *file;

	if (!IS_ENABLED(CONFIG_ARCH_SUPPORTS_PMD_PFNMAP))
		kunit_skip(test, "needs PMDs that map pfns");
	file = walk_pages_file(test, PMD_ORDER, &walk_huge_pfn_fops);
	addr = kunit_mm_map_file(t->km, file, PMD_NR, RW, MAP_SHARED);
	kunit_mm_write(t->km, addr, 1);
	walk_expect(t, addr, want, ARRAY_SIZE(want));
	KUNIT_EXPECT_EQ(test, t->extents[0].pfn, 0);
}

/* Memory without access */

static void page_in_inaccessible_vma_is_reported_as_protnone(struct kunit *test)
{
	struct walk_test *t = test->priv;
	unsigned long addr = kunit_mm_map(t->km, 2, RW);
	const struct want want[] = {
		{ DEVICE_EXTENT_PROTNONE, 1, .perm = DEVICE_EXTENT_DIRTY },
		{ DEVICE_EXTENT_HOLE, 1 },
	};

	if (!IS_ENABLED(CONFIG_NUMA_BALANCING))
		kunit_skip(test, "needs NUMA balancing");
	kunit_mm_write(t->km, addr, 1);
	kunit_mm_protect(t->km, addr, 2, 0);
	walk_expect(t, addr, want, ARRAY_SIZE(want));
}

static void thp_in_inaccessible_vma_is_reported_as_protnone(struct kunit *test)
{
	struct walk_test *t = test->priv;
	unsigned long addr = walk_map_thp(t, 1);
	const struct want want[] = {
		{ DEVICE_EXTENT_PROTNONE, PMD_NR, PMD_ORDER,
		  DEVICE_EXTENT_DIRTY },
	};

	if (!IS_ENABLED(CONFIG_NUMA_BALANCING))
		kunit_skip(test, "needs NUMA balancing");
	kunit_mm_protect(t->km, addr, PMD_NR, 0);
	walk_expect(t, addr, want, ARRAY_SIZE(want));
}

/* hugetlb */

#ifdef CONFIG_HUGETLB_PAGE
static void hugetlb_entries_are_extents(struct kunit *test)
{
	const unsigned long nr = pages_per_huge_page(&default_hstate);
	const unsigned int order = huge_page_order(&default_hstate);
	struct walk_test *t = test->priv;
	unsigned long addr = kunit_mm_map_hugetlb(t->km, 3);
	const struct want want[] = {
		{ DEVICE_EXTENT_HOLE, nr, order },
		{ DEVICE_EXTENT_PRESENT, nr, order, PERM_RW },
		{ DEVICE_EXTENT_HOLE, nr, order },
	};
	struct want part[] = {
		{ DEVICE_EXTENT_HOLE, 2, order },
		{ DEVICE_EXTENT_PRESENT, 3, order, PERM_RW },
	};

	kunit_mm_write(t->km, addr + (nr << PAGE_SHIFT), 1);
	walk_expect(t, addr, want, ARRAY_SIZE(want));
	KUNIT_EXPECT_NULL(test, t->extents[1].pmdp);
	part[1].pfn = t->extents[1].pfn;
	walk_expect(t, addr + ((nr - 2) << PAGE_SHIFT), part, ARRAY_SIZE(part));
	part[0] = (struct want){ DEVICE_EXTENT_PRESENT, 4, order, PERM_RW,
				 part[1].pfn + 9 };
	walk_expect(t, addr + ((nr + 9) << PAGE_SHIFT), part, 1);
}
#else
static void hugetlb_entries_are_extents(struct kunit *test)
{
	kunit_skip(test, "needs hugetlb pages");
}
#endif

/* Operations that do not consume the whole extent */

static void walk_continues_behind_shortened_run(struct kunit *test)
{
	struct walk_test *t = test->priv;
	unsigned long addr = kunit_mm_map(t->km, 8, RW), i;
	const struct want want[] = {
		{ DEVICE_EXTENT_HOLE, 2 },
		{ DEVICE_EXTENT_HOLE, 1 },
		{ DEVICE_EXTENT_PRIVATE, 2, 0, DEVICE_EXTENT_WRITE, 0x1000 },
		{ DEVICE_EXTENT_PRIVATE, 2, 0, DEVICE_EXTENT_WRITE, 0x1002 },
		{ DEVICE_EXTENT_PRIVATE, 1, 0, DEVICE_EXTENT_WRITE, 0x1004 },
	};

	for (i = 0; i < 5; i++)
		kunit_mm_plant(t->km, addr + (i + 3) * PAGE_SIZE,
			       walk_private_pte(0x1000 + i));
	t->consume = 2;
	walk_expect(t, addr, want, ARRAY_SIZE(want));
}

static void walk_expect_resume(struct walk_test *t, unsigned long addr,
			       unsigned long end, unsigned long first,
			       walk_fn *way)
{
	struct kunit *test = t->km->test;

	t->consume = first;
	t->stop = 1;
	KUNIT_EXPECT_EQ(test, walk_run(t, addr, end, way), WALK_STOPPED);
	KUNIT_EXPECT_EQ(test, t->walk.addr, addr + (first << PAGE_SHIFT));
	t->consume = 0;
	t->stop = 0;
	addr = t->walk.addr;
	KUNIT_EXPECT_EQ(test, walk_run(t, addr, end, way), 0);
	KUNIT_EXPECT_EQ(test, t->extents[0].addr, addr);
	KUNIT_EXPECT_EQ(test, device_extent_end(&t->extents[t->nr - 1]), end);
}

static void walk_expect_resume_both(struct walk_test *t, unsigned long addr,
				    unsigned long nr)
{
	unsigned long end = addr + (nr << PAGE_SHIFT);

	walk_expect_resume(t, addr, end, 3, walk_locked);
	walk_expect_resume(t, addr, end, 3, walk_lockless);
}

static void ended_walk_resumes_inside_run(struct kunit *test)
{
	struct walk_test *t = test->priv;
	unsigned long addr = kunit_mm_map(t->km, 8, RW);

	kunit_mm_write(t->km, addr + 5 * PAGE_SIZE, 1);
	walk_expect_resume_both(t, addr, 8);
	KUNIT_EXPECT_EQ(test, t->nr, 3);
	KUNIT_EXPECT_EQ(test, t->extents[0].nr, 2);
}

static void ended_walk_resumes_inside_hole(struct kunit *test)
{
	struct walk_test *t = test->priv;
	unsigned long addr = kunit_mm_map(t->km, 4 * PMD_NR, RW);

	walk_expect_resume_both(t, addr, 4 * PMD_NR);
	KUNIT_EXPECT_EQ(test, t->nr, 1);
	KUNIT_EXPECT_EQ(test, t->extents[0].nr, 4 * PMD_NR - 3);

	/* the hole ends at a table */
	kunit_mm_write(t->km, addr + 2 * PMD_SIZE, 1);
	walk_expect_resume_both(t, addr, 4 * PMD_NR);
	KUNIT_EXPECT_EQ(test, t->nr, 4);
	KUNIT_EXPECT_EQ(test, t->extents[0].nr, 2 * PMD_NR - 3);
}

static void ended_walk_resumes_inside_thp(struct kunit *test)
{
	struct walk_test *t = test->priv;
	unsigned long addr = walk_map_thp(t, 1);

	walk_expect_resume_both(t, addr, PMD_NR);
	KUNIT_EXPECT_EQ(test, t->nr, 1);
	KUNIT_EXPECT_EQ(test, t->extents[0].nr, PMD_NR - 3);
	KUNIT_EXPECT_EQ(test, t->extents[0].pfn,
			kunit_mm_pfn(t->km, addr) + 3);
}

static void ended_walk_resumes_inside_gap(struct kunit *test)
{
	struct walk_test *t = test->priv;

	walk_expect_resume_both(t, t->km->cursor, 8);
	KUNIT_EXPECT_EQ(test, t->nr, 1);
	KUNIT_EXPECT_EQ(test, t->extents[0].kind, DEVICE_EXTENT_NO_VMA);
	KUNIT_EXPECT_EQ(test, t->extents[0].nr, 5);
}

static void walk_expect_stay(struct walk_test *t, unsigned long addr,
			     enum device_extent_kind kind)
{
	static walk_fn * const ways[] = { walk_lockless, walk_locked };
	struct kunit *test = t->km->test;
	unsigned int i;

	t->stop = 1;
	t->refuse = true;
	for (i = 0; i < ARRAY_SIZE(ways); i++) {
		KUNIT_EXPECT_EQ(test, WALK_STOPPED,
				walk_run(t, addr, addr + 2 * PAGE_SIZE,
					 ways[i]));
		KUNIT_EXPECT_EQ(test, t->extents[0].kind, kind);
		KUNIT_EXPECT_EQ(test, t->walk.addr, addr);
	}
}

static void ended_walk_without_progress_keeps_its_address(struct kunit *test)
{
	struct walk_test *t = test->priv;
	unsigned long addr = kunit_mm_map(t->km, 2 * PMD_NR, RW);

	kunit_mm_write(t->km, addr, 4);
	walk_expect_stay(t, addr + PAGE_SIZE, DEVICE_EXTENT_PRESENT);
	walk_expect_stay(t, addr + 5 * PAGE_SIZE, DEVICE_EXTENT_HOLE);
	walk_expect_stay(t, addr + PMD_SIZE + 5 * PAGE_SIZE,
			 DEVICE_EXTENT_HOLE);
	walk_expect_stay(t, t->km->cursor, DEVICE_EXTENT_NO_VMA);
}

static void ended_walk_without_progress_keeps_address_in_thp(struct kunit *test)
{
	struct walk_test *t = test->priv;
	unsigned long addr = walk_map_thp(t, 1);

	walk_expect_stay(t, addr + 3 * PAGE_SIZE, DEVICE_EXTENT_PRESENT);
}

static void locked_walk_pairs_table_begin_and_end(struct kunit *test)
{
	struct walk_test *t = test->priv;
	unsigned long addr = kunit_mm_map(t->km, 5 * PMD_NR, RW);

	/* tables 0, 1 and 3 exist */
	kunit_mm_write(t->km, addr, 1);
	kunit_mm_write(t->km, addr + PMD_SIZE, 1);
	kunit_mm_write(t->km, addr + 3 * PMD_SIZE, 1);
	KUNIT_EXPECT_EQ(test, 0, walk_run(t, addr, addr + 5 * PMD_SIZE,
					  walk_locked));
	KUNIT_EXPECT_EQ(test, t->tables, 3);

	t->stop = 3;
	KUNIT_EXPECT_EQ(test, WALK_STOPPED,
			walk_run(t, addr, addr + 5 * PMD_SIZE,
				 walk_locked));
	KUNIT_EXPECT_EQ(test, t->tables, 2);
	KUNIT_EXPECT_FALSE(test, walk_is_locked(pte_lockptr(t->km->mm,
							    t->extents[0].pmdp)));
}

/*
 * Random layouts
 *
 * The generic walk tells what to expect. The page tables must not change after
 * it, so khugepaged is kept out.
 */

struct walk_page {
	enum device_extent_kind kind;
	unsigned int order;
	unsigned int perm;
	unsigned long pfn;
};

struct walk_random {
	struct walk_test *t;
	struct rnd_state rnd;
	unsigned long start;
	unsigned long end;
	struct walk_page pages[WALK_PMDS * MAX_PTRS_PER_PTE];
};

static void walk_model_fill(struct walk_random *r, unsigned long addr,
			    unsigned long next, struct walk_page page)
{
	for (; addr < next; addr += PAGE_SIZE) {
		r->pages[(addr - r->start) >> PAGE_SHIFT] = page;
		if (page.pfn)
			page.pfn++;
	}
}

static struct walk_page walk_model_present(pte_t pte)
{
	struct walk_page page = {
		.kind = DEVICE_EXTENT_PRESENT,
		.pfn = pte_pfn(pte),
	};

	if (is_zero_pfn(page.pfn))
		page.kind = DEVICE_EXTENT_ZERO;
	if (pte_write(pte))
		page.perm |= DEVICE_EXTENT_WRITE;
	if (pte_dirty(pte))
		page.perm |= DEVICE_EXTENT_DIRTY;
	return page;
}

/* Handles the entries that the random layout plants. */
static struct walk_page walk_model_swap(swp_entry_t entry)
{
	struct walk_page page = { .kind = DEVICE_EXTENT_SWAP };

	if (is_pte_marker_entry(entry)) {
		page.kind = DEVICE_EXTENT_MARKER;
	} else if (is_device_private_entry(entry)) {
		page.kind = DEVICE_EXTENT_PRIVATE;
		page.pfn = swp_offset(entry);
		page.perm = DEVICE_EXTENT_WRITE;
	}
	return page;
}

static int walk_model_pte(pte_t *ptep, unsigned long addr, unsigned long next,
			  struct mm_walk *walk)
{
	struct walk_page page = { .kind = DEVICE_EXTENT_HOLE };
	pte_t pte = ptep_get(ptep);

	if (pte_present(pte))
		page = walk_model_present(pte);
	else if (!pte_none(pte))
		page = walk_model_swap(pte_to_swp_entry(pte));
	walk_model_fill(walk->private, addr, next, page);
	return 0;
}

static int walk_model_pmd(pmd_t *pmdp, unsigned long addr, unsigned long next,
			  struct mm_walk *walk)
{
	pmd_t pmd = pmdp_get_lockless(pmdp);
	struct walk_page page = {
		.kind = DEVICE_EXTENT_PRESENT,
		.order = PMD_ORDER,
	};

	if (!pmd_trans_huge(pmd))
		return 0;
	walk->action = ACTION_CONTINUE;
	if (is_huge_zero_pmd(pmd))
		page.kind = DEVICE_EXTENT_ZERO;
	if (pmd_write(pmd))
		page.perm |= DEVICE_EXTENT_WRITE;
	if (pmd_dirty(pmd))
		page.perm |= DEVICE_EXTENT_DIRTY;
	page.pfn = pmd_pfn(pmd) + ((addr & ~PMD_MASK) >> PAGE_SHIFT);
	walk_model_fill(walk->private, addr, next, page);
	return 0;
}

static int walk_model_hole(unsigned long addr, unsigned long next, int depth,
			   struct mm_walk *walk)
{
	struct walk_page page = {
		.kind = walk->vma ? DEVICE_EXTENT_HOLE : DEVICE_EXTENT_NO_VMA,
		.order = PMD_ORDER,
	};

	walk_model_fill(walk->private, addr, next, page);
	return 0;
}

static const struct mm_walk_ops walk_model_ops = {
	.pmd_entry = walk_model_pmd,
	.pte_entry = walk_model_pte,
	.pte_hole = walk_model_hole,
	.walk_lock = PGWALK_RDLOCK,
};

static bool walk_page_agrees(struct walk_page *page, struct device_extent *ext,
			     unsigned long i)
{
	unsigned long pfn = ext->pfn ? ext->pfn + i : 0;

	return page->kind == ext->kind && page->order == ext->order &&
	       page->perm == ext->perm && page->pfn == pfn;
}

/* The extents cover [start, end) in order and match the model. */
static void walk_check_extents(struct walk_random *r, unsigned long addr,
			       unsigned long end)
{
	struct walk_test *t = r->t;
	unsigned int i;

	for (i = 0; i < t->nr; i++) {
		struct device_extent *ext = &t->extents[i];
		unsigned long page = (ext->addr - r->start) >> PAGE_SHIFT, k;

		KUNIT_ASSERT_EQ(t->km->test, ext->addr, addr);
		addr = device_extent_end(ext);
		KUNIT_ASSERT_LE(t->km->test, addr, end);
		for (k = 0; k < ext->nr; k++)
			if (!walk_page_agrees(&r->pages[page + k], ext, k))
				break;
		KUNIT_EXPECT_EQ_MSG(t->km->test, k, ext->nr,
				    "page %lu: kind %d for %d", page + k,
				    ext->kind, r->pages[page + k].kind);
	}
	KUNIT_EXPECT_EQ(t->km->test, addr, end);
}

static unsigned long walk_random_below(struct walk_random *r, unsigned long max)
{
	return prandom_u32_state(&r->rnd) % max;
}

/* May fail, as there may be no VMA, or a read-only one. */
static void walk_random_touch(unsigned long addr, unsigned long nr, bool write)
{
	unsigned long __user *p = (unsigned long __user *)addr;
	unsigned long word;

	for (; nr--; p += PAGE_SIZE / sizeof(*p))
		if (write ? copy_to_user(p, &nr, sizeof(nr)) :
			    copy_from_user(&word, p, sizeof(word)))
			break;
}

static void walk_random_step(struct walk_random *r)
{
	unsigned long page = walk_random_below(r, WALK_PMDS * PMD_NR - 64);
	unsigned long nr = 1 + walk_random_below(r, 64);
	unsigned long addr = r->start + (page << PAGE_SHIFT);
	struct mm_struct *mm = r->t->km->mm;

	switch (walk_random_below(r, 8)) {
	case 0:
	case 1:
	case 2:
		walk_random_touch(addr, nr, true);
		break;
	case 3:
		walk_random_touch(addr, nr, false);
		break;
	case 4:
		do_madvise(mm, addr, nr << PAGE_SHIFT, MADV_DONTNEED);
		break;
	case 5:
		vm_munmap(addr, nr << PAGE_SHIFT);
		break;
	case 6:
		kunit_mm_map_fixed(r->t->km, addr, nr,
				   page & 1 ? RW : PROT_READ);
		break;
	case 7:
		do_madvise(mm, addr, nr << PAGE_SHIFT, MADV_FREE);
		break;
	}
}

static bool walk_random_empty(struct walk_random *r, unsigned long addr)
{
	struct mm_struct *mm = r->t->km->mm;
	bool vma;

	mmap_read_lock(mm);
	vma = vma_lookup(mm, addr);
	mmap_read_unlock(mm);
	return vma && !pmd_leaf(kunit_mm_pmd(r->t->km, addr)) &&
	       pte_none(kunit_mm_pte(r->t->km, addr));
}

/* Plant up to eight entries in a row in a hole. */
static void walk_random_plant(struct walk_random *r)
{
	unsigned long page = walk_random_below(r, WALK_PMDS * PMD_NR - 8);
	unsigned long addr = r->start + (page << PAGE_SHIFT), i;
	unsigned int kind = walk_random_below(r, 3);
	pte_t pte;

	for (i = 0; i < 8 && walk_random_empty(r, addr); i++) {
		if (kind == 0)
			pte = walk_swap_pte(page + i);
		else if (kind == 1)
			pte = walk_private_pte(0x1000 + page + i);
		else
			pte = make_pte_marker(PTE_MARKER_UFFD_WP);
		kunit_mm_plant(r->t->km, addr, pte);
		addr += PAGE_SIZE;
	}
}

static void walk_random_layout(struct walk_random *r)
{
	struct walk_test *t = r->t;
	unsigned int i;

	if (IS_ENABLED(CONFIG_TRANSPARENT_HUGEPAGE) && has_transparent_hugepage())
		r->start = kunit_mm_map_huge(t->km, WALK_PMDS * PMD_NR);
	else
		r->start = kunit_mm_map(t->km, WALK_PMDS * PMD_NR, RW);
	r->end = r->start + WALK_PMDS * PMD_SIZE;
	kunit_mm_map_fixed(t->km, r->start + 2 * PMD_SIZE, 2 * PMD_NR, RW);
	for (i = 0; i < 40; i++)
		walk_random_step(r);
	for (i = 0; i < 20; i++)
		walk_random_plant(r);
	do_madvise(t->km->mm, r->start, r->end - r->start, MADV_NOHUGEPAGE);
}

/* End the walk after a few extents, consume parts of them, and resume. */
static void walk_random_pieces(struct walk_random *r, unsigned long addr,
			       unsigned long end, walk_fn *way)
{
	struct walk_test *t = r->t;
	int ret;

	t->nr = 0;
	t->walk.mm = t->km->mm;
	do {
		t->stop = t->nr + 1 + walk_random_below(r, 4);
		t->consume = walk_random_below(r, 64);
		t->take = walk_random_below(r, 64);
		ret = way(t, addr, end);
		addr = t->walk.addr;
	} while (ret == WALK_STOPPED && addr < end);
	t->stop = 0;
	t->consume = 0;
	KUNIT_EXPECT_TRUE(t->km->test, !ret || ret == WALK_STOPPED);
}

static void walk_random_compare(struct walk_random *r)
{
	static walk_fn * const ways[] = {
		walk_lockless, walk_locked, walk_taking,
	};
	unsigned long start = r->start, end = r->end;
	struct mm_struct *mm = r->t->km->mm;
	unsigned int i;

	r->t->take = 32;
	for (i = 0; i < ARRAY_SIZE(ways); i++) {
		start += walk_random_below(r, PMD_NR) << PAGE_SHIFT;
		end -= walk_random_below(r, PMD_NR) << PAGE_SHIFT;
		KUNIT_EXPECT_EQ(r->t->km->test, 0,
				walk_run(r->t, start, end, ways[i]));
		walk_check_extents(r, start, end);
		mmap_read_lock(mm);
		walk_random_pieces(r, start, end, ways[i]);
		mmap_read_unlock(mm);
		walk_check_extents(r, start, end);
	}
}

static void random_layouts_are_covered_exactly(struct kunit *test)
{
	struct walk_random *r = walk_alloc(test, sizeof(*r));
	struct mm_struct *mm;
	unsigned int round;
	int ret;

	r->t = test->priv;
	mm = r->t->km->mm;
	prandom_seed_state(&r->rnd, 20240612);
	for (round = 0; round < 12; round++) {
		walk_random_layout(r);
		mmap_read_lock(mm);
		ret = walk_page_range(mm, r->start, r->end, &walk_model_ops, r);
		mmap_read_unlock(mm);
		KUNIT_ASSERT_EQ(test, ret, 0);
		walk_random_compare(r);
	}
}

static struct kunit_case device_walk_cases[] = {
	KUNIT_CASE(hole_in_page_table_is_one_extent),
	KUNIT_CASE(missing_page_tables_are_one_hole),
	KUNIT_CASE(missing_tables_of_two_levels_are_one_hole),
	KUNIT_CASE(gaps_between_vmas_are_extents),
	KUNIT_CASE(range_without_vma_is_one_extent),
	KUNIT_CASE(extents_do_not_cross_vmas),
	KUNIT_CASE(skipped_vma_is_one_special_extent),
	KUNIT_CASE(zero_page_is_reported_as_zero),
	KUNIT_CASE(read_only_pages_lack_write_permission),
	KUNIT_CASE(clean_pages_lack_dirty_permission),
	KUNIT_CASE(private_file_page_is_reported_as_present),
	KUNIT_CASE(thp_is_one_extent),
	KUNIT_CASE(huge_zero_page_is_reported_as_zero),
	KUNIT_CASE(large_folio_mapped_by_ptes_is_one_extent),
	KUNIT_CASE(extent_ends_where_pfns_are_not_contiguous),
	KUNIT_CASE(extent_ends_where_write_permission_changes),
	KUNIT_CASE(extent_ends_where_dirty_bit_changes),
	KUNIT_CASE(extent_ends_at_end_of_page_table),
	KUNIT_CASE(pte_template_ignores_the_pfn_only),
	KUNIT_CASE(ptes_operation_handles_matching_ptes),
	KUNIT_CASE(swap_entry_is_reported_as_swap),
	KUNIT_CASE(migration_entry_is_reported_as_migration),
	KUNIT_CASE(huge_migration_entry_is_reported_as_migration),
	KUNIT_CASE(exclusive_entry_is_reported_as_exclusive),
	KUNIT_CASE(userfaultfd_marker_is_reported_as_marker),
	KUNIT_CASE(poison_marker_is_reported_as_poison),
	KUNIT_CASE(hwpoison_entry_is_reported_as_poison),
	KUNIT_CASE(device_private_run_is_one_extent),
	KUNIT_CASE(private_run_ends_at_pagemap_boundary),
	KUNIT_CASE(private_run_spans_subsections_of_a_pagemap),
	KUNIT_CASE(pfnmap_is_reported_as_special),
	KUNIT_CASE(mixedmap_is_reported_as_present_or_special),
	KUNIT_CASE(huge_pfnmap_is_reported_as_special),
	KUNIT_CASE(page_in_inaccessible_vma_is_reported_as_protnone),
	KUNIT_CASE(thp_in_inaccessible_vma_is_reported_as_protnone),
	KUNIT_CASE(hugetlb_entries_are_extents),
	KUNIT_CASE(walk_continues_behind_shortened_run),
	KUNIT_CASE(ended_walk_resumes_inside_run),
	KUNIT_CASE(ended_walk_resumes_inside_hole),
	KUNIT_CASE(ended_walk_resumes_inside_thp),
	KUNIT_CASE(ended_walk_resumes_inside_gap),
	KUNIT_CASE(ended_walk_without_progress_keeps_its_address),
	KUNIT_CASE(ended_walk_without_progress_keeps_address_in_thp),
	KUNIT_CASE(locked_walk_pairs_table_begin_and_end),
	KUNIT_CASE_SLOW(random_layouts_are_covered_exactly),
	{}
};

static struct kunit_suite device_walk_suite = {
	.name = "device_walk",
	.init = walk_test_init,
	.test_cases = device_walk_cases,
};

kunit_test_suite(device_walk_suite);
