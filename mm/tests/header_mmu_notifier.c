// SPDX-License-Identifier: GPL-2.0-only
/*
 * Compile-time test: <linux/mmu_notifier.h> declares what later kernels declare
 * there, and a subscription is as large as on the base. Out-of-tree drivers
 * look for functions in that header and define those that are missing.
 */
#include <linux/mmu_notifier.h>

static_assert(__same_type(typeof_member(struct mmu_interval_notifier_finish,
					link),
			  struct llist_node));
static_assert(__same_type(typeof_member(struct mmu_interval_notifier_finish,
					notifier),
			  struct mmu_interval_notifier *));
static_assert(__same_type(typeof_member(struct mmu_interval_notifier_ops,
					invalidate_start),
			  bool (*)(struct mmu_interval_notifier *interval_sub,
				   const struct mmu_notifier_range *range,
				   unsigned long cur_seq,
				   struct mmu_interval_notifier_finish **finish)));
static_assert(__same_type(typeof_member(struct mmu_interval_notifier_ops,
					invalidate_finish),
			  void (*)(struct mmu_interval_notifier_finish *finish)));
static_assert(__same_type(typeof_member(struct mmu_interval_notifier,
					interval_tree),
			  struct interval_tree_node));
