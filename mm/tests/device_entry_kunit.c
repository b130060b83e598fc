// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit tests of mm/device_entry.h: each conversion of a page-table entry, from
 * every possible state of the entry, compared with a table of what it keeps.
 *
 * No entry is in a page table. All entries refer to one anonymous page of the
 * test.
 */
#include <kunit/test.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/swap.h>
#include <linux/swapops.h>

#include "../internal.h"
#include "../device_entry.h"

#define HAS_SOFT_DIRTY	IS_ENABLED(CONFIG_MEM_SOFT_DIRTY)
#define HAS_UFFD_WP	IS_ENABLED(CONFIG_HAVE_ARCH_USERFAULTFD_WP)

enum ent_kind {
	ENT_PRESENT,
	ENT_MIGRATION,
	ENT_PRIVATE,
	ENT_EXCLUSIVE,
	ENT_SWAP,
};

/* Properties of a page. Not every kind of entry has room for all of them. */
#define ENT_WRITE	BIT(0)
#define ENT_SOFT_DIRTY	BIT(1)
#define ENT_UFFD_WP	BIT(2)
#define ENT_DIRTY	BIT(3)
#define ENT_YOUNG	BIT(4)
#define ENT_ANON_EXCL	BIT(5)
#define ENT_STATES	BIT(6)

/**
 * struct ent_test - the page and the VMA of all entries
 * @test: the test
 * @vma: a private mapping that allows writing
 * @folio: a locked anonymous page
 * @swap: a swap slot, without contents
 */
struct ent_test {
	struct kunit *test;
	struct vm_area_struct *vma;
	struct folio *folio;
	swp_entry_t swap;
};

/**
 * struct ent_conversion - a row of the table
 * @name: for messages
 * @from: kind of the entry that is converted
 * @to: kind of the result
 * @convert: the conversion
 * @kept: properties that the result has if and only if the entry has them
 * @set: properties that the result always has
 * @written: properties that the result also has if the entry was writable
 * @needs: properties without which the entry is not converted
 * @dirties: a writable entry makes the folio dirty
 *
 * All other properties are clear in the result.
 */
struct ent_conversion {
	const char *name;
	enum ent_kind from;
	enum ent_kind to;
	pte_t (*convert)(struct ent_test *et, pte_t old, unsigned int state);
	unsigned int kept;
	unsigned int set;
	unsigned int written;
	unsigned int needs;
	bool dirties;
};

/* The properties that an entry of this kind has room for on this machine */
static unsigned int ent_room(enum ent_kind kind)
{
	unsigned int room = ENT_WRITE;

	if (HAS_SOFT_DIRTY)
		room |= ENT_SOFT_DIRTY;
	if (HAS_UFFD_WP)
		room |= ENT_UFFD_WP;
	if (kind == ENT_SWAP)
		return (room & ~ENT_WRITE) | ENT_ANON_EXCL;
	if (kind == ENT_PRESENT)
		return room | ENT_DIRTY | ENT_YOUNG;
	if (kind != ENT_MIGRATION)
		return room;
	if (migration_entry_supports_ad())
		room |= ENT_DIRTY | ENT_YOUNG;
	return room | ENT_ANON_EXCL;
}

/* A writable entry is not uffd-wp, and its page is anon-exclusive. */
static bool ent_is_legal(enum ent_kind kind, unsigned int state)
{
	if (state & ~ent_room(kind))
		return false;
	if (!(state & ENT_WRITE))
		return true;
	return !(state & ENT_UFFD_WP) &&
	       (kind != ENT_MIGRATION || state & ENT_ANON_EXCL);
}

static pte_t ent_make_present(struct ent_test *et, unsigned int state)
{
	pte_t pte = mk_pte(&et->folio->page, et->vma->vm_page_prot);

	pte = state & ENT_YOUNG ? pte_mkyoung(pte) : pte_mkold(pte);
	if (state & ENT_DIRTY)
		pte = pte_mkdirty(pte);
	if (state & ENT_WRITE)
		pte = pte_mkwrite(pte, et->vma);
	pte = state & ENT_SOFT_DIRTY ? pte_mksoft_dirty(pte) :
				       pte_clear_soft_dirty(pte);
	return state & ENT_UFFD_WP ? pte_mkuffd_wp(pte) : pte;
}

static swp_entry_t ent_make_migration(unsigned long pfn, unsigned int state)
{
	swp_entry_t entry = make_readable_migration_entry(pfn);

	if (state & ENT_WRITE)
		entry = make_writable_migration_entry(pfn);
	else if (state & ENT_ANON_EXCL)
		entry = make_readable_exclusive_migration_entry(pfn);
	if (state & ENT_YOUNG)
		entry = make_migration_entry_young(entry);
	if (state & ENT_DIRTY)
		entry = make_migration_entry_dirty(entry);
	return entry;
}

static swp_entry_t ent_make_device(enum ent_kind kind, unsigned long pfn,
				   bool write)
{
	if (kind == ENT_PRIVATE)
		return write ? make_writable_device_private_entry(pfn) :
			       make_readable_device_private_entry(pfn);
	return write ? make_writable_device_exclusive_entry(pfn) :
		       make_readable_device_exclusive_entry(pfn);
}

static pte_t ent_make(struct ent_test *et, enum ent_kind kind,
		      unsigned int state)
{
	unsigned long pfn = folio_pfn(et->folio);
	pte_t pte;

	if (kind == ENT_PRESENT)
		return ent_make_present(et, state);
	if (kind == ENT_SWAP)
		pte = swp_entry_to_pte(et->swap);
	else if (kind == ENT_MIGRATION)
		pte = swp_entry_to_pte(ent_make_migration(pfn, state));
	else
		pte = swp_entry_to_pte(ent_make_device(kind, pfn,
						       state & ENT_WRITE));
	if (state & ENT_SOFT_DIRTY)
		pte = pte_swp_mksoft_dirty(pte);
	if (state & ENT_UFFD_WP)
		pte = pte_swp_mkuffd_wp(pte);
	return kind == ENT_SWAP && state & ENT_ANON_EXCL ?
	       pte_swp_mkexclusive(pte) : pte;
}

static bool ent_is_kind(struct ent_test *et, enum ent_kind kind, pte_t pte)
{
	swp_entry_t entry;

	if (pte_present(pte))
		return kind == ENT_PRESENT &&
		       pte_pfn(pte) == folio_pfn(et->folio);
	entry = pte_to_swp_entry(pte);
	if (!non_swap_entry(entry))
		return kind == ENT_SWAP && entry.val == et->swap.val;
	if (swp_offset_pfn(entry) != folio_pfn(et->folio))
		return false;
	return is_migration_entry(entry) ? kind == ENT_MIGRATION :
	       is_device_private_entry(entry) ? kind == ENT_PRIVATE :
	       is_device_exclusive_entry(entry) && kind == ENT_EXCLUSIVE;
}

static unsigned int ent_read_present(pte_t pte)
{
	return (pte_write(pte) ? ENT_WRITE : 0) |
	       (pte_soft_dirty(pte) ? ENT_SOFT_DIRTY : 0) |
	       (pte_uffd_wp(pte) ? ENT_UFFD_WP : 0) |
	       (pte_dirty(pte) ? ENT_DIRTY : 0) |
	       (pte_young(pte) ? ENT_YOUNG : 0);
}

static unsigned int ent_read_entry(swp_entry_t entry)
{
	if (is_writable_device_private_entry(entry) ||
	    is_writable_device_exclusive_entry(entry))
		return ENT_WRITE;
	if (!is_migration_entry(entry))
		return 0;
	return (is_writable_migration_entry(entry) ? ENT_WRITE : 0) |
	       (is_readable_migration_entry(entry) ? 0 : ENT_ANON_EXCL) |
	       (is_migration_entry_dirty(entry) ? ENT_DIRTY : 0) |
	       (is_migration_entry_young(entry) ? ENT_YOUNG : 0);
}

static unsigned int ent_read(pte_t pte)
{
	if (pte_present(pte))
		return ent_read_present(pte);
	return ent_read_entry(pte_to_swp_entry(pte)) |
	       (pte_swp_soft_dirty(pte) ? ENT_SOFT_DIRTY : 0) |
	       (pte_swp_uffd_wp(pte) ? ENT_UFFD_WP : 0) |
	       (pte_swp_exclusive(pte) ? ENT_ANON_EXCL : 0);
}

static swp_entry_t ent_migration(struct ent_test *et, unsigned int state)
{
	return device_entry_migration(folio_pfn(et->folio), state & ENT_WRITE,
				      state & ENT_ANON_EXCL);
}

static pte_t ent_present_to_migration(struct ent_test *et, pte_t old,
				      unsigned int state)
{
	state |= ENT_ANON_EXCL;
	return device_pte_present_to_migration(ent_migration(et, state), old);
}

static pte_t ent_shared_to_migration(struct ent_test *et, pte_t old,
				     unsigned int state)
{
	return device_pte_present_to_migration(ent_migration(et, 0), old);
}

static pte_t ent_device_to_migration(struct ent_test *et, pte_t old,
				     unsigned int state)
{
	state |= ENT_ANON_EXCL;
	return device_pte_swp_to_migration(ent_migration(et, state), old,
					   et->folio);
}

static pte_t ent_migration_to_present(struct ent_test *et, pte_t old,
				      unsigned int state)
{
	folio_set_dirty(et->folio);
	return device_pte_migration_to_present(et->vma, et->folio,
					       &et->folio->page, old);
}

static pte_t ent_migration_to_private(struct ent_test *et, pte_t old,
				      unsigned int state)
{
	return device_pte_migration_to_private(folio_pfn(et->folio), old);
}

static pte_t ent_present_to_exclusive(struct ent_test *et, pte_t old,
				      unsigned int state)
{
	return device_pte_present_to_exclusive(old, et->folio);
}

static pte_t ent_hand_over(struct ent_test *et, pte_t old, unsigned int state)
{
	return device_pte_exclusive_hand_over(old);
}

static pte_t ent_exclusive_to_present(struct ent_test *et, pte_t old,
				      unsigned int state)
{
	return device_pte_exclusive_to_present(et->vma, et->folio,
					       &et->folio->page, old);
}

static pte_t ent_exclusive_to_swap(struct ent_test *et, pte_t old,
				   unsigned int state)
{
	return device_pte_exclusive_to_swap(et->swap, old, et->folio, true);
}

static pte_t ent_mkwrite(struct ent_test *et, pte_t old, unsigned int state)
{
	return device_pte_private_mkwrite(old);
}

static pte_t ent_wrprotect(struct ent_test *et, pte_t old, unsigned int state)
{
	return device_pte_swp_wrprotect(old);
}

static pte_t ent_mkuffd_wp(struct ent_test *et, pte_t old, unsigned int state)
{
	return device_pte_swp_mkuffd_wp(old);
}

static pte_t ent_clear_soft_dirty(struct ent_test *et, pte_t old,
				  unsigned int state)
{
	return device_pte_swp_clear_soft_dirty(old);
}

#define ENT_MARKS	(ENT_SOFT_DIRTY | ENT_UFFD_WP)
#define ENT_AGE		(ENT_DIRTY | ENT_YOUNG | ENT_ANON_EXCL)

static const struct ent_conversion ent_conversions[] = {
	{
		.name = "present to migration",
		.from = ENT_PRESENT, .to = ENT_MIGRATION,
		.convert = ent_present_to_migration,
		.kept = ENT_WRITE | ENT_MARKS | ENT_DIRTY | ENT_YOUNG,
		.set = ENT_ANON_EXCL,
	}, {
		.name = "shared present to migration",
		.from = ENT_PRESENT, .to = ENT_MIGRATION,
		.convert = ent_shared_to_migration,
		.kept = ENT_MARKS | ENT_DIRTY | ENT_YOUNG,
	}, {
		.name = "private to migration",
		.from = ENT_PRIVATE, .to = ENT_MIGRATION,
		.convert = ent_device_to_migration,
		.kept = ENT_WRITE | ENT_MARKS,
		.set = ENT_ANON_EXCL,
		.written = ENT_SOFT_DIRTY | ENT_DIRTY,
		.dirties = true,
	}, {
		.name = "exclusive to migration",
		.from = ENT_EXCLUSIVE, .to = ENT_MIGRATION,
		.convert = ent_device_to_migration,
		.kept = ENT_WRITE | ENT_MARKS,
		.set = ENT_ANON_EXCL,
		.written = ENT_SOFT_DIRTY | ENT_DIRTY,
		.dirties = true,
	}, {
		.name = "migration to present",
		.from = ENT_MIGRATION, .to = ENT_PRESENT,
		.convert = ent_migration_to_present,
		.kept = ENT_WRITE | ENT_MARKS | ENT_DIRTY | ENT_YOUNG,
	}, {
		.name = "migration to private",
		.from = ENT_MIGRATION, .to = ENT_PRIVATE,
		.convert = ent_migration_to_private,
		.kept = ENT_WRITE | ENT_MARKS,
	}, {
		.name = "present to exclusive",
		.from = ENT_PRESENT, .to = ENT_EXCLUSIVE,
		.convert = ent_present_to_exclusive,
		.set = ENT_WRITE | ENT_SOFT_DIRTY,
		.needs = ENT_WRITE,
		.dirties = true,
	}, {
		.name = "exclusive handed over",
		.from = ENT_EXCLUSIVE, .to = ENT_EXCLUSIVE,
		.convert = ent_hand_over,
		.set = ENT_WRITE | ENT_SOFT_DIRTY,
		.needs = ENT_WRITE,
	}, {
		.name = "exclusive to present",
		.from = ENT_EXCLUSIVE, .to = ENT_PRESENT,
		.convert = ent_exclusive_to_present,
		.kept = ENT_WRITE | ENT_MARKS,
		.written = ENT_SOFT_DIRTY | ENT_DIRTY,
		.dirties = true,
	}, {
		.name = "exclusive to swap",
		.from = ENT_EXCLUSIVE, .to = ENT_SWAP,
		.convert = ent_exclusive_to_swap,
		.kept = ENT_MARKS,
		.set = ENT_ANON_EXCL,
		.written = ENT_SOFT_DIRTY,
		.dirties = true,
	}, {
		.name = "private made writable",
		.from = ENT_PRIVATE, .to = ENT_PRIVATE,
		.convert = ent_mkwrite,
		.set = ENT_WRITE | ENT_SOFT_DIRTY,
	}, {
		.name = "migration made read-only",
		.from = ENT_MIGRATION, .to = ENT_MIGRATION,
		.convert = ent_wrprotect,
		.kept = ENT_MARKS | ENT_AGE,
	}, {
		.name = "private made read-only",
		.from = ENT_PRIVATE, .to = ENT_PRIVATE,
		.convert = ent_wrprotect,
		.kept = ENT_MARKS,
	}, {
		.name = "exclusive made read-only",
		.from = ENT_EXCLUSIVE, .to = ENT_EXCLUSIVE,
		.convert = ent_wrprotect,
		.kept = ENT_MARKS,
	}, {
		.name = "swap made read-only",
		.from = ENT_SWAP, .to = ENT_SWAP,
		.convert = ent_wrprotect,
		.kept = ENT_MARKS | ENT_ANON_EXCL,
	}, {
		.name = "migration protected",
		.from = ENT_MIGRATION, .to = ENT_MIGRATION,
		.convert = ent_mkuffd_wp,
		.kept = ENT_SOFT_DIRTY | ENT_AGE,
		.set = ENT_UFFD_WP,
	}, {
		.name = "private protected",
		.from = ENT_PRIVATE, .to = ENT_PRIVATE,
		.convert = ent_mkuffd_wp,
		.kept = ENT_SOFT_DIRTY,
		.set = ENT_UFFD_WP,
	}, {
		.name = "exclusive protected",
		.from = ENT_EXCLUSIVE, .to = ENT_EXCLUSIVE,
		.convert = ent_mkuffd_wp,
		.kept = ENT_SOFT_DIRTY,
		.set = ENT_UFFD_WP,
	}, {
		.name = "swap protected",
		.from = ENT_SWAP, .to = ENT_SWAP,
		.convert = ent_mkuffd_wp,
		.kept = ENT_SOFT_DIRTY | ENT_ANON_EXCL,
		.set = ENT_UFFD_WP,
	}, {
		.name = "migration made clean",
		.from = ENT_MIGRATION, .to = ENT_MIGRATION,
		.convert = ent_clear_soft_dirty,
		.kept = ENT_UFFD_WP | ENT_AGE,
	}, {
		.name = "private made clean",
		.from = ENT_PRIVATE, .to = ENT_PRIVATE,
		.convert = ent_clear_soft_dirty,
		.kept = ENT_UFFD_WP,
	}, {
		.name = "exclusive made clean",
		.from = ENT_EXCLUSIVE, .to = ENT_EXCLUSIVE,
		.convert = ent_clear_soft_dirty,
		.kept = ENT_UFFD_WP,
	}, {
		.name = "swap made clean",
		.from = ENT_SWAP, .to = ENT_SWAP,
		.convert = ent_clear_soft_dirty,
		.kept = ENT_UFFD_WP | ENT_ANON_EXCL,
	},
};

static void ent_free(void *data)
{
	struct ent_test *et = data;

	folio_clear_dirty(et->folio);
	et->folio->mapping = NULL;
	folio_unlock(et->folio);
	folio_put(et->folio);
}

static int ent_init(struct kunit *test)
{
	struct ent_test *et = kunit_kzalloc(test, sizeof(*et), GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, et);
	et->test = test;
	et->swap = swp_entry(1, 0x1234);
	et->vma = kunit_kzalloc(test, sizeof(*et->vma), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, et->vma);
	vm_flags_init(et->vma, VM_READ | VM_WRITE | VM_SOFTDIRTY |
			       VM_MAYREAD | VM_MAYWRITE);
	et->vma->vm_page_prot = vm_get_page_prot(VM_READ | VM_WRITE);
	et->folio = folio_alloc(GFP_KERNEL, 0);
	KUNIT_ASSERT_NOT_NULL(test, et->folio);
	folio_lock(et->folio);
	et->folio->mapping = (void *)PAGE_MAPPING_ANON;
	test->priv = et;
	return kunit_add_action_or_reset(test, ent_free, et);
}

static unsigned int ent_expected(const struct ent_conversion *c,
				 unsigned int state)
{
	unsigned int result = (state & c->kept) | c->set;

	if (state & ENT_WRITE)
		result |= c->written;
	return result & ent_room(c->to);
}

static bool ent_converts(const struct ent_conversion *c, unsigned int state)
{
	return ent_is_legal(c->from, state) && (state & c->needs) == c->needs;
}

static void ent_check(struct ent_test *et, const struct ent_conversion *c,
		      unsigned int state)
{
	pte_t pte = ent_make(et, c->from, state);

	KUNIT_ASSERT_EQ_MSG(et->test, ent_read(pte), state, "%s", c->name);
	folio_clear_dirty(et->folio);
	pte = c->convert(et, pte, state);
	KUNIT_EXPECT_TRUE_MSG(et->test, ent_is_kind(et, c->to, pte),
			      "%s from %#x", c->name, state);
	KUNIT_EXPECT_EQ_MSG(et->test, ent_read(pte), ent_expected(c, state),
			    "%s from %#x", c->name, state);
	if (c->dirties)
		KUNIT_EXPECT_EQ_MSG(et->test, folio_test_dirty(et->folio),
				    !!(state & ENT_WRITE), "%s from %#x",
				    c->name, state);
}

static void conversion_keeps_listed_properties(struct kunit *test)
{
	const struct ent_conversion *c = test->param_value;
	struct ent_test *et = test->priv;
	unsigned int state, checked = 0;

	for (state = 0; state < ENT_STATES; state++) {
		if (!ent_converts(c, state))
			continue;
		ent_check(et, c, state);
		checked++;
	}
	KUNIT_EXPECT_GT(test, checked, 0);
}

static void writable_result_is_never_uffd_wp(struct kunit *test)
{
	const struct ent_conversion *c = test->param_value;
	struct ent_test *et = test->priv;
	unsigned int state, result;

	for (state = 0; state < ENT_STATES; state++) {
		if (!ent_converts(c, state))
			continue;
		result = ent_read(c->convert(et, ent_make(et, c->from, state),
					     state));
		KUNIT_EXPECT_NE_MSG(test, result & (ENT_WRITE | ENT_UFFD_WP),
				    ENT_WRITE | ENT_UFFD_WP, "%s from %#x",
				    c->name, state);
	}
}

/* The VMA is not in an address space, so there is no lock to take. */
static void ent_track_soft_dirty(struct ent_test *et)
{
	vm_flags_init(et->vma, et->vma->vm_flags & ~VM_SOFTDIRTY);
}

static void clean_page_is_not_restored_writable(struct kunit *test)
{
	struct ent_test *et = test->priv;
	unsigned int clean = ENT_WRITE | ENT_ANON_EXCL;
	pte_t pte;

	if (!HAS_SOFT_DIRTY)
		kunit_skip(test, "no soft-dirty bit in this kernel");
	ent_track_soft_dirty(et);
	pte = ent_migration_to_present(et, ent_make(et, ENT_MIGRATION, clean),
				       clean);
	KUNIT_EXPECT_FALSE(test, pte_write(pte));
	clean |= ENT_SOFT_DIRTY;
	pte = ent_migration_to_present(et, ent_make(et, ENT_MIGRATION, clean),
				       clean);
	KUNIT_EXPECT_TRUE(test, pte_write(pte));
}

static bool ent_device_writes(struct ent_test *et, unsigned int state)
{
	return device_pte_private_write(et->vma,
					ent_make(et, ENT_PRIVATE, state));
}

static void device_writes_through_writable_entries_only(struct kunit *test)
{
	struct ent_test *et = test->priv;

	KUNIT_EXPECT_FALSE(test, ent_device_writes(et, 0));
	KUNIT_EXPECT_FALSE(test, ent_device_writes(et, ENT_SOFT_DIRTY));
	KUNIT_EXPECT_TRUE(test, ent_device_writes(et, ENT_WRITE));
	if (HAS_UFFD_WP)
		KUNIT_EXPECT_FALSE(test, ent_device_writes(et, ENT_WRITE |
							       ENT_UFFD_WP));
	if (!HAS_SOFT_DIRTY)
		return;
	ent_track_soft_dirty(et);
	KUNIT_EXPECT_FALSE(test, ent_device_writes(et, ENT_WRITE));
	KUNIT_EXPECT_TRUE(test, ent_device_writes(et, ENT_WRITE |
						      ENT_SOFT_DIRTY));
}

static void new_page_is_soft_dirty(struct kunit *test)
{
	struct ent_test *et = test->priv;
	unsigned long pfn = folio_pfn(et->folio);
	unsigned int dirty = HAS_SOFT_DIRTY ? ENT_SOFT_DIRTY : 0;
	pte_t pte = device_pte_new_private(pfn, true);

	KUNIT_EXPECT_TRUE(test, ent_is_kind(et, ENT_PRIVATE, pte));
	KUNIT_EXPECT_EQ(test, ent_read(pte), ENT_WRITE | dirty);
	pte = device_pte_new_private(pfn, false);
	KUNIT_EXPECT_EQ(test, ent_read(pte), dirty);
}

/* A file page is never anon-exclusive. */
static void file_page_is_not_made_anon_exclusive(struct kunit *test)
{
	struct ent_test *et = test->priv;
	unsigned int state = ENT_WRITE | ENT_ANON_EXCL;
	pte_t pte = ent_make(et, ENT_MIGRATION, state);

	et->folio->mapping = NULL;
	pte = device_pte_swp_wrprotect(pte);
	KUNIT_EXPECT_EQ(test, ent_read(pte), 0);
}

#ifdef CONFIG_ARCH_ENABLE_THP_MIGRATION
static pmd_t ent_make_pmd(struct ent_test *et, unsigned int state)
{
	unsigned long pfn = folio_pfn(et->folio);
	pmd_t pmd = swp_entry_to_pmd(ent_make_migration(pfn, state));

	if (state & ENT_SOFT_DIRTY)
		pmd = pmd_swp_mksoft_dirty(pmd);
	return state & ENT_UFFD_WP ? pmd_swp_mkuffd_wp(pmd) : pmd;
}

static unsigned int ent_read_pmd(pmd_t pmd)
{
	return ent_read_entry(pmd_to_swp_entry(pmd)) |
	       (pmd_swp_soft_dirty(pmd) ? ENT_SOFT_DIRTY : 0) |
	       (pmd_swp_uffd_wp(pmd) ? ENT_UFFD_WP : 0);
}

static void pmd_conversion_equals_pte_conversion(struct kunit *test)
{
	struct ent_test *et = test->priv;
	unsigned int state, kept, wp = ent_room(ENT_MIGRATION) & ENT_UFFD_WP;
	pmd_t pmd;

	for (state = 0; state < ENT_STATES; state++) {
		if (!ent_is_legal(ENT_MIGRATION, state))
			continue;
		pmd = ent_make_pmd(et, state);
		kept = state & ~ENT_WRITE;
		KUNIT_EXPECT_EQ(test, kept,
				ent_read_pmd(device_pmd_swp_wrprotect(pmd)));
		KUNIT_EXPECT_EQ(test, kept | wp,
				ent_read_pmd(device_pmd_swp_mkuffd_wp(pmd)));
		pmd = device_pmd_swp_clear_soft_dirty(pmd);
		KUNIT_EXPECT_EQ(test, kept & ~ENT_SOFT_DIRTY,
				ent_read_pmd(pmd));
	}
}
#else
static void pmd_conversion_equals_pte_conversion(struct kunit *test)
{
	kunit_skip(test, "no PMD migration entries in this kernel");
}
#endif

static void ent_describe(const struct ent_conversion *c, char *desc)
{
	strscpy(desc, c->name, KUNIT_PARAM_DESC_SIZE);
}

KUNIT_ARRAY_PARAM(ent, ent_conversions, ent_describe);

static struct kunit_case ent_cases[] = {
	KUNIT_CASE_PARAM(conversion_keeps_listed_properties, ent_gen_params),
	KUNIT_CASE_PARAM(writable_result_is_never_uffd_wp, ent_gen_params),
	KUNIT_CASE(clean_page_is_not_restored_writable),
	KUNIT_CASE(device_writes_through_writable_entries_only),
	KUNIT_CASE(new_page_is_soft_dirty),
	KUNIT_CASE(file_page_is_not_made_anon_exclusive),
	KUNIT_CASE(pmd_conversion_equals_pte_conversion),
	{}
};

static struct kunit_suite ent_suite = {
	.name = "device_entry",
	.init = ent_init,
	.test_cases = ent_cases,
};

kunit_test_suite(ent_suite);

MODULE_DESCRIPTION("KUnit tests for conversions of device entries");
MODULE_LICENSE("GPL");
