/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The tree of the ranges that are subscribed in an mm.
 *
 * A binary tree over the bits of the first addresses (crit-bit tree). Each
 * range, a span, is a leaf. A branch parts the aligned block of addresses in
 * which all spans below it start, at the highest bit in which any two of these
 * starts differ:
 *
 *              pivot 0x3fff
 *             /            \
 *       pivot 0x1fff     [0x4000]
 *        /        \
 *    [0x1000]  [0x2000]
 *
 * What starts at or below the pivot, the last address of the block's lower
 * half, is on the left. So the shape depends on the addresses alone, not on how
 * spans came and went. Nothing is ever rebalanced: an insertion links one
 * branch in, a removal takes one out. The depth is at most the number of bits
 * of an address, and for ranges side by side the logarithm of their number. In
 * an rbtree, to rebalance and to carry a new highest end towards the root costs
 * more than all that is done here.
 *
 * Ends come in as overhang. Where an end lies within the block of a branch, no
 * branch above need know it. Only if a span on the left of a branch reaches
 * beyond the pivot, the branch takes note: its overhang is the highest such end
 * on its left, or 0. So a lookup of [first, last] knows at each branch where the
 * first span that reaches as far as "first" is:
 *
 *  - first <= pivot: if not on the left, then it is the leftmost on the right,
 *    all of which start above "first";
 *  - first > pivot: on the left if the overhang is at least "first", else on
 *    the right, if anywhere.
 *
 * It goes down once.
 *
 * Any number of spans may start at the same address. Their branches have that
 * address as pivot and a level of chance, and the higher levels come out on top
 * (as in a treap), which keeps this part flat as well. A new span is the
 * leftmost of them. Levels of bits are above all of these.
 *
 * N leaves need N - 1 branches; so each span brings along a branch to lend to
 * the tree. It is somewhere above the leaf of the span. One span has its branch
 * unused (link[0] is 0). A removed span must have its branch back: in exchange
 * the tree takes the one that came free above its leaf.
 *
 * A link is the address of a branch, or of the leaf_parent of a span with bit 0
 * set, or 0 for nothing. Either way there is the pointer to the branch above.
 * At the top there is a branch that belongs to no span. It has all on its left
 * and a pivot that nothing reaches beyond: who climbs stops there.
 *
 * Changes need a lock, lookups the same lock or a tree that does not change.
 */
#ifndef _MM_MMU_INTERVAL_TREE_H
#define _MM_MMU_INTERVAL_TREE_H

#include <linux/bitops.h>
#include <linux/container_of.h>
#include <linux/hash.h>
#include <linux/limits.h>
#include <linux/minmax.h>
#include <linux/mmu_notifier.h>

#define SPAN_LEAF	1UL
#define SPAN_BIT_LEVEL	64	/* of bit 0; those of chance are below */
#define SPAN_TOP_LEVEL	(SPAN_BIT_LEVEL + BITS_PER_LONG)

static inline bool span_is_leaf(unsigned long link)
{
	return link & SPAN_LEAF;
}

static inline unsigned long span_leaf(const struct mmu_interval_span *span)
{
	return (unsigned long)&span->leaf_parent | SPAN_LEAF;
}

static inline struct mmu_interval_span *span_of(unsigned long leaf)
{
	return container_of((struct mmu_interval_branch **)(leaf - SPAN_LEAF),
			    struct mmu_interval_span, leaf_parent);
}

static inline unsigned long
span_branch_link(const struct mmu_interval_branch *branch)
{
	return (unsigned long)branch;
}

static inline struct mmu_interval_branch *span_branch_of(unsigned long link)
{
	return (struct mmu_interval_branch *)link;
}

static inline struct mmu_interval_branch **span_parent(unsigned long link)
{
	return (struct mmu_interval_branch **)(link & ~SPAN_LEAF);
}

/* Put @new where @old is in @parent. */
static inline void span_relink(struct mmu_interval_branch *parent,
			       unsigned long old, unsigned long new)
{
	parent->link[parent->link[1] == old] = new;
	*span_parent(new) = parent;
}

/* Last address of the block that @branch parts. */
static inline unsigned long
span_block_last(const struct mmu_interval_branch *branch)
{
	if (branch->level < SPAN_BIT_LEVEL)
		return branch->pivot;
	return branch->pivot | 1UL << (branch->level - SPAN_BIT_LEVEL);
}

static inline struct mmu_interval_span *span_leftmost(unsigned long link)
{
	while (!span_is_leaf(link))
		link = span_branch_of(link)->link[0];
	return span_of(link);
}

/* No span has more upper bits of its start in common with @start. */
static inline struct mmu_interval_span *span_nearest(unsigned long link,
						     unsigned long start)
{
	while (!span_is_leaf(link)) {
		struct mmu_interval_branch *branch = span_branch_of(link);

		link = branch->link[start > branch->pivot];
	}
	return span_of(link);
}

/* The highest end below @link. */
static inline unsigned long span_reach(unsigned long link)
{
	unsigned long reach = 0;

	while (!span_is_leaf(link)) {
		reach = max(reach, span_branch_of(link)->overhang);
		link = span_branch_of(link)->link[1];
	}
	return max(reach, span_of(link)->last);
}

static inline void span_set_overhang(struct mmu_interval_branch *branch)
{
	unsigned long reach = span_reach(branch->link[0]);

	branch->overhang = reach > branch->pivot ? reach : 0;
}

/* Tell the branches above that which came with @span how far @span reaches. */
static inline void span_reach_grows(const struct mmu_interval_span *span)
{
	const struct mmu_interval_branch *below = &span->branch;
	struct mmu_interval_branch *branch = below->parent;

	while (span->last > branch->pivot) {
		if (branch->link[0] == span_branch_link(below))
			branch->overhang = max(branch->overhang, span->last);
		if (span->last <= span_block_last(branch))
			return;
		below = branch;
		branch = branch->parent;
	}
}

/* @span is gone from below @branch: who noted its end finds the next lower. */
static inline void span_reach_shrinks(const struct mmu_interval_span *span,
				      struct mmu_interval_branch *branch)
{
	while (span->last > branch->pivot) {
		if (branch->overhang == span->last)
			span_set_overhang(branch);
		if (span->last <= span_block_last(branch))
			return;
		branch = branch->parent;
	}
}

/* Where the starts of @span and @near part, or chance where they are equal. */
static inline void span_init_branch(struct mmu_interval_span *span,
				    const struct mmu_interval_span *near)
{
	struct mmu_interval_branch *branch = &span->branch;
	unsigned int bit;

	if (span->start == near->start) {
		branch->level = __ffs(hash_ptr(span, 31) | 1UL << 31);
		branch->pivot = span->start;
		return;
	}
	bit = __fls(span->start ^ near->start);
	branch->level = SPAN_BIT_LEVEL + bit;
	branch->pivot = min(span->start, near->start) | ((1UL << bit) - 1);
}

/* The branch of @span takes the place of @link, with @link and @span below. */
static inline void span_lend_branch(struct mmu_interval_span *span,
				    unsigned long link)
{
	struct mmu_interval_branch *branch = &span->branch;
	bool right = span->start > branch->pivot;

	span_relink(*span_parent(link), link, span_branch_link(branch));
	branch->link[right] = span_leaf(span);
	branch->link[!right] = link;
	span->leaf_parent = branch;
	*span_parent(link) = branch;
	span_set_overhang(branch);
}

/* @from is no longer needed for its span: @to, which is free, stands in. */
static inline void span_swap_branch(struct mmu_interval_branch *from,
				    struct mmu_interval_branch *to)
{
	*to = *from;
	if (!from->link[0])
		return;
	span_relink(from->parent, span_branch_link(from), span_branch_link(to));
	*span_parent(from->link[0]) = to;
	*span_parent(from->link[1]) = to;
}

static inline void span_tree_init(struct mmu_interval_branch *top)
{
	top->parent = NULL;
	top->link[0] = 0;
	top->link[1] = 0;
	top->pivot = ULONG_MAX;
	top->overhang = 0;
	top->level = SPAN_TOP_LEVEL;
}

static inline bool span_tree_empty(const struct mmu_interval_branch *top)
{
	return !top->link[0];
}

static inline void span_tree_insert(struct mmu_interval_branch *top,
				    struct mmu_interval_span *span)
{
	struct mmu_interval_branch *parent;
	struct mmu_interval_span *near;
	unsigned long link;

	if (span_tree_empty(top)) {
		top->link[0] = span_leaf(span);
		span->leaf_parent = top;
		span->branch.link[0] = 0;
		return;
	}

	near = span_nearest(top->link[0], span->start);
	span_init_branch(span, near);
	link = span_leaf(near);
	parent = near->leaf_parent;
	while (parent->level < span->branch.level) {
		link = span_branch_link(parent);
		parent = parent->parent;
	}
	span_lend_branch(span, link);
	span_reach_grows(span);
}

static inline void span_tree_remove(struct mmu_interval_branch *top,
				    struct mmu_interval_span *span)
{
	struct mmu_interval_branch *branch = span->leaf_parent;
	unsigned long other;

	if (branch == top) {
		top->link[0] = 0;
		return;
	}

	other = branch->link[branch->link[0] == span_leaf(span)];
	span_relink(branch->parent, span_branch_link(branch), other);
	if (branch != &span->branch)
		span_swap_branch(&span->branch, branch);
	span_reach_shrinks(span, *span_parent(other));
}

/* The first span below @link whose end is @first or above. */
static inline struct mmu_interval_span *span_first_reaching(unsigned long link,
							    unsigned long first)
{
	unsigned long higher = 0;	/* all below it start above @first */

	while (!span_is_leaf(link)) {
		struct mmu_interval_branch *branch = span_branch_of(link);

		if (first <= branch->pivot) {
			higher = branch->link[1];
			link = branch->link[0];
		} else {
			link = branch->link[branch->overhang < first];
		}
	}
	if (span_of(link)->last >= first)
		return span_of(link);
	return higher ? span_leftmost(higher) : NULL;
}

/*
 * The first span that touches [@first, @last], or NULL. The order is that of
 * the starts; of equal ones, what was inserted last comes first.
 */
static inline struct mmu_interval_span *
span_tree_first(const struct mmu_interval_branch *top, unsigned long first,
		unsigned long last)
{
	struct mmu_interval_span *span;

	if (span_tree_empty(top))
		return NULL;
	span = span_first_reaching(top->link[0], first);
	return span && span->start <= last ? span : NULL;
}

/* The one after @span, which touches it too, or NULL. */
static inline struct mmu_interval_span *
span_tree_next(const struct mmu_interval_span *span, unsigned long first,
	       unsigned long last)
{
	const struct mmu_interval_branch *branch = span->leaf_parent;
	struct mmu_interval_span *next = NULL;
	unsigned long link = span_leaf(span);

	while (!next && branch->parent) {
		if (branch->link[0] == link)
			next = span_first_reaching(branch->link[1], first);
		link = span_branch_link(branch);
		branch = branch->parent;
	}
	return next && next->start <= last ? next : NULL;
}

#endif /* _MM_MMU_INTERVAL_TREE_H */
