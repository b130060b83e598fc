// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit suite of the tree of subscribed ranges: after each of many changes all
 * that its head comment promises is checked, over starts that lie far apart,
 * close together, and on one another.
 */
#include <kunit/test.h>
#include <linux/prandom.h>

#include "../mmu_interval_tree.h"

#define NR_SPANS	128

struct census {
	unsigned int leaves;
	unsigned int branches;
	unsigned int depth;
	unsigned int mistakes;
};

static void census_leaf(struct census *census, unsigned long link,
			const struct mmu_interval_branch *parent)
{
	const struct mmu_interval_span *span = span_of(link);
	unsigned long start = span->start;

	census->leaves++;
	if (parent->level == SPAN_TOP_LEVEL)
		return;
	if (parent->link[1] != link)
		census->mistakes += start > parent->pivot;
	else if (parent->level < SPAN_BIT_LEVEL)
		census->mistakes += start != parent->pivot;
	else
		census->mistakes += start <= parent->pivot;
	census->mistakes += start > span_block_last(parent);
}

/* Returns how far what is below @link reaches, found without overhangs. */
static unsigned long census_reach(struct census *census, unsigned long link,
				  struct mmu_interval_branch *parent,
				  unsigned int depth)
{
	struct mmu_interval_branch *branch = span_branch_of(link);
	unsigned long left, right;

	census->mistakes += *span_parent(link) != parent;
	if (span_is_leaf(link)) {
		census_leaf(census, link, parent);
		return span_of(link)->last;
	}
	census->branches++;
	census->depth = max(census->depth, depth);
	census->mistakes += branch->level > parent->level;
	if (branch->level >= SPAN_BIT_LEVEL)
		census->mistakes += branch->level == parent->level;
	left = census_reach(census, branch->link[0], branch, depth + 1);
	right = census_reach(census, branch->link[1], branch, depth + 1);
	census->mistakes += branch->overhang !=
			    (left > branch->pivot ? left : 0);
	return max(left, right);
}

/* Equal starts are flat by chance only, so for them there is some room. */
static void expect_tree(struct kunit *test, struct mmu_interval_branch *top,
			unsigned int nr, unsigned int max_depth)
{
	struct census census = {};

	if (!span_tree_empty(top))
		census_reach(&census, top->link[0], top, 1);
	KUNIT_ASSERT_EQ(test, census.mistakes, 0);
	KUNIT_ASSERT_EQ(test, census.leaves, nr);
	KUNIT_ASSERT_EQ(test, census.branches, nr ? nr - 1 : 0);
	KUNIT_ASSERT_LE(test, census.depth, max_depth);
}

/* Insert and remove at random, with starts below 1 << @bits, and look. */
static void tree_changes(struct kunit *test, unsigned int bits)
{
	struct mmu_interval_span *span;
	struct mmu_interval_branch top;
	unsigned int i, n, nr = 0;
	struct rnd_state rnd;

	span = kunit_kcalloc(test, NR_SPANS, sizeof(*span), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, span);
	prandom_seed_state(&rnd, bits);
	span_tree_init(&top);
	for (i = 0; i < 4000; i++) {
		n = prandom_u32_state(&rnd) % NR_SPANS;
		if (span[n].last) {
			span_tree_remove(&top, &span[n]);
			memset(&span[n], 0, sizeof(span[n]));
			nr--;
		} else {
			span[n].start = prandom_u32_state(&rnd);
			span[n].start &= (1U << bits) - 1;
			span[n].last = span[n].start + 1;
			span[n].last += prandom_u32_state(&rnd) >>
					(31 - i % (bits + 1));
			span_tree_insert(&top, &span[n]);
			nr++;
		}
		expect_tree(test, &top, nr, bits + 40);
	}
}

static void test_tree_sparse(struct kunit *test)
{
	tree_changes(test, 30);
}

static void test_tree_dense(struct kunit *test)
{
	tree_changes(test, 6);
}

static void test_tree_equal_starts(struct kunit *test)
{
	tree_changes(test, 0);
}

/* The deepest that there can be: one start for each bit of an address. */
static void test_tree_deep(struct kunit *test)
{
	struct mmu_interval_span *span;
	struct mmu_interval_branch top;
	unsigned int i;

	span = kunit_kcalloc(test, BITS_PER_LONG, sizeof(*span), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, span);
	span_tree_init(&top);
	for (i = 0; i < BITS_PER_LONG; i++) {
		span[i].start = 1UL << i;
		span[i].last = i & 1 ? ULONG_MAX : span[i].start;
		span_tree_insert(&top, &span[i]);
		expect_tree(test, &top, i + 1, BITS_PER_LONG);
	}
	for (i = 0; i < BITS_PER_LONG; i++)
		KUNIT_EXPECT_PTR_EQ(test, &span[i ? 1 : 0],
				    span_tree_first(&top, 1UL << i, 1UL << i));
	for (i = BITS_PER_LONG; i; i--) {
		span_tree_remove(&top, &span[i - 1]);
		expect_tree(test, &top, i - 1, BITS_PER_LONG);
	}
}

/* How many spans a walk gets wrong against asking each of them in turn. */
static unsigned int lookup_mistakes(struct mmu_interval_branch *top,
				    struct mmu_interval_span *span,
				    unsigned long first, unsigned long last)
{
	unsigned long before = 0;
	unsigned int i, mistakes = 0, found = 0;
	struct mmu_interval_span *it;

	for (it = span_tree_first(top, first, last); it;
	     it = span_tree_next(it, first, last)) {
		mistakes += it->start < before;
		mistakes += it->start > last || it->last < first;
		before = it->start;
		found++;
	}
	for (i = 0; i < NR_SPANS; i++)
		found -= span[i].start <= last && span[i].last >= first;
	return mistakes + found;
}

/* Nested, overlapping and equal spans, looked up by ranges of all lengths. */
static void test_tree_lookup(struct kunit *test)
{
	struct mmu_interval_span *span;
	struct mmu_interval_branch top;
	unsigned int i, mistakes = 0;
	struct rnd_state rnd;

	span = kunit_kcalloc(test, NR_SPANS, sizeof(*span), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, span);
	prandom_seed_state(&rnd, 3);
	span_tree_init(&top);
	for (i = 0; i < NR_SPANS; i++) {
		span[i].start = prandom_u32_state(&rnd) & 0xff;
		span[i].last = span[i].start +
			       (prandom_u32_state(&rnd) & 0xff) / (1 + i % 40);
		span_tree_insert(&top, &span[i]);
	}
	for (i = 0; i < 0x200 * 0x20; i++)
		mistakes += lookup_mistakes(&top, span, i / 0x20,
					    i / 0x20 + i % 0x20 * (i % 5));
	KUNIT_EXPECT_EQ(test, mistakes, 0);
}

static struct kunit_case tree_test_cases[] = {
	KUNIT_CASE(test_tree_sparse),
	KUNIT_CASE(test_tree_dense),
	KUNIT_CASE(test_tree_equal_starts),
	KUNIT_CASE(test_tree_deep),
	KUNIT_CASE(test_tree_lookup),
	{}
};

static struct kunit_suite tree_test_suite = {
	.name = "mmu_interval_tree",
	.test_cases = tree_test_cases,
};

kunit_test_suite(tree_test_suite);

MODULE_DESCRIPTION("KUnit suite of the tree of subscribed ranges");
MODULE_LICENSE("GPL");
